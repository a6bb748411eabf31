//! The targets, by the kind of measurement.

mod allocations;
pub(crate) mod crowded;
pub(crate) mod expiry;
mod instructions;
pub(crate) mod line;
mod put_take;
pub(crate) mod saturated;
pub(crate) mod scaling;

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;

pub(crate) use self::instructions::repeat;
use crate::results::{Data, Figure, Group, root};
use crate::rounds::{Candidate, Effort, compare};

/// A comparison of times per operation, for criterion and for the rounds.
pub(crate) struct Timed {
    pub(crate) target: &'static str,
    pub(crate) title: &'static str,
    /// Receives whether the run is a short one.
    pub(crate) candidates: fn(bool) -> Vec<Candidate>,
}

pub(crate) fn timed() -> impl Iterator<Item = &'static Timed> {
    [put_take::TIMED, line::TIMED, expiry::TIMED, scaling::TIMED].into_iter().flatten()
}

/// Measures other figures than the time per operation.
type Scenario = fn(Effort) -> Data;

const SCENARIOS: [(&str, Scenario); 6] = [
    ("S4", scaling::measure),
    ("T9", expiry::measure),
    ("T10", allocations::measure),
    ("T12", saturated::measure),
    ("T14", instructions::measure),
    ("T15", crowded::measure),
];

/// All targets that can be run. T11 is measured with T10; T13 by the gateway. S3 is in S1, S5 in T12, S6 in T1, S7 in T7
/// and T8.
pub(crate) const NAMES: [&str; 18] = [
    "T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T9", "T10", "T12", "T14", "T15", "S1", "S2",
    "S4", "S8", "S9",
];

pub(crate) fn measure(target: &str, effort: Effort) -> Data {
    let groups = timed().filter(|timed| timed.target == target);
    let timings = groups.map(|timed| {
        eprintln!("  {}", timed.title);
        let timings = compare(effort, &mut (timed.candidates)(effort.quick));
        Group { title: timed.title.to_owned(), timings }
    });
    let mut data = Data { groups: timings.collect(), ..Data::default() };
    for (_, scenario) in SCENARIOS.iter().filter(|(name, _)| *name == target) {
        data.append(scenario(effort));
    }
    data
}

/// Runs a test of the library that prints what it has counted: a figure for each line that `read` understands.
fn printed(mut command: Command, read: impl Fn(&str) -> Option<(String, f64)>) -> Data {
    let text = match command.current_dir(root()).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            eprintln!("  {command:?} cannot be run: {error}");
            String::new()
        }
    };
    let figure =
        |(what, value)| Figure { what, peer: "cloakroom".to_owned(), value, parts: Vec::new() };
    Data { figures: text.lines().filter_map(read).map(figure).collect(), ..Data::default() }
}

/// Longer than any run.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// More than is ever held.
const ROOMY: u64 = 1 << 40;

/// A shared payload of 1 KiB, so that no copy is measured.
fn payload() -> Bytes {
    static KIB: [u8; 1024] = [7; 1024];
    Bytes::from_static(&KIB)
}

/// 1 byte, for holding many.
fn small_payload() -> Bytes {
    Bytes::from_static(&[7])
}
