//! Shuts a stash down in the order that loses no result.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::Stash;

impl<P, O> Stash<P, O> {
    /// Closes the stash, waits until it is drained, and clears the rest.
    ///
    /// It closes when it is first polled. The wait ends early when `patience` completes: a timer, or a second
    /// signal. Await it *inside* the shutdown signal of a server, so that the server accepts the connections that
    /// fetch the results. Entries that have expired when it closes are removed then. Those that expire meanwhile are
    /// removed by a [`reaper`](Self::reaper), or at the end.
    ///
    /// # Returns
    ///
    /// How many entries were cleared: results that no client fetched in time. An entry that expired is not counted. A
    /// [claimed](Self::claim) entry is not either: it can still be delivered.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the stash closed, and its entries where they are.
    ///
    /// # Examples
    ///
    /// For `axum::serve(..).with_graceful_shutdown(..)`, and others like it:
    ///
    /// ```
    /// # use std::{future::Future, time::Duration};
    /// # use cloakroom::Stash;
    /// async fn shut_down(stash: Stash<Vec<u8>, u64>, signal: impl Future<Output = ()>) {
    ///     signal.await;
    ///     let lost = stash.shut_down(tokio::time::sleep(Duration::from_millis(30))).await;
    ///     eprintln!("{lost} results were not fetched");
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let stash = Stash::builder().max_bytes(1_000).build().unwrap();
    /// # stash.try_put(7, vec![7; 100]).unwrap();
    /// # shut_down(stash.clone(), async {}).await;
    /// # assert!(stash.is_closed() && stash.is_empty());
    /// # }
    /// ```
    pub async fn shut_down<F: Future>(&self, patience: F) -> usize {
        self.close();
        // Without a reaper no other call might remove them, and the wait would last for all of the patience.
        self.gc();
        let mut drained = pin!(self.drained());
        let mut patience = pin!(patience);
        poll_fn(|cx| {
            let ended =
                drained.as_mut().poll(cx).is_ready() || patience.as_mut().poll(cx).is_ready();
            if ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        // They count as expired, as with a reaper.
        self.gc();
        self.clear()
    }

    /// Shuts down as [`shut_down`](Self::shut_down) does, blocking this thread for at most `patience`.
    ///
    /// Expired entries are removed while it waits, with or without a reaper.
    ///
    /// # Returns
    ///
    /// How many entries were cleared.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// let ticket = stash.try_put((), vec![7; 100]).unwrap();
    /// assert_eq!(stash.shut_down_timeout(Duration::from_millis(10)), 1);
    /// assert!(stash.take(&ticket, &()).is_none());
    /// ```
    #[cfg(not(target_family = "wasm"))]
    pub fn shut_down_timeout(&self, patience: Duration) -> usize {
        self.close();
        self.drained_timeout(patience);
        self.clear()
    }
}
