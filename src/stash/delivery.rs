//! Delivers a payload in parts, and finishes the claim or puts it back.
//!
//! The parts of one delivery share the claim by reference count. The last of them to be dropped ends it:
//! delivered if all bytes had been handed out, otherwise as [`Claim::on_drop`] says.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::claim::{Claim, OnDrop};
use crate::sync::atomic::{AtomicBool, Ordering};

/// Gives out a payload's bytes in contiguous chunks.
///
/// [`Claim::into_reader`], [`into_body`](Claim::into_body) and [`into_stream`](Claim::into_stream) read a
/// payload through it. It is there for every payload that is `AsRef<[u8]>`, which is one chunk, and for
/// lists of such: `Vec<Bytes>`, `VecDeque<Vec<u8>>`, `Arc<[Bytes]>` and the like. `Kind` only tells these
/// two apart: leave it out when you implement it.
///
/// # Examples
///
/// ```
/// use std::io::Read;
/// use cloakroom::{Chunks, Payload, Stash};
///
/// struct Report {
///     head: String,
///     rows: Vec<u8>,
/// }
///
/// impl Payload for Report {
///     fn size(&self) -> usize {
///         self.head.len() + self.rows.len()
///     }
/// }
///
/// impl Chunks for Report {
///     fn chunk(&self, index: usize) -> Option<&[u8]> {
///         [self.head.as_bytes(), &self.rows].get(index).copied()
///     }
/// }
///
/// let stash: Stash<Report, ()> = Stash::builder().max_bytes(1_000).build()?;
/// let report = Report { head: "n\n".into(), rows: b"1\n2\n".to_vec() };
/// let ticket = stash.try_put((), report).unwrap();
/// let mut text = String::new();
/// stash.claim(&ticket, &()).unwrap().into_reader().read_to_string(&mut text)?;
/// assert_eq!(text, "n\n1\n2\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Chunks<Kind = ()> {
    /// Returns the chunk at `index`, counted from 0, or `None` behind the last.
    ///
    /// Always returns the same: a delivery asks for each chunk twice, first for its length.
    fn chunk(&self, index: usize) -> Option<&[u8]>;
}

/// Marks payloads that are one chunk: [`Chunks`] of `AsRef<[u8]>`. Has no values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contiguous {}

impl<P: AsRef<[u8]>> Chunks<Contiguous> for P {
    fn chunk(&self, index: usize) -> Option<&[u8]> {
        (index == 0).then(|| self.as_ref())
    }
}

macro_rules! chunks_of_lists {
    ($($list:ty),*) => {
        $(impl<T: AsRef<[u8]>> Chunks for $list {
            fn chunk(&self, index: usize) -> Option<&[u8]> {
                self.get(index).map(AsRef::as_ref)
            }
        })*
    };
}

chunks_of_lists!(Vec<T>, VecDeque<T>, Box<[T]>, Arc<[T]>);

/// Holds a payload while its parts are delivered: a claim of this stash, or of another implementation.
///
/// Dropping it ends it as its `on_drop` says.
pub(crate) trait Deliver: Deref<Target: Sized> + Send + Sync + 'static {
    /// Ends it as delivered.
    fn finish(self);
}

impl<P, O> Deliver for Claim<P, O>
where
    P: Send + Sync + 'static,
    O: Send + 'static,
{
    fn finish(self) {
        drop(self.on_drop(OnDrop::Finish));
    }
}

/// Holds the part of a payload that has not been handed out yet.
pub(crate) struct Parts {
    /// The rest of the current chunk.
    rest: Bytes,
    /// Until all has been handed out.
    source: Option<Arc<dyn Source>>,
    next: usize,
    chunks: usize,
    /// The bytes of `rest` and of the chunks from `next` on.
    left: u64,
}

/// Gives out parts of a claim, whatever the claim's types.
trait Source: Send + Sync {
    /// Returns the chunk, as bytes that keep the claim.
    fn bytes(self: Arc<Self>, index: usize) -> Bytes;
    /// Records that all of it has been handed out: the last part's drop delivers.
    fn complete(&self);
}

impl Parts {
    /// # Complexity
    ///
    /// O(chunks).
    pub(crate) fn new<C, K>(claim: C) -> Self
    where
        C: Deliver,
        C::Target: Chunks<K>,
        K: 'static,
    {
        // User code: if it panics, the claim is dropped as a claim.
        let lengths = (0..).map_while(|index| Some(claim.chunk(index)?.len() as u64));
        let (chunks, left) = lengths.fold((0, 0), |(chunks, left), len| (chunks + 1, left + len));
        let source =
            Delivery { claim: Some(claim), complete: AtomicBool::new(false), kind: PhantomData };
        Self { rest: Bytes::new(), source: Some(Arc::new(source)), next: 0, chunks, left }
    }

    /// Returns the number of bytes that have not been handed out.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Returns whether the end was reached. An empty payload's is reached when it is asked for.
    #[cfg(feature = "http-body")]
    pub(crate) fn is_at_end(&self) -> bool {
        self.source.is_none()
    }

