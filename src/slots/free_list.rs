//! Stacks a shard's free slots (Treiber, 1986), lock-free.
//!
//! The links are in the slots, which are never freed, so reading a stale link is harmless. The head carries a
//! tag that every pop changes, so a compare-exchange on a stale head fails: no ABA.
//!
//! ```text
//!   head:  | tag, 37 bits | index + 1, 27 bits; 0: empty |
//!   link:  | depth of the stack from here down, 32 bits | index + 1 of the next, 32 bits; 0: last |
//! ```
//!
//! A tag repeats after 2^37 pops. Only a thread that sleeps for exactly that many, between its load and its
//! compare-exchange, could succeed on a stale head: at fifty million pops a second, that is 45 minutes.
//!
//! The top link's depth is the number of free slots, so counting them costs no further atomic.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::load_for_cas;

/// The bits of an index + 1: one more than an index needs.
const INDEX_BITS: u32 = 27;
const INDEX: u64 = (1 << INDEX_BITS) - 1;
const TAG_STEP: u64 = 1 << INDEX_BITS;
/// Masks a count of pops: the tag wraps there.
pub(crate) const POPS_MASK: u64 = u64::MAX >> INDEX_BITS;

/// Holds the head of a stack of free slots.
#[derive(Debug)]
pub(crate) struct FreeList {
    head: AtomicU64,
}

/// Gives the list access to the links in the slots.
pub(crate) trait Links {
    fn link(&self, index: u32) -> u64;
    fn set_link(&self, index: u32, link: u64);
}

/// Returns the top slot's index, if the list is not empty.
#[inline]
fn top(head: u64) -> Option<u32> {
    u32::try_from(head & INDEX).ok()?.checked_sub(1)
}

impl FreeList {
    pub(crate) fn new() -> Self {
        Self { head: AtomicU64::new(0) }
    }

    /// Takes a slot off the list. The caller then owns it alone.
    ///
    /// # Returns
    ///
    /// `None` if the list is empty.
    ///
    /// # Memory ordering
    ///
    /// Acquire: what the slot's last user did to it is visible.
    ///
    /// # Complexity
    ///
    /// O(1). Lock-free.
    #[inline]
    pub(crate) fn pop(&self, links: &impl Links) -> Option<u32> {
        // ORDERING: Acquire [free.load] pairs with [free.push]: the link is visible, and what the slot's last
        // user did to it. Pops in between continue the push's release sequence.
        let mut head = load_for_cas(&self.head, Ordering::Acquire);
        loop {
            let index = top(head)?;
            // May no longer be a link; then the tag has changed too.
            let next = links.link(index) & INDEX;
            let new = (head & !INDEX).wrapping_add(TAG_STEP) | next;
            // ORDERING: Relaxed / Acquire [free.pop]: the load synchronised; a failure is the next load.
            match self.head.compare_exchange_weak(head, new, Ordering::Relaxed, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(changed) => head = changed,
            }
        }
    }

    /// Pushes a slot that the caller owns alone.
    ///
    /// # Memory ordering
    ///
    /// Release, for the thread that pops the slot.
    ///
    /// # Complexity
    ///
    /// O(1). Lock-free.
    #[inline(always)]
    pub(crate) fn push(&self, links: &impl Links, index: u32) {
        // ORDERING: Acquire [free.load] pairs with [free.push]: the top link's depth is visible.
        let mut head = load_for_cas(&self.head, Ordering::Acquire);
        loop {
            links.set_link(index, ((depth(head, links) + 1) << 32) | (head & INDEX));
            let new = head & !INDEX | u64::from(index + 1);
            // ORDERING: Release / Acquire [free.push] pairs with [free.load]; a failure is the next load.
            match self.head.compare_exchange_weak(head, new, Ordering::Release, Ordering::Acquire) {
                Ok(_) => return,
                Err(changed) => head = changed,
            }
        }
    }

    /// Counts the slots that were ever popped, modulo 2^37.
    pub(crate) fn pops(&self) -> u64 {
        // ORDERING: Relaxed [free.count]: a number for people.
        self.head.load(Ordering::Relaxed) >> INDEX_BITS
    }

    /// Counts the slots on the list. Exact while no thread pushes or pops, approximate otherwise.
    pub(crate) fn len(&self, links: &impl Links) -> u64 {
        // ORDERING: Acquire [free.load] pairs with [free.push]: the link is visible.
        let mut head = self.head.load(Ordering::Acquire);
        let mut depth_seen = 0;
        for _ in 0..8 {
            depth_seen = depth(head, links);
            // ORDERING: Acquire [free.load] pairs with [free.push]: for the next round's link.
            let again = self.head.load(Ordering::Acquire);
            if again == head {
                break;
            }
            head = again;
        }
        depth_seen
    }
}

#[inline]
fn depth(head: u64, links: &impl Links) -> u64 {
    top(head).map_or(0, |index| links.link(index) >> 32)
}
