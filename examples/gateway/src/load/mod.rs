//! The load run: the same gateway with two stashes, many clients, side by side.
//!
//! The stashes take turns, round by round, so that other load on the machine affects both. Figures are
//! medians over the rounds; a ratio is the median of the rounds' own ratios.

mod round;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use gateway::config::StashKind;

use self::round::Round;
use self::summary::Summary;

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Clients at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Rounds for each stash and scenario.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long a round is measured, in milliseconds.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(100..))]
    round_ms: u64,
    /// Three short rounds: a check, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Also write the figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A kind of traffic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// A description for the table.
    pub(crate) what: &'static str,
    /// One result in so many is never fetched; 0: all are.
    pub(crate) abandon_every: u32,
    pub(crate) ttl: Duration,
    pub(crate) max_bytes: u64,
    /// How long a query may wait.
    pub(crate) wait: Duration,
}

const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "all fetch",
        what: "every result is fetched; the stash is full, so queries wait in the queue",
        abandon_every: 0,
        ttl: Duration::from_secs(60),
        max_bytes: 1 << 20,
        wait: Duration::from_secs(2),
    },
    Scenario {
        name: "some never fetch",
        what: "one result in twenty is never fetched, and expires after half a second",
        abandon_every: 20,
        ttl: Duration::from_millis(500),
        max_bytes: 1 << 20,
        wait: Duration::from_secs(2),
    },
];

/// Fails if a client received anything but a result or a clear refusal, or was refused before its wait had
/// timed out.
pub(crate) async fn run(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let (rounds, length) = if args.quick { (3, 1_000) } else { (args.rounds, args.round_ms) };
    let length = Duration::from_millis(length);
    let mut summaries = Vec::new();
    for scenario in &SCENARIOS {
        let (mut cloakroom, mut glue) = (Vec::new(), Vec::new());
        for number in 1..=rounds {
            eprintln!("{}: round {number} of {rounds}", scenario.name);
            // The order of the candidates changes from round to round, too.
            let mut turns = [(StashKind::Cloakroom, &mut cloakroom), (StashKind::Glue, &mut glue)];
            if number % 2 == 0 {
                turns.reverse();
            }
            for (stash, rounds) in turns {
                let round = Round::run(scenario, stash, args.clients, length).await;
                rounds.push(round.with_context(|| format!("a round on {}", stash.name()))?);
            }
        }
        summaries.push(Summary { scenario: *scenario, cloakroom, glue });
    }
    println!("{} clients, {rounds} rounds of {length:?} each, medians", args.clients);
    for summary in &summaries {
        summary.print();
    }
    if let Some(path) = &args.json {
        let page = summary::to_json(&summaries, args.clients, length);
        std::fs::write(path, serde_json::to_string_pretty(&page)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let early: u64 = summaries.iter().map(Summary::refused_early).sum();
    if early > 0 {
        println!("THE RUN FAILED: {early} queries were refused that could have waited.");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
