//! Packs the room of a budget and three flags into one atomic.
//!
//! ```text
//!   63                                        3       2        1        0
//!  +-------------------------------------------+------+--------+--------+
//!  | room: limit less acquired bytes, signed   | LENT | CLOSED | QUEUED |
//!  +-------------------------------------------+------+--------+--------+
//! ```
//!
//! The state has *room*, not *used*, so that the limit is part of it and a request is checked against one atomic.
//! With `used` here and the limit beside it, a request could pass its check under the old limit and take effect
//! after the limit was lowered. Room is negative while more bytes are in use than a lowered limit allows.
//!
//! | from | operation | to |
//! |---|---|---|
//! | flags clear, room >= n | `try_acquire(n)` | room - n |
//! | any | `release(n)` | room + n; a release that finds `QUEUED` grants waiters |
//! | flags clear, queue locked and empty | `acquire_or_set_queued(n)` | room - n, or `QUEUED` if room < n |
//! | `CLOSED`, queue locked | `set_queued` | `QUEUED` |
//! | `QUEUED`, queue locked | `grant(n, last)` | room - n, and not `QUEUED` if `last` |
//! | `QUEUED`, queue locked and empty | `clear_queued` | not `QUEUED` |
//! | any, queue locked | `close` | `CLOSED`, permanently |
//! | any but `LENT`, queue locked | `resize(delta)` | room + delta |
//! | flags clear, room >= least, queue locked | `begin_lending(least)` | `LENT` |
//! | `LENT`, room >= n + kept | `acquire_lent(n, kept)` | room - n |
//! | `LENT`, queue locked | `end_lending(n)` | room + n, and not `LENT` |
//!
//! `LENT` excludes the other two flags. While it is set, the shares hold room too (`recall.rs`).
//!
//! No wakeup is lost: a release and the setting of `QUEUED` are read-modify-writes of the same atomic, so one comes
//! first. If the release comes first, the enqueuer that sets `QUEUED` reads the bytes in the value that it changes,
//! and checks whether it fits. If `QUEUED` comes first, the releaser reads it, takes the queue's lock and grants.
//! There is no third case, and so no fence.
//!
//! Only read-modify-write operations change the state; a plain store would overwrite concurrent changes.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::load_for_cas;

/// Names the part of the limit that bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// All bytes were below the regular limit when they were acquired.
    Regular,
    /// Some bytes were above it, in the overflow.
    Overflow,
}

/// Set while the wait queue is not empty: only the holder of the queue's lock may acquire (invariant 2). Also set
/// while a closed budget has waiters for `drained`. Either way `release` takes the lock and grants. The lowest bit,
/// so that `grant` can subtract it together with the bytes.
const QUEUED: u64 = 1;
/// No request acquires after this is set (invariant 4).
const CLOSED: u64 = 2;
/// Some room may be in the shares: it is recalled before a request that does not fit is refused.
const LENT: u64 = 4;
const ROOM_SHIFT: u32 = 3;

/// The largest limit. One bit less than the field: room can be as low as `-MAX_LIMIT`.
pub(crate) const MAX_LIMIT: u64 = (1 << (63 - ROOM_SHIFT)) - 1;

/// Holds a value of the state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot(u64);

impl Snapshot {
    #[inline]
    pub(crate) fn room(self) -> i64 {
        (self.0 as i64) >> ROOM_SHIFT
    }

    #[inline]
    pub(crate) fn is_queued(self) -> bool {
        self.0 & QUEUED != 0
    }

    pub(crate) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    #[inline]
    pub(crate) fn is_lent(self) -> bool {
        self.0 & LENT != 0
    }

    /// Returns whether `bytes` fit, whatever the flags say.
    #[inline]
    pub(crate) fn fits(self, bytes: u64) -> bool {
        u64::try_from(self.room()).is_ok_and(|room| bytes <= room)
    }

    /// Returns whether a request that is not queued may acquire `bytes`.
    #[inline]
    pub(crate) fn admits(self, bytes: u64) -> bool {
        self.0 & (QUEUED | CLOSED | LENT) == 0 && self.fits(bytes)
    }

    /// Returns whether this value alone refuses `bytes`.
    #[cfg(cloakroom_loom)]
    pub(crate) fn refuses(self, bytes: u64) -> bool {
        !self.is_lent() && !self.admits(bytes)
    }
}

/// Converts `bytes` to the units of the state.
const fn units(bytes: u64) -> u64 {
    bytes << ROOM_SHIFT
}

/// Wraps the atomic. Byte counts given to it are at most [`MAX_LIMIT`].
pub(crate) struct State(AtomicU64);

impl State {
    pub(crate) fn new(limit: u64) -> Self {
        Self(AtomicU64::new(units(limit)))
    }

