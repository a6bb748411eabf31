//! Queues waiters: an intrusive FIFO list of the nodes in waiting futures, under one lock. Waiters for `drained`
//! are in a second list of the same type.
//!
//! ```text
//!   head -> Node A <-> Node B <-> Node C <- tail        the nodes live in the waiters' futures
//! ```
//!
//! | node's outcome | linked | `links` may be touched by | the node may be freed by |
//! |---|---|---|---|
//! | `WAITING`, before it was enqueued | no | its owner | its owner |
//! | `WAITING`, in the queue | yes | the holder of the lock | no thread: the owner removes it first |
//! | anything else | no | no thread | its owner, without the lock |
//!
//! A node is unlinked, its waker is moved out, and only then its outcome is stored: after that store
//! only the owner touches it, so an owner that sees an outcome may free the node at once. Wakers
//! are woken after the unlock, from a batch that has no pointers into nodes (invariant 6).

use std::marker::PhantomPinned;
use std::mem::{self, MaybeUninit};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::Waker;

use super::state::Tier;
use crate::sync::UnsafeCell;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{StatCounter, contain_panic};

/// How a waiter's time in the line ended. Numbered so that an atomic can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum WaitOutcome {
    Waiting = 0,
    /// The bytes are charged and belong to the node's owner.
    Granted = 1,
    /// The budget was closed.
    Closed = 2,
    /// The limit was lowered below the request, which came to the head and could never fit.
    TooLarge = 3,
    /// The owner left.
    Removed = 4,
    /// As `Granted`, out of the overflow.
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

    /// Where the bytes are from that were granted, if they were.
    pub(super) fn grant(self) -> Option<Tier> {
        match self {
            Self::Granted => Some(Tier::Regular),
            Self::GrantedOverflow => Some(Tier::Overflow),
            _ => None,
        }
    }
}

/// A place in the line. Lives in the pinned future of who waits.
pub(super) struct Node {
    outcome: AtomicU8,
    /// Bytes asked for. Never changes.
    need: u64,
    /// When it joined, by its owner's clock; `NEVER` if it has none.
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

/// The line, for those who watch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueStats {
    pub(crate) waiting: usize,
    pub(crate) waiting_bytes: u64,
    /// What the head asks for.
    pub(crate) head: Option<u64>,
    /// When the head joined, by its owner's clock, if it has one.
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

    /// For the owner, before it joins.
    pub(super) fn set_since(&self, since: u64) {
        self.since.set(since);
    }

    pub(super) fn since(&self) -> Option<u64> {
        Some(self.since.get()).filter(|since| *since != NEVER)
    }

    /// For the owner, without the lock. Anything but `Waiting` is final.
    pub(super) fn outcome(&self) -> WaitOutcome {
        // ORDERING: Acquire [node.outcome.load] pairs with [node.outcome.store]: the owner may free the node.
        WaitOutcome::ALL[usize::from(self.outcome.load(Ordering::Acquire))]
    }

    /// By pointer and not by reference: the owner may free the node between the store and the return.
    ///
    /// # Safety
    /// The node is alive, unlinked, its waker moved out, the lock held. It may be gone afterwards.
    unsafe fn finish(node: NonNull<Node>, outcome: WaitOutcome) {
        // SAFETY: alive; only the atomic is borrowed, which may be freed under its last store.
        let place = unsafe { &(*node.as_ptr()).outcome };
        // ORDERING: Release [node.outcome.store] pairs with [node.outcome.load].
        place.store(outcome as u8, Ordering::Release);
        // The owner's turn: tests/freed_nodes.rs has it free the node before this returns.
        #[cfg(miri)]
        std::thread::yield_now();
    }
}

/// Wakers that were moved out of their nodes, to be woken when the lock is free.
///
/// Bounded, so that it needs no allocation; two under loom, so that models see more than one batch.
pub(super) struct WakeBatch {
    /// Below `len` they are initialised.
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

