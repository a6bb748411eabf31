//! The gateway's counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::inline::Reason;
use crate::prometheus::Page;

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add_if(&self, condition: bool) {
        if condition {
            self.add_one();
        }
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one gateway.
#[derive(Debug)]
pub struct Metrics {
    /// Queries answered with an event stream, with any outcome.
    pub queries: Counter,
    /// Queries that were granted immediately.
    pub room_at_once: Counter,
    /// Queries that were granted after a wait.
    pub room_after_wait: Counter,
    /// Queries refused as full where none may wait.
    pub full: Counter,
    /// Queries whose wait timed out.
    pub timed_out: Counter,
    /// Results that exceed the limit of the stash or of their owner.
    pub too_large: Counter,
    /// Queries of an owner that held too much already.
    pub owner_full: Counter,
    /// Queries refused because the wait queue was full.
    pub queue_full: Counter,
    /// Requests for room that the engine of a shared stash did not answer.
    pub unreachable: Counter,
    /// Queries whose client disconnected while they waited.
    pub left_the_line: Counter,
    /// Results that exceeded their reservation.
    pub outgrown: Counter,
    /// Queries refused because the stash was closed for a shutdown.
    pub closed: Counter,
    /// Results stored.
    pub stored: Counter,
    /// Results sent as a file because the stash had refused them.
    pub fallbacks: Counter,
    /// Queries refused because the stash was full and files are not allowed.
    pub refusals: Counter,
    /// Downloads from the stash that began. A request for the head alone is none.
    pub downloads: Counter,
    /// Microseconds in the wait queue, of the waits that were granted or timed out.
    waits: Mutex<Histogram<u64>>,
}

impl Metrics {
    pub fn new() -> Self {
        Metrics {
            queries: Counter::default(),
            room_at_once: Counter::default(),
            room_after_wait: Counter::default(),
            full: Counter::default(),
            timed_out: Counter::default(),
            closed: Counter::default(),
            too_large: Counter::default(),
            owner_full: Counter::default(),
            queue_full: Counter::default(),
            unreachable: Counter::default(),
            left_the_line: Counter::default(),
            outgrown: Counter::default(),
            stored: Counter::default(),
            fallbacks: Counter::default(),
            refusals: Counter::default(),
            downloads: Counter::default(),
            waits: Mutex::new(waits()),
        }
    }

    pub fn note_no_room(&self, reason: Reason) {
        match reason {
            Reason::Full => &self.full,
            Reason::TimedOut => &self.timed_out,
            Reason::TooLarge => &self.too_large,
            Reason::OwnerFull => &self.owner_full,
            Reason::QueueFull => &self.queue_full,
            Reason::Closed => &self.closed,
            Reason::Unreachable => &self.unreachable,
        }
        .add_one();
    }

    pub fn record_wait(&self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }

    /// A copy of the waits so far, in microseconds.
    pub fn waits(&self) -> Histogram<u64> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn describe(&self, page: &mut Page) {
        page.counter(
            "gateway_queries_total",
            "Queries answered with an event stream.",
            self.queries.get(),
        );
        page.counters(
            "gateway_room_total",
            "Requests for room in the stash, by outcome. A result that outgrew its room and is not \
             stored counts once more.",
            "outcome",
            [
                ("at_once", self.room_at_once.get()),
                ("after_wait", self.room_after_wait.get()),
                ("full", self.full.get()),
                ("timed_out", self.timed_out.get()),
                ("too_large", self.too_large.get()),
                ("owner_full", self.owner_full.get()),
                ("queue_full", self.queue_full.get()),
                ("closed", self.closed.get()),
                ("unreachable", self.unreachable.get()),
                ("left", self.left_the_line.get()),
            ],
        );
        for (name, help, counter) in [
            ("gateway_stored_total", "Results stored.", &self.stored),
            ("gateway_outgrown_total", "Results larger than their room.", &self.outgrown),
            (
                "gateway_fallbacks_total",
                "Results published by link because the stash had no room.",
                &self.fallbacks,
            ),
            (
                "gateway_refusals_total",
                "Queries refused because the stash had no room.",
                &self.refusals,
            ),
            ("gateway_downloads_total", "Downloads from the stash that began.", &self.downloads),
        ] {
            page.counter(name, help, counter.get());
        }
        let waits = self.waits();
        let seconds = |micros: u64| micros as f64 / 1e6;
        page.summary(
            "gateway_wait_seconds",
            "Time in line, of those that stood in line to an end.",
            [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99)]
                .map(|(name, quantile)| (name, seconds(waits.value_at_quantile(quantile)))),
            waits.mean() * waits.len() as f64 / 1e6,
            waits.len(),
        );
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
