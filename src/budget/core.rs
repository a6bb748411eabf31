//! The counter and the line, joined: who gets bytes, and when.
//!
//! Every entry point leaves the line served: whenever the head fits, it is granted before the call
//! returns (invariant 5). User code (wakers, and their clones and drops) runs with the lock free.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::Waker;

use crossbeam_utils::CachePadded;

use super::wait_queue::{Ending, LineStats, Node, Verdict, WaitQueue, WakeBatch};
use super::word::{MAX_LIMIT, Snapshot, Word};
use crate::error::{AcquireError, Refusal};
use crate::sync::{Gauge, Mutex, MutexGuard, contain_panic};

/// Where bytes are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// All of them were below the regular limit when they were charged.
    Regular,
    /// Some were above it, in the overflow.
    Overflow,
}

/// The state of a budget.
pub(super) struct Core {
    word: CachePadded<Word>,
    line: Mutex<Line>,
    /// Copies of what is in the line, for those who do not lock. This one is never below the limit, so
    /// that what can fit is never called too large.
    limit: Gauge,
    waiting: Gauge,
    /// The least room there ever was, as if the limit had always been what it is: limit - room is the peak.
    least_room: Gauge,
    /// How much of the limit, its upper end, is overflow.
    overflow: u64,
}

/// What the lock guards.
struct Line {
    queue: WaitQueue,
    /// Together with the word's room, the bytes in use: limit - room.
    limit: u64,
    /// The word's `CLOSED`, which is set with the lock held.
    closed: bool,
    /// Who waits until it is closed and empty. Once it is closed, `QUEUED` is set for them too.
    drains: WaitQueue,
    /// How long the line may be, and how much all in it may ask for.
    max_waiting: usize,
    max_waiting_bytes: u64,
}

impl Line {
    /// Whether one more that asks for `bytes` is one too many.
    fn is_full_for(&self, bytes: u64) -> bool {
        self.queue.len() >= self.max_waiting
            || self.queue.bytes() + u128::from(bytes) > u128::from(self.max_waiting_bytes)
    }

    /// Whether `QUEUED` is to be set.
    fn is_watched(&self) -> bool {
        !self.queue.is_empty() || self.closed && !self.drains.is_empty()
    }
}

/// What became of an attempt to join the line.
pub(super) enum Joined {
    Queued,
    /// It was this caller's turn at once.
    Granted(Tier),
    Refused(Refusal),
}

impl Core {
    /// `overflow`: how much of the limit is.
    pub(super) fn new(limit: u64, overflow: u64) -> Self {
        let limit = limit.min(MAX_LIMIT);
        let line = Line {
            queue: WaitQueue::new(),
            limit,
            closed: false,
            drains: WaitQueue::new(),
            max_waiting: usize::MAX,
            max_waiting_bytes: u64::MAX,
        };
        Self {
            word: CachePadded::new(Word::new(limit)),
            line: Mutex::new(line),
            limit: Gauge::new(limit),
            waiting: Gauge::new(0),
            least_room: Gauge::new(ordered(limit as i64)),
            overflow,
        }
    }

    /// Charges `bytes` now or says why not. Lock-free.
    #[inline]
    pub(super) fn try_charge(&self, bytes: u64) -> Result<Tier, Refusal> {
        match self.word.charge(bytes) {
            Ok(after) => Ok(self.note_charge(after)),
            Err(found) => Err(self.why_refused(bytes, found)),
        }
    }

