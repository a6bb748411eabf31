//! B7, the bounds of the wait queue, and B8, a limit that moves.

use std::time::Duration;

use cloakroom::Refusal;

use crate::executors::Executor;
use crate::fixtures::{
    ALICE, BOB, checked_stats, fill, payload, put, stash_with, state, take, test_stash,
};
use crate::support::{TTL, acquire_task, put_task, queue, ready};

// ---- The bounds of the wait queue -----------------------------------------------------------------

#[test]
fn b7_one_more_is_refused_before_it_joins() {
    let (stash, _) = stash_with(|builder| builder.max_waiting(2));
    let full = put(&stash, 100);
    let mut waiters = [put_task(&stash, ALICE, payload(50)), put_task(&stash, ALICE, payload(50))];
    waiters.iter_mut().for_each(|put| drop(queue(put)));
    let refused = ready(&mut put_task(&stash, BOB, payload(7))).unwrap_err();
    assert_eq!(refused.reason(), Refusal::QueueFull);
    assert_eq!((refused.queue_position(), refused.waiting(), refused.requested()), (Some(3), 2, 7));
    assert_eq!((refused.used(), refused.limit()), (100, 100));
    assert!(
        refused.to_string().contains("wait queue is full")
            && refused.to_string().contains("2 waiting")
    );
    assert_eq!(refused.into_payload(), payload(7));
    // `try_put` gets the usual refusal.
    let refused = stash.try_put(BOB, payload(7)).unwrap_err();
    assert_eq!((refused.reason(), refused.queue_position()), (Refusal::Full, Some(3)));
    assert_eq!(checked_stats(&stash).refused.queue_full, 1);

    // One leaves, one is served: there are places again, and the order is kept.
    let [first, second] = waiters;
    drop(first);
    let mut third = put_task(&stash, ALICE, payload(50));
    queue(&mut third);
    assert!(ready(&mut Box::pin(stash.reserve(1))).is_err());
    assert!(take(&stash, full).is_some());
    let (mut second, mut third) = (second, third);
    assert!(ready(&mut second).is_ok() && ready(&mut third).is_ok());
    assert_eq!(state(&stash), (2, 100, 0));
}

#[test]
fn b7_all_kinds_of_requests_count_and_are_refused() {
    let (stash, _) = stash_with(|builder| builder.max_waiting(1));
    let full = stash.try_reserve(100).unwrap();
    let mut permit = acquire_task(stash.budget(), 10);
    queue(&mut permit);
    let long = Duration::from_secs(1);
    assert_eq!(
        stash.put_timeout(ALICE, payload(1), long).unwrap_err().reason(),
        Refusal::QueueFull
    );
    assert_eq!(stash.reserve_timeout(1, long).unwrap_err().reason(), Refusal::QueueFull);
    assert_eq!(stash.budget().acquire_timeout(1, long).unwrap_err().reason(), Refusal::QueueFull);
    let refused = ready(&mut acquire_task(stash.budget(), 1)).unwrap_err();
    assert_eq!(
        (refused.reason(), refused.queue_position(), stash.waiting()),
        (Refusal::QueueFull, Some(2), 1)
    );
    drop(full);
    assert!(ready(&mut permit).is_ok());
}

#[test]
fn b7_with_an_empty_queue_bound_no_request_waits_and_fitting_ones_are_admitted() {
    let (stash, clock) = stash_with(|builder| builder.max_waiting(0));
    assert!(ready(&mut put_task(&stash, ALICE, payload(60))).is_ok());
    let refused = ready(&mut put_task(&stash, ALICE, payload(50))).unwrap_err();
    assert_eq!(
        (refused.reason(), refused.queue_position(), refused.waiting()),
        (Refusal::QueueFull, Some(1), 0)
    );
    // No waiter is left that would block requests that fit.
    assert!(stash.try_put(ALICE, payload(40)).is_ok());
    assert!(ready(&mut put_task(&stash, ALICE, payload(1))).is_err());
    clock.advance(TTL);
    assert!(
        ready(&mut put_task(&stash, ALICE, payload(100))).is_ok(),
        "expired bytes refuse nobody"
    );
    assert_eq!(state(&stash), (1, 100, 0));
}

