//! Streams a claim: as chunks of bytes, or as a payload's items.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;

use super::FRAME;
use crate::stash::{Chunks, Claim, Deliver, Items, Parts};

/// Streams a claim's payload as bytes, made by [`Claim::into_stream`].
///
/// A chunk is at most 64 KiB. The payload stays charged until the last chunk is dropped. If all of it has
/// been handed out before that, it counts as delivered. A stream that is dropped before puts it back, unless
/// [`Claim::on_drop`] said otherwise. An empty payload is delivered when the stream has returned its end.
#[must_use = "a stream that is dropped puts its payload back"]
pub struct ClaimStream {
    parts: Parts,
}

/// Streams the items of a claim's payload, made by [`Claim::into_items`].
///
/// An item is a clone, and is not charged itself: the payload stays charged until the stream has ended or is
/// dropped. It counts as delivered when the last item was handed out. A stream that is dropped before puts it
/// back, unless [`Claim::on_drop`] said otherwise. A payload without items is delivered when the stream has
/// returned its end.
#[must_use = "a stream that is dropped puts its payload back"]
pub struct ClaimItems<T> {
    items: Items<T>,
}

impl<P, O> Claim<P, O>
where
    P: Send + Sync + 'static,
    O: Send + 'static,
{
    /// Turns the claim into a stream of bytes, which delivers it at its end.
    ///
    /// A stream that is dropped before puts the payload back.
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
    /// use futures_lite::{StreamExt, future::block_on};
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1 << 20).build()?;
    /// # let ticket = stash.try_put((), vec![7; 100_000]).unwrap();
    /// let mut stream = stash.claim(&ticket, &()).unwrap().into_stream();
    /// assert_eq!(block_on(stream.next()).unwrap().len(), 64 << 10);
    /// drop(stream); // the client went away
    ///
    /// let stream = stash.claim(&ticket, &()).unwrap().into_stream();
    /// assert_eq!(block_on(stream.count()), 2);
    /// assert_eq!(stash.used_bytes(), 0);
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    pub fn into_stream<K: 'static>(self) -> ClaimStream
    where
        P: Chunks<K>,
    {
        ClaimStream::new(self)
    }

    /// Turns the claim into a stream of the payload's items, cloned.
    ///
    /// The items can be messages for tonic, for example.
    ///
    /// It is delivered at its end, put back if it is dropped before. Where a `Result` is expected, `map(Ok)`
    /// makes one.
    ///
    /// # Examples
    ///
    /// ```
    /// use cloakroom::{Payload, Stash};
    /// use futures_lite::{StreamExt, future::block_on};
    ///
    /// #[derive(Clone)]
    /// struct Message(String);
    /// struct Messages(Vec<Message>);
    ///
    /// impl Payload for Messages {
    ///     fn size(&self) -> usize {
    ///         self.0.iter().map(|message| message.0.len()).sum()
    ///     }
    /// }
    ///
    /// impl AsRef<[Message]> for Messages {
    ///     fn as_ref(&self) -> &[Message] {
    ///         &self.0
    ///     }
    /// }
    ///
    /// let stash: Stash<Messages, ()> = Stash::builder().max_bytes(1_000).build()?;
    /// let messages = Messages(vec![Message("one".into()), Message("two".into())]);
    /// let ticket = stash.try_put((), messages).unwrap();
    ///
    /// let mut stream = stash.claim(&ticket, &()).unwrap().into_items();
    /// assert_eq!(block_on(stream.next()).unwrap().0, "one");
    /// drop(stream); // the client went away
    ///
    /// let stream = stash.claim(&ticket, &()).unwrap().into_items();
    /// assert_eq!(block_on(stream.count()), 2);
    /// assert_eq!(stash.len(), 0);
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    pub fn into_items<T>(self) -> ClaimItems<T>
    where
        P: AsRef<[T]>,
        T: Clone,
    {
        ClaimItems::new(self)
    }
}

impl ClaimStream {
    pub(crate) fn new<C: Deliver, K: 'static>(claim: C) -> Self
    where
        C::Target: Chunks<K>,
    {
        Self { parts: Parts::new(claim) }
    }
}

impl<T: Clone> ClaimItems<T> {
    pub(crate) fn new<C: Deliver>(claim: C) -> Self
    where
        C::Target: AsRef<[T]>,
    {
        Self { items: Items::new(claim) }
    }
}

impl Stream for ClaimStream {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(self.parts.next(FRAME))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let least = self.parts.left().div_ceil(FRAME as u64);
        (usize::try_from(least).unwrap_or(usize::MAX), None)
    }
}

impl<T> Stream for ClaimItems<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
        Poll::Ready(self.items.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.items.left(), Some(self.items.left()))
    }
}

impl fmt::Debug for ClaimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimStream").field("rest", &self.parts.left()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ClaimItems<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimItems").field("left", &self.items.left()).finish_non_exhaustive()
    }
}
