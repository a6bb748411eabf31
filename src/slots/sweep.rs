//! Removes many entries at once: sweeps of what has expired, and clears.
//!
//! A sweep visits only blocks whose bound says that an entry may be due (`bounds.rs`). It returns what it
//! removed in batches, so that no call takes long.

use std::mem;

use super::bounds::{NEVER, Nanos};
use super::slot::{Entry, Observed, Slot, SlotGuard};
use super::{Shard, SlotMap, location};
use crate::sync::contain_panic;

/// A sweep ends its batch after about this many entries.
const SWEEP_BATCH: usize = if cfg!(any(cloakroom_loom, miri)) { 2 } else { 512 };

impl<P, O> SlotMap<P, O> {
    /// Removes entries whose deadline has passed, one batch at most.
    ///
    /// Also returns a lower bound on the earliest deadline that is left: if that has passed too, there may be
    /// more.
    ///
    /// # Complexity
    ///
    /// O(shards, and slots in the blocks whose bound is due). Lock-free without owner quotas.
    pub(crate) fn expire(&self, now: Nanos) -> (RemovedBatch<'_, P, O>, Nanos) {
        let mut removed = RemovedBatch::new(self);
        let mut left = NEVER;
        for (number, shard) in self.shards.iter().enumerate() {
            if removed.is_full() {
                left = 0;
                break;
            }
            let earliest = match shard.bound.peek() {
                Some(later) if later > now => later,
                _ => shard.expire(number, now, &mut removed),
            };
            left = left.min(earliest);
        }
        (removed, left)
    }

    /// Removes every entry that it finds live, and dooms claimed ones.
    ///
    /// An entry that another call guards is left to that call.
    ///
    /// # Complexity
    ///
    /// O(slots in memory).
    pub(crate) fn clear(&self) -> RemovedBatch<'_, P, O> {
        let mut removed = RemovedBatch::new(self);
        for (number, shard) in self.shards.iter().enumerate() {
            let used = shard.unused_from();
            for segment in shard.segments.iter().take_while(|segment| segment.first < used) {
                for (index, slot) in (segment.first..used).zip(segment.slots) {
                    clear_slot(location(number, index), slot, &mut removed);
                }
            }
        }
        removed
    }
}

/// Clears one slot.
///
/// On a failed compare-exchange it retries from the observed state: a claimer that has just claimed the entry
/// may put it back, and the entry then stays in its slot. A busy slot is left to the holder of its guard.
fn clear_slot<P, O>(location: u32, slot: &Slot<P, O>, removed: &mut RemovedBatch<'_, P, O>) {
    let mut observed = slot.observe();
    loop {
        match observed {
            Observed::Live(fingerprint, _) => match slot.guard_or_observe(fingerprint) {
                Ok(guard) => return removed.add(location, guard),
                Err(found) => observed = found,
            },
            Observed::Claimed => {
                if slot.doom() {
                    return;
                }
                observed = slot.observe();
            }
            Observed::Free | Observed::Busy(_) => return,
        }
    }
}

impl<P, O> Shard<P, O> {
    fn expire(&self, number: usize, now: Nanos, removed: &mut RemovedBatch<'_, P, O>) -> Nanos {
        self.bound.sweep(now, || {
            earliest(self.segments.iter(), removed, |segment, removed| {
                segment.bound.sweep(now, || {
                    earliest(segment.blocks(), removed, |(first, slots, bound), removed| {
                        bound.sweep(now, || {
                            expire_block(location(number, first), slots, now, removed)
                        })
                    })
                })
            })
        })
    }
}

