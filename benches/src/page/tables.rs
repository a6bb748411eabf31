//! All results, as tables.

use super::goals::{rank, shown};
use super::{All, line};
use crate::results::{Data, Figure, Group, Results};
use crate::rounds::Spread;
use crate::targets::scaling::WRITES;

/// The start of the page: a target, its plot, a heading, and the subject of the comparison.
const COMPARISONS: [[&str; 4]; 4] = [
    [
        "S2",
        "plots/s2.svg",
        "Put and take, by the number of threads",
        "Each thread stores a payload and takes it again, as fast as it can. The times are of one thread; the plot \
         has the throughput of all.",
    ],
    [
        "T5",
        "plots/t5.svg",
        "Put and take, by the number of entries held",
        "One thread stores a payload and takes it again, while so many entries are held.",
    ],
    [
        "T12",
        "plots/t12.svg",
        "Waits when the stash is full",
        "Producers of small and large results wait for room all the time. First-fit grants whichever request fits.",
    ],
    [
        "T8",
        "plots/t8.svg",
        "Joining and leaving the wait queue, by its length",
        "A request joins the queue behind so many waiters, and gives up.",
    ],
];

/// Four comparisons with their plots.
pub(super) fn opening(page: &mut String, all: &All) {
    for [target, plot, heading, about] in COMPARISONS {
        let Some(Results { data, .. }) = all.get(target) else { continue };
        line(page, format_args!("\n## {heading}\n\n{about} ({target})\n\n![{heading}]({plot})"));
        section(page, data);
    }
}

/// All tables that are not at the start of the page.
pub(super) fn write(page: &mut String, all: &All) {
    page.push_str("\n## Everything else\n");
    let mut targets: Vec<_> = all.iter().collect();
    targets.sort_by_key(|(target, _)| rank(target));
    for (target, Results { data, .. }) in targets {
        if COMPARISONS.iter().any(|[shown, ..]| shown == target) {
            continue;
        }
        line(page, format_args!("\n### {target}"));
        section(page, data);
    }
}

/// Prints the tables to a terminal.
pub(crate) fn print(data: &Data) {
    let mut text = String::new();
    section(&mut text, data);
    print!("{text}");
}

fn section(page: &mut String, data: &Data) {
    for group in &data.groups {
        line(page, format_args!("\n{}:\n", first_upper(&group.title)));
        if group.xs().is_empty() { timings(page, group) } else { by_number(page, group) }
    }
    if !data.latencies.is_empty() {
        latencies(page, data);
    }
    figures(page, data);
}

fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn timings(page: &mut String, group: &Group) {
    page.push_str("| | ns | x cloakroom |\n|---|---|---|\n");
    let Some(base) = group.timings.first() else { return };
    for timing in &group.timings {
        let (time, ratio) = (timing.spread(), shown(timing.ratio(base)));
        line(page, format_args!("| {} | {} | {ratio} |", timing.name, nanos(time)));
    }
}

fn nanos(Spread { q1, median, q3 }: Spread) -> String {
    let digits = if median < 10.0 { 1 } else { 0 };
    format!("{median:.digits$} ({q1:.digits$} to {q3:.digits$})")
}

/// Each cell: nanoseconds, and the ratio to the candidate with the smallest number.
fn by_number(page: &mut String, group: &Group) {
    let xs = group.xs();
    let heads: String = xs.iter().map(|x| format!(" {x} |")).collect();
    line(page, format_args!("| ns, and x the first |{heads}\n|---|{}", "---|".repeat(xs.len())));
    for name in group.names() {
        let Some(base) = group.timing(name, xs.first().copied()) else { continue };
        let cell = |x: &u64| match group.timing(name, Some(*x)) {
            Some(timing) => {
                let (time, ratio) = (timing.spread().median, timing.ratio(base).median);
                format!(" {time:.0}, {ratio:.2} x |")
            }
            None => " |".to_owned(),
        };
        line(page, format_args!("| {name} |{}", xs.iter().map(cell).collect::<String>()));
    }
}

fn latencies(page: &mut String, data: &Data) {
    page.push_str(
        "\nMedians over the rounds, in microseconds. Unfinished: still waiting when a round ended, and \
         counted as long as they had waited.\n\n| | | | per second | p50 | p99 | p99.9 | max | unfinished |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let mut seen: Vec<[&str; 3]> = Vec::new();
    for latency in &data.latencies {
        let key = [&*latency.scenario, &*latency.peer, &*latency.kind];
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let micros = |value: u64| value as f64 / 1e3;
        let cells = [
            data.latency(key, |l| l.count as f64 / l.seconds),
            data.latency(key, |l| micros(l.p50)),
            data.latency(key, |l| micros(l.p99)),
            data.latency(key, |l| micros(l.p999)),
            data.latency(key, |l| micros(l.max)),
            data.latency(key, |l| l.unfinished as f64),
        ];
        let cell = |spread: Option<Spread>| {
            let median = spread.map_or(0.0, |spread| spread.median);
            let digits = if median < 10.0 && median.fract() != 0.0 { 2 } else { 0 };
            format!(" {median:.digits$} |")
        };
        let cells: String = cells.into_iter().map(cell).collect();
        let [scenario, peer, kind] = key;
        line(page, format_args!("| {scenario} | {peer} | {kind} |{cells}"));
    }
}

/// The median of the figures with one name and peer.
fn figures(page: &mut String, data: &Data) {
    if data.figures.is_empty() {
        return;
    }
    page.push_str("\n| | | |\n|---|---|---|\n");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for Figure { what, peer, .. } in &data.figures {
        if !seen.contains(&(what, peer)) {
            seen.push((what, peer));
            let median = Spread::of(data.figures(what, peer)).median;
            let digits = if what.starts_with(WRITES) { 5 } else { 2 };
            line(page, format_args!("| {what} | {peer} | {median:.digits$} |"));
        }
    }
    for Figure { what, peer, parts, .. } in data.figures.iter().filter(|f| !f.parts.is_empty()) {
        if peer == "cloakroom" {
            line(page, format_args!("\n{}, {peer}, by function:\n", first_upper(what)));
            page.push_str("| function | instructions |\n|---|---|\n");
            for (function, count) in parts {
                line(page, format_args!("| `{function}` | {count:.0} |"));
            }
        }
    }
}
