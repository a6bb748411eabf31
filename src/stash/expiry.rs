//! Removes expired entries: on demand, and for sleepers, at the next deadline.
//!
//! A sleeper is a reaper, or a thread that blocks on the stash. It sleeps until the earliest deadline that its
//! sweep left, and never longer than one time to live. So a put need not wake it: an entry that the sweep did
//! not see read the clock after the sweep began, or was between reading the clock and lowering its bounds, a
//! few instructions without user code. Only a put whose thread is descheduled right there is swept late, by at
//! most as long as that lasted.
//!
//! A put with a shorter time to live wakes the sleepers, and so does a claim that is put back, which the sweep
//! has passed over. When the next sweep is due is one atomic, `next_sweep`, which both sides change by
//! read-modify-writes, so one comes first. A sleeper: begin (next sweep: never), sweep, lower `next_sweep` to
//! what the sweep says. A put: store, lower the bounds, lower `next_sweep` to the deadline, and wake if it was
//! later. If the put's step comes before the sleeper begins, the sweep finds the entry. If it comes between
//! begin and plan, the sleeper sees the earlier time when it plans. If it comes after the plan, the put sees
//! that the time is later than its own, and wakes.
//!
//! Several sleepers share `next_sweep`: one that begins hides from the others what it is about to see. It hands
//! that over when it leaves, by waking one of them.

use std::task::Waker;
use std::time::Duration;

use super::shared::Inner;
use crate::budget::Reclaim;
use crate::observe::Event;
use crate::slots::Nanos;

/// Says when a sleeper sweeps again.
pub(super) struct Plan {
    pub(super) until: Nanos,
    pub(super) wait: Duration,
    removed: usize,
}

impl<P, O> Inner<P, O> {
    /// Removes a batch of what has expired by `now`. Returns how many, and when to sweep again.
    pub(super) fn expire_batch(&self, now: Nanos) -> (usize, Nanos) {
        let (removed, next) = self.slots.expire(now);
        let (entries, bytes) = (removed.count(), removed.bytes());
        if entries > 0 {
            self.counters.expired.add(entries as u64);
            // First the bytes, then the payloads, whose drop is user code: nothing is held then.
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
        // Counted from the start of the sweep: the sweep and the user code that it ran have taken some of the
        // time.
        let until = self.alarms.next_sweep.plan(next.min(now.saturating_add(self.ttl)));
        let wait = until.saturating_sub(self.now());
        // An entry is due, but none could be removed: another thread is removing it. Not so short as to spin.
        let wait = if removed == 0 && until <= now { wait.max(1_000_000) } else { wait };
        Plan { until, wait: Duration::from_nanos(wait), removed }
    }

    /// Returns whether to sweep before the planned time: an entry expires sooner.
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
        // Registered before the sweep: a deadline that appears after it finds the waker.
        self.alarms.watch(sleeper, waker);
        let plan = self.sweep_and_plan();
        if plan.removed > 0 || self.is_due_earlier(&plan) { Duration::ZERO } else { plan.wait }
    }

    fn leave(&self, sleeper: usize) {
        self.alarms.leave(sleeper);
    }
}
