//! Stores entries in a sharded slot map and decides which caller gets each of them.
//!
//! It knows nothing of budgets. A ticket names the slot of its entry, so finding an entry is indexing and
//! costs the same however many are stored. A put takes a free slot from its thread's shard, whose cache lines
//! stay with that core. A removal goes to the slot wherever it is, and returns it to the slot's own shard.
//! All of it is lock-free, except the table of owner quotas.
//!
//! Two pieces of user code run here: the owner's `Hash`, before a slot is touched, and the owner's `Eq`, on a guarded
//! entry, which is put back if `Eq` panics. Callers drop payloads and owners, or the drop of a [`RemovedBatch`] does,
//! which holds nothing but its entries.

mod bounds;
mod claimed;
mod free_list;
mod owner_hash;
mod owner_quota;
mod segments;
mod slot;
mod sweep;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::mem::ManuallyDrop;

use crossbeam_utils::CachePadded;

#[cfg(not(cloakroom_loom))]
use self::bounds::Bound;
#[cfg(cloakroom_loom)]
pub(crate) use self::bounds::Bound;
pub(crate) use self::bounds::{NEVER, Nanos};
pub(crate) use self::claimed::{ClaimedSlot, MapHandle};
#[cfg(not(cloakroom_loom))]
use self::free_list::FreeList;
pub(crate) use self::free_list::POPS_MASK;
#[cfg(cloakroom_loom)]
pub(crate) use self::free_list::{FreeList, Links};
use self::owner_hash::OwnerHasher;
pub(crate) use self::owner_quota::OwnerKey;
use self::owner_quota::OwnerQuota;
use self::segments::{INDEX_BITS, MAX_SLOTS, Segments};
pub(crate) use self::slot::CAPPED;
use self::slot::{Entry, Fingerprint, Slot, SlotGuard};
#[cfg(cloakroom_loom)]
pub(crate) use self::sweep::RemovedBatch;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{load_for_cas, thread_number};
use crate::ticket::{Secret, Ticket};

/// The longest time to live, in nanoseconds.
///
/// It is a quarter of what the clock can count, so deadlines do not overflow for as long again.
pub(crate) const MAX_TTL: Nanos = 1 << 61;
/// The number of shards that the ticket's location bits beyond the index can name.
const MAX_SHARDS: usize = 1 << (u32::BITS - INDEX_BITS);
/// A shard may have this many slots, whatever the others have.
const RESERVE: u64 = 1024;

/// Maps tickets to entries.
pub(crate) struct SlotMap<P, O> {
    shards: Box<[CachePadded<Shard<P, O>>]>,
    hasher: OwnerHasher,
    /// Limits what one owner may hold, if it is limited.
    owners: Option<OwnerQuota>,
}

/// Owns the slots of a share of the threads.
struct Shard<P, O> {
    free: FreeList,
    /// Slots below this index have been used; the others never.
    next_unused: AtomicU64,
    /// Covers all segments.
    bound: Bound,
    segments: Segments<P, O>,
}

/// Holds an entry that was removed. The caller drops payload and owner when it holds nothing else.
pub(crate) struct RemovedEntry<P, O> {
    pub(crate) payload: P,
    pub(crate) owner: O,
    pub(crate) charge: u64,
}

/// Names a slot that this thread guards: its shard, its index there, its guard.
type GuardedSlot<'a, P, O> = (&'a Shard<P, O>, u32, SlotGuard<'a, P, O>);

/// Says what a removal by ticket found.
pub(crate) enum Removed<P, O> {
    Delivered(RemovedEntry<P, O>),
    /// The deadline had passed: the entry is removed all the same.
    Expired(RemovedEntry<P, O>),
}

impl<P, O> SlotMap<P, O> {
    /// The size of a slot: an entry's memory without what payload and owner point at.
    pub(crate) const ENTRY_BYTES: u64 = size_of::<Slot<P, O>>() as u64;

