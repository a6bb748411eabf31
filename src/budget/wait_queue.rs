//! Queues waiters in FIFO order: an intrusive doubly linked list, guarded by the semaphore's lock.
//!
//! Each node is part of a waiting future, so a waiter needs no allocation. A node is pinned while it is linked.
//! Waiters for `drained` are in a second list of the same type.
//!
//! ```text
//!              +----------------------------------------------------------+
//!              | WaitQueue   head        len: 3, bytes: 70           tail |   guarded by the lock
//!              +--------------|----------------------------------------|--+
//!                             v                                        v
//!                       +----------+  next   +----------+  next   +----------+
//!                       | A        | ------> | B        | ------> | C        | ------> None
//!                       | need: 40 |         | need: 10 |         | need: 20 |  next
//!                 prev  | waker    |   prev  | waker    |   prev  | waker    |
//!         None <------- | Waiting  | <------ | Waiting  | <------ | Waiting  |
//!                       +----------+         +----------+         +----------+
//!                        in A's future        in B's future        in C's future
//!
//!   grant_from_head  unlinks A, moves its waker into a batch, then stores its outcome
//!   enqueue          links a node behind C
//!   remove           unlinks any of them: its future was dropped, or gave up
//! ```
//!
//! B and C wait behind A, even when they would fit: no request passes another.
//!
//! | node's outcome | linked | `links` may be touched by | the node may be freed by |
//! |---|---|---|---|
//! | `Waiting`, before it was enqueued | no | its owner | its owner |
//! | `Waiting`, in the queue | yes | the holder of the lock | no thread: the owner removes it first |
//! | any other | no | no thread | its owner, without the lock |
//!
//! The outcome is stored last, after the node was unlinked and its waker moved out. Only the owner touches the node
//! after that store, so an owner that observes an outcome may free its node immediately. The granter wakes the batch
//! after it has released the lock, and the batch has no pointers to nodes (invariant 6).

use std::marker::PhantomPinned;
use std::mem::{self, MaybeUninit};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::Waker;

use super::state::Tier;
use crate::sync::UnsafeCell;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{StatCounter, contain_panic};

/// Says how a wait ended. Numbered so that an atomic can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum WaitOutcome {
    Waiting = 0,
    /// The bytes are acquired and belong to the node's owner.
    Granted = 1,
    /// The budget was closed.
    Closed = 2,
    /// The request came to the head and exceeds the limit, which was lowered meanwhile.
    TooLarge = 3,
    /// The owner removed its node.
    Removed = 4,
    /// The bytes are acquired, some of them from the overflow.
    GrantedOverflow = 5,
}

impl WaitOutcome {
    const ALL: [WaitOutcome; 6] = [
        Self::Waiting,
        Self::Granted,
        Self::Closed,
        Self::TooLarge,
        Self::Removed,
        Self::GrantedOverflow,
    ];

    pub(super) fn granted(tier: Tier) -> Self {
        match tier {
            Tier::Regular => Self::Granted,
            Tier::Overflow => Self::GrantedOverflow,
        }
    }

    /// Returns the tier of the granted bytes, if they were granted.
    pub(super) fn grant(self) -> Option<Tier> {
        match self {
            Self::Granted => Some(Tier::Regular),
            Self::GrantedOverflow => Some(Tier::Overflow),
            _ => None,
        }
    }
}

/// Represents one waiter. Part of its pinned future.
pub(super) struct Node {
    outcome: AtomicU8,
    /// The bytes that the waiter asks for. Never changes.
    need: u64,
    /// The time of the enqueue, on its owner's clock; `NEVER` without a clock.
    since: StatCounter,
    links: UnsafeCell<Links>,
    /// The list points at the node: it must not move while it is linked.
    _pinned: PhantomPinned,
}

struct Links {
    prev: Option<NonNull<Node>>,
    next: Option<NonNull<Node>>,
    waker: Option<Waker>,
}

const NEVER: u64 = u64::MAX;

/// Describes the wait queue, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueStats {
    pub(crate) waiting: usize,
    pub(crate) waiting_bytes: u64,
    /// The bytes that the head asks for.
    pub(crate) head: Option<u64>,
    /// The time at which the head was enqueued, on its owner's clock, if it has one.
    pub(crate) head_since: Option<u64>,
}

impl Node {
    pub(super) fn new(need: u64) -> Self {
        Self {
            outcome: AtomicU8::new(WaitOutcome::Waiting as u8),
            need,
            since: StatCounter::new(NEVER),
            links: UnsafeCell::new(Links { prev: None, next: None, waker: None }),
            _pinned: PhantomPinned,
        }
    }

    pub(super) fn need(&self) -> u64 {
        self.need
    }

    /// Sets the time of the enqueue. Called by the owner, before it.
    pub(super) fn set_since(&self, since: u64) {
        self.since.set(since);
    }