#[test]
fn b7_the_bytes_that_wait_are_bounded_together() {
    let (stash, _) = stash_with(|builder| builder.max_waiting_bytes(100));
    let full = put(&stash, 100);
    let mut first = put_task(&stash, ALICE, payload(60));
    queue(&mut first);
    let refused = ready(&mut put_task(&stash, ALICE, payload(41))).unwrap_err();
    assert_eq!((refused.reason(), refused.queue_position()), (Refusal::QueueFull, Some(2)));
    let mut second = put_task(&stash, ALICE, payload(40));
    queue(&mut second);
    // Nothing is free: an empty one is charged a byte, and asks for it.
    assert!(ready(&mut put_task(&stash, ALICE, payload(0))).is_err());
    let mut empty = acquire_task(stash.budget(), 0);
    queue(&mut empty);
    assert!(ready(&mut put_task(&stash, ALICE, payload(1))).is_err());
    assert_eq!((checked_stats(&stash).waiting, checked_stats(&stash).waiting_bytes), (3, 100));
    assert!(take(&stash, full).is_some());
    for put in [&mut first, &mut second] {
        assert!(ready(put).is_ok());
    }
    assert_eq!(ready(&mut empty).unwrap().bytes(), 0);
    assert_eq!((state(&stash), checked_stats(&stash).waiting_bytes), ((2, 100, 0), 0));
}

#[test]
fn b7_a_request_too_large_for_the_queue_is_admitted_when_it_fits() {
    let (stash, _) = stash_with(|builder| builder.max_waiting_bytes(10));
    let ticket = ready(&mut put_task(&stash, ALICE, payload(80))).unwrap();
    let refused = ready(&mut put_task(&stash, ALICE, payload(80))).unwrap_err();
    assert_eq!((refused.reason(), refused.waiting()), (Refusal::QueueFull, 0));
    assert!(take(&stash, ticket).is_some());
    // Larger than everything is that, wherever it is refused.
    assert_eq!(
        ready(&mut put_task(&stash, ALICE, payload(101))).unwrap_err().reason(),
        Refusal::TooLarge
    );
}

#[test]
fn b7_a_budgets_wait_queue_can_be_bounded_while_requests_wait() {
    let (stash, _) = test_stash();
    let full = put(&stash, 100);
    let mut waiters: Vec<_> = (0..3).map(|_| put_task(&stash, ALICE, payload(10))).collect();
    waiters.iter_mut().for_each(|put| drop(queue(put)));
    stash.budget().set_max_waiting(1);
    assert_eq!(stash.waiting(), 3, "requests that wait stay");
    drop(waiters.pop());
    drop(waiters.pop());
    assert!(ready(&mut put_task(&stash, ALICE, payload(1))).is_err());
    stash.budget().set_max_waiting(2);
    stash.budget().set_max_waiting_bytes(19);
    assert!(ready(&mut put_task(&stash, ALICE, payload(10))).is_err());
    let mut next = put_task(&stash, ALICE, payload(9));
    queue(&mut next);
    assert!(take(&stash, full).is_some());
    assert!(ready(&mut waiters[0]).is_ok() && ready(&mut next).is_ok());
}

// ---- A limit that moves ----------------------------------------------------------------------------

on_every_executor! {
    fn b8_raising_the_limit_grants_waiters_at_once(executor) {
        let (stash, _) = test_stash();
        fill(&stash, 100);
        let waiter = |size| {
            let handle = stash.clone();
            executor.start(async move { handle.put(ALICE, payload(size)).await })
        };
        let waiters = [waiter(50), waiter(60), waiter(1)];
        stash.set_max_bytes(140);
        assert!(waiters.iter().all(|put| put.is_pending()));
        stash.set_max_bytes(209);
        let [first, second, third] = waiters;
        assert!(first.output().is_ok());
        assert!(second.is_pending() && third.is_pending(), "a byte is missing, and nobody overtakes");
        stash.set_max_bytes(u64::MAX);
        assert!(second.output().is_ok() && third.output().is_ok());
        assert_eq!((state(&stash), stash.max_bytes()), ((4, 211, 0), cloakroom::Budget::MAX_LIMIT));
    }
}

