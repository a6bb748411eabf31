//! Lends room to threads, so that a budget far from its limit scales with cores; recalls it before any refusal.
//!
//! When many threads acquire and release, all of them change the state, and each waits for its cache line. A budget
//! that notices this lends room to *shares*, in batches. Each thread then acquires from, and releases to, the share
//! of its own number. The state remains the authority: lent room counts there as acquired. All shares are *recalled*
//! into the state, under the queue's lock, before a request is refused or enqueued, the budget is closed, or the
//! limit moves. From then on the budget is one atomic again, as if it had never lent. It lends again when threads
//! collide at the state again and a quarter of the limit is free.
//!
//! These hold at every instant (docs/proof.md, *Lending*, has the argument, by the labels used here):
//!
//! - I1: while the state is `LENT`, no request waits, the budget is open, and the state's room is at least the overflow.
//! - I2: a share that is not recalled is one of a state that is `LENT`; a recalled share has no room.
//! - I3: bytes held, the state's room, the shares' room, and the bytes being moved add up to the limit. Bytes are
//!   moved only under the lock and while the state is `LENT`.
//!
//! So the room of a state that is not `LENT` is exact, and only such a state decides refusals.

use super::lending::shares;
use super::queues::Queues;
use super::semaphore::Semaphore;
use super::share::{Returned, Share};
use super::state::Tier;
use crate::error::Refusal;
use crate::sync::{MutexGuard, thread_number};

impl Semaphore {
    /// Acquires `bytes` after the caller has observed that the state is `LENT` (A6 to A17).
    #[inline(never)]
    pub(super) fn acquire_lent(&self, bytes: u64) -> Result<Tier, Refusal> {
        match self.lending.share(bytes) {
            // By I1 no request waits, and no overflow is in use.
            Some(share) if share.try_acquire(bytes) => Ok(Tier::Regular),
            share => self.acquire_beside(bytes, share),
        }
    }

    /// Acquires `bytes` that this thread's share does not have.
    #[cold]
    fn acquire_beside(&self, bytes: u64, share: Option<&Share>) -> Result<Tier, Refusal> {
        // Gives the thread a number: its next request uses a share.
        thread_number();
        if let Some(tier) = share.and_then(|share| self.borrow_batch(bytes, share)) {
            return Ok(tier);
        }
        if let Ok(after) = self.state.acquire_lent(bytes, self.overflow) {
            return Ok(self.record_acquired(after));
        }
        // Too little room, or no longer `LENT`. Only a state that is not `LENT` can refuse.
        self.decide_locked(bytes)
    }

    /// Acquires `bytes` from the state, together with a batch for the share (A8 to A10).
    ///
    /// `None` if another thread holds the lock, or there is too little room for both.
    fn borrow_batch(&self, bytes: u64, share: &Share) -> Option<Tier> {
        // Under the lock, so that no recall misses the batch being moved and then refuses a request.
        // Step A8.
        let queues = self.queues.try_lock()?;
        let batch = self.lending.batch.get();
        // Step A9.
        let after = self.state.acquire_lent(bytes + batch, self.overflow).ok()?;
        // Step A10.
        share.deposit(batch);
        drop(queues);
        Some(self.record_acquired(after))
    }

    /// Releases `bytes` to this thread's share (R1 to R4, R7 to R10).
    ///
    /// Returns `false` if the caller must release them to the state.
    #[inline]
    pub(super) fn release_to_share(&self, bytes: u64) -> bool {
        self.lending.has_shares() && self.release_lent(bytes)
    }

    #[inline(never)]
    fn release_lent(&self, bytes: u64) -> bool {
        // Step R1.
        let Some(share) = self.lending.share(bytes) else {
            // Gives the thread a number: its next release uses a share.
            thread_number();
            return false;
        };
        match share.release(bytes, 2 * self.lending.batch.get()) {
            Returned::Kept => true,
            Returned::Recalled => false,
            Returned::Surplus => self.return_surplus(bytes, share),
        }
    }

    /// Releases `bytes` to the state, with the share's room above one batch.
    ///
    /// Returns `false` if the caller must release them to the state.
    #[cold]
    fn return_surplus(&self, bytes: u64, share: &Share) -> bool {
        // Under the lock, as in `borrow_batch`.
        // Step R7.
        let Some(_queues) = self.queues.try_lock() else {
            return false;
        };
        // Step R8.
        if !self.state.load().is_lent() {
            return false;
        }
        // Step R9.
        let surplus = share.withdraw(self.lending.batch.get());
        // Step R10.
        self.state.release(bytes + surplus);
        true
    }

    /// Locks the queues and recalls lent room.
    pub(super) fn lock_recalled(&self) -> MutexGuard<'_, Queues> {
        let queues = self.queues.lock();
        self.recall(&queues);
        queues
    }

    /// Moves all room into the state (K1 to K3), where it stays while the lock is held.
    pub(super) fn recall(&self, _locked: &Queues) {
        // Step K1.
        if !self.state.load().is_lent() {
            return;
        }
        // Step K2.
        let lent = self.lending.all().iter().map(|share| share.recall()).sum();
        // Last: a thread that reads a state without `LENT` reads all room.
        // Step K3.
        self.state.end_lending(lent);
        self.contention.set(0);
    }

    /// Records that threads collided at the state, and begins lending if they often do.
    #[cold]
    pub(super) fn record_contention(&self) {
        // More than it costs to recall all shares.
        let enough = 16 * shares() as u64;
        let seen = self.contention.get() + 1;
        self.contention.set(seen % enough);
        if seen >= enough {
            self.lend();
        }
    }

    /// Begins lending if there is plenty of room and no request waits (G1 to G4).
    #[cold]
    pub(super) fn lend(&self) {
        let lending = &self.lending;
        if lending.batch.get() == 0 {
            return;
        }
        // The allocator is foreign code: not under the lock.
        let shares = lending.make_shares(shares());
        // Step G1.
        let Some(_queues) = self.queues.try_lock() else {
            return;
        };
        if self.state.begin_lending(self.overflow.saturating_add(lending.plenty.get())) {
            // After the state: a refusal must not overlook room in a share.
            for share in shares {
                // Step G4.
                share.resume();
            }
        }
    }
}
