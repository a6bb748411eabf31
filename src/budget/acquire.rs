//! The future that waits in line.

use std::fmt;
use std::future::{Future, Pending};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::semaphore::{EnqueueResult, Semaphore};
use super::wait_queue::{Node, WaitOutcome};
use super::{Permit, Tier};
use crate::error::{AcquireError, Refusal};
use crate::sync::Arc;

pin_project! {
    /// A request for bytes, made by [`Budget::acquire`](super::Budget::acquire). Joins the line when it is
    /// first polled, unless the bytes are to be had at once.
    ///
    /// `U` is what it gives up for: nothing, or the future given to [`until`](Self::until).
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the line, or gives the bytes back if they had been granted; either way the next
    /// in line is served.
    ///
    /// # Memory ordering
    ///
    /// What was done before the releases that made its room, or before the close that refused it, happens before
    /// what is done with its result.
    #[must_use = "a request does nothing until it is polled"]
    pub struct Acquire<'a, U = Pending<()>> {
        semaphore: &'a Arc<Semaphore>,
        phase: Phase,
        #[pin]
        node: Node,
        #[pin]
        until: U,
    }

    impl<U> PinnedDrop for Acquire<'_, U> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if *this.phase == Phase::Queued {
                // SAFETY: `Queued` means that it joined.
                let outcome = unsafe { this.semaphore.remove(this.node.as_ref()) };
                if outcome.grant().is_some() {
                    this.semaphore.release(this.node.need());
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not polled yet: the node is in no line, and the future may still be moved.
    Fresh,
    /// The node is or was linked, and its outcome has not been taken note of.
    Queued,
    /// The future has completed.
    Done,
}

impl<'a> Acquire<'a> {
    pub(super) fn new(semaphore: &'a Arc<Semaphore>, bytes: u64) -> Self {
        let (node, until) = (Node::new(bytes), std::future::pending());
        Self { semaphore, phase: Phase::Fresh, node, until }
    }

    /// Gives up, with [`Cancelled`](Refusal::Cancelled), when `until` completes: a timer of whatever
    /// runtime, a cancellation token, a client that went away.
    ///
    /// If the grant and `until` are ready together, the grant wins. An `until` that is complete at the
    /// first poll refuses without joining the line, unless the bytes are to be had at once.
    pub fn until<U: Future>(self, until: U) -> Acquire<'a, U> {
        // A `self` by value was never pinned, so never polled: there is no place in line to carry over.
        let node = Node::new(self.node.need());
        Acquire { semaphore: self.semaphore, phase: Phase::Fresh, node, until }
    }
}

impl<U> Acquire<'_, U> {
    /// Says when it joins the line, if it does at its next poll.
    pub(crate) fn set_since(&self, since: u64) {
        self.node.set_since(since);
    }

    /// When it joined the line, or tried to.
    pub(crate) fn since(&self) -> Option<u64> {
        self.node.since()
    }
}

impl<U: Future> Acquire<'_, U> {
    /// First poll: the bytes at once, or the line.
    fn poll_fresh(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Tier, Refusal>> {
        let this = self.project();
        match this.semaphore.try_acquire(this.node.need()) {
            Err(Refusal::Full) => {}
            decided => return Poll::Ready(decided),
        }
        if this.until.poll(cx).is_ready() {
            return Poll::Ready(Err(Refusal::Cancelled));
        }
        // Cloned before the lock is taken: user code.
        let waker = cx.waker().clone();
        // SAFETY: `PinnedDrop` leaves for a node in phase `Queued`; pinned, it is dropped before it is freed.
        match unsafe { this.semaphore.enqueue(this.node.as_ref(), waker) } {
            EnqueueResult::Granted(tier) => Poll::Ready(Ok(tier)),
            EnqueueResult::Refused(reason) => Poll::Ready(Err(reason)),
            EnqueueResult::Queued => {
                *this.phase = Phase::Queued;
                Poll::Pending
            }
        }
    }

    /// Later polls: an outcome that has come, then `until`, then go on waiting.
    fn poll_queued(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Tier, Refusal>> {
        let this = self.project();
        let node = this.node.as_ref();
        if let Some(outcome) = result_of(node.outcome()) {
            return Poll::Ready(outcome);
        }
        if this.until.poll(cx).is_ready() {
            // SAFETY: queued. If a grant came first it is what `leave` returns: the grant wins.
            let outcome = unsafe { this.semaphore.remove(node) };
            return Poll::Ready(result_of(outcome).unwrap_or(Err(Refusal::Cancelled)));
        }
        // SAFETY: queued.
        unsafe { this.semaphore.update_waker(node, cx.waker()) };
        // An outcome that came before the update woke the old waker, perhaps another task's.
        result_of(node.outcome()).map_or(Poll::Pending, Poll::Ready)
    }
}

/// `None`: still waiting.
fn result_of(outcome: WaitOutcome) -> Option<Result<Tier, Refusal>> {
    match outcome {
        WaitOutcome::Waiting => None,
        WaitOutcome::Granted | WaitOutcome::GrantedOverflow => outcome.grant().map(Ok),
        WaitOutcome::Closed => Some(Err(Refusal::Closed)),
        WaitOutcome::TooLarge => Some(Err(Refusal::TooLarge)),
        WaitOutcome::Removed => Some(Err(Refusal::Cancelled)),
    }
}

impl<'a, U: Future> Future for Acquire<'a, U> {
    type Output = Result<Permit<'a>, AcquireError>;

    /// # Panics
    ///
    /// If it is polled again after it has completed.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match self.phase {
            Phase::Fresh => ready!(self.as_mut().poll_fresh(cx)),
            Phase::Queued => ready!(self.as_mut().poll_queued(cx)),
            Phase::Done => panic!("polled after it had completed"),
        };
        let this = self.project();
        *this.phase = Phase::Done;
        let bytes = this.node.need();
        Poll::Ready(match outcome {
            Ok(tier) => Ok(Permit::new(this.semaphore, bytes, tier)),
            Err(reason) => Err(this.semaphore.refusal(reason, bytes)),
        })
    }
}

impl<U> fmt::Debug for Acquire<'_, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("bytes", &self.node.need())
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
