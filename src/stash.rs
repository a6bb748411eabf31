//! The hall: the budget and the slots, joined. No atomics and no locks of its own.

use std::borrow::Borrow;
use std::fmt;
use std::future::Pending;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::blocking;
use crate::budget::{Budget, Permit};
use crate::builder::Builder;
use crate::clock::Time;
use crate::error::{AcquireError, PutError, Refusal};
use crate::payload::Payload;
use crate::put::Put;
use crate::reaper::{Alarms, Reaper};
use crate::slots::{Nanos, Removed, SlotMap};
use crate::sync::contain_panic;
use crate::ticket::Ticket;

/// A memory-bounded, drain-on-read stash: a payload goes in under a ticket and comes out once, to its
/// owner, before its time is up.
///
/// `P` is what is stored, `O` who may take it: anything with `Eq` and `Hash`, such as a user id, looked up
/// by borrow as in a `HashMap`; `()` for a stash without owners. Its `Hash` should tell owners apart: while
/// an owner who hashes like the right one, and has the ticket, is compared, a `take` by the right one can
/// find nothing.
///
/// A `Stash` is a handle: cloning it is cheap, and all clones are the same stash.
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

pub(crate) struct Settings<P, O> {
    pub(crate) budget: Budget,
    pub(crate) slots: SlotMap<P, O>,
    pub(crate) ttl: Nanos,
    pub(crate) entry_overhead: u64,
    pub(crate) time: Time,
}

pub(crate) struct Inner<P, O> {
    settings: Settings<P, O>,
    /// Rings when the last handle is gone.
    alarms: Alarms,
}

impl<P, O> Stash<P, O> {
    /// Starts making a stash.
    pub fn builder() -> Builder<P, O> {
        Builder::new()
    }

    pub(crate) fn new(settings: Settings<P, O>) -> Self {
        Self { inner: Arc::new(Inner { settings, alarms: Alarms::new() }) }
    }

    pub(crate) fn upgrade(inner: &Weak<Inner<P, O>>) -> Option<Self> {
        Some(Self { inner: inner.upgrade()? })
    }

    fn settings(&self) -> &Settings<P, O> {
        &self.inner.settings
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.settings().budget
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
        let now = self.now();
        let mut removed = 0;
        loop {
            let (batch, next) = self.expire_batch(now);
            removed += batch;
            if batch == 0 || next > now {
                return removed;
            }
        }
    }

    /// Removes a batch of what has expired by `now`. Returns how many, and when to look again.
    pub(crate) fn expire_batch(&self, now: Nanos) -> (usize, Nanos) {
        let (dead, next) = self.settings().slots.expire(now);
        let count = dead.count();
        if count > 0 {
            // First the bytes, then the payloads, whose drop is user code: nothing is held then.
            self.budget().release(dead.bytes());
            drop(dead);
        }
        (count, next)
    }

    /// Removes every entry, and returns how many that was. Tickets are dead then; waiters are served with
    /// the bytes. What is put meanwhile may be removed or not.
    ///
    /// # Complexity
    ///
    /// O(the most entries that were ever held at once).
    pub fn clear(&self) -> usize {
        let dead = self.settings().slots.clear();
        let count = dead.count();
        // All at once, after the sweep: what waiters put with these bytes stays.
        self.budget().release(dead.bytes());
        drop(dead);
        count
    }

    /// Closes the stash for new payloads, for good, and returns how many were in line; 0 if it was closed
    /// already. They, and all later puts, get their payload back with [`Refusal::Closed`]. Entries can still be taken.
    pub fn close(&self) -> usize {
        self.budget().close()
    }

    /// Whether it has been closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.budget().is_closed()
    }

    /// How many entries there are, expired ones that nobody has removed yet included. Exact while nobody
    /// puts or takes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.settings().slots.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum of all charges in bytes: of entries, and of waiting puts that have been granted.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.budget().used()
    }

    /// The limit in bytes.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.budget().limit()
    }

    /// How many puts are in line.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.budget().waiting()
    }

    /// A driver that removes entries when they expire, traffic or not. Nothing runs until it is told to,
    /// with [`Reaper::spawn`] or [`Reaper::run`].
    pub fn reaper(&self) -> Reaper<P, O> {
        Reaper::new(Arc::downgrade(&self.inner), &self.inner.alarms)
    }

    pub(crate) fn now(&self) -> Nanos {
        self.settings().time.now()
    }

    pub(crate) fn ttl(&self) -> Nanos {
        self.settings().ttl
    }
}

