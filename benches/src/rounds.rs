//! Runs candidates in turns. On a shared machine, times of different minutes do not compare; ratios within a
//! round do.
//!
//! Each round runs every candidate once, for about as long as every other, and starts with another one. A
//! ratio is taken within each round, then the median and the quartiles of the ratios. Rounds are many and
//! short, so that most of them end before another program needs the core.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Runs this many operations and returns how long they took.
type Run = Box<dyn FnMut(u64) -> Duration>;

/// A candidate.
pub(crate) struct Candidate {
    pub(crate) name: String,
    /// How much was held, where candidates are compared at several amounts.
    pub(crate) x: Option<u64>,
    state: State,
}

/// The entries that a round begins with can be many, so they are made when they are needed.
enum State {
    Unmade(Option<Box<dyn FnOnce() -> Run>>),
    Made(Run),
}

impl Candidate {
    pub(crate) fn new<R>(name: impl Into<String>, make: impl FnOnce() -> R + 'static) -> Self
    where
        R: FnMut(u64) -> Duration + 'static,
    {
        let make = || -> Run { Box::new(make()) };
        Self { name: name.into(), x: None, state: State::Unmade(Some(Box::new(make))) }
    }

    pub(crate) fn at(self, x: u64) -> Self {
        Self { x: Some(x), ..self }
    }

    pub(crate) fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub(crate) fn run(&mut self, operations: u64) -> Duration {
        if let State::Unmade(make) = &mut self.state {
            let make = make.take().expect("made once");
            self.state = State::Made(make());
        }
        match &mut self.state {
            State::Made(run) => run(operations),
            State::Unmade(_) => unreachable!("just made"),
        }
    }
}

/// The lengths of a measurement.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// For each candidate in each round.
    pub(crate) batch: Duration,
    /// A short run, to check that everything works.
    pub(crate) quick: bool,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { rounds: 201, batch: Duration::from_millis(2), quick: false };
    pub(crate) const QUICK: Self =
        Self { rounds: 15, batch: Duration::from_millis(1), quick: true };
}

/// A median, and how far the quartiles are from it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) q1: f64,
    pub(crate) median: f64,
    pub(crate) q3: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let at = |part: usize| values[(values.len() - 1) * part / 4];
        Self { q1: at(1), median: at(2), q3: at(3) }
    }
}

/// The results of one candidate, in nanoseconds per operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) name: String,
    pub(crate) x: Option<u64>,
    /// One per round, in the order of the rounds, the same for all candidates of a comparison.
    pub(crate) rounds: Vec<f64>,
}

impl Timing {
    pub(crate) fn spread(&self) -> Spread {
        Spread::of(self.rounds.clone())
    }

    /// The ratio to the base.
    pub(crate) fn ratio(&self, base: &Timing) -> Spread {
        Spread::of(self.rounds.iter().zip(&base.rounds).map(|(own, base)| own / base).collect())
    }
}

pub(crate) fn compare(effort: Effort, candidates: &mut [Candidate]) -> Vec<Timing> {
    let operations: Vec<u64> = candidates.iter_mut().map(|c| calibrate(effort, c)).collect();
    let mut timings: Vec<Timing> = candidates
        .iter()
        .map(|c| Timing { name: c.name.clone(), x: c.x, rounds: Vec::new() })
        .collect();
    for round in 0..effort.rounds {
        for step in 0..candidates.len() {
            let turn = (round + step) % candidates.len();
            // A thread that has just slept is not interrupted next.
            thread::sleep(effort.batch / 4);
            // Not counted: refills the caches that the other candidates have evicted.
            candidates[turn].run(operations[turn] / 8 + 1);
            let took = candidates[turn].run(operations[turn]);
            timings[turn].rounds.push(took.as_nanos() as f64 / operations[turn] as f64);
        }
    }
    timings
}

/// Finds how many operations fill a batch. Warms up, too.
fn calibrate(effort: Effort, candidate: &mut Candidate) -> u64 {
    let mut operations = 64;
    loop {
        // The shortest: other programs can only make it longer.
        let tries = (0..5).map(|_| candidate.run(operations));
        let took = tries.min().unwrap_or_default();
        if took * 4 >= effort.batch {
            let fit = effort.batch.as_secs_f64() / took.as_secs_f64();
            return ((operations as f64 * fit) as u64).max(1);
        }
        operations *= 2;
    }
}
