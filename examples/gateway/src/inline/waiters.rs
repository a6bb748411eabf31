//! Lists the queries that wait, in the order of the stash's wait queue.
//!
//! The stash has the number of waiters and the size of the head. The page shows each waiter.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Instant;

use futures_util::FutureExt;

use crate::owner::Owner;

/// A query that waits.
#[derive(Debug, Clone)]
pub struct Waiter {
    pub owner: Owner,
    /// The bytes that it asks for.
    pub bytes: u64,
    pub since: Instant,
}

/// The queries that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    joined: Mutex<Joined>,
}

#[derive(Debug, Default)]
struct Joined {
    next: u64,
    waiters: BTreeMap<u64, Waiter>,
}

/// Keeps a waiter listed until it is dropped.
#[derive(Debug)]
pub(super) struct Listed {
    all: Arc<Waiters>,
    number: u64,
}

/// How a first poll ended.
pub(super) enum First<T> {
    Ready(T),
    /// The request has joined the wait queue.
    Waits(Listed),
}

impl Waiters {
    /// Polls `request` once and lists it if it has to wait.
    ///
    /// The poll puts it into the stash's wait queue, so the list is locked meanwhile: it has the order of
    /// the queue.
    pub(super) async fn begin<F: Future + Unpin>(
        self: &Arc<Self>,
        owner: &Owner,
        bytes: u64,
        request: &mut F,
    ) -> First<F::Output> {
        poll_fn(|cx| {
            let mut joined = self.joined();
            Poll::Ready(match request.poll_unpin(cx) {
                Poll::Ready(outcome) => First::Ready(outcome),
                Poll::Pending => {
                    let number = joined.next;
                    joined.next += 1;
                    let waiter = Waiter { owner: owner.clone(), bytes, since: Instant::now() };
                    joined.waiters.insert(number, waiter);
                    First::Waits(Listed { all: Arc::clone(self), number })
                }
            })
        })
        .await
    }

    /// The last `waiting` of those listed, but `most` of them at most.
    ///
    /// A request that was granted stays listed until its task runs, and grants are in order: so the ones
    /// that wait are the last.
    pub(super) fn last(&self, waiting: usize, most: usize) -> Vec<Waiter> {
        let joined = self.joined();
        let granted = joined.waiters.len().saturating_sub(waiting);
        joined.waiters.values().skip(granted).take(most).cloned().collect()
    }

    fn joined(&self) -> MutexGuard<'_, Joined> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.all.joined().waiters.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{BoxFuture, pending, ready};

    use super::*;

    async fn begin(waiters: &Arc<Waiters>, bytes: u64, waits: bool) -> First<()> {
        let owner = Owner::new("ann").expect("a name");
        let mut request: BoxFuture<'_, ()> =
            if waits { pending().boxed() } else { ready(()).boxed() };
        waiters.begin(&owner, bytes, &mut request).await
    }

    fn sizes(waiters: &Waiters, waiting: usize, most: usize) -> Vec<u64> {
        waiters.last(waiting, most).iter().map(|waiter| waiter.bytes).collect()
    }

    #[tokio::test]
    async fn those_that_wait_are_listed_in_order_until_they_end() {
        let waiters = Arc::new(Waiters::default());
        let mut listed = Vec::new();
        for bytes in [30, 10, 20] {
            assert!(matches!(begin(&waiters, 99, false).await, First::Ready(())));
            listed.push(begin(&waiters, bytes, true).await);
        }
        assert_eq!(sizes(&waiters, 3, 9), [30, 10, 20]);
        assert_eq!(sizes(&waiters, 3, 2), [30, 10]);
        // The stash has granted the first, whose task has not run yet.
        assert_eq!(sizes(&waiters, 2, 9), [10, 20]);
        drop(listed.remove(1));
        assert_eq!(sizes(&waiters, 2, 9), [30, 20]);
        drop(listed);
        assert_eq!(sizes(&waiters, 0, 9), [0; 0]);
    }
}
