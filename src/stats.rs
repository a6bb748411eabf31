//! How a stash is doing.

use std::time::Duration;

use crate::error::Refusal;
use crate::stash::Stash;
use crate::sync::{Gauge, Mutex};

/// How a stash is doing, from [`Stash::stats`]: numbers of now, and totals since it was built.
///
/// Each number is exact when nobody uses the stash (but for the peak, see there); while it is in use each is from a moment of its own
/// during the call, so they can be off against each other by what happened meanwhile. Except that
/// the line's four are from one moment, and that
/// `stored = entries + delivered + expired + cleared` always holds: `delivered` is counted by that equation,
/// which costs puts and takes nothing. (It is right as long as `stats` is called once in every 2^37
/// puts.)
///
/// ```
/// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
/// let ticket = stash.try_put((), vec![7; 100]).unwrap();
/// stash.take(&ticket, &());
/// let stats = stash.stats();
/// assert_eq!((stats.stored, stats.delivered, stats.entries), (1, 1, 0));
/// assert!(stats.peak_bytes >= 100);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes charged now: [`Stash::used_bytes`].
    pub used_bytes: u64,
    /// The most bytes that were charged at once. What others charge while
    /// [`set_max_bytes`](Stash::set_max_bytes) moves the limit can leave it off for good, by as much as the
    /// limit moved.
    pub peak_bytes: u64,
    /// The limit, without the overflow.
    pub max_bytes: u64,
    /// The overflow above it.
    pub overflow_bytes: u64,
    /// Entries now, claimed ones and such as have expired unnoticed included.
    pub entries: u64,
    /// Claims that are not finished.
    pub claims: u64,

    /// Puts, reservations and bare permits in line.
    pub waiting: usize,
    /// What they ask for together.
    pub waiting_bytes: u64,
    /// What the head of the line asks for.
    pub head_bytes: Option<u64>,
    /// How long the head has waited, and so the longest that anybody has. `None` also for a bare permit, which
    /// has no clock.
    pub oldest_wait: Option<Duration>,

    /// Entries stored.
    pub stored: u64,
    /// Entries taken, or delivered by a claim.
    pub delivered: u64,
    /// Entries that went because their time was up.
    pub expired: u64,
    /// Entries that were cleared.
    pub cleared: u64,
    /// Claims made.
    pub claimed: u64,
    /// Claims put back.
    pub put_back: u64,
    /// Puts and reservations that were granted after a wait.
    pub waited: u64,
    /// Puts and reservations that were refused.
    pub refused: Refused,
}

/// Puts and reservations that were refused, by [reason](Refusal).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// [`Refusal::Full`]
    pub full: u64,
    /// [`Refusal::TooLarge`]
    pub too_large: u64,
    /// [`Refusal::TimedOut`]
    pub timed_out: u64,
    /// [`Refusal::Cancelled`]
    pub cancelled: u64,
    /// [`Refusal::Closed`]
    pub closed: u64,
    /// [`Refusal::OwnerFull`]
    pub owner_full: u64,
    /// [`Refusal::LineFull`]
    pub line_full: u64,
}

impl Refused {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { full, too_large, timed_out, cancelled, closed, owner_full, line_full } = self;
        full + too_large + timed_out + cancelled + closed + owner_full + line_full
    }
}

/// What is counted as it happens: nothing on the way of a put or a take that goes well.
pub(crate) struct Totals {
    pub(crate) expired: Gauge,
    pub(crate) cleared: Gauge,
    pub(crate) claimed: Gauge,
    pub(crate) claims_ended: Gauge,
    pub(crate) put_back: Gauge,
    pub(crate) waited: Gauge,
    refused: [Gauge; Refusal::ALL.len()],
    seen: Mutex<Seen>,
}

/// What `stats` remembers from one call to the next.
#[derive(Default)]
struct Seen {
    /// Of each shard, what its counter said, which wraps, and what that has come to.
    inserted: Vec<(u64, u64)>,
    delivered: u64,
}

/// The bits of a shard's counter.
const COUNTER: u64 = (1 << 37) - 1;

impl Totals {
    pub(crate) fn new() -> Self {
        Self {
            expired: Gauge::new(0),
            cleared: Gauge::new(0),
            claimed: Gauge::new(0),
            claims_ended: Gauge::new(0),
            put_back: Gauge::new(0),
            waited: Gauge::new(0),
            refused: [const { Gauge::new(0) }; Refusal::ALL.len()],
            seen: Mutex::new(Seen::default()),
        }
    }

    pub(crate) fn refused(&self, reason: Refusal) -> &Gauge {
        &self.refused[reason as usize]
    }
}

impl Seen {
    /// How many entries were ever stored: the sum of the shards' counters, unwrapped.
    fn stored(&mut self, counters: impl Iterator<Item = u64>) -> u64 {
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

impl Stats {
    pub(crate) fn of<P, O>(stash: &Stash<P, O>) -> Self {
        let (budget, slots, totals) = (stash.budget(), &stash.settings().slots, stash.totals());
        let now = stash.now();
        let line = budget.line();
        let refused = |reason| totals.refused(reason).get();
        let claims_ended = totals.claims_ended.get();
        let claimed = totals.claimed.get();
        let mut seen = totals.seen.lock();
        // In this order: what happens between two reads can make `delivered` too small, never too large, so
        // that it is not to be taken back later.
        let stored = seen.stored((0..).map_while(|shard| slots.inserted(shard)));
        let entries = slots.len() as u64;
        let (expired, cleared) = (totals.expired.get(), totals.cleared.get());
        seen.delivered = seen.delivered.max(stored.saturating_sub(entries + expired + cleared));
        let delivered = seen.delivered;
        drop(seen);
        // What was stored and went after the first read is among what is gone.
        let gone = delivered + expired + cleared;
        let stored = stored.max(gone);
        Self {
            used_bytes: stash.used_bytes(),
            peak_bytes: budget.peak(),
            max_bytes: stash.max_bytes(),
            overflow_bytes: budget.overflow(),
            entries: stored - gone,
            claims: claimed.saturating_sub(claims_ended),
            waiting: line.waiting,
            waiting_bytes: line.waiting_bytes,
            head_bytes: line.head,
            oldest_wait: line
                .head_since
                .map(|since| Duration::from_nanos(now.saturating_sub(since))),
            stored,
            delivered,
            expired,
            cleared,
            claimed,
            put_back: totals.put_back.get(),
            waited: totals.waited.get(),
            refused: Refused {
                full: refused(Refusal::Full),
                too_large: refused(Refusal::TooLarge),
                timed_out: refused(Refusal::TimedOut),
                cancelled: refused(Refusal::Cancelled),
                closed: refused(Refusal::Closed),
                owner_full: refused(Refusal::OwnerFull),
                line_full: refused(Refusal::LineFull),
            },
        }
    }
}
