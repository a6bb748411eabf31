//! The targets: goal, measured figure, and whether it was met; and where peers are ahead.

use super::{All, line};
use crate::results::{Data, Group, Results};
use crate::rounds::{Spread, Timing};
use crate::targets::{crowded, expiry, saturated, scaling};

struct Goal {
    target: &'static str,
    work: String,
    goal: String,
    measured: String,
    met: bool,
}

const US: &str = "cloakroom";

pub(super) fn write(page: &mut String, all: &All) {
    let goals = goals(all);
    page.push_str(
        "\n## Targets\n\n| # | work | target | measured | met |\n|---|---|---|---|---|\n",
    );
    for Goal { target, work, goal, measured, met } in &goals {
        let met = if *met { "yes" } else { "**no**" };
        line(page, format_args!("| {target} | {work} | {goal} | {measured} | {met} |"));
    }
    page.push_str(
        "\nT13 is the gateway's. T14, instructions, has no target. Both have tables above. S5 is T12 against the code \
         before lending, S6 is T1, S7 is T7 and T8.\n",
    );
}

/// Where a peer is ahead.
pub(super) fn losses(page: &mut String, all: &All) {
    page.push_str("\n## Where a peer is faster\n\n");

    for (target, Results { data, .. }) in all {
        for group in &data.groups {
            for peer in &group.timings {
                let Some(own) = group.timing(US, peer.x) else { continue };
                let ratio = own.ratio(peer);
                // Beyond the noise.
                if ratio.q1 > 1.0 && !is_floor(&peer.name) && !peer.name.starts_with(US) {
                    let at = peer.x.map_or(String::new(), |x| format!(", at {x}"));
                    let (title, name) = (&group.title, &peer.name);
                    let ratio = shown(ratio);
                    let text = format_args!("- {target}, {title}{at}: {ratio} x {name}.");
                    line(page, text);
                }
            }
        }
    }
}

/// Counts and locks alone: nobody stores, grants or refuses with them.
fn is_floor(name: &str) -> bool {
    name.starts_with("floor") || name == scaling::ONE_LINE
}

/// Median and quartiles.
pub(super) fn shown(spread: Spread) -> String {
    let Spread { q1, median, q3 } = spread;
    format!("{median:.2} ({q1:.2} to {q3:.2})")
}

fn goals(all: &All) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut ratio = |target, title: &str, base: &str, limit: f64| {
        let group = all.get(target).and_then(|results: &Results| results.data.group(title));
        let Some(ratio) = group.and_then(|group| group.ratio(US, base)) else { return };
        goals.push(at_most(target, title, ratio, limit, base));
    };
    ratio("T1", "put + take, 1 thread, nothing held", "glue", 0.5);
    ratio("T1", "put + take, 1 thread, nothing held", "floor", 1.5);
    ratio("T2", "put + take, 2 threads, nothing held", "glue", 0.33);
    ratio("T3", "put + take, 1 thread, 1 M held", "glue", 0.14);
    ratio("T3", "put + take, 1 thread, 1 M held", "cloakroom, nothing held", 1.3);
    ratio("T4", "put + take, 2 threads, 1 M held", "glue", 0.14);
    ratio("T6", "try to acquire + release, 1 thread", "tokio", 0.65);
    ratio("T6", "try to acquire + release, 2 threads", "tokio", 0.2);
    ratio("T7", "hand-off", "tokio", 0.5);
    let data = |target| all.get(target).map(|results: &Results| &results.data);
    goals.extend(data("T7").and_then(against_the_fastest));
    goals.extend(data("T5").and_then(|data| flat("T5", data.group("put + take")?, 1.3)));
    goals.extend(data("T8").and_then(|data| flat("T8", data.group("join and leave")?, 1.5)));
    goals.extend(data("T8").and_then(half_of_tokio));
    goals.extend(data("T9").map(expiry).into_iter().flatten());
    goals.extend(data("T10").map(memory).into_iter().flatten());
    goals.extend(data("T12").map(saturated).into_iter().flatten());
    goals.extend(data("T15").map(crowded).into_iter().flatten());
    goals.extend(data("S1").map(acquire_by_threads).into_iter().flatten());
    goals.extend(data("S2").map(put_take_by_threads).into_iter().flatten());
    goals.extend(data("S4").map(shared_writes).into_iter().flatten());
    goals.extend(data("S8").and_then(build));
    goals.extend(data("S9").and_then(|data| flat("S9", data.group(scaling::GRANT)?, 1.5)));
    goals.sort_by_key(|goal| rank(goal.target));
    goals
}

