//! What removes many entries: sweeps of what has expired, and clears.
//!
//! A sweep looks only where a bound says that something is due (`bounds.rs`), and hands over what it
//! removed in batches, so that no call is long.

use std::mem;

use super::bounds::{NEVER, Nanos};
use super::slot::{Entry, Observed, Slot, SlotGuard};
use super::{Shard, SlotMap, location};
use crate::sync::contain_panic;

/// A sweep hands over what it removed after about so many entries.
const SWEEP_BATCH: usize = if cfg!(any(cloakroom_loom, miri)) { 2 } else { 512 };

impl<P, O> SlotMap<P, O> {
    /// Removes entries whose deadline has come, a batch at most. Also returns a lower bound on the
    /// earliest deadline that is left: if that has come too, there may be more.
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

    /// Removes every entry that is there when it comes by, and dooms those that are claimed.
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

/// Goes by what it finds when it loses: who has just claimed the entry may put it back, and who has just put it
/// back leaves it there.
fn clear_slot<P, O>(location: u32, slot: &Slot<P, O>, removed: &mut RemovedBatch<'_, P, O>) {
    let mut look = slot.observe();
    loop {
        match look {
            Observed::Live(fingerprint, _) => match slot.guard_or_observe(fingerprint) {
                Ok(guard) => return removed.add(location, guard),
                Err(found) => look = found,
            },
            Observed::Claimed => {
                if slot.doom() {
                    return;
                }
                look = slot.observe();
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

/// The earliest deadline that `sweep` leaves in the `parts`. Stops when the batch is full; what was not
/// looked at is then as good as due.
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
                let Some(guard) = slot.guard(fingerprint) else { continue };
                // It may have been claimed, renewed and put back since it was observed.
                let deadline = guard.deadline();
                if deadline <= now {
                    removed.add(location, guard);
                } else {
                    guard.restore();
                    left = left.min(deadline);
                }
            }
            // Who has guard it may put it back.
            Observed::Live(_, deadline) | Observed::Busy(deadline) => left = left.min(deadline),
            // Who has claimed it will lower the bounds when it is put back.
            Observed::Claimed | Observed::Free => {}
        }
    }
    left
}

/// Entries that a sweep has removed: out of everybody's reach, but still in their slots, which are linked
/// by their words. Dropping it frees the slots and drops payloads and owners, so nothing else may be
/// held by then.
pub(crate) struct RemovedBatch<'a, P, O> {
    map: &'a SlotMap<P, O>,
    /// Place + 1 of the first; 0: none.
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

    /// The sum of the charges.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<P, O> Drop for RemovedBatch<'_, P, O> {
    fn drop(&mut self) {
        while let Some(location) = self.first.checked_sub(1) {
            let (shard, index) = self.map.find(location as u32).expect("a slot that was guard");
            let slot = shard.segments.slot(index).expect("a slot that was guard");
            self.first = slot.charge_or_link();
            // SAFETY: `add` was given the slot as guard, and left it so.
            let Entry { owner, payload, .. } = unsafe { slot.vacate() };
            shard.free.push(&shard.segments, index);
            // One by one: a second panic while the first unwinds could not be contained.
            contain_panic(|| drop(owner));
            contain_panic(|| drop(payload));
        }
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::super::PutBack;
    use super::*;

    /// Entries of one deadline in every shard, each shard ending in the middle of nothing: with a batch.
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
        drop(PutBack::new(shard, index, guard));
        assert_eq!(map.expire(7).0.count(), 1);
    }
}
