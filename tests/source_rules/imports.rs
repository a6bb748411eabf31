//! Which module may import which: docs/design.md draws the layers, and this holds the imports to them.
//!
//! A module is a file. An import is a path that begins with `crate`, `self` or `super`, in a `use` or in an expression,
//! outside the unit tests. What a `mod.rs` re-exports counts as an import of the file that defines it. Two kinds of
//! paths are no imports:
//!
//! - a `pub use` in a `mod.rs` or in `lib.rs` is the face of its folder;
//! - a file may name what its own `mod.rs` defines: that is the handle whose methods the file adds.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::{files, name, read, split_comment, without_tests};

/// On top of `stash/shared.rs`, each beside the others: nothing below them imports them, and none imports another.
const TOP: [&str; 6] =
    ["stash/builder", "stash/claim", "stash/put", "stash/reaper", "stash/reserve", "stash/stats"];

/// What is above even those: other ways to deliver a claim, and what integrates the crate.
const ABOVE_TOP: [&str; 7] = [
    "contract",
    "integrations",
    "loom_internals",
    "observe/metrics",
    "observe/tracing",
    "stash/delivery",
    "stash/reader",
];

/// What of its own folder `stash/shared.rs` rests on.
const BELOW_SHARED: [&str; 3] = ["stash/alarms", "stash/counters", "stash/options"];

/// Whether `module` is `folder` or a file in it.
fn is_in(module: &str, folder: &str) -> bool {
    module.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Why `from` must not import `to`.
fn forbidden(from: &str, to: &str) -> Option<&'static str> {
    let above = ABOVE_TOP.iter().any(|folder| is_in(from, folder));
    let apart = |a, b| is_in(from, a) && is_in(to, b);
    if apart("budget", "slots") || apart("slots", "budget") {
        return Some("budget and slots do not know each other");
    }
    if apart("budget", "stash") || apart("slots", "stash") {
        return Some("the stash stands on budget and slots");
    }
    if from == "sync" {
        return Some("sync is below everything");
    }
    if ABOVE_TOP.iter().any(|folder| is_in(to, folder)) && !above {
        return Some("nothing below imports what is above everything");
    }
    if TOP.contains(&to) && !above {
        return Some("nothing imports what is on top of the shared state");
    }
    if from == "stash/shared" && is_in(to, "stash") && !BELOW_SHARED.contains(&to) {
        return Some("the shared state imports only what is below it");
    }
    None
}

/// The modules of a crate and their texts, by name: `stash/put`, `stash` for `stash/mod.rs`, nothing for `lib.rs`.
struct Tree {
    texts: BTreeMap<String, String>,
    /// By module and item: the module that the item is re-exported from.
    exports: BTreeMap<(String, String), String>,
}

impl Tree {
    /// Of files by their paths under `src`.
    fn new(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let texts = files.into_iter().map(|(path, text)| {
            let module = path.trim_end_matches(".rs").trim_end_matches("/mod");
            let code = without_tests(&text).lines().map(|line| split_comment(line).0);
            (module.replace("lib", ""), code.collect::<Vec<_>>().join("\n"))
        });
        let mut tree = Self { texts: texts.collect(), exports: BTreeMap::new() };
        // Twice, for what is re-exported from a re-export.
        for _ in 0..2 {
            for (module, text) in &tree.texts {
                for (public, path) in uses(text) {
                    let Some(to) = tree.resolve(module, &path).filter(|to| public && to != module)
                    else {
                        continue;
                    };
                    let item = path.last().unwrap().clone();
                    tree.exports.insert((module.clone(), item), to);
                }
            }
        }
        tree
    }

    /// The module that a path in `module` leads to, `None` if it leads out of the crate.
    fn resolve(&self, module: &str, path: &[String]) -> Option<String> {
        let child = |of: &str, name: &str| {
            let child = if of.is_empty() { name.to_owned() } else { format!("{of}/{name}") };
            self.texts.contains_key(&child).then_some(child)
        };
        let parent = |of: &str| of.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
        let mut at = match path.first()?.as_str() {
            "crate" => String::new(),
            "self" => module.to_owned(),
            "super" => parent(module),
            other => child(module, other)?,
        };
        for part in &path[1..] {
            if part == "super" {
                at = parent(&at);
            } else if let Some(inner) = child(&at, part) {
                at = inner;
            } else {
                return Some(self.exports.get(&(at.clone(), part.clone())).unwrap_or(&at).clone());
            }
        }
        Some(at)
    }

