//! Waiters that free their queue node as soon as they see its outcome, while the thread that stored the outcome is
//! still in that store. Nothing of the node may be in use then.
//!
//! For Miri, which sees a reference that outlives what it points to; under Miri the store yields, so that
//! the waiter is there in time. Elsewhere these tests can hardly fail.
#![cfg(not(cloakroom_loom))]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use cloakroom::{Budget, Permit, Refusal, Stash};

const ROUNDS: usize = if cfg!(miri) { 3 } else { 100 };

/// Joins the queue, and spins until `seen` says that waiters were granted. Only then it polls, without
/// a pause: a poll that comes too early waits for the lock, and so for the thread that it must meet.
fn wait_and_free<F: Future>(future: F, queued: &AtomicUsize, seen: impl Fn() -> bool) -> F::Output {
    let mut future = Box::pin(future);
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    queued.fetch_add(1, Ordering::Release);
    // Checks more than once: the first check may see the earlier state.
    while !(0..8).any(|_| seen()) {
        thread::yield_now();
    }
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            drop(future);
            return output;
        }
        thread::yield_now();
    }
}

fn until(queued: &AtomicUsize, count: usize) {
    while queued.load(Ordering::Acquire) < count {
        thread::yield_now();
    }
}

/// `waiters` threads wait for 10 bytes each while the limit of 40 is used up. Then `end` ends their waits,
/// which is seen by a number that is not 40: of the bytes used, or of the limit.
fn ended_by(waiters: usize, end: impl Fn(&Budget, Permit<'_>), outcome: Option<Refusal>) {
    for _ in 0..ROUNDS {
        let budget = Budget::new(40);
        let held = budget.try_acquire(40).unwrap();
        let queued = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..waiters {
                scope.spawn(|| {
                    let seen = || (budget.used(), budget.limit()) != (40, 40);
                    let ended = wait_and_free(budget.acquire(10), &queued, seen);
                    assert_eq!(ended.err().map(|refused| refused.reason()), outcome);
                });
            }
            until(&queued, waiters);
            end(&budget, held);
        });
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }
}

#[test]
fn by_a_release() {
    ended_by(1, |_, held| drop(held), None);
}

#[test]
fn by_a_release_that_serves_several() {
    ended_by(3, |_, held| drop(held), None);
}

#[test]
fn by_a_limit_that_is_lowered() {
    ended_by(2, |budget, _held| budget.set_limit(5), Some(Refusal::TooLarge));
}

#[test]
fn by_a_limit_that_is_raised() {
    ended_by(2, |budget, _held| budget.set_limit(60), None);
}

#[test]
fn by_a_close() {
    for _ in 0..ROUNDS {
        let budget = Budget::new(40);
        let held = budget.try_acquire(40).unwrap();
        let queued = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let refused = wait_and_free(budget.acquire(10), &queued, || budget.is_closed());
                    assert_eq!(refused.unwrap_err().reason(), Refusal::Closed);
                });
            }
            until(&queued, 2);
            assert_eq!(budget.close(), 2);
            drop(held);
        });
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }
}

/// The head leaves, and its neighbour, whom it serves on its way out, is gone before it is.
#[test]
fn by_a_head_that_leaves() {
    for _ in 0..ROUNDS {
        let budget = Budget::new(40);
        let held = budget.try_acquire(30).unwrap();
        let queued = AtomicUsize::new(0);
        let mut head = Box::pin(budget.acquire(20));
        assert!(head.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        thread::scope(|scope| {
            scope.spawn(|| {
                let granted = wait_and_free(budget.acquire(10), &queued, || budget.used() != 30);
                assert_eq!(granted.unwrap().bytes(), 10);
            });
            until(&queued, 1);
            drop(head);
        });
        drop(held);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }
}

/// The whole way: a take makes room for a put that waits.
#[test]
fn by_a_take() {
    for _ in 0..ROUNDS {
        let stash: Stash<Vec<u8>, u8> =
            Stash::builder().max_bytes(40).entry_overhead(0).build().unwrap();
        let first = stash.try_put(0, vec![0; 40]).unwrap();
        let queued = AtomicUsize::new(0);
        let second = thread::scope(|scope| {
            let put = scope.spawn(|| {
                let put = stash.put(0, vec![1; 30]);
                wait_and_free(put, &queued, || stash.used_bytes() == 30).unwrap()
            });
            until(&queued, 1);
            assert_eq!(stash.take(&first, &0), Some(vec![0; 40]));
            put.join().unwrap()
        });
        assert_eq!(stash.take(&second, &0), Some(vec![1; 30]));
        assert_eq!((stash.used_bytes(), stash.waiting()), (0, 0));
    }
}
