//! Calls whose documentation says that they panic: nothing is charged or lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use cloakroom::Budget;

use crate::support::{Counted, Live, poll, poll_once, ready, stash_of};

#[test]
fn a_future_polled_after_its_end_panics_and_changes_nothing() {
    let (stash, _) = stash_of::<Counted, u8>(100);
    let live = Live::new();
    let mut put = Box::pin(stash.put(0, live.counted(10)));
    assert!(ready(&mut put).is_ok());
    assert!(catch_unwind(AssertUnwindSafe(|| _ = poll_once(&mut put))).is_err());
    assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (1, 10, 0));
    let budget = Budget::new(10);
    let mut request = Box::pin(budget.acquire(10));
    let permit = ready(&mut request).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| _ = poll(&mut request, Waker::noop()))).is_err());
    drop(request);
    assert_eq!(budget.used(), 10);
    drop(permit);
    assert_eq!(budget.used(), 0);
}

#[test]
fn permits_of_two_budgets_do_not_merge_and_both_give_their_bytes_back() {
    let (one, other) = (Budget::new(10), Budget::new(10));
    let mut permit = one.try_acquire(4).unwrap();
    let stranger = other.try_acquire(5).unwrap();
    let merge = AssertUnwindSafe(|| permit.merge(stranger));
    assert!(catch_unwind(merge).is_err());
    assert_eq!((one.used(), other.used(), permit.bytes()), (4, 0, 4));
    drop(permit);
    assert_eq!(one.used(), 0);
}
