//! The sharded slot map: payloads and who may have them. Knows nothing of budgets.
//!
//! A ticket says in which slot its entry is, so finding it is indexing, and costs the same whatever is
//! held. A put takes a free slot of its thread's shard, whose lines stay in its core's cache; a removal
//! goes to the slot wherever it is, and gives it back to its own shard. All of it is lock-free.
//!
//! The user's code that runs in here is the owner's `Hash`, before a slot is touched, and the owner's
//! `Eq`, on an entry that is won and put back if it panics. Payloads and owners are dropped by the callers,
//! or by [`Dead`], which holds nothing then but what it drops.

mod deadlines;
mod free_list;
mod segments;
mod slot;

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::mem;

use crossbeam_utils::CachePadded;
use foldhash::quality::FixedState;
use rand::Rng;

#[cfg(not(loom))]
use self::deadlines::Bound;
#[cfg(loom)]
pub(crate) use self::deadlines::Bound;
pub(crate) use self::deadlines::{NEVER, Nanos};
#[cfg(not(loom))]
use self::free_list::FreeList;
#[cfg(loom)]
pub(crate) use self::free_list::{FreeList, Links};
use self::segments::{INDEX_BITS, MAX_SLOTS, Segments};
use self::slot::{Entry, Fingerprint, Look, Slot, Won};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{contain_panic, guess, thread_number};
use crate::ticket::{Secret, Ticket};

/// As many as the bits of a ticket's place that are not the index in a shard.
const MAX_SHARDS: usize = 1 << (32 - 26);
/// A sweep hands over what it removed after about so many entries, so that no call is long. Fewer where a
/// program is interpreted.
const SWEEP_BATCH: usize = if cfg!(any(loom, miri)) { 2 } else { 1024 };

pub(crate) struct SlotMap<P, O> {
    shards: Box<[CachePadded<Shard<P, O>>]>,
    hasher: FixedState,
}

struct Shard<P, O> {
    free: FreeList,
    /// Slots below this index have been used; the others never.
    fresh: AtomicU64,
    /// Over all segments.
    bound: Bound,
    segments: Segments<P, O>,
}

/// What a removal by ticket found.
pub(crate) enum Removed<P, O> {
    Delivered {
        payload: P,
        owner: O,
        charge: u64,
    },
    /// It was there, and its time was up: it is removed all the same.
    Expired {
        payload: P,
        owner: O,
        charge: u64,
    },
}

impl<P, O> SlotMap<P, O> {
    /// What an entry takes in memory, besides what its payload and owner point at.
    pub(crate) const ENTRY_BYTES: u64 = size_of::<Slot<P, O>>() as u64;

    /// With `shards` shards, rounded up to a power of two, 64 at most.
    pub(crate) fn new(shards: usize) -> Self {
        let shards = shards.next_power_of_two().min(MAX_SHARDS);
        Self {
            shards: (0..shards).map(|_| CachePadded::new(Shard::new())).collect(),
            hasher: FixedState::with_seed(rand::rng().next_u64()),
        }
    }

    /// Puts an entry in and returns its ticket. `Err` if there is no slot left: each shard has some 67
    /// million.
    pub(crate) fn insert(
        &self,
        owner: O,
        payload: P,
        charge: u64,
        deadline: impl FnOnce() -> Nanos,
    ) -> Result<Ticket, P>
    where
        O: Hash,
    {
        let secret = Secret::random();
        let fingerprint = self.fingerprint(secret, &owner);
        // Late, so that a sweep seldom comes between the clock and the bounds; before a slot is touched,
        // because the clock is user code.
        let deadline = deadline().min(NEVER - 1);
        let Some((number, index)) = self.allocate() else { return Err(payload) };
        let shard = &self.shards[number];
        let (slot, bounds) = shard.segments.place(index).expect("allocated");
        // SAFETY: just allocated.
        unsafe { slot.publish(Entry { secret, owner, payload }, fingerprint, deadline, charge) };
        shard.lower_bounds(bounds, deadline);
        Ok(Ticket::new(place(number, index), secret))
    }

