//! What the count of shared writes needs of the inside. Exists under `--cfg cloakroom_count` only.

use std::collections::HashMap;

use crate::Budget;

/// Begins to lend, if nothing is against it, without waiting for threads to meet.
pub fn lend(budget: &Budget) {
    budget.lend();
}

/// How often this thread has written to each cache line since it was last asked.
#[must_use]
pub fn take_writes() -> HashMap<usize, u64> {
    crate::sync::writes::take()
}