    /// Every import, as the importing module and the imported one.
    fn imports(&self) -> BTreeSet<(String, String)> {
        let mut imports = BTreeSet::new();
        for (module, text) in &self.texts {
            let is_face = module.is_empty()
                || self.texts.keys().any(|other| other != module && is_in(other, module));
            let used = uses(text)
                .into_iter()
                .filter(|(public, _)| !(*public && is_face))
                .map(|(_, path)| path);
            for to in used.chain(inline_paths(text)).filter_map(|path| self.resolve(module, &path))
            {
                let is_own_parent = module.rsplit_once('/').is_some_and(|(parent, _)| parent == to);
                if to != *module && !to.is_empty() && !is_own_parent {
                    imports.insert((module.clone(), to));
                }
            }
        }
        imports
    }

    fn problems(&self) -> Vec<String> {
        let imports = self.imports();
        let mut problems: Vec<_> = imports
            .iter()
            .filter_map(|(from, to)| Some(format!("{from} imports {to}: {}", forbidden(from, to)?)))
            .collect();
        problems
            .extend(circle(&imports).map(|circle| format!("a circle: {}", circle.join(" -> "))));
        problems
    }
}

/// Splits the text into its `use` items, as whether each is public and what it names, and the rest.
fn split_uses(text: &str) -> (Vec<(bool, String)>, String) {
    let (mut items, mut others) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(at) = rest.find("use ") {
        // An item begins after another, after a block, or on a line of its own.
        let begin = rest[..at].rfind(['\n', ';', '{', '}']).map_or(0, |end| end + 1);
        let before = rest[begin..at].trim();
        if before.is_empty() || (before.starts_with("pub") && !before.contains(' ')) {
            others.push_str(&rest[..begin]);
            let (tree, after) = rest[at + 4..].split_once(';').unwrap_or((&rest[at + 4..], ""));
            let tree = tree.split_whitespace().collect::<Vec<_>>().join(" ");
            items.push((!before.is_empty(), tree));
            rest = after;
        } else {
            others.push_str(&rest[..at + 4]);
            rest = &rest[at + 4..];
        }
    }
    others.push_str(rest);
    (items, others)
}

/// The paths that the text's `use` items name, groups expanded, and whether each is re-exported.
fn uses(text: &str) -> Vec<(bool, Vec<String>)> {
    let mut found = Vec::new();
    for (public, tree) in split_uses(text).0 {
        expand(&tree, &[], &mut |path| found.push((public, path)));
    }
    found
}

/// Calls `found` with each path of a `use` tree.
fn expand(tree: &str, prefix: &[String], found: &mut impl FnMut(Vec<String>)) {
    let tree = tree.trim();
    if let Some((head, group)) = tree.split_once('{') {
        let mut prefix = prefix.to_vec();
        prefix.extend(
            head.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned),
        );
        let group = group.strip_suffix('}').unwrap_or(group);
        let (mut depth, mut begin) = (0, 0);
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let part = group[begin..at].trim();
                    if !part.is_empty() {
                        expand(part, &prefix, found);
                    }
                    begin = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let path = tree.split(" as ").next().unwrap();
    let mut whole = prefix.to_vec();
    whole.extend(path.split("::").map(|part| part.trim().to_owned()));
    found(whole);
}

/// The paths that expressions, types and macros name in full.
fn inline_paths(text: &str) -> Vec<Vec<String>> {
    let text = split_uses(text).1;
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(root) {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            if text[..at].ends_with(|c: char| is_part(c) || c == ':' || c == '(') {
                // `$crate::`, the middle of a path, `pub(in crate::x)`.
                if !text[..at].ends_with('(') || text[..at].ends_with("pub(") {
                    continue;
                }
            }
            let end = text[at..]
                .find(|c: char| !is_part(c) && c != ':')
                .map_or(text.len(), |end| at + end);
            found
                .push(text[at..end].trim_end_matches(':').split("::").map(str::to_owned).collect());
        }
    }
    found
}