    /// Wakes them in the order in which they were granted. No lock may be held: wakers are user code.
    /// One that panics keeps nobody else from being woken (invariant 11).
    pub(super) fn wake_all(&mut self) {
        let len = mem::take(&mut self.len);
        for waker in &mut self.wakers[..len] {
            // SAFETY: it was below `len`, which now says that it has been moved out.
            let waker = unsafe { waker.assume_init_read() };
            contain_panic(|| waker.wake());
        }
    }
}

/// A panic between the push and the wake, of which there is none that we know, would leave some.
impl Drop for WakeBatch {
    #[inline]
    fn drop(&mut self) {
        if self.len != 0 {
            self.wake_all();
        }
    }
}

/// What to do with the head of the line.
pub(super) enum Decision {
    /// Nothing: it has to wait.
    Wait,
    End(WaitOutcome),
}

/// The list. All methods are called under the queue's lock.
///
/// A linked node is alive and pinned, and its `links` are touched under the lock only: that is what
/// the `SAFETY` comments here call *linked*.
pub(super) struct WaitQueue {
    head: Option<NonNull<Node>>,
    tail: Option<NonNull<Node>>,
    len: usize,
    /// What all of them ask for: may be more than 64 bits count.
    bytes: u128,
}

// SAFETY: the pointers are to nodes that stay where they are while they are linked, whatever thread
// their owner is on; nodes are `Sync` in what the list does with them, because it does it under the lock.
unsafe impl Send for WaitQueue {}

// SAFETY: `links` is touched by the owner before the node is linked and under the queue's lock while it
// is; the rest of the node are atomics and an integer that never changes.
unsafe impl Sync for Node {}
// SAFETY: as above; a node that is not linked holds nothing that belongs to a thread.
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

    /// What all who are in it ask for.
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
    /// The node was never linked, and its owner takes it out (`remove`) before it frees it, unless it
    /// has seen its outcome.
    pub(super) unsafe fn enqueue(&mut self, node: Pin<&Node>, waker: Waker) {
        self.bytes += u128::from(node.need);
        let node = NonNull::from(node.get_ref());
        let tail = self.tail.replace(node);
        // SAFETY: the caller's node, not linked before, so nobody else touches its links; the old tail is
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

    /// Ends waiters from the head on, as `decide` says (it is told the head's bytes and whether nobody
    /// waits behind it), until it says to wait, or the line is empty, or the batch is full. Returns
    /// whether it was the batch: then wake it and call again.
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

    /// Takes the node out if it is still in the line. Says whether it was the head, and hands out its
    /// waker, to be dropped when the lock is free. `None`: its outcome came first.
    ///
    /// # Safety
    /// The node has been joined to this queue.
    pub(super) unsafe fn remove(&mut self, node: Pin<&Node>) -> Option<(bool, Option<Waker>)> {
        // Step L2.
        if node.outcome() != WaitOutcome::Waiting {
            return None;
        }
        let node = NonNull::from(node.get_ref());
        let was_head = self.head == Some(node);
        // SAFETY: joined and not ended, so linked; then unlinked and its waker moved out.
        unsafe {
            // Step L3.
            let waker = self.unlink(node);
            Node::finish(node, WaitOutcome::Removed);
            Some((was_head, waker))
        }
    }

    /// Whether the node would wake the same task as `waker` does. Runs no user code.
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

    /// Puts another waker in the node; the old one is to be dropped when the lock is free.
    ///
    /// # Safety
    /// The node is linked in this queue.
    pub(super) unsafe fn replace_waker(&mut self, node: Pin<&Node>, waker: Waker) -> Option<Waker> {
        // SAFETY: linked.
        unsafe { with_links(NonNull::from(node.get_ref()), |links| links.waker.replace(waker)) }
    }

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

/// # Safety
/// The node is alive, and nobody else touches its links meanwhile.
unsafe fn with_links<R>(node: NonNull<Node>, f: impl FnOnce(&mut Links) -> R) -> R {
    // SAFETY: the caller's.
    unsafe { node.as_ref().links.with_mut(|links| f(&mut *links)) }
}
