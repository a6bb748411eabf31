//! Room that is lent to shares: models L21. Two shares; batches of one and two.
//!
//! Every model ends with `settled`, which recalls what is lent: all bytes are released and no request waits.
#![cfg(cloakroom_loom)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use cloakroom::loom_internals::{is_overflow, lend, lend_in_batches, lending, use_share};
use cloakroom::{Budget, Permit, Refusal, Stash};
use loom::thread;
use loom_tests::{
    Boxed, CountingWaker, Now, Payload, Waiter, acquire, hold, hold_on, lent, model, on_share, put,
    settled,
};

/// Lets the share have two bytes, its most, of the `4` of a budget.
fn fill(share: usize, budget: &Budget) {
    let permits = [hold_on(share, budget, 1), hold_on(share, budget, 1)];
    use_share(share);
    drop(permits);
    use_share(0);
}

fn queued(budget: &Budget, bytes: u64) -> Waiter<loom_tests::Acquired> {
    Waiter::queued(acquire(budget, bytes), CountingWaker::new())
}

/// For when all has been released: the waiter was granted immediately, or woken for it.
fn granted(outcome: Result<loom_tests::Acquired, Waiter<loom_tests::Acquired>>) -> Permit<'static> {
    outcome.unwrap_or_else(Waiter::woken_once).unwrap()
}

/// The other holds at most one byte of two, so this one is never refused.
#[test]
fn l21_nobody_is_refused_while_it_fits() {
    model(|| {
        let budget = lent(2, 1);
        let other = {
            let budget = budget.clone();
            on_share(1, move || drop(budget.try_acquire(1).unwrap()))
        };
        drop(budget.try_acquire(1).unwrap());
        other.join().unwrap();
        settled(&budget);
    });
}

/// The share of the other has room from before, and is given more than it may keep.
#[test]
fn l21_nobody_is_refused_for_what_moves_from_share_to_share() {
    model(|| {
        let budget = lent(4, 1);
        let [p, q] = [hold_on(1, &budget, 1), hold_on(0, &budget, 1)];
        let other = on_share(1, move || {
            drop(p);
            drop(q);
        });
        drop(budget.try_acquire(2).unwrap());
        other.join().unwrap();
        settled(&budget);
    });
}

/// A share that has its most gives back a batch while another thread needs all that is free.
#[test]
fn l21_nobody_is_refused_for_a_surplus_on_its_way() {
    model(|| {
        let budget = lent(4, 1);
        fill(1, &budget);
        let p = hold(&budget, 1);
        let other = on_share(1, move || drop(p));
        let permit = budget.try_acquire(3).unwrap();
        other.join().unwrap();
        drop(permit);
        settled(&budget);
    });
}

/// Lending begins while the only holder releases what it holds, and asks for all.
#[test]
fn l21_nobody_is_refused_while_lending_begins() {
    model(|| {
        let budget = lending(2, 0, 1, 0);
        let permit = hold(&budget, 1);
        let lender = {
            let budget = budget.clone();
            on_share(1, move || lend(&budget))
        };
        drop(permit);
        drop(budget.try_acquire(2).unwrap());
        lender.join().unwrap();
        settled(&budget);
    });
}

/// Both find nothing but what the other share has: one recalls it, and the other is not refused meanwhile.
#[test]
fn l21_nobody_is_refused_during_a_recall() {
    model(|| {
        let budget = lent(2, 1);
        let p = hold_on(1, &budget, 1);
        use_share(1);
        drop(p);
        use_share(0);
        let other = {
            let budget = budget.clone();
            thread::spawn(move || drop(budget.try_acquire(1).unwrap()))
        };
        drop(budget.try_acquire(1).unwrap());
        other.join().unwrap();
        settled(&budget);
    });
}

/// The permit was released where room has been lent meanwhile, and its thread asks for the bytes again: it must not be
/// refused by what the state was before.
#[test]
fn l21_nobody_is_refused_by_what_was_before() {
    model(|| {
        let budget = lending(2, 0, 1, 1);
        let [p, q] = [hold(&budget, 1), hold(&budget, 1)];
        let other = {
            let budget = budget.clone();
            on_share(1, move || {
                drop(p);
                drop(budget.try_acquire(1).unwrap());
            })
        };
        drop(q);
        lend(&budget);
        other.join().unwrap();
        settled(&budget);
    });
}

/// Both ask for all of it.
#[test]
fn l21_the_limit_holds() {
    model(|| {
        let budget = lent(2, 1);
        drop(budget.try_acquire(1).unwrap());
        let held = Arc::new(AtomicU64::new(0));
        let try_all = |budget: &Budget, held: &AtomicU64| {
            budget.try_acquire(2).is_ok_and(|permit| {
                assert_eq!(held.fetch_add(2, SeqCst), 0, "more is held than the limit");
                held.fetch_sub(2, SeqCst);
                drop(permit);
                true
            })
        };
        let other = {
            let (budget, held) = (budget.clone(), Arc::clone(&held));
            on_share(1, move || try_all(&budget, &held))
        };
        let here = try_all(&budget, &held);
        assert!(other.join().unwrap() || here, "nobody got it");
        settled(&budget);
    });
}