    /// Creates an empty map.
    ///
    /// `shards` is rounded up to a power of two, 64 at most.
    pub(crate) fn new(shards: usize, max_bytes_per_owner: Option<u64>) -> Self {
        let shards = shards.next_power_of_two().min(MAX_SHARDS);
        Self {
            shards: (0..shards).map(|_| CachePadded::new(Shard::new())).collect(),
            hasher: match max_bytes_per_owner {
                None => OwnerHasher::fast(),
                Some(_) => OwnerHasher::strong(),
            },
            owners: max_bytes_per_owner.map(OwnerQuota::new),
        }
    }

    /// Inserts an entry and returns its ticket.
    ///
    /// `deadline` may return a deadline that is marked as [`CAPPED`].
    ///
    /// # Errors
    ///
    /// Returns the payload if no slot is left: a shard has about 67 million.
    ///
    /// # Memory ordering
    ///
    /// Publishes the entry with Release: a guard, claim or sweep that finds it sees all of it.
    ///
    /// # Complexity
    ///
    /// O(1). Lock-free; a new segment is one zeroed allocation.
    #[inline(always)]
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
        // Read late, so that a sweep seldom runs between the clock and the bounds. Read before a slot is
        // touched, because the clock is user code.
        let marked = deadline();
        let deadline = (marked & !CAPPED).min(NEVER - 1);
        let marked = deadline | marked & CAPPED;
        // Step P1.
        let Some((number, index)) = self.allocate() else { return Err(payload) };
        let shard = &self.shards[number];
        let (slot, bounds) = shard.segments.location(index).expect("allocated");
        // SAFETY: just allocated.
        unsafe { slot.publish(Entry { secret, owner, payload }, fingerprint, marked, charge) };
        shard.lower_bounds(bounds, deadline);
        Ok(Ticket::new(location(number, index), secret))
    }

    /// Removes the entry of this ticket if `owner` owns it.
    ///
    /// Calls `record_expiry` before the slot is free if the deadline has passed.
    ///
    /// # Returns
    ///
    /// `None` if there is no such entry, another owner's entry, or one that another call has guarded or
    /// claimed.
    ///
    /// # Complexity
    ///
    /// O(1). Lock-free without owner quotas; with them it also locks one shard of their table.
    #[inline]
    pub(crate) fn remove<Q>(
        &self,
        ticket: Ticket,
        owner: &Q,
        now: Nanos,
        record_expiry: impl FnOnce(),
    ) -> Option<Removed<P, O>>
    where
        O: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let guarded = self.guard(ticket, owner)?;
        let expired = guarded.2.deadline() <= now;
        if expired {
            record_expiry();
        }
        let gone = self.take_out(guarded);
        Some(if expired { Removed::Expired(gone) } else { Removed::Delivered(gone) })
    }

    /// Claims the entry that the fingerprint of ticket and owner matches.
    ///
    /// The caller then compares them exactly, with [`ClaimedSlot::is_for`]: that can panic, and the entry
    /// must then be put back.
    pub(crate) fn claim<K, Q>(handle: K, ticket: Ticket, owner: &Q) -> Option<ClaimedSlot<K, P, O>>
    where
        K: MapHandle<P, O>,
        Q: Hash + ?Sized,
    {
        let map = handle.map();
        let fingerprint = map.fingerprint(ticket.secret(), owner);
        let (shard, index) = map.find(ticket.location())?;
        if !shard.segments.slot(index)?.claim(fingerprint) {
            return None;
        }
        // SAFETY: just claimed, in this handle's map.
        Some(unsafe { ClaimedSlot::new(handle, ticket.location(), fingerprint) })
    }

    /// Guards the slot of this ticket's entry if `owner` owns it.
    #[inline]
    fn guard<Q>(&self, ticket: Ticket, owner: &Q) -> Option<GuardedSlot<'_, P, O>>
    where
        O: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let secret = ticket.secret();
        let fingerprint = self.fingerprint(secret, owner);
        let (shard, index) = self.find(ticket.location())?;
        let guard = shard.segments.slot(index)?.guard(fingerprint)?;
        // The owner's `Eq` is user code: the entry is put back if `Eq` answers `false` (which takes a
        // collision of fingerprints) or panics.
        let guard = PutBack::new(guard);
        // Step T3.
        if !guard.guard.with(|entry| entry.secret == secret && entry.owner.borrow() == owner) {
            return None;
        }
        Some((shard, index, guard.keep()))
    }

    #[inline]
    fn take_out(&self, (shard, index, guard): GuardedSlot<'_, P, O>) -> RemovedEntry<P, O> {
        let (charge, fingerprint) = (guard.charge(), guard.fingerprint());
        let Entry { secret, owner, payload } = guard.vacate();
        shard.free.push(&shard.segments, index);
        self.release_owner(fingerprint, secret, charge);
        RemovedEntry { payload, owner, charge }
    }

    /// Counts the entries: exact while no call puts or removes.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.live()).sum()
    }

    /// Counts the entries that a shard has ever stored, modulo 2^37. Exact when [`len`](Self::len) is.
    ///
    /// # Returns
    ///
    /// `None` if there is no such shard.
    pub(crate) fn inserted(&self, shard: usize) -> Option<u64> {
        let shard = self.shards.get(shard)?;
        Some(u64::from(shard.unused_from()) + shard.free.pops())
    }

    /// Charges the owner's quota if `attempt` succeeds.
    ///
    /// It is one step for all calls that read the quota. `attempt` and `refuse` run under the quota's lock, so they must
    /// not wait, wake, or run user code.
    ///
    /// # Errors
    ///
    /// Returns `refuse` of what the owner holds, if the charge would exceed the quota.
    pub(crate) fn charge_owner<T, E>(
        &self,
        key: OwnerKey,
        bytes: u64,
        attempt: impl FnOnce() -> Result<T, E>,
        refuse: impl FnOnce(u64) -> E,
    ) -> Result<T, E> {
        match &self.owners {
            Some(owners) => owners.charge(key, bytes, attempt, refuse),
            None => attempt(),
        }
    }

    /// Guards an entry and restores it without lowering the bounds, as a sweep does. Returns whether it was guarded.
    #[cfg(cloakroom_loom)]
    pub(crate) fn guard_and_restore<Q>(&self, ticket: Ticket, owner: &Q) -> bool
    where
        O: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let slot =
            self.find(ticket.location()).and_then(|(shard, index)| shard.segments.slot(index));
        let fingerprint = self.fingerprint(ticket.secret(), owner);
        slot.and_then(|slot| slot.guard(fingerprint)).map(SlotGuard::restore).is_some()
    }

    /// Releases a charge that no entry has taken over.
    pub(crate) fn refund_owner(&self, key: OwnerKey, bytes: u64) {
        if let Some(owners) = &self.owners {
            owners.release(key, bytes);
        }
    }

    /// Returns the key of the owner's quota, if owners have quotas.
    pub(crate) fn owner_key<Q: Hash + ?Sized>(&self, owner: &Q) -> Option<OwnerKey> {
        self.owners.as_ref()?;
        // The key must equal the one that a removal computes from the slot.
        let secret = Secret::ZERO;
        Some(OwnerKey(self.fingerprint(secret, owner).unmixed(secret)))
    }

    /// Returns what one owner holds, in bytes.
    pub(crate) fn owner_used(&self, key: OwnerKey) -> u64 {
        self.owners.as_ref().map_or(0, |owners| owners.used(key))
    }

    /// Returns what one owner may hold, if that is limited.
    pub(crate) fn owner_limit(&self) -> Option<u64> {
        self.owners.as_ref().map(OwnerQuota::limit)
    }

    #[inline]
    fn release_owner(&self, fingerprint: Fingerprint, secret: Secret, charge: u64) {
        if let Some(owners) = &self.owners {
            owners.release(OwnerKey(fingerprint.unmixed(secret)), charge);
        }
    }

    /// Computes the fingerprint. The secret is random already: only the owner needs hashing, with the stash's
    /// key.
    #[inline]
    fn fingerprint<Q: Hash + ?Sized>(&self, secret: Secret, owner: &Q) -> Fingerprint {
        Fingerprint::new(self.hasher.hash(owner) ^ secret.low())
    }

    /// Allocates a slot for this thread alone: shard and index.
    ///
    /// It is a free slot of the thread's own shard if possible.
    #[inline]
    fn allocate(&self) -> Option<(usize, u32)> {
        let own = thread_number() & (self.shards.len() - 1);
        let shard = &self.shards[own];
        match shard.pop_free().or_else(|| shard.take_next_unused(Grow::No)) {
            Some(index) => Some((own, index)),
            None => self.allocate_elsewhere(own),
        }
    }

    /// Allocates a slot when the thread's own shard has no free one.
    ///
    /// The own shard grows if it is small, so that threads do not keep meeting at one shard's list. Otherwise
    /// slots that other shards have freed come first. So the slots in memory are about a quarter more than
    /// were live at once, and `RESERVE` for each shard, and a sixteenth of that, whichever threads put them
    /// (invariant 10).
    #[cold]
    fn allocate_elsewhere(&self, own: usize) -> Option<(usize, u32)> {
        let mask = self.shards.len() - 1;
        let from_own = || (0..=mask).map(|step| (own + step) & mask);
        let freed = |number: usize| Some((number, self.shards[number].pop_free()?));
        let grown =
            |number: usize| Some((number, self.shards[number].take_next_unused(Grow::Yes)?));
        let slots = |number: usize| u64::from(self.shards[number].unused_from());
        // A shard below this share is small: all the small ones together come to a quarter of the largest.
        let share = 4 * self.shards.len() as u64;
        let small = |beside| slots(own) < RESERVE || slots(own) * share < slots(beside);
        let own_or_freed = |number| {
            let own = if small(number) { grown(own) } else { None };
            own.or_else(|| freed(number))
        };
        from_own().find_map(own_or_freed).or_else(|| from_own().find_map(grown))
    }

    #[inline]
    fn find(&self, location: u32) -> Option<(&Shard<P, O>, u32)> {
        let shard = self.shards.get((location >> INDEX_BITS) as usize)?;
        Some((shard, location & ((1 << INDEX_BITS) - 1)))
    }
}

