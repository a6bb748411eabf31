//! B9: `close`, and waiting until the stash is drained.

use std::future::ready as at_once;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Budget, Claim, Permit, Refusal, Reservation, Stash};

use crate::executors::{Executor, Task};
use crate::fixtures::{
    ALICE, BOB, TestStash, fill, payload, put, stash_with, state, take, test_stash,
};
use crate::support::{
    Counted, Live, Request, TTL, Task as Job, acquire_task, must_come_back, poll_once, put_task,
    queue, ready,
};

fn drained(executor: &impl Executor, stash: &TestStash) -> Task<()> {
    let handle = stash.clone();
    executor.start(async move { handle.drained().await })
}

on_every_executor! {
    fn b9_drained_when_the_last_of_everything_is_gone(executor) {
        let (stash, _) = test_stash();
        let (entry, claimed) = (put(&stash, 10), put(&stash, 10));
        let claim = stash.claim(&claimed, &ALICE).unwrap();
        let room = stash.try_reserve(10).unwrap();
        let permit = stash.budget().try_acquire(10).unwrap();
        let before = drained(executor, &stash);
        assert_eq!(stash.close(), 0);
        let after = drained(executor, &stash);
        let pending = |what: &str| assert!(before.is_pending() && after.is_pending(), "{what}");
        pending("all of it");
        assert!(take(&stash, entry).is_some());
        pending("a claim, a reservation, a permit");
        let late = room.put(ALICE, payload(5)).unwrap();
        pending("what was reserved");
        assert!(take(&stash, late).is_some());
        pending("a claim and a permit");
        drop(permit);
        pending("a claim");
        let bytes = claim.into_bytes();
        pending("bytes");
        drop(bytes);
        before.output();
        after.output();
        drained(executor, &stash).output();
    }
}

on_every_executor! {
    fn b9_empty_is_not_enough_it_must_be_closed(executor) {
        let (stash, _) = test_stash();
        let early = drained(executor, &stash);
        let ticket = put(&stash, 100);
        assert!(take(&stash, ticket).is_some());
        assert!(early.is_pending());
        // Tasks that wait to drain are not in the wait queue.
        assert_eq!(stash.waiting(), 0);
        assert!(stash.try_put(ALICE, payload(100)).is_ok());
        assert_eq!((stash.clear(), stash.close()), (1, 0));
        early.output();
    }
}

on_every_executor! {
    fn b9_close_refuses_all_waiters_and_clear_drains(executor) {
        let (stash, clock) = test_stash();
        fill(&stash, 100);
        let handle = stash.clone();
        let waiter = executor.start(async move { handle.put(ALICE, payload(20)).await });
        let waits = drained(executor, &stash);
        assert_eq!((stash.close(), stash.close()), (1, 0));
        let refused = waiter.output().unwrap_err();
        assert_eq!((refused.reason(), refused.into_payload()), (Refusal::Closed, payload(20)));
        assert!(waits.is_pending());
        assert_eq!(stash.clear(), 1);
        waits.output();

        // By expiry, with a reaper and no call.
        let (reaper, timer) = (stash.reaper(), clock.clone());
        let _reaper = executor.start(reaper.run(move |duration| timer.sleep(duration)));
        let (stash, clock) = test_stash();
        let (reaper, timer) = (stash.reaper(), clock.clone());
        let reaper = executor.start(reaper.run(move |duration| timer.sleep(duration)));
        fill(&stash, 100);
        stash.close();
        let waits = drained(executor, &stash);
        clock.advance(TTL);
        assert!(reaper.is_pending());
        waits.output();
    }
}

on_every_executor! {
    fn b9_shut_down_ends_when_the_last_result_is_fetched(executor) {
        let (stash, _) = test_stash();
        let ticket = put(&stash, 60);
        let handle = stash.clone();
        let lost = executor.start(async move { handle.shut_down(std::future::pending::<()>()).await });
        assert!(lost.is_pending() && stash.is_closed());
        assert_eq!(stash.try_put(ALICE, payload(1)).unwrap_err().reason(), Refusal::Closed);
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        assert!(lost.is_pending(), "it is not delivered yet");
        drop(claim.into_inner());
        assert_eq!(lost.output(), 0);
    }
}

