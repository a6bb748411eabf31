//! The hall: the budget and the slots, joined. No atomics and no locks of its own.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::admit::{Account, Admitted};
use crate::budget::{Budget, Drained, Tier};
use crate::builder::Builder;
use crate::clock::{Time, nanos};
use crate::error::{AcquireError, PutError, Refusal};
use crate::observer::{Event, Observer};
use crate::put::PutOptions;
use crate::reaper::{Alarms, Reaper};
use crate::slots::{Gone, Keeper, MAX_TTL, Nanos, OwnerKey, Removed, SlotMap};
use crate::stats::{Stats, Totals};
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
    /// Of what was admitted out of the overflow: at most that, however long it asked for.
    pub(crate) overflow_ttl: Nanos,
    pub(crate) entry_overhead: u64,
    pub(crate) time: Time,
    pub(crate) observer: Option<Box<dyn Observer>>,
}

pub(crate) struct Inner<P, O> {
    settings: Settings<P, O>,
    /// Ring when the last handle is gone, and when something expires sooner than a reaper expects.
    alarms: Alarms,
    totals: Totals,
}

// SAFETY: the map is in the `Arc`, which every clone of the handle shares and none can replace.
unsafe impl<P, O> Keeper<P, O> for Stash<P, O> {
    fn map(&self) -> &SlotMap<P, O> {
        &self.inner.settings.slots
    }
}

impl<P, O> Stash<P, O> {
    /// Starts making a stash.
    pub fn builder() -> Builder<P, O> {
        Builder::new()
    }

    pub(crate) fn new(settings: Settings<P, O>) -> Self {
        Self { inner: Arc::new(Inner { settings, alarms: Alarms::new(), totals: Totals::new() }) }
    }

    pub(crate) fn upgrade(inner: &Weak<Inner<P, O>>) -> Option<Self> {
        Some(Self { inner: inner.upgrade()? })
    }

    #[inline]
    pub(crate) fn settings(&self) -> &Settings<P, O> {
        &self.inner.settings
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.inner.totals
    }

    pub(crate) fn alarms(&self) -> &Alarms {
        &self.inner.alarms
    }

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
        let (count, bytes) = (dead.count(), dead.bytes());
        if count > 0 {
            self.totals().expired.add(count as u64);
            // First the bytes, then the payloads, whose drop is user code: nothing is held then.
            self.budget().release(bytes);
            drop(dead);
            self.observe(|| Event::Expired { entries: count, bytes });
        }
        (count, next)
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
        let dead = self.settings().slots.clear();
        let (count, bytes) = (dead.count(), dead.bytes());
        self.totals().cleared.add(count as u64);
        // All at once, after the sweep: what waiters put with these bytes stays.
        self.budget().release(bytes);
        drop(dead);
        if count > 0 {
            self.observe(|| Event::Cleared { entries: count, bytes });
        }
        count
    }

    /// Closes the stash for new payloads, for good, and returns how many were in line; 0 if it was closed
    /// already. They, and all later puts, get their payload back with [`Refusal::Closed`]. Entries can still be
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
    /// cleared, every claim delivered, every reservation used or dropped. It waits for the
    /// [`close`](Self::close) too. Expiry without traffic needs a [`reaper`](Self::reaper).
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
    pub fn drained_timeout(&self, timeout: Duration) -> bool {
        self.budget().drained_timeout(timeout)
    }

    /// Sets the limit, in bytes, while it is in use; the overflow stays as large as it is.
    ///
    /// Raising it serves the line at once. Lowering it removes nothing: until enough has been taken or has
    /// expired, nothing is admitted. A put in line that has become larger than the limit gets its payload
    /// back as [`TooLarge`](Refusal::TooLarge) when it comes to the head. With 0 nothing is admitted but out of the
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

    /// How it is doing: numbers of now and totals since it was built.
    ///
    /// # Complexity
    ///
    /// Reads some words for each shard and takes the line's lock for a moment: cheap enough for every
    /// second, under load.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(self)
    }

    /// How many entries there are, claimed ones included, and expired ones that nobody has removed yet. Exact
    /// while nobody puts or takes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.settings().slots.len()
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

    /// A driver that removes entries when they expire, traffic or not. Nothing runs until it is told to,
    /// with [`Reaper::spawn`] or [`Reaper::run`].
    pub fn reaper(&self) -> Reaper<P, O> {
        Reaper::new(Arc::downgrade(&self.inner), &self.inner.alarms)
    }

    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        self.settings().time.now()
    }

    pub(crate) fn ttl(&self) -> Nanos {
        self.settings().ttl
    }

    /// Tells the observer, if there is one. Nothing is held.
    #[inline]
    pub(crate) fn observe(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = &self.settings().observer {
            contain_panic(|| observer.event(event()));
        }
    }

    /// Takes note of a refusal on its way out.
    #[cold]
    pub(crate) fn note_refusal(&self, refusal: AcquireError) -> AcquireError {
        self.totals().refused(refusal.reason()).add(1);
        self.observe(|| Event::Refused { reason: refusal.reason(), bytes: refusal.requested() });
        refusal
    }

    #[inline]
    pub(crate) fn refuse_put(&self, payload: P, refusal: AcquireError) -> PutError<P> {
        PutError::new(payload, self.note_refusal(refusal))
    }

    /// Drops what nobody is to have, and frees its bytes. In this order: they are in use until then.
    pub(crate) fn discard(&self, gone: Gone<P, O>) {
        let Gone { payload, owner, charge } = gone;
        contain_panic(|| drop(owner));
        contain_panic(|| drop(payload));
        self.budget().release(charge);
    }

    /// What has been counted already: while its slot was not free yet, so that it is never missing in both
    /// numbers and taken for delivered.
    pub(crate) fn discard_expired(&self, gone: Gone<P, O>) {
        let bytes = gone.charge;
        self.discard(gone);
        self.observe(|| Event::Expired { entries: 1, bytes });
    }

    /// Hands over what has been delivered, and frees its bytes.
    #[inline]
    pub(crate) fn deliver(&self, gone: Gone<P, O>) -> P {
        let Gone { payload, owner, charge } = gone;
        self.budget().release(charge);
        contain_panic(|| drop(owner));
        self.observe(|| Event::Delivered { bytes: charge });
        payload
    }

    /// What storing `bytes` costs. Saturates: that is more than any limit.
    #[inline]
    pub(crate) fn charge_for(&self, bytes: u64) -> u64 {
        bytes.saturating_add(self.settings().entry_overhead)
    }

    /// Room for `charge` without waiting, in the owner's account too.
    #[cold]
    pub(crate) fn admit_now(
        &self,
        key: Option<OwnerKey>,
        charge: u64,
    ) -> Result<Admitted<'_, P, O>, AcquireError> {
        let account = match key {
            None => None,
            Some(key) => Some(Account::open(self, key, charge)?),
        };
        let acquire = || self.budget().try_acquire(charge);
        let permit = self.sweeping(acquire(), acquire)?;
        Ok(Admitted { permit, account })
    }

    /// Goes on from a first attempt, until it is refused for something else than a lack of room, or with
    /// everything swept that has expired: that is no reason to refuse (promise 9).
    pub(crate) fn sweeping<T>(
        &self,
        first: Result<T, AcquireError>,
        mut attempt: impl FnMut() -> Result<T, AcquireError>,
    ) -> Result<T, AcquireError> {
        let (mut decided, mut swept_clean) = (first, false);
        loop {
            match decided {
                // Once more after a sweep that found nothing: another may just have taken it all.
                Err(refusal) if refusal.reason().is_lack_of_room() && !swept_clean => {
                    swept_clean = self.expire_batch(self.now()).0 == 0;
                    decided = attempt();
                }
                decided => return decided,
            }
        }
    }
}

