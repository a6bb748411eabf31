//! Claims a payload for a delivery: it stays stored and charged until the claim ends.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;

use super::Stash;
use super::options::PutOptions;
use crate::clock::nanos;
use crate::observe::Event;
use crate::slots::{ClaimedSlot, MAX_TTL, Nanos, SlotMap};
use crate::sync::contain_panic;
use crate::ticket::Ticket;

impl<P, O> Stash<P, O> {
    /// Claims the payload for a delivery, if the ticket is good for this owner.
    ///
    /// The payload stays in its slot, and charged, until the [`Claim`] is finished; meanwhile no other call
    /// can take or claim it. A claim that is dropped unfinished puts it back.
    ///
    /// # Returns
    ///
    /// `None` as for [`take`](Self::take), and for an entry that is claimed already.
    ///
    /// # Memory ordering
    ///
    /// The put of the payload happens before this returns the claim, and so does an earlier claim's put back.
    ///
    /// # Complexity
    ///
    /// O(1), as [`take`](Self::take); the claim is also a handle, so it counts a reference.
    ///
    /// # Examples
    ///
    /// ```
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// let ticket = stash.try_put((), vec![7; 100]).unwrap();
    ///
    /// let claim = stash.claim(&ticket, &()).unwrap();
    /// assert_eq!(claim.len(), 100);
    /// assert!(stash.claim(&ticket, &()).is_none());
    /// drop(claim); // the connection broke
    ///
    /// let claim = stash.claim(&ticket, &()).unwrap();
    /// assert_eq!(claim.into_inner(), [7; 100]);
    /// assert_eq!(stash.used_bytes(), 0);
    /// ```
    pub fn claim<Q>(&self, ticket: &Ticket, owner: &Q) -> Option<Claim<P, O>>
    where
        O: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let now = self.inner.now();
        let slot = SlotMap::claim(self.clone(), *ticket, owner)?;
        Claim::new(slot, *ticket, owner, now)
    }
}

/// Selects what a claim does when it is dropped before it was finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDrop {
    /// Puts the payload back, under the same ticket.
    #[default]
    PutBack,
    /// Drops the payload, which counts as delivered.
    Finish,
}

/// Holds a payload that is being delivered, made by [`Stash::claim`].
///
/// The payload is charged until it is delivered, and can be put back until then. It can be read in place: a
/// claim is a `Deref` to the payload.
///
/// A claim ends in exactly one way. It is delivered ([`into_inner`](Self::into_inner), or
/// [`into_bytes`](Self::into_bytes) with the last clone's drop). Or it is put back. Or its entry is removed,
/// because its deadline has passed or the stash was cleared while it was claimed. Dropping it unfinished puts
/// it back, unless [`on_drop`](Self::on_drop) says otherwise.
///
/// A claim is also a handle of the stash. A leaked claim stays charged, and keeps the stash alive.
#[must_use = "a claim that is dropped puts its payload back"]
pub struct Claim<P, O> {
    /// `None` once it is finished.
    slot: Option<ClaimedSlot<Stash<P, O>, P, O>>,
    ticket: Ticket,
    /// `None` unless the caller set it.
    on_drop: Option<OnDrop>,
}