on_every_executor! {
    fn b9_shut_down_clears_when_patience_ends(executor) {
        let (stash, clock) = test_stash();
        let tickets = [put(&stash, 60), put(&stash, 30)];
        let claim = stash.claim(&tickets[1], &ALICE).unwrap();
        let (handle, patience) = (stash.clone(), clock.sleep(TTL / 2));
        let lost = executor.start(async move { handle.shut_down(patience).await });
        assert!(lost.is_pending());
        clock.advance(TTL / 2);
        assert_eq!(lost.output(), 1, "a claim can still be delivered");
        assert_eq!((take(&stash, tickets[0]), claim.into_inner()), (None, payload(30)));
        assert_eq!(state(&stash), (0, 0, 0));
    }
}

#[test]
fn b9_shut_down_does_nothing_until_it_is_polled() {
    let (stash, _) = test_stash();
    fill(&stash, 60);
    let mut dropped = Box::pin(stash.shut_down(std::future::pending::<()>()));
    assert!(!stash.is_closed());
    assert!(poll_once(&mut dropped).is_pending() && stash.is_closed());
    drop(dropped);
    assert_eq!(stash.len(), 1, "what is there stays");
    assert_eq!(ready(&mut Box::pin(stash.shut_down(at_once(())))), 1);
}

#[test]
fn b9_shut_down_on_a_thread() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 60);
    thread::scope(|scope| {
        let lost = scope.spawn(|| stash.shut_down_timeout(Duration::from_secs(20)));
        while !stash.is_closed() {
            thread::yield_now();
        }
        assert!(take(&stash, ticket).is_some());
        assert_eq!(lost.join().unwrap(), 0);
    });
    let (stash, _) = test_stash();
    fill(&stash, 60);
    assert_eq!((stash.shut_down_timeout(Duration::ZERO), stash.len()), (1, 0));
}

on_every_executor! {
    /// More than are woken in one hold of the lock.
    fn b9_all_tasks_that_wait_for_drained_are_woken(executor) {
        let (stash, _) = test_stash();
        let ticket = put(&stash, 1);
        let early: Vec<_> = (0..40).map(|_| drained(executor, &stash)).collect();
        stash.close();
        let late: Vec<_> = (0..40).map(|_| drained(executor, &stash)).collect();
        assert!(early.iter().chain(&late).all(Task::is_pending));
        assert!(take(&stash, ticket).is_some());
        early.into_iter().chain(late).for_each(Task::output);
    }
}

#[test]
fn b9_futures_that_are_dropped_strand_nobody() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 100);
    drop(Box::pin(stash.drained()));
    let mut waiters: Vec<_> = (0..5).map(|_| Box::pin(stash.drained())).collect();
    waiters.iter_mut().for_each(|drained| drop(queue(drained)));
    drop(waiters.swap_remove(0));
    // Not closed: waiters queue and are granted as if no task waited to drain.
    let mut put = put_task(&stash, ALICE, payload(60));
    let woken = queue(&mut put);
    drop(waiters.swap_remove(0));
    assert!(take(&stash, ticket).is_some());
    assert_eq!(woken.get(), 1);
    let ticket = ready(&mut put).unwrap();
    assert!(stash.try_put(ALICE, payload(40)).is_ok());
    stash.close();
    drop(waiters.swap_remove(1));
    assert!(take(&stash, ticket).is_some());
    assert!(waiters.iter_mut().all(|drained| poll_once(drained).is_pending()));
    assert_eq!(stash.clear(), 1);
    waiters.iter_mut().for_each(ready);
    // All are dropped before the end: the last release has no task to wake.
    let (stash, _) = test_stash();
    let room = stash.try_reserve(100).unwrap();
    stash.close();
    let mut drained = Box::pin(stash.drained());
    queue(&mut drained);
    drop(drained);
    drop(room);
    assert_eq!(state(&stash), (0, 0, 0));
    ready(&mut Box::pin(stash.drained()));
}

#[test]
fn b9_a_task_that_moves_is_woken_where_it_is() {
    let (stash, _) = test_stash();
    let room = stash.try_reserve(100).unwrap();
    let mut drained = Box::pin(stash.drained());
    let (first, second) = (queue(&mut drained), queue(&mut drained));
    stash.close();
    let third = queue(&mut drained);
    drop(room);
    assert_eq!((first.get(), second.get(), third.get()), (0, 0, 1));
    ready(&mut drained);
}

