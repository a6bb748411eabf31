//! The files of the tree, and what of their text is code and what is comment.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files under `folder`, a path from the root, whose names end in one of `extensions`. Sorted.
pub(crate) fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // What is built or installed there is not ours.
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | "node_modules" | "corpus" | "artifacts") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The path from the root, with slashes.
pub(crate) fn name(path: &Path) -> String {
    let parts = path.strip_prefix(root()).unwrap().components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands before the unit tests, which are at the end of a file.
pub(crate) fn without_tests(text: &str) -> &str {
    let tests = ["#[cfg(all(test", "#[cfg(test)]"];
    let end = tests.iter().filter_map(|mark| text.find(mark)).min();
    &text[..end.unwrap_or(text.len())]
}

/// Splits a line of Rust at the comment that it has. `//` in a string counts as one, which no line here has
/// but addresses.
pub(crate) fn split_comment(line: &str) -> (&str, &str) {
    match line.find("//") {
        Some(at) if !line[..at].ends_with(':') => line.split_at(at),
        _ => (line, ""),
    }
}
