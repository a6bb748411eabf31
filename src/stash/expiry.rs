//! Removes expired entries on demand, and at the next deadline for sleepers.
//!
//! A *sleeper* is a reaper, or a thread that blocks on the stash. After each sweep it sleeps until the earliest
//! deadline that the sweep has left, but never longer than one time to live (`ttl`).
//!
//! # A put with the stash's `ttl` wakes no sleeper
//!
//! An entry that the sweep has missed was put during or after the sweep, so its deadline is no earlier than one `ttl`
//! after the sweep began. The sleeper sweeps again by that time.
//!
//! One case is later. A producer reads the clock, then lowers the bounds, with no user code in between. If its thread
//! is descheduled between these two steps, a sweep can miss its entry, and is late for it by as long as that lasted.
//!
//! # A put with a shorter time to live wakes sleepers
//!
//! So does a claimer that puts its entry back, because sweeps skip claimed entries. The time of the next sweep is one
//! atomic, `next_sweep`. Both sides change it by read-modify-writes:
//!
//! ```text
//!   sleeper                                           producer
//!   1. begin:  next_sweep = never                     1. store the entry, lower its bounds
//!   2. sweep                                          2. lower next_sweep to the deadline;
//!   3. plan:   lower next_sweep to the time               if it was later: wake the sleepers
//!              that the sweep returned, sleep
//! ```
//!
//! The producer's step 2 comes at one of three times:
//!
//! - before `begin`: the sweep finds the entry;
//! - between `begin` and `plan`: `plan` returns the producer's earlier time;
//! - after `plan`: the producer finds a later time, and wakes the sleepers.
//!
//! # Several sleepers share `next_sweep`
//!
//! `begin` overwrites the time that another sleeper has planned. The sleeper that began then plans for both. When a
//! sleeper leaves, it wakes another one, which sweeps and plans again.

use std::task::Waker;
use std::time::Duration;

use super::shared::Inner;
use crate::budget::Reclaim;
use crate::observe::Event;
use crate::slots::{NEVER, Nanos};

/// Says when a sleeper sweeps again.
pub(super) struct Plan {
    pub(super) until: Nanos,
    pub(super) wait: Duration,
    removed: usize,
}

impl<P, O> Inner<P, O> {
    /// Removes a batch of entries that have expired at `now`.
    ///
    /// Returns how many, and when to sweep again.
    pub(super) fn expire_batch(&self, now: Nanos) -> (usize, Nanos) {
        let (removed, next) = self.slots.expire(now);
        let (entries, bytes) = (removed.count(), removed.bytes());
        if entries > 0 {
            self.counters.expired.add(entries as u64);
            // First the bytes, then the payloads, whose drop is user code: this thread holds nothing then.
            self.budget.release(bytes);
            drop(removed);
            self.observe(|| Event::Expired { entries, bytes });
        }
        (entries, next)
    }

    /// Sweeps once, for a sleeper.
    pub(super) fn sweep_and_plan(&self) -> Plan {
        self.alarms.next_sweep.begin();
        let now = self.now();
        let (removed, next) = self.expire_batch(now);
        // Counted from the start of the sweep: the sweep and the user code that it ran have used some of the time.
        let until = self.alarms.next_sweep.plan(next.min(now.saturating_add(self.ttl)));
        let wait = until.saturating_sub(self.now());
        // An entry is due, but none could be removed: another thread is removing it. A minimal wait avoids spinning.
        let wait = if removed == 0 && until <= now { wait.max(1_000_000) } else { wait };
        // A clock that has come to its end is a nanosecond before `NEVER`: nothing is due then, either.
        let wait = if until == NEVER { self.ttl } else { wait };
        Plan { until, wait: Duration::from_nanos(wait), removed }
    }

    /// Returns whether an entry expires before the planned time.
    pub(super) fn is_due_earlier(&self, plan: &Plan) -> bool {
        self.alarms.next_sweep.get() < plan.until
    }
}

impl<P: Send, O: Send> Reclaim for Inner<P, O> {
    fn reclaim(&self) -> bool {
        self.expire_batch(self.now()).0 > 0
    }

    fn enter(&self) -> usize {
        self.alarms.enter()
    }

    fn reclaim_before_sleep(&self, sleeper: usize, waker: &Waker) -> Duration {
        // Registered before the sweep, so that a deadline that appears after the sweep wakes it.
        self.alarms.watch(sleeper, waker);
        let plan = self.sweep_and_plan();
        if plan.removed > 0 || self.is_due_earlier(&plan) { Duration::ZERO } else { plan.wait }
    }

    fn leave(&self, sleeper: usize) {
        self.alarms.leave(sleeper);
    }
}
