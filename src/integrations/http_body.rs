//! A claim as an HTTP body.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http_body::{Body, Frame, SizeHint};
use bytes::Bytes;

use crate::stash::{Claim, OnDrop};
use crate::sync::atomic::{AtomicBool, Ordering};

/// The largest frame. A server has few frames in hand at a time, so that what it has not asked for yet can
/// be told from what it has.
const FRAME: usize = 64 << 10;

/// A claim's payload as an HTTP body, made by [`Claim::into_body`]: for axum, hyper, tonic as they are.
///
/// Its size is known exactly. The payload stays charged until the server has dropped the last frame. It
/// counts as delivered when all of it was handed to the server by then; a body that is dropped before,
/// because the client went away, puts it back under its ticket, and it can be fetched again, whole.
///
/// What was handed over and is still in the server's and the system's buffers when a client goes away
/// cannot be told from what has arrived: with a payload that fits in them (some hundred KiB), a client that
/// went away may count as served.
#[must_use = "a body that is dropped puts its payload back"]
pub struct ClaimBody {
    rest: Bytes,
    complete: Arc<AtomicBool>,
}

impl<P, O> Claim<P, O>
where
    P: AsRef<[u8]> + Send + Sync + 'static,
    O: Send + 'static,
{
    /// The payload as an HTTP body, delivered when all of it was sent, and put back if the body is dropped
    /// before. Nothing is copied.
    ///
    /// ```
    /// use http_body::Body;
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// # let ticket = stash.try_put((), vec![7; 100]).unwrap();
    /// let body = stash.claim(&ticket, &()).unwrap().into_body();
    /// assert_eq!(body.size_hint().exact(), Some(100));
    /// drop(body); // the client went away
    /// assert!(stash.claim(&ticket, &()).is_some());
    /// ```
    pub fn into_body(self) -> ClaimBody {
        let complete = Arc::new(AtomicBool::new(false));
        let delivery = Delivery { claim: Some(self), complete: Arc::clone(&complete) };
        let body = ClaimBody { rest: Bytes::from_owner(delivery), complete };
        body.record_end();
        body
    }
}

impl ClaimBody {
    /// Nothing is left to hand over, perhaps because there never was: a server need not poll then.
    fn record_end(&self) {
        if self.rest.is_empty() {
            // ORDERING: Relaxed [body.complete.set]: read after the last frame was dropped, which counts
            // references.
            self.complete.store(true, Ordering::Relaxed);
        }
    }
}

impl Body for ClaimBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(FRAME);
        let frame = self.rest.split_to(len);
        self.record_end();
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl fmt::Debug for ClaimBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimBody").field("rest", &self.rest.len()).finish_non_exhaustive()
    }
}

/// What the frames share.
struct Delivery<P, O> {
    claim: Option<Claim<P, O>>,
    complete: Arc<AtomicBool>,
}

impl<P: AsRef<[u8]>, O> AsRef<[u8]> for Delivery<P, O> {
    fn as_ref(&self) -> &[u8] {
        self.claim.as_ref().map_or(&[], Claim::as_ref)
    }
}

impl<P, O> Drop for Delivery<P, O> {
    fn drop(&mut self) {
        // ORDERING: Relaxed [body.complete.get]: after [body.complete.set], by the frames' count of
        // references.
        let complete = self.complete.load(Ordering::Relaxed);
        let what = if complete { OnDrop::Finish } else { OnDrop::PutBack };
        drop(self.claim.take().map(|claim| claim.on_drop(what)));
    }
}
