//! Decides whether a request gets its bytes, immediately or after a wait.
//!
//! The owner's quota is charged first, then the budget.
//!
//! There is one path. Every entry point makes a [`Request`] and attempts it; one that may wait turns a refused
//! attempt into an [`Admit`], which joins the wait queue without a second attempt.

use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::options::PutOptions;
use super::shared::Inner;
#[cfg(not(target_family = "wasm"))]
use crate::blocking::Elapsed;
use crate::budget::{Acquire, Permit, Tier, retry_after_expiry};
use crate::error::{AcquireError, PutError, Refusal};
use crate::give_up::{GiveUp, Never, Until};
use crate::maybe_owned::MaybeOwned;
use crate::observe::Event;
use crate::slots::OwnerKey;
use crate::sync::Arc;
use crate::ticket::Ticket;

/// Refers to what all handles share, borrowed from one of them or owned.
pub(super) type InnerRef<'a, P, O> = MaybeOwned<'a, Arc<Inner<P, O>>>;

/// Holds what a payload needs to be stored.
pub(super) struct Admitted<'a, P, O> {
    pub(super) permit: Permit<'a>,
    /// As many bytes as the permit's, if owners have quotas.
    pub(super) owner_charge: Option<OwnerCharge<'a, P, O>>,
}

/// Holds bytes charged to an owner's quota, and releases them on drop.
pub(super) struct OwnerCharge<'a, P, O> {
    inner: InnerRef<'a, P, O>,
    key: OwnerKey,
    bytes: u64,
}

impl<'a, P, O> OwnerCharge<'a, P, O> {
    /// Charges the quota of a request that is going to wait.
    fn open(inner: &InnerRef<'a, P, O>, key: OwnerKey, bytes: u64) -> Result<Self, AcquireError> {
        Self::charge(inner, key, bytes, |used| inner.refuse_for_quota(used, bytes))
    }

    /// Charges the quota as `open` does, for bytes that the budget has granted already.
    ///
    /// Neither a close nor a lowered limit takes these bytes away.
    pub(super) fn open_for_granted(
        inner: &InnerRef<'a, P, O>,
        key: OwnerKey,
        bytes: u64,
    ) -> Result<Self, AcquireError> {
        Self::charge(inner, key, bytes, |used| QuotaRefusal { reason: Refusal::OwnerFull, used })
    }

    fn charge(
        inner: &InnerRef<'a, P, O>,
        key: OwnerKey,
        bytes: u64,
        refuse: impl Fn(u64) -> QuotaRefusal,
    ) -> Result<Self, AcquireError> {
        let attempt = || inner.slots.charge_owner(key, bytes, || Ok(()), &refuse);
        let charged = inner.retry(attempt(), |refusal| refusal.reason, attempt);
        charged.map_err(|refusal| inner.quota_error(refusal, bytes))?;
        Ok(Self { inner: inner.clone(), key, bytes })
    }

    /// Hands the bytes to an entry or a reservation, which releases them.
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

/// Says why quota and budget refuse a request, and what the owner holds.
struct QuotaRefusal {
    reason: Refusal,
    /// Of an `OwnerFull`.
    used: u64,
}

impl QuotaRefusal {
    fn of_budget(reason: Refusal) -> Self {
        Self { reason, used: 0 }
    }
}

/// Describes a request for admission that has not joined the wait queue.
pub(super) struct Request<'a, P, O> {
    inner: InnerRef<'a, P, O>,
    /// The owner's quota, if owners have quotas.
    key: Option<OwnerKey>,
    charge: u64,
}

impl<'a, P, O> Request<'a, P, O> {
    #[inline]
    pub(super) fn new(inner: InnerRef<'a, P, O>, key: Option<OwnerKey>, charge: u64) -> Self {
        Self { inner, key, charge }
    }

