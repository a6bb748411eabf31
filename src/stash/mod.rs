//! The stash: a budget and a slot map behind one handle.
//!
//! This file has the handle, and what needs no waiting: take, collect, clear, close, counts. What every
//! handle shares is in `shared.rs`. `admission.rs` decides whether a request gets its bytes, now or after a
//! wait; `put.rs` and `reserve.rs` are its callers. `claim.rs` delivers, `reaper.rs` expires without traffic.

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

/// A memory-bounded, drain-on-read stash: a payload goes in under a ticket and comes out once, to its
/// owner, before its time is up.
///
/// `P` is what is stored, `O` who may take it: anything with `Eq` and `Hash`, such as a user id, looked up
/// by borrow as in a `HashMap`; `()` for a stash without owners. Its `Hash` should tell owners apart: while
/// an owner who hashes like the right one, and has the ticket, is compared, a `take` by the right one can
/// find nothing.
///
/// A `Stash` is a handle: cloning it is cheap, and all clones are the same stash. Claims and reservations are
/// handles, too. When the last one is dropped, the entries that are left are dropped and their bytes released:
/// clones of its [`budget`](Self::budget) live on, and serve whoever waits there.
///
/// # What it promises
///
/// - The charges (payload sizes and entry overheads) never sum to more than the limit.
/// - When it is full, [`put`](Self::put) waits in line, strictly first come first served. While anybody
///   waits nobody overtakes, not even with a request that would fit.
/// - Nothing is evicted: a ticket is good until its payload is taken, or expires, or is cleared. Every
///   refusal hands the payload back.
/// - Unknown ticket, wrong owner, expired, already taken: all are `None`, and change nothing for anybody.
///
/// # Re-entrancy and panics
///
/// User code (a waker, the drop of a payload, an owner's `Eq`, the clock) may call any method of the
/// same stash. A panic in *somebody else's* code that a call happens to run (another task's waker, the
/// drop of another's payload) does not reach the caller; a panic in the caller's own (its owner's `Eq`,
/// its payload's size) does, and leaves everything consistent.
///
/// # Memory ordering
///
/// What a thread did before a call is visible to a thread that got something because of it. These *happen
/// before* those:
///
/// | before | after |
/// |---|---|
/// | a put, or the put of a [`Reservation`] | the [`take`](Self::take) or [`claim`](Self::claim) of its ticket; the drop of its payload |
/// | a [`Claim`] that is put back | the next `take` or `claim` of its ticket |
/// | whatever gives bytes back: a `take`, the end of a claim, a reservation's drop, a [`gc`](Self::gc) or [`clear`](Self::clear) | a put, reservation or permit that uses them, whether it waited or not |
/// | all of these | [`drained`](Self::drained), [`drained_timeout`](Self::drained_timeout) |
/// | [`close`](Self::close) | a refusal as [`Closed`](Refusal::Closed); [`is_closed`](Self::is_closed) if `true`; `drained` |
/// | [`set_max_bytes`](Self::set_max_bytes) that raises the limit | what is admitted because of it |
/// | the drop of a handle | the drops of what is still in the stash when the last handle has gone |
///
/// Numbers ([`len`](Self::len), [`stats`](Self::stats)), other refusals, a `take` that finds nothing and the end
/// of a [`Reaper`] order nothing. A `clear` and a sweep free the bytes first and drop the payloads then.
///
/// # Complexity
///
/// `try_put` and `take` are O(1), whatever is held, and lock-free while nobody waits.
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
    /// The budget that the entries are charged to. Bare permits of it stand in the same line as puts and
    /// reservations; its limit is [`max_bytes`](Self::max_bytes) and the overflow together.
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

    /// Removes what has expired, and returns how many entries that was. Their bytes are free then. What
    /// another call is removing at the same time is left to it.
    ///
    /// It is done when a put finds no room, so that puts do not depend on calling it; to have entries go
    /// on time without traffic, run a [`reaper`](Self::reaper).
    ///
    /// # Complexity
    ///
    /// O(expired), and some steps for what is held: of a million entries of which one has expired, a few
    /// hundred words are read. Frees in batches, so it holds nobody up.
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

    /// Removes every entry, and returns how many that was. Tickets are dead then; waiters are served with
    /// the bytes. What is put meanwhile may be removed or not.
    ///
    /// What is [claimed](Self::claim) is being delivered, and stays so; but it is removed, too, instead of
    /// being put back.
    ///
    /// # Complexity
    ///
    /// O(the most entries that were ever held at once).
    pub fn clear(&self) -> usize {
        let dead = self.inner.slots.clear();
        let (count, bytes) = (dead.count(), dead.bytes());
        self.inner.counters.cleared.add(count as u64);
        // All at once, after the sweep: what waiters put with these bytes stays.
        self.budget().release(bytes);
        drop(dead);
        if count > 0 {
            self.inner.observe(|| Event::Cleared { entries: count, bytes });
        }
        count
    }

    /// Closes the stash for new payloads, for good, and returns how many were in line; 0 if it was closed
    /// already. They, and all later puts, get their payload back with [`Refusal::Closed`](crate::Refusal::Closed). Entries can still be
    /// taken, and reservations used.
    pub fn close(&self) -> usize {
        self.budget().close()
    }

    /// Whether it has been closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.budget().is_closed()
    }

    /// Completes when the stash is closed *and* nothing is charged any more: every entry is taken, expired or
    /// cleared, every claim delivered, every reservation used or dropped. Empty payloads are waited for as
    /// others are. It waits for the [`close`](Self::close) too. Expiry without traffic needs a [`reaper`](Self::reaper).
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping it.
    ///
    /// # Examples
    ///
    /// A graceful shutdown: no new payloads, half a minute to fetch what is there, and the rest goes.
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

    /// As [`drained`](Self::drained), blocking this thread for at most `timeout`. Returns whether it came
    /// to that.
    #[cfg(not(target_family = "wasm"))]
    pub fn drained_timeout(&self, timeout: Duration) -> bool {
        self.budget().drained_timeout(timeout)
    }

    /// Sets the limit, in bytes, while it is in use; the overflow stays as large as it is.
    ///
    /// Raising it serves the line at once. Lowering it removes nothing: until enough has been taken or has
    /// expired, nothing is admitted. A put in line that has become larger than the limit gets its payload
    /// back as [`TooLarge`](crate::Refusal::TooLarge) when it comes to the head. With 0 nothing is admitted but out of the
    /// overflow.
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

    /// How many entries there are, claimed ones included, and expired ones that nobody has removed yet. Exact
    /// while nobody puts or takes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.slots.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum of all charges in bytes: of entries, claimed ones included, of reservations, of bare permits,
    /// and of waiting puts that have been granted.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.budget().used()
    }

    /// The limit in bytes, without the overflow.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.budget().limit().saturating_sub(self.budget().overflow())
    }

    /// How many puts, reservations and bare permits are in line.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.budget().waiting()
    }
}

impl<P, O> Stash<P, O> {
    /// Takes the payload out and frees its bytes, if the ticket is good and `owner` is its owner.
    ///
    /// To keep the bytes charged until the payload is delivered, and to be able to put it back, use
    /// [`claim`](Self::claim).
    ///
    /// # Errors
    ///
    /// There are none: unknown, another's, expired, taken already are all `None`, so that nobody learns
    /// anything from the difference.
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

    /// What the owner holds and has in line, in bytes. 0 unless what one owner may hold is limited: else
    /// nobody keeps count.
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
