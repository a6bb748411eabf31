//! Defines the future that acquires bytes, and waits in the queue if it has to.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::semaphore::{EnqueueResult, Semaphore};
use super::wait_queue::{Node, WaitOutcome};
use super::{Permit, Tier};
use crate::error::{AcquireError, Refusal};
use crate::give_up::{GiveUp, Never, Until};
use crate::maybe_owned::MaybeOwned;
use crate::sync::Arc;

pin_project! {
    /// Requests bytes; made by [`Budget::acquire`](super::Budget::acquire) and
    /// [`acquire_owned`](super::Budget::acquire_owned).
    ///
    /// Joins the wait queue at its first poll, unless the bytes are available immediately. `U` bounds the wait: it is
    /// [`Never`], or the futures that [`until`](Self::until) and [`timeout`](Self::timeout) add.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes it from the queue, or releases the bytes if they were granted. Either way the
    /// next waiter is granted if it fits.
    ///
    /// # Memory ordering
    ///
    /// What was done before the releases that made its room, or before the close that refused it, happens before
    /// what is done with its result.
    #[must_use = "a request does nothing until it is polled"]
    pub struct Acquire<'a, U = Never> {
        // Dropped first: the waiter is removed from the queue before user code is dropped.
        #[pin]
        waiter: Waiter<'a>,
        #[pin]
        until: U,
    }
}

pin_project! {
    /// Holds a request and its node of the wait queue. Removes the node when it is dropped.
    struct Waiter<'a> {
        semaphore: MaybeOwned<'a, Arc<Semaphore>>,
        phase: Phase,
        // An attempt was refused for lack of room: the first poll joins the queue.
        attempted: bool,
        #[pin]
        node: Node,
    }

    impl PinnedDrop for Waiter<'_> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if *this.phase == Phase::Queued {
                // SAFETY: `Queued` means that the node was enqueued.
                let outcome = unsafe { this.semaphore.abandon(this.node.as_ref()) };
                if outcome.grant().is_some() {
                    this.semaphore.release(this.node.need());
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not polled yet: the node is in no queue, and the future may still be moved.
    Fresh,
    /// The node is or was linked, and its outcome has not been observed.
    Queued,
    /// The future has completed.
    Done,
}

impl<'a> Acquire<'a> {
    pub(super) fn new(semaphore: MaybeOwned<'a, Arc<Semaphore>>, bytes: u64) -> Self {
        let waiter =
            Waiter { semaphore, phase: Phase::Fresh, attempted: false, node: Node::new(bytes) };
        Self { waiter, until: Never }
    }
}

impl<'a, U> Acquire<'a, U> {
    /// Gives up, as [`Cancelled`](Refusal::Cancelled), when `until` completes.
    ///
    /// `until` is any future, such as a cancellation token or a client's disconnection.
    ///
    /// If the grant and `until` are ready together, the grant wins. An `until` that is complete at the first
    /// poll refuses without joining the queue, unless the bytes are available immediately. Expired entries
    /// of the budget's stash are removed before the request is refused, so they are never the reason. Can be
    /// called more than once: the first bound to complete ends the wait.
    pub fn until<F: Future>(self, until: F) -> Acquire<'a, Until<U, F>> {
        self.bounded(until, Refusal::Cancelled)
    }

    /// Gives up, as [`TimedOut`](Refusal::TimedOut), when `sleep` completes.
    ///
    /// `sleep` is a timer of any runtime. Otherwise as [`until`](Self::until).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::{Budget, Refusal};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let budget = Budget::new(100);
    /// let held = budget.try_acquire(100).unwrap();
    /// let sleep = tokio::time::sleep(Duration::from_millis(1));
    /// let refused = budget.acquire(1).timeout(sleep).await.unwrap_err();
    /// assert_eq!(refused.reason(), Refusal::TimedOut);
    /// # drop(held);
    /// # }
    /// ```
    pub fn timeout<F: Future>(self, sleep: F) -> Acquire<'a, Until<U, F>> {
        self.bounded(sleep, Refusal::TimedOut)
    }

    fn bounded<F>(self, future: F, reason: Refusal) -> Acquire<'a, Until<U, F>> {
        // A `self` by value was never pinned, so never polled: its node is in no queue and may move.
        let Self { waiter, until } = self;
        Acquire { waiter, until: Until::new(until, future, reason) }
    }

    /// Records the time of the enqueue, on the caller's clock.
    pub(crate) fn set_since(&self, since: u64) {
        self.waiter.node.set_since(since);
    }

    /// Returns the time at which the request joined the queue, or tried to.
    pub(crate) fn since(&self) -> Option<u64> {
        self.waiter.node.since()
    }

    /// Skips the attempt of the first poll: the caller's own was just refused as `Full`.
    pub(crate) fn skip_attempt(&mut self) {
        self.waiter.attempted = true;
    }
}

