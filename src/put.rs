//! The put future: acquire a permit, then store.

use std::fmt;
use std::future::{Future, Pending};
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::budget::Acquire;
use crate::error::{PutError, Refusal};
use crate::payload::Payload;
use crate::stash::Stash;
use crate::ticket::Ticket;

pin_project! {
    /// A payload on its way in, made by [`Stash::put`]. Joins the line when it is first polled, unless it
    /// fits at once.
    ///
    /// `U` is what it gives up for: nothing, or the future given to [`until`](Self::until).
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the line and drops the payload; the next in line is served.
    #[must_use = "a put does nothing until it is polled"]
    pub struct Put<'a, P, O, U = Pending<()>> {
        stash: &'a Stash<P, O>,
        charge: u64,
        // Whether it has looked for room without joining the line.
        tried: bool,
        // Before the entry: the place in line is left before the payload is dropped.
        #[pin]
        acquire: Acquire<'a, U>,
        entry: Option<(O, P)>,
    }
}

impl<'a, P, O> Put<'a, P, O> {
    pub(crate) fn new(stash: &'a Stash<P, O>, charge: u64, owner: O, payload: P) -> Self {
        let acquire = stash.budget().acquire(charge);
        Self { stash, charge, tried: false, acquire, entry: Some((owner, payload)) }
    }

    /// Gives up when `until` completes: a timer of whatever runtime, a cancellation token, a client that
    /// went away. The payload comes back with [`Cancelled`](Refusal::Cancelled).
    ///
    /// If the grant and `until` are ready together, the grant wins. An `until` that is complete at the
    /// first poll refuses without joining the line, unless the payload fits at once.
    pub fn until<U: Future>(self, until: U) -> Put<'a, P, O, U> {
        let Self { stash, charge, tried, acquire, entry } = self;
        Put { stash, charge, tried, acquire: acquire.until(until), entry }
    }
}

impl<P: Payload, O: Eq + Hash, U: Future> Future for Put<'_, P, O, U> {
    type Output = Result<Ticket, PutError<P>>;

    /// # Panics
    ///
    /// If it is polled again after it has completed.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        assert!(this.entry.is_some(), "polled after it had completed");
        let mut acquired = None;
        if !*this.tried {
            *this.tried = true;
            match this.stash.acquire_now(*this.charge) {
                Err(refusal) if refusal.reason() == Refusal::Full => {}
                decided => acquired = Some(decided),
            }
        }
        let acquired = match acquired {
            Some(acquired) => acquired,
            None => ready!(this.acquire.poll(cx)),
        };
        let (owner, payload) = this.entry.take().expect("checked above");
        Poll::Ready(match acquired {
            Ok(permit) => this.stash.store(permit, owner, payload),
            Err(refusal) => Err(PutError::new(payload, refusal)),
        })
    }
}

impl<P, O, U> fmt::Debug for Put<'_, P, O, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Put").field("acquire", &self.acquire).finish_non_exhaustive()
    }
}