/// Two charges of a byte, on both shares; one fits.
#[test]
fn l21_the_limit_holds_on_both_shares() {
    model(|| {
        let budget = lent(2, 1);
        let p = hold(&budget, 1);
        let held = Arc::new(AtomicU64::new(1));
        let try_one = |budget: &Budget, held: &AtomicU64| {
            let permit = budget.try_acquire(1).map(Permit::into_owned);
            if permit.is_ok() {
                assert!(held.fetch_add(1, SeqCst) < 2, "more is held than the limit");
            }
            permit
        };
        let other = {
            let (budget, held) = (budget.clone(), Arc::clone(&held));
            on_share(1, move || try_one(&budget, &held))
        };
        let here = try_one(&budget, &held);
        let other = other.join().unwrap();
        assert_eq!(held.load(SeqCst), 2, "refused though it fits");
        drop((here, other, p));
        settled(&budget);
    });
}

#[test]
fn l21_releases_to_shares_wake_the_head() {
    model(|| {
        let budget = lent(4, 1);
        let permits = [hold_on(0, &budget, 1), hold_on(1, &budget, 1)];
        let mut share = 0;
        let releasers = permits.map(|permit| {
            share += 1;
            on_share(share % 2, move || drop(permit))
        });
        let outcome = Waiter::started(acquire(&budget, 4));
        for releaser in releasers {
            releaser.join().unwrap();
        }
        drop(granted(outcome));
        settled(&budget);
    });
}

/// The waiter needs a byte that a share has, and one that is being released to it.
#[test]
fn l21_a_joiner_finds_what_is_lent() {
    model(|| {
        let budget = lent(3, 1);
        let p = hold_on(1, &budget, 1);
        let other = on_share(1, move || drop(p));
        let outcome = Waiter::started(acquire(&budget, 3));
        other.join().unwrap();
        drop(granted(outcome));
        settled(&budget);
    });
}

/// Lending begins between the attempt and the joining.
#[test]
fn l21_a_joiner_recalls_what_was_lent_since() {
    model(|| {
        let budget = lending(2, 0, 1, 0);
        let p = hold(&budget, 1);
        let other = {
            let budget = budget.clone();
            on_share(1, move || {
                lend(&budget);
                drop(p);
            })
        };
        let outcome = Waiter::started(acquire(&budget, 2));
        other.join().unwrap();
        drop(granted(outcome));
        settled(&budget);
    });
}

/// Another thread borrows a batch, and returns the bytes, while one waits for all.
#[test]
fn l21_a_batch_on_its_way_is_found() {
    model(|| {
        let budget = lent(2, 1);
        let other = {
            let budget = budget.clone();
            on_share(1, move || drop(budget.try_acquire(1)))
        };
        let outcome = Waiter::started(acquire(&budget, 2));
        other.join().unwrap();
        drop(granted(outcome));
        settled(&budget);
    });
}

#[test]
fn l21_a_surplus_on_its_way_is_found() {
    model(|| {
        let budget = lent(4, 1);
        fill(1, &budget);
        let p = hold(&budget, 1);
        let other = on_share(1, move || drop(p));
        let outcome = Waiter::started(acquire(&budget, 4));
        other.join().unwrap();
        drop(granted(outcome));
        settled(&budget);
    });
}

/// A waits all the time, so no thread acquires from a share, which is lent again only afterwards.
#[test]
fn l21_nobody_overtakes_by_a_share() {
    model(|| {
        let budget = lent(2, 1);
        let (p, q) = (hold_on(0, &budget, 1), hold_on(1, &budget, 1));
        let a = queued(&budget, 2);
        let releaser = on_share(1, move || drop(p));
        let latecomer = {
            let budget = budget.clone();
            on_share(1, move || {
                lend(&budget);
                assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Full);
            })
        };
        releaser.join().unwrap();
        latecomer.join().unwrap();
        let a = a.still_waits();
        drop(q);
        drop(a.woken_once());
        settled(&budget);
    });
}

/// A thread that knows of a waiter is refused, whatever its share had.
#[test]
fn l21_nobody_overtakes_whom_it_can_know_of() {
    model(|| {
        let budget = lent(3, 1);
        let p = hold_on(1, &budget, 1);
        let waits = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let latecomer = {
            let (budget, waits) = (budget.clone(), Arc::clone(&waits));
            on_share(1, move || {
                let known = waits.load(loom::sync::atomic::Ordering::Acquire);
                let permit = budget.try_acquire(1);
                assert!(!known || permit.is_err(), "overtook the line");
            })
        };
        match Waiter::started(acquire(&budget, 3)) {
            Ok(_) => panic!("a byte is held"),
            Err(a) => {
                waits.store(true, loom::sync::atomic::Ordering::Release);
                latecomer.join().unwrap();
                drop(p);
                drop(a.woken_once());
            }
        }
        settled(&budget);
    });
}