    /// Fills `rest`, if there is more. `false`: this is the end, and a caller has asked for more.
    fn fill(&mut self) -> bool {
        while self.rest.is_empty() {
            let (Some(source), true) = (&self.source, self.next < self.chunks) else {
                self.end();
                return false;
            };
            self.rest = Arc::clone(source).bytes(self.next);
            self.next += 1;
        }
        true
    }

    /// Hands out at most `max` bytes, in one piece; `None` at the end.
    #[cfg(any(feature = "http-body", feature = "stream"))]
    pub(crate) fn next(&mut self, max: usize) -> Option<Bytes> {
        if !self.fill() {
            return None;
        }
        let part = self.rest.split_to(self.rest.len().min(max));
        self.record_handed_out(part.len());
        Some(part)
    }

    /// Returns the next bytes, which are not handed out until they are [consumed](Self::consume).
    ///
    /// It returns no bytes at the end.
    pub(crate) fn peek(&mut self) -> &[u8] {
        self.fill();
        &self.rest
    }

    /// # Panics
    ///
    /// If these are more than `peek` has shown.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.rest.advance(bytes);
        if self.rest.is_empty() {
            // It would keep the claim.
            self.rest = Bytes::new();
        }
        self.record_handed_out(bytes);
    }

    fn record_handed_out(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
        if bytes > 0 && self.left == 0 {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(source) = self.source.take() {
            source.complete();
        }
    }
}

/// Holds the claim, shared by the parts of its delivery.
struct Delivery<C: Deliver, K> {
    /// Until it is dropped.
    claim: Option<C>,
    complete: AtomicBool,
    kind: PhantomData<fn() -> K>,
}

impl<C, K> Source for Delivery<C, K>
where
    C: Deliver,
    C::Target: Chunks<K>,
    K: 'static,
{
    fn bytes(self: Arc<Self>, index: usize) -> Bytes {
        Bytes::from_owner(Chunk { delivery: self, index })
    }

    fn complete(&self) {
        // ORDERING: Relaxed [delivery.complete.set]: read after the last part was dropped, which counts
        // references.
        self.complete.store(true, Ordering::Relaxed);
    }
}

impl<C: Deliver, K> Drop for Delivery<C, K> {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        // ORDERING: Relaxed [delivery.complete.get]: after [delivery.complete.set], by the parts' count of
        // references.
        let complete = self.complete.load(Ordering::Relaxed);
        if complete {
            claim.finish();
        }
    }
}

/// Holds one chunk of a payload, and keeps the claim.
struct Chunk<C: Deliver, K> {
    delivery: Arc<Delivery<C, K>>,
    index: usize,
}

impl<C, K> AsRef<[u8]> for Chunk<C, K>
where
    C: Deliver,
    C::Target: Chunks<K>,
{
    fn as_ref(&self) -> &[u8] {
        let claim = self.delivery.claim.as_ref();
        claim.and_then(|claim| C::Target::chunk(claim, self.index)).unwrap_or_default()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("left", &self.left).finish_non_exhaustive()
    }
}

/// Gives out a payload's items one by one, as clones.
///
/// So the payload can still be put back.
#[cfg(feature = "stream")]
pub(crate) struct Items<T> {
    source: Option<Box<dyn ItemSource<T>>>,
    next: usize,
    len: usize,
}

#[cfg(feature = "stream")]
trait ItemSource<T>: Send + Sync {
    fn item(&self, index: usize) -> Option<T>;
    fn finish(self: Box<Self>);
}

#[cfg(feature = "stream")]
impl<C, T: Clone> ItemSource<T> for C
where
    C: Deliver,
    C::Target: AsRef<[T]>,
{
    fn item(&self, index: usize) -> Option<T> {
        (**self).as_ref().get(index).cloned()
    }

    fn finish(self: Box<Self>) {
        Deliver::finish(*self);
    }
}

#[cfg(feature = "stream")]
impl<T> Items<T> {
    pub(crate) fn new<C>(claim: C) -> Self
    where
        C: Deliver,
        C::Target: AsRef<[T]>,
        T: Clone,
    {
        let len = (*claim).as_ref().len();
        Self { source: Some(Box::new(claim)), next: 0, len }
    }

    /// Returns the number of items that have not been handed out.
    pub(crate) fn left(&self) -> usize {
        self.len - self.next
    }

    /// Hands out the next item. At the end the claim is finished.
    pub(crate) fn next(&mut self) -> Option<T> {
        let item = if self.next < self.len { self.source.as_ref()?.item(self.next) } else { None };
        match item {
            Some(_) => self.next += 1,
            None => drop(self.source.take().map(ItemSource::finish)),
        }
        item
    }
}

/// Finishes the claim if all items were handed out, even without a call for the end.
///
/// A payload without items is finished only if its end was asked for.
#[cfg(feature = "stream")]
impl<T> Drop for Items<T> {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            if self.next == self.len && self.len > 0 {
                source.finish();
            }
        }
    }
}
