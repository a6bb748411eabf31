//! The way in: the owner's account, then room in the budget, at once or in line.

use std::future::{Future, Pending};
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::options::PutOptions;
use super::shared::Inner;
use crate::budget::{Acquire, Permit};
use crate::error::{AcquireError, PutError, Refusal};
use crate::observe::Event;
use crate::slots::OwnerKey;
use crate::ticket::Ticket;

/// What a payload needs to be stored.
pub(super) struct Admitted<'a, P, O> {
    pub(super) permit: Permit<'a>,
    /// Of as many bytes as the permit; if owners have accounts.
    pub(super) account: Option<OwnerCharge<'a, P, O>>,
}

/// Bytes charged to an owner's account, given back on drop.
pub(super) struct OwnerCharge<'a, P, O> {
    inner: &'a Inner<P, O>,
    key: OwnerKey,
    bytes: u64,
}

impl<'a, P, O> OwnerCharge<'a, P, O> {
    /// Charges the account. What it holds that has expired is no reason to refuse. What the budget would
    /// refuse anyway is refused as that.
    pub(super) fn open(
        inner: &'a Inner<P, O>,
        key: OwnerKey,
        bytes: u64,
    ) -> Result<Self, AcquireError> {
        Self::charge(inner, key, bytes, || {
            let budget = &inner.budget;
            if budget.is_closed() {
                Refusal::Closed
            } else if bytes > budget.limit() {
                Refusal::TooLarge
            } else {
                Refusal::OwnerFull
            }
        })
    }

    /// As `open`, for bytes that the budget has granted already: neither a close nor a lowered limit takes
    /// them away.
    pub(super) fn open_for_granted(
        inner: &'a Inner<P, O>,
        key: OwnerKey,
        bytes: u64,
    ) -> Result<Self, AcquireError> {
        Self::charge(inner, key, bytes, || Refusal::OwnerFull)
    }

    fn charge(
        inner: &'a Inner<P, O>,
        key: OwnerKey,
        bytes: u64,
        reason: impl Fn() -> Refusal,
    ) -> Result<Self, AcquireError> {
        let slots = &inner.slots;
        let attempt = || {
            slots.charge_owner(key, bytes).map_err(|used| {
                let refusal = inner.budget.refusal(reason(), bytes);
                match refusal.reason {
                    Refusal::OwnerFull => {
                        AcquireError { used, limit: slots.owner_limit().unwrap_or(0), ..refusal }
                    }
                    _ => refusal,
                }
            })
        };
        inner.retry_after_expiry(attempt(), attempt)?;
        Ok(Self { inner, key, bytes })
    }

    /// The bytes are an entry's or a reservation's from now on, and it gives them back.
    pub(super) fn keep(mut self) -> OwnerKey {
        self.bytes = 0;
        self.key
    }
}

impl<P, O> Drop for OwnerCharge<'_, P, O> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.inner.slots.refund_owner(self.key, self.bytes);
        }
    }
}

impl<P, O> Inner<P, O> {
    /// Room for `charge` without waiting, in the owner's account too.
    #[cold]
    pub(super) fn admit_now(
        &self,
        key: Option<OwnerKey>,
        charge: u64,
    ) -> Result<Admitted<'_, P, O>, AcquireError> {
        let account = match key {
            None => None,
            Some(key) => Some(OwnerCharge::open(self, key, charge)?),
        };
        let acquire = || self.budget.try_acquire(charge);
        let permit = self.retry_after_expiry(acquire(), acquire)?;
        Ok(Admitted { permit, account })
    }

    /// Goes on from a first attempt, until it is refused for something else than a lack of room, or with
    /// everything swept that has expired: that is no reason to refuse (promise 9).
    pub(super) fn retry_after_expiry<T>(
        &self,
        first: Result<T, AcquireError>,
        mut attempt: impl FnMut() -> Result<T, AcquireError>,
    ) -> Result<T, AcquireError> {
        let (mut decided, mut swept_clean) = (first, false);
        loop {
            match decided {
                // Once more after a sweep that found nothing: another may just have taken it all.
                Err(refusal) if refusal.reason().is_lack_of_room() && !swept_clean => {
                    swept_clean = self.expire_batch(self.now()).0 == 0;
                    decided = attempt();
                }
                decided => return decided,
            }
        }
    }
}