    /// `after`: the word's value after a charge. Says where the bytes are from.
    #[inline]
    fn note_charge(&self, after: Snapshot) -> Tier {
        let room = after.room();
        if ordered(room) < self.least_room.get() {
            self.least_room.lower(ordered(room));
        }
        if room < self.overflow as i64 { Tier::Overflow } else { Tier::Regular }
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
    pub(super) fn release(&self, bytes: u64) {
        if self.word.release(bytes).is_queued() {
            self.serve(self.line.lock());
        }
    }

    /// Joins the tail, or takes the bytes if it turns out that nobody waits and they fit.
    ///
    /// # Safety
    /// As for [`WaitQueue::join`]: a node that was `Queued` is taken out with [`Core::leave`] before it
    /// is freed, unless its ending was seen.
    pub(super) unsafe fn join(&self, node: Pin<&Node>, waker: Waker) -> Joined {
        let bytes = node.need();
        let mut line = self.line.lock();
        let joined = if line.closed {
            Joined::Refused(Refusal::Closed)
        } else if bytes > line.limit {
            Joined::Refused(Refusal::TooLarge)
        } else if line.queue.is_empty() && self.word.set_queued().fits(bytes) {
            // The flag first, then the look: a release that comes between sees the flag (promise 5). If somebody
            // is in line already, the flag is set.
            Joined::Granted(self.note_charge(self.word.grant(bytes, true)))
        } else if line.is_full_for(bytes) {
            if line.queue.is_empty() {
                self.word.clear_queued();
            }
            Joined::Refused(Refusal::LineFull)
        } else {
            // SAFETY: the caller's.
            unsafe { line.queue.join(node, waker) };
            self.note_waiting(&line);
            return Joined::Queued;
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
    pub(super) unsafe fn leave(&self, node: Pin<&Node>) -> Ending {
        let mut line = self.line.lock();
        // SAFETY: the caller's.
        let Some((was_head, waker)) = (unsafe { line.queue.leave(node) }) else {
            drop(line);
            return node.ending();
        };
        if was_head {
            // Behind a head that goes, the next may fit (promise 5).
            self.serve(line);
        } else {
            self.note_waiting(&line);
            drop(line);
        }
        drop(waker);
        Ending::Left
    }

    /// Makes sure that the node wakes `waker`. The waker is cloned, and the old one dropped, with the
    /// lock free: both are user code.
    ///
    /// # Safety
    /// The node was `Queued` by [`Core::join`] or [`Core::join_drains`].
    pub(super) unsafe fn update_waker(&self, node: Pin<&Node>, waker: &Waker) {
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
    fn serve<'a>(&'a self, mut line: MutexGuard<'a, Line>) {
        let mut batch = WakeBatch::new();
        loop {
            let more = self.serve_locked(&mut line, &mut batch);
            self.note_waiting(&line);
            drop(line);
            batch.wake_all();
            if !more {
                return;
            }
            line = self.line.lock();
        }
    }

    /// One hold of the lock's worth of serving. Returns whether to go on after waking the batch.
    fn serve_locked(&self, line: &mut Line, batch: &mut WakeBatch) -> bool {
        let mut now = self.word.load();
        let (closed, limit) = (line.closed, line.limit);
        let mut more = line.queue.serve(batch, |bytes, last| {
            if closed {
                Verdict::End(Ending::Closed)
            } else if bytes > limit {
                Verdict::End(Ending::TooLarge)
            } else if now.fits(bytes) {
                now = self.word.grant(bytes, last);
                Verdict::End(Ending::granted(self.note_charge(now)))
            } else {
                Verdict::Wait
            }
        });
        if !more && closed && now.room() == limit as i64 {
            more = line.drains.serve(batch, |_, _| Verdict::End(Ending::Granted));
        }
        if now.is_queued() && !line.is_watched() {
            self.word.clear_queued();
        }
        more
    }

    /// Waits, in no order, for the budget to be closed and nothing to be charged. `false`: it is so.
    ///
    /// # Safety
    /// As for [`WaitQueue::join`]: a node for which this was `true` is taken out with
    /// [`Core::leave_drains`] before it is freed, unless its ending was seen.
    pub(super) unsafe fn join_drains(&self, node: Pin<&Node>, waker: Waker) -> bool {
        let mut line = self.line.lock();
        // As in a join: the flag first, then the look.
        let drained = line.closed && self.word.set_queued().room() == line.limit as i64;
        if !drained {
            // SAFETY: the caller's.
            unsafe { line.drains.join(node, waker) };
            return true;
        }
        if !line.is_watched() {
            self.word.clear_queued();
        }
        drop(line);
        contain_panic(|| drop(waker));
        false
    }

    /// # Safety
    /// The node was joined by [`Core::join_drains`].
    pub(super) unsafe fn leave_drains(&self, node: Pin<&Node>) {
        let mut line = self.line.lock();
        // SAFETY: the caller's.
        let left = unsafe { line.drains.leave(node) };
        if line.closed && !line.is_watched() {
            self.word.clear_queued();
        }
        drop(line);
        drop(left);
    }

    pub(super) fn close(&self) -> usize {
        let mut line = self.line.lock();
        self.word.close();
        if !line.drains.is_empty() {
            self.word.set_queued();
        }
        let waiting = if mem::replace(&mut line.closed, true) { 0 } else { line.queue.len() };
        // Nobody joins a closed line, so this ends those who wait now and no one else.
        self.serve(line);
        waiting
    }

    pub(super) fn set_limit(&self, limit: u64) {
        let limit = limit.min(MAX_LIMIT);
        let mut line = self.line.lock();
        let old = mem::replace(&mut line.limit, limit);
        let more = limit.wrapping_sub(old);
        self.limit.set(limit.max(old));
        // A charge that comes between is overlooked here; in the other order the peak would count it twice.
        if limit < old {
            self.least_room.add(more);
        }
        self.word.resize(old, limit);
        if limit > old {
            self.least_room.add(more);
        }
        self.limit.set(limit);
        self.serve(line);
    }

    pub(super) fn used(&self) -> u64 {
        let used = i128::from(self.limit.get()) - i128::from(self.word.load().room());
        u64::try_from(used).unwrap_or(0)
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.get()
    }

    pub(super) fn overflow(&self) -> u64 {
        self.overflow
    }

    pub(super) fn peak(&self) -> u64 {
        let peak = ordered(self.limit.get() as i64).wrapping_sub(self.least_room.get());
        // The limit is just being moved; less than zero, in two's complement.
        if peak <= MAX_LIMIT { peak } else { 0 }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.word.load().is_closed()
    }

    /// How long the line may be, and how much all in it may ask for. Who is in it stays.
    pub(super) fn limit_line(&self, set: impl FnOnce(&mut usize, &mut u64)) {
        let line = &mut *self.line.lock();
        set(&mut line.max_waiting, &mut line.max_waiting_bytes);
    }

    pub(super) fn line(&self) -> LineStats {
        self.line.lock().queue.stats()
    }

    fn note_waiting(&self, line: &Line) {
        self.waiting.set(line.queue.len() as u64);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.get() as usize
    }

    #[cold]
    pub(super) fn refusal(&self, reason: Refusal, requested: u64) -> AcquireError {
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

/// A signed number, so that it is ordered as an unsigned one. Differences stay what they are.
#[inline]
const fn ordered(room: i64) -> u64 {
    room as u64 ^ 1 << 63
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
