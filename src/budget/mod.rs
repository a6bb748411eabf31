//! The byte budget: a counter, a line, and permits. Knows nothing of payloads and tickets.
//!
//! [`Core`] joins the packed word (`word.rs`), the line (`wait_queue.rs`) and the limit; [`Budget`] is its
//! public handle. Futures and blocking calls are in `acquire.rs`, what they give out in `permit.rs`.

mod acquire;
mod permit;
mod wait_queue;
mod word;

use std::fmt;
use std::future::Pending;
use std::mem;
use std::pin::Pin;
use std::task::Waker;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use self::wait_queue::{Ending, Node, Verdict, WaitQueue, WakeBatch};
use self::word::{Snapshot, Word};
use crate::blocking;
use crate::error::{AcquireError, Refusal};
use crate::sync::{Arc, Gauge, Mutex, contain_panic};

pub use self::acquire::Acquire;
pub use self::permit::Permit;
pub(crate) use self::word::MAX_LIMIT;

/// The state of a budget.
pub(crate) struct Core {
    word: CachePadded<Word>,
    line: Mutex<Line>,
    /// Copies of what is in the line, for those who do not lock. This one is never below the limit, so
    /// that what can fit is never called too large.
    limit: Gauge,
    waiting: Gauge,
}

/// What the lock guards.
struct Line {
    queue: WaitQueue,
    /// Together with the word's room, the bytes in use: limit - room.
    limit: u64,
    /// The word's `CLOSED`, which is set with the lock held.
    closed: bool,
}

/// What became of an attempt to join the line.
enum Joined {
    Queued,
    /// It was this caller's turn at once.
    Granted,
    Refused(Refusal),
}

impl Core {
    fn new(limit: u64) -> Self {
        let limit = limit.min(MAX_LIMIT);
        Self {
            word: CachePadded::new(Word::new(limit)),
            line: Mutex::new(Line { queue: WaitQueue::new(), limit, closed: false }),
            limit: Gauge::new(limit),
            waiting: Gauge::new(0),
        }
    }

    /// Charges `bytes` now or says why not. Lock-free.
    #[inline]
    fn try_charge(&self, bytes: u64) -> Result<(), Refusal> {
        self.word.charge(bytes).map_err(|found| self.why_refused(bytes, found))
    }

    #[cold]
    fn why_refused(&self, bytes: u64, found: Snapshot) -> Refusal {
        if found.is_closed() {
            Refusal::Closed
        } else if bytes > self.limit.get() {
            Refusal::TooLarge
        } else {
            Refusal::Full
        }
    }

    /// Gives `bytes` back and serves the line if there is one.
    #[inline]
    fn release(&self, bytes: u64) {
        if self.word.release(bytes).is_queued() {
            self.serve();
        }
    }

    /// Joins the tail, or takes the bytes if it turns out that nobody waits and they fit.
    ///
    /// # Safety
    /// As for [`WaitQueue::join`]: a node that was `Queued` is taken out with [`Core::leave`] before it
    /// is freed, unless its ending was seen.
    unsafe fn join(&self, node: Pin<&Node>, waker: Waker) -> Joined {
        let bytes = node.need();
        let mut line = self.line.lock();
        let joined = if line.closed {
            Joined::Refused(Refusal::Closed)
        } else if bytes > line.limit {
            Joined::Refused(Refusal::TooLarge)
        } else {
            // The flag first, then the look: a release that comes between sees the flag (promise 5).
            let before = self.word.set_queued();
            if !line.queue.is_empty() || !before.fits(bytes) {
                // SAFETY: the caller's.
                unsafe { line.queue.join(node, waker) };
                self.note_waiting(&line);
                return Joined::Queued;
            }
            self.word.grant(bytes, true);
            Joined::Granted
        };
        drop(line);
        // User code, so after the unlock; and a panic in it must not lose bytes that were just granted.
        contain_panic(|| drop(waker));
        joined
    }

    /// Takes the node out of the line, and serves the next if it was the head. Returns its ending, which
    /// is `Left` unless another came first.
    ///
    /// # Safety
    /// The node was `Queued` by [`Core::join`].
    unsafe fn leave(&self, node: Pin<&Node>) -> Ending {
        let mut batch = WakeBatch::new();
        let mut line = self.line.lock();
        // SAFETY: the caller's.
        let Some((was_head, waker)) = (unsafe { line.queue.leave(node) }) else {
            drop(line);
            return node.ending();
        };
        // Behind a head that goes, the next may fit (promise 5).
        let more = was_head && self.serve_locked(&mut line, &mut batch);
        self.note_waiting(&line);
        drop(line);
        batch.wake_all();
        if more {
            self.serve();
        }
        drop(waker);
        Ending::Left
    }

