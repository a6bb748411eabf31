//! Closing a budget and moving its limit: models L16 and L17. As in `budget.rs`, every model ends with `settled`.
#![cfg(cloakroom_loom)]

use cloakroom::{Budget, Permit, Refusal};
use loom::thread;
use loom_tests::{CountingWaker, Waiter, acquire, hold, model, settled};

fn queued(budget: &Budget, bytes: u64) -> Waiter<loom_tests::Acquired> {
    Waiter::queued(acquire(budget, bytes), CountingWaker::new())
}

#[test]
fn l16_joined_or_closed_and_never_reopened() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let closer = {
            let budget = budget.clone();
            thread::spawn(move || budget.close())
        };
        let releaser = thread::spawn(move || drop(p));
        let outcome = Waiter::started(acquire(&budget, 1));
        let refused_waiters = closer.join().unwrap();
        releaser.join().unwrap();
        let result = match outcome {
            Ok(result) => result,
            Err(waiter) => waiter.woken_once(),
        };
        match result {
            Ok(permit) => drop(permit),
            Err(error) => assert_eq!(error.reason(), Refusal::Closed),
        }
        assert!(refused_waiters <= 1);
        assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Closed, "it reopened");
        settled(&budget);
    });
}

/// There is never room, so a request that is not refused immediately is refused by the close.
#[test]
fn l16_a_joiner_during_a_close_is_refused() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let closer = {
            let budget = budget.clone();
            thread::spawn(move || budget.close())
        };
        let outcome = Waiter::started(acquire(&budget, 1));
        let refused_waiters = closer.join().unwrap();
        let (outcome, waited) = match outcome {
            Ok(outcome) => (outcome, 0),
            Err(waiter) => (waiter.woken_once(), 1),
        };
        assert_eq!(outcome.unwrap_err().reason(), Refusal::Closed);
        assert_eq!(refused_waiters, waited);
        drop(p);
        settled(&budget);
    });
}

#[test]
fn l16_close_wakes_all_waiters() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let waiters = [queued(&budget, 1), queued(&budget, 1), queued(&budget, 1)];
        let closer = {
            let budget = budget.clone();
            thread::spawn(move || budget.close())
        };
        drop(p);
        closer.join().unwrap();
        for waiter in waiters {
            match waiter.woken_once() {
                Ok(permit) => drop(permit),
                Err(error) => assert_eq!(error.reason(), Refusal::Closed),
            }
        }
        settled(&budget);
    });
}

#[test]
fn l17_raising_the_limit_loses_no_wakeup() {
    model(|| {
        let budget = Budget::new(2);
        let p = hold(&budget, 2);
        let resizer = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.set_limit(1);
                budget.set_limit(3);
            })
        };
        let outcome = Waiter::started(acquire(&budget, 1));
        resizer.join().unwrap();
        match outcome {
            Ok(permit) => drop(permit.unwrap()),
            Err(waiter) => drop(waiter.woken_once().unwrap()),
        }
        drop(p);
        settled(&budget);
    });
}

#[test]
fn l17_a_lowered_limit_is_never_passed() {
    model(|| {
        let budget = Budget::new(2);
        let resizer = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.set_limit(1);
                // From here on, what is acquired above 1 was acquired before.
                budget.try_acquire(2).is_ok()
            })
        };
        let first = budget.try_acquire(1).map(Permit::into_owned);
        let second = budget.try_acquire(1).map(Permit::into_owned);
        assert!(!resizer.join().unwrap(), "charged past the lowered limit");
        assert!(first.is_ok());
        drop((first, second));
        assert_eq!(budget.limit(), 1);
        settled(&budget);
    });
}

/// A reader that finds nothing used under the new limit has seen the last acquire under the old one.
#[test]
fn l17_no_charge_takes_effect_under_a_limit_that_it_did_not_see() {
    model(|| {
        let budget = Budget::new(2);
        let resizer = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.set_limit(1);
                budget.used()
            })
        };
        let large = budget.try_acquire(2).map(Permit::into_owned);
        let used = resizer.join().unwrap();
        assert!(large.is_err() || used == 2, "charged past the lowered limit");
        drop(large);
        settled(&budget);
    });
}

#[test]
fn l17_a_request_that_a_lowered_limit_makes_too_large_is_refused() {
    model(|| {
        let budget = Budget::new(2);
        let p = hold(&budget, 1);
        let resizer = {
            let budget = budget.clone();
            thread::spawn(move || budget.set_limit(1))
        };
        let outcome = match Waiter::started(acquire(&budget, 2)) {
            Ok(outcome) => {
                resizer.join().unwrap();
                outcome
            }
            Err(waiter) => {
                resizer.join().unwrap();
                waiter.woken_once()
            }
        };
        assert_eq!(outcome.unwrap_err().reason(), Refusal::TooLarge);
        drop(p);
        settled(&budget);
    });
}