impl Waiter<'_> {
    /// Polls for the first time: acquires immediately or enqueues.
    fn poll_fresh(
        self: Pin<&mut Self>,
        until: Pin<&mut impl GiveUp>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Tier, Refusal>> {
        let this = self.project();
        let bytes = this.node.need();
        if !*this.attempted {
            match this.semaphore.try_acquire_or_enqueue(bytes) {
                Err(Refusal::Full) => {}
                decided => return Poll::Ready(decided),
            }
        }
        if let Poll::Ready(reason) = until.poll_give_up(cx) {
            // Decided once more: the request was not enqueued, so it may be too large, or may fit now.
            return Poll::Ready(match this.semaphore.acquire_again(bytes) {
                Err(Refusal::Full) => Err(reason),
                decided => decided,
            });
        }
        // Cloned before the lock is taken: user code.
        let waker = cx.waker().clone();
        // SAFETY: `PinnedDrop` removes a node in phase `Queued`; pinned, it is dropped before it is freed.
        match unsafe { this.semaphore.enqueue(this.node.as_ref(), waker) } {
            EnqueueResult::Granted(tier) => Poll::Ready(Ok(tier)),
            EnqueueResult::Refused(reason) => Poll::Ready(Err(reason)),
            EnqueueResult::Queued => {
                *this.phase = Phase::Queued;
                Poll::Pending
            }
        }
    }

    /// Polls again: checks the outcome, then `until`, then updates the waker.
    fn poll_queued(
        self: Pin<&mut Self>,
        until: Pin<&mut impl GiveUp>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Tier, Refusal>> {
        let this = self.project();
        let node = this.node.as_ref();
        if let Some(result) = result_of(node.outcome()) {
            return Poll::Ready(result);
        }
        if let Poll::Ready(reason) = until.poll_give_up(cx) {
            // Expired bytes must not be the reason (invariant 9): they may be all that the head lacks.
            this.semaphore.reclaim_until(|| node.outcome() != WaitOutcome::Waiting);
            // SAFETY: queued. If a grant came first, `remove` returns it: the grant wins.
            let outcome = unsafe { this.semaphore.remove(node) };
            return Poll::Ready(result_of(outcome).unwrap_or(Err(reason)));
        }
        // SAFETY: queued.
        unsafe { this.semaphore.update_waker(node, cx.waker()) };
        // An outcome that came before the update woke the old waker, perhaps another task's.
        result_of(node.outcome()).map_or(Poll::Pending, Poll::Ready)
    }
}

/// Returns the result of a wait; `None` while it goes on, or if its owner ended it.
fn result_of(outcome: WaitOutcome) -> Option<Result<Tier, Refusal>> {
    match outcome {
        WaitOutcome::Waiting | WaitOutcome::Removed => None,
        WaitOutcome::Granted | WaitOutcome::GrantedOverflow => outcome.grant().map(Ok),
        WaitOutcome::Closed => Some(Err(Refusal::Closed)),
        WaitOutcome::TooLarge => Some(Err(Refusal::TooLarge)),
    }
}

impl<'a, U: GiveUp> Future for Acquire<'a, U> {
    type Output = Result<Permit<'a>, AcquireError>;

    /// # Panics
    ///
    /// If it is polled again after it completed.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut waiter = this.waiter;
        let result = match waiter.phase {
            Phase::Fresh => ready!(waiter.as_mut().poll_fresh(this.until, cx)),
            Phase::Queued => ready!(waiter.as_mut().poll_queued(this.until, cx)),
            Phase::Done => panic!("polled after it had completed"),
        };
        let waiter = waiter.project();
        *waiter.phase = Phase::Done;
        let bytes = waiter.node.need();
        Poll::Ready(match result {
            Ok(tier) => Ok(Permit::of(waiter.semaphore, bytes, tier)),
            Err(reason) => Err(waiter.semaphore.refusal(reason, bytes)),
        })
    }
}

impl<U> fmt::Debug for Acquire<'_, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("bytes", &self.waiter.node.need())
            .field("phase", &self.waiter.phase)
            .finish_non_exhaustive()
    }
}
