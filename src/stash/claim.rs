//! What happens after put: a payload on its way out, still charged.

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
    /// Claims the payload for a delivery, if the ticket is good and `owner` is its owner. It stays where it
    /// is, and charged, until the [`Claim`] is finished; meanwhile nobody else can take or claim it. A claim
    /// that is dropped unfinished puts it back.
    ///
    /// # Errors
    ///
    /// There are none: as for [`take`](Self::take) all are `None`, claimed by another among them.
    ///
    /// # Complexity
    ///
    /// As [`take`](Self::take); the claim is also a handle, so it counts a reference.
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

/// What becomes of a claim that is dropped before it was finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDrop {
    /// It is put back, under the same ticket.
    #[default]
    PutBack,
    /// Its payload is dropped, and counts as delivered.
    Finish,
}

/// A payload that is being delivered, made by [`Stash::claim`]. It is charged until it is delivered, and can
/// be put back until then. It can be read in place: a claim is a `Deref` to the payload.
///
/// Exactly one thing becomes of it: it is delivered ([`into_inner`](Self::into_inner), or
/// [`into_bytes`](Self::into_bytes) with the last clone's drop), it is put back, or it goes, because its time
/// was up or the stash was cleared while it was claimed. Dropping it unfinished puts it back, unless
/// [`on_drop`](Self::on_drop) says otherwise.
///
/// A claim is also a handle of the stash. One that is leaked stays charged for good.
#[must_use = "a claim that is dropped puts its payload back"]
pub struct Claim<P, O> {
    /// Until it is finished.
    slot: Option<ClaimedSlot<Stash<P, O>, P, O>>,
    ticket: Ticket,
    /// If something was said.
    on_drop: Option<OnDrop>,
}

impl<P, O> Claim<P, O> {
    /// Of what the fingerprint of ticket and owner has found.
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

    /// Its ticket, which is good again once it is put back.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// What it is charged, in bytes: the payload's size when it was put, and the entry overhead.
    #[must_use]
    pub fn charge(&self) -> u64 {
        self.slot().charge()
    }

    /// Says what becomes of the claim if it is dropped before it was finished.
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
    /// `false`, and nothing changes, if the entry's time was up already: expired is expired. If the stash was cleared
    /// meanwhile, the entry is gone when it is put back, renewed or not.
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
        // A sweep that saw the entry before it was claimed goes by the old deadline, and only if that has come.
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

    /// Delivered: the payload, and its bytes are free.
    #[must_use]
    pub fn into_inner(mut self) -> P {
        let slot = self.slot.take().expect("a claim that is not finished");
        let (gone, stash) = slot.remove();
        stash.inner.counters.claims_ended.add(1);
        stash.inner.deliver(gone)
    }

    /// Puts the payload back, under the same ticket, for the same owner, until the same deadline, or the
    /// [renewed](Self::renew) one. Returns whether it is there again: if its time was up, or the stash was cleared while it was claimed, it has
    /// gone, and counts as expired or cleared.
    ///
    /// It needs no room, so it cannot fail for lack of it.
    pub fn put_back(mut self) -> bool {
        self.return_it()
    }

    /// As [`put_back`](Self::put_back), with a new time to live, if the options have one: see [`renew`](Self::renew).
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

    /// Delivered when it is dropped: the payload first, then its bytes are free.
    fn finish(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let (bytes, (gone, stash)) = (slot.charge(), slot.remove());
        stash.inner.counters.claims_ended.add(1);
        stash.inner.discard(gone);
        stash.inner.observe(|| Event::Delivered { bytes });
    }
}

/// What has been found by its fingerprint goes back if its owner is another, or if the owner's `Eq`, which is
/// user code, panics. It has not been claimed by then.
struct Found<P, O>(Option<ClaimedSlot<Stash<P, O>, P, O>>);

impl<P, O> Drop for Found<P, O> {
    fn drop(&mut self) {
        drop(self.0.take().map(give_back));
    }
}

/// Makes the entry live again; or lets it go, if its time is up or if it was cleared meanwhile.
fn give_back<P, O>(slot: ClaimedSlot<Stash<P, O>, P, O>) -> Option<Stash<P, O>> {
    let (mut now, bytes, deadline) = (0, slot.charge(), slot.deadline());
    // The clock is user code, and this may be a drop while another panic unwinds: without the time it is put
    // back, and the next sweep looks.
    contain_panic(|| now = slot.handle().inner.now());
    if deadline <= now {
        slot.handle().inner.counters.expired.add(1);
        let (gone, stash) = slot.remove();
        stash.inner.discard_expired(gone);
        return None;
    }
    match slot.put_back() {
        Ok(stash) => {
            // A reaper that looked meanwhile has passed over it.
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
        // User code: if it panics, nothing has been delivered, and the claim is still one that puts back.
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