    pub(crate) fn load(&self) -> Snapshot {
        // ORDERING: Relaxed [state.load]: a snapshot for decisions that are made again under the lock or by a CAS.
        Snapshot(self.0.load(Ordering::Relaxed))
    }

    /// Loads the state, and synchronises with the releases and the close that it observes.
    pub(crate) fn observe(&self) -> Snapshot {
        // ORDERING: Acquire [state.observe] pairs with [state.release] and [state.close]: every change is a
        // read-modify-write, so it synchronises with all releases up to the value that it reads.
        Snapshot(self.0.load(Ordering::Acquire))
    }

    /// Acquires `bytes` if they fit, no request waits and no room is lent.
    ///
    /// Returns the value after, or the one that refused. Calls `contended` after every lost exchange. Lock-free.
    #[inline]
    pub(crate) fn try_acquire(
        &self,
        bytes: u64,
        contended: impl Fn(),
    ) -> Result<Snapshot, Snapshot> {
        // Step A1.
        // ORDERING: Relaxed [state.load_for_cas]: checked by the CAS; a refusal by an old value takes effect a little
        // earlier.
        let mut now = Snapshot(load_for_cas(&self.0, Ordering::Relaxed));
        loop {
            // Step A3.
            if !now.admits(bytes) {
                return Err(now);
            }
            // Step A4.
            // ORDERING: Acquire / Relaxed [state.acquire] pairs with [state.release]: what was done under the
            // released bytes happens before what is done under the acquired ones.
            let after = now.0 - units(bytes);
            match self.0.compare_exchange_weak(now.0, after, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(Snapshot(after)),
                Err(changed) => now = Snapshot(changed),
            }
            contended();
        }
    }

    /// Acquires `bytes` while room is lent, if at least `kept` bytes of room remain.
    ///
    /// Returns the value after, or the one that has too little room or is not `LENT`. Lock-free.
    pub(crate) fn acquire_lent(&self, bytes: u64, kept: u64) -> Result<Snapshot, Snapshot> {
        // Step A12.
        // ORDERING: Relaxed [state.load_for_cas]: checked by the CAS; no request is refused because of it.
        let mut now = Snapshot(load_for_cas(&self.0, Ordering::Relaxed));
        loop {
            if !now.is_lent() || !now.fits(bytes.saturating_add(kept)) {
                return Err(now);
            }
            // Step A13.
            // ORDERING: Acquire / Relaxed [state.acquire_lent] pairs with [state.release].
            let after = now.0 - units(bytes);
            match self.0.compare_exchange_weak(now.0, after, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(Snapshot(after)),
                Err(changed) => now = Snapshot(changed),
            }
        }
    }

    /// Sets `LENT` if no flag is set and the room is at least `least`. Called under the lock.
    ///
    /// Returns whether shares may now hold room.
    pub(crate) fn begin_lending(&self, least: u64) -> bool {
        // ORDERING: Relaxed [state.load_for_cas]: checked by the CAS.
        let mut now = Snapshot(load_for_cas(&self.0, Ordering::Relaxed));
        loop {
            if !now.admits(least) {
                return false;
            }
            // Step G3.
            // ORDERING: Relaxed / Relaxed [state.begin_lending]: [share.resume] publishes it.
            let after = now.0 | LENT;
            match self.0.compare_exchange_weak(now.0, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => now = Snapshot(changed),
            }
        }
    }

    /// Clears `LENT` and adds the `bytes` that the shares had.
    ///
    /// Called under the lock, with all shares recalled.
    pub(crate) fn end_lending(&self, bytes: u64) {
        // Changes room and flag in one addition, so that no request is refused in between. The difference wraps
        // around if the room is smaller than the flag.
        let more = units(bytes).wrapping_sub(LENT);
        // ORDERING: Release [state.end_lending] pairs with [state.acquire] and [state.grant]: passes on what
        // [share.recall] acquired.
        self.0.fetch_add(more, Ordering::Release);
    }

    /// Acquires `bytes` if they fit, or else sets `QUEUED`. Called under the lock, with an empty queue.
    ///
    /// Both in one step, so that no other thread sees the flag of a request that does not wait. Returns the value
    /// after an acquisition.
    pub(crate) fn acquire_or_set_queued(&self, bytes: u64) -> Option<Snapshot> {
        // ORDERING: Relaxed [state.load_for_cas]: checked by the CAS.
        let mut now = Snapshot(load_for_cas(&self.0, Ordering::Relaxed));
        loop {
            let fits = now.fits(bytes);
            let after = if fits { now.0 - units(bytes) } else { now.0 | QUEUED };
            // Step J4.
            // ORDERING: Acquire / Relaxed [state.acquire] pairs with [state.release], as in `try_acquire`.
            match self.0.compare_exchange_weak(now.0, after, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return fits.then_some(Snapshot(after)),
                Err(changed) => now = Snapshot(changed),
            }
        }
    }

