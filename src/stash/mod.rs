//! Joins a budget and a slot map behind one handle: the stash.
//!
//! This file has the handle and the operations that need no waiting: take, sweep, clear, close, counts.
//! `shared.rs` has what all handles share. `admission.rs` decides whether a request gets its bytes,
//! immediately or after a wait; `put.rs` and `reserve.rs` call it. `claim.rs` delivers, `reaper.rs` expires
//! without traffic.

mod admission;
mod alarms;
mod builder;
mod claim;
mod counters;
mod delivery;
mod expiry;
mod options;
mod put;
mod reader;
mod reaper;
mod reserve;
mod shared;
mod shutdown;
mod stats;
mod unsent;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use self::shared::Inner;
use crate::budget::{Budget, Drained};
#[cfg(doc)]
use crate::error::Refusal;
use crate::observe::Event;
use crate::slots::{MapHandle, Removed, SlotMap};

#[cfg(cloakroom_loom)]
pub(crate) use self::alarms::NextSweep;
pub use self::builder::Builder;
pub use self::claim::{Claim, OnDrop};
pub(crate) use self::delivery::Deliver;
#[cfg(feature = "stream")]
pub(crate) use self::delivery::Items;
#[cfg(any(feature = "http-body", feature = "stream"))]
pub(crate) use self::delivery::Parts;
pub use self::delivery::{Chunks, Contiguous};
pub use self::options::PutOptions;
pub use self::put::Put;
pub use self::reader::ClaimReader;
pub use self::reaper::Reaper;
pub use self::reserve::{Reservation, ReservationError, Reserve};
pub use self::stats::{Refused, Stats};
pub use self::unsent::Unsent;
use crate::ticket::Ticket;

/// Stores each payload under a ticket until its owner takes it, once, or it expires.
///
/// It is memory-bounded, and each payload is delivered at most once. `P` is the type of the payloads. `O` is
/// the type of their owners: anything with `Eq` and `Hash`, such as a user id, looked up by borrow as in a
/// `HashMap`; `()` for a stash without owners. The owners' `Hash` should tell them apart: while an owner with
/// the same hash as the right one, and with the ticket, is compared, a `take` by the right owner can find
/// nothing.
///
/// A `Stash` is a handle: cloning it is cheap, and all clones are the same stash. Claims and reservations are
/// handles, too. When the last handle is dropped, the remaining entries are dropped and their bytes released.
/// Clones of its [`budget`](Self::budget) live on, and grant the bytes to their waiters.
///
/// # What it promises
///
/// - The charges (payload sizes and entry overheads) never sum to more than the limit.
/// - When it is full, [`put`](Self::put) waits in the wait queue, strictly first come, first served. While a
///   request waits no other overtakes it, not even one that would fit.
/// - Nothing is evicted: a ticket is good until its payload is taken, or expires, or is cleared. Every
///   refusal hands the payload back.
/// - Unknown ticket, wrong owner, expired, already taken: all are `None`, and change nothing for any caller.
///
/// # Re-entrancy and panics
///
/// User code (a waker, the drop of a payload, an owner's `Eq`, the clock) may call any method of the same
/// stash. A panic in *another caller's* code that a call happens to run (another task's waker, the drop of
/// another caller's payload) does not reach this caller. A panic in the caller's own code (its owner's `Eq`,
/// its payload's size) does, and leaves everything consistent.
///
/// # Memory ordering
///
/// What a thread did before a call is visible to a thread whose call depends on it. The calls on the left *happen
/// before* those on the right:
///
/// | before | after |
/// |---|---|
/// | a put, or the put of a [`Reservation`] | the [`take`](Self::take) or [`claim`](Self::claim) of its ticket; the drop of its payload |
/// | a [`Claim`] that is put back | the next `take` or `claim` of its ticket |
/// | a release of bytes: a `take`, the end of a claim, a reservation's drop, a [`gc`](Self::gc) or [`clear`](Self::clear) | a put, reservation or permit that uses them, whether it waited or not |
/// | all of these | [`drained`](Self::drained), [`drained_timeout`](Self::drained_timeout) |
/// | [`close`](Self::close) | a refusal as [`Closed`](Refusal::Closed); [`is_closed`](Self::is_closed) if `true`; `drained` |
/// | [`set_max_bytes`](Self::set_max_bytes) that raises the limit | an admission that fits because of it |
/// | the drop of a handle | the drops of the remaining entries with the last handle |
///
/// Numbers ([`len`](Self::len), [`stats`](Self::stats)), other refusals, a `take` that finds nothing and the
/// end of a [`Reaper`] order nothing. A `clear` and a sweep release the bytes first and drop the payloads
/// afterwards.
///
/// # Complexity
///
/// `try_put` and `take` are O(1), however many entries are stored, and lock-free while the wait queue is
/// empty and owners have no quota.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use cloakroom::{Refusal, Stash};
///
/// let stash: Stash<Vec<u8>, u64> =
///     Stash::builder().max_bytes(1_000).ttl(Duration::from_secs(600)).build()?;
///
/// let alice = 17;
/// let ticket = stash.try_put(alice, vec![0; 600]).unwrap();
///
/// // Full: the payload comes back.
/// let refused = stash.try_put(alice, vec![1; 600]).unwrap_err();
/// assert_eq!(refused.reason(), Refusal::Full);
/// let payload = refused.into_payload();
///
/// let mallory = 18;
/// assert!(stash.take(&ticket, &mallory).is_none());
/// assert_eq!(stash.take(&ticket, &alice).unwrap().len(), 600);
/// assert!(stash.take(&ticket, &alice).is_none());
///
/// // Now there is room.
/// stash.try_put(alice, payload).unwrap();
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
pub struct Stash<P, O = Arc<str>> {
    inner: Arc<Inner<P, O>>,
}

