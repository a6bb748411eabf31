//! Grants bytes below a limit, in the order of the requests. Knows nothing of payloads and tickets.
//!
//! `semaphore.rs` joins the packed state (`state.rs`), the wait queue (`wait_queue.rs`) and the limit; [`Budget`] is its
//! public handle. The futures that wait are in `acquire.rs` and `drained.rs`, the permits in `permit.rs`. `recall.rs`
//! lends room to threads.

mod acquire;
mod drained;
mod lending;
mod limit;
mod permit;
mod queues;
mod recall;
mod reclaim;
mod semaphore;
mod share;
mod state;
mod stats;
mod wait_queue;

use std::fmt;
use std::future::Future;
use std::sync::Weak;
use std::time::Duration;

use self::semaphore::Semaphore;
#[cfg(not(target_family = "wasm"))]
use crate::blocking::{self, Elapsed};
use crate::error::{AcquireError, Refusal};
use crate::maybe_owned::MaybeOwned;
use crate::sync::Arc;

pub use self::acquire::Acquire;
pub use self::drained::Drained;
#[cfg(cloakroom_loom)]
pub(crate) use self::lending::MODEL_BATCH;
pub use self::permit::Permit;
use self::reclaim::Reclaimer;
pub(crate) use self::reclaim::{Reclaim, retry_after_expiry};
#[cfg(cloakroom_loom)]
pub(crate) use self::share::{Returned, Share};
pub(crate) use self::state::{MAX_LIMIT, Tier};
pub use self::stats::BudgetStats;
pub(crate) use self::wait_queue::QueueStats;

/// Grants permits for bytes below a limit, first come, first served.
///
/// It is an async semaphore that counts bytes, with three differences that matter for memory. Sizes have 64 bits.
/// The wait queue is strict: a small request never passes a large one, so no request starves. And when a waiter gives
/// up, the waiter behind it is granted immediately if it fits.
///
/// A `Budget` is a handle: cloning it is cheap, and all clones share one budget.
///
/// # Fairness
///
/// Requests that have to wait are granted in the order in which they joined the wait queue. A future joins it at
/// its first poll, not at its creation. While a request waits, [`try_acquire`](Self::try_acquire) is refused and
/// [`acquire`](Self::acquire) joins the tail, even if the request would fit.
///
/// A grant gives the bytes to the waiter at the head. If that waiter is a future that is neither polled nor dropped
/// (such as the loser of a `select!` that is kept), the bytes stay with it.
///
/// # Memory ordering
///
/// As with a lock, what a thread did before a call is visible to a thread whose call depends on it. The calls on
/// the left *happen before* those on the right:
///
/// | before | after |
/// |---|---|
/// | a release: a permit's drop, [`shrink`](Permit::shrink) | an acquisition that uses its bytes, whether it waited or not |
/// | all releases | [`drained`](Self::drained), [`drained_timeout`](Self::drained_timeout) |
/// | the drop of a waiting future | the grant of the waiter behind it |
/// | [`close`](Self::close) | a refusal as [`Closed`](Refusal::Closed); [`is_closed`](Self::is_closed) if `true`; `drained` |
/// | [`set_limit`](Self::set_limit) that raises the limit | an acquisition that fits because of it |
///
/// Numbers ([`used`](Self::used), [`limit`](Self::limit), [`waiting`](Self::waiting)) and other refusals
/// order nothing. A permit of 0 bytes releases nothing.
///
/// # Complexity
///
/// While no request waits, an acquisition or a release is one atomic read-modify-write and takes no lock.
///
/// When many threads use a budget that is far from its limit, it lends room to them, so that they do not write the
/// same cache line. A request that finds too little room recalls what is lent, under a lock, before it is refused or
/// waits. So limit, order and refusals stay exact.
///
/// Joining the queue, leaving it and each grant are O(1), under a lock that is held for some tens of instructions a
/// grant, at most 16 grants at a time. A request allocates nothing.
///
/// # Examples
///
/// ```
/// use cloakroom::{Budget, Refusal};
///
/// let budget = Budget::new(100);
/// let permit = budget.try_acquire(80)?;
/// assert_eq!(budget.used(), 80);
///
/// let refused = budget.try_acquire(30).unwrap_err();
/// assert_eq!(refused.reason(), Refusal::Full);
///
/// drop(permit);
/// assert_eq!(budget.used(), 0);
/// # Ok::<(), cloakroom::AcquireError>(())
/// ```
#[derive(Clone)]
pub struct Budget {
    semaphore: Arc<Semaphore>,
}

