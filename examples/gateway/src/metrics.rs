//! What the gateway counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// A number that only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one gateway.
#[derive(Debug)]
pub struct Metrics {
    /// Queries that were accepted, whatever became of them.
    pub queries: Counter,
    /// Results stored at once.
    pub stored_at_once: Counter,
    /// Results stored after waiting in line.
    pub stored_after_wait: Counter,
    /// Results that waited in line in vain.
    pub gave_up: Counter,
    /// Results that would not fit into an empty stash.
    pub too_large: Counter,
    /// Results whose client went away while they stood in line.
    pub left_the_line: Counter,
    /// Results that went out as a file because the stash had no room.
    pub fallbacks: Counter,
    /// Queries that were refused because the stash had no room and there is no other way out.
    pub refusals: Counter,
    /// Results taken from the stash by their owner.
    pub taken: Counter,
    /// The most bytes seen in the stash.
    peak_bytes: AtomicU64,
    /// Microseconds in line, of those that stood in line to an end: stored or given up.
    waits: Mutex<Histogram<u64>>,
}

impl Metrics {
    pub fn new() -> Self {
        Metrics {
            queries: Counter::default(),
            stored_at_once: Counter::default(),
            stored_after_wait: Counter::default(),
            gave_up: Counter::default(),
            too_large: Counter::default(),
            left_the_line: Counter::default(),
            fallbacks: Counter::default(),
            refusals: Counter::default(),
            taken: Counter::default(),
            peak_bytes: AtomicU64::new(0),
            waits: Mutex::new(waits()),
        }
    }

    pub fn record_wait(&self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }

    /// A copy of the waits so far, in microseconds.
    pub fn waits(&self) -> Histogram<u64> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn record_used(&self, bytes: u64) {
        self.peak_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }
}

/// From a microsecond to an hour, to three significant digits.
fn waits() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are valid")
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
