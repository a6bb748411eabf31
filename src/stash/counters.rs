//! Counts events as they happen; `stats.rs` reads the counts.

use crate::error::Refusal;
use crate::slots::POPS_MASK;
use crate::sync::{Mutex, StatCounter};

/// Counts refusals, waits, claims and removals. A put or a take that succeeds immediately adds nothing.
pub(super) struct Counters {
    pub(super) expired: StatCounter,
    pub(super) cleared: StatCounter,
    pub(super) unsent: StatCounter,
    pub(super) claimed: StatCounter,
    pub(super) claims_ended: StatCounter,
    pub(super) put_back: StatCounter,
    pub(super) waited: StatCounter,
    refused: [StatCounter; Refusal::ALL.len()],
    pub(super) seen: Mutex<Seen>,
}

/// Keeps what `stats` has read, from one call to the next.
#[derive(Default)]
pub(super) struct Seen {
    /// For each shard: the last value of its counter, which wraps, and the unwrapped total.
    inserted: Vec<(u64, u64)>,
    pub(super) delivered: u64,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            expired: StatCounter::new(0),
            cleared: StatCounter::new(0),
            unsent: StatCounter::new(0),
            claimed: StatCounter::new(0),
            claims_ended: StatCounter::new(0),
            put_back: StatCounter::new(0),
            waited: StatCounter::new(0),
            refused: [const { StatCounter::new(0) }; Refusal::ALL.len()],
            seen: Mutex::new(Seen::default()),
        }
    }

    pub(super) fn refused(&self, reason: Refusal) -> &StatCounter {
        &self.refused[reason as usize]
    }
}

impl Seen {
    /// Returns the number of entries ever stored: the sum of the shards' counters, unwrapped.
    pub(super) fn stored(&mut self, counters: impl Iterator<Item = u64>) -> u64 {
        let mut sum = 0;
        for (shard, counter) in counters.enumerate() {
            if shard == self.inserted.len() {
                self.inserted.push((0, 0));
            }
            let (seen, total) = &mut self.inserted[shard];
            *total += counter.wrapping_sub(*seen) & POPS_MASK;
            *seen = counter;
            sum += *total;
        }
        sum
    }
}