impl<P: Payload, O: Eq + Hash> Stash<P, O> {
    /// Stores the payload now, or hands it back. Never waits.
    ///
    /// # Errors
    ///
    /// [`Full`](Refusal::Full) if it does not fit, even after what has expired was removed, or if others
    /// are in line; [`TooLarge`](Refusal::TooLarge) if it exceeds the limit; [`Closed`](Refusal::Closed).
    pub fn try_put(&self, owner: O, payload: P) -> Result<Ticket, PutError<P>> {
        match self.acquire_now(self.charge(&payload)) {
            Ok(permit) => self.store(permit, owner, payload),
            Err(refusal) => Err(PutError::new(payload, refusal)),
        }
    }

    /// Stores the payload, waiting in line until it fits. Bound the wait with [`Put::until`].
    ///
    /// # Errors
    ///
    /// The future gives [`TooLarge`](Refusal::TooLarge), at once unless the limit is lowered meanwhile,
    /// or [`Closed`](Refusal::Closed), and the payload back.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the line, and the next is served; the payload is dropped with it. To
    /// get the payload back, end the wait with [`Put::until`] instead.
    ///
    /// # Fairness
    ///
    /// First come first served, from the first poll on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::{PutError, Stash, Ticket};
    /// async fn hand_in(stash: &Stash<Vec<u8>>, body: Vec<u8>) -> Result<Ticket, PutError<Vec<u8>>> {
    ///     let patience = tokio::time::sleep(Duration::from_millis(500));
    ///     stash.put("alice".into(), body).until(patience).await
    /// }
    /// ```
    pub fn put(&self, owner: O, payload: P) -> Put<'_, P, O, Pending<()>> {
        Put::new(self, self.charge(&payload), owner, payload)
    }

    /// Stores the payload, blocking this thread in line for at most `timeout` of real time. A timeout of
    /// zero never waits; one too long for the clock waits for good.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put), and [`TimedOut`](Refusal::TimedOut), or [`Full`](Refusal::Full) if the
    /// timeout is zero.
    pub fn put_timeout(
        &self,
        owner: O,
        payload: P,
        timeout: Duration,
    ) -> Result<Ticket, PutError<P>> {
        let charge = self.charge(&payload);
        match self.acquire_now(charge) {
            Ok(permit) => self.store(permit, owner, payload),
            Err(refusal) if refusal.reason() == Refusal::Full && !timeout.is_zero() => {
                let put = |elapsed| Put::new(self, charge, owner, payload).until(elapsed);
                blocking::run(timeout, put).map_err(PutError::into_timed_out)
            }
            Err(refusal) => Err(PutError::new(payload, refusal)),
        }
    }

    /// Takes the payload out and frees its bytes, if the ticket is good and `owner` is its owner.
    ///
    /// # Errors
    ///
    /// There are none: unknown, another's, expired, taken already are all `None`, so that nobody learns
    /// anything from the difference.
    pub fn take<Q>(&self, ticket: &Ticket, owner: &Q) -> Option<P>
    where
        O: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let now = self.now();
        match self.settings().slots.remove(*ticket, owner, now)? {
            Removed::Delivered { payload, owner, charge } => {
                self.budget().release(charge);
                contain_panic(|| drop(owner));
                Some(payload)
            }
            Removed::Expired { payload, owner, charge } => {
                self.budget().release(charge);
                contain_panic(|| drop(owner));
                contain_panic(|| drop(payload));
                None
            }
        }
    }

    /// What storing the payload costs. Saturates: that is more than any limit.
    fn charge(&self, payload: &P) -> u64 {
        (payload.size() as u64).saturating_add(self.settings().entry_overhead)
    }

    /// Room for `charge` without waiting. Expired entries are no reason to refuse (promise 9).
    pub(crate) fn acquire_now(&self, charge: u64) -> Result<Permit<'_>, AcquireError> {
        let mut swept_clean = false;
        loop {
            match self.budget().try_acquire(charge) {
                // Once more after a sweep that found nothing: another may just have taken it all.
                Err(refusal) if refusal.reason() == Refusal::Full && !swept_clean => {
                    swept_clean = self.expire_batch(self.now()).0 == 0;
                }
                decided => return decided,
            }
        }
    }

    pub(crate) fn store(
        &self,
        permit: Permit<'_>,
        owner: O,
        payload: P,
    ) -> Result<Ticket, PutError<P>> {
        let ticket = self
            .settings()
            .slots
            .insert(owner, payload, permit.bytes(), || self.now().saturating_add(self.ttl()));
        match ticket {
            Ok(ticket) => {
                // The entry holds the bytes from now on.
                permit.forget();
                Ok(ticket)
            }
            Err(payload) => {
                let refusal = self.budget().refusal(Refusal::Full, permit.bytes());
                Err(PutError::new(payload, refusal))
            }
        }
    }
}

impl<P, O> Clone for Stash<P, O> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<P, O> Drop for Inner<P, O> {
    fn drop(&mut self) {
        self.alarms.ring();
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