#[test]
fn b9_blocking_it_says_whether_it_came_to_that() {
    must_come_back(|| {
        let (stash, _) = test_stash();
        assert!(!stash.drained_timeout(Duration::ZERO), "not closed");
        let ticket = put(&stash, 100);
        stash.close();
        assert!(!stash.drained_timeout(Duration::ZERO));
        assert!(!stash.drained_timeout(Duration::from_millis(5)));
        let waits = [Duration::MAX, Duration::from_secs(3_600)].map(|patience| {
            let handle = stash.clone();
            thread::spawn(move || handle.drained_timeout(patience))
        });
        thread::sleep(Duration::from_millis(5));
        assert!(take(&stash, ticket).is_some());
        assert!(waits.into_iter().all(|wait| wait.join().unwrap()));
        assert!(stash.drained_timeout(Duration::ZERO), "it stays so");
    });
}

#[test]
fn b9_a_limit_that_moves_meanwhile_changes_nothing() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 60);
    stash.close();
    let mut drained = Box::pin(stash.drained());
    queue(&mut drained);
    for max in [0, 60, 59, u64::MAX, 40] {
        stash.set_max_bytes(max);
        assert!(poll_once(&mut drained).is_pending());
    }
    assert!(take(&stash, ticket).is_some());
    ready(&mut drained);
}

#[test]
fn b9_drained_waits_for_a_grant_that_is_not_yet_stored() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 100);
    let mut put = put_task(&stash, ALICE, payload(50));
    queue(&mut put);
    assert!(take(&stash, ticket).is_some());
    stash.close();
    let mut drained = Box::pin(stash.drained());
    let woken = queue(&mut drained);
    let ticket = ready(&mut put).expect("granted before the close");
    assert_eq!(woken.get(), 0);
    assert!(take(&stash, ticket).is_some());
    assert_eq!(woken.get(), 1);
    ready(&mut drained);
}

#[test]
fn b9_a_bare_budget_drains_too() {
    let budget = Budget::new(10);
    let mut permit = budget.try_acquire(10).unwrap();
    let mut drained = Box::pin(budget.drained());
    let woken = queue(&mut drained);
    budget.close();
    permit.shrink(1);
    assert_eq!(woken.get(), 0);
    permit.shrink(0);
    assert_eq!((woken.get(), permit.bytes()), (1, 0));
    ready(&mut drained);
    assert!(budget.drained_timeout(Duration::ZERO));
    // In a select with something that is ready, it is only ever dropped.
    let never = Budget::new(10);
    ready(&mut Box::pin(futures_lite::future::or(never.drained(), at_once(()))));
}

/// Releases and the close come from other threads, at no agreed time.
#[test]
fn b9_no_race_is_missed() {
    must_come_back(|| {
        for round in 0..200_u64 {
            let (stash, _) = test_stash();
            let rooms = [0; 3].map(|_| stash.try_reserve(30).unwrap());
            thread::scope(|scope| {
                for room in rooms {
                    scope.spawn(move || drop(room));
                }
                scope.spawn(|| {
                    for _ in 0..round % 7 {
                        thread::yield_now();
                    }
                    stash.close();
                });
                for _ in 0..2 {
                    scope.spawn(|| {
                        let mut dropped = Box::pin(stash.drained());
                        let _ = poll_once(&mut dropped);
                        assert!(stash.drained_timeout(Duration::from_secs(50)));
                    });
                }
            });
            assert_eq!(state(&stash), (0, 0, 0));
        }
    });
}

