//! Measures the payloads that a stash can store.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Reports the size of a payload, so that a stash can charge it.
///
/// The stash asks for the size once, when the payload is put. It charges that size and releases exactly that,
/// whatever the payload would report later. The size should be the memory that is freed with the payload. The
/// implementations here count contents, not spare capacity: shrink a `Vec` that has much of it, or turn it
/// into a `Box` or `Bytes`. They count everything that the payload points at, but not the payload's own bytes
/// in the slot: those are in the [entry overhead](crate::Builder::entry_overhead). Elements of a `Vec` are
/// counted with their own bytes.
///
/// A type of another crate needs no wrapper: see [`Builder::weigher`](crate::Builder::weigher).
///
/// ```
/// use cloakroom::{Payload, Stash};
///
/// struct Rendered {
///     html: String,
///     thumbnail: Vec<u8>,
/// }
///
/// impl Payload for Rendered {
///     fn size(&self) -> usize {
///         self.html.len() + self.thumbnail.len()
///     }
/// }
///
/// let stash: Stash<Rendered> = Stash::builder().max_bytes(1 << 20).build()?;
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
pub trait Payload {
    /// Returns the size in bytes.
    fn size(&self) -> usize;
}

macro_rules! payload_by_len {
    ($($type:ty),*) => {
        $(impl Payload for $type {
            #[inline]
            fn size(&self) -> usize {
                self.len()
            }
        })*
    };
}

payload_by_len!([u8], str, Vec<u8>, String, Bytes, BytesMut);

/// Counts the elements themselves, and what they point at. Takes O(n) steps.
impl<P: Payload> Payload for [P] {
    fn size(&self) -> usize {
        let pointed_at = self.iter().map(P::size);
        pointed_at.fold(size_of_val(self), usize::saturating_add)
    }
}

/// Counts the elements themselves, and what they point at. Takes O(n) steps.
impl<P: Payload> Payload for Vec<P> {
    fn size(&self) -> usize {
        self.as_slice().size()
    }
}

/// Counts the elements themselves, and what they point at. Takes O(n) steps.
impl<P: Payload> Payload for VecDeque<P> {
    fn size(&self) -> usize {
        let (front, back) = self.as_slices();
        front.size().saturating_add(back.size())
    }
}

/// Counts the content, as the content does.
impl<P: Payload + ?Sized> Payload for Box<P> {
    #[inline]
    fn size(&self) -> usize {
        (**self).size()
    }
}

/// Counts the content in every clone: its memory is freed with the last one.
impl<P: Payload + ?Sized> Payload for Arc<P> {
    #[inline]
    fn size(&self) -> usize {
        (**self).size()
    }
}

/// Counts the content, borrowed or not.
impl<P: Payload + ToOwned + ?Sized> Payload for Cow<'_, P> {
    #[inline]
    fn size(&self) -> usize {
        (**self).size()
    }
}

/// Counts nothing for `None`.
impl<P: Payload> Payload for Option<P> {
    #[inline]
    fn size(&self) -> usize {
        self.as_ref().map_or(0, P::size)
    }
}

/// Counts both.
impl<P: Payload, Q: Payload> Payload for (P, Q) {
    #[inline]
    fn size(&self) -> usize {
        self.0.size().saturating_add(self.1.size())
    }
}

/// Weighs the payloads of a stash, in the type of its [`Builder`](crate::Builder).
///
/// [`Builder::weigher`](crate::Builder::weigher) makes it. With it the payload need not be a [`Payload`].
pub struct Weigher<P, O>(Box<Weigh<P, O>>);

type Weigh<P, O> = dyn Fn(&O, &P) -> u64 + Send + Sync;

impl<P, O> Weigher<P, O> {
    pub(crate) fn new(weigh: impl Fn(&O, &P) -> u64 + Send + Sync + 'static) -> Self {
        Self(Box::new(weigh))
    }
}

impl<P, O> fmt::Debug for Weigher<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weigher").finish_non_exhaustive()
    }
}

/// Weighs an entry. It always runs user code, so the caller must hold nothing.
pub(crate) enum Scales<P, O> {
    /// By the payload's size. A pointer, so that only `build` needs to know that it has one.
    Size(fn(&P) -> usize),
    Weigher(Weigher<P, O>),
}

impl<P, O> Scales<P, O> {
    #[inline]
    pub(crate) fn weigh(&self, owner: &O, payload: &P) -> u64 {
        match self {
            Self::Size(size) => size(payload) as u64,
            Self::Weigher(Weigher(weigh)) => weigh(owner, payload),
        }
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn b15_sizes_of_what_people_hold() {
        let handle = size_of::<Bytes>();
        assert_eq!(Bytes::from_static(b"abc").size(), 3);
        assert_eq!(BytesMut::from(&b"abc"[..]).size(), 3);
        assert_eq!(vec![Bytes::from_static(b"abc"), Bytes::new()].size(), 3 + 2 * handle);
        assert_eq!(vec![Bytes::new(); 1000].into_boxed_slice().size(), 1000 * handle);
        assert_eq!((Arc::new(vec![1_u8; 5]).size(), Box::new("12345".to_owned()).size()), (5, 5));
        assert_eq!((Arc::<[u8]>::from([1; 5]).size(), Arc::<str>::from("12345").size()), (5, 5));
        assert_eq!((Box::<[u8]>::from([1; 5]).size(), Box::<str>::from("12345").size()), (5, 5));
        assert_eq!((Cow::Borrowed("123").size(), Cow::<[u8]>::Owned(vec![1; 4]).size()), (3, 4));
        assert_eq!((Some(vec![1_u8; 5]).size(), None::<String>.size()), (5, 0));
        assert_eq!(("text/plain".to_owned(), Some(Bytes::from_static(b"abc"))).size(), 13);
        let dynamic: Box<dyn Payload> = Box::new(vec![1_u8; 5]);
        assert_eq!(dynamic.size(), 5);
    }
}
