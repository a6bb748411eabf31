//! Promise 11: a panic in user code leaves the budget, the wait queue and the slots consistent, strands no
//! waiter and loses nothing. One file for each kind of user code that panics.
//!
//! Each test also checks where the panic goes: one in another caller's code, which a call happens to run,
//! does not reach the caller; one in the caller's own code does.

mod clocks;
mod documented_panics;
mod observers;
mod owners;
mod payloads;
mod until;
mod wakers;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// More waiters than one lock acquisition grants.
const MANY: usize = 50;

fn boom() {
    panic!("on purpose");
}

/// The caller's own panic: it must reach the caller.
#[track_caller]
fn reaches_the_caller(call: impl FnOnce()) {
    let caught = catch_unwind(AssertUnwindSafe(call)).expect_err("the panic was swallowed");
    assert_eq!(caught.downcast_ref(), Some(&"on purpose"));
}