/// The T targets, then the S targets, each by number.
pub(super) fn rank(target: &str) -> (bool, u32) {
    (target.starts_with('S'), target[1..].parse().unwrap_or(0))
}

fn acquire_by_threads(data: &Data) -> Vec<Goal> {
    let Some(group) = data.group(scaling::ACQUIRE) else { return Vec::new() };
    let ratio = |threads, peer, by| {
        Some(group.timing(US, Some(threads))?.ratio(group.timing(peer, Some(by))?))
    };
    let goals = [
        ("S1", 2, US, 1, 1.15, "our own 1 thread"),
        ("S1", 2, "tokio", 2, 0.12, "tokio, 2 threads"),
        ("S3", 1, "tokio", 1, 0.65, "tokio"),
    ];
    let goals = goals.into_iter().filter_map(|(target, threads, peer, by, limit, base)| {
        let work = format!("acquire + release, far from the limit, threads: {threads}");
        Some(at_most(target, &work, ratio(threads, peer, by)?, limit, base))
    });
    goals.collect()
}

fn put_take_by_threads(data: &Data) -> Vec<Goal> {
    let goal = |title| {
        let group = data.group(title)?;
        let ratio = group.timing(US, Some(2))?.ratio(group.timing(US, Some(1))?);
        let work = title.replace("by threads", "2 threads");
        Some(at_most("S2", &work, ratio, 1.2, "our own 1 thread"))
    };
    [scaling::PUT_TAKE, scaling::PUT_TAKE_HELD].into_iter().filter_map(goal).collect()
}

fn shared_writes(data: &Data) -> Vec<Goal> {
    let far = data.figures.iter().filter(|figure| !figure.what.ends_with(scaling::SMALL));
    let goals = far.map(|figure| Goal {
        target: "S4",
        work: figure.what.clone(),
        goal: "at most 0.01 per operation".to_owned(),
        measured: format!("{:.5}", figure.value),
        met: figure.value <= 0.01,
    });
    goals.collect()
}

fn build(data: &Data) -> Option<Goal> {
    let each = data.group(scaling::BUILD)?.timing(US, None)?.spread().median / 1e3;
    Some(Goal {
        target: "S8",
        work: scaling::BUILD.to_owned(),
        goal: "at most 5 us".to_owned(),
        measured: format!("{each:.2} us"),
        met: each <= 5.0,
    })
}

fn at_most(target: &'static str, work: &str, ratio: Spread, limit: f64, base: &str) -> Goal {
    Goal {
        target,
        work: work.to_owned(),
        goal: format!("at most {limit:.2} x {base}"),
        measured: format!("{} x", shown(ratio)),
        met: ratio.median <= limit,
    }
}

fn largest(ratios: impl Iterator<Item = Spread>) -> Option<Spread> {
    ratios.max_by(|a, b| a.median.total_cmp(&b.median))
}

/// Against the smallest number.
fn flat(target: &'static str, group: &Group, limit: f64) -> Option<Goal> {
    let xs = group.xs();
    let base = group.timing(US, xs.first().copied())?;
    let ratios = xs.iter().filter_map(|x| Some(group.timing(US, Some(*x))?.ratio(base)));
    let ratio = largest(ratios)?;
    Some(Goal {
        goal: format!("flat within {limit:.1} x, up to {}", xs.last()?),
        ..at_most(target, &group.title, ratio, limit, "")
    })
}

fn against_the_fastest(data: &Data) -> Option<Goal> {
    let group = data.group("hand-off")?;
    let peers = group.timings.iter().filter(|timing| timing.name != US);
    let median = |timing: &&Timing| timing.spread().median;
    let fastest = peers.min_by(|a, b| median(a).total_cmp(&median(b)))?;
    let ratio = group.timing(US, None)?.ratio(fastest);
    let base = format!("the fastest peer, {}", fastest.name);
    Some(at_most("T7", &group.title, ratio, 1.0, &base))
}

