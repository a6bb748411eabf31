//! What is visible through room that is lent to shares: more of the models L21.
#![cfg(cloakroom_loom)]

use std::sync::Arc;
use std::task::Poll;

use cloakroom::loom_internals::{OneShare, lend};
use cloakroom::{Budget, Refusal};
use loom::thread;
use loom_tests::{
    Exclusive, Waiter, acquire, bounded_model, hold, hold_on, lent, model, on_share, settled,
};

/// What is done under a permit happens before what is done under the same byte later, by whatever way it went.
fn exclusive(f: impl Fn(&Budget, &Arc<Exclusive>) + Send + Sync + 'static, limit: u64) {
    model(move || {
        let budget = lent(limit, 1);
        f(&budget, &Arc::new(Exclusive::default()));
        settled(&budget);
    });
}

fn touch(budget: &Budget, cell: &Exclusive, bytes: u64) {
    if let Ok(_permit) = budget.try_acquire(bytes) {
        cell.touch();
    }
}

#[test]
fn l21_a_release_to_a_share_happens_before_the_charge_from_it() {
    exclusive(
        |budget, cell| {
            // The share gets a byte, the rest is gone.
            let _rest = hold(budget, 1);
            let other = {
                let (budget, cell) = (budget.clone(), Arc::clone(cell));
                on_share(0, move || touch(&budget, &cell, 1))
            };
            touch(budget, cell, 1);
            other.join().unwrap();
        },
        2,
    );
}

#[test]
fn l21_a_release_to_a_share_happens_before_what_recalls_it() {
    exclusive(
        |budget, cell| {
            let permit = hold_on(1, budget, 1);
            let other = {
                let cell = Arc::clone(cell);
                on_share(1, move || {
                    cell.touch();
                    drop(permit);
                })
            };
            touch(budget, cell, 2);
            other.join().unwrap();
        },
        2,
    );
}

/// The charge finds what another thread has recalled.
#[test]
fn l21_a_release_to_a_share_happens_before_the_charge_after_a_recall() {
    exclusive(
        |budget, cell| {
            let permit = hold_on(1, budget, 1);
            let releaser = {
                let cell = Arc::clone(cell);
                on_share(1, move || {
                    cell.touch();
                    drop(permit);
                })
            };
            let recaller = {
                let budget = budget.clone();
                thread::spawn(move || _ = budget.used())
            };
            touch(budget, cell, 2);
            releaser.join().unwrap();
            recaller.join().unwrap();
        },
        2,
    );
}

/// Both are too large for a share.
#[test]
fn l21_a_release_beside_the_shares_happens_before_the_charge_beside_them() {
    exclusive(
        |budget, cell| {
            let permit = hold(budget, 2);
            let other = {
                let cell = Arc::clone(cell);
                on_share(1, move || {
                    cell.touch();
                    drop(permit);
                })
            };
            touch(budget, cell, 2);
            other.join().unwrap();
        },
        2,
    );
}

/// Each operation on a share happens before what is done after any that finds it done. `first` says what it did
/// to a share that has `room` bytes, `then` whether it found that.
fn in_order(room: u64, first: fn(&OneShare), then: fn(&OneShare) -> bool) {
    model(move || {
        let (share, cell) = (Arc::new(OneShare::default()), Arc::new(Exclusive::default()));
        share.deposit(room);
        let other = {
            let (share, cell) = (Arc::clone(&share), Arc::clone(&cell));
            thread::spawn(move || {
                cell.touch();
                first(&share);
            })
        };
        if then(&share) {
            cell.touch();
        }
        other.join().unwrap();
    });
}

#[test]
fn l21_a_deposit_happens_before_the_charge_from_it() {
    let deposit = |share: &OneShare| {
        share.deposit(1);
    };
    in_order(0, deposit, |share| share.try_acquire(1));
}

#[test]
fn l21_a_release_happens_before_the_surplus_that_has_it() {
    in_order(1, |share| assert!(share.release(1, 2)), |share| share.withdraw(1) == 1);
}

#[test]
fn l21_a_surplus_goes_before_the_release_that_it_makes_room_for() {
    in_order(2, |share| assert_eq!(share.withdraw(1), 1), |share| share.release(1, 2));
}

#[test]
fn l21_a_charge_happens_before_the_release_that_it_makes_room_for() {
    in_order(2, |share| assert!(share.try_acquire(1)), |share| share.release(1, 2));
}

#[test]
fn l21_a_charge_happens_before_the_deposit_that_misses_it() {
    in_order(1, |share| assert!(share.try_acquire(1)), |share| share.deposit(1) == 0);
}

#[test]
fn l21_a_charge_happens_before_the_recall_that_misses_it() {
    let charge = |share: &OneShare| {
        // It may have been recalled.
        let _charged = share.try_acquire(1);
    };
    in_order(1, charge, |share| share.recall() == 0);
}

#[test]
fn l21_a_release_to_a_share_happens_before_the_grant_that_needs_it() {
    model(|| {
        let budget = lent(2, 1);
        let cell = Arc::new(Exclusive::default());
        let permit = hold_on(1, &budget, 1);
        let other = {
            let cell = Arc::clone(&cell);
            on_share(1, move || {
                cell.touch();
                drop(permit);
            })
        };
        let mut waiter = match Waiter::started(acquire(&budget, 2)) {
            Ok(permit) => {
                cell.touch();
                drop(permit.unwrap());
                None
            }
            Err(waiter) => Some(waiter),
        };
        // Without joining the thread first: a join would order what the grant must order.
        if let Some(Poll::Ready(permit)) = waiter.as_mut().map(Waiter::poll) {
            cell.touch();
            drop(permit.unwrap());
        }
        other.join().unwrap();
        drop(waiter);
        settled(&budget);
    });
}

/// The limit is raised and room is lent between the read that refused and the one that finds the reason. At most one
/// byte of four is held then, so the only reason is the limit of before.
#[test]
fn l21_a_refusal_does_not_mix_the_limit_of_before_with_the_room_of_after() {
    bounded_model(4, || {
        let budget = lent(1, 1);
        let raiser = {
            let budget = budget.clone();
            on_share(1, move || {
                budget.set_limit(4);
                lend(&budget);
                drop(budget.try_acquire(1).unwrap());
            })
        };
        let reason = budget.try_acquire(3).map(drop).map_err(|refused| refused.reason());
        assert!(matches!(reason, Ok(()) | Err(Refusal::TooLarge)), "{reason:?}");
        raiser.join().unwrap();
        settled(&budget);
    });
}
