//! Holds acquired bytes, and releases them on drop.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::ptr;

use super::semaphore::Semaphore;
use super::{Budget, MAX_LIMIT, Tier};
use crate::maybe_owned::MaybeOwned;
use crate::sync::Arc;

/// Holds bytes of a [`Budget`]. Dropping it releases them and grants waiters.
///
/// A permit borrows its budget. [`into_owned`](Self::into_owned) makes one that does not, which can be moved into a
/// task or kept in a struct.
///
/// # Memory ordering
///
/// What was done under a permit happens before what is done later under the same bytes, and after
/// [`drained`](Budget::drained). A permit of 0 bytes holds nothing and orders nothing.
///
/// # Examples
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
    /// Counted, and dropped with the permit, if `state` has `OWNED`; else a copy of a handle that outlives `'a`.
    semaphore: ManuallyDrop<Arc<Semaphore>>,
    /// Packs the bytes and two flags above them, so that a permit is two machine words and cheap to drop.
    state: u64,
    borrowed: PhantomData<&'a Budget>,
}

const OWNED: u64 = 1 << 63;
/// Some of the bytes came from the overflow.
const OVERFLOW: u64 = 1 << 62;
const BYTES: u64 = OVERFLOW - 1;
const _: () = assert!(MAX_LIMIT <= BYTES);

impl<'a> Permit<'a> {
    /// Makes a permit for `bytes` that the caller has acquired.
    #[inline]
    pub(super) fn new(semaphore: &'a Arc<Semaphore>, bytes: u64, tier: Tier) -> Self {
        let overflow = if tier == Tier::Overflow { OVERFLOW } else { 0 };
        // SAFETY: the copy is dropped only if it is `OWNED`, and the original outlives it.
        let semaphore = ManuallyDrop::new(unsafe { ptr::read(semaphore) });
        Self { semaphore, state: bytes | overflow, borrowed: PhantomData }
    }

    /// Makes a permit for acquired `bytes`. It owns its handle if the request did.
    pub(super) fn of(semaphore: &MaybeOwned<'a, Arc<Semaphore>>, bytes: u64, tier: Tier) -> Self {
        match semaphore {
            MaybeOwned::Borrowed(semaphore) => Self::new(semaphore, bytes, tier),
            MaybeOwned::Owned(semaphore) => Permit::new(semaphore, bytes, tier).into_owned(),
        }
    }

    /// Returns the tier that the bytes came from, before any split or merge.
    #[inline]
    pub(crate) fn tier(&self) -> Tier {
        if self.state & OVERFLOW == 0 { Tier::Regular } else { Tier::Overflow }
    }

    /// Returns the bytes that the permit holds.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.state & BYTES
    }

    /// Releases all but `to` bytes. Does nothing if the permit holds no more than that.
    pub fn shrink(&mut self, to: u64) {
        if let Some(excess) = self.bytes().checked_sub(to) {
            self.state -= excess;
            self.semaphore.release(excess);
        }
    }

    /// Moves `bytes` into a permit of their own.
    ///
    /// # Returns
    ///
    /// `None`, and nothing changes, if the permit holds fewer.
    pub fn split(&mut self, bytes: u64) -> Option<Permit<'a>> {
        self.bytes().checked_sub(bytes)?;
        self.state -= bytes;
        // SAFETY: an `OWNED` copy is counted in the next lines; any other is as in `new`.
        let semaphore = unsafe { ptr::read(&self.semaphore) };
        if self.state & OWNED != 0 {
            mem::forget(Arc::clone(&semaphore));
        }
        Some(Permit { semaphore, state: bytes | self.state & OWNED, borrowed: PhantomData })
    }

    /// Takes over the bytes of another permit of the same budget.
    ///
    /// # Panics
    ///
    /// If `other` is from another budget. Both permits then release their bytes as usual.
    pub fn merge(&mut self, mut other: Permit<'_>) {
        assert!(
            Arc::ptr_eq(&self.semaphore, &other.semaphore),
            "merged permits of two different budgets"
        );
        self.state += other.take_bytes();
    }

    /// Forgets the bytes without a release.
    ///
    /// From then on the budget has less to grant, and the bytes count as used: a closed budget is never
    /// [drained](Budget::drained).
    #[inline]
    pub fn forget(mut self) {
        if self.state & OWNED == 0 {
            // Nothing is left for `drop` to do.
            mem::forget(self);
        } else {
            self.take_bytes();
        }
    }

    /// Makes the permit independent of the borrowed budget.
    pub fn into_owned(mut self) -> Permit<'static> {
        let semaphore = ManuallyDrop::new(Arc::clone(&self.semaphore));
        let state = self.state | OWNED;
        self.take_bytes();
        Permit { semaphore, state, borrowed: PhantomData }
    }

    /// Returns the budget that the permit is from.
    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget { semaphore: Arc::clone(&self.semaphore) }
    }

    /// Moves all bytes out of the permit.
    #[inline]
    fn take_bytes(&mut self) -> u64 {
        let bytes = self.bytes();
        self.state -= bytes;
        bytes
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        let bytes = self.bytes();
        if bytes != 0 {
            self.semaphore.release(bytes);
        }
        if self.state & OWNED != 0 {
            // SAFETY: counted, and not used after this.
            unsafe { ManuallyDrop::drop(&mut self.semaphore) };
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
