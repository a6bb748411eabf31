//! Holds what the budget's lock guards: both queues, and what they are decided by.

use super::wait_queue::WaitQueue;

/// Holds the fields that the lock guards.
pub(super) struct Queues {
    pub(super) waiters: WaitQueue,
    /// The limit. Less the room of the state and of the shares, it is the bytes in use.
    pub(super) limit: u64,
    /// Copies the state's `CLOSED`, which is set under the lock.
    pub(super) closed: bool,
    /// Queues waiters for `drained`. After the budget is closed, `QUEUED` is set for them too.
    pub(super) drains: WaitQueue,
    /// Bound the number and the bytes of waiters.
    pub(super) max_waiting: usize,
    pub(super) max_waiting_bytes: u64,
}

impl Queues {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            waiters: WaitQueue::new(),
            limit,
            closed: false,
            drains: WaitQueue::new(),
            max_waiting: usize::MAX,
            max_waiting_bytes: u64::MAX,
        }
    }

    /// Returns whether another waiter for `bytes` would exceed a bound of the queue.
    pub(super) fn is_full_for(&self, bytes: u64) -> bool {
        self.waiters.len() >= self.max_waiting
            || self.waiters.bytes() + u128::from(bytes) > u128::from(self.max_waiting_bytes)
    }

    /// Returns whether `QUEUED` must be set.
    pub(super) fn is_watched(&self) -> bool {
        !self.waiters.is_empty() || self.closed && !self.drains.is_empty()
    }
}