    /// Releases `bytes`. The caller must grant waiters if the returned value has `QUEUED`.
    #[inline]
    pub(crate) fn release(&self, bytes: u64) -> Snapshot {
        // Step R5.
        // ORDERING: Release [state.release] pairs with [state.acquire], [state.grant] and [state.observe].
        Snapshot(self.0.fetch_add(units(bytes), Ordering::Release))
    }

    /// Sets `QUEUED`: a release then grants waiters, and no other call acquires.
    ///
    /// Called under the lock. Returns the value before.
    pub(crate) fn set_queued(&self) -> Snapshot {
        // ORDERING: Relaxed [state.set_queued]: the bytes are acquired with [state.grant].
        Snapshot(self.0.fetch_or(QUEUED, Ordering::Relaxed))
    }

    /// Clears `QUEUED`. Called under the lock, with an empty queue.
    pub(crate) fn clear_queued(&self) -> Snapshot {
        // ORDERING: Relaxed [state.clear_queued]: the lock guards the queue, and the state is one atomic.
        Snapshot(self.0.fetch_and(!QUEUED, Ordering::Relaxed) & !QUEUED)
    }

    /// Acquires `bytes` for the head, which fit. Called under the lock, with `QUEUED` set.
    ///
    /// `last` means that no other request waits: then the flag is cleared too. Returns the value after.
    pub(crate) fn grant(&self, bytes: u64, last: bool) -> Snapshot {
        let less = units(bytes) | if last { QUEUED } else { 0 };
        // ORDERING: Acquire [state.grant] pairs with [state.release]: several releases may have made the room.
        Snapshot(self.0.fetch_sub(less, Ordering::Acquire) - less)
    }

    /// Sets `CLOSED`. Called under the lock.
    pub(crate) fn close(&self) {
        // ORDERING: Release [state.close] pairs with [state.observe]: what was done before the close happens before
        // what is done after a refusal because of it.
        self.0.fetch_or(CLOSED, Ordering::Release);
    }

    /// Moves the limit from `old` to `new`. Called under the lock.
    pub(crate) fn resize(&self, old: u64, new: u64) {
        // Two's complement: a lower limit adds a negative number.
        let delta = units(new).wrapping_sub(units(old));
        // ORDERING: Release [state.resize] pairs with [state.acquire], [state.grant] and [state.observe]: what was
        // done before the limit was raised happens before what is done with its room.
        self.0.fetch_add(delta, Ordering::Release);
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn room_survives_flags_and_a_limit_below_what_is_used() {
        let state = State::new(MAX_LIMIT);
        assert!(state.try_acquire(MAX_LIMIT, || ()).is_ok());
        state.set_queued();
        state.close();
        state.resize(MAX_LIMIT, 0);
        let now = state.load();
        assert_eq!(now.room(), -(MAX_LIMIT as i64));
        assert!(now.is_queued() && now.is_closed() && !now.fits(0));
        state.release(MAX_LIMIT);
        state.clear_queued();
        let now = state.load();
        assert_eq!(now.room(), 0);
        assert!(now.is_closed() && !now.is_queued());
    }

    #[test]
    fn nobody_charges_past_a_flag() {
        for flag in [State::close as fn(&State), |w| {
            w.set_queued();
        }] {
            let state = State::new(10);
            flag(&state);
            assert!(state.try_acquire(1, || ()).is_err());
            assert!(state.try_acquire(0, || ()).is_err());
            assert_eq!(state.load().room(), 10);
        }
    }

    #[test]
    fn what_is_lent_comes_back_with_the_flag() {
        let state = State::new(10);
        assert!(!state.begin_lending(11));
        assert!(state.begin_lending(10));
        assert!(state.try_acquire(1, || ()).is_err() && !state.begin_lending(0));
        assert!(state.acquire_lent(8, 3).is_err());
        assert!(state.acquire_lent(8, 2).is_ok_and(|after| after.is_lent() && after.room() == 2));
        state.end_lending(0);
        let now = state.load();
        assert!(!now.is_lent() && !now.is_queued() && !now.is_closed());
        assert_eq!(now.room(), 2);
        assert!(state.begin_lending(2));
        state.end_lending(8);
        assert_eq!(state.load().room(), 10);
    }

    #[test]
    fn the_last_grant_takes_the_flag_with_it() {
        let state = State::new(10);
        state.set_queued();
        state.grant(3, false);
        assert!(state.load().is_queued());
        state.grant(3, true);
        assert!(!state.load().is_queued());
        assert_eq!(state.load().room(), 4);
    }
}