    pub(super) fn since(&self) -> Option<u64> {
        Some(self.since.get()).filter(|since| *since != NEVER)
    }

    /// Loads the outcome, without the lock. Any but `Waiting` is final.
    pub(super) fn outcome(&self) -> WaitOutcome {
        // ORDERING: Acquire [node.outcome.load] pairs with [node.outcome.store]: the owner may free the node.
        WaitOutcome::ALL[usize::from(self.outcome.load(Ordering::Acquire))]
    }

    /// Stores the outcome, after which the owner may free the node.
    ///
    /// Takes a pointer, not a reference: the node may be freed between the store and the return.
    ///
    /// # Safety
    /// The node is alive and unlinked, its waker is moved out, and the lock is held. The node may be freed afterwards.
    unsafe fn finish(node: NonNull<Node>, outcome: WaitOutcome) {
        // SAFETY: alive; only the atomic is borrowed, which may be freed under its last store.
        let place = unsafe { &(*node.as_ptr()).outcome };
        // ORDERING: Release [node.outcome.store] pairs with [node.outcome.load].
        place.store(outcome as u8, Ordering::Release);
        // Lets the owner run: in tests/freed_nodes.rs it frees the node before this returns.
        #[cfg(miri)]
        std::thread::yield_now();
    }
}

/// Holds wakers that were moved out of their nodes, until they are woken without the lock.
///
/// Bounded, so that it needs no allocation. The bound is two under loom, so that models see more than one batch.
pub(super) struct WakeBatch {
    /// Initialised below `len`.
    wakers: [MaybeUninit<Waker>; WakeBatch::CAPACITY],
    len: usize,
}

impl WakeBatch {
    #[cfg(not(cloakroom_loom))]
    pub(super) const CAPACITY: usize = 16;
    #[cfg(cloakroom_loom)]
    pub(super) const CAPACITY: usize = 2;

    #[inline]
    pub(super) fn new() -> Self {
        Self { wakers: [const { MaybeUninit::uninit() }; Self::CAPACITY], len: 0 }
    }

    fn is_full(&self) -> bool {
        self.len == Self::CAPACITY
    }

    fn push(&mut self, waker: Waker) {
        self.wakers[self.len].write(waker);
        self.len += 1;
    }

    /// Wakes the waiters in the order in which they were granted.
    ///
    /// No lock may be held: wakers are user code. A waker that panics does not keep others from being woken
    /// (invariant 11).
    pub(super) fn wake_all(&mut self) {
        let len = mem::take(&mut self.len);
        for waker in &mut self.wakers[..len] {
            // SAFETY: it was below `len`, which now says that it has been moved out.
            let waker = unsafe { waker.assume_init_read() };
            contain_panic(|| waker.wake());
        }
    }
}

/// Wakes the wakers that a panic between `push` and `wake_all` would leave. No such panic is known.
impl Drop for WakeBatch {
    #[inline]
    fn drop(&mut self) {
        if self.len != 0 {
            self.wake_all();
        }
    }
}

/// Says whether the head goes on waiting.
pub(super) enum Decision {
    /// The head goes on waiting.
    Wait,
    /// The head is unlinked, with this outcome.
    End(WaitOutcome),
}

/// Lists the waiters. All methods are called under the semaphore's lock.
///
/// `SAFETY` comments call a node *linked* if it is in the list, alive and pinned. The `links` of such a node are
/// touched under the lock only.
pub(super) struct WaitQueue {
    head: Option<NonNull<Node>>,
    tail: Option<NonNull<Node>>,
    len: usize,
    /// The bytes that all waiters ask for together, which may exceed 64 bits.
    bytes: u128,
}

// SAFETY: the pointers are to nodes that do not move while they are linked, whatever thread their owner is on. The
// list touches nodes under the lock only, and they are `Sync`.
unsafe impl Send for WaitQueue {}

// SAFETY: `links` is touched by the owner before the node is linked, and under the lock while it is. The other fields
// are atomics and an integer that never changes.
unsafe impl Sync for Node {}
// SAFETY: as above; no field of a node that is not linked belongs to a thread.
unsafe impl Send for Node {}

