//! Defines the future that waits until a closed budget is empty.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::acquire::Phase;
use super::semaphore::Semaphore;
use super::wait_queue::{Node, WaitOutcome};
use crate::sync::Arc;

pin_project! {
    /// Completes when the budget is closed and no permit holds bytes of it.
    ///
    /// Made by [`Budget::drained`](super::Budget::drained) and [`Stash::drained`](crate::Stash::drained).
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    ///
    /// # Memory ordering
    ///
    /// What was done before the close, and before each release, happens before what is done after its completion:
    /// see [`Budget`](super::Budget#memory-ordering).
    #[must_use = "a future does nothing until it is polled"]
    pub struct Drained<'a> {
        semaphore: &'a Arc<Semaphore>,
        phase: Phase,
        #[pin]
        node: Node,
    }

    impl PinnedDrop for Drained<'_> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if *this.phase == Phase::Queued {
                // SAFETY: `Queued` means that the node was enqueued.
                unsafe { this.semaphore.remove_drained(this.node.as_ref()) };
            }
        }
    }
}

impl<'a> Drained<'a> {
    pub(super) fn new(semaphore: &'a Arc<Semaphore>) -> Self {
        Self { semaphore, phase: Phase::Fresh, node: Node::new(0) }
    }
}

impl Future for Drained<'_> {
    type Output = ();

    /// # Panics
    ///
    /// If it is polled again after it completed.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let node = this.node.as_ref();
        let waits = match *this.phase {
            Phase::Fresh => {
                // Cloned before the lock is taken: user code.
                let waker = cx.waker().clone();
                // SAFETY: `PinnedDrop` removes a node in phase `Queued`; pinned, it is dropped before it is freed.
                unsafe { this.semaphore.enqueue_drained(node, waker) }
            }
            Phase::Queued => {
                if node.outcome() == WaitOutcome::Waiting {
                    // SAFETY: enqueued.
                    unsafe { this.semaphore.update_waker(node, cx.waker()) };
                }
                // An outcome that came before the update woke the old waker.
                node.outcome() == WaitOutcome::Waiting
            }
            Phase::Done => panic!("polled after it had completed"),
        };
        *this.phase = if waits { Phase::Queued } else { Phase::Done };
        if waits { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl fmt::Debug for Drained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drained").field("phase", &self.phase).finish_non_exhaustive()
    }
}
