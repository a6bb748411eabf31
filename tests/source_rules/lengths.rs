//! No file is longer than a reader can keep in mind, except data.

use crate::files::{files, name, read};

const MOST_LINES: usize = 600;

/// Written by a program: the benchmarks' page.
const DATA: &[&str] = &["docs/benchmarks.md"];

fn check(text: &str) -> Result<(), String> {
    let lines = text.lines().count();
    if lines <= MOST_LINES { Ok(()) } else { Err(format!("{lines} lines")) }
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let mut seen = 0;
    let folders = ["src", "redis", "tests", "loom-tests", "benches", "examples", "fuzz", "docs"];
    let written = ["rs", "md", "html", "css", "js", "mjs", "py", "sh", "v"];
    for path in folders.iter().flat_map(|folder| files(folder, &written)) {
        seen += 1;
        let name = name(&path);
        if DATA.contains(&name.as_str()) {
            continue;
        }
        check(&read(&path)).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    }
    assert!(seen > 100, "the test finds the files, not {seen} of them");
}

#[test]
fn the_check_notices_a_long_file() {
    assert_eq!(check(&"line\n".repeat(600)), Ok(()));
    assert!(check(&"line\n".repeat(601)).is_err());
}