impl<P, O> Claim<P, O> {
    /// Makes a claim of a slot that the fingerprint of ticket and owner has matched.
    ///
    /// # Returns
    ///
    /// `None` if ticket or owner differ, or if the deadline has passed. The entry is then put back, or
    /// removed as expired.
    pub(crate) fn new<Q>(
        slot: ClaimedSlot<Stash<P, O>, P, O>,
        ticket: Ticket,
        owner: &Q,
        now: Nanos,
    ) -> Option<Self>
    where
        O: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut found = Found(Some(slot));
        if !found.0.as_ref()?.is_for(ticket, owner) {
            return None;
        }
        let slot = found.0.take()?;
        if slot.deadline() <= now {
            slot.handle().inner.counters.expired.add(1);
            let (gone, stash) = slot.remove();
            stash.inner.discard_expired(gone);
            return None;
        }
        let claim = Self { slot: Some(slot), ticket, on_drop: None };
        let stash = claim.slot().handle();
        stash.inner.counters.claimed.add(1);
        stash.inner.observe(|| Event::Claimed { bytes: claim.slot().charge() });
        Some(claim)
    }

    fn slot(&self) -> &ClaimedSlot<Stash<P, O>, P, O> {
        self.slot.as_ref().expect("a claim that is not finished")
    }

    /// Returns the claim's ticket, which is good again once the claim is put back.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Returns the claim's charge in bytes.
    ///
    /// It is the payload's size when it was put, and the entry overhead.
    #[must_use]
    pub fn charge(&self) -> u64 {
        self.slot().charge()
    }

    /// Selects what the claim does if it is dropped before it was finished.
    ///
    /// Every conversion honours it: a reader, body or stream that was not read to its end, and the last clone
    /// of [`into_bytes`](Self::into_bytes). Unless set, all of them put the payload back, except bytes, which
    /// cannot tell whether they were read: these are finished.
    pub fn on_drop(mut self, what: OnDrop) -> Self {
        self.on_drop = Some(what);
        self
    }

    /// Gives the entry a new time to live, counted from now. Returns whether it did.
    ///
    /// It takes effect when the claim is put back, in whatever way: meanwhile a claim does not expire. So a delivery
    /// that may take longer than the entry's time to live renews it at its start, or as it goes on. The new time may
    /// be shorter, too. It is cut to 73 years, and to the [overflow](crate::Builder::overflow)'s time to live if the
    /// entry uses the overflow.
    ///
    /// # Returns
    ///
    /// `false`, and nothing changes, if the entry's deadline has passed already. If the stash was cleared
    /// meanwhile, the entry is removed when it is put back, renewed or not.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::{ManualClock, Stash};
    /// # let clock = ManualClock::new();
    /// # let builder = Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).clock(clock.clone());
    /// let stash = builder.ttl(Duration::from_secs(60)).build()?;
    /// let ticket = stash.try_put((), vec![7; 100]).unwrap();
    ///
    /// let mut claim = stash.claim(&ticket, &()).unwrap();
    /// assert!(claim.renew(Duration::from_secs(600)));
    /// clock.advance(Duration::from_secs(90)); // a slow client, that goes away in the end
    /// drop(claim);
    /// assert!(stash.take(&ticket, &()).is_some());
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    pub fn renew(&mut self, ttl: Duration) -> bool {
        let slot = self.slot.as_mut().expect("a claim that is not finished");
        let now = slot.handle().inner.now();
        // A sweep that saw the entry before it was claimed uses the old deadline, and only if that has
        // passed.
        if slot.deadline() <= now {
            return false;
        }
        let mut ttl = nanos(ttl).min(MAX_TTL);
        if slot.is_capped() {
            ttl = ttl.min(slot.handle().inner.overflow_ttl);
        }
        slot.renew(now.saturating_add(ttl));
        true
    }

    /// Finishes the delivery: releases the bytes and returns the payload.
    #[must_use]
    pub fn into_inner(mut self) -> P {
        let slot = self.slot.take().expect("a claim that is not finished");
        let (gone, stash) = slot.remove();
        stash.inner.counters.claims_ended.add(1);
        stash.inner.deliver(gone)
    }

    /// Puts the payload back, under the same ticket, owner and deadline.
    ///
    /// If the claim was [renewed](Self::renew), the deadline is the new one. Putting back needs no room, so
    /// it cannot fail for lack of it.
    ///
    /// # Returns
    ///
    /// Whether the entry can be taken again. If its deadline has passed, or the stash was cleared while it
    /// was claimed, it is removed instead, and counts as expired or cleared.
    ///
    /// # Memory ordering
    ///
    /// It happens before the next [`take`](Stash::take) or [`claim`](Stash::claim) of the ticket.
    pub fn put_back(mut self) -> bool {
        self.return_it()
    }

    /// Puts the payload back, with the options' new time to live, if they have one.
    ///
    /// See [`renew`](Self::renew).
    ///
    /// # Returns
    ///
    /// Whether the entry can be taken again, as [`put_back`](Self::put_back) does.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::PutOptions;
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// # let ticket = stash.try_put((), vec![7; 100]).unwrap();
    /// let claim = stash.claim(&ticket, &()).unwrap();
    /// assert!(claim.put_back_with(PutOptions::new().ttl(Duration::from_secs(5))));
    /// ```
    pub fn put_back_with(mut self, options: PutOptions) -> bool {
        if let Some(ttl) = options.ttl {
            self.renew(ttl);
        }
        self.return_it()
    }

    fn return_it(&mut self) -> bool {
        let Some(slot) = self.slot.take() else { return false };
        let bytes = slot.charge();
        slot.handle().inner.counters.claims_ended.add(1);
        let Some(stash) = give_back(slot) else { return false };
        stash.inner.counters.put_back.add(1);
        stash.inner.observe(|| Event::PutBack { bytes });
        true
    }

    /// Finishes the delivery on a drop: drops the payload first, then releases its bytes.
    fn finish(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let (bytes, (gone, stash)) = (slot.charge(), slot.remove());
        stash.inner.counters.claims_ended.add(1);
        stash.inner.discard(gone);
        stash.inner.observe(|| Event::Delivered { bytes });
    }
}