impl WaitQueue {
    pub(super) const fn new() -> Self {
        Self { head: None, tail: None, len: 0, bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Returns the bytes that all waiters ask for together.
    pub(super) fn bytes(&self) -> u128 {
        self.bytes
    }

    pub(super) fn stats(&self) -> QueueStats {
        let (mut head, mut head_since) = (None, None);
        if let Some(node) = self.head {
            // SAFETY: linked.
            unsafe {
                head = Some(node.as_ref().need);
                head_since = node.as_ref().since();
            }
        }
        let waiting_bytes = u64::try_from(self.bytes).unwrap_or(u64::MAX);
        QueueStats { waiting: self.len, waiting_bytes, head, head_since }
    }

    /// Links the node at the tail.
    ///
    /// # Safety
    /// The node was never linked. Its owner removes it (`remove`) before it frees it, unless the owner has observed
    /// its outcome.
    pub(super) unsafe fn enqueue(&mut self, node: Pin<&Node>, waker: Waker) {
        self.bytes += u128::from(node.need);
        let node = NonNull::from(node.get_ref());
        let tail = self.tail.replace(node);
        // SAFETY: the caller's node was not linked before, so no other thread touches its links; the old tail is
        // linked.
        unsafe {
            with_links(node, |links| {
                links.prev = tail;
                links.waker = Some(waker);
            });
            match tail {
                Some(tail) => with_links(tail, |links| links.next = Some(node)),
                None => self.head = Some(node),
            }
        }
        self.len += 1;
    }

    /// Ends waits from the head on, until `decide` returns `Wait`, or the queue or the room in `batch` is exhausted.
    ///
    /// `decide` receives the bytes of the head, and whether it is the last waiter. Returns whether the batch is full:
    /// the caller then wakes it and calls again.
    pub(super) fn grant_from_head(
        &mut self,
        batch: &mut WakeBatch,
        mut decide: impl FnMut(u64, bool) -> Decision,
    ) -> bool {
        while let Some(head) = self.head {
            if batch.is_full() {
                return true;
            }
            // SAFETY: linked.
            let need = unsafe { head.as_ref() }.need;
            match decide(need, self.len == 1) {
                Decision::Wait => break,
                Decision::End(outcome) => {
                    // SAFETY: linked; then unlinked, its waker moved out, and not touched again.
                    unsafe {
                        // Step S4.
                        if let Some(waker) = self.unlink(head) {
                            batch.push(waker);
                        }
                        // Step S5.
                        Node::finish(head, outcome);
                    }
                }
            }
        }
        false
    }

    /// Removes the node if it is still linked.
    ///
    /// Returns whether it was the head, and its waker, which the caller drops without the lock. `None` means that
    /// another outcome was stored first.
    ///
    /// # Safety
    /// The node has been enqueued in this queue.
    pub(super) unsafe fn remove(&mut self, node: Pin<&Node>) -> Option<(bool, Option<Waker>)> {
        // Step L2.
        if node.outcome() != WaitOutcome::Waiting {
            return None;
        }
        let node = NonNull::from(node.get_ref());
        let was_head = self.head == Some(node);
        // SAFETY: enqueued and still waiting, so linked; then unlinked and its waker moved out.
        unsafe {
            // Step L3.
            let waker = self.unlink(node);
            Node::finish(node, WaitOutcome::Removed);
            Some((was_head, waker))
        }
    }

    /// Returns whether the node's waker wakes the same task as `waker`. Runs no user code.
    ///
    /// # Safety
    /// The node is linked in this queue.
    pub(super) unsafe fn will_wake(&self, node: Pin<&Node>, waker: &Waker) -> bool {
        // SAFETY: linked.
        unsafe {
            with_links(NonNull::from(node.get_ref()), |links| {
                links.waker.as_ref().is_some_and(|old| old.will_wake(waker))
            })
        }
    }

    /// Replaces the node's waker. Returns the old one, which the caller drops without the lock.
    ///
    /// # Safety
    /// The node is linked in this queue.
    pub(super) unsafe fn replace_waker(&mut self, node: Pin<&Node>, waker: Waker) -> Option<Waker> {
        // SAFETY: linked.
        unsafe { with_links(NonNull::from(node.get_ref()), |links| links.waker.replace(waker)) }
    }

    /// Unlinks the node and moves its waker out.
    ///
    /// # Safety
    /// The node is linked in this queue.
    unsafe fn unlink(&mut self, node: NonNull<Node>) -> Option<Waker> {
        // SAFETY: the node is linked, and so are its neighbours.
        unsafe {
            let (prev, next, waker) = with_links(node, |links| {
                (links.prev.take(), links.next.take(), links.waker.take())
            });
            match prev {
                Some(prev) => with_links(prev, |links| links.next = next),
                None => self.head = next,
            }
            match next {
                Some(next) => with_links(next, |links| links.prev = prev),
                None => self.tail = prev,
            }
            self.len -= 1;
            self.bytes -= u128::from(node.as_ref().need);
            waker
        }
    }
}

/// Runs `f` with the node's links.
///
/// # Safety
/// The node is alive, and no other thread touches its links meanwhile.
unsafe fn with_links<R>(node: NonNull<Node>, f: impl FnOnce(&mut Links) -> R) -> R {
    // SAFETY: the caller's.
    unsafe { node.as_ref().links.with_mut(|links| f(&mut *links)) }
}