impl<P, O: Hash> Inner<P, O> {
    /// Room for what needs nothing else; or what that was refused for, if it was asked for.
    #[inline]
    pub(super) fn admit_fast(&self, charge: u64) -> Result<Permit<'_>, Option<Refusal>> {
        if self.slots.owner_limit().is_some() {
            return Err(None);
        }
        self.budget.acquire_fast(charge).map_err(Some)
    }

    #[cold]
    pub(super) fn admit_slowly(
        &self,
        first: Option<Refusal>,
        owner: &O,
        charge: u64,
    ) -> Result<Admitted<'_, P, O>, AcquireError> {
        let budget = &self.budget;
        let Some(reason) = first else {
            return self.admit_now(self.slots.owner_key(owner), charge);
        };
        let first = Err(budget.refusal(reason, charge));
        let permit = self.retry_after_expiry(first, || budget.try_acquire(charge))?;
        Ok(Admitted { permit, account: None })
    }

    /// Stores what has been admitted. Fails only if there are no slots left.
    #[inline]
    pub(super) fn store(
        &self,
        admitted: Admitted<'_, P, O>,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> Result<Ticket, PutError<P>> {
        let Admitted { permit, account } = admitted;
        let bytes = permit.bytes();
        match self.insert(owner, payload, bytes, permit.tier(), options) {
            Ok(ticket) => {
                // The entry holds the bytes from now on.
                permit.forget();
                account.map(OwnerCharge::keep);
                Ok(ticket)
            }
            Err(payload) => {
                Err(self.refuse_put(payload, self.budget.refusal(Refusal::Full, bytes)))
            }
        }
    }
}

pin_project! {
    /// Waits to be admitted.
    pub(super) struct Admit<'a, P, O, U = Pending<()>> {
        inner: &'a Inner<P, O>,
        key: Option<OwnerKey>,
        charge: u64,
        step: Step,
        // What it is called when `until` completes.
        gives_up_as: Refusal,
        #[pin]
        acquire: Acquire<'a, U>,
        account: Option<OwnerCharge<'a, P, O>>,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It has not looked for room yet.
    Fresh,
    /// It is in line.
    Queued,
    /// It has been decided.
    Done,
}

impl<'a, P, O> Admit<'a, P, O> {
    pub(super) fn new(inner: &'a Inner<P, O>, key: Option<OwnerKey>, charge: u64) -> Self {
        let acquire = inner.budget.acquire(charge);
        let (step, gives_up_as) = (Step::Fresh, Refusal::Cancelled);
        Self { inner, key, charge, step, gives_up_as, acquire, account: None }
    }

    pub(super) fn until<U: Future>(self, until: U) -> Admit<'a, P, O, U> {
        let Self { inner, key, charge, step, gives_up_as, acquire, account } = self;
        let acquire = acquire.until(until);
        Admit { inner, key, charge, step, gives_up_as, acquire, account }
    }

    /// As `until`, for a deadline.
    pub(super) fn timed<U: Future>(mut self, elapsed: U) -> Admit<'a, P, O, U> {
        self.gives_up_as = Refusal::TimedOut;
        self.until(elapsed)
    }
}

impl<'a, P, O, U: Future> Admit<'a, P, O, U> {
    /// The step is moved on when something has come of it: a panic in user code changes nothing.
    fn poll_line(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Permit<'a>, AcquireError>> {
        let mut this = self.project();
        let (inner, step) = (*this.inner, *this.step);
        assert!(step != Step::Done, "polled after it had completed");
        if step == Step::Fresh {
            // Open already if the first poll panicked further down.
            if let (Some(key), None) = (*this.key, &this.account) {
                *this.account = Some(OwnerCharge::open(inner, key, *this.charge)?);
            }
            let acquire = || inner.budget.try_acquire(*this.charge);
            match inner.retry_after_expiry(acquire(), acquire) {
                Err(refusal) if refusal.reason() == Refusal::Full => {}
                decided => return Poll::Ready(decided),
            }
            this.acquire.set_since(inner.now());
        }
        let Poll::Ready(mut acquired) = this.acquire.as_mut().poll(cx) else {
            *this.step = Step::Queued;
            return Poll::Pending;
        };
        match &mut acquired {
            Ok(_) if step == Step::Queued => {
                inner.counters.waited.add(1);
                inner.observe(|| {
                    let since = this.acquire.since().unwrap_or(0);
                    let wait = Duration::from_nanos(inner.now().saturating_sub(since));
                    Event::Waited { bytes: *this.charge, wait }
                });
            }
            Err(refusal) if refusal.reason == Refusal::Cancelled => {
                refusal.reason = *this.gives_up_as;
            }
            _ => {}
        }
        Poll::Ready(acquired)
    }
}

impl<'a, P, O, U: Future> Future for Admit<'a, P, O, U> {
    type Output = Result<Admitted<'a, P, O>, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let acquired = ready!(self.as_mut().poll_line(cx));
        let this = self.project();
        *this.step = Step::Done;
        let account = this.account.take();
        Poll::Ready(acquired.map(|permit| Admitted { permit, account }))
    }
}

impl<P, O, U> std::fmt::Debug for Admit<'_, P, O, U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admit").field("acquire", &self.acquire).finish_non_exhaustive()
    }
}
