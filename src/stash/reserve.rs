//! Reserves room for a payload before the payload is produced.

use std::borrow::Borrow;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::Stash;
use super::admission::{Admit, Admitted, OwnerCharge, Request};
use super::options::PutOptions;
use crate::budget::Tier;
use crate::error::{AcquireError, Refusal};
use crate::give_up::{GiveUp, Never, Until};
use crate::maybe_owned::MaybeOwned;
use crate::slots::OwnerKey;
use crate::sync::Arc;
use crate::ticket::Ticket;

impl<P, O> Stash<P, O> {
    /// Reserves room for a payload of `bytes`, waiting until there is room.
    ///
    /// Bound the wait with [`Reserve::until`]. A reservation is charged. So a producer has its room before it
    /// starts, and memory is bounded while others wait.
    ///
    /// # Errors
    ///
    /// The future returns [`TooLarge`](Refusal::TooLarge), [`QueueFull`](Refusal::QueueFull) or
    /// [`Closed`](Refusal::Closed), as [`put`](Self::put) does.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the wait queue, or releases the bytes; the next waiter is granted.
    ///
    /// # Fairness
    ///
    /// In one wait queue with puts and bare permits: first come, first served, from the first poll on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::{AcquireError, Stash, Ticket};
    /// # async fn run_query() -> Vec<u8> { vec![7; 700] }
    /// async fn answer(stash: &Stash<Vec<u8>>) -> Result<Ticket, AcquireError> {
    ///     let room = stash.reserve(64 << 10).await?;
    ///     let result = run_query().await;
    ///     // Reserved room that the result does not need goes to the next waiter.
    ///     Ok(room.put("alice".into(), result).expect("no query gives more than 64 KiB"))
    /// }
    /// ```
    pub fn reserve(&self, bytes: u64) -> Reserve<'_, P, O> {
        Reserve::new(self.reserve_request(None, bytes))
    }

    /// Reserves room as [`reserve`](Self::reserve) does, without borrowing the stash: the future is
    /// `'static`.
    ///
    /// For spawned tasks, struct fields and services. Clones the handle.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve).
    ///
    /// # Cancel safety
    ///
    /// As [`reserve`](Self::reserve).
    ///
    /// ```
    /// # use cloakroom::{Reserve, Stash};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let stash: Stash<Vec<u8>> = Stash::builder().max_bytes(1_000).build().unwrap();
    /// let request: Reserve<'static, Vec<u8>, _> = stash.reserve_owned(700);
    /// let room = tokio::spawn(request).await.unwrap().unwrap();
    /// assert_eq!(room.bytes(), 700);
    /// # }
    /// ```
    pub fn reserve_owned(&self, bytes: u64) -> Reserve<'static, P, O> {
        self.reserve_owned_for_key(None, bytes)
    }

    /// Reserves room for a payload of `bytes` now. Never waits.
    ///
    /// # Errors
    ///
    /// [`Full`](Refusal::Full), [`TooLarge`](Refusal::TooLarge), [`Closed`](Refusal::Closed), as
    /// [`try_put`](Self::try_put).
    pub fn try_reserve(&self, bytes: u64) -> Result<Reservation<P, O>, AcquireError> {
        self.reserve_now(None, bytes)
    }

    /// Reserves room for a payload of `bytes`, blocking this thread for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve), and [`TimedOut`](Refusal::TimedOut), or [`Full`](Refusal::Full) if
    /// the timeout is zero.
    ///
    /// # Fairness
    ///
    /// As [`reserve`](Self::reserve): in the same wait queue.
    #[cfg(not(target_family = "wasm"))]
    pub fn reserve_timeout(
        &self,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation<P, O>, AcquireError> {
        self.reserve_blocking(None, bytes, timeout)
    }

    fn reserve_now(
        &self,
        key: Option<OwnerKey>,
        bytes: u64,
    ) -> Result<Reservation<P, O>, AcquireError> {
        match self.reserve_request(key, bytes).attempt() {
            Ok(admitted) => Ok(Reservation::new(self.clone(), admitted)),
            Err(refusal) => Err(self.inner.record_refusal(refusal)),
        }
    }

    #[cfg(not(target_family = "wasm"))]
    fn reserve_blocking(
        &self,
        key: Option<OwnerKey>,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation<P, O>, AcquireError> {
        let request = self.reserve_request(key, bytes);
        match request.attempt() {
            Ok(admitted) => Ok(Reservation::new(self.clone(), admitted)),
            Err(refusal) if refusal.reason() == Refusal::Full && !timeout.is_zero() => {
                request.block_on(timeout, |admit| Reserve { admit })
            }
            Err(refusal) => Err(self.inner.record_refusal(refusal)),
        }
    }

    fn reserve_request(&self, key: Option<OwnerKey>, bytes: u64) -> Request<'_, P, O> {
        let charge = self.inner.charge_for(bytes);
        Request::new(MaybeOwned::Borrowed(&self.inner), key, charge)
    }

    fn reserve_owned_for_key(&self, key: Option<OwnerKey>, bytes: u64) -> Reserve<'static, P, O> {
        let inner = MaybeOwned::Owned(Arc::clone(&self.inner));
        Reserve::new(Request::new(inner, key, self.inner.charge_for(bytes)))
    }
}