#[test]
fn l21_a_waiter_leaves_while_lending_begins() {
    model(|| {
        let budget = lent(2, 1);
        let p = hold_on(1, &budget, 1);
        let a = Waiter::started(acquire(&budget, 2));
        let releaser = on_share(1, move || drop(p));
        let lender = {
            let budget = budget.clone();
            thread::spawn(move || lend(&budget))
        };
        drop(a);
        releaser.join().unwrap();
        lender.join().unwrap();
        settled(&budget);
    });
}

/// A's waker releases, and lends, and acquires, as any other thread might.
#[test]
fn l21_a_waker_that_lends_is_one_more_interleaving() {
    model(|| {
        let budget = lent(3, 1);
        let (p, q) = (hold_on(0, &budget, 1), hold_on(1, &budget, 2));
        let waker = {
            let budget = budget.clone();
            CountingWaker::calling(move || {
                lend(&budget);
                drop(budget.try_acquire(1));
            })
        };
        let a = Waiter::queued(acquire(&budget, 1), waker);
        let b = queued(&budget, 2);
        let releaser = on_share(1, move || drop(q));
        drop(p);
        releaser.join().unwrap();
        drop((a.woken_once().unwrap(), b.woken_once().unwrap()));
        settled(&budget);
    });
}

/// A thread that knows that the limit is one does not hold two, whatever its share had.
#[test]
fn l21_a_lowered_limit_is_never_passed() {
    model(|| {
        let budget = lent(3, 1);
        let lowered = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let p = hold(&budget, 1);
        drop(p);
        let resizer = {
            let (budget, lowered) = (budget.clone(), Arc::clone(&lowered));
            on_share(1, move || {
                budget.set_limit(1);
                lowered.store(true, loom::sync::atomic::Ordering::Release);
            })
        };
        let known = lowered.load(loom::sync::atomic::Ordering::Acquire);
        let first = budget.try_acquire(1).map(Permit::into_owned);
        let second = budget.try_acquire(1).map(Permit::into_owned);
        assert!(!known || first.is_ok() && second.is_err(), "charged past the lowered limit");
        resizer.join().unwrap();
        drop((first, second));
        settled(&budget);
    });
}

#[test]
fn l21_raising_the_limit_loses_no_wakeup() {
    model(|| {
        let budget = lent(3, 1);
        let p = hold_on(1, &budget, 2);
        let resizer = {
            let budget = budget.clone();
            on_share(1, move || {
                budget.set_limit(2);
                budget.set_limit(4);
                lend(&budget);
            })
        };
        let outcome = Waiter::started(acquire(&budget, 2));
        resizer.join().unwrap();
        drop(p);
        drop(granted(outcome));
        settled(&budget);
    });
}

/// Once it is closed, no share has anything, and nothing is lent again.
#[test]
fn l21_nobody_charges_past_a_close() {
    model(|| {
        let budget = lent(3, 1);
        drop(budget.try_acquire(1).unwrap());
        let closer = {
            let budget = budget.clone();
            on_share(1, move || {
                budget.close();
                lend(&budget);
                assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Closed);
            })
        };
        if let Err(refused) = budget.try_acquire(1) {
            assert_eq!(refused.reason(), Refusal::Closed);
        }
        closer.join().unwrap();
        assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Closed);
        settled(&budget);
    });
}

fn drained(budget: &Budget) -> Boxed<()> {
    let budget = budget.clone();
    Box::pin(async move { budget.drained().await })
}

#[test]
fn l21_the_last_release_to_a_share_drains() {
    model(|| {
        let budget = lent(3, 1);
        let permits = [hold_on(1, &budget, 1), hold_on(0, &budget, 1)];
        let mut share = 0;
        let releasers = permits.map(|permit| {
            share += 1;
            on_share(share % 2, move || drop(permit))
        });
        budget.close();
        let outcome = Waiter::started(drained(&budget));
        assert!(outcome.is_err() || budget.used() == 0, "something is held");
        for releaser in releasers {
            releaser.join().unwrap();
        }
        if let Err(waiter) = outcome {
            waiter.woken_once();
        }
        settled(&budget);
    });
}