on_every_executor! {
    fn b8_lowering_refuses_until_it_fits(executor) {
        let (stash, _) = test_stash();
        let tickets = [put(&stash, 40), put(&stash, 40), put(&stash, 20)];
        stash.set_max_bytes(50);
        assert_eq!((state(&stash), stash.max_bytes()), ((3, 100, 0), 50), "nothing is removed");
        assert_eq!(stash.try_put(ALICE, payload(0)).unwrap_err().reason(), Refusal::Full);
        let handle = stash.clone();
        let waiter = executor.start(async move { handle.put(ALICE, payload(20)).await });
        assert!(take(&stash, tickets[0]).is_some());
        assert!(waiter.is_pending(), "60 of 50 used");
        assert!(take(&stash, tickets[2]).is_some());
        assert!(waiter.is_pending(), "40 of 50 used");
        assert!(take(&stash, tickets[1]).is_some());
        assert!(waiter.output().is_ok());
        assert_eq!(stash.try_put(ALICE, payload(51)).unwrap_err().reason(), Refusal::TooLarge);
        assert!(stash.try_put(ALICE, payload(30)).is_ok());
        assert_eq!(checked_stats(&stash).peak_bytes, 100);
    }
}

on_every_executor! {
    fn b8_a_waiter_that_became_too_large_does_not_block_the_queue(executor) {
        let (stash, _) = test_stash();
        let ticket = put(&stash, 100);
        let waiter = |size| {
            let handle = stash.clone();
            executor.start(async move { handle.put(ALICE, payload(size)).await })
        };
        let (first, large, last) = (waiter(10), waiter(80), waiter(30));
        stash.set_max_bytes(50);
        assert!(first.is_pending() && large.is_pending() && last.is_pending());
        assert!(take(&stash, ticket).is_some());
        assert!(first.output().is_ok());
        let refused = large.output().unwrap_err();
        assert_eq!((refused.reason(), refused.into_payload()), (Refusal::TooLarge, payload(80)));
        assert!(last.output().is_ok());
        assert_eq!(state(&stash), (2, 40, 0));
    }
}

#[test]
fn b8_a_head_that_becomes_too_large_goes_at_once_and_the_next_is_served() {
    let (stash, _) = test_stash();
    fill(&stash, 30);
    let mut large = put_task(&stash, ALICE, payload(80));
    let mut next = put_task(&stash, ALICE, payload(20));
    let (large_woken, next_woken) = (queue(&mut large), queue(&mut next));
    stash.set_max_bytes(50);
    assert_eq!((large_woken.get(), next_woken.get()), (1, 1));
    assert_eq!(ready(&mut large).unwrap_err().reason(), Refusal::TooLarge);
    assert!(ready(&mut next).is_ok());
}

#[test]
fn b8_down_to_nothing_and_up_again() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 60);
    let claim = stash.claim(&ticket, &ALICE).unwrap();
    let room = stash.try_reserve(40).unwrap();
    stash.set_max_bytes(0);
    assert_eq!((stash.max_bytes(), stash.used_bytes()), (0, 100));
    // What was admitted is used as before.
    assert!(claim.put_back());
    let other = room.put(ALICE, payload(40)).unwrap();
    assert_eq!(stash.try_put(ALICE, payload(1)).unwrap_err().reason(), Refusal::TooLarge);
    assert!(take(&stash, ticket).is_some() && take(&stash, other).is_some());
    assert_eq!(stash.try_put(ALICE, payload(1)).unwrap_err().reason(), Refusal::TooLarge);
    stash.set_max_bytes(1);
    assert!(stash.try_put(ALICE, payload(1)).is_ok());
    assert_eq!(state(&stash), (1, 1, 0));
}
