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

use crate::owner::Owner;

type Key = (String, Owner);

/// The downloads that run now.
#[derive(Debug, Default)]
pub(super) struct Downloads {
    running: Mutex<HashSet<Key>>,
    ended: Notify,
}

impl Downloads {
    /// `body`, known as a download until it is dropped.
    pub(super) fn follow(self: &Arc<Self>, ticket: &str, owner: &Owner, body: Body) -> Body {
        let key = (ticket.to_owned(), owner.clone());
        self.running().insert(key.clone());
        let download = Download { all: Arc::clone(self), key };
        Body::new(Followed { body, _download: download })
    }

    /// Whether `owner` is downloading the result of that ticket now.
    pub(super) fn runs(&self, ticket: &str, owner: &Owner) -> bool {
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