fn half_of_tokio(data: &Data) -> Option<Goal> {
    let group = data.group("join and leave")?;
    let xs = group.xs();
    let ratios = xs
        .iter()
        .filter_map(|x| Some(group.timing(US, Some(*x))?.ratio(group.timing("tokio", Some(*x))?)));
    Some(at_most("T8", &group.title, largest(ratios)?, 0.5, "tokio, at any length of the queue"))
}

fn expiry(data: &Data) -> Vec<Goal> {
    let goal = |work: &str, goal: &str, measured: String, met| {
        let (work, goal) = (work.to_owned(), goal.to_owned());
        Goal { target: "T9", work, goal, measured, met }
    };
    let mut goals = Vec::new();
    if let Some(timing) = data.group(expiry::EXPIRE).and_then(|group| group.timing(US, None)) {
        let each = timing.spread().median;
        goals.push(goal(
            "expire 1 M entries",
            "at most 60 ns each",
            format!("{each:.0} ns"),
            each <= 60.0,
        ));
    }
    for scenario in [expiry::MEANWHILE, expiry::FULL] {
        let longest = |scenario| data.latency([scenario, US, "put"], |l| l.max as f64 / 1e3);
        let Some(spread) = longest(scenario) else { continue };
        let idle = longest(expiry::NOTHING).map_or(0.0, |idle| idle.median);
        let measured = format!(
            "{:.0} us ({:.0} to {:.0}); while nothing else is done: {idle:.0} us",
            spread.median, spread.q1, spread.q3
        );
        let work = format!("{scenario}: the longest");
        goals.push(goal(&work, "at most 100 us", measured, spread.median <= 100.0));
    }
    goals
}

fn memory(data: &Data) -> Vec<Goal> {
    let figures = data.figures.iter().filter_map(|figure| {
        let (target, limit, goal) = match &*figure.what {
            what if what.starts_with("allocations") => ("T10", 0.0, "0"),
            what if what.starts_with("bytes per entry") => ("T11", 96.0, "at most 96"),
            what if what.starts_with("bytes per waiter") => ("S9", 200.0, "at most 200"),
            "bytes of an empty stash" => ("S8", 4096.0, "at most 4096"),
            _ => return None,
        };
        Some(Goal {
            target,
            work: figure.what.clone(),
            goal: goal.to_owned(),
            measured: format!("{:.1}", figure.value),
            met: figure.value <= limit,
        })
    });
    figures.collect()
}

fn saturated(data: &Data) -> Vec<Goal> {
    let throughput = |peer| data.figures(saturated::BYTES, peer);
    let pairs = throughput(US).into_iter().zip(throughput("glue"));
    let ratios: Vec<f64> = pairs.map(|(own, glue)| own / glue).collect();
    let mut goals = Vec::new();
    if !ratios.is_empty() {
        let ratio = Spread::of(ratios);
        goals.push(Goal {
            goal: "more than glue".to_owned(),
            met: ratio.median > 1.0,
            ..at_most("T12", "saturated: throughput", ratio, 1.0, "")
        });
    }
    let wait = |peer| data.latency([saturated::SCENARIO, peer, "large"], |l| l.p99 as f64 / 1e6);
    if let (Some(own), Some(first_fit)) = (wait(US), wait("first-fit")) {
        goals.push(Goal {
            target: "T12",
            work: "saturated: the largest request's p99 wait".to_owned(),
            goal: "bounded, where first-fit starves it".to_owned(),
            measured: format!(
                "{:.2} ms ({:.2} to {:.2}); first-fit: {:.0} ms, of rounds that end then",
                own.median, own.q1, own.q3, first_fit.median
            ),
            met: own.median * 2.0 <= first_fit.median,
        });
    }
    goals
}

fn crowded(data: &Data) -> Vec<Goal> {
    let mut goals = Vec::new();
    for scenario in crowded::scenarios() {
        let p999 = |peer: &str| -> Vec<f64> {
            let matching =
                data.latencies.iter().filter(|l| l.scenario == scenario && l.peer == peer);
            matching.map(|l| l.p999 as f64).collect()
        };
        let own = p999(US);
        for mutex in ["mutex (std)", "mutex (parking_lot)"] {
            let ratios: Vec<f64> =
                own.iter().zip(p999(mutex)).map(|(own, its)| own / its).collect();
            if !ratios.is_empty() {
                let work = format!("put + take by {scenario}: p99.9");
                goals.push(at_most("T15", &work, Spread::of(ratios), 0.5, mutex));
            }
        }
    }
    goals
}
