//! A shard's stack of free slots (Treiber, 1986), lock-free.
//!
//! The links are in the slots, which are never freed, so a stale read of one is harmless; and the head
//! carries a tag that every pop changes, so a compare-exchange on a stale head fails: no ABA.
//!
//! ```text
//!   head:  | tag, 37 bits | index + 1, 27 bits; 0: empty |
//!   link:  | depth of the stack from here down, 32 bits | index + 1 of the next, 32 bits; 0: last |
//! ```
//!
//! A tag comes back after 2^37 pops. A thread that sleeps for exactly so many, between its load and its
//! compare-exchange, would be deceived: at fifty million pops a second, that is 45 minutes.
//!
//! The depth makes the number of free slots known at no cost in atomics: it is the top link's.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::load_for_cas;

const INDEX_BITS: u32 = 27;
const INDEX: u64 = (1 << INDEX_BITS) - 1;
const TAG_STEP: u64 = 1 << INDEX_BITS;

#[derive(Debug)]
pub(crate) struct FreeList {
    head: AtomicU64,
}

/// The links, as the list sees the slots.
pub(crate) trait Links {
    fn link(&self, index: u32) -> u64;
    fn set_link(&self, index: u32, link: u64);
}

/// The top slot's index, if the list is not empty.
#[inline]
fn top(head: u64) -> Option<u32> {
    u32::try_from(head & INDEX).ok()?.checked_sub(1)
}

impl FreeList {
    pub(crate) fn new() -> Self {
        Self { head: AtomicU64::new(0) }
    }

    /// Takes a slot off the list. It is the caller's alone then.
    #[inline]
    pub(crate) fn pop(&self, links: &impl Links) -> Option<u32> {
        // ORDERING: Acquire [free.load] pairs with [free.push]: the link is visible, and what the slot's last
        // user did to it. Pops in between continue the push's release sequence.
        let mut head = load_for_cas(&self.head, Ordering::Acquire);
        loop {
            let index = top(head)?;
            // Perhaps not a link any more; then the tag has changed too.
            let next = links.link(index) & INDEX;
            let new = (head & !INDEX).wrapping_add(TAG_STEP) | next;
            // ORDERING: Relaxed / Acquire [free.pop]: the load synchronised; a failure is the next load.
            match self.head.compare_exchange_weak(head, new, Ordering::Relaxed, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(changed) => head = changed,
            }
        }
    }

    /// Puts a slot on the list, which must be the caller's alone.
    #[inline]
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

    /// How many slots were ever taken off, modulo 2^37.
    pub(crate) fn pops(&self) -> u64 {
        // ORDERING: Relaxed [free.count]: a number for people.
        self.head.load(Ordering::Relaxed) >> INDEX_BITS
    }

    /// How many slots are on the list. Exact while nobody pushes or pops; else about right.
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