/// What keeps a stash or its budget alive, or waits for it.
enum Part {
    Handle { _stash: TestStash },
    Claim { _claim: Claim<Vec<u8>, u8> },
    Delivery { _bytes: Bytes },
    Reservation { _room: Reservation<Vec<u8>, u8> },
    Permit { _permit: Permit<'static> },
    Waiter(Request),
    Drained(Job<()>),
    Reaper(Job<()>),
    Completed,
}

impl Part {
    fn keeps_the_stash(&self) -> bool {
        use Part::*;
        matches!(self, Handle { .. } | Claim { .. } | Delivery { .. } | Reservation { .. })
    }
}

/// A stash of 100 bytes: 30 stored, 20 claimed, 20 being delivered, 10 reserved and 10 of a bare permit. A request
/// waits for 60: no room comes for that before the stash ends, because a claim that is dropped stays in the stash.
fn parts(closed: bool) -> (Budget, Vec<Part>) {
    let (stash, clock) = test_stash();
    let budget = stash.budget().clone();
    fill(&stash, 30);
    let [claimed, delivered] = [put(&stash, 20), put(&stash, 20)];
    let mut reaper: Job<()> = Box::pin(stash.reaper().run(move |time| clock.sleep(time)));
    queue(&mut reaper);
    let mut parts = vec![
        Part::Claim { _claim: stash.claim(&claimed, &ALICE).unwrap() },
        Part::Delivery { _bytes: stash.claim(&delivered, &ALICE).unwrap().into_bytes() },
        Part::Reservation { _room: stash.try_reserve(10).unwrap() },
        Part::Permit { _permit: budget.try_acquire(10).unwrap().into_owned() },
        Part::Reaper(reaper),
        Part::Handle { _stash: stash },
    ];
    let handle = budget.clone();
    parts.push(if closed {
        budget.close();
        let mut drained: Job<()> = Box::pin(async move { handle.drained().await });
        queue(&mut drained);
        Part::Drained(drained)
    } else {
        let mut waiter = acquire_task(&budget, 60);
        queue(&mut waiter);
        Part::Waiter(waiter)
    });
    (budget, parts)
}

/// Drops the parts in the order that `order` draws: `order[0]` of 7, `order[1]` of the 6 that are left, and so on.
fn end_in(order: &[usize], closed: bool) {
    let (budget, mut parts) = parts(closed);
    let mut granted = None;
    for &at in order {
        drop(parts.remove(at));
        let is_over = !parts.iter().any(Part::keeps_the_stash);
        let permit =
            if parts.iter().any(|part| matches!(part, Part::Permit { .. })) { 10 } else { 0 };
        for part in &mut parts {
            match part {
                Part::Waiter(waiter) if is_over => granted = Some(ready(waiter).unwrap()),
                Part::Drained(drained) if is_over && permit == 0 => ready(drained),
                Part::Reaper(reaper) if is_over => ready(reaper),
                Part::Waiter(future) => {
                    assert!(poll_once(future).is_pending(), "{order:?}");
                    continue;
                }
                Part::Drained(future) | Part::Reaper(future) => {
                    assert!(poll_once(future).is_pending(), "{order:?}");
                    continue;
                }
                _ => continue,
            }
            *part = Part::Completed;
        }
        if is_over {
            let held = permit + granted.as_ref().map_or(0, Permit::bytes);
            assert_eq!((budget.used(), budget.waiting()), (held, 0), "{order:?}");
        }
    }
    drop(granted);
    budget.close();
    ready(&mut Box::pin(budget.drained()));
    assert_eq!(budget.used(), 0);
}

fn every_order(closed: bool) {
    // All of them; or a few, that Miri has time for.
    let step = if cfg!(miri) { 1_009 } else { 1 };
    for number in (0..5_040).step_by(step) {
        let (mut rest, mut order) = (number, [0; 7]);
        for (at, left) in order.iter_mut().zip((1..=7).rev()) {
            (*at, rest) = (rest % left, rest / left);
        }
        end_in(&order, closed);
    }
}

#[test]
fn w4_bytes_lost_with_the_last_handle_in_every_order_of_dropping() {
    every_order(false);
}

#[test]
fn w4_drained_never_ended_in_every_order_of_dropping() {
    every_order(true);
}

/// Payloads that panic when they are dropped, and that use the budget then.
#[test]
fn w4_bytes_lost_with_payloads_whose_drop_panics_and_calls_back() {
    let alive = Live::new();
    let stash: Stash<Counted, ()> =
        Stash::builder().max_bytes(100).entry_overhead(0).build().unwrap();
    let budget = stash.budget().clone();
    let seen = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let (budget, seen) = (budget.clone(), Arc::clone(&seen));
        let payload = alive.counted(30).on_drop(move || {
            // Nothing is held, and the bytes are back.
            drop(budget.try_acquire(100).unwrap());
            budget.set_limit(100);
            seen.fetch_add(1, Ordering::Relaxed);
            panic!("a payload's drop, contained");
        });
        let _ = stash.try_put((), payload).map_err(drop).unwrap();
    }
    let mut waiter = acquire_task(&budget, 50);
    let woken = queue(&mut waiter);
    drop(waiter);
    drop(stash);
    assert_eq!((seen.load(Ordering::Relaxed), alive.get(), budget.used()), (3, 0, 0));
    assert_eq!(woken.get(), 0);
}

/// `holds` what it makes of an empty stash whose entries have no overhead, and lets go of it: `drained` completes
/// then, and not before.
fn is_waited_for<T>(
    what: &str,
    holds: impl FnOnce(&TestStash) -> T,
    let_go: impl FnOnce(&TestStash, T),
) {
    let (stash, _) = test_stash();
    let held = holds(&stash);
    assert_eq!(stash.used_bytes(), 1, "{what}: charged the least there is");
    stash.close();
    let mut drained = Box::pin(stash.drained());
    let woken = queue(&mut drained);
    assert!(!stash.drained_timeout(Duration::ZERO), "{what}");
    let_go(&stash, held);
    assert_eq!((woken.get(), state(&stash)), (1, (0, 0, 0)), "{what}");
    ready(&mut drained);
}

