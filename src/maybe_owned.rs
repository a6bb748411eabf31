//! Borrows or owns a handle, for futures that come in both forms.

use std::ops::Deref;

/// Holds a `T` by reference or by value.
#[derive(Clone, Debug)]
pub(crate) enum MaybeOwned<'a, T> {
    Borrowed(&'a T),
    Owned(T),
}

impl<T> Deref for MaybeOwned<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match self {
            MaybeOwned::Borrowed(value) => value,
            MaybeOwned::Owned(value) => value,
        }
    }
}
