//! Packs a share into one atomic: room that is lent to some of the threads, and a flag.
//!
//! ```text
//!   63                                                   1      0
//!  +------------------------------------------------------+----------+
//!  | room: free bytes that were acquired from the state   | RECALLED |
//!  +------------------------------------------------------+----------+
//! ```
//!
//! | from | operation | to |
//! |---|---|---|
//! | not `RECALLED`, room >= n | `try_acquire(n)` | room - n |
//! | not `RECALLED`, room + n <= most | `release(n, most)` | room + n |
//! | not `RECALLED`, queue locked | `deposit(n)` | room + n |
//! | not `RECALLED`, queue locked | `withdraw(kept)` | room at most `kept` |
//! | any, queue locked | `recall` | `RECALLED`, no room |
//! | `RECALLED`, queue locked, state `LENT` | `resume` | not `RECALLED` |
//!
//! Flag and room are one atomic. A release comes before the recall, which then moves its bytes, or it reads the flag
//! and goes to the state. There is no third case, and so no fence.
//!
//! While a share is lent, each change of it both acquires and releases. Whatever a thread did before a change, to the
//! state as well, happens before whatever is done after a later change. So all operations on the state and the
//! shares have one total order (docs/proof.md, *Lending*).

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::load_for_cas;

/// The share has no room: all of it is in the state. Set in a new share.
const RECALLED: u64 = 1;
const ROOM_SHIFT: u32 = 1;

const fn units(bytes: u64) -> u64 {
    bytes << ROOM_SHIFT
}

/// Reports how a release to a share ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    Kept,
    /// The share is recalled: the caller releases to the state.
    Recalled,
    /// The share would exceed its maximum.
    Surplus,
}

pub(crate) struct Share(AtomicU64);

impl Share {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(RECALLED))
    }

    /// Acquires `bytes` if the share has them. A failure decides nothing.
    #[inline]
    pub(crate) fn try_acquire(&self, bytes: u64) -> bool {
        // Step A6.
        // ORDERING: Relaxed [share.load_for_cas]: checked by the CAS; no request is refused because of it.
        let mut now = load_for_cas(&self.0, Ordering::Relaxed);
        loop {
            if now & RECALLED != 0 || now < units(bytes) {
                return false;
            }
            // Step A7.
            // ORDERING: AcqRel / Relaxed [share.acquire] pairs with [share.release], [share.deposit] and
            // [share.resume]; and with [share.recall], for this thread's earlier changes of the state.
            let after = now - units(bytes);
            match self.0.compare_exchange_weak(now, after, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => now = changed,
            }
        }
    }

    /// Releases `bytes` unless the share is recalled or would have more than `most`.
    #[inline]
    pub(crate) fn release(&self, bytes: u64, most: u64) -> Returned {
        // Step R3.
        // ORDERING: Relaxed [share.load_for_cas]: checked by the CAS; the state accepts bytes at any time.
        let mut now = load_for_cas(&self.0, Ordering::Relaxed);
        loop {
            if now & RECALLED != 0 {
                return Returned::Recalled;
            }
            let after = now + units(bytes);
            if after > units(most) {
                return Returned::Surplus;
            }
            // Step R4.
            // ORDERING: AcqRel / Relaxed [share.release] pairs with [share.acquire], [share.withdraw] and
            // [share.recall]; and with [share.resume]: a thread that learns of this release sees `LENT`.
            match self.0.compare_exchange_weak(now, after, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Returned::Kept,
                Err(changed) => now = changed,
            }
        }
    }

    /// Adds `bytes` that were acquired from the state. Returns the room before.
    ///
    /// Called under the lock, while the state is `LENT`.
    pub(crate) fn deposit(&self, bytes: u64) -> u64 {
        // ORDERING: AcqRel [share.deposit] pairs with [share.acquire]: passes on what [state.acquire_lent]
        // acquired.
        self.0.fetch_add(units(bytes), Ordering::AcqRel) >> ROOM_SHIFT
    }

    /// Removes the room above `kept`, which the caller releases to the state.
    ///
    /// Called under the lock, while the state is `LENT`.
    pub(crate) fn withdraw(&self, kept: u64) -> u64 {
        // ORDERING: Relaxed [share.load_for_cas]: checked by the CAS.
        let mut now = load_for_cas(&self.0, Ordering::Relaxed);
        loop {
            let after = now.min(units(kept));
            // ORDERING: AcqRel / Relaxed [share.withdraw] pairs with [share.release]: [state.release] passes it on.
            match self.0.compare_exchange_weak(now, after, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return (now - after) >> ROOM_SHIFT,
                Err(changed) => now = changed,
            }
        }
    }

    /// Removes all room, which the caller moves to the state. The share's threads then use the state.
    ///
    /// Called under the lock.
    pub(crate) fn recall(&self) -> u64 {
        // ORDERING: Acquire [share.recall] pairs with [share.release] and [share.acquire]:
        // [state.end_lending] passes it on. The next operation is a resume, which the lock orders after this.
        self.0.swap(RECALLED, Ordering::Acquire) >> ROOM_SHIFT
    }

    /// Lets the share's threads use it. Called under the lock, while the state is `LENT`.
    pub(crate) fn resume(&self) {
        // ORDERING: Release [share.resume] pairs with [share.acquire] and [share.release]: publishes `LENT`. The
        // operation before is a recall, which the lock orders before this.
        self.0.fetch_and(!RECALLED, Ordering::Release);
    }

    /// Returns the room.
    pub(crate) fn room(&self) -> u64 {
        // ORDERING: Relaxed [share.room]: only for an error's text.
        self.0.load(Ordering::Relaxed) >> ROOM_SHIFT
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_share_lends_only_while_it_is_not_recalled() {
        let share = Share::new();
        assert!(!share.try_acquire(0));
        assert_eq!(share.release(1, 10), Returned::Recalled);
        share.resume();
        assert!(share.try_acquire(0) && !share.try_acquire(1));
        share.deposit(4);
        assert!(share.try_acquire(3));
        assert_eq!(share.release(9, 9), Returned::Surplus);
        assert_eq!(share.release(8, 9), Returned::Kept);
        assert_eq!(share.withdraw(4), 5);
        assert_eq!(share.withdraw(4), 0);
        assert_eq!((share.room(), share.recall(), share.room()), (4, 4, 0));
        assert_eq!(share.release(1, 10), Returned::Recalled);
        assert!(!share.try_acquire(0));
    }
}
