//! Joins the state and the wait queues: decides which request gets bytes, and when.
//!
//! Every entry point grants the waiters that fit before it returns (invariant 5). User code (wakers, and their
//! clones and drops) runs after the lock is released.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::Waker;

use crossbeam_utils::CachePadded;

use super::lending::Lending;
use super::limit::SharedLimit;
use super::queues::Queues;
use super::reclaim::{Reclaimer, Sleeper};
use super::state::{MAX_LIMIT, Snapshot, State, Tier};
use super::wait_queue::{Decision, Node, QueueStats, WaitOutcome, WakeBatch};
use crate::error::{AcquireError, Refusal};
use crate::sync::{Mutex, MutexGuard, StatCounter, contain_panic};

/// Holds a budget's room, its wait queues and its limit.
pub(super) struct Semaphore {
    pub(super) state: CachePadded<State>,
    pub(super) lending: CachePadded<Lending>,
    pub(super) queues: Mutex<Queues>,
    /// Copies `Queues::limit` for readers without the lock. Never below the limit, so that a request that can fit
    /// is never refused as `TooLarge`.
    limit: StatCounter,
    /// Publishes the limit together with the state. A refusal needs both from one moment, in which its reason held.
    shared_limit: SharedLimit,
    /// Copies the number of waiters for readers without the lock.
    waiting: StatCounter,
    /// Counts collisions of threads at the state. Enough of them begin lending.
    pub(super) contention: StatCounter,
    /// Keeps the smallest room ever seen, adjusted to the present limit: limit - room is the peak.
    min_room: StatCounter,
    /// Counts waiters that were dropped while they waited.
    abandoned: StatCounter,
    /// The upper part of the limit, in bytes, that is overflow.
    pub(super) overflow: u64,
    reclaimer: Reclaimer,
}

/// Reports how an attempt to enqueue ended.
pub(super) enum EnqueueResult {
    Queued,
    /// No request waited, and the bytes fit.
    Granted(Tier),
    Refused(Refusal),
}

impl Semaphore {
    /// Makes a semaphore. The upper `overflow` bytes of `limit` are the overflow.
    pub(super) fn new(limit: u64, overflow: u64, reclaimer: Reclaimer) -> Self {
        let limit = limit.min(MAX_LIMIT);
        let lending = Lending::new(limit.saturating_sub(overflow));
        Self::with_lending(limit, overflow, lending, reclaimer)
    }

    pub(super) fn with_lending(
        limit: u64,
        overflow: u64,
        lending: Lending,
        reclaimer: Reclaimer,
    ) -> Self {
        let queues = Queues::new(limit);
        Self {
            state: CachePadded::new(State::new(limit)),
            lending: CachePadded::new(lending),
            queues: Mutex::new(queues),
            limit: StatCounter::new(limit),
            shared_limit: SharedLimit::new(limit),
            waiting: StatCounter::new(0),
            contention: StatCounter::new(0),
            min_room: StatCounter::new(ordered(limit as i64)),
            abandoned: StatCounter::new(0),
            overflow,
            reclaimer,
        }
    }

    /// Acquires `bytes` immediately or returns the reason for a refusal. Lock-free while no room is lent.
    #[inline(always)]
    pub(super) fn try_acquire(&self, bytes: u64) -> Result<Tier, Refusal> {
        #[cfg(cloakroom_lend)]
        self.lend();
        #[cfg(cloakroom_loom)]
        if let Some(decided) = self.refuse_by_an_old_value(bytes) {
            return decided;
        }
        match self.state.try_acquire(bytes, || self.record_contention()) {
            Ok(after) => Ok(self.record_acquired(after)),
            Err(found) if found.is_lent() => self.acquire_lent(bytes),
            Err(found) => self.decide_refusal(bytes, found),
        }
    }

    /// Refuses by a plain load of the state, which may find an old value, as users' loads may.
    ///
    /// Only for models of lending: under loom the first read of `try_acquire` is an RMW, which finds the newest value.
    #[cfg(cloakroom_loom)]
    fn refuse_by_an_old_value(&self, bytes: u64) -> Option<Result<Tier, Refusal>> {
        if !self.lending.is_fixed() {
            return None;
        }
        let found = self.state.load();
        found.refuses(bytes).then(|| self.decide_refusal(bytes, found))
    }

