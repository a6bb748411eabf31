//! Which results are on their way to their owners.
//!
//! A client whose download broke asks again at once, perhaps before the server has noticed. It must not be
//! told that its result is gone: it is about to come back.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;

use super::{Delivery, InlineStore, Opened, Peeked};
use crate::owner::Owner;

type Key = (String, Owner);

/// The downloads that run now.
#[derive(Debug, Default)]
pub(super) struct Downloads {
    running: Mutex<HashSet<Key>>,
    ended: Notify,
}

impl Downloads {
    /// Opens a result of `store`; its body is known as a download until it is dropped.
    ///
    /// The set is locked meanwhile, and a result that comes back does so before its download is taken from
    /// the set. So a result that is missing and not in the set is gone.
    pub(super) fn open(
        self: &Arc<Self>,
        store: &dyn InlineStore,
        ticket: &str,
        owner: &Owner,
    ) -> Opened {
        let mut running = self.running();
        match store.open(ticket, owner) {
            Opened::Delivery(Delivery { bytes, body }) => {
                let key = (ticket.to_owned(), owner.clone());
                running.insert(key.clone());
                let download = Download { all: Arc::clone(self), key };
                let body = Body::new(Followed { body, _download: download });
                Opened::Delivery(Delivery { bytes, body })
            }
            Opened::Gone if running.contains(&(ticket.to_owned(), owner.clone())) => Opened::Busy,
            opened => opened,
        }
    }

    /// Looks at a result of `store`. The set is locked meanwhile, so that a store may take the result for a
    /// moment without anyone missing it.
    pub(super) fn peek(&self, store: &dyn InlineStore, ticket: &str, owner: &Owner) -> Peeked {
        let running = self.running();
        match store.peek(ticket, owner) {
            Peeked::Gone if running.contains(&(ticket.to_owned(), owner.clone())) => Peeked::Busy,
            peeked => peeked,
        }
    }

    /// Whether `owner` is downloading the result of that ticket now.
    fn runs(&self, ticket: &str, owner: &Owner) -> bool {
        self.running().contains(&(ticket.to_owned(), owner.clone()))
    }

    /// Waits until it is not, for at most `patience`. Answers whether that is so.
    pub(super) async fn ended(&self, ticket: &str, owner: &Owner, patience: Duration) -> bool {
        let ended = async {
            loop {
                let next = self.ended.notified();
                if !self.runs(ticket, owner) {
                    break;
                }
                next.await;
            }
        };
        tokio::time::timeout(patience, ended).await.is_ok()
    }

    fn running(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Download {
    all: Arc<Downloads>,
    key: Key,
}

impl Drop for Download {
    fn drop(&mut self) {
        self.all.running().remove(&self.key);
        self.all.ended.notify_waiters();
    }
}

/// A body as it was. The fields are dropped in this order: what the body puts back is there again when the
/// download is said to have ended.
struct Followed {
    body: Body,
    _download: Download,
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::super::{Reason, Reserved, Usage};
    use super::*;
    use crate::prometheus::Page;

    /// One result, which is missing while `peek` looks at it.
    #[derive(Debug)]
    struct TakesToLook {
        there: Mutex<bool>,
        looks: Barrier,
    }

    impl InlineStore for TakesToLook {
        fn open(&self, _: &str, _: &Owner) -> Opened {
            match *self.there.lock().unwrap() {
                true => Opened::Delivery(Delivery { bytes: 0, body: Body::empty() }),
                false => Opened::Gone,
            }
        }

        fn peek(&self, _: &str, _: &Owner) -> Peeked {
            *self.there.lock().unwrap() = false;
            self.looks.wait();
            // Long enough for the other thread to open it.
            std::thread::sleep(Duration::from_millis(100));
            *self.there.lock().unwrap() = true;
            Peeked::There(0)
        }

        fn reserve(
            &self,
            _: &Owner,
            _: u64,
            _: Duration,
        ) -> BoxFuture<'static, Result<Box<dyn Reserved>, Reason>> {
            async { Err(Reason::Closed) }.boxed()
        }

        fn close(&self) {}

        fn is_closed(&self) -> bool {
            true
        }

        fn drained(&self) -> BoxFuture<'_, ()> {
            async {}.boxed()
        }

        fn clear(&self) -> usize {
            0
        }

        fn usage(&self) -> Usage {
            Usage { entries: 1, used_bytes: 0, peak_bytes: 0, max_bytes: 0, waiting: 0 }
        }

        fn describe(&self, _: &mut Page) {}
    }

    #[test]
    fn a_result_that_is_looked_at_is_not_gone() {
        let store = TakesToLook { there: Mutex::new(true), looks: Barrier::new(2) };
        let (downloads, owner) =
            (Arc::new(Downloads::default()), Owner::new("ann").expect("a name"));
        std::thread::scope(|scope| {
            scope.spawn(|| downloads.peek(&store, "ticket", &owner));
            store.looks.wait();
            let opened = downloads.open(&store, "ticket", &owner);
            assert!(matches!(opened, Opened::Delivery(_)), "{opened:?}");
        });
    }
}
