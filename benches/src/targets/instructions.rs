//! T14: instructions per operation, counted by callgrind: the same on every run, whatever else the machine
//! does. They are computed from two runs of different length, which cancels out the start and the end.

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{saturated, timed};
use crate::results::{Data, Figure};
use crate::rounds::Effort;

/// A count: its name on the page, the comparison, the candidates.
pub(crate) const COUNTED: [(&str, &str, &[&str]); 4] = [
    (
        "put + take",
        "put + take, 1 thread, nothing held",
        &["cloakroom", "floor", "glue", "mutex (std)", "scc", "sharded-slab"],
    ),
    (
        "acquire + release",
        "try to acquire + release, 1 thread",
        &["cloakroom", "tokio", "futures-intrusive", "async-lock", "mea"],
    ),
    (
        "hand-off",
        "hand-off: join, release, poll",
        &["cloakroom", "tokio", "futures-intrusive", "async-lock", "mea"],
    ),
    (
        "join + leave",
        "join and leave at the end of the queue",
        &["cloakroom", "tokio", "futures-intrusive", "async-lock", "mea"],
    ),
];

/// Runs one candidate of a comparison for so many operations: what a profiler looks at. `name@x` is the one at `x`.
/// For the saturated stash the number is milliseconds.
pub(crate) fn repeat(title: &str, name: &str, operations: u64) -> Option<()> {
    if title == saturated::SCENARIO {
        return saturated::repeat(name, Duration::from_millis(operations));
    }
    let timed = timed().find(|timed| timed.title == title)?;
    let (name, x) = match name.split_once('@') {
        Some((name, x)) => (name, Some(x.parse().ok()?)),
        None => (name, None),
    };
    let mut candidates = (timed.candidates)(true);
    let candidate = candidates.iter_mut().find(|c| c.name == name && c.x == x)?;
    black_box(candidate.run(operations));
    Some(())
}

pub(super) fn measure(effort: Effort) -> Data {
    let (short, long) = if effort.quick { (5_000, 15_000) } else { (20_000, 120_000) };
    let mut data = Data::default();
    for (what, title, names) in COUNTED {
        eprintln!("  instructions per {what}");
        for name in names {
            let counts = [short, long].map(|operations| count(title, name, operations));
            let [Some(short_run), Some(long_run)] = counts else {
                eprintln!("  valgrind cannot be run: no instructions are counted");
                return data;
            };
            let per_operation = |function: &str| {
                let of =
                    |run: &HashMap<String, u64>| run.get(function).copied().unwrap_or(0) as f64;
                (of(&long_run) - of(&short_run)) / (long - short) as f64
            };
            let mut parts: Vec<(String, f64)> = long_run
                .keys()
                .filter(|function| !is_calibration(name, function))
                .map(|function| (function.clone(), per_operation(function)))
                .collect();
            parts.sort_by(|a, b| b.1.total_cmp(&a.1));
            let value = parts.iter().map(|(_, count)| count).sum();
            parts.retain(|(_, count)| *count >= 0.5);
            data.figures.push(Figure {
                what: what.to_owned(),
                peer: (*name).to_owned(),
                value,
                parts,
            });
        }
    }
    data
}

/// Our clock is calibrated once, for as long as that takes: no two runs of it are the same.
fn is_calibration(name: &str, function: &str) -> bool {
    name == "cloakroom" && ["OnceCell", "clock_gettime"].iter().any(|part| function.contains(part))
}

/// Instructions by function, without those of its callees.
fn count(title: &str, name: &str, operations: u64) -> Option<HashMap<String, u64>> {
    let file = std::env::temp_dir().join(format!("cloakroom-callgrind-{}", std::process::id()));
    let status = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().ok()?)
        .args(["repeat", title, name, &operations.to_string()])
        .stderr(Stdio::null())
        .status();
    let counts = status.ok()?.success().then(|| parse(&file));
    let _ = fs::remove_file(&file);
    counts?
}

/// Reads the parts of callgrind's format that name the function of the costs that follow: `fn=(7) name` at
/// first and `fn=(7)` from then on. After `calls=` comes the cost of the callee.
fn parse(file: &Path) -> Option<HashMap<String, u64>> {
    let text = fs::read_to_string(file).ok()?;
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut counts: HashMap<String, u64> = HashMap::new();
    let (mut function, mut is_call) = ("", false);
    for line in text.lines() {
        if let Some((key @ ("fn" | "cfn"), named)) = line.split_once('=') {
            let (id, name) = named.split_once(' ').unwrap_or((named, ""));
            if !name.is_empty() {
                names.insert(id, name);
            }
            if key == "fn" {
                function = names.get(id).copied().unwrap_or(named);
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse().ok()).unwrap_or(0);
            if !is_call {
                *counts.entry(function.to_owned()).or_default() += cost;
            }
            is_call = false;
        }
    }
    Some(counts)
}