    /// Makes sure that the node wakes `waker`. The waker is cloned, and the old one dropped, with the
    /// lock free: both are user code.
    ///
    /// # Safety
    /// The node was `Queued` by [`Core::join`].
    unsafe fn update_waker(&self, node: Pin<&Node>, waker: &Waker) {
        {
            let line = self.line.lock();
            // SAFETY: queued and, under the lock, still waiting: linked.
            if node.ending() != Ending::Waiting || unsafe { line.queue.will_wake(node, waker) } {
                return;
            }
        }
        let new = waker.clone();
        let mut line = self.line.lock();
        let unused = if node.ending() == Ending::Waiting {
            // SAFETY: as above.
            unsafe { line.queue.replace_waker(node, new) }
        } else {
            Some(new)
        };
        drop(line);
        drop(unused);
    }

    /// Grants, and wakes, as many from the head on as fit. Wakers run with the lock free, and nothing is
    /// carried over from one hold of it to the next (invariant 6).
    #[cold]
    fn serve(&self) {
        let mut batch = WakeBatch::new();
        loop {
            let mut line = self.line.lock();
            let more = self.serve_locked(&mut line, &mut batch);
            self.note_waiting(&line);
            drop(line);
            batch.wake_all();
            if !more {
                return;
            }
        }
    }

    /// One hold of the lock's worth of serving. Returns whether to go on after waking the batch.
    fn serve_locked(&self, line: &mut Line, batch: &mut WakeBatch) -> bool {
        let mut now = self.word.load();
        let (closed, limit) = (line.closed, line.limit);
        let more = line.queue.serve(batch, |bytes, last| {
            if closed {
                Verdict::End(Ending::Closed)
            } else if bytes > limit {
                Verdict::End(Ending::TooLarge)
            } else if now.fits(bytes) {
                now = self.word.grant(bytes, last);
                Verdict::End(Ending::Granted)
            } else {
                Verdict::Wait
            }
        });
        if line.queue.is_empty() && now.is_queued() {
            self.word.clear_queued();
        }
        more
    }

    fn close(&self) -> usize {
        let waiting = {
            let mut line = self.line.lock();
            self.word.close();
            if mem::replace(&mut line.closed, true) { 0 } else { line.queue.len() }
        };
        // Nobody joins a closed line, so this ends those who wait now and no one else.
        self.serve();
        waiting
    }

    fn set_limit(&self, limit: u64) {
        let limit = limit.min(MAX_LIMIT);
        {
            let mut line = self.line.lock();
            let old = mem::replace(&mut line.limit, limit);
            self.limit.set(limit.max(old));
            self.word.resize(old, limit);
            self.limit.set(limit);
        }
        self.serve();
    }

    fn used(&self) -> u64 {
        let used = i128::from(self.limit.get()) - i128::from(self.word.load().room());
        u64::try_from(used).unwrap_or(0)
    }

    fn note_waiting(&self, line: &Line) {
        self.waiting.set(line.queue.len() as u64);
    }

    fn waiting(&self) -> usize {
        self.waiting.get() as usize
    }

    #[cold]
    fn refusal(&self, reason: Refusal, requested: u64) -> AcquireError {
        AcquireError {
            reason,
            requested,
            // The numbers are for people: loom need not explore what values they may have.
            used: if cfg!(loom) { 0 } else { self.used() },
            limit: self.limit.get(),
            waiting: self.waiting(),
        }
    }
}

