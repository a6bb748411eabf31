//! Exposes internals to the count of shared writes. Exists under `--cfg cloakroom_count` only.

use std::collections::HashMap;

use crate::Budget;

/// Starts lending, if the budget allows it, without waiting for threads to meet.
pub fn lend(budget: &Budget) {
    budget.lend();
}

/// Returns how often this thread has written to each cache line since the last call.
#[must_use]
pub fn take_writes() -> HashMap<usize, u64> {
    crate::sync::writes::take()
}
