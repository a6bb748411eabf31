//! Reports the state of a budget in numbers.

use super::Budget;

impl Budget {
    /// Returns the bytes in use, their peak, and the wait queue, in numbers.
    ///
    /// # Complexity
    ///
    /// O(1). Takes the wait queue's lock for a moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::Budget;
    /// let budget = Budget::new(100);
    /// drop(budget.try_acquire(80)?);
    /// let stats = budget.stats();
    /// assert_eq!((stats.used, stats.peak, stats.limit, stats.waiting), (0, 80, 100, 0));
    /// # Ok::<(), cloakroom::AcquireError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> BudgetStats {
        let queue = self.queue_stats();
        // Read before the peak, which only rises.
        let used = self.used();
        BudgetStats {
            used,
            limit: self.limit(),
            peak: self.peak().max(used),
            waiting: queue.waiting,
            waiting_bytes: queue.waiting_bytes,
            head_bytes: queue.head,
            abandoned: self.abandoned(),
        }
    }
}

/// Reports the state of a budget in numbers; made by [`Budget::stats`].
///
/// The wait queue's three numbers are one snapshot. The others are read one at a time, so under concurrency they
/// may disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BudgetStats {
    /// The bytes that permits hold: [`Budget::used`].
    pub used: u64,
    /// The limit: [`Budget::limit`].
    pub limit: u64,
    /// The most bytes that permits held at once. If other threads acquire while [`set_limit`](Budget::set_limit) moves
    /// the limit, it can be off by as much as the limit moved.
    pub peak: u64,
    /// Requests in the wait queue.
    pub waiting: usize,
    /// The bytes that they ask for together.
    pub waiting_bytes: u64,
    /// The bytes that the head of the wait queue asks for.
    pub head_bytes: Option<u64>,
    /// Waits that ended because their future was dropped.
    pub abandoned: u64,
}