/// A fair byte budget: a limit, and permits for bytes below it, granted first come first served.
///
/// Like an async semaphore that counts bytes, with three differences that matter when memory is what is
/// counted: sizes are 64 bits, the line is strict (a small request never passes a large one, so no
/// request starves), and a waiter that gives up lets the one behind it through at once.
///
/// A `Budget` is a handle: cloning it is cheap, and all clones are the same budget.
///
/// # Fairness
///
/// Requests that have to wait are granted in the order in which they joined the line: for a future that
/// is its first poll, not its creation. While anybody waits, [`try_acquire`](Self::try_acquire) is
/// refused and [`acquire`](Self::acquire) joins the tail, even if the request would fit.
///
/// A grant goes straight to the waiter at the head. If that waiter is a future that nobody polls any
/// more and nobody drops (say, the loser of a `select!` that is kept around), the bytes stay with it.
///
/// # Complexity
///
/// Acquiring and releasing is one atomic read-modify-write while nobody waits, and takes no lock.
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
    core: Arc<Core>,
}

impl Budget {
    /// The largest limit a budget can have, in bytes (2^61 - 1). A larger one is treated as this.
    pub const MAX_LIMIT: u64 = MAX_LIMIT;

    /// Makes a budget of `limit` bytes, all of it free.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { core: Arc::new(Core::new(limit)) }
    }

    /// Takes `bytes` now, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// [`Full`](Refusal::Full) if they do not fit or somebody waits already,
    /// [`TooLarge`](Refusal::TooLarge) if they exceed the limit, [`Closed`](Refusal::Closed).
    #[inline]
    pub fn try_acquire(&self, bytes: u64) -> Result<Permit<'_>, AcquireError> {
        match self.core.try_charge(bytes) {
            Ok(()) => Ok(Permit::new(&self.core, bytes)),
            Err(reason) => Err(self.core.refusal(reason, bytes)),
        }
    }

    /// Takes `bytes`, waiting in line until they fit. Bound the wait with [`Acquire::until`].
    ///
    /// # Errors
    ///
    /// The future gives [`TooLarge`](Refusal::TooLarge) if the request exceeds the limit, at once or, if
    /// the limit was lowered meanwhile, when the request comes to the head of the line; and
    /// [`Closed`](Refusal::Closed).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the line, or gives the bytes back if they had been granted; either way
    /// the next in line is served. The place in line is lost.
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
    pub fn acquire(&self, bytes: u64) -> Acquire<'_, Pending<()>> {
        Acquire::new(&self.core, bytes)
    }

    /// Takes `bytes`, blocking this thread in line for at most `timeout`. A timeout of zero never
    /// waits; one too long for the clock waits for good.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and [`TimedOut`](Refusal::TimedOut), or
    /// [`Full`](Refusal::Full) if the timeout is zero.
    pub fn acquire_timeout(
        &self,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Permit<'_>, AcquireError> {
        if timeout.is_zero() {
            return self.try_acquire(bytes);
        }
        if let Ok(()) = self.core.try_charge(bytes) {
            return Ok(Permit::new(&self.core, bytes));
        }
        blocking::run(timeout, |elapsed| self.acquire(bytes).until(elapsed))
            .map_err(AcquireError::into_timed_out)
    }

    /// Sets the limit, in bytes; at most [`MAX_LIMIT`](Self::MAX_LIMIT).
    ///
    /// Raising it serves the line at once. Lowering it takes nothing away from anybody: until what is
    /// used has fallen far enough, nothing is granted. A waiter whose request has become larger than the
    /// limit is refused as [`TooLarge`](Refusal::TooLarge) when it comes to the head, so it blocks nobody.
    pub fn set_limit(&self, limit: u64) {
        self.core.set_limit(limit);
    }

    /// The limit in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.core.limit.get()
    }

    /// The bytes that permits hold, granted ones included. Off by what the limit moves while another
    /// thread is in [`set_limit`](Self::set_limit).
    #[must_use]
    pub fn used(&self) -> u64 {
        self.core.used()
    }

    /// How many requests are in line.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.core.waiting()
    }

    /// Gives back bytes of a permit that was forgotten.
    #[inline]
    pub(crate) fn release(&self, bytes: u64) {
        self.core.release(bytes);
    }

    pub(crate) fn refusal(&self, reason: Refusal, requested: u64) -> AcquireError {
        self.core.refusal(reason, requested)
    }

    /// Whether it has been closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.word.load().is_closed()
    }

    /// Closes the budget for good and returns how many were in line; 0 if it was closed already. They, and
    /// every later request, get [`Closed`](Refusal::Closed). Permits stay good.
    pub fn close(&self) -> usize {
        self.core.close()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("limit", &self.limit.get())
            .field("used", &self.used())
            .field("waiting", &self.waiting())
            .finish()
    }
}
