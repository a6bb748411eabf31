//! Abstracts over the claims of a stash in this process and of a shared one.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;

use super::Failure;
#[cfg(feature = "http-body")]
use crate::integrations::ClaimBody;
#[cfg(feature = "stream")]
use crate::integrations::{ClaimItems, ClaimStream};
use crate::stash::{Chunks, Claim, ClaimReader, Deliver, OnDrop, PutOptions};

/// Holds a payload that is being delivered, and puts it back when dropped.
///
/// It stays charged meanwhile. The conversions deliver the payload at its end and put it back if they are dropped
/// before, unless [`on_drop`](Self::on_drop) says otherwise: the same code as that of [`Claim`], for every
/// implementation of [`Cloakroom`](crate::Cloakroom).
///
/// # Cancel safety
///
/// Dropping a future of `put_back` or `put_back_with` puts the payload back, whatever `on_drop` said. Dropping one of
/// `renew` leaves the claim as it was; over a network the entry may have been renewed.
///
/// # Examples
///
/// ```
/// use std::io::Read;
/// use cloakroom::{Cloakroom, CloakroomClaim, Failure, Ticket};
///
/// async fn text<C: Cloakroom<Vec<u8>, u64>>(stash: &C, ticket: &Ticket) -> Result<String, Failure> {
///     let mut text = String::new();
///     if let Some(claim) = stash.claim(ticket, &17).await? {
///         claim.into_reader().read_to_string(&mut text).expect("it is text");
///     }
///     Ok(text)
/// }
/// # futures_lite::future::block_on(async {
/// # let stash: cloakroom::Stash<Vec<u8>, u64> = cloakroom::Stash::builder().max_bytes(1_000).build().unwrap();
/// # let ticket = stash.try_put(17, b"hello".to_vec()).unwrap();
/// # assert_eq!(text(&stash, &ticket).await.unwrap(), "hello");
/// # });
/// ```
pub trait CloakroomClaim<P>:
    Deref<Target = P> + fmt::Debug + Send + Sync + Sized + 'static
{
    /// Returns the payload.
    fn payload(&self) -> &P {
        self
    }

    /// Finishes the delivery and returns the payload. Its bytes are free.
    fn into_inner(self) -> P;

    /// Puts the payload back, under the same ticket and deadline.
    fn put_back(self) -> impl Future<Output = ()> + Send;

    /// Puts the payload back, with the options' new time to live, if they have one.
    fn put_back_with(self, options: PutOptions) -> impl Future<Output = ()> + Send {
        // The future may be dropped at any time.
        let mut claim = self.on_drop(OnDrop::PutBack);
        async move {
            if let Some(ttl) = options.ttl {
                // Without an answer the entry keeps its deadline.
                let _ = claim.renew(ttl).await;
            }
            claim.put_back().await;
        }
    }

    /// Selects what the claim does if it is dropped before it was finished: as [`Claim::on_drop`].
    #[must_use = "a claim that is dropped puts its payload back"]
    fn on_drop(self, what: OnDrop) -> Self;

    /// Gives the entry a new time to live, counted from now: as [`Claim::renew`].
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network: the entry may have been renewed. [`Failure::Lost`] if the claim has ended with
    /// its session.
    fn renew(&mut self, ttl: Duration) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Turns the claim into bytes that are delivered when their last clone is dropped: as [`Claim::into_bytes`].
    fn into_bytes(self) -> Bytes
    where
        P: AsRef<[u8]>;

    /// Turns the claim into a reader, which delivers it at its end: as [`Claim::into_reader`].
    fn into_reader<K: 'static>(self) -> ClaimReader
    where
        P: Chunks<K>,
    {
        ClaimReader::new(Held(self))
    }

    /// Turns the claim into an HTTP body, which delivers it at its end: as [`Claim::into_body`].
    #[cfg(feature = "http-body")]
    fn into_body<K: 'static>(self) -> ClaimBody
    where
        P: Chunks<K>,
    {
        ClaimBody::new(Held(self))
    }

    /// Turns the claim into a stream of bytes, which delivers it at its end: as [`Claim::into_stream`].
    #[cfg(feature = "stream")]
    fn into_stream<K: 'static>(self) -> ClaimStream
    where
        P: Chunks<K>,
    {
        ClaimStream::new(Held(self))
    }

    /// Turns the claim into a stream of the payload's items, cloned: as [`Claim::into_items`].
    #[cfg(feature = "stream")]
    fn into_items<T>(self) -> ClaimItems<T>
    where
        P: AsRef<[T]>,
        T: Clone,
    {
        ClaimItems::new(Held(self))
    }
}

/// Lends any claim to the deliveries.
struct Held<C>(C);

impl<P, C> Deref for Held<C>
where
    C: CloakroomClaim<P> + Deref<Target = P>,
{
    type Target = P;

    fn deref(&self) -> &P {
        &self.0
    }
}

impl<P, C> Deliver for Held<C>
where
    C: CloakroomClaim<P> + Deref<Target = P>,
{
    fn finish(self) {
        drop(self.0.on_drop(OnDrop::Finish));
    }
}

impl<P, O> CloakroomClaim<P> for Claim<P, O>
where
    P: Send + Sync + 'static,
    O: Eq + Hash + Send + Sync + 'static,
{
    fn into_inner(self) -> P {
        Claim::into_inner(self)
    }

    fn put_back(self) -> impl Future<Output = ()> + Send {
        // The future may be dropped before it is polled.
        let claim = Claim::on_drop(self, OnDrop::PutBack);
        async move {
            Claim::put_back(claim);
        }
    }

    fn on_drop(self, what: OnDrop) -> Self {
        Claim::on_drop(self, what)
    }

    async fn renew(&mut self, ttl: Duration) -> Result<bool, Failure> {
        Ok(Claim::renew(self, ttl))
    }

    fn into_bytes(self) -> Bytes
    where
        P: AsRef<[u8]>,
    {
        Claim::into_bytes(self)
    }
}
