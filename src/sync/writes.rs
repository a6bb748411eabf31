//! Counts writes by cache line and thread, under `--cfg cloakroom_count`: `.ci/count`.
//!
//! Threads slow each other down by writing to the same cache lines. A timer shows that with noise, and on two
//! cores only; this counts it. Atomics, locks and cells report each write and
//! read-modify-write.

use std::cell::RefCell;
use std::collections::HashMap;

const LINE: usize = 64;

thread_local! {
    static WRITES: RefCell<HashMap<usize, u64>> = RefCell::new(HashMap::new());
}

/// Counts a write to `to`.
pub(crate) fn record<T>(to: &T) {
    record_at(std::ptr::from_ref(to).addr());
}

/// Counts a write to the atomic at `address`. 0: nothing was written.
pub(crate) fn record_at(address: usize) {
    if address != 0 {
        // A thread that is ending no longer counts.
        let _ = WRITES.try_with(|writes| {
            *writes.borrow_mut().entry(address / LINE).or_default() += 1;
        });
    }
}

/// Returns how often this thread has written to each cache line since the last call.
pub(crate) fn take() -> HashMap<usize, u64> {
    WRITES.take()
}