    /// Admits the request immediately, or refuses it. Expired entries are no reason to refuse (invariant 9).
    #[inline(always)]
    pub(super) fn attempt(&self) -> Result<Admitted<'a, P, O>, AcquireError> {
        match self.key {
            None => Ok(Admitted { permit: self.acquire()?, owner_charge: None }),
            Some(key) => self.attempt_for(key),
        }
    }

    #[cold]
    fn attempt_for(&self, key: OwnerKey) -> Result<Admitted<'a, P, O>, AcquireError> {
        let permit = match &self.inner {
            MaybeOwned::Borrowed(inner) => inner.acquire_for(key, self.charge)?,
            MaybeOwned::Owned(inner) => inner.acquire_for(key, self.charge)?.into_owned(),
        };
        let owner_charge = OwnerCharge { inner: self.inner.clone(), key, bytes: self.charge };
        Ok(Admitted { permit, owner_charge: Some(owner_charge) })
    }

    #[inline(always)]
    fn acquire(&self) -> Result<Permit<'a>, AcquireError> {
        match &self.inner {
            MaybeOwned::Borrowed(inner) => inner.acquire(self.charge),
            MaybeOwned::Owned(inner) => inner.acquire(self.charge).map(Permit::into_owned),
        }
    }

    /// Admits the request, blocking this thread for at most `timeout`. `then` makes the future that is waited
    /// for, of what waits to be admitted.
    #[cfg(not(target_family = "wasm"))]
    pub(super) fn block_on<F: Future>(
        self,
        timeout: Duration,
        then: impl FnOnce(Admit<'a, P, O, Until<Never, Elapsed>>) -> F,
    ) -> F::Output {
        let inner = self.inner.clone();
        let mut admit = Admit::new(self);
        admit.step = Step::Refused;
        inner.budget.block_on(timeout, |elapsed| then(admit.timeout(elapsed)))
    }
}

impl<P, O> Inner<P, O> {
    /// Charges the budget.
    #[inline(always)]
    fn acquire(&self, bytes: u64) -> Result<Permit<'_>, AcquireError> {
        self.budget.try_acquire_or(bytes, || self.charge_after_expiry(bytes))
    }

    /// Charges the budget after a first attempt that found it full.
    ///
    /// The budget's own `try_acquire` does the same, through a weak reference to this stash, whose counts threads share.
    #[cold]
    fn charge_after_expiry(&self, bytes: u64) -> Result<Tier, Refusal> {
        self.retry(Err(Refusal::Full), |reason| *reason, || self.budget.charge(bytes))
    }

    /// Charges quota and budget in one step.
    ///
    /// So a request that the budget refuses never makes another request of its owner see a full quota.
    fn acquire_for(&self, key: OwnerKey, bytes: u64) -> Result<Permit<'_>, AcquireError> {
        let acquire = || self.budget.acquire_fast(bytes).map_err(QuotaRefusal::of_budget);
        let refuse = |used| self.refuse_for_quota(used, bytes);
        let attempt = || self.slots.charge_owner(key, bytes, acquire, refuse);
        let decided = self.retry(attempt(), |refusal| refusal.reason, attempt);
        decided.map_err(|refusal| self.quota_error(refusal, bytes))
    }

    /// Attempts again while expired entries can be removed: they are no reason to refuse.
    fn retry<T, E>(
        &self,
        first: Result<T, E>,
        reason: impl Fn(&E) -> Refusal,
        attempt: impl Fn() -> Result<T, E>,
    ) -> Result<T, E> {
        let is_lack_of_room =
            |refusal: &E| matches!(reason(refusal), Refusal::Full | Refusal::OwnerFull);
        let reclaim = || self.expire_batch(self.now()).0 > 0;
        retry_after_expiry(first, is_lack_of_room, reclaim, attempt)
    }

    /// Refuses a request beyond the quota, whose lock the caller holds.
    ///
    /// If the budget would refuse it anyway, the budget's reason is reported. Budget and quota are those of one moment:
    /// the owner's count does not change meanwhile.
    fn refuse_for_quota(&self, used: u64, bytes: u64) -> QuotaRefusal {
        let reason = self.budget.never_grants(bytes).unwrap_or(Refusal::OwnerFull);
        QuotaRefusal { reason, used }
    }

    /// Adds the numbers, which are for people.
    fn quota_error(&self, QuotaRefusal { reason, used }: QuotaRefusal, bytes: u64) -> AcquireError {
        let refusal = self.budget.refusal(reason, bytes);
        if reason == Refusal::OwnerFull {
            let limit = self.slots.owner_limit().unwrap_or(0);
            AcquireError { used, limit, ..refusal }
        } else {
            refusal
        }
    }
}