/// Puts the entry back if ticket or owner differ, or if the owner's `Eq` panics.
///
/// `Eq` is user code.
///
/// The entry does not count as claimed while this holds it.
struct Found<P, O>(Option<ClaimedSlot<Stash<P, O>, P, O>>);

impl<P, O> Drop for Found<P, O> {
    fn drop(&mut self) {
        drop(self.0.take().map(give_back));
    }
}

/// Makes the entry live again, or removes it if it expired or was cleared meanwhile.
fn give_back<P, O>(slot: ClaimedSlot<Stash<P, O>, P, O>) -> Option<Stash<P, O>> {
    let (mut now, bytes, deadline) = (0, slot.charge(), slot.deadline());
    // The clock is user code, and this may be a drop while another panic unwinds: if the clock fails, the
    // entry is put back, and the next sweep checks its deadline.
    contain_panic(|| now = slot.handle().inner.now());
    if deadline <= now {
        slot.handle().inner.counters.expired.add(1);
        let (gone, stash) = slot.remove();
        stash.inner.discard_expired(gone);
        return None;
    }
    match slot.put_back() {
        Ok(stash) => {
            // A reaper that swept meanwhile has passed over the entry.
            stash.inner.alarms.notify_earlier(deadline);
            Some(stash)
        }
        Err(slot) => {
            slot.handle().inner.counters.cleared.add(1);
            let (gone, stash) = slot.remove();
            stash.inner.discard(gone);
            stash.inner.observe(|| Event::Cleared { entries: 1, bytes });
            None
        }
    }
}

impl<P, O> Claim<P, O>
where
    P: AsRef<[u8]> + Send + Sync + 'static,
    O: Send + 'static,
{
    /// Turns the claim into bytes that are delivered when their last clone is dropped.
    ///
    /// Until then the payload stays charged, wherever the clones are. Nothing is copied. With
    /// [`on_drop(OnDrop::PutBack)`](Self::on_drop) the payload is put back with the last clone instead.
    ///
    /// # Examples
    ///
    /// ```
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// # let ticket = stash.try_put((), vec![7; 100]).unwrap();
    /// let bytes = stash.claim(&ticket, &()).unwrap().into_bytes();
    /// let half = bytes.slice(..50);
    /// drop(bytes);
    /// assert!(stash.used_bytes() >= 100);
    /// drop(half);
    /// assert_eq!(stash.used_bytes(), 0);
    /// ```
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        // User code: if it panics, nothing has been delivered, and dropping the claim still puts the payload
        // back.
        let _ = self.as_ref();
        let what = self.on_drop.unwrap_or(OnDrop::Finish);
        Bytes::from_owner(self.on_drop(what))
    }
}

impl<P: AsRef<[u8]>, O> AsRef<[u8]> for Claim<P, O> {
    fn as_ref(&self) -> &[u8] {
        self.slot().payload().as_ref()
    }
}

impl<P, O> Deref for Claim<P, O> {
    type Target = P;

    fn deref(&self) -> &P {
        self.slot().payload()
    }
}

impl<P, O> Drop for Claim<P, O> {
    fn drop(&mut self) {
        match self.on_drop.unwrap_or_default() {
            OnDrop::PutBack => drop(self.return_it()),
            OnDrop::Finish => self.finish(),
        }
    }
}

impl<P, O> fmt::Debug for Claim<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("ticket", &self.ticket)
            .field("charge", &self.slot.as_ref().map(ClaimedSlot::charge))
            .field("on_drop", &self.on_drop.unwrap_or_default())
            .finish_non_exhaustive()
    }
}
