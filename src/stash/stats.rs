//! Reads the numbers and counters of a stash.

use std::time::Duration;

use super::Stash;
use crate::error::{AcquireError, Refusal};

impl<P, O> Stash<P, O> {
    /// Reads the numbers of now and the counters since the stash was built.
    ///
    /// # Complexity
    ///
    /// Reads some words for each shard and takes the wait queue's lock for a moment: cheap enough for once a
    /// second, under load.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(self)
    }

    /// Suggests how long to wait before trying again, from the wait queue's own progress.
    ///
    /// It is the time for which the head of the wait queue has waited so far: a request that joins now has to
    /// expect at least as much. For a `Retry-After` header, round it up to seconds.
    ///
    /// # Returns
    ///
    /// `None` if nothing allows an estimate: the refusal is not [transient](AcquireError::is_transient), it
    /// is about its owner only, no request waits, or the head is a bare permit's, which has no clock.
    ///
    /// # Complexity
    ///
    /// O(1). Takes the wait queue's lock for a moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::{ManualClock, Stash};
    /// # let clock = ManualClock::new();
    /// # let builder = Stash::<Vec<u8>, ()>::builder().max_bytes(1_000);
    /// # let stash = builder.entry_overhead(0).clock(clock.clone()).build().unwrap();
    /// # let _all = stash.try_reserve(1_000).unwrap();
    /// # let mut waiting = Box::pin(stash.reserve(10));
    /// # futures_lite::future::block_on(futures_lite::future::poll_once(&mut waiting));
    /// # clock.advance(Duration::from_millis(2_500));
    /// let refused = stash.try_put((), vec![7; 100]).unwrap_err();
    /// if let Some(wait) = stash.retry_after(refused.details()) {
    ///     println!("Retry-After: {}", wait.as_secs_f64().ceil());
    /// }
    /// # assert_eq!(stash.retry_after(refused.details()), Some(Duration::from_millis(2_500)));
    /// ```
    #[must_use]
    pub fn retry_after(&self, refusal: &AcquireError) -> Option<Duration> {
        if !refusal.is_transient() || refusal.reason() == Refusal::OwnerFull {
            return None;
        }
        let since = self.inner.budget.queue_stats().head_since?;
        Some(Duration::from_nanos(self.inner.now().saturating_sub(since)))
    }
}

/// Reports how a stash is doing, from [`Stash::stats`]: its current numbers and its counters.
///
/// The counters start when the stash is built.
///
/// Each number is exact when no call uses the stash. The numbers are read one at a time, so under concurrency
/// they may disagree by what happened during the call. There are two exceptions. The wait queue's four
/// numbers are one snapshot. And `stored = entries + delivered + expired + cleared + unsent` always holds:
/// `delivered` is computed from that equation, which costs puts and takes nothing. (It is right if `stats` is
/// called at least once in every 2^37 puts.)
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
    /// The most bytes that were charged at once. If other calls charge while
    /// [`set_max_bytes`](Stash::set_max_bytes) moves the limit, it can stay off by as much as the limit moved.
    ///
    /// While many threads use the stash, bytes are lent to them in batches, which count as charged. That can make
    /// it too high by a 32nd of the limit, but not too low.
    pub peak_bytes: u64,
    /// The limit in bytes, without the overflow.
    pub max_bytes: u64,
    /// The size of the overflow above it.
    pub overflow_bytes: u64,
    /// Entries now: claimed ones included, and expired ones that no call has removed yet.
    pub entries: u64,
    /// Claims that are not finished.
    pub claims: u64,

    /// Puts, reservations and bare permits in the wait queue.
    pub waiting: usize,
    /// The bytes that the waiting requests ask for together.
    pub waiting_bytes: u64,
    /// The bytes that the head of the wait queue asks for.
    pub head_bytes: Option<u64>,
    /// How long the head has waited: no request has waited longer. `None` also for a bare permit, which has
    /// no clock.
    pub oldest_wait: Option<Duration>,

    /// Entries stored.
    pub stored: u64,
    /// Entries taken, or delivered by a claim.
    pub delivered: u64,
    /// Entries that were removed because their deadline had passed.
    pub expired: u64,
    /// Entries that were cleared.
    pub cleared: u64,
    /// Entries that were removed because their ticket was [not sent](crate::Stash::unsent).
    pub unsent: u64,
    /// Claims made.
    pub claimed: u64,
    /// Claims put back.
    pub put_back: u64,
    /// Puts and reservations that were granted after a wait.
    pub waited: u64,
    /// Waits that ended because their future was dropped: of puts, reservations and bare permits.
    pub abandoned: u64,
    /// Puts and reservations that were refused.
    pub refused: Refused,
}

/// Counts refused puts and reservations by [reason](Refusal).
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
    /// [`Refusal::QueueFull`]
    pub queue_full: u64,
}

impl Refused {
    /// Returns the sum of all of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { full, too_large, timed_out, cancelled, closed, owner_full, queue_full } = self;
        full + too_large + timed_out + cancelled + closed + owner_full + queue_full
    }
}

impl Stats {
    fn of<P, O>(stash: &Stash<P, O>) -> Self {
        let (budget, slots, counters) =
            (&stash.inner.budget, &stash.inner.slots, &stash.inner.counters);
        let now = stash.inner.now();
        let queue = budget.queue_stats();
        let refused = |reason| counters.refused(reason).get();
        let claims_ended = counters.claims_ended.get();
        let claimed = counters.claimed.get();
        let mut seen = counters.seen.lock();
        // In this order: what happens between two reads can make `delivered` too small, never too large, so
        // it never has to decrease later.
        let stored = seen.stored((0..).map_while(|shard| slots.inserted(shard)));
        let entries = slots.len() as u64;
        let (expired, cleared) = (counters.expired.get(), counters.cleared.get());
        let unsent = counters.unsent.get();
        let others = expired + cleared + unsent;
        seen.delivered = seen.delivered.max(stored.saturating_sub(entries + others));
        let delivered = seen.delivered;
        drop(seen);
        // An entry that was stored and removed after the first read is among those that have gone.
        let gone = delivered + others;
        let stored = stored.max(gone);
        // Read before the peak, which only rises.
        let used_bytes = stash.used_bytes();
        Self {
            used_bytes,
            peak_bytes: budget.peak().max(used_bytes),
            max_bytes: stash.max_bytes(),
            overflow_bytes: budget.overflow(),
            entries: stored - gone,
            claims: claimed.saturating_sub(claims_ended),
            waiting: queue.waiting,
            waiting_bytes: queue.waiting_bytes,
            head_bytes: queue.head,
            oldest_wait: queue
                .head_since
                .map(|since| Duration::from_nanos(now.saturating_sub(since))),
            stored,
            delivered,
            expired,
            cleared,
            unsent,
            claimed,
            put_back: counters.put_back.get(),
            waited: counters.waited.get(),
            abandoned: budget.abandoned(),
            refused: Refused {
                full: refused(Refusal::Full),
                too_large: refused(Refusal::TooLarge),
                timed_out: refused(Refusal::TimedOut),
                cancelled: refused(Refusal::Cancelled),
                closed: refused(Refusal::Closed),
                owner_full: refused(Refusal::OwnerFull),
                queue_full: refused(Refusal::QueueFull),
            },
        }
    }
}