/// Returns the earliest deadline that `sweep` leaves in the `parts`.
///
/// Stops when the batch is full: parts that it did not visit count as due.
fn earliest<T, P, O>(
    parts: impl Iterator<Item = T>,
    removed: &mut RemovedBatch<'_, P, O>,
    mut sweep: impl FnMut(T, &mut RemovedBatch<'_, P, O>) -> Nanos,
) -> Nanos {
    let mut left = NEVER;
    for part in parts {
        if removed.is_full() {
            return 0;
        }
        left = left.min(sweep(part, removed));
    }
    left
}

fn expire_block<P, O>(
    first: u32,
    slots: &[Slot<P, O>],
    now: Nanos,
    removed: &mut RemovedBatch<'_, P, O>,
) -> Nanos {
    let mut left = NEVER;
    for (location, slot) in (first..).zip(slots) {
        match slot.observe() {
            Observed::Live(fingerprint, deadline) if deadline <= now => {
                let guard = match slot.guard_or_observe(fingerprint) {
                    Ok(guard) => guard,
                    // Another sweep may hold the guard, and restores a renewed entry without lowering the bounds.
                    Err(Observed::Live(_, deadline) | Observed::Busy(deadline)) => {
                        left = left.min(deadline);
                        continue;
                    }
                    Err(Observed::Claimed | Observed::Free) => continue,
                };
                // Another call may have claimed, renewed and put it back since it was observed.
                let deadline = guard.deadline();
                if deadline <= now {
                    removed.add(location, guard);
                } else {
                    // Step W6.
                    guard.restore();
                    left = left.min(deadline);
                }
            }
            // The holder of the guard may put the entry back.
            Observed::Live(_, deadline) | Observed::Busy(deadline) => left = left.min(deadline),
            // The claimer lowers the bounds when it puts the entry back.
            Observed::Claimed | Observed::Free => {}
        }
    }
    left
}

/// Holds entries that a sweep has removed, still in their slots.
///
/// No other thread can reach them; the slots are linked through `charge_or_link`. The drop frees the slots
/// and drops payloads and owners, so the caller must hold nothing else when it drops this.
pub(crate) struct RemovedBatch<'a, P, O> {
    map: &'a SlotMap<P, O>,
    /// The location of the first, plus 1; 0: none.
    first: u64,
    count: usize,
    bytes: u64,
}

impl<'a, P, O> RemovedBatch<'a, P, O> {
    fn new(map: &'a SlotMap<P, O>) -> Self {
        Self { map, first: 0, count: 0, bytes: 0 }
    }

    fn add(&mut self, location: u32, guard: SlotGuard<'_, P, O>) {
        if self.map.owners.is_some() {
            let secret = guard.with(|entry| entry.secret);
            self.map.release_owner(guard.fingerprint(), secret, guard.charge());
        }
        // Step W2.
        self.bytes += guard.charge();
        self.count += 1;
        let next = mem::replace(&mut self.first, u64::from(location) + 1);
        guard.leave_guarded().set_charge_or_link(next);
    }

    fn is_full(&self) -> bool {
        self.count >= SWEEP_BATCH
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the sum of the charges.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<P, O> Drop for RemovedBatch<'_, P, O> {
    fn drop(&mut self) {
        while let Some(location) = self.first.checked_sub(1) {
            let (shard, index) = self.map.find(location as u32).expect("a slot that was guarded");
            let slot = shard.segments.slot(index).expect("a slot that was guarded");
            self.first = slot.charge_or_link();
            // SAFETY: `add` was given the slot guarded, and left it so.
            let Entry { owner, payload, .. } = unsafe { slot.vacate() };
            shard.free.push(&shard.segments, index);
            // Contained one by one: a second panic while the first unwinds could not be contained.
            contain_panic(|| drop(owner));
            contain_panic(|| drop(payload));
        }
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::super::PutBack;
    use super::*;

    /// Stores entries with one deadline in every shard, one batch in each.
    #[test]
    fn a_sweep_that_fills_its_batch_says_that_there_is_more() {
        let map = SlotMap::<Vec<u8>, ()>::new(4, None);
        for _ in 0..4 {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..SWEEP_BATCH {
                        let _ = map.insert((), Vec::new(), 1, || 5).unwrap();
                    }
                });
            });
        }
        let mut count = 0;
        let left = loop {
            let (removed, left) = map.expire(5);
            count += removed.count();
            if left > 5 {
                break left;
            }
        };
        assert_eq!((count, left, map.len()), (4 * SWEEP_BATCH, NEVER, 0));
    }

    #[test]
    fn what_is_being_looked_at_is_not_forgotten_by_a_sweep() {
        let map = SlotMap::<Vec<u8>, ()>::new(1, None);
        let ticket = map.insert((), Vec::new(), 1, || 5).unwrap();
        let (shard, index) = map.find(ticket.location()).unwrap();
        let fingerprint = map.fingerprint(ticket.secret(), &());
        let guard = shard.segments.slot(index).unwrap().guard(fingerprint).unwrap();
        assert_eq!(map.expire(7).1, 5, "it may be put back");
        drop(PutBack::new(guard));
        assert_eq!(map.expire(7).0.count(), 1);
    }
}