#[test]
fn w5_drained_while_an_empty_entry_is_there() {
    let claim = |stash: &TestStash| stash.claim(&put(stash, 0), &ALICE).unwrap();
    is_waited_for(
        "taken",
        |stash| put(stash, 0),
        |stash, ticket| {
            assert!(take(stash, ticket).is_some());
        },
    );
    is_waited_for("cleared", |stash| put(stash, 0), |stash, _| assert_eq!(stash.clear(), 1));
    is_waited_for("claimed", claim, |_, claim| assert!(claim.into_inner().is_empty()));
    is_waited_for("claimed and put back", claim, |stash, claim| {
        assert!(claim.put_back());
        assert_eq!(stash.clear(), 1);
    });
    is_waited_for("delivered", |stash| claim(stash).into_bytes(), |_, bytes| drop(bytes));
    let (stash, clock) = test_stash();
    fill(&stash, 0);
    stash.close();
    clock.advance(TTL);
    let mut drained = Box::pin(stash.drained());
    assert!(poll_once(&mut drained).is_pending(), "expired, and still there");
    assert_eq!(stash.gc(), 1);
    ready(&mut drained);
    assert!(stash.drained_timeout(Duration::ZERO));
}

#[test]
fn w5_drained_while_a_reservation_for_an_empty_payload_is_there() {
    let reserve = |stash: &TestStash| stash.try_reserve(0).unwrap();
    is_waited_for("reserved", reserve, |_, room| drop(room));
    is_waited_for(
        "waited for",
        |stash| ready(&mut Box::pin(stash.reserve(0))).unwrap(),
        |_, room| {
            drop(room);
        },
    );
    let shrunk = |stash: &TestStash| {
        let mut room = stash.try_reserve(10).unwrap();
        room.shrink(0);
        room
    };
    is_waited_for("shrunk", shrunk, |_, room| drop(room));
    for reserved in [0, 10] {
        let stored = |stash: &TestStash| {
            stash.try_reserve(reserved).unwrap().put(ALICE, payload(0)).unwrap()
        };
        is_waited_for("used", stored, |stash, ticket| assert!(take(stash, ticket).is_some()));
    }
}

/// The same kind: what is free is not bounded, by the limit of an owner neither.
#[test]
fn w5_empty_entries_without_overhead_are_bounded() {
    let (stash, _) = stash_with(|builder| builder.max_bytes(3).max_bytes_per_owner(2));
    let (first, _second) = (put(&stash, 0), put(&stash, 0));
    assert_eq!(stash.try_put(ALICE, payload(0)).unwrap_err().reason(), Refusal::OwnerFull);
    assert_eq!((stash.owner_used_bytes(&ALICE), stash.used_bytes()), (2, 2));
    let other = stash.try_put(BOB, payload(0)).unwrap();
    assert_eq!(stash.try_put(BOB, payload(0)).unwrap_err().reason(), Refusal::Full);
    assert!(stash.take(&other, &BOB).is_some() && take(&stash, first).is_some());
    assert_eq!((stash.clear(), state(&stash)), (1, (0, 0, 0)));
    assert_eq!(stash.owner_used_bytes(&ALICE), 0);
}

/// Of a bare budget: a permit of 0 bytes holds nothing, granted or not polled yet.
#[test]
fn w5_a_permit_of_no_bytes_holds_nothing() {
    let budget = Budget::new(10);
    let all = budget.try_acquire(10).unwrap();
    let none = budget.try_acquire(0).unwrap();
    let mut waiter = acquire_task(&budget, 11);
    assert_eq!(ready(&mut waiter).unwrap_err().reason(), Refusal::TooLarge);
    let mut first = acquire_task(&budget, 1);
    queue(&mut first);
    let mut second = acquire_task(&budget, 0);
    let woken = queue(&mut second);
    drop(first);
    assert_eq!(woken.get(), 1, "granted, and not polled");
    budget.close();
    drop(all);
    assert!(budget.drained_timeout(Duration::ZERO));
    assert_eq!((none.bytes(), ready(&mut second).unwrap().bytes()), (0, 0));
}
