//! What removes many entries: sweeps of what has expired, and clears.
//!
//! A sweep looks only where a bound says that something is due (`deadlines.rs`), and hands over what it
//! removed in batches, so that no call is long.

use std::mem;

use super::deadlines::{NEVER, Nanos};
use super::slot::{Entry, Look, Slot, Won};
use super::{Shard, SlotMap, place};
use crate::sync::contain_panic;

/// A sweep hands over what it removed after about so many entries.
const SWEEP_BATCH: usize = if cfg!(any(loom, miri)) { 2 } else { 512 };

impl<P, O> SlotMap<P, O> {
    /// Removes entries whose deadline has come, a batch at most. Also returns a lower bound on the
    /// earliest deadline that is left: if that has come too, there may be more.
    pub(crate) fn expire(&self, now: Nanos) -> (Dead<'_, P, O>, Nanos) {
        let mut dead = Dead::new(self);
        let mut left = NEVER;
        for (number, shard) in self.shards.iter().enumerate() {
            if dead.is_full() {
                left = 0;
                break;
            }
            let earliest = match shard.bound.peek() {
                Some(later) if later > now => later,
                _ => shard.expire(number, now, &mut dead),
            };
            left = left.min(earliest);
        }
        (dead, left)
    }

    /// Removes every entry that is there when it comes by, and dooms those that are claimed.
    pub(crate) fn clear(&self) -> Dead<'_, P, O> {
        let mut dead = Dead::new(self);
        for (number, shard) in self.shards.iter().enumerate() {
            let used = shard.fresh_below();
            for segment in shard.segments.iter().take_while(|segment| segment.first < used) {
                for (index, slot) in (segment.first..used).zip(segment.slots) {
                    clear_slot(place(number, index), slot, &mut dead);
                }
            }
        }
        dead
    }
}

/// Goes by what it finds when it loses: who has just claimed the entry may put it back, and who has just put it
/// back leaves it there.
fn clear_slot<P, O>(place: u32, slot: &Slot<P, O>, dead: &mut Dead<'_, P, O>) {
    let mut look = slot.look();
    loop {
        match look {
            Look::Live(fingerprint, _) => match slot.win_or_look(fingerprint) {
                Ok(won) => return dead.add(place, won),
                Err(found) => look = found,
            },
            Look::Claimed => {
                if slot.doom() {
                    return;
                }
                look = slot.look();
            }
            Look::Free | Look::Busy(_) => return,
        }
    }
}

impl<P, O> Shard<P, O> {
    fn expire(&self, number: usize, now: Nanos, dead: &mut Dead<'_, P, O>) -> Nanos {
        self.bound.sweep(now, || {
            earliest(self.segments.iter(), dead, |segment, dead| {
                segment.bound.sweep(now, || {
                    earliest(segment.blocks(), dead, |(first, slots, bound), dead| {
                        bound.sweep(now, || expire_block(place(number, first), slots, now, dead))
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
    dead: &mut Dead<'_, P, O>,
    mut sweep: impl FnMut(T, &mut Dead<'_, P, O>) -> Nanos,
) -> Nanos {
    let mut left = NEVER;
    for part in parts {
        if dead.is_full() {
            return 0;
        }
        left = left.min(sweep(part, dead));
    }
    left
}

fn expire_block<P, O>(
    first: u32,
    slots: &[Slot<P, O>],
    now: Nanos,
    dead: &mut Dead<'_, P, O>,
) -> Nanos {
    let mut left = NEVER;
    for (place, slot) in (first..).zip(slots) {
        match slot.look() {
            Look::Live(fingerprint, deadline) if deadline <= now => {
                if let Some(won) = slot.win(fingerprint) {
                    dead.add(place, won);
                }
            }
            // Who has won it may put it back.
            Look::Live(_, deadline) | Look::Busy(deadline) => left = left.min(deadline),
            // Who has claimed it will lower the bounds when it is put back.
            Look::Claimed | Look::Free => {}
        }
    }
    left
}

/// Entries that a sweep has removed: out of everybody's reach, but still in their slots, which are linked
/// by their words. Dropping it frees the slots and drops payloads and owners, so nothing else may be
/// held by then.
pub(crate) struct Dead<'a, P, O> {
    map: &'a SlotMap<P, O>,
    /// Place + 1 of the first; 0: none.
    first: u64,
    count: usize,
    bytes: u64,
}

impl<'a, P, O> Dead<'a, P, O> {
    fn new(map: &'a SlotMap<P, O>) -> Self {
        Self { map, first: 0, count: 0, bytes: 0 }
    }

    fn add(&mut self, place: u32, won: Won<'_, P, O>) {
        if self.map.owners.is_some() {
            let secret = won.with(|entry| entry.secret);
            self.map.release_owner(won.fingerprint(), secret, won.charge());
        }
        self.bytes += won.charge();
        self.count += 1;
        let next = mem::replace(&mut self.first, u64::from(place) + 1);
        won.leave_won().set_word(next);
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

impl<P, O> Drop for Dead<'_, P, O> {
    fn drop(&mut self) {
        while let Some(place) = self.first.checked_sub(1) {
            let (shard, index) = self.map.find(place as u32).expect("a slot that was won");
            let slot = shard.segments.slot(index).expect("a slot that was won");
            self.first = slot.word();
            // SAFETY: `add` was given the slot as won, and left it so.
            let Entry { owner, payload, .. } = unsafe { slot.vacate() };
            shard.free.push(&shard.segments, index);
            // One by one: a second panic while the first unwinds could not be contained.
            contain_panic(|| drop(owner));
            contain_panic(|| drop(payload));
        }
    }
}

#[cfg(all(test, not(loom)))]
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
        let mut removed = 0;
        let left = loop {
            let (dead, left) = map.expire(5);
            removed += dead.count();
            if left > 5 {
                break left;
            }
        };
        assert_eq!((removed, left, map.len()), (4 * SWEEP_BATCH, NEVER, 0));
    }

    #[test]
    fn what_is_being_looked_at_is_not_forgotten_by_a_sweep() {
        let map = SlotMap::<Vec<u8>, ()>::new(1, None);
        let ticket = map.insert((), Vec::new(), 1, || 5).unwrap();
        let (shard, index) = map.find(ticket.place()).unwrap();
        let fingerprint = map.fingerprint(ticket.secret(), &());
        let won = shard.segments.slot(index).unwrap().win(fingerprint).unwrap();
        assert_eq!(map.expire(7).1, 5, "it may be put back");
        drop(PutBack::new(shard, index, won));
        assert_eq!(map.expire(7).0.count(), 1);
    }
}