// SAFETY: the map is in the `Arc`, which every clone of the handle shares and none can replace.
unsafe impl<P, O> MapHandle<P, O> for Stash<P, O> {
    fn map(&self) -> &SlotMap<P, O> {
        &self.inner.slots
    }
}

impl<P, O> Stash<P, O> {
    /// Returns the budget that the entries are charged to.
    ///
    /// Its bare permits wait in the same wait queue as puts and reservations. Its limit is
    /// [`max_bytes`](Self::max_bytes) and the overflow together.
    ///
    /// ```
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// // A buffer that is to count as well.
    /// let permit = stash.budget().try_acquire(400)?;
    /// assert_eq!(stash.used_bytes(), 400);
    /// # drop(permit);
    /// # Ok::<(), cloakroom::AcquireError>(())
    /// ```
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    /// Removes entries that have expired, and returns how many. Their bytes are then free.
    ///
    /// Entries that another call is removing at the same time are left to that call. A put that finds no room
    /// sweeps by itself, so puts do not depend on this. To expire entries on time without traffic, run a
    /// [`reaper`](Self::reaper).
    ///
    /// # Complexity
    ///
    /// O(expired), and a few steps for the rest: with a million entries of which one has expired, it reads a
    /// few hundred words. It releases the bytes in batches, so it does not hold up other calls.
    pub fn gc(&self) -> usize {
        let now = self.inner.now();
        let mut removed = 0;
        loop {
            let (batch, next) = self.inner.expire_batch(now);
            removed += batch;
            if batch == 0 || next > now {
                return removed;
            }
        }
    }

    /// Removes every entry, and returns how many. Waiters are granted the bytes.
    ///
    /// The tickets are invalid afterwards. An entry that is put meanwhile may be removed or not. A
    /// [claimed](Self::claim) entry stays claimed and can be delivered, but is removed instead of being put
    /// back.
    ///
    /// # Complexity
    ///
    /// O(the most entries that were ever stored at once).
    pub fn clear(&self) -> usize {
        let removed = self.inner.slots.clear();
        let (count, bytes) = (removed.count(), removed.bytes());
        self.inner.counters.cleared.add(count as u64);
        // All at once, after the sweep: entries that waiters put with these bytes stay.
        self.budget().release(bytes);
        drop(removed);
        if count > 0 {
            self.inner.observe(|| Event::Cleared { entries: count, bytes });
        }
        count
    }

    /// Closes the stash for new payloads, permanently, and returns how many requests were waiting.
    ///
    /// Returns 0 if it was closed already. These requests, and all later puts, get their payload back with
    /// [`Refusal::Closed`](crate::Refusal::Closed). Entries can still be taken, and reservations used.
    pub fn close(&self) -> usize {
        self.budget().close()
    }

