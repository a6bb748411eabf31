//! Every atomic operation says its ordering and its label in a comment, the comment says what the code
//! does, and the label stands in `docs/ordering.md`.

use std::collections::BTreeSet;

use crate::files::{files, name, read, root, without_tests};

const ORDERINGS: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];

/// An `// ORDERING: Acquire / Relaxed [label]` comment, or an operation that names orderings.
#[derive(Debug)]
enum Found {
    Comment { label: String, orderings: Vec<String> },
    Code { ordering: String },
}

/// What `line` says about orderings, in the order in which it does.
fn found_in(line: &str) -> Vec<Found> {
    let code = line.trim();
    if let Some((_, comment)) = code.split_once("// ORDERING: ") {
        let (orderings, rest) = comment.split_once(" [").expect("a label in square brackets");
        let (label, _) = rest.split_once(']').expect("a label in square brackets");
        let orderings = orderings.split(" / ").map(str::to_owned).collect();
        return vec![Found::Comment { label: label.to_owned(), orderings }];
    }
    if code.starts_with("//") || code.contains("use ") {
        return Vec::new();
    }
    let named = code.split("Ordering::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    named
        .filter(|name| ORDERINGS.contains(&name.as_str()))
        .map(|ordering| Found::Code { ordering })
        .collect()
}

/// Whether the line makes an ordering known by its bare name, which this check would not see.
fn imports_an_ordering(line: &str) -> bool {
    let names = |part: &str| ORDERINGS.iter().any(|name| part.starts_with(name));
    line.contains("use ")
        && line.split("Ordering::").skip(1).any(|rest| names(rest.trim_start_matches('{')))
}

/// Checks one file's text; returns the labels that it uses.
fn check(text: &str) -> Result<BTreeSet<String>, String> {
    let mut labels = BTreeSet::new();
    // What the last comment has said, and no code has done yet.
    let mut announced = Vec::new();
    for (number, line) in without_tests(text).lines().enumerate() {
        if imports_an_ordering(line) {
            return Err(format!("line {}: an ordering is written with its type", number + 1));
        }
        for found in found_in(line) {
            match found {
                Found::Comment { label, orderings } if announced.is_empty() => {
                    announced = orderings;
                    labels.insert(label);
                }
                Found::Comment { label, .. } => {
                    return Err(format!(
                        "line {}: nothing before [{label}] did {announced:?}",
                        number + 1
                    ));
                }
                Found::Code { ordering } if announced.first() == Some(&ordering) => {
                    announced.remove(0);
                }
                Found::Code { ordering } => {
                    return Err(format!(
                        "line {}: {ordering}, but announced is {announced:?}",
                        number + 1
                    ));
                }
            }
        }
    }
    if announced.is_empty() { Ok(labels) } else { Err(format!("at the end: {announced:?}")) }
}

#[test]
fn every_atomic_operation_is_explained_and_indexed() {
    let index = read(&root().join("docs/ordering.md"));
    let mut labels = BTreeSet::new();
    for path in files("src", &["rs"]) {
        match check(&read(&path)) {
            Ok(found) => labels.extend(found),
            Err(problem) => panic!("{}, {problem}", name(&path)),
        }
    }
    assert!(labels.len() > 20, "the test finds the comments: {labels:?}");
    let missing: Vec<_> =
        labels.iter().filter(|label| !index.contains(&format!("`{label}`"))).collect();
    assert!(missing.is_empty(), "not in docs/ordering.md: {missing:?}");
}

#[test]
fn the_check_notices_an_ordering_that_is_not_announced() {
    let good = "// ORDERING: Acquire / Relaxed [a.b] pairs.\nx.cas(1, 2, Ordering::Acquire,\nOrdering::Relaxed)";
    assert_eq!(check(good), Ok(BTreeSet::from(["a.b".to_owned()])));
    for bad in [
        "x.load(Ordering::Relaxed)",
        "use std::sync::atomic::{self, Ordering::SeqCst};",
        "use std::sync::atomic::Ordering::{Relaxed, SeqCst};",
        "// ORDERING: Acquire [a] pairs.\nx.load(Ordering::Relaxed)",
        "// ORDERING: Acquire / Relaxed [a]\nx.load(Ordering::Acquire)",
        "// ORDERING: Acquire [a]\nx.load(Ordering::Acquire); y.load(Ordering::Acquire)",
    ] {
        assert!(check(bad).is_err(), "{bad}");
    }
}
