//! Ends a wait early: with the futures that `until` and `timeout` add to it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::error::Refusal;

/// Ends no wait: a wait as it is before [`until`](crate::Acquire::until) or
/// [`timeout`](crate::Acquire::timeout) bounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Never;

pin_project! {
    /// Ends a wait when a future completes, or when an earlier bound does.
    ///
    /// `U` is the bound that was there before ([`Never`], or another `Until`), `F` the future. Made by
    /// `until` and `timeout` of [`Acquire`](crate::Acquire), [`Put`](crate::Put) and
    /// [`Reserve`](crate::Reserve); named only where such a future is stored.
    pub struct Until<U, F> {
        #[pin]
        earlier: U,
        #[pin]
        future: F,
        reason: Refusal,
    }
}

impl<U, F> Until<U, F> {
    pub(crate) fn new(earlier: U, future: F, reason: Refusal) -> Self {
        Self { earlier, future, reason }
    }
}

/// Bounds a waiting future. Sealed: [`Never`] and [`Until`] implement it.
pub trait GiveUp: sealed::Sealed {
    /// Completes with the reason for which the wait ends.
    #[doc(hidden)]
    fn poll_give_up(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Refusal>;
}

impl GiveUp for Never {
    #[inline]
    fn poll_give_up(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Refusal> {
        Poll::Pending
    }
}

impl<U: GiveUp, F: Future> GiveUp for Until<U, F> {
    fn poll_give_up(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Refusal> {
        let this = self.project();
        if let Poll::Ready(reason) = this.earlier.poll_give_up(cx) {
            return Poll::Ready(reason);
        }
        this.future.poll(cx).map(|_| *this.reason)
    }
}

impl<U, F> fmt::Debug for Until<U, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Until").field("reason", &self.reason).finish_non_exhaustive()
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Never {}
    impl<U, F> Sealed for super::Until<U, F> {}
}