impl<P, O: Hash> Inner<P, O> {
    /// Stores what has been admitted.
    ///
    /// # Errors
    ///
    /// Returns the payload and the refusal if no slot is left.
    #[inline(always)]
    pub(super) fn store(
        &self,
        admitted: Admitted<'_, P, O>,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> Result<Ticket, PutError<P>> {
        let Admitted { permit, owner_charge } = admitted;
        let bytes = permit.bytes();
        match self.insert(owner, payload, bytes, permit.tier(), options) {
            Ok(ticket) => {
                // The entry holds the bytes from now on.
                permit.forget();
                owner_charge.map(OwnerCharge::keep);
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
    pub(super) struct Admit<'a, P, O, U = Never> {
        request: Request<'a, P, O>,
        step: Step,
        #[pin]
        acquire: Acquire<'a, U>,
        owner_charge: Option<OwnerCharge<'a, P, O>>,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Not attempted yet.
    Fresh,
    /// Attempted, and refused for lack of room: the next poll joins the queue.
    Refused,
    /// Queued.
    Queued,
    /// Decided.
    Done,
}

impl<'a, P, O> Admit<'a, P, O> {
    pub(super) fn new(request: Request<'a, P, O>) -> Self {
        let mut acquire = match &request.inner {
            MaybeOwned::Borrowed(inner) => inner.budget.acquire(request.charge),
            MaybeOwned::Owned(inner) => inner.budget.acquire_owned(request.charge),
        };
        // This future makes the attempt.
        acquire.skip_attempt();
        Self { request, step: Step::Fresh, acquire, owner_charge: None }
    }
}

impl<'a, P, O, U> Admit<'a, P, O, U> {
    pub(super) fn inner(&self) -> &InnerRef<'a, P, O> {
        &self.request.inner
    }

    pub(super) fn until<F: Future>(self, until: F) -> Admit<'a, P, O, Until<U, F>> {
        let Self { request, step, acquire, owner_charge } = self;
        Admit { request, step, acquire: acquire.until(until), owner_charge }
    }

    pub(super) fn timeout<F: Future>(self, sleep: F) -> Admit<'a, P, O, Until<U, F>> {
        let Self { request, step, acquire, owner_charge } = self;
        Admit { request, step, acquire: acquire.timeout(sleep), owner_charge }
    }
}

impl<'a, P, O, U: GiveUp> Admit<'a, P, O, U> {
    /// Polls the admission by one step after another.
    ///
    /// It changes the step only after the work of the step: a panic in user code leaves it to the next poll.
    fn poll_admission(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Admitted<'a, P, O>, AcquireError>> {
        let mut this = self.project();
        let (request, inner) = (&*this.request, &this.request.inner);
        let queued = match *this.step {
            Step::Done => panic!("polled after it had completed"),
            Step::Queued => true,
            Step::Fresh | Step::Refused => false,
        };
        if *this.step == Step::Fresh {
            match request.attempt() {
                Err(refusal) if refusal.reason == Refusal::Full => *this.step = Step::Refused,
                decided => return Poll::Ready(decided),
            }
        }
        if *this.step == Step::Refused {
            // From here on the request counts against the quota. Open already if an earlier poll panicked.
            if let (Some(key), None) = (request.key, &this.owner_charge) {
                *this.owner_charge = Some(OwnerCharge::open(inner, key, request.charge)?);
            }
            this.acquire.set_since(inner.now());
        }
        let Poll::Ready(acquired) = this.acquire.as_mut().poll(cx) else {
            *this.step = Step::Queued;
            return Poll::Pending;
        };
        if queued && acquired.is_ok() {
            inner.counters.waited.add(1);
            inner.observe(|| {
                let since = this.acquire.since().unwrap_or(0);
                let wait = Duration::from_nanos(inner.now().saturating_sub(since));
                Event::Waited { bytes: request.charge, wait }
            });
        }
        let owner_charge = this.owner_charge.take();
        Poll::Ready(acquired.map(|permit| Admitted { permit, owner_charge }))
    }
}

impl<'a, P, O, U: GiveUp> Future for Admit<'a, P, O, U> {
    type Output = Result<Admitted<'a, P, O>, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let decided = ready!(self.as_mut().poll_admission(cx));
        *self.project().step = Step::Done;
        Poll::Ready(decided)
    }
}

impl<P, O, U> std::fmt::Debug for Admit<'_, P, O, U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admit").field("acquire", &self.acquire).finish_non_exhaustive()
    }
}
