//! The way in: the owner's account, then room in the budget, at once or in line.

use std::future::{Future, Pending};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::budget::{Acquire, Permit};
use crate::error::{AcquireError, Refusal};
use crate::observer::Event;
use crate::slots::OwnerKey;
use crate::stash::Stash;

/// What a payload needs to be stored.
pub(crate) struct Admitted<'a, P, O> {
    pub(crate) permit: Permit<'a>,
    /// Of as many bytes as the permit; if owners have accounts.
    pub(crate) account: Option<Account<'a, P, O>>,
}

/// Bytes charged to an owner's account, given back on drop.
pub(crate) struct Account<'a, P, O> {
    stash: &'a Stash<P, O>,
    key: OwnerKey,
    bytes: u64,
}

impl<'a, P, O> Account<'a, P, O> {
    /// Charges the account. What it holds that has expired is no reason to refuse. What the budget would
    /// refuse anyway is refused as that.
    pub(crate) fn open(
        stash: &'a Stash<P, O>,
        key: OwnerKey,
        bytes: u64,
    ) -> Result<Self, AcquireError> {
        Self::charge(stash, key, bytes, || {
            let budget = stash.budget();
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
    pub(crate) fn open_for_granted(
        stash: &'a Stash<P, O>,
        key: OwnerKey,
        bytes: u64,
    ) -> Result<Self, AcquireError> {
        Self::charge(stash, key, bytes, || Refusal::OwnerFull)
    }

    fn charge(
        stash: &'a Stash<P, O>,
        key: OwnerKey,
        bytes: u64,
        reason: impl Fn() -> Refusal,
    ) -> Result<Self, AcquireError> {
        let slots = &stash.settings().slots;
        let attempt = || {
            slots.charge_owner(key, bytes).map_err(|used| {
                let refusal = stash.budget().refusal(reason(), bytes);
                match refusal.reason {
                    Refusal::OwnerFull => {
                        AcquireError { used, limit: slots.owner_limit().unwrap_or(0), ..refusal }
                    }
                    _ => refusal,
                }
            })
        };
        stash.sweeping(attempt(), attempt)?;
        Ok(Self { stash, key, bytes })
    }

    /// The bytes are an entry's or a reservation's from now on, and it gives them back.
    pub(crate) fn keep(mut self) -> OwnerKey {
        self.bytes = 0;
        self.key
    }
}

impl<P, O> Drop for Account<'_, P, O> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.stash.settings().slots.refund_owner(self.key, self.bytes);
        }
    }
}

pin_project! {
    /// Waits to be admitted.
    pub(crate) struct Admit<'a, P, O, U = Pending<()>> {
        stash: &'a Stash<P, O>,
        key: Option<OwnerKey>,
        charge: u64,
        step: Step,
        // What it is called when `until` completes.
        gives_up_as: Refusal,
        #[pin]
        acquire: Acquire<'a, U>,
        account: Option<Account<'a, P, O>>,
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
    pub(crate) fn new(stash: &'a Stash<P, O>, key: Option<OwnerKey>, charge: u64) -> Self {
        let acquire = stash.budget().acquire(charge);
        let (step, gives_up_as) = (Step::Fresh, Refusal::Cancelled);
        Self { stash, key, charge, step, gives_up_as, acquire, account: None }
    }

    pub(crate) fn until<U: Future>(self, until: U) -> Admit<'a, P, O, U> {
        let Self { stash, key, charge, step, gives_up_as, acquire, account } = self;
        let acquire = acquire.until(until);
        Admit { stash, key, charge, step, gives_up_as, acquire, account }
    }

    /// As `until`, for a deadline.
    pub(crate) fn timed<U: Future>(mut self, elapsed: U) -> Admit<'a, P, O, U> {
        self.gives_up_as = Refusal::TimedOut;
        self.until(elapsed)
    }
}

impl<'a, P, O, U> Admit<'a, P, O, U> {
    pub(crate) fn stash(&self) -> &'a Stash<P, O> {
        self.stash
    }
}

impl<'a, P, O, U: Future> Admit<'a, P, O, U> {
    /// The step is moved on when something has come of it: a panic in user code changes nothing.
    fn poll_line(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Permit<'a>, AcquireError>> {
        let mut this = self.project();
        let (stash, step) = (*this.stash, *this.step);
        assert!(step != Step::Done, "polled after it had completed");
        if step == Step::Fresh {
            // Open already if the first poll panicked further down.
            if let (Some(key), None) = (*this.key, &this.account) {
                *this.account = Some(Account::open(stash, key, *this.charge)?);
            }
            let acquire = || stash.budget().try_acquire(*this.charge);
            match stash.sweeping(acquire(), acquire) {
                Err(refusal) if refusal.reason() == Refusal::Full => {}
                decided => return Poll::Ready(decided),
            }
            this.acquire.set_since(stash.now());
        }
        let Poll::Ready(mut acquired) = this.acquire.as_mut().poll(cx) else {
            *this.step = Step::Queued;
            return Poll::Pending;
        };
        match &mut acquired {
            Ok(_) if step == Step::Queued => {
                stash.totals().waited.add(1);
                stash.observe(|| {
                    let since = this.acquire.since().unwrap_or(0);
                    let wait = Duration::from_nanos(stash.now().saturating_sub(since));
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