    /// Removes the entry that the ticket is for, if there is one and `owner` is its owner.
    pub(crate) fn remove<Q>(&self, ticket: Ticket, owner: &Q, now: Nanos) -> Option<Removed<P, O>>
    where
        O: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let secret = ticket.secret();
        let fingerprint = self.fingerprint(secret, owner);
        let (shard, index) = self.find(ticket.place())?;
        let won = shard.segments.slot(index)?.win(fingerprint)?;
        // The owner's `Eq` is user code: the entry goes back if it says no (which takes a collision of
        // fingerprints), and if it panics.
        let won = PutBack { shard, index, won: Some(won) };
        if !won.with(|entry| entry.secret == secret && entry.owner.borrow() == owner) {
            return None;
        }
        let won = won.keep();
        let charge = won.charge();
        let expired = won.deadline() <= now;
        let Entry { owner, payload, .. } = won.vacate();
        shard.free.push(&shard.segments, index);
        Some(if expired {
            Removed::Expired { payload, owner, charge }
        } else {
            Removed::Delivered { payload, owner, charge }
        })
    }

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

    /// Removes every entry that is there when it comes by.
    pub(crate) fn clear(&self) -> Dead<'_, P, O> {
        let mut dead = Dead::new(self);
        for (number, shard) in self.shards.iter().enumerate() {
            let used = shard.fresh_below();
            for segment in shard.segments.iter().take_while(|segment| segment.first < used) {
                for (index, slot) in (segment.first..used).zip(segment.slots) {
                    let Look::Live(fingerprint, _) = slot.look() else { continue };
                    if let Some(won) = slot.win(fingerprint) {
                        dead.add(place(number, index), won);
                    }
                }
            }
        }
        dead
    }

    /// How many entries there are: exact while nobody puts or removes.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.live()).sum()
    }

    /// The secret is random already: only the owner needs hashing, with the stash's key.
    #[inline]
    fn fingerprint<Q: Hash + ?Sized>(&self, secret: Secret, owner: &Q) -> Fingerprint {
        Fingerprint::new(self.hasher.hash_one(owner) ^ secret.low())
    }

    /// A slot for this thread alone: shard and index. A free one of its own shard if possible.
    #[inline]
    fn allocate(&self) -> Option<(usize, u32)> {
        let own = thread_number() & (self.shards.len() - 1);
        let shard = &self.shards[own];
        match shard.pop_free().or_else(|| shard.take_fresh(Grow::No)) {
            Some(index) => Some((own, index)),
            None => self.allocate_elsewhere(own),
        }
    }

    /// Before the shard grows, what others have freed is used: slots in memory are then as many as were
    /// live at once and a sixteenth more, whichever threads put them (invariant 10).
    #[cold]
    fn allocate_elsewhere(&self, own: usize) -> Option<(usize, u32)> {
        let mask = self.shards.len() - 1;
        let from_own = || (0..=mask).map(|step| (own + step) & mask);
        let freed = |number: usize| Some((number, self.shards[number].pop_free()?));
        let grown = |number: usize| Some((number, self.shards[number].take_fresh(Grow::Yes)?));
        from_own().find_map(freed).or_else(|| from_own().find_map(grown))
    }

    fn find(&self, place: u32) -> Option<(&Shard<P, O>, u32)> {
        let shard = self.shards.get((place >> INDEX_BITS) as usize)?;
        Some((shard, place & ((1 << INDEX_BITS) - 1)))
    }
}

