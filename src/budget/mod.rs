//! Budgets bytes: a counter, a wait queue, and permits. Knows nothing of payloads and tickets.
//!
//! `semaphore.rs` joins the packed state (`state.rs`), the wait queue (`wait_queue.rs`) and the limit; [`Budget`] is its
//! public handle. What waits is in `acquire.rs` and `drained.rs`, what is given out in `permit.rs`.

mod acquire;
mod drained;
mod lending;
mod limit;
mod permit;
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

/// A fair byte budget: a limit, and permits for bytes below it, granted first come first served.
///
/// Like an async semaphore that counts bytes, with three differences that matter when memory is what is
/// counted: sizes are 64 bits, the wait queue is strict (a small request never passes a large one, so no
/// request starves), and a waiter that gives up lets the one behind it through at once.
///
/// A `Budget` is a handle: cloning it is cheap, and all clones are the same budget.
///
/// # Fairness
///
/// Requests that have to wait are granted in the order in which they joined the wait queue: for a future that
/// is its first poll, not its creation. While anybody waits, [`try_acquire`](Self::try_acquire) is
/// refused and [`acquire`](Self::acquire) joins the tail, even if the request would fit.
///
/// A grant goes straight to the waiter at the head. If that waiter is a future that is neither polled
/// nor dropped (say, the loser of a `select!` that is kept around), the bytes stay with it.
///
/// # Memory ordering
///
/// As with a lock, what a thread did before a call is visible to a thread that got something because of
/// it. These *happen before* those:
///
/// | before | after |
/// |---|---|
/// | a release: a permit's drop, [`shrink`](Permit::shrink) | an acquisition that uses its bytes, whether it waited or not |
/// | all releases | [`drained`](Self::drained), [`drained_timeout`](Self::drained_timeout) |
/// | the drop of a waiting future | the grant that it made way for |
/// | [`close`](Self::close) | a refusal as [`Closed`](Refusal::Closed); [`is_closed`](Self::is_closed) if `true`; `drained` |
/// | [`set_limit`](Self::set_limit) that raises the limit | an acquisition that fits because of it |
///
/// Numbers ([`used`](Self::used), [`limit`](Self::limit), [`waiting`](Self::waiting)) and other refusals
/// order nothing. A permit of 0 bytes releases nothing.
///
/// # Complexity
///
/// Acquiring and releasing is one atomic read-modify-write while nobody waits, and takes no lock. Where many
/// threads do it at once and the limit is far, each has room lent to it, so they do not write the same cache
/// line. A request that finds too little there calls in what is lent, under a lock, before it is refused or waits:
/// limit, order and refusals are exact all the same.
/// Joining, leaving and each grant are O(1) under a lock that is held for some tens of instructions
/// per grant, at most 16 grants at a time. Nothing is allocated per request.
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
    /// The largest limit a budget can have, in bytes (2^60 - 1). A larger one is treated as this.
    pub const MAX_LIMIT: u64 = MAX_LIMIT;

    /// Makes a budget of `limit` bytes, all of it free.
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

    /// The last `overflow` bytes of the limit are another tier. `reclaimer` is asked for bytes before a request
    /// is refused.
    pub(crate) fn of_stash(
        limit: u64,
        overflow: u64,
        reclaimer: Option<Weak<dyn Reclaim>>,
    ) -> Self {
        let semaphore = Semaphore::new(limit, overflow, Reclaimer::new(reclaimer));
        Self { semaphore: Arc::new(semaphore) }
    }

    /// For models: a budget that lends to two shares when it is told to.
    #[cfg(cloakroom_loom)]
    pub(crate) fn with_lending(limit: u64, overflow: u64, batch: u64, plenty: u64) -> Self {
        let lending = lending::Lending::fixed(2, batch, batch, plenty);
        let reclaimer = Reclaimer::new(None);
        let semaphore = Semaphore::with_lending(limit, overflow, lending, reclaimer);
        Self { semaphore: Arc::new(semaphore) }
    }

    /// For models and counts: begins to lend if it can.
    #[cfg(any(cloakroom_loom, cloakroom_count))]
    pub(crate) fn lend(&self) {
        self.semaphore.lend();
    }

    /// Takes `bytes` now, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// [`Full`](Refusal::Full) if they do not fit or a request waits already,
    /// [`TooLarge`](Refusal::TooLarge) if they exceed the limit, [`Closed`](Refusal::Closed).
    #[inline(always)]
    pub fn try_acquire(&self, bytes: u64) -> Result<Permit<'_>, AcquireError> {
        match self.semaphore.acquire_now(bytes) {
            Ok(tier) => Ok(Permit::new(&self.semaphore, bytes, tier)),
            Err(reason) => Err(self.semaphore.refusal(reason, bytes)),
        }
    }

    /// As `try_acquire`, without reclaiming and without the numbers: runs no user code.
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
    /// The future gives [`TooLarge`](Refusal::TooLarge) if the request exceeds the limit, at once or, if
    /// the limit was lowered meanwhile, when the request comes to the head of the queue; and
    /// [`Closed`](Refusal::Closed).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue, or releases the bytes if they had been granted; either way
    /// the next waiter is granted if it fits. The position in the queue is lost. A granted future that is neither
    /// polled nor dropped keeps its bytes, and so does one that is leaked.
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

    /// As [`acquire`](Self::acquire), without borrowing the budget: the future and its permit are `'static`.
    ///
    /// For spawned tasks, struct fields and services. Clones the handle, and once more for the permit.
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
    /// A timeout of zero never waits; one too long for the clock never ends.
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
    /// Raising it grants waiters immediately. Lowering it takes no bytes away: until what is
    /// used has fallen far enough, nothing is granted. A waiter whose request has become larger than the
    /// limit is refused as [`TooLarge`](Refusal::TooLarge) when it comes to the head, so it blocks no other.
    pub fn set_limit(&self, limit: u64) {
        self.semaphore.set_limit(limit);
    }

    /// The limit in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.semaphore.limit()
    }

    /// The bytes that permits hold, granted ones included. Off by what the limit moves while another
    /// thread is in [`set_limit`](Self::set_limit).
    ///
    /// A budget that many threads use at once lends room to them. This call recalls it, under a lock, so a program
    /// that calls it for every request pays for that.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.semaphore.used()
    }

    /// Returns how many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.semaphore.waiting()
    }

    /// Bounds how many requests may wait: one more is refused immediately, with
    /// [`QueueFull`](Refusal::QueueFull). Requests that wait already stay. With 0 no request waits.
    pub fn set_max_waiting(&self, requests: usize) {
        self.semaphore.set_queue_limits(|max, _| *max = requests);
    }

    /// Bounds how many bytes the waiting requests may ask for together: one that would exceed it is refused
    /// immediately, with [`QueueFull`](Refusal::QueueFull). Requests that wait already stay.
    pub fn set_max_waiting_bytes(&self, bytes: u64) {
        self.semaphore.set_queue_limits(|_, max| *max = bytes);
    }

    /// Completes when the budget is closed *and* no permit holds anything: the second half of a graceful
    /// shutdown. A permit of 0 bytes holds nothing, and is not waited for. It waits for the [`close`](Self::close) too. Any number may wait.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping it.
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

    /// As [`drained`](Self::drained), blocking this thread for at most `timeout`. Returns whether it came
    /// to that.
    #[cfg(not(target_family = "wasm"))]
    pub fn drained_timeout(&self, timeout: Duration) -> bool {
        self.block_on(timeout, |elapsed| blocking::completes(self.drained(), elapsed))
    }

    /// Returns the numbers of the wait queue. Takes its lock.
    pub(crate) fn queue_stats(&self) -> QueueStats {
        self.semaphore.queue_stats()
    }

    /// How many waiters were dropped while they waited.
    pub(crate) fn abandoned(&self) -> u64 {
        self.semaphore.abandoned()
    }

    /// The most bytes that were in use at once.
    pub(crate) fn peak(&self) -> u64 {
        self.semaphore.peak()
    }

    /// How much of the limit, its upper end, is overflow.
    pub(crate) fn overflow(&self) -> u64 {
        self.semaphore.overflow()
    }

    /// Gives back bytes of a permit that was forgotten.
    #[inline]
    pub(crate) fn release(&self, bytes: u64) {
        self.semaphore.release(bytes);
    }

    pub(crate) fn refusal(&self, reason: Refusal, requested: u64) -> AcquireError {
        self.semaphore.refusal(reason, requested)
    }

    /// Whether it has been closed.
    ///
    /// # Memory ordering
    ///
    /// If it is `true`, what was done before the close is visible.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.semaphore.is_closed()
    }

    /// Closes the budget and returns how many requests waited; 0 if it was closed already. They, and
    /// every later request, get [`Closed`](Refusal::Closed). Permits stay good.
    pub fn close(&self) -> usize {
        self.semaphore.close()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.semaphore.fmt(f)
    }
}