/// Reserves room for one owner, where owners have a quota.
impl<P, O> Stash<P, O> {
    /// Reserves room as [`reserve`](Self::reserve) does, and charges it to this owner's quota from now on.
    ///
    /// # Errors
    ///
    /// As [`reserve`](Self::reserve), and [`OwnerFull`](Refusal::OwnerFull), immediately: an owner that holds
    /// too much does not delay the others.
    ///
    /// # Cancel safety
    ///
    /// As [`reserve`](Self::reserve).
    pub fn reserve_for<Q>(&self, owner: &Q, bytes: u64) -> Reserve<'_, P, O>
    where
        O: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let key = self.inner.slots.owner_key(owner);
        Reserve::new(self.reserve_request(key, bytes))
    }

    /// Reserves room as [`reserve_owned`](Self::reserve_owned) does, for this owner.
    ///
    /// # Errors
    ///
    /// As [`reserve_for`](Self::reserve_for).
    ///
    /// # Cancel safety
    ///
    /// As [`reserve`](Self::reserve).
    pub fn reserve_owned_for<Q>(&self, owner: &Q, bytes: u64) -> Reserve<'static, P, O>
    where
        O: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.reserve_owned_for_key(self.inner.slots.owner_key(owner), bytes)
    }

    /// Reserves room as [`try_reserve`](Self::try_reserve) does, for this owner.
    ///
    /// # Errors
    ///
    /// As [`try_reserve`](Self::try_reserve), and [`OwnerFull`](Refusal::OwnerFull).
    pub fn try_reserve_for<Q>(
        &self,
        owner: &Q,
        bytes: u64,
    ) -> Result<Reservation<P, O>, AcquireError>
    where
        O: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.reserve_now(self.inner.slots.owner_key(owner), bytes)
    }

    /// Reserves room as [`reserve_timeout`](Self::reserve_timeout) does, for this owner.
    ///
    /// # Errors
    ///
    /// As [`reserve_timeout`](Self::reserve_timeout), and [`OwnerFull`](Refusal::OwnerFull), immediately.
    #[cfg(not(target_family = "wasm"))]
    pub fn reserve_timeout_for<Q>(
        &self,
        owner: &Q,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation<P, O>, AcquireError>
    where
        O: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.reserve_blocking(self.inner.slots.owner_key(owner), bytes, timeout)
    }
}

/// Holds room for a payload that is not produced yet, made by [`Stash::reserve`].
///
/// Dropping it releases the room to the next waiter. It stays valid when the stash is [closed](Stash::close),
/// so that a producer can finish what it has begun. It is a handle of the stash too.
#[must_use = "a reservation that is dropped gives its room back at once"]
pub struct Reservation<P, O> {
    stash: Stash<P, O>,
    /// The largest payload that it may store, and the entry overhead.
    charge: u64,
    tier: Tier,
    /// The owner's quota that is charged as much, if it was made for an owner.
    key: Option<OwnerKey>,
}

