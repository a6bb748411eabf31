//! The page of results, `docs/benchmarks.md`, written from the stored results.

mod derived;
mod gateway;
mod goals;
mod pictures;
mod tables;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::{fs, io};

pub(crate) use self::tables::print;
use crate::results::{Results, Run, root};
use crate::targets::NAMES;

/// By target.
type All = BTreeMap<&'static str, Results>;

const INTRODUCTION: &str = "\
# Benchmarks

Written by `cargo run --release -p benches -- page` from what `cargo run --release -p benches -- run` has
measured; `.ci/bench` does both.

All candidates of a comparison run in one process, in turns, in many rounds. A ratio is taken within each round; the
page gives the median of the ratios and, in brackets, their quartiles. The machine is shared: read the ratios, not the
times. Each peer does the same work: a ticket of at least 90 random bits from a CSPRNG, the owner checked, a deadline
stored and checked, the bytes counted and limited, the payload moved. `benches/src/peers` has them, a file each; *glue* is
`DashMap` with a tokio `Semaphore`, *floor* two operations on one atomic, a ticket and a clock read, with nothing stored.
Where there are two threads, each has a core of its own.
";

/// Explains the missed targets.
const WHY: &str = include_str!("../../why.md");

/// Writes the page and its plots.
pub(crate) fn write() -> io::Result<()> {
    let all: All =
        NAMES.iter().filter_map(|target| Some((*target, Results::load(target)?))).collect();
    let Some(first) = all.values().next() else {
        return Err(io::Error::other("nothing has been measured: benches run"));
    };
    let mut page = INTRODUCTION.to_owned();
    tables::opening(&mut page, &all);
    goals::losses(&mut page, &all);
    tables::write(&mut page, &all);
    gateway::write(&mut page)?;
    derived::write(&mut page, &all);
    page.push_str("\n## How it was measured\n");
    about(&mut page, &first.run, &all);
    goals::write(&mut page, &all);
    page.push_str(WHY);

    let docs = root().join("docs");
    pictures::draw(&docs.join("plots"), &all)?;
    fs::write(docs.join("benchmarks.md"), page)?;
    eprintln!("wrote docs/benchmarks.md and docs/plots");
    Ok(())
}

fn about(page: &mut String, run: &Run, all: &All) {
    let mut dates: Vec<&str> = all.values().map(|results| &*results.run.date).collect();
    dates.sort_unstable();
    let mut commits: Vec<&str> = all.values().map(|results| &*results.run.commit).collect();
    commits.sort_unstable();
    commits.dedup();
    let Run { cpu, cores, system, rustc, versions, .. } = run;
    let lines = [
        ("machine", format!("{cpu}, {cores} cores, {system}")),
        ("compiler", rustc.clone()),
        ("peers", versions.clone()),
        ("measured", format!("{} to {}", dates[0], dates[dates.len() - 1])),
        ("of commit", commits.join(", ")),
        ("command", "`.ci/bench`".to_owned()),
    ];
    page.push_str("\n| | |\n|---|---|\n");
    for (what, value) in lines {
        line(page, format_args!("| {what} | {value} |"));
    }
    let quick: Vec<&str> =
        all.iter().filter(|(_, results)| results.run.quick).map(|(target, _)| *target).collect();
    if !quick.is_empty() {
        line(page, format_args!("\nOf few and short rounds: {}.", quick.join(", ")));
    }
    // T11 is measured with T10.
    let missing: Vec<&str> =
        NAMES.iter().filter(|target| !all.contains_key(*target)).copied().collect();
    if !missing.is_empty() {
        line(page, format_args!("\nNot measured: {}.", missing.join(", ")));
    }
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("strings take everything");
}