/// Encodes where a slot is, as a ticket stores it.
#[inline]
fn location(shard: usize, index: u32) -> u32 {
    (shard as u32) << INDEX_BITS | index
}

/// Says whether an allocation may install a new segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grow {
    Yes,
    No,
}

impl<P, O> Shard<P, O> {
    fn new() -> Self {
        Self {
            free: FreeList::new(),
            next_unused: AtomicU64::new(0),
            bound: Bound::new(),
            segments: Segments::new(),
        }
    }

    fn unused_from(&self) -> u32 {
        // ORDERING: Relaxed [next_unused.load]: which slots exist is known from the segment.
        self.next_unused.load(Ordering::Relaxed) as u32
    }

    #[inline]
    fn pop_free(&self) -> Option<u32> {
        self.free.pop(&self.segments)
    }

    fn live(&self) -> usize {
        let free = self.free.len(&self.segments);
        u64::from(self.unused_from()).saturating_sub(free) as usize
    }

    /// Takes a slot that was never used.
    fn take_next_unused(&self, grow: Grow) -> Option<u32> {
        // ORDERING: Acquire [next_unused.load_for_cas] pairs with [next_unused.take].
        let mut next_unused = load_for_cas(&self.next_unused, Ordering::Acquire);
        while next_unused < u64::from(MAX_SLOTS) {
            let index = next_unused as u32;
            if self.segments.slot(index).is_none() {
                if grow == Grow::No {
                    return None;
                }
                self.segments.grow(index);
            }
            // ORDERING: Release / Acquire [next_unused.take] pairs with [next_unused.load_for_cas]: the
            // thread that installs the next segment comes after the one that installed this segment, and so
            // after a sweep that did not see this one.
            match self.next_unused.compare_exchange_weak(
                next_unused,
                next_unused + 1,
                Ordering::Release,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(index),
                Err(moved) => next_unused = moved,
            }
        }
        None
    }