impl<P, O> Reservation<P, O> {
    fn new(stash: Stash<P, O>, admitted: Admitted<'_, P, O>) -> Self {
        let Admitted { permit, owner_charge } = admitted;
        let (charge, tier) = (permit.bytes(), permit.tier());
        permit.forget();
        Self { stash, charge, tier, key: owner_charge.map(OwnerCharge::keep) }
    }

    /// Returns the size of the largest payload that it has room for, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.charge.saturating_sub(self.stash.inner.entry_overhead)
    }

    /// Releases the room for all but a payload of `to` bytes. Does nothing if it has no more than that.
    pub fn shrink(&mut self, to: u64) {
        self.shrink_to(self.stash.inner.charge_for(to));
    }

    fn shrink_to(&mut self, charge: u64) {
        if let Some(excess) = self.charge.checked_sub(charge) {
            self.charge = charge;
            self.give_back(excess);
        }
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            if let Some(key) = self.key {
                self.stash.inner.slots.refund_owner(key, bytes);
            }
            self.stash.inner.budget.release(bytes);
        }
    }

    /// Stores the payload in this room, and releases what the payload does not need.
    ///
    /// # Errors
    ///
    /// [`TooLarge`](Refusal::TooLarge) if the payload is larger than the reservation;
    /// [`OwnerFull`](Refusal::OwnerFull) if what one owner may hold is limited, and this was not reserved for
    /// `owner` and does not fit its quota. The error has the payload and the reservation.
    pub fn put(self, owner: O, payload: P) -> Result<Ticket, ReservationError<P, O>>
    where
        O: Eq + Hash,
    {
        self.put_with(owner, payload, PutOptions::new())
    }

    /// Stores the payload as [`put`](Self::put) does, with options.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn put_with(
        mut self,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> Result<Ticket, ReservationError<P, O>>
    where
        O: Eq + Hash,
    {
        let charge = self.stash.inner.charge_of(&owner, &payload);
        if let Err(refusal) = self.fit(&owner, charge) {
            let refusal = self.stash.inner.record_refusal(refusal);
            return Err(ReservationError { payload, reservation: self, refusal });
        }
        match self.stash.inner.insert(owner, payload, charge, self.tier, options) {
            Ok(ticket) => {
                // The entry has taken over all of it.
                self.charge = 0;
                self.key = None;
                Ok(ticket)
            }
            Err(payload) => {
                let refusal = self.stash.inner.budget.refusal(Refusal::Full, charge);
                let refusal = self.stash.inner.record_refusal(refusal);
                Err(ReservationError { payload, reservation: self, refusal })
            }
        }
    }

    /// Charges the reservation to the owner, and shrinks it to `charge`. On an error it stays as it was.
    fn fit(&mut self, owner: &O, charge: u64) -> Result<(), AcquireError>
    where
        O: Hash,
    {
        if charge > self.charge {
            let refusal = self.stash.inner.budget.refusal(Refusal::TooLarge, charge);
            return Err(AcquireError { used: 0, limit: self.charge, ..refusal });
        }
        let key = self.stash.inner.slots.owner_key(owner);
        if key != self.key {
            let inner = MaybeOwned::Borrowed(&self.stash.inner);
            let open = |key| OwnerCharge::open_for_granted(&inner, key, charge);
            let opened = key.map(open).transpose()?;
            let opened = opened.map(OwnerCharge::keep);
            self.shrink_to(charge);
            if let Some(other) = self.key {
                self.stash.inner.slots.refund_owner(other, charge);
            }
            self.key = opened;
        }
        self.shrink_to(charge);
        Ok(())
    }

    /// Returns the stash whose room it is.
    #[must_use]
    pub fn stash(&self) -> &Stash<P, O> {
        &self.stash
    }
}

