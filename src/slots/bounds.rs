//! Records which entries may have expired: lower bounds on deadlines, in three levels.
//!
//! A [`Bound`] stands over a block of slots, over the blocks of a segment, and over the segments of a shard.
//! Each bound is at most the earliest deadline below it. So a sweep visits only the parts whose bound has
//! passed; and a put, whose deadline is mostly later than those already there, mostly leaves bounds
//! unchanged.
//!
//! A sweep raises bounds from the top down, a put lowers them from the bottom up:
//!
//! | sweep of a bound that is due | put of an entry with deadline d |
//! |---|---|
//! | 1. set it to `NEVER` and `SWEEPING` (RMW) | 1. publish the entry |
//! | 2. visit what is below (bounds by an RMW each, slots by reading their state) | 2. lower the block's bound to d (always an RMW) |
//! | 3. lower it to the earliest that is left, clear `SWEEPING` | 3. lower the segment's, then the shard's, where they are above d |
//!
//! No entry is lost (invariant 9). Sweep's step 2 and put's step 2 are both read-modify-writes of the block's
//! bound, so one comes first:
//!
//! - If the put's is first, the sweep sees the entry, or d in the bound, and its step 3 leaves no more than
//!   d.
//! - If the sweep's is first, the put then sees what the sweep did before, above all its step 1 on the
//!   segment and the shard. So put's step 3 finds those bounds above d and lowers them, unless another thread
//!   already has.
//!
//! The same holds one level up for a put that found the segment's bound low enough and only read it: the
//! value it read was written by another thread's RMW, which came before or after the sweep's visit.
//!
//! A bound that is `SWEEPING` is not reliable yet: a second sweep does not stop there but visits what is
//! below for itself. It leaves raising the bound to the first sweep.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::load_for_cas;

/// Nanoseconds on the stash's clock.
pub(crate) type Nanos = u64;

/// The time that is later than any deadline.
pub(crate) const NEVER: Nanos = SWEEPING - 1;
/// Marks a bound that a sweep is between step 1 and step 3 of. The highest bit, above all deadlines.
const SWEEPING: u64 = 1 << 63;

/// Holds a lower bound on the deadlines below it.
#[derive(Debug)]
pub(crate) struct Bound(AtomicU64);

/// Says what a sweep finds when it visits a bound.
enum Visit {
    /// Nothing below can have expired; the bound.
    Later(Nanos),
    /// Visit what is below. `first`: raise the bound afterwards, with `finish`.
    Due { first: bool },
}

#[inline]
const fn earliest(bits: u64) -> Nanos {
    bits & !SWEEPING
}

impl Bound {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(NEVER))
    }

    /// Returns the bound without visiting it. `None`: it is not reliable now.
    pub(crate) fn peek(&self) -> Option<Nanos> {
        // ORDERING: Relaxed [bound.peek]: a bound that is due is visited by an RMW.
        let bits = load_for_cas(&self.0, Ordering::Relaxed);
        (bits & SWEEPING == 0).then_some(bits)
    }

    /// Calls `below` if the bound is due, and returns the earliest deadline that is left.
    ///
    /// `below` sweeps the slots and bounds below this one, and returns the earliest deadline that it left.
    pub(crate) fn sweep(&self, now: Nanos, below: impl FnOnce() -> Nanos) -> Nanos {
        match self.visit(now) {
            Visit::Later(bound) => bound,
            Visit::Due { first } => {
                let left = below();
                if first {
                    self.finish(left);
                }
                left
            }
        }
    }

    /// Performs sweep's step 1 if the bound is due, and the level above's step 2.
    ///
    /// It is an RMW even if the value stays the same.
    fn visit(&self, now: Nanos) -> Visit {
        let before = self.change(|bits| {
            // Step W1.
            let begin = bits & SWEEPING == 0 && bits <= now;
            if begin { NEVER | SWEEPING } else { bits }
        });
        if before & SWEEPING != 0 {
            Visit::Due { first: false }
        } else if before <= now {
            Visit::Due { first: true }
        } else {
            Visit::Later(before)
        }
    }

    /// Performs sweep's step 3: `left` is the earliest deadline that the sweep left below.
    fn finish(&self, left: Nanos) {
        // Step W3.
        self.change(|bits| earliest(bits).min(left));
    }

    /// Performs put's step 2: an RMW even if the bound is low enough already.
    #[inline]
    pub(crate) fn lower(&self, deadline: Nanos) {
        self.change(|bits| lowered(bits, deadline));
    }

    /// Performs put's step 3: only reads if the bound is low enough.
    #[inline]
    pub(crate) fn lower_if_above(&self, deadline: Nanos) {
        // ORDERING: Acquire [bound.observe] pairs with [bound.change]: the writer of this value may have come
        // after a sweep's visit, and then we must see what that sweep did one level up.
        let bits = self.0.load(Ordering::Acquire);
        if earliest(bits) > deadline {
            self.change_from(bits, |bits| lowered(bits, deadline));
        }
    }

    #[inline]
    fn change(&self, to: impl Fn(u64) -> u64) -> u64 {
        // ORDERING: Relaxed [bound.load_for_cas]: checked by the CAS.
        self.change_from(load_for_cas(&self.0, Ordering::Relaxed), to)
    }

    #[inline]
    fn change_from(&self, mut bits: u64, to: impl Fn(u64) -> u64) -> u64 {
        loop {
            // ORDERING: AcqRel / Relaxed [bound.change] pairs with itself and [bound.observe].
            match self.0.compare_exchange_weak(bits, to(bits), Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(before) => return before,
                Err(changed) => bits = changed,
            }
        }
    }
}

#[inline]
fn lowered(bits: u64, deadline: Nanos) -> u64 {
    earliest(bits).min(deadline) | (bits & SWEEPING)
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_of_two_sweeps_raises_the_bound() {
        let bound = Bound::new();
        bound.lower(10);
        assert!(matches!(bound.visit(9), Visit::Later(10)));
        assert!(matches!(bound.visit(10), Visit::Due { first: true }));
        assert!(matches!(bound.visit(0), Visit::Due { first: false }));
        bound.lower(30);
        bound.finish(20);
        assert!(matches!(bound.visit(19), Visit::Later(20)));
    }

    #[test]
    fn a_put_during_a_sweep_is_kept() {
        let bound = Bound::new();
        bound.lower(10);
        bound.visit(10);
        assert_eq!(bound.peek(), None);
        bound.lower_if_above(15);
        bound.finish(NEVER);
        assert_eq!(bound.peek(), Some(15));
    }
}