    /// Records the state's value `after` a charge. Returns the tier that the bytes came from.
    #[inline]
    pub(super) fn record_acquired(&self, after: Snapshot) -> Tier {
        let room = after.room();
        if ordered(room) < self.min_room.get() {
            self.min_room.lower(ordered(room));
        }
        if room < self.overflow as i64 { Tier::Overflow } else { Tier::Regular }
    }

    /// Acquires as `acquire_again`, before an enqueue. That decides again, so a refusal need not be exact here.
    #[inline]
    pub(super) fn try_acquire_or_enqueue(&self, bytes: u64) -> Result<Tier, Refusal> {
        #[cfg(cloakroom_lend)]
        self.lend();
        match self.state.try_acquire(bytes, || self.record_contention()) {
            Ok(after) => Ok(self.record_acquired(after)),
            Err(found) if !found.is_lent() && self.reclaimer.is_absent() => Err(Refusal::Full),
            Err(_) => self.acquire_again(bytes),
        }
    }

    /// Acquires as `try_acquire`, after reclaiming if the budget is full.
    #[inline(never)]
    pub(super) fn acquire_again(&self, bytes: u64) -> Result<Tier, Refusal> {
        match self.try_acquire(bytes) {
            Err(Refusal::Full) => self.acquire_after_reclaiming(bytes),
            decided => decided,
        }
    }

    #[cold]
    pub(super) fn acquire_after_reclaiming(&self, bytes: u64) -> Result<Tier, Refusal> {
        self.reclaimer.retry(Refusal::Full, || self.try_acquire(bytes))
    }

    /// Reclaims until `done` holds or no reclaimable bytes remain.
    pub(super) fn reclaim_until(&self, done: impl FnMut() -> bool) {
        self.reclaimer.reclaim_until(done);
    }

