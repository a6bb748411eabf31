//! Waits for `drained`: model L20. As in `budget.rs`, every model ends with `settled`.
#![cfg(cloakroom_loom)]

use std::time::Duration;

use cloakroom::{Budget, Refusal, Stash};
use loom::thread;
use loom_tests::{Boxed, CountingWaker, Now, Payload, Waiter, acquire, hold, model, settled};

fn drained(budget: &Budget) -> Boxed<()> {
    let budget = budget.clone();
    Box::pin(async move { budget.drained().await })
}

fn watching(budget: &Budget) -> Waiter<()> {
    Waiter::queued(drained(budget), CountingWaker::new())
}

/// For when everything has been released: it had completed, or was woken for it.
fn has_drained(outcome: Result<(), Waiter<()>>) {
    if let Err(waiter) = outcome {
        waiter.woken_once();
    }
}

#[test]
fn l20_the_last_release_wakes_drained() {
    model(|| {
        let budget = Budget::new(2);
        let releasers =
            [hold(&budget, 1), hold(&budget, 1)].map(|p| thread::spawn(move || drop(p)));
        budget.close();
        let outcome = Waiter::started(drained(&budget));
        assert!(outcome.is_err() || budget.used() == 0, "something is held");
        for releaser in releasers {
            releaser.join().unwrap();
        }
        has_drained(outcome);
        settled(&budget);
    });
}

#[test]
fn l20_closing_an_empty_budget_wakes_drained() {
    model(|| {
        let budget = Budget::new(1);
        let closer = {
            let budget = budget.clone();
            thread::spawn(move || budget.close())
        };
        let outcome = Waiter::started(drained(&budget));
        assert!(outcome.is_err() || budget.is_closed(), "it is open");
        closer.join().unwrap();
        has_drained(outcome);
        settled(&budget);
    });
}

#[test]
fn l20_a_close_and_the_last_release_together() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let before = watching(&budget);
        let closer = {
            let budget = budget.clone();
            thread::spawn(move || budget.close())
        };
        let releaser = thread::spawn(move || drop(p));
        let outcome = Waiter::started(drained(&budget));
        closer.join().unwrap();
        releaser.join().unwrap();
        before.woken_once();
        has_drained(outcome);
        settled(&budget);
    });
}

/// One drained future is dropped: the others are woken all the same.
#[test]
fn l20_one_leaves_and_the_others_are_woken() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let [a, b] = [watching(&budget), watching(&budget)];
        budget.close();
        let leaver = thread::spawn(move || drop(a));
        let releaser = thread::spawn(move || drop(p));
        let outcome = Waiter::started(drained(&budget));
        leaver.join().unwrap();
        releaser.join().unwrap();
        b.woken_once();
        has_drained(outcome);
        settled(&budget);
    });
}

/// More than one batch, behind a waiter that the close refuses; and none is woken before the budget is empty.
#[test]
fn l20_all_are_woken_and_nobody_early() {
    model(|| {
        let budget = Budget::new(2);
        let (p, q) = (hold(&budget, 1), hold(&budget, 1));
        let a = Waiter::queued(acquire(&budget, 1), CountingWaker::new());
        let watchers = [watching(&budget), watching(&budget), watching(&budget)];
        let releaser = thread::spawn(move || drop(p));
        budget.close();
        releaser.join().unwrap();
        match a.woken_once() {
            Ok(permit) => drop(permit),
            Err(error) => assert_eq!(error.reason(), Refusal::Closed),
        }
        let watchers = watchers.map(Waiter::still_waits);
        drop(q);
        for watcher in watchers {
            watcher.woken_once();
        }
        settled(&budget);
    });
}

#[test]
fn l20_the_limit_moves_while_it_drains() {
    model(|| {
        let budget = Budget::new(2);
        let p = hold(&budget, 2);
        let watcher = watching(&budget);
        budget.close();
        let resizer = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.set_limit(1);
                budget.set_limit(3);
            })
        };
        drop(p);
        resizer.join().unwrap();
        watcher.woken_once();
        settled(&budget);
    });
}

#[test]
fn l20_nobody_is_woken_while_it_is_open() {
    model(|| {
        let budget = Budget::new(2);
        let watcher = watching(&budget);
        let resizer = {
            let budget = budget.clone();
            thread::spawn(move || budget.set_limit(1))
        };
        drop(budget.try_acquire(1));
        resizer.join().unwrap();
        let watcher = watcher.still_waits();
        assert_eq!(budget.close(), 0);
        watcher.woken_once();
        settled(&budget);
    });
}

/// With two bytes stored; its handle, and a clone of its budget.
fn stash_of_two() -> (Stash<Payload, ()>, Budget) {
    let builder = Stash::builder().max_bytes(2).entry_overhead(0).ttl(Duration::from_nanos(5));
    let stash: Stash<Payload, ()> = builder.clock(Now::default()).build().unwrap();
    for byte in [1, 2] {
        let _ = stash.try_put((), vec![byte]).unwrap();
    }
    let budget = stash.budget().clone();
    (stash, budget)
}

/// A request that reclaims holds the stash for a moment, so its own thread may be the one that drops it. What that
/// makes visible rests on the count of references, which loom does not see.
#[test]
fn w4_the_last_handle_goes_while_somebody_waits_for_its_bytes() {
    model(|| {
        let (stash, budget) = stash_of_two();
        let ender = thread::spawn(move || drop(stash));
        let outcome = Waiter::started(acquire(&budget, 2));
        ender.join().unwrap();
        match outcome {
            Ok(permit) => drop(permit.unwrap()),
            Err(waiter) => drop(waiter.woken_once().unwrap()),
        }
        settled(&budget);
    });
}

#[test]
fn w4_the_last_handle_goes_while_the_budget_closes() {
    model(|| {
        let (stash, budget) = stash_of_two();
        let ender = thread::spawn(move || drop(stash));
        budget.close();
        let outcome = Waiter::started(drained(&budget));
        ender.join().unwrap();
        has_drained(outcome);
        settled(&budget);
    });
}
