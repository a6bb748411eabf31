//! Claims a slot: the entry stays in it while it is being delivered.

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

/// Holds a claimed slot and a handle that keeps its map alive.
///
/// The slot stays claimed until this is put back or removed.
pub(crate) struct ClaimedSlot<K, P, O> {
    handle: K,
    location: u32,
    fingerprint: Fingerprint,
    /// It lends out `&P`, on any thread.
    entry: PhantomData<(P, fn() -> O)>,
}

impl<P, O, K: MapHandle<P, O>> ClaimedSlot<K, P, O> {
    /// Wraps a slot that was just claimed.
    ///
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
        // SAFETY: claimed; only calls that take `self` by value end the claim, and no borrow of it outlives
        // them.
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

    /// Returns whether the entry was inserted with a deadline that was marked as capped.
    pub(crate) fn is_capped(&self) -> bool {
        self.find().2.is_capped()
    }

    /// Sets the deadline that the entry has when it is live again.
    pub(crate) fn renew(&mut self, deadline: Nanos) {
        self.find().2.set_deadline(deadline.min(NEVER - 1));
    }

    /// Makes the slot live again, for the same ticket.
    ///
    /// # Errors
    ///
    /// Returns `self` if all entries were cleared meanwhile: the claimer can then only remove the entry.
    ///
    /// # Memory ordering
    ///
    /// Release, as for an insert.
    pub(crate) fn put_back(self) -> Result<K, Self> {
        let deadline = self.deadline();
        let (shard, index, slot) = self.find();
        // SAFETY: claimed, and ended here if it returns `true`.
        if unsafe { slot.unclaim(self.fingerprint) } {
            // A sweep passes over a claimed slot, and may have raised the bounds.
            if let Some((_, bounds)) = shard.segments.location(index) {
                shard.lower_bounds(bounds, deadline);
            }
            Ok(self.handle)
        } else {
            Err(self)
        }
    }

    /// Moves the entry out and frees its slot.
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