    pub(super) fn sleeper(&self) -> Sleeper<'_> {
        self.reclaimer.sleeper()
    }

    /// Finds the reason for a refusal, or acquires the bytes if they fit now.
    ///
    /// The reason held at one moment of the call, for the limit and the state of that moment.
    #[cold]
    fn decide_refusal(&self, bytes: u64, found: Snapshot) -> Result<Tier, Refusal> {
        if !found.is_closed() && found.fits(bytes) {
            // A request waits. This one fits, so it is not too large.
            return Err(Refusal::Full);
        }
        loop {
            // `observe` synchronises with a close; `found` was read Relaxed.
            // Step A18.
            let (now, limit) = self.shared_limit.read_with(|| self.state.observe());
            if now.is_closed() {
                return Err(Refusal::Closed);
            }
            if now.is_lent() {
                return self.acquire_lent(bytes);
            }
            let Some(limit) = limit else { return self.decide_locked(bytes) };
            if bytes > limit {
                return Err(Refusal::TooLarge);
            }
            if !now.admits(bytes) {
                return Err(Refusal::Full);
            }
            if let Ok(after) = self.state.try_acquire(bytes, || ()) {
                return Ok(self.record_acquired(after));
            }
        }
    }

    /// Decides as `decide_refusal`, under the lock: the limit does not move there, and no room is lent.
    #[cold]
    pub(super) fn decide_locked(&self, bytes: u64) -> Result<Tier, Refusal> {
        let queues = self.queues.lock();
        // Step A15.
        if bytes > queues.limit && !queues.closed {
            // Without a recall, which could not change this.
            return Err(Refusal::TooLarge);
        }
        self.recall(&queues);
        // Step A17.
        match self.state.try_acquire(bytes, || ()) {
            Ok(after) => Ok(self.record_acquired(after)),
            Err(_) if queues.closed => Err(Refusal::Closed),
            Err(_) => Err(Refusal::Full),
        }
    }

    /// Returns why `bytes` are refused however much is free, decided at one moment.
    #[cold]
    pub(super) fn never_grants(&self, bytes: u64) -> Option<Refusal> {
        // Observing synchronises with a close.
        let (closed, limit) = match self.shared_limit.read_with(|| self.state.observe()) {
            (now, Some(limit)) => (now.is_closed(), limit),
            (_, None) => {
                let queues = self.queues.lock();
                (queues.closed, queues.limit)
            }
        };
        if closed { Some(Refusal::Closed) } else { (bytes > limit).then_some(Refusal::TooLarge) }
    }

    /// Releases `bytes`, then grants waiters if there are any.
    #[inline]
    pub(super) fn release(&self, bytes: u64) {
        if self.release_to_share(bytes) {
            return;
        }
        if self.state.release(bytes).is_queued() {
            self.grant_waiters(self.queues.lock());
        }
    }

    /// Enqueues the node at the tail, or acquires the bytes if no request waits and they fit.
    ///
    /// # Safety
    /// As for [`WaitQueue::enqueue`]: a node for which this returned `Queued` is removed with
    /// [`Semaphore::remove`] before it is freed, unless its owner has observed an outcome.
    pub(super) unsafe fn enqueue(&self, node: Pin<&Node>, waker: Waker) -> EnqueueResult {
        let bytes = node.need();
        // While a request waits, all room is in the state: neither it nor a later request may use a share.
        let mut queues = self.lock_recalled();
        // Step J2.
        let joined = if queues.closed {
            EnqueueResult::Refused(Refusal::Closed)
        } else if bytes > queues.limit {
            EnqueueResult::Refused(Refusal::TooLarge)
        } else if queues.is_full_for(bytes) {
            // Bytes released since the first attempt belong to this request if no other waits. `QUEUED` is not set
            // for a request that never waits: another `try_acquire` would be refused as `Full` without a reason.
            match self.state.try_acquire(bytes, || ()) {
                Ok(after) => EnqueueResult::Granted(self.record_acquired(after)),
                Err(_) => EnqueueResult::Refused(Refusal::QueueFull),
            }
        } else if let Some(after) = self.acquire_if_first(&queues, bytes) {
            EnqueueResult::Granted(self.record_acquired(after))
        } else {
            // Step J5.
            // SAFETY: the caller's.
            unsafe { queues.waiters.enqueue(node, waker) };
            self.record_waiting(&queues);
            return EnqueueResult::Queued;
        };
        drop(queues);
        // User code, so after the unlock. A panic in it must not lose bytes that were just granted.
        contain_panic(|| drop(waker));
        joined
    }

    /// Acquires the bytes if no request waits and they fit.
    ///
    /// `None` means that `QUEUED` is set: a release after this check takes the lock and grants (invariant 5).
    fn acquire_if_first(&self, queues: &Queues, bytes: u64) -> Option<Snapshot> {
        // Step J3.
        if !queues.waiters.is_empty() {
            return None;
        }
        self.state.acquire_or_set_queued(bytes)
    }

    /// Removes the node, then grants waiters if it was the head.
    ///
    /// Returns its outcome: `Removed`, unless a granter stored another one first.
    ///
    /// # Safety
    /// [`Semaphore::enqueue`] returned `Queued` for the node.
    pub(super) unsafe fn remove(&self, node: Pin<&Node>) -> WaitOutcome {
        // SAFETY: the caller's.
        unsafe { self.remove_counted(node, 0) }
    }

    /// Removes the node of a waiter that is dropped, and counts it.
    ///
    /// # Safety
    /// As for `remove`.
    pub(super) unsafe fn abandon(&self, node: Pin<&Node>) -> WaitOutcome {
        // SAFETY: the caller's.
        unsafe { self.remove_counted(node, 1) }
    }

    /// Removes the node as `remove`, and adds `abandoned` to the count of abandoned waiters.
    ///
    /// # Safety
    /// As for `remove`.
    unsafe fn remove_counted(&self, node: Pin<&Node>, abandoned: u64) -> WaitOutcome {
        let mut queues = self.queues.lock();
        // SAFETY: the caller's.
        let Some((was_head, waker)) = (unsafe { queues.waiters.remove(node) }) else {
            drop(queues);
            return node.outcome();
        };
        // Written under the lock only.
        self.abandoned.set(self.abandoned.get() + abandoned);
        if was_head {
            // The waiter behind a removed head may fit (promise 5).
            self.grant_waiters(queues);
        } else {
            self.record_waiting(&queues);
            drop(queues);
        }
        drop(waker);
        WaitOutcome::Removed
    }

    /// Makes the node wake `waker` from now on.
    ///
    /// The new waker is cloned, and the old one dropped, without the lock: both are user code.
    ///
    /// # Safety
    /// [`Semaphore::enqueue`] returned `Queued`, or [`Semaphore::enqueue_drained`] `true`, for the node.
    pub(super) unsafe fn update_waker(&self, node: Pin<&Node>, waker: &Waker) {
        {
            let queues = self.queues.lock();
            let is_current = || {
                // SAFETY: still waiting, and under the lock: linked.
                unsafe { queues.waiters.will_wake(node, waker) }
            };
            if node.outcome() != WaitOutcome::Waiting || is_current() {
                return;
            }
        }
        let new = waker.clone();
        let mut queues = self.queues.lock();
        let unused = if node.outcome() == WaitOutcome::Waiting {
            // SAFETY: as above.
            unsafe { queues.waiters.replace_waker(node, new) }
        } else {
            Some(new)
        };
        drop(queues);
        drop(unused);
    }

    /// Grants and wakes waiters from the head on, until one does not fit.
    ///
    /// Wakers run without the lock. Nothing that was read under it is used after it is taken again (invariant 6).
    #[cold]
    fn grant_waiters<'a>(&'a self, mut queues: MutexGuard<'a, Queues>) {
        let mut batch = WakeBatch::new();
        loop {
            let more = self.grant_batch(&mut queues, &mut batch);
            self.record_waiting(&queues);
            // Step S8.
            drop(queues);
            // Step S9.
            batch.wake_all();
            if !more {
                return;
            }
            queues = self.queues.lock();
        }
    }

    /// Grants waiters under one lock acquisition, one batch at most.
    ///
    /// Returns whether the caller must wake the batch and call again.
    fn grant_batch(&self, queues: &mut Queues, batch: &mut WakeBatch) -> bool {
        // Step S2.
        let mut now = self.state.load();
        let (closed, limit) = (queues.closed, queues.limit);
        let mut more = queues.waiters.grant_from_head(batch, |bytes, last| {
            if closed {
                Decision::End(WaitOutcome::Closed)
            } else if bytes > limit {
                // As a grant, clears the flag before the waiter can observe its outcome: no request waits then.
                if last {
                    now = self.state.clear_queued();
                }
                Decision::End(WaitOutcome::TooLarge)
            } else if now.fits(bytes) {
                // Step S3.
                now = self.state.grant(bytes, last);
                Decision::End(WaitOutcome::granted(self.record_acquired(now)))
            } else {
                Decision::Wait
            }
        });
        // Step S6.
        if !more && closed && self.state.observe().room() == limit as i64 {
            more = queues.drains.grant_from_head(batch, |_, _| Decision::End(WaitOutcome::Granted));
        }
        // Step S7.
        if now.is_queued() && !queues.is_watched() {
            self.state.clear_queued();
        }
        more
    }

    /// Enqueues a waiter for `drained`. Returns `false` if the budget is closed and empty already.
    ///
    /// # Safety
    /// As for [`WaitQueue::enqueue`]: a node for which this returned `true` is removed with
    /// [`Semaphore::remove_drained`] before it is freed, unless its owner has observed an outcome.
    pub(super) unsafe fn enqueue_drained(&self, node: Pin<&Node>, waker: Waker) -> bool {
        let mut queues = self.queues.lock();
        // As in `enqueue`: the flag first, then the check.
        let drained = queues.closed && {
            // Step D2.
            self.state.set_queued();
            // Step D3.
            self.state.observe().room() == queues.limit as i64
        };
        if !drained {
            // SAFETY: the caller's.
            unsafe { queues.drains.enqueue(node, waker) };
            return true;
        }
        // Step D4.
        if !queues.is_watched() {
            self.state.clear_queued();
        }
        drop(queues);
        contain_panic(|| drop(waker));
        false
    }

    /// Removes a waiter for `drained`.
    ///
    /// # Safety
    /// [`Semaphore::enqueue_drained`] returned `true` for the node.
    pub(super) unsafe fn remove_drained(&self, node: Pin<&Node>) {
        let mut queues = self.queues.lock();
        // Step E2.
        // SAFETY: the caller's.
        let left = unsafe { queues.drains.remove(node) };
        // Step E3.
        if queues.closed && !queues.is_watched() {
            self.state.clear_queued();
        }
        drop(queues);
        drop(left);
    }

    /// Closes the budget, then refuses all waiters. Returns how many there were.
    pub(super) fn close(&self) -> usize {
        let mut queues = self.lock_recalled();
        // Step X2.
        self.state.close();
        if !queues.drains.is_empty() {
            // Step X3.
            self.state.set_queued();
        }
        let waiting = if mem::replace(&mut queues.closed, true) { 0 } else { queues.waiters.len() };
        // A closed budget enqueues no request, so this refuses exactly those that wait now.
        self.grant_waiters(queues);
        waiting
    }

    /// Moves the limit, then grants the waiters that fit.
    pub(super) fn set_limit(&self, limit: u64) {
        let limit = limit.min(MAX_LIMIT);
        let mut queues = self.lock_recalled();
        self.lending.adapt(limit.saturating_sub(self.overflow));
        let old = mem::replace(&mut queues.limit, limit);
        let more = limit.wrapping_sub(old);
        self.limit.set(limit.max(old));
        // The peak misses a charge between these two steps. In the other order it would count that charge twice.
        if limit < old {
            self.min_room.add(more);
        }
        // Step Z2.
        self.shared_limit.set(limit, || self.state.resize(old, limit));
        if limit > old {
            self.min_room.add(more);
        }
        // Includes the bytes that were acquired while the limit moved.
        self.record_acquired(self.state.load());
        self.limit.set(limit);
        self.grant_waiters(queues);
    }

    /// Returns the bytes in use, after recalling lent room.
    pub(super) fn used(&self) -> u64 {
        let mut now = self.state.load();
        if now.is_lent() {
            let queues = self.lock_recalled();
            now = self.state.load();
            drop(queues);
        }
        let used = i128::from(self.limit.get()) - i128::from(now.room());
        u64::try_from(used).unwrap_or(0)
    }

    /// Returns about as many bytes as `used`, without a recall: off by concurrent operations.
    fn used_roughly(&self) -> u64 {
        let room = i128::from(self.state.load().room()) + i128::from(self.lending.room());
        u64::try_from(i128::from(self.limit.get()) - room).unwrap_or(0)
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.get()
    }

    pub(super) fn overflow(&self) -> u64 {
        self.overflow
    }

    pub(super) fn peak(&self) -> u64 {
        let peak = ordered(self.limit.get() as i64).wrapping_sub(self.min_room.get());
        // Negative, in two's complement, while the limit is being moved.
        if peak <= MAX_LIMIT { peak } else { 0 }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.observe().is_closed()
    }

    /// Bounds the number and the bytes of waiters. Requests that wait already stay.
    pub(super) fn set_queue_limits(&self, set: impl FnOnce(&mut usize, &mut u64)) {
        let queues = &mut *self.queues.lock();
        set(&mut queues.max_waiting, &mut queues.max_waiting_bytes);
    }

    pub(super) fn queue_stats(&self) -> QueueStats {
        self.queues.lock().waiters.stats()
    }

    pub(super) fn abandoned(&self) -> u64 {
        self.abandoned.get()
    }

    fn record_waiting(&self, queues: &Queues) {
        self.waiting.set(queues.waiters.len() as u64);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.get() as usize
    }

    #[cold]
    pub(super) fn refusal(&self, reason: Refusal, requested: u64) -> AcquireError {
        AcquireError {
            reason,
            requested,
            // Only for the error's text: loom need not explore its values.
            used: if cfg!(cloakroom_loom) { 0 } else { self.used_roughly() },
            limit: self.limit.get(),
            waiting: self.waiting(),
        }
    }
}

/// Maps signed numbers to unsigned ones in the same order, with the same differences.
#[inline]
const fn ordered(room: i64) -> u64 {
    room as u64 ^ 1 << 63
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("limit", &self.limit.get())
            .field("used", &self.used())
            .field("waiting", &self.waiting())
            .finish()
    }
}
