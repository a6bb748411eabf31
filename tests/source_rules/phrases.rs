//! Phrases that cost a reader more than they say. CONTRIBUTING.md has the rules that they break.
//!
//! Searched in all of the documents, in the comments and strings of `src`, of `redis/src`, of the examples and of the
//! benchmarks, in the comments of the tests, in the gateway's page, and in the first lines of the seeded faults.
//! Words are compared without case, over the ends of lines, and never over the end of a sentence.

use crate::files::{files, name, read, root, split_comment};

/// What is banned. A name in a phrase is a whole word.
const BANNED: &[&str] = &[
    "are to be",
    "as there is",
    "at it",
    "by then",
    "for good",
    "for want of",
    "goes by what",
    "a hall",
    "a moment of its own",
    "anybody",
    "one hall",
    "the hall",
    "he",
    "his",
    "in the line",
    "is to be",
    "nobody may",
    "of a moment",
    "to be had",
    "there is none any more",
    "told of",
    "was to be",
    "what became",
    "what becomes",
    "what is left",
    "who acquires",
    "who charges",
    "who claims",
    "who has",
    "who holds",
    "who is",
    "who leaves",
    "who listens",
    "who may",
    "who must",
    "who puts",
    "who reads",
    "who releases",
    "who sees",
    "who takes",
    "who waits",
    "who wants",
    "whoever",
    "a wing",
    "the wing",
    "wings",
];

/// The text's words in lower case; `.` where a sentence or a clause ends.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in text.chars() {
        if c.is_alphanumeric() || matches!(c, '\'' | '_' | '-') {
            words.last_mut().unwrap().extend(c.to_lowercase());
        } else {
            words.push(if c.is_whitespace() || c == '*' { String::new() } else { ".".to_owned() });
            words.push(String::new());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Where `words` have `phrase`, with the words around it.
fn find(words: &[String], phrase: &str) -> Vec<String> {
    let phrase: Vec<_> = phrase.split(' ').collect();
    let found = (0..words.len()).filter(|&at| {
        at + phrase.len() <= words.len()
            && words[at..at + phrase.len()].iter().zip(&phrase).all(|(a, b)| a == b)
    });
    found
        .map(|at| words[at.saturating_sub(5)..words.len().min(at + phrase.len() + 5)].join(" "))
        .collect()
}

/// The comments of Rust code, and its strings if `strings`, in one text.
fn prose(text: &str, strings: bool) -> String {
    let mut prose = String::new();
    for line in text.lines() {
        let (code, comment) = split_comment(line);
        if strings {
            for string in code.split('"').skip(1).step_by(2) {
                prose.push_str(string);
                prose.push_str(" . ");
            }
        }
        // Code ends a comment; its continuation on the next line does not.
        if !code.trim().is_empty() || comment.trim_matches(['/', '!', ' ']).is_empty() {
            prose.push_str(" . ");
        }
        prose.push_str(comment.trim_start_matches(['/', '!']));
        prose.push('\n');
    }
    prose
}

/// All that is searched: names and words.
fn searched() -> Vec<(String, Vec<String>)> {
    let pages = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "benches/why.md",
        "examples/gateway/README.md",
        "examples/recipes/README.md",
        "redis/README.md",
    ];
    let mut texts: Vec<_> =
        pages.iter().map(|name| ((*name).to_owned(), read(&root().join(name)))).collect();
    texts.extend(files("docs", &["md"]).iter().map(|path| (name(path), read(path))));
    for folder in ["src", "redis/src", "examples", "benches"] {
        texts.extend(
            files(folder, &["rs"]).iter().map(|path| (name(path), prose(&read(path), true))),
        );
    }
    // Comments of Lua, as those of Rust.
    texts.extend(
        files("redis/src", &["lua"])
            .iter()
            .map(|path| (name(path), prose(&read(path).replace("--", "//"), false))),
    );
    for folder in ["tests", "loom-tests", "redis/tests", "redis/examples"] {
        texts.extend(
            files(folder, &["rs"]).iter().map(|path| (name(path), prose(&read(path), false))),
        );
    }
    // Comments, strings and code: none of it has a reason to have such a phrase.
    texts.extend(
        files("examples/gateway/page", &["js", "html", "css"])
            .iter()
            .map(|path| (name(path), read(path))),
    );
    // What a fault is, not the code that it changes.
    texts.extend(files("loom-tests/faults", &["patch"]).iter().map(|path| {
        let patch = read(path);
        (name(path), patch.split("\n---").next().unwrap_or_default().to_owned())
    }));
    // This file names them.
    texts.retain(|(name, _)| name != "tests/source_rules/phrases.rs");
    texts.into_iter().map(|(name, text)| (name, words(&text))).collect()
}

#[test]
fn no_text_has_a_banned_phrase() {
    let texts = searched();
    assert!(texts.len() > 80, "the test finds the texts, not {} of them", texts.len());
    assert!(texts.iter().map(|(_, words)| words.len()).sum::<usize>() > 20_000, "and their words");
    let mut problems = Vec::new();
    for phrase in BANNED {
        let found: Vec<_> = texts
            .iter()
            .flat_map(|(name, words)| {
                find(words, phrase).into_iter().map(move |text| format!("{name}: … {text} …"))
            })
            .collect();
        if !found.is_empty() {
            problems.push(format!("\"{phrase}\": {found:#?}"));
        }
    }
    assert!(problems.is_empty(), "banned phrases:\n{}", problems.join("\n"));
}

#[test]
fn the_check_notices_a_banned_phrase() {
    for text in
        ["This is to be taken.", "This is to\n/// be taken.", "It IS TO BE.", "**is to be**"]
    {
        let words = words(&prose(&format!("/// {text}"), false));
        assert_eq!(find(&words, "is to be").len(), 1, "{text}");
    }
    assert_eq!(find(&words("There it is. To be, taken"), "is to be").len(), 0);
    assert_eq!(find(&words("that it, halls"), "at it").len(), 0);
    assert_eq!(find(&words("the halls"), "the hall").len(), 0);
    // Strings of code, comments after code, and nothing else of it.
    assert_eq!(
        words(&prose("let hall = \"a wing\"; // at it\n// again", true)).join(" "),
        "a wing . . at it again"
    );
    assert_eq!(words(&prose("let hall = \"a wing\"; // at it", false)).join(" "), ". at it");
    assert_eq!(find(&words(&prose("// is to\nlet x = 1;\n// be", false)), "is to be").len(), 0);
}
