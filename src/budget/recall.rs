//! Lending: how a budget far from its limit scales with cores.
//!
//! Where many threads acquire and release, all of them change the state, and each waits for its cache line. So
//! a budget that sees this lends room to *shares*, in batches: each thread acquires from and releases to the
//! share of its own number. The state stays the authority: lent room counts there as taken. No request is refused
//! or queued, the budget is not closed and the limit does not move before all shares have been *recalled* into it,
//! under the queue's lock. From then on everything is as if nothing had ever been lent. It is lent again when threads
//! meet at the state again, and a quarter of the limit is free.
//!
//! What holds at every instant (docs/proof.md, *Lending*, has the argument, by the labels used here):
//!
//! - I1: while the state is `LENT`, no request waits, the budget is open, and the state's room is at least the overflow.
//! - I2: a share that is not recalled is one of a state that is `LENT`; a recalled share has no room.
//! - I3: bytes held, the state's room, the shares' room, and what is being moved add up to the limit. Something
//!   is being moved only under the lock and while the state is `LENT`.
//!
//! So a state that is not `LENT` says exactly what is free, and refusals are decided by such a one.

use super::lending::shares;
use super::semaphore::{Queues, Semaphore};
use super::share::{Returned, Share};
use super::state::Tier;
use crate::error::Refusal;
use crate::sync::{MutexGuard, thread_number};

impl Semaphore {
    /// Charges `bytes` after the state was seen to be `LENT` (A6 to A17).
    #[inline(never)]
    pub(super) fn acquire_lent(&self, bytes: u64) -> Result<Tier, Refusal> {
        match self.lending.share(bytes) {
            // By I1 no request waits, and no overflow is in use.
            Some(share) if share.try_acquire(bytes) => Ok(Tier::Regular),
            share => self.acquire_beside(bytes, share),
        }
    }

    /// Charges `bytes` that this thread's share does not have.
    #[cold]
    fn acquire_beside(&self, bytes: u64, share: Option<&Share>) -> Result<Tier, Refusal> {
        // From the next time on it has a share.
        thread_number();
        if let Some(tier) = share.and_then(|share| self.borrow_batch(bytes, share)) {
            return Ok(tier);
        }
        if let Ok(after) = self.state.acquire_lent(bytes, self.overflow) {
            return Ok(self.record_acquired(after));
        }
        // Too little, or no longer lent. Only a state that is not `LENT` can refuse.
        self.decide_locked(bytes)
    }

    /// Charges `bytes` to the state together with a batch for the share (A8 to A10). `None`: the lock is taken,
    /// or there is too little for both.
    fn borrow_batch(&self, bytes: u64, share: &Share) -> Option<Tier> {
        // Under the lock: no request is refused, by a recall, for the batch that is on its way.
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

    /// Gives `bytes` to this thread's share (R1 to R4, R7 to R10). `false`: they belong in the state.
    #[inline]
    pub(super) fn release_to_share(&self, bytes: u64) -> bool {
        self.lending.has_shares() && self.release_lent(bytes)
    }

    #[inline(never)]
    fn release_lent(&self, bytes: u64) -> bool {
        // Step R1.
        let Some(share) = self.lending.share(bytes) else {
            // From the next time on it has a share.
            thread_number();
            return false;
        };
        match share.release(bytes, 2 * self.lending.batch.get()) {
            Returned::Kept => true,
            Returned::Recalled => false,
            Returned::Surplus => self.return_surplus(bytes, share),
        }
    }

    /// Gives `bytes` to the state, with what the share has above a batch. `false`: not done.
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

    /// Locks the queues, and recalls what is lent.
    pub(super) fn lock_recalled(&self) -> MutexGuard<'_, Queues> {
        let queues = self.queues.lock();
        self.recall(&queues);
        queues
    }

    /// Moves all room into the state (K1 to K3). It stays there until the lock is free.
    pub(super) fn recall(&self, _locked: &Queues) {
        // Step K1.
        if !self.state.load().is_lent() {
            return;
        }
        // Step K2.
        let lent = self.lending.all().iter().map(|share| share.recall()).sum();
        // Last: a thread that sees a state that is not `LENT` sees all room.
        // Step K3.
        self.state.end_lending(lent);
        self.contention.set(0);
    }

    /// Notes that threads met at the state, and lends room to shares if they often do.
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

    /// Lets threads use shares if there is plenty of room and no request waits (G1 to G4).
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
            // After the state: room in a share must not be overlooked by a refusal.
            for share in shares {
                // Step G4.
                share.resume();
            }
        }
    }
}
