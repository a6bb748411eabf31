//! Wakers that panic when they are woken, cloned or dropped.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use cloakroom::{Budget, Refusal};

use super::{MANY, boom, reaches_the_caller};
use crate::fixtures::test_stash;
use crate::support::{
    Count, Counted, Hooks, Live, Request, acquire_task, counting, must_come_back, poll, put_task,
    queue, ready, stash_of,
};

/// Queues many requests for a byte each; every `nth` waker panics when it is woken.
fn waiters_with_panicking_wakers(budget: &Budget, nth: usize) -> Vec<(Request, Arc<Count>)> {
    (0..MANY)
        .map(|n| {
            let hooks = Hooks::new();
            let hooks = if n % nth == 0 { hooks.on_wake(boom) } else { hooks };
            let (count, waker) = hooks.waker();
            let mut task = acquire_task(budget, 1);
            assert!(poll(&mut task, &waker).is_pending());
            (task, count)
        })
        .collect()
}

#[test]
fn wakers_that_panic_keep_nobody_from_being_woken() {
    must_come_back(|| {
        let budget = Budget::new(MANY as u64);
        // Different positions in the batches, and all.
        for nth in [1, 2, 3, 16, 17, MANY] {
            let full = budget.try_acquire(MANY as u64).unwrap();
            let mut waiters = waiters_with_panicking_wakers(&budget, nth);
            drop(full);
            assert!(waiters.iter().all(|(_, count)| count.get() == 1), "every {nth}th panics");
            assert_eq!((budget.used(), budget.waiting()), (MANY as u64, 0));
            for (task, _) in &mut waiters {
                assert!(ready(task).is_ok());
            }
            drop(waiters);
            assert_eq!(budget.used(), 0);
        }
    });
}

#[test]
fn wakers_that_panic_when_the_budget_is_closed_keep_nobody_from_being_woken() {
    must_come_back(|| {
        let budget = Budget::new(MANY as u64);
        let full = budget.try_acquire(MANY as u64).unwrap();
        let mut waiters = waiters_with_panicking_wakers(&budget, 2);
        assert_eq!(budget.close(), MANY);
        for (task, count) in &mut waiters {
            assert_eq!(count.get(), 1);
            assert_eq!(ready(task).unwrap_err().reason(), Refusal::Closed);
        }
        drop(full);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn wakers_that_panic_when_the_head_leaves_or_the_limit_is_raised_strand_nobody() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let held = budget.try_acquire(5).unwrap();
        let mut head = acquire_task(&budget, 10);
        queue(&mut head);
        let mut waiters = waiters_with_panicking_wakers(&budget, 2);
        drop(head);
        assert_eq!((budget.used(), budget.waiting()), (10, MANY - 5));
        budget.set_limit(5 + MANY as u64);
        assert_eq!((budget.used(), budget.waiting()), (5 + MANY as u64, 0));
        for (task, count) in &mut waiters {
            assert_eq!(count.get(), 1);
            assert!(ready(task).is_ok());
        }
        drop(held);
        assert_eq!(budget.used(), 0);
    });
}

#[test]
fn a_take_returns_the_payload_though_another_tasks_waker_panics() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let ticket = stash.try_put(0, live.counted(100)).unwrap();
        let (woken, waker) = Hooks::new().on_wake(boom).waker();
        let mut put = put_task(&stash, 1, live.counted(60));
        assert!(poll(&mut put, &waker).is_pending());
        assert_eq!(stash.take(&ticket, &0).unwrap().size, 100);
        assert_eq!(woken.get(), 1);
        assert!(ready(&mut put).is_ok());
        assert_eq!((stash.clear(), stash.used_bytes(), live.get()), (1, 0, 0));
    });
}

#[test]
fn a_waker_whose_clone_panics_does_not_join_the_queue() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = budget.try_acquire(10).unwrap();
        let (_, waker) = Hooks::new().on_clone(boom).waker();
        let mut request = Box::pin(budget.acquire(10));
        reaches_the_caller(|| _ = poll(&mut request, &waker));
        assert_eq!(budget.waiting(), 0);
        // It may try again with a better one.
        let woken = queue(&mut request);
        drop(full);
        assert_eq!(woken.get(), 1);
        drop(ready(&mut request));
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn a_waker_whose_clone_panics_while_waiting_leaves_the_old_one_in_place() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = budget.try_acquire(10).unwrap();
        let mut request = Box::pin(budget.acquire(10));
        let woken = queue(&mut request);
        let (_, waker) = Hooks::new().on_clone(boom).waker();
        reaches_the_caller(|| _ = poll(&mut request, &waker));
        assert_eq!(budget.waiting(), 1);
        drop(full);
        assert_eq!(woken.get(), 1);
        drop(ready(&mut request));
        assert_eq!(budget.used(), 0);
    });
}