impl<P, O> Drop for Reservation<P, O> {
    fn drop(&mut self) {
        self.give_back(self.charge);
    }
}

impl<P, O> fmt::Debug for Reservation<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

pin_project! {
    /// Waits for a reservation, made by [`Stash::reserve`].
    ///
    /// It joins the wait queue when it is first polled, unless there is room immediately.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the wait queue, or releases the bytes; the next waiter is granted.
    #[must_use = "a reservation does nothing until it is polled"]
    pub struct Reserve<'a, P, O, U = Never> {
        #[pin]
        admit: Admit<'a, P, O, U>,
    }
}

impl<'a, P, O> Reserve<'a, P, O> {
    fn new(request: Request<'a, P, O>) -> Self {
        Self { admit: Admit::new(request) }
    }
}

impl<'a, P, O, U> Reserve<'a, P, O, U> {
    /// Ends the wait, as [`Cancelled`](Refusal::Cancelled), when `until` completes: as
    /// [`Put::until`](crate::Put::until).
    pub fn until<F: Future>(self, until: F) -> Reserve<'a, P, O, Until<U, F>> {
        Reserve { admit: self.admit.until(until) }
    }

    /// Ends the wait, as [`TimedOut`](Refusal::TimedOut), when `sleep` completes: as
    /// [`Put::timeout`](crate::Put::timeout).
    pub fn timeout<F: Future>(self, sleep: F) -> Reserve<'a, P, O, Until<U, F>> {
        Reserve { admit: self.admit.timeout(sleep) }
    }
}

impl<P, O, U: GiveUp> Future for Reserve<'_, P, O, U> {
    type Output = Result<Reservation<P, O>, AcquireError>;

    /// # Panics
    ///
    /// If it is polled again after it has completed.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut admit = self.project().admit;
        let admitted = ready!(admit.as_mut().poll(cx));
        let inner = admit.inner();
        Poll::Ready(match admitted {
            Ok(admitted) => Ok(Reservation::new(Stash { inner: Arc::clone(inner) }, admitted)),
            Err(refusal) => Err(inner.record_refusal(refusal)),
        })
    }
}

impl<P, O, U> fmt::Debug for Reserve<'_, P, O, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve").field("admit", &self.admit).finish_non_exhaustive()
    }
}

/// Holds a payload that a reservation could not store, and the reservation: [`into_parts`](Self::into_parts).
pub struct ReservationError<P, O> {
    payload: P,
    reservation: Reservation<P, O>,
    refusal: AcquireError,
}

impl<P, O> ReservationError<P, O> {
    /// Returns why the payload was refused.
    #[must_use]
    pub fn reason(&self) -> Refusal {
        self.refusal.reason()
    }

    /// Returns the numbers: the charge of the payload, and the reserved bytes.
    #[must_use]
    pub fn details(&self) -> &AcquireError {
        &self.refusal
    }

    /// Returns the payload and the reservation.
    pub fn into_parts(self) -> (P, Reservation<P, O>) {
        (self.payload, self.reservation)
    }

    /// Returns the payload and drops the reservation.
    #[must_use]
    pub fn into_payload(self) -> P {
        self.payload
    }
}

/// Writes the refusal without the payload, so that `P` need not be `Debug`.
impl<P, O> fmt::Debug for ReservationError<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReservationError").field(&self.refusal).finish()
    }
}

impl<P, O> fmt::Display for ReservationError<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.refusal {
            AcquireError { reason: Refusal::TooLarge, requested, limit, .. } => {
                write!(f, "larger than the reservation: {requested} bytes needed, {limit} reserved")
            }
            refusal => refusal.fmt(f),
        }
    }
}

impl<P, O> Error for ReservationError<P, O> {}

/// Drops the payload and the reservation, and keeps why the payload was refused: for `?`.
impl<P, O> From<ReservationError<P, O>> for AcquireError {
    fn from(error: ReservationError<P, O>) -> Self {
        error.refusal
    }
}
