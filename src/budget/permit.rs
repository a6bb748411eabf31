//! Bytes held from a budget, given back on drop.

use std::fmt;
use std::mem;

use super::core::Core;
use super::{Budget, Tier};
use crate::sync::Arc;

/// Bytes held from a [`Budget`]. Dropping it gives them back and serves the line.
///
/// A permit borrows its budget; [`into_owned`](Self::into_owned) makes one that does not, to be moved
/// into a task or kept in a struct.
///
/// ```
/// # use cloakroom::Budget;
/// let budget = Budget::new(100);
/// let mut permit = budget.try_acquire(80)?;
/// permit.shrink(50);
/// let half = permit.split(25).expect("it holds more");
/// assert_eq!((permit.bytes(), half.bytes(), budget.used()), (25, 25, 50));
/// # Ok::<(), cloakroom::AcquireError>(())
/// ```
#[must_use = "a permit that is dropped gives its bytes back at once"]
pub struct Permit<'a> {
    budget: Holder<'a>,
    bytes: u64,
    tier: Tier,
}

enum Holder<'a> {
    Borrowed(&'a Arc<Core>),
    Owned(Arc<Core>),
}

impl Holder<'_> {
    fn core(&self) -> &Arc<Core> {
        match self {
            Holder::Borrowed(core) => core,
            Holder::Owned(core) => core,
        }
    }
}

impl<'a> Permit<'a> {
    /// `bytes` have been charged.
    #[inline]
    pub(super) fn new(core: &'a Arc<Core>, bytes: u64, tier: Tier) -> Self {
        Self { budget: Holder::Borrowed(core), bytes, tier }
    }

    /// Where its bytes were from when they were charged.
    #[inline]
    pub(crate) fn tier(&self) -> Tier {
        self.tier
    }

    /// The bytes it holds.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but `to` bytes. Does nothing if it holds no more than that.
    pub fn shrink(&mut self, to: u64) {
        if let Some(excess) = self.bytes.checked_sub(to) {
            self.bytes = to;
            self.budget.core().release(excess);
        }
    }

    /// Moves `bytes` of it into a permit of their own. `None`, and nothing changes, if it holds fewer.
    pub fn split(&mut self, bytes: u64) -> Option<Permit<'a>> {
        let rest = self.bytes.checked_sub(bytes)?;
        let budget = match &self.budget {
            Holder::Borrowed(core) => Holder::Borrowed(core),
            Holder::Owned(core) => Holder::Owned(Arc::clone(core)),
        };
        self.bytes = rest;
        Some(Permit { budget, bytes, tier: self.tier })
    }

    /// Takes over the bytes of another permit of the same budget.
    ///
    /// # Panics
    ///
    /// If `other` is from another budget. Both permits then give their bytes back as usual.
    pub fn merge(&mut self, mut other: Permit<'_>) {
        assert!(
            Arc::ptr_eq(self.budget.core(), other.budget.core()),
            "merged permits of two different budgets"
        );
        self.bytes += mem::take(&mut other.bytes);
        if other.tier == Tier::Overflow {
            self.tier = Tier::Overflow;
        }
    }

    /// Never gives the bytes back: the budget is smaller by them from now on, though they count as used.
    #[inline]
    pub fn forget(mut self) {
        match self.budget {
            Holder::Borrowed(_) => mem::forget(self),
            Holder::Owned(_) => self.bytes = 0,
        }
    }

    /// The same permit, without the borrow.
    pub fn into_owned(mut self) -> Permit<'static> {
        let budget = Holder::Owned(Arc::clone(self.budget.core()));
        Permit { budget, bytes: mem::take(&mut self.bytes), tier: self.tier }
    }

    /// The budget it is from.
    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget { core: Arc::clone(self.budget.core()) }
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.bytes != 0 {
            self.budget.core().release(self.bytes);
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