/// The modules of a circle, the first of them again at the end.
fn circle(imports: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        imports: &BTreeSet<(String, String)>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(begin) = path.iter().position(|module| module == at) {
            path.drain(..begin);
            path.push(at.to_owned());
            return true;
        }
        if done.contains(at) {
            return false;
        }
        path.push(at.to_owned());
        for (_, to) in imports.iter().filter(|(from, _)| from == at) {
            if visit(to, imports, path, done) {
                return true;
            }
        }
        path.pop();
        done.insert(at.to_owned());
        false
    }
    let mut done = BTreeSet::new();
    imports.iter().find_map(|(from, _)| {
        let mut path = Vec::new();
        visit(from, imports, &mut path, &mut done).then_some(path)
    })
}

#[test]
fn no_import_is_against_the_direction_and_none_closes_a_circle() {
    let tree = Tree::new(
        files("src", &["rs"])
            .iter()
            .map(|path| (name(path).trim_start_matches("src/").to_owned(), read(path))),
    );
    let imports = tree.imports();
    assert!(imports.len() > 60, "the test finds the imports: {imports:?}");
    for expected in
        [("stash/put", "stash/admission"), ("clock", "slots/bounds"), ("budget", "blocking")]
    {
        let expected = (expected.0.to_owned(), expected.1.to_owned());
        assert!(imports.contains(&expected), "{expected:?} is found: {imports:?}");
    }
    let problems = tree.problems();
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_check_notices_imports_against_the_direction() {
    let check = |files: &[(&str, &str)]| {
        let mut tree = vec![
            ("lib.rs", "mod budget;"),
            ("budget/mod.rs", "mod permit; pub use permit::Permit; pub struct Budget;"),
            ("budget/permit.rs", "use super::Budget; pub struct Permit(Budget);"),
            ("slots/mod.rs", "pub struct SlotMap;"),
            ("stash/mod.rs", "mod put; pub use self::put::Put; use self::shared::Inner;"),
            ("stash/put.rs", "use super::Stash; use super::shared::Inner;"),
            (
                "stash/shared.rs",
                "use crate::budget::{Budget,\n    Permit}; use crate::slots::SlotMap;",
            ),
            ("stash/options.rs", ""),
            ("integrations/mod.rs", "mod http_body;"),
            ("integrations/http_body.rs", "use crate::stash::Put;"),
        ];
        for &(path, text) in files {
            tree.retain(|(other, _)| *other != path);
            tree.push((path, text));
        }
        Tree::new(tree.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())))
            .problems()
    };
    assert_eq!(check(&[]), Vec::<String>::new());
    let unit_test = "#[cfg(test)]\nmod tests { use crate::budget::Budget; }";
    assert_eq!(check(&[("slots/sweep.rs", unit_test)]), Vec::<String>::new());
    for (path, text) in [
        ("slots/sweep.rs", "use crate::budget::Permit;"),
        ("slots/sweep.rs", "use crate::{budget::{self, Permit}};"),
        ("slots/sweep.rs", "fn f() { crate::budget::f() }"),
        ("slots/sweep.rs", "fn f(_: crate::stash::Put) {}"),
        ("budget/state.rs", "use super::super::slots::SlotMap;"),
        ("sync/mod.rs", "use crate::error::Refusal;"),
        ("stash/mod.rs", "mod put; use put::Put;"),
        ("stash/mod.rs", "pub use self::put::Put; fn f() { self::put::g() }"),
        ("stash/shared.rs", "use super::Put;"),
        ("stash/shared.rs", "use crate::stash::admission::Admit;"),
        ("stash/options.rs", "use super::shared::Inner; use crate::stash::put;"),
        ("stash/claim.rs", "use super::put::Put;"),
        ("error.rs", "use crate::integrations::http_body::ClaimBody;"),
    ] {
        // Not imported by anything, and so in no circle.
        let admission = ("stash/admission.rs", "");
        assert!(!check(&[admission, ("error.rs", ""), (path, text)]).is_empty(), "{path}: {text}");
    }
    let circle = [
        ("stash/options.rs", "use super::counters::Counters;"),
        ("stash/counters.rs", "use super::alarms::Alarms;"),
        ("stash/alarms.rs", "use super::options::PutOptions;"),
    ];
    let problems = check(&circle);
    assert!(problems.iter().any(|problem| problem.starts_with("a circle")), "{problems:?}");
}
