//! A claimed slot, from outside: the entry stays where it is while it is being delivered.

use std::borrow::Borrow;
use std::marker::PhantomData;

use super::bounds::{NEVER, Nanos};
use super::slot::{Entry, Fingerprint, Slot};
use super::{RemovedEntry, Shard, SlotMap};
use crate::ticket::Ticket;

/// Keeps a slot map alive.
///
/// # Safety
/// `map` is always the same map, wherever the handle is moved.
pub(crate) unsafe trait MapHandle<P, O> {
    fn map(&self) -> &SlotMap<P, O>;
}

/// A slot that has been claimed, with what keeps its map alive. It stays claimed until it is put back or
/// let go.
pub(crate) struct ClaimedSlot<K, P, O> {
    handle: K,
    location: u32,
    fingerprint: Fingerprint,
    /// Gives out `&P`, whatever thread it is on.
    entry: PhantomData<(P, fn() -> O)>,
}

impl<P, O, K: MapHandle<P, O>> ClaimedSlot<K, P, O> {
    /// # Safety
    /// The caller has just claimed the slot at `location` in the handle's map, with this fingerprint.
    pub(super) unsafe fn new(handle: K, location: u32, fingerprint: Fingerprint) -> Self {
        Self { handle, location, fingerprint, entry: PhantomData }
    }

    pub(crate) fn handle(&self) -> &K {
        &self.handle
    }

    fn find(&self) -> (&Shard<P, O>, u32, &Slot<P, O>) {
        let (shard, index) =
            self.handle.map().find(self.location).expect("a slot that was claimed");
        (shard, index, shard.segments.slot(index).expect("a slot that was claimed"))
    }

    fn entry(&self) -> &Entry<P, O> {
        // SAFETY: claimed, and ended by `self` by value only, which no borrow of it outlives.
        unsafe { self.find().2.claimed() }
    }

    pub(crate) fn payload(&self) -> &P {
        &self.entry().payload
    }

    /// Compares ticket and owner exactly, which the fingerprint does not. The owner's `Eq` is user code.
    pub(crate) fn is_for<Q>(&self, ticket: Ticket, owner: &Q) -> bool
    where
        O: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let entry = self.entry();
        entry.secret == ticket.secret() && entry.owner.borrow() == owner
    }

    pub(crate) fn charge(&self) -> u64 {
        self.find().2.charge_or_link()
    }

    pub(crate) fn deadline(&self) -> Nanos {
        self.find().2.deadline()
    }

    /// Whether the entry was put in with a deadline that was marked as capped.
    pub(crate) fn is_capped(&self) -> bool {
        self.find().2.is_capped()
    }

    /// Changes the deadline that it has when it is live again.
    pub(crate) fn renew(&mut self, deadline: Nanos) {
        self.find().2.set_deadline(deadline.min(NEVER - 1));
    }

    /// Makes it live again, as it was, for its ticket. `Err` if all entries were cleared meanwhile: then it can
    /// only be let go.
    pub(crate) fn put_back(self) -> Result<K, Self> {
        let deadline = self.deadline();
        let (shard, index, slot) = self.find();
        // SAFETY: claimed, and ended here if it returns `true`.
        if unsafe { slot.unclaim(self.fingerprint) } {
            // A sweep passes over what is claimed, and has perhaps raised the bounds.
            if let Some((_, bounds)) = shard.segments.location(index) {
                shard.lower_bounds(bounds, deadline);
            }
            Ok(self.handle)
        } else {
            Err(self)
        }
    }

    /// Takes the entry out. Its slot is free then.
    pub(crate) fn remove(self) -> (RemovedEntry<P, O>, K) {
        let (shard, index, slot) = self.find();
        let charge = slot.charge_or_link();
        // SAFETY: claimed, and ended here.
        let Entry { secret, owner, payload } = unsafe { slot.vacate() };
        shard.free.push(&shard.segments, index);
        self.handle.map().release_owner(self.fingerprint, secret, charge);
        (RemovedEntry { payload, owner, charge }, self.handle)
    }
}