    /// Lowers the bounds over a published entry: put's steps 2 and 3 (see `bounds.rs`).
    #[inline]
    fn lower_bounds(&self, [block, segment]: [&Bound; 2], deadline: Nanos) {
        // Step P4.
        block.lower(deadline);
        // Step P5.
        segment.lower_if_above(deadline);
        self.bound.lower_if_above(deadline);
    }
}

/// Restores a guarded slot when it is dropped, unless it is kept.
struct PutBack<'a, P, O> {
    guard: ManuallyDrop<SlotGuard<'a, P, O>>,
}

impl<'a, P, O> PutBack<'a, P, O> {
    #[inline]
    fn new(guard: SlotGuard<'a, P, O>) -> Self {
        Self { guard: ManuallyDrop::new(guard) }
    }

    #[inline]
    fn keep(self) -> SlotGuard<'a, P, O> {
        let mut kept = ManuallyDrop::new(self);
        // SAFETY: taken once: `kept` is not used again, and not dropped.
        unsafe { ManuallyDrop::take(&mut kept.guard) }
    }
}

impl<P, O> Drop for PutBack<'_, P, O> {
    // Inlined into each take, it costs 3 % of the throughput of a full stash.
    #[cold]
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: taken once: this is the drop.
        let guard = unsafe { ManuallyDrop::take(&mut self.guard) };
        // A sweep that visited the slot meanwhile has left its deadline in the bounds.
        guard.restore();
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

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    /// Threads come and go, and each fills another shard: what was freed elsewhere is used first.
    #[test]
    fn memory_follows_what_was_live_at_once() {
        let map = SlotMap::<Vec<u8>, ()>::new(8, None);
        for _ in 0..8 {
            let fill = || {
                for _ in 0..30_000 {
                    let _ = map.insert((), Vec::new(), 1, || NEVER).unwrap();
                }
            };
            std::thread::scope(|scope| scope.spawn(fill).join().map(drop)).unwrap();
            drop(map.clear());
        }
        let slots: u32 = map.shards.iter().map(|shard| shard.unused_from()).sum();
        assert!(slots < 30_000 * 5 / 4 * 17 / 16 + 8 * RESERVE as u32, "{slots}");
    }

    /// However much another thread has left free, a thread that has no more than the reserve uses slots that
    /// only it uses.
    #[test]
    fn threads_do_not_meet_at_what_one_has_freed() {
        let map = SlotMap::<Vec<u8>, ()>::new(8, None);
        let insert = || map.insert((), Vec::new(), 1, || NEVER).unwrap().location() >> INDEX_BITS;
        let fill = |count| (0..count).map(|_| insert()).collect::<Vec<_>>();
        std::thread::scope(|scope| scope.spawn(|| fill(10 * RESERVE)).join().map(drop)).unwrap();
        drop(map.clear());
        for _ in 0..8 {
            let own = || ((thread_number() & 7) as u32, fill(RESERVE));
            let (own, used) = std::thread::scope(|scope| scope.spawn(own).join().unwrap());
            assert!(used.iter().all(|shard| *shard == own), "{own}: {:?}", used.last());
            // Other tests' threads are numbered, too: two of these may have the same shard.
            drop(map.clear());
        }
    }
}
