//! Counts events as they happen; `stats.rs` reads the counts.

use crate::error::Refusal;
use crate::sync::{Mutex, StatCounter};

/// What is counted as it happens: nothing on the way of a put or a take that goes well.
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

/// What `stats` remembers from one call to the next.
#[derive(Default)]
pub(super) struct Seen {
    /// Of each shard, what its counter said, which wraps, and what that has come to.
    inserted: Vec<(u64, u64)>,
    pub(super) delivered: u64,
}

/// The bits of a shard's counter.
const COUNTER: u64 = (1 << 37) - 1;

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
    /// How many entries were ever stored: the sum of the shards' counters, unwrapped.
    pub(super) fn stored(&mut self, counters: impl Iterator<Item = u64>) -> u64 {
        let mut sum = 0;
        for (shard, counter) in counters.enumerate() {
            if shard == self.inserted.len() {
                self.inserted.push((0, 0));
            }
            let (seen, total) = &mut self.inserted[shard];
            *total += counter.wrapping_sub(*seen) & COUNTER;
            *seen = counter;
            sum += *total;
        }
        sum
    }
}