/// Queues with a waker whose clone in the queue panics when it is dropped.
fn queue_with_panicking_drop<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Arc<Count> {
    let (count, waker) = Hooks::new().on_drop(boom).waker();
    // Not this one.
    let waker = ManuallyDrop::new(waker);
    assert!(poll(future, &waker).is_pending());
    count
}

#[test]
fn a_waker_whose_drop_panics_when_it_is_replaced_has_been_replaced() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = budget.try_acquire(10).unwrap();
        let mut request = Box::pin(budget.acquire(10));
        queue_with_panicking_drop(&mut request);
        let (woken, waker) = counting();
        reaches_the_caller(|| _ = poll(&mut request, &waker));
        drop(full);
        assert_eq!(woken.get(), 1);
        drop(ready(&mut request));
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn a_waker_whose_drop_panics_when_it_leaves_the_queue_strands_nobody() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let _stored = stash.try_put(0, live.counted(60)).unwrap();
        let mut head = Box::pin(stash.put(1, live.counted(50)));
        queue_with_panicking_drop(&mut head);
        let mut next = put_task(&stash, 1, live.counted(40));
        let woken = queue(&mut next);
        reaches_the_caller(|| drop(head));
        assert_eq!((woken.get(), live.get()), (1, 2), "the head's payload went with it");
        assert!(ready(&mut next).is_ok());
        assert_eq!(stash.clear(), 2);
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}

#[test]
fn a_waker_whose_drop_panics_does_not_cost_a_grant_that_comes_at_once() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = Cell::new(Some(budget.try_acquire(10).unwrap().into_owned()));
        // Room comes after the first attempt, so that the waker is cloned for a queue that it does not join.
        let freed = std::sync::Mutex::new(full.take());
        let (_, waker) =
            Hooks::new().on_clone(move || drop(freed.lock().unwrap().take())).on_drop(boom).waker();
        // This one is not to be dropped, not even if the poll panics.
        let waker = ManuallyDrop::new(waker);
        let mut request = Box::pin(budget.acquire(10));
        let Poll::Ready(Ok(permit)) = poll(&mut request, &waker) else { panic!("there was room") };
        assert_eq!((permit.bytes(), budget.used()), (10, 10));
        drop(permit);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn wakers_that_panic_keep_nobody_from_hearing_that_it_is_drained() {
    must_come_back(|| {
        let (stash, _) = test_stash();
        let room = stash.try_reserve(100).unwrap();
        let mut waiters: Vec<_> = (0..50)
            .map(|n| {
                let hooks = if n % 2 == 0 { Hooks::new().on_wake(boom) } else { Hooks::new() };
                let (count, waker) = hooks.waker();
                let mut drained = Box::pin(stash.drained());
                assert!(poll(&mut drained, &waker).is_pending());
                (drained, count)
            })
            .collect();
        stash.close();
        drop(room);
        for (drained, count) in &mut waiters {
            assert_eq!(count.get(), 1);
            ready(drained);
        }
    });
}

#[test]
fn a_waker_whose_drop_panics_when_its_wait_to_drain_is_dropped_strands_nobody() {
    must_come_back(|| {
        let (stash, _) = test_stash();
        let room = stash.try_reserve(100).unwrap();
        let mut first = Box::pin(stash.drained());
        let (_, waker) = Hooks::new().on_drop(boom).waker();
        let waker = ManuallyDrop::new(waker);
        assert!(poll(&mut first, &waker).is_pending());
        let mut second = Box::pin(stash.drained());
        let woken = queue(&mut second);
        stash.close();
        reaches_the_caller(|| drop(first));
        drop(room);
        assert_eq!(woken.get(), 1);
        ready(&mut second);
        // Too late to wait: the clone is dropped for nothing, and that is not the end of the world.
        ready(&mut Box::pin(stash.drained()));
        assert!(poll(&mut Box::pin(stash.drained()), &waker).is_ready());
    });
}

#[test]
fn a_waker_whose_clone_panics_does_not_wait_to_drain() {
    must_come_back(|| {
        let (stash, _) = test_stash();
        let room = stash.try_reserve(100).unwrap();
        let mut drained = Box::pin(stash.drained());
        let (_, bad) = Hooks::new().on_clone(boom).waker();
        reaches_the_caller(|| _ = poll(&mut drained, &bad));
        let (woken, waker) = counting();
        assert!(poll(&mut drained, &waker).is_pending());
        reaches_the_caller(|| _ = poll(&mut drained, &bad));
        stash.close();
        drop(room);
        assert_eq!(woken.get(), 1);
        ready(&mut drained);
    });
}
