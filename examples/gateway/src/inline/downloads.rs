//! The downloads that run now.
//!
//! A client whose download broke asks again at once, perhaps before the server has noticed. Its result is
//! about to be put back, so the answer must not be that it is gone.

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

/// The set of downloads that run now.
#[derive(Debug, Default)]
pub(super) struct Downloads {
    running: Mutex<HashSet<Key>>,
    ended: Notify,
}

impl Downloads {
    /// Opens a result of `store`, and lists it as a download until its body is dropped.
    ///
    /// A result is listed before the store is asked for it, and is put back before it is removed from the
    /// list. So a result that is neither in the store nor in the list is gone.
    pub(super) async fn open(
        self: &Arc<Self>,
        store: &dyn InlineStore,
        ticket: &str,
        owner: &Owner,
    ) -> Opened {
        let Some(download) = self.begin(ticket, owner) else { return Opened::Busy };
        match store.open(ticket, owner).await {
            Opened::Delivery(Delivery { bytes, body }) => {
                let body = Body::new(Followed { body, _download: download });
                Opened::Delivery(Delivery { bytes, body })
            }
            opened => opened,
        }
    }

    /// Checks for a result of `store`. It is listed meanwhile, so that a store may claim the result for the
    /// check.
    pub(super) async fn peek(
        self: &Arc<Self>,
        store: &dyn InlineStore,
        ticket: &str,
        owner: &Owner,
    ) -> Peeked {
        let Some(_looking) = self.begin(ticket, owner) else { return Peeked::Busy };
        store.peek(ticket, owner).await
    }

    /// Lists a result, unless it is listed.
    fn begin(self: &Arc<Self>, ticket: &str, owner: &Owner) -> Option<Download> {
        let key = (ticket.to_owned(), owner.clone());
        let begins = self.running().insert(key.clone());
        begins.then(|| Download { all: Arc::clone(self), key })
    }

    /// Returns whether `owner` is downloading the result of that ticket now.
    fn runs(&self, ticket: &str, owner: &Owner) -> bool {
        self.running().contains(&(ticket.to_owned(), owner.clone()))
    }

    /// Waits until the download has ended, for at most `patience`. Returns whether it has.
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

/// Wraps a body. The fields are dropped in this order: the body puts its result back before the download is
/// removed from the list.
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
    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, ready};

    use super::super::{Reason, Reserved, Usage};
    use super::*;
    use crate::prometheus::Page;

    /// Holds one result, which is missing while `peek` checks for it.
    #[derive(Debug)]
    struct TakesToLook {
        there: Mutex<bool>,
        looked: Notify,
    }

    impl InlineStore for TakesToLook {
        fn open<'a>(&'a self, _: &'a str, _: &'a Owner) -> BoxFuture<'a, Opened> {
            let opened = match *self.there.lock().unwrap() {
                true => Opened::Delivery(Delivery { bytes: 0, body: Body::empty() }),
                false => Opened::Gone,
            };
            ready(opened).boxed()
        }

        fn peek<'a>(&'a self, _: &'a str, _: &'a Owner) -> BoxFuture<'a, Peeked> {
            async {
                *self.there.lock().unwrap() = false;
                self.looked.notified().await;
                *self.there.lock().unwrap() = true;
                Peeked::There(0)
            }
            .boxed()
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

        fn end(&self) -> BoxFuture<'_, usize> {
            ready(0).boxed()
        }

        fn usage(&self) -> Usage {
            Usage {
                entries: 1,
                used_bytes: 0,
                peak_bytes: 0,
                max_bytes: 0,
                waiting: 0,
                head_bytes: None,
            }
        }

        fn describe(&self, _: &mut Page) {}
    }

    #[tokio::test]
    async fn a_result_that_is_looked_at_is_not_gone() {
        let store = TakesToLook { there: Mutex::new(true), looked: Notify::new() };
        let (downloads, owner) =
            (Arc::new(Downloads::default()), Owner::new("ann").expect("a name"));
        let mut looking = Box::pin(downloads.peek(&store, "ticket", &owner));
        assert!((&mut looking).now_or_never().is_none(), "it is missing now");
        let opened = downloads.open(&store, "ticket", &owner).await;
        assert!(matches!(opened, Opened::Busy), "{opened:?}");
        store.looked.notify_one();
        assert_eq!(looking.await, Peeked::There(0));
        assert!(downloads.ended("ticket", &owner, Duration::from_secs(10)).await);
        let opened = downloads.open(&store, "ticket", &owner).await;
        assert!(matches!(opened, Opened::Delivery(_)), "{opened:?}");
    }
}