impl<P, O: Hash> Stash<P, O> {
    /// Stores what has been admitted. Fails only if there are no slots left.
    #[inline]
    pub(crate) fn store(
        &self,
        admitted: Admitted<'_, P, O>,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> Result<Ticket, PutError<P>> {
        let Admitted { permit, account } = admitted;
        let bytes = permit.bytes();
        match self.insert(owner, payload, bytes, permit.tier(), options) {
            Ok(ticket) => {
                // The entry holds the bytes from now on.
                permit.forget();
                account.map(Account::keep);
                Ok(ticket)
            }
            Err(payload) => {
                Err(self.refuse_put(payload, self.budget().refusal(Refusal::Full, bytes)))
            }
        }
    }

    /// Puts an entry in for which `charge` is charged, and which gives it back one day.
    #[inline]
    pub(crate) fn insert(
        &self,
        owner: O,
        payload: P,
        charge: u64,
        tier: Tier,
        options: PutOptions,
    ) -> Result<Ticket, P> {
        let settings = self.settings();
        let mut ttl = options.ttl.map_or(settings.ttl, |ttl| nanos(ttl).min(MAX_TTL));
        if tier == Tier::Overflow {
            ttl = ttl.min(settings.overflow_ttl);
        }
        let mut deadline = 0;
        let ticket = settings.slots.insert(owner, payload, charge, || {
            deadline = self.now().saturating_add(ttl);
            deadline
        })?;
        if ttl < settings.ttl {
            self.alarms().hurry(deadline);
        }
        self.observe(|| Event::Stored { bytes: charge, overflow: tier == Tier::Overflow });
        Ok(ticket)
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
        let now = self.now();
        match self.settings().slots.remove(*ticket, owner, now, || self.totals().expired.add(1))? {
            Removed::Delivered(gone) => Some(self.deliver(gone)),
            Removed::Expired(gone) => {
                self.discard_expired(gone);
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
        let slots = &self.settings().slots;
        slots.owner_key(owner).map_or(0, |key| slots.owner_used(key))
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