impl Budget {
    /// The largest limit of a budget, in bytes (2^60 - 1). A larger one is reduced to this.
    pub const MAX_LIMIT: u64 = MAX_LIMIT;

    /// Makes a budget of `limit` bytes, all of them free.
    ///
    /// # Examples
    ///
    /// One for the whole process:
    ///
    /// ```
    /// use std::sync::LazyLock;
    /// use cloakroom::Budget;
    ///
    /// static UPLOADS: LazyLock<Budget> = LazyLock::new(|| Budget::new(64 << 20));
    ///
    /// let permit = UPLOADS.try_acquire(1 << 20)?;
    /// # drop(permit);
    /// # Ok::<(), cloakroom::AcquireError>(())
    /// ```
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self::of_stash(limit, 0, None)
    }

    /// Makes the budget of a stash.
    ///
    /// The upper `overflow` bytes of the limit are a tier of their own. `reclaimer` is asked for bytes before a
    /// request is refused.
    pub(crate) fn of_stash(
        limit: u64,
        overflow: u64,
        reclaimer: Option<Weak<dyn Reclaim>>,
    ) -> Self {
        let semaphore = Semaphore::new(limit, overflow, Reclaimer::new(reclaimer));
        Self { semaphore: Arc::new(semaphore) }
    }

    /// Makes a budget for models, which lends to two shares on demand.
    #[cfg(cloakroom_loom)]
    pub(crate) fn with_lending(limit: u64, overflow: u64, batch: u64, plenty: u64) -> Self {
        let lending = lending::Lending::fixed(2, batch, batch, plenty);
        let reclaimer = Reclaimer::new(None);
        let semaphore = Semaphore::with_lending(limit, overflow, lending, reclaimer);
        Self { semaphore: Arc::new(semaphore) }
    }

    /// Begins lending if it can, for models and counts.
    #[cfg(any(cloakroom_loom, cloakroom_count))]
    pub(crate) fn lend(&self) {
        self.semaphore.lend();
    }

    /// Acquires `bytes` immediately, or returns the reason for a refusal. Never waits.
    ///
    /// # Errors
    ///
    /// [`Full`](Refusal::Full) if they do not fit or a request waits already,
    /// [`TooLarge`](Refusal::TooLarge) if they exceed the limit, [`Closed`](Refusal::Closed).
    #[inline(always)]
    pub fn try_acquire(&self, bytes: u64) -> Result<Permit<'_>, AcquireError> {
        self.try_acquire_or(bytes, || self.semaphore.acquire_after_reclaiming(bytes))
    }

    /// Acquires as `try_acquire`; `again` retries what is refused as `Full`.
    #[inline(always)]
    pub(crate) fn try_acquire_or(
        &self,
        bytes: u64,
        again: impl FnOnce() -> Result<Tier, Refusal>,
    ) -> Result<Permit<'_>, AcquireError> {
        let decided = match self.semaphore.try_acquire(bytes) {
            Err(Refusal::Full) => again(),
            decided => decided,
        };
        match decided {
            Ok(tier) => Ok(Permit::new(&self.semaphore, bytes, tier)),
            Err(reason) => Err(self.semaphore.refusal(reason, bytes)),
        }
    }

    /// Charges `bytes` without reclaiming. The caller makes the permit.
    pub(crate) fn charge(&self, bytes: u64) -> Result<Tier, Refusal> {
        self.semaphore.try_acquire(bytes)
    }

    /// Acquires as `try_acquire`, without reclaiming and without an error's numbers. Runs no user code.
    pub(crate) fn acquire_fast(&self, bytes: u64) -> Result<Permit<'_>, Refusal> {
        let tier = self.semaphore.try_acquire(bytes)?;
        Ok(Permit::new(&self.semaphore, bytes, tier))
    }

    /// Returns why `bytes` are refused however much is free: closed or too large, decided at one moment.
    ///
    /// Takes the queue's lock while the limit is moved. Runs no user code.
    pub(crate) fn never_grants(&self, bytes: u64) -> Option<Refusal> {
        self.semaphore.never_grants(bytes)
    }

    /// Acquires `bytes`, waiting in the queue until they fit.
    ///
    /// Bound the wait with [`Acquire::timeout`] and [`Acquire::until`]. A request that fits never waits and never
    /// yields to its executor: in a loop under tokio, wrap it in `tokio::task::coop::cooperative`.
    ///
    /// # Errors
    ///
    /// The future returns [`Closed`](Refusal::Closed), or [`TooLarge`](Refusal::TooLarge) if the request exceeds the
    /// limit: immediately, or when it comes to the head of the queue if the limit was lowered meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes it from the queue, or releases the bytes if they were granted. Either way the next
    /// waiter is granted if it fits. The position in the queue is lost. A granted future that is neither polled nor
    /// dropped keeps its bytes, and so does a leaked one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::Budget;
    /// # futures_lite::future::block_on(async {
    /// let budget = Budget::new(100);
    /// let permit = budget.acquire(60).await?;
    /// assert_eq!(permit.bytes(), 60);
    /// # Ok::<(), cloakroom::AcquireError>(())
    /// # }).unwrap();
    /// ```
    pub fn acquire(&self, bytes: u64) -> Acquire<'_> {
        Acquire::new(MaybeOwned::Borrowed(&self.semaphore), bytes)
    }

    /// Acquires as [`acquire`](Self::acquire), without borrowing the budget: future and permit are `'static`.
    ///
    /// For spawned tasks, struct fields and services. Clones the handle, and once more for the permit.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// ```
    /// # use cloakroom::{Acquire, Budget};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), cloakroom::AcquireError> {
    /// let budget = Budget::new(100);
    /// let request: Acquire<'static> = budget.acquire_owned(60);
    /// let permit = tokio::spawn(request).await.unwrap()?;
    /// assert_eq!(permit.bytes(), 60);
    /// # Ok(()) }
    /// ```
    pub fn acquire_owned(&self, bytes: u64) -> Acquire<'static> {
        Acquire::new(MaybeOwned::Owned(Arc::clone(&self.semaphore)), bytes)
    }

    /// Acquires `bytes`, blocking this thread in the queue for at most `timeout` of real time.
    ///
    /// A timeout of zero never waits. One that is too long for the clock never ends.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and [`TimedOut`](Refusal::TimedOut), or
    /// [`Full`](Refusal::Full) if the timeout is zero.
    #[cfg(not(target_family = "wasm"))]
    pub fn acquire_timeout(
        &self,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Permit<'_>, AcquireError> {
        match self.try_acquire(bytes) {
            Err(refusal) if refusal.reason() == Refusal::Full && !timeout.is_zero() => {
                let mut request = self.acquire(bytes);
                request.skip_attempt();
                self.block_on(timeout, |elapsed| request.timeout(elapsed))
            }
            decided => decided,
        }
    }

    /// Blocks this thread on a wait for this budget, and reclaims meanwhile.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn block_on<F: Future>(
        &self,
        timeout: Duration,
        make: impl FnOnce(Elapsed) -> F,
    ) -> F::Output {
        let mut sleeper = self.semaphore.sleeper();
        blocking::run(timeout, |waker| sleeper.reclaim(waker), make)
    }

    /// Sets the limit, in bytes; at most [`MAX_LIMIT`](Self::MAX_LIMIT).
    ///
    /// Raising it grants waiters immediately. Lowering it takes no bytes from permits: nothing is granted until
    /// enough of them are released. A waiter whose request has become larger than the limit is refused as
    /// [`TooLarge`](Refusal::TooLarge) when it comes to the head, so it blocks no other.
    pub fn set_limit(&self, limit: u64) {
        self.semaphore.set_limit(limit);
    }

    /// Returns the limit in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.semaphore.limit()
    }

    /// Returns the bytes that permits hold, including bytes granted to futures.
    ///
    /// While another thread is in [`set_limit`](Self::set_limit), it can be off by as much as the limit moves.
    ///
    /// A budget that many threads use at once lends room to them. This call recalls that room, under a lock, so a
    /// program that calls it for every request pays for that.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.semaphore.used()
    }

    /// Returns how many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.semaphore.waiting()
    }

    /// Bounds how many requests may wait.
    ///
    /// One more is refused immediately, as [`QueueFull`](Refusal::QueueFull). Requests that wait already stay. With 0
    /// no request waits.
    pub fn set_max_waiting(&self, requests: usize) {
        self.semaphore.set_queue_limits(|max, _| *max = requests);
    }

    /// Bounds how many bytes the waiting requests may ask for together.
    ///
    /// A request that would exceed it is refused immediately, as [`QueueFull`](Refusal::QueueFull). Requests that wait
    /// already stay.
    pub fn set_max_waiting_bytes(&self, bytes: u64) {
        self.semaphore.set_queue_limits(|_, max| *max = bytes);
    }

    /// Completes when the budget is closed *and* no permit holds bytes.
    ///
    /// It is the second half of a graceful shutdown, after [`close`](Self::close), for which it waits too. A permit of
    /// 0 bytes holds nothing and is not waited for. Any number of calls may wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Memory ordering
    ///
    /// What was done before the close, and before each release, happens before what is done afterwards.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::Budget;
    /// # futures_lite::future::block_on(async {
    /// let budget = Budget::new(100);
    /// let permit = budget.acquire(60).await?;
    /// budget.close();
    /// drop(permit);
    /// budget.drained().await;
    /// assert_eq!(budget.used(), 0);
    /// # Ok::<(), cloakroom::AcquireError>(())
    /// # }).unwrap();
    /// ```
    pub fn drained(&self) -> Drained<'_> {
        Drained::new(&self.semaphore)
    }

    /// Waits as [`drained`](Self::drained) does, blocking this thread for at most `timeout`.
    ///
    /// # Returns
    ///
    /// Whether the budget was closed and no permit held bytes within that time.
    #[cfg(not(target_family = "wasm"))]
    pub fn drained_timeout(&self, timeout: Duration) -> bool {
        let drained = |elapsed| blocking::completes(self.drained(), elapsed);
        self.block_on(timeout, drained) || {
            // Expired bytes must not be the reason (invariant 9): the thread may have slept past their deadline.
            self.semaphore.reclaim_until(|| false);
            self.block_on(Duration::ZERO, drained)
        }
    }

    /// Returns the numbers of the wait queue. Takes its lock.
    pub(crate) fn queue_stats(&self) -> QueueStats {
        self.semaphore.queue_stats()
    }

    /// Returns how many waiters were dropped while they waited.
    pub(crate) fn abandoned(&self) -> u64 {
        self.semaphore.abandoned()
    }

    /// Returns the most bytes that were in use at once.
    pub(crate) fn peak(&self) -> u64 {
        self.semaphore.peak()
    }

    /// Returns the upper part of the limit, in bytes, that is overflow.
    pub(crate) fn overflow(&self) -> u64 {
        self.semaphore.overflow()
    }

    /// Releases bytes of a permit that was forgotten.
    #[inline]
    pub(crate) fn release(&self, bytes: u64) {
        self.semaphore.release(bytes);
    }

    pub(crate) fn refusal(&self, reason: Refusal, requested: u64) -> AcquireError {
        self.semaphore.refusal(reason, requested)
    }

    /// Returns whether the budget has been closed.
    ///
    /// # Memory ordering
    ///
    /// If it returns `true`, what was done before the close is visible.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.semaphore.is_closed()
    }

    /// Closes the budget permanently, and returns how many requests were waiting.
    ///
    /// Returns 0 if it was closed already. These requests, and all later ones, are refused as
    /// [`Closed`](Refusal::Closed). Permits stay valid.
    pub fn close(&self) -> usize {
        self.semaphore.close()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.semaphore.fmt(f)
    }
}
