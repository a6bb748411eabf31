//! What a request that may not join the queue leaves behind, and what others see meanwhile: models L19 and W20.
#![cfg(cloakroom_loom)]

use std::future::poll_fn;
use std::task::Poll;

use cloakroom::{Budget, Refusal};
use loom::thread;
use loom_tests::{Boxed, CountingWaker, Waiter, acquire, hold, model, poll, settled};

/// With `max_waiting` 1: one of two joiners waits, or is granted, before the other can join.
#[test]
fn l19_no_more_wait_than_the_bound_allows() {
    model(|| {
        let budget = Budget::new(1);
        budget.set_max_waiting(1);
        let p = hold(&budget, 1);
        let other = {
            let budget = budget.clone();
            thread::spawn(move || Waiter::started(acquire(&budget, 1)))
        };
        let releaser = thread::spawn(move || drop(p));
        let here = Waiter::started(acquire(&budget, 1));
        releaser.join().unwrap();
        let (mut granted, mut waiting) = (Vec::new(), Vec::new());
        for outcome in [here, other.join().unwrap()] {
            match outcome {
                Ok(Ok(permit)) => granted.push(permit),
                Ok(Err(error)) => assert_eq!(error.reason(), Refusal::QueueFull),
                Err(waiter) if waiter.wakes() > 0 => granted.push(waiter.woken_once().unwrap()),
                Err(waiter) => waiting.push(waiter.still_waits()),
            }
        }
        assert_eq!(granted.len(), 1, "there was a place for one, and room");
        assert!(waiting.len() <= 1);
        drop(granted);
        for waiter in waiting {
            drop(waiter.woken_once().unwrap());
        }
        settled(&budget);
    });
}

/// With `max_waiting` 0: a refused joiner leaves no trace. Some bytes stay held, so no release can repair what it
/// left.
#[test]
fn l19_a_refused_joiner_leaves_no_queue() {
    model(|| {
        let budget = Budget::new(3);
        budget.set_max_waiting_bytes(0);
        let (p, q) = (hold(&budget, 1), hold(&budget, 1));
        let releaser = thread::spawn(move || drop(p));
        match Waiter::started(acquire(&budget, 3)) {
            Ok(outcome) => assert_eq!(outcome.unwrap_err().reason(), Refusal::QueueFull),
            Err(_) => panic!("it waits"),
        }
        releaser.join().unwrap();
        assert!(budget.try_acquire(2).is_ok(), "refused though nobody waits and it fits");
        drop(q);
        settled(&budget);
    });
}

/// No request waits, and 1 of 2 bytes is free: a request for 2 that may not wait is refused, and a request for 1
/// is granted whatever the other is doing.
#[test]
fn w20_a_request_refused_by_a_full_queue_refuses_no_other() {
    model(|| {
        let budget = Budget::new(2);
        budget.set_max_waiting(0);
        let held = hold(&budget, 1);
        let large = {
            let budget = budget.clone();
            thread::spawn(move || match Waiter::started(acquire(&budget, 2)) {
                Ok(outcome) => outcome.unwrap_err().reason(),
                Err(_) => panic!("it waits"),
            })
        };
        let small = budget.try_acquire(1).map(drop).map_err(|refused| refused.reason());
        assert_eq!(small, Ok(()), "refused though nobody waits and it fits");
        assert_eq!(large.join().unwrap(), Refusal::QueueFull);
        drop(held);
        settled(&budget);
    });
}

/// The bytes come after the first attempt, from user code that the same poll runs: they are for this request.
#[test]
fn w20_bytes_that_come_before_the_join_are_granted_though_the_queue_is_full() {
    model(|| {
        let budget = Budget::new(2);
        budget.set_max_waiting(0);
        let mut held = Some(hold(&budget, 2));
        let request: Boxed<_> = {
            let budget = budget.clone();
            Box::pin(async move {
                let releases = poll_fn(move |_| {
                    drop(held.take());
                    Poll::<()>::Pending
                });
                budget.acquire(2).until(releases).await.map(|permit| permit.bytes())
            })
        };
        let mut request = request;
        match poll(&mut request, &CountingWaker::new()) {
            Poll::Ready(outcome) => assert_eq!(outcome.map_err(|e| e.reason()), Ok(2)),
            Poll::Pending => panic!("it waits"),
        }
        settled(&budget);
    });
}

/// A head that a lowered limit refuses was the only waiter: a thread that sees its refusal sees an empty queue.
#[test]
fn w20_a_head_that_became_too_large_leaves_no_queue_behind_its_refusal() {
    model(|| {
        let budget = Budget::new(4);
        let held = hold(&budget, 2);
        let mut waiter = Waiter::queued(acquire(&budget, 4), CountingWaker::new());
        let lowers = {
            let budget = budget.clone();
            thread::spawn(move || budget.set_limit(3))
        };
        if let Poll::Ready(outcome) = waiter.poll() {
            assert_eq!(outcome.unwrap_err().reason(), Refusal::TooLarge);
            let small = budget.try_acquire(1).map(drop).map_err(|refused| refused.reason());
            assert_eq!(small, Ok(()), "refused though nobody waits and it fits");
        }
        lowers.join().unwrap();
        drop(waiter);
        drop(held);
        settled(&budget);
    });
}

/// A request of 2 while the limit of an empty budget goes from 1 to 2: too large, or granted. `Full` is neither.
#[test]
fn w20_a_limit_that_is_raised_makes_nothing_full() {
    model(|| {
        let budget = Budget::new(1);
        let resizer = {
            let budget = budget.clone();
            thread::spawn(move || budget.set_limit(2))
        };
        match budget.try_acquire(2) {
            Ok(permit) => drop(permit),
            Err(refusal) => assert_eq!(refusal.reason(), Refusal::TooLarge),
        }
        resizer.join().unwrap();
        settled(&budget);
    });
}

/// The same while it goes down, and comes up again.
#[test]
fn w20_a_limit_that_goes_down_and_up_makes_nothing_full() {
    model(|| {
        let budget = Budget::new(2);
        let resizer = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.set_limit(1);
                budget.set_limit(2);
            })
        };
        match budget.try_acquire(2) {
            Ok(permit) => drop(permit),
            Err(refusal) => assert_eq!(refusal.reason(), Refusal::TooLarge),
        }
        resizer.join().unwrap();
        settled(&budget);
    });
}

/// It is lowered after the close: nothing was ever too large for an open budget.
#[test]
fn w20_a_limit_lowered_after_the_close_makes_nothing_too_large() {
    model(|| {
        let budget = Budget::new(2);
        let permit = hold(&budget, 1);
        let closer = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.close();
                budget.set_limit(1);
            })
        };
        let refusal = budget.try_acquire(2).unwrap_err().reason();
        assert!(matches!(refusal, Refusal::Full | Refusal::Closed), "{refusal}");
        closer.join().unwrap();
        drop(permit);
        settled(&budget);
    });
}

/// A request that joins as the bytes come never waits, and refuses no other.
#[test]
fn w20_a_request_granted_as_it_joins_refuses_no_other() {
    model(|| {
        let budget = Budget::new(3);
        let permit = hold(&budget, 3);
        let other = {
            let budget = budget.clone();
            thread::spawn(move || Waiter::started(acquire(&budget, 1)))
        };
        drop(permit);
        assert!(budget.try_acquire(1).is_ok(), "refused with nobody in the queue");
        drop(other.join().unwrap());
    });
}
