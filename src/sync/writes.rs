//! Counts writes by cache line and thread, under `--cfg cloakroom_count`: `.ci/count`.
//!
//! What threads cost each other is the cache lines that more than one of them writes. A timer shows it blurred, and
//! on two cores only; this counts it. Atomics, locks and cells report each write and read-modify-write.

use std::cell::RefCell;
use std::collections::HashMap;

const LINE: usize = 64;

thread_local! {
    static WRITES: RefCell<HashMap<usize, u64>> = RefCell::new(HashMap::new());
}

pub(crate) fn record<T>(to: &T) {
    record_at(std::ptr::from_ref(to).addr());
}

/// `address` 0: nothing was written.
pub(crate) fn record_at(address: usize) {
    if address != 0 {
        // A thread that goes away counts no more.
        let _ = WRITES.try_with(|writes| {
            *writes.borrow_mut().entry(address / LINE).or_default() += 1;
        });
    }
}

/// How often this thread has written to each line since it was last asked.
pub(crate) fn take() -> HashMap<usize, u64> {
    WRITES.take()
}
