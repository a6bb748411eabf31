//! Serves a claim as an HTTP body.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::http_body::{Body, Frame, SizeHint};
use bytes::Bytes;

use super::FRAME;
use crate::stash::{Chunks, Claim, Deliver, Parts};

/// Sends a claim's payload as an HTTP body: for axum, hyper, tonic. Made by [`Claim::into_body`].
///
/// The payload stays charged until the server has dropped the last frame. If the server has been handed all
/// of it before that, it counts as delivered. If the body is dropped before, because the client went away,
/// the payload is put back under its ticket, and can be fetched again, whole; unless [`Claim::on_drop`] said
/// otherwise.
///
/// # Size hint
///
/// It is exact, so servers send a `Content-Length`, with one exception: before it is polled, an *empty*
/// payload's body reports neither that it is empty nor that it is at its end. Servers do not poll a body that
/// reports this, and then a response to `GET` could not be told from one that has no body (`HEAD`, 204, 304).
/// So an empty payload is delivered when its end was asked for, and is sent over HTTP/1.1 as chunked, without
/// a `Content-Length`. If you set `Content-Length: 0` yourself, the body is not polled, and the payload is
/// put back.
///
/// # What counts as sent
///
/// Over HTTP/1, hyper drops the body of a response that has none (`HEAD`, 204, 304), and the payload is put
/// back. Over HTTP/2 it sends the body it was given whatever the method: answer `HEAD` without the body
/// there.
///
/// Bytes that are still in the server's and the system's buffers when a client goes away cannot be told from
/// bytes that have arrived: with a payload that fits in them (some hundred KiB), a client that went away may
/// count as served.
#[must_use = "a body that is dropped puts its payload back"]
pub struct ClaimBody {
    parts: Parts,
}

impl<P, O> Claim<P, O>
where
    P: Send + Sync + 'static,
    O: Send + 'static,
{
    /// Turns the claim into an HTTP body, which delivers it at its end.
    ///
    /// A body that is dropped before puts the payload back.
    ///
    /// Nothing is copied.
    ///
    /// # Complexity
    ///
    /// O([chunks](Chunks)): one for payloads that are `AsRef<[u8]>`.
    ///
    /// # Examples
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
    pub fn into_body<K: 'static>(self) -> ClaimBody
    where
        P: Chunks<K>,
    {
        ClaimBody::new(self)
    }
}

impl ClaimBody {
    pub(crate) fn new<C: Deliver, K: 'static>(claim: C) -> Self
    where
        C::Target: Chunks<K>,
    {
        Self { parts: Parts::new(claim) }
    }
}

impl Body for ClaimBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.parts.next(FRAME).map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_at_end()
    }

    fn size_hint(&self) -> SizeHint {
        if self.parts.left() == 0 && !self.parts.is_at_end() {
            // Empty, and the server must still poll it.
            return SizeHint::default();
        }
        SizeHint::with_exact(self.parts.left())
    }
}

impl fmt::Debug for ClaimBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimBody").field("rest", &self.parts.left()).finish_non_exhaustive()
    }
}