    /// Returns whether the stash has been closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.budget().is_closed()
    }

    /// Completes when the stash is closed *and* nothing is charged any more.
    ///
    /// Then every entry is taken, expired or cleared, every claim delivered, every reservation used or
    /// dropped. Empty payloads count as others do. It waits for the [`close`](Self::close) too. Expiry
    /// without traffic needs a [`reaper`](Self::reaper).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// A graceful shutdown: no new payloads, half a minute to fetch the stored ones, then the rest is
    /// dropped.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::Stash;
    /// async fn shut_down(stash: &Stash<Vec<u8>>) {
    ///     stash.close();
    ///     let patience = Duration::from_secs(30);
    ///     if tokio::time::timeout(patience, stash.drained()).await.is_err() {
    ///         let lost = stash.clear();
    ///         eprintln!("{lost} results were not fetched");
    ///     }
    /// }
    /// ```
    pub fn drained(&self) -> Drained<'_> {
        self.budget().drained()
    }

    /// Waits as [`drained`](Self::drained) does, blocking this thread for at most `timeout`.
    ///
    /// # Returns
    ///
    /// Whether the stash was closed and nothing was charged within that time.
    #[cfg(not(target_family = "wasm"))]
    pub fn drained_timeout(&self, timeout: Duration) -> bool {
        self.budget().drained_timeout(timeout)
    }

    /// Sets the limit, in bytes, while the stash is in use. The size of the overflow stays as it is.
    ///
    /// Raising the limit grants waiters immediately. Lowering it removes nothing: until enough entries have
    /// been taken or have expired, nothing is admitted. A waiting put that has become larger than the limit
    /// gets its payload back as [`TooLarge`](crate::Refusal::TooLarge) when it comes to the head. With 0,
    /// only the overflow admits anything.
    ///
    /// ```
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// assert!(stash.try_put((), vec![0; 2_000]).is_err());
    /// stash.set_max_bytes(4_000);
    /// assert!(stash.try_put((), vec![0; 2_000]).is_ok());
    /// ```
    pub fn set_max_bytes(&self, bytes: u64) {
        self.budget().set_limit(bytes.saturating_add(self.budget().overflow()));
    }

    /// Counts the entries: claimed ones included, and expired ones that no call has removed yet.
    ///
    /// Exact while no call puts or takes.
    ///
    /// # Complexity
    ///
    /// O(shards): four per core. Lock-free.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.slots.len()
    }

    /// Returns whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the sum of all charges, in bytes.
    ///
    /// Entries are charged, claimed ones included, and so are reservations, bare permits, and waiting puts
    /// that have been granted.
    ///
    /// Recalls room that is lent to threads, under the queue's lock: do not call it for every request.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.budget().used()
    }

    /// Returns the limit in bytes, without the overflow.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.budget().limit().saturating_sub(self.budget().overflow())
    }

    /// Counts the puts, reservations and bare permits in the wait queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.budget().waiting()
    }
}

impl<P, O> Stash<P, O> {
    /// Takes the payload out and releases its bytes, if the ticket is good for `owner`.
    ///
    /// To keep the bytes charged until the payload is delivered, and to be able to put it back, use
    /// [`claim`](Self::claim).
    ///
    /// # Returns
    ///
    /// `None` for a ticket that is unknown, another owner's, expired or taken already, and for an entry that is
    /// [claimed](Self::claim): the answers are equal, so that no caller learns anything from the difference.
    ///
    /// # Memory ordering
    ///
    /// The put of the payload happens before this returns it.
    ///
    /// # Complexity
    ///
    /// O(1), and lock-free while no request waits and owners have no quota.
    #[inline]
    pub fn take<Q>(&self, ticket: &Ticket, owner: &Q) -> Option<P>
    where
        O: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let now = self.inner.now();
        match self.inner.slots.remove(*ticket, owner, now, || self.inner.counters.expired.add(1))? {
            Removed::Delivered(gone) => Some(self.inner.deliver(gone)),
            Removed::Expired(gone) => {
                self.inner.discard_expired(gone);
                None
            }
        }
    }

    /// Returns the bytes that the owner's entries, reservations and waiting requests are charged.
    ///
    /// It is 0 unless [`max_bytes_per_owner`](Builder::max_bytes_per_owner) is set: no count is kept
    /// otherwise.
    #[must_use]
    pub fn owner_used_bytes<Q>(&self, owner: &Q) -> u64
    where
        O: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let slots = &self.inner.slots;
        slots.owner_key(owner).map_or(0, |key| slots.owner_used(key))
    }
}

impl<P, O> Clone for Stash<P, O> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<P, O> fmt::Debug for Stash<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stash")
            .field("len", &self.len())
            .field("used_bytes", &self.used_bytes())
            .field("max_bytes", &self.max_bytes())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}