/// One byte of three is overflow: a holder of all three has it, and a sole holder of less does not.
#[test]
fn l21_a_tier_is_exact() {
    model(|| {
        let budget = lending(3, 1, 1, 0);
        lend(&budget);
        // What a share has is free.
        drop(budget.try_acquire(1).unwrap());
        assert!(!is_overflow(&budget.try_acquire(2).unwrap()), "two are held");
        lend(&budget);
        let other = {
            let budget = budget.clone();
            on_share(1, move || {
                let permit = budget.try_acquire(1).unwrap();
                assert!(!is_overflow(&permit), "at most two are held");
            })
        };
        let permit = budget.try_acquire(1).unwrap();
        assert!(!is_overflow(&permit), "at most two are held");
        other.join().unwrap();
        drop(permit);
        let all = budget.try_acquire(3).unwrap();
        assert!(is_overflow(&all));
        drop(all);
        settled(&budget);
    });
}

/// Lending begins while the room is taken: the remaining room is not enough for it.
#[test]
fn l21_overflow_is_never_lent() {
    model(|| {
        let budget = lending(2, 1, 1, 0);
        let (first, second) = (hold(&budget, 1), hold(&budget, 1));
        lend(&budget);
        drop(first);
        let third = budget.try_acquire(1).unwrap();
        assert!(is_overflow(&third), "two of one are held");
        drop((second, third));
        let budget = lending(2, 1, 1, 1);
        let other = {
            let budget = budget.clone();
            on_share(1, move || lend(&budget))
        };
        let (first, second) = (budget.try_acquire(1).unwrap(), budget.try_acquire(1).unwrap());
        assert!(!is_overflow(&first) && is_overflow(&second));
        other.join().unwrap();
        drop(first);
        let third = budget.try_acquire(1).unwrap();
        assert!(is_overflow(&third), "two of one are held");
        drop((second, third));
        settled(&budget);
    });
}

const TTL: u64 = 10;

/// A stash whose budget has begun to lend.
fn lent_stash(limit: u64, now: &Now) -> Stash<Payload, ()> {
    lend_in_batches(1);
    let builder = Stash::builder().max_bytes(limit).entry_overhead(0).clock(now.clone());
    let stash = builder.ttl(std::time::Duration::from_nanos(TTL)).build().unwrap();
    lend(stash.budget());
    stash
}

/// The waiting put needs the byte that a take gives to another share.
#[test]
fn l21_a_take_by_another_share_grants_the_put_that_waits() {
    model(|| {
        let stash = lent_stash(2, &Now::default());
        use_share(1);
        let ticket = stash.try_put((), vec![1]).unwrap();
        use_share(0);
        let taker = {
            let stash = stash.clone();
            on_share(1, move || assert!(stash.take(&ticket, &()).is_some()))
        };
        let outcome = Waiter::started(put(&stash, vec![2; 2]));
        taker.join().unwrap();
        let large = outcome.unwrap_or_else(Waiter::woken_once).unwrap();
        assert_eq!(stash.take(&large, &()), Some(vec![2; 2]));
        settled(stash.budget());
    });
}

/// A claim is put back or delivered while a put waits for its byte.
#[test]
fn l21_a_claim_gives_its_bytes_to_the_put_that_waits() {
    model(|| {
        let stash = lent_stash(2, &Now::default());
        use_share(1);
        let ticket = stash.try_put((), vec![1]).unwrap();
        use_share(0);
        let claimer = {
            let stash = stash.clone();
            on_share(1, move || {
                drop(stash.claim(&ticket, &()).unwrap());
                assert_eq!(stash.claim(&ticket, &()).unwrap().into_inner(), vec![1]);
            })
        };
        let outcome = Waiter::started(put(&stash, vec![2; 2]));
        claimer.join().unwrap();
        let large = outcome.unwrap_or_else(Waiter::woken_once).unwrap();
        assert!(stash.take(&large, &()).is_some());
        settled(stash.budget());
    });
}

/// A's waker collects expired entries and begins to lend, while B waits behind A and an entry is taken.
#[test]
fn l21_a_reentrant_gc_wakes_nobody_twice() {
    model(|| {
        let now = Now::default();
        let stash = lent_stash(2, &now);
        let _expiring = stash.try_put((), vec![1]).unwrap();
        now.set(1);
        let taken = stash.try_put((), vec![2]).unwrap();
        let waker = {
            let (stash, now) = (stash.clone(), now.clone());
            CountingWaker::calling(move || {
                now.set(TTL);
                lend(stash.budget());
                stash.gc();
            })
        };
        let a = Waiter::queued(put(&stash, vec![3]), waker);
        let b = Waiter::queued(put(&stash, vec![4]), CountingWaker::new());
        let taker = {
            let stash = stash.clone();
            on_share(1, move || assert!(stash.take(&taken, &()).is_some()))
        };
        stash.gc();
        taker.join().unwrap();
        assert!(a.woken_once().is_ok() && b.woken_once().is_ok());
        assert_eq!((stash.clear(), stash.used_bytes()), (2, 0));
        settled(stash.budget());
    });
}