/// Where a slot is, as a ticket says it.
fn place(shard: usize, index: u32) -> u32 {
    (shard as u32) << INDEX_BITS | index
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Grow {
    Yes,
    No,
}

impl<P, O> Shard<P, O> {
    fn new() -> Self {
        Self {
            free: FreeList::new(),
            fresh: AtomicU64::new(0),
            bound: Bound::new(),
            segments: Segments::new(),
        }
    }

    fn fresh_below(&self) -> u32 {
        // ORDERING: Relaxed [fresh.load]: which slots exist is known from the segment.
        self.fresh.load(Ordering::Relaxed) as u32
    }

    #[inline]
    fn pop_free(&self) -> Option<u32> {
        self.free.pop(&self.segments)
    }

    fn live(&self) -> usize {
        let free = self.free.len(&self.segments);
        u64::from(self.fresh_below()).saturating_sub(free) as usize
    }

    /// A slot that was never used.
    fn take_fresh(&self, grow: Grow) -> Option<u32> {
        // ORDERING: Acquire [fresh.guess] pairs with [fresh.take].
        let mut fresh = guess(&self.fresh, Ordering::Acquire);
        while fresh < u64::from(MAX_SLOTS) {
            let index = fresh as u32;
            if self.segments.slot(index).is_none() {
                if grow == Grow::No {
                    return None;
                }
                self.segments.grow(index);
            }
            // ORDERING: Release / Acquire [fresh.take] pairs with [fresh.guess]: who installs the next segment
            // comes after who installed this one, and so after a sweep that did not see this one.
            match self.fresh.compare_exchange_weak(
                fresh,
                fresh + 1,
                Ordering::Release,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(index),
                Err(moved) => fresh = moved,
            }
        }
        None
    }

    /// Put's steps 2 and 3 (see `deadlines.rs`), the entry being published.
    #[inline]
    fn lower_bounds(&self, [block, segment]: [&Bound; 2], deadline: Nanos) {
        block.lower(deadline);
        segment.lower_if_above(deadline);
        self.bound.lower_if_above(deadline);
    }

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
            Look::Free => {}
        }
    }
    left
}

/// A won slot that goes live again unless it is kept.
struct PutBack<'a, P, O> {
    shard: &'a Shard<P, O>,
    index: u32,
    won: Option<Won<'a, P, O>>,
}

impl<'a, P, O> PutBack<'a, P, O> {
    fn with<R>(&self, f: impl FnOnce(&Entry<P, O>) -> R) -> R {
        self.won.as_ref().expect("won until kept or dropped").with(f)
    }

    fn keep(mut self) -> Won<'a, P, O> {
        self.won.take().expect("won until kept or dropped")
    }
}

impl<P, O> Drop for PutBack<'_, P, O> {
    fn drop(&mut self) {
        if let Some(won) = self.won.take() {
            let deadline = won.deadline();
            won.restore();
            // A sweep may have come by meanwhile, and have raised the bounds over it.
            if let Some((_, bounds)) = self.shard.segments.place(self.index) {
                self.shard.lower_bounds(bounds, deadline);
            }
        }
    }
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

impl<P, O> fmt::Debug for SlotMap<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotMap").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<P, O> Drop for SlotMap<P, O> {
    fn drop(&mut self) {
        drop(self.clear());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Entries of one deadline in every shard, each shard ending in the middle of nothing: with a batch.
    #[test]
    fn a_sweep_that_fills_its_batch_says_that_there_is_more() {
        let map = SlotMap::<Vec<u8>, ()>::new(4);
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
        let map = SlotMap::<Vec<u8>, ()>::new(1);
        let ticket = map.insert((), Vec::new(), 1, || 5).unwrap();
        let (shard, index) = map.find(ticket.place()).unwrap();
        let fingerprint = map.fingerprint(ticket.secret(), &());
        let won = shard.segments.slot(index).unwrap().win(fingerprint).unwrap();
        assert_eq!(map.expire(7).1, 5, "it may be put back");
        drop(PutBack { shard, index, won: Some(won) });
        assert_eq!(map.expire(7).0.count(), 1);
    }

    /// Threads come and go, and each fills another shard: what was freed elsewhere is used first.
    #[test]
    fn memory_follows_what_was_live_at_once() {
        let map = SlotMap::<Vec<u8>, ()>::new(8);
        for _ in 0..8 {
            let fill = || {
                for _ in 0..10_000 {
                    let _ = map.insert((), Vec::new(), 1, || NEVER).unwrap();
                }
            };
            std::thread::scope(|scope| scope.spawn(fill).join().map(drop)).unwrap();
            drop(map.clear());
        }
        let slots: u32 = map.shards.iter().map(|shard| shard.fresh_below()).sum();
        assert!(slots < 2 * 10_000, "{slots}");
    }
}
