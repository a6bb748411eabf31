//! B1: reservations, which acquire bytes before there is a payload.

use std::future::ready as at_once;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use cloakroom::{PutOptions, Refusal, Reservation};

use crate::executors::Executor;
use crate::fixtures::{
    ALICE, BOB, SECOND, checked_stats, fill, payload, put, stash_with, state, take, test_stash,
};
use crate::support::{TTL, must_come_back, poll_once, put_task, queue, ready};

#[test]
fn b1_room_is_charged_before_there_is_a_payload() {
    let (stash, _) = test_stash();
    let room = stash.try_reserve(60).unwrap();
    assert_eq!((room.bytes(), state(&stash)), (60, (0, 60, 0)));
    assert_eq!(stash.try_put(ALICE, payload(50)).unwrap_err().reason(), Refusal::Full);
    assert_eq!(stash.try_reserve(50).unwrap_err().reason(), Refusal::Full);
    let ticket = room.put(ALICE, payload(60)).unwrap();
    assert_eq!(state(&stash), (1, 60, 0));
    assert_eq!(take(&stash, ticket), Some(payload(60)));
    assert_eq!(state(&stash), (0, 0, 0));
}

on_every_executor! {
    fn b1_a_smaller_payload_gives_the_rest_to_the_head(executor) {
        let (stash, _) = test_stash();
        let room = stash.try_reserve(100).unwrap();
        let (one, other) = (stash.clone(), stash.clone());
        let head = executor.start(async move { one.put(BOB, payload(40)).await });
        let next = executor.start(async move { other.put(BOB, payload(1)).await });
        assert!(head.is_pending() && next.is_pending());
        let ticket = room.put(ALICE, payload(60)).unwrap();
        assert!(head.output().is_ok());
        assert!(next.is_pending());
        assert_eq!(state(&stash), (2, 100, 1));
        assert_eq!(take(&stash, ticket), Some(payload(60)));
        assert!(next.output().is_ok());
    }
}

#[test]
fn b1_a_larger_payload_is_refused_with_both_intact() {
    let (stash, _) = test_stash();
    let room = stash.try_reserve(40).unwrap();
    let refused = room.put(ALICE, payload(41)).unwrap_err();
    assert_eq!(refused.reason(), Refusal::TooLarge);
    let details = refused.details();
    assert_eq!((details.requested(), details.used(), details.limit()), (41, 0, 40));
    assert!(!refused.to_string().is_empty() && format!("{refused:?}").contains("TooLarge"));
    let (returned, room) = refused.into_parts();
    assert_eq!((returned, room.bytes(), state(&stash)), (payload(41), 40, (0, 40, 0)));
    assert!(room.put(ALICE, payload(40)).is_ok());

    let room = stash.try_reserve(40).unwrap();
    assert_eq!(room.put(ALICE, payload(90)).unwrap_err().into_payload(), payload(90));
    assert_eq!(state(&stash), (1, 40, 0), "the reservation went with the error");
}

on_every_executor! {
    fn b1_dropped_unused_it_serves_the_head_at_once(executor) {
        let (stash, _) = test_stash();
        let waiter = stash.clone();
        let room = stash.try_reserve(100).unwrap();
        let head = executor.start(async move { waiter.reserve(100).await.map(|room| room.bytes()) });
        assert!(head.is_pending());
        drop(room);
        assert_eq!(head.output().unwrap(), 100);
        assert_eq!(state(&stash), (0, 0, 0));
    }
}

on_every_executor! {
    /// Each of them needs more than half, so one is granted at a time.
    fn b1_reservations_puts_and_permits_wait_in_one_queue(executor) {
        let (stash, _) = test_stash();
        let full = put(&stash, 100);
        let handle = stash.clone();
        let first = executor.start(async move { handle.reserve(60).await });
        let handle = stash.clone();
        let second = executor.start(async move { handle.put(ALICE, payload(70)).await });
        let budget = stash.budget().clone();
        let third =
            executor.start(async move { budget.acquire(80).await.map(|permit| permit.into_owned()) });
        let handle = stash.clone();
        let fourth = executor.start(async move { handle.reserve_for(&BOB, 90).await });
        assert_eq!(stash.waiting(), 4);
        assert_eq!(stash.try_reserve(0).unwrap_err().reason(), Refusal::Full, "nobody overtakes");
        assert_eq!(stash.try_reserve(0).unwrap_err().queue_position(), Some(5));

        assert!(take(&stash, full).is_some());
        let room = first.output().unwrap();
        assert_eq!((room.bytes(), state(&stash)), (60, (0, 60, 3)));
        let ticket = room.put(ALICE, payload(60)).unwrap();
        assert!(second.is_pending() && third.is_pending() && fourth.is_pending());
        assert!(take(&stash, ticket).is_some());
        let ticket = second.output().unwrap();
        assert!(third.is_pending() && fourth.is_pending());
        assert!(take(&stash, ticket).is_some());
        let permit = third.output().unwrap();
        assert!(fourth.is_pending());
        drop(permit);
        drop(fourth.output().unwrap());
        assert_eq!(state(&stash), (0, 0, 0));
    }
}

on_every_executor! {
    fn b1_a_wait_ends_with_until_or_with_close(executor) {
        let (stash, clock) = test_stash();
        let room = stash.try_reserve(100).unwrap();
        let (handle, until) = (stash.clone(), clock.sleep(SECOND));
        let first = executor.start(async move { handle.reserve(50).until(until).await.map(drop) });
        let handle = stash.clone();
        let second = executor.start(async move { handle.reserve(50).await.map(drop) });
        clock.advance(SECOND);
        assert_eq!(first.output().unwrap_err().reason(), Refusal::Cancelled);
        assert_eq!(stash.waiting(), 1);
        assert_eq!(stash.close(), 1);
        assert_eq!(second.output().unwrap_err().reason(), Refusal::Closed);
        assert_eq!(stash.try_reserve(0).unwrap_err().reason(), Refusal::Closed);
        // What was reserved before can be used.
        assert!(room.put(ALICE, payload(70)).is_ok());
        assert_eq!(state(&stash), (1, 70, 0));
        assert_eq!(checked_stats(&stash).refused.closed, 2);
    }
}

#[test]
fn b1_until_that_fired_before_refuses_unless_there_is_room() {
    let (stash, _) = test_stash();
    let room = ready(&mut Box::pin(stash.reserve(60).until(at_once(())))).unwrap();
    let refused = ready(&mut Box::pin(stash.reserve(60).until(at_once(())))).unwrap_err();
    assert_eq!((refused.reason(), stash.waiting()), (Refusal::Cancelled, 0));
    drop(room);
    assert_eq!(stash.used_bytes(), 0);
}

#[test]
fn b1_a_blocking_reservation_waits_as_long_as_told() {
    must_come_back(|| {
        let (stash, _) = test_stash();
        let room = stash.reserve_timeout(100, Duration::ZERO).unwrap();
        let refused = stash.reserve_timeout(1, Duration::ZERO).unwrap_err();
        assert_eq!(refused.reason(), Refusal::Full);
        let (begun, patience) = (Instant::now(), Duration::from_millis(20));
        let refused = stash.reserve_timeout(1, patience).unwrap_err();
        assert_eq!((refused.reason(), stash.waiting()), (Refusal::TimedOut, 0));
        assert!(begun.elapsed() >= patience);
        let waiter = stash.clone();
        let thread = std::thread::spawn(move || {
            waiter.reserve_timeout_for(&ALICE, 100, Duration::MAX).unwrap().put(ALICE, payload(9))
        });
        while stash.waiting() == 0 {
            std::thread::yield_now();
        }
        drop(room);
        let ticket = thread.join().unwrap().unwrap();
        assert_eq!((state(&stash), take(&stash, ticket)), ((1, 9, 0), Some(payload(9))));
    });
}

#[test]
fn b1_a_waiter_that_leaves_lets_the_next_one_through() {
    let (stash, _) = test_stash();
    let _held = stash.try_reserve(60).unwrap();
    let mut head = Box::pin(stash.reserve(80));
    queue(&mut head);
    let mut next = put_task(&stash, ALICE, payload(40));
    let woken = queue(&mut next);
    drop(head);
    assert_eq!(woken.get(), 1);
    assert!(ready(&mut next).is_ok());
    // Granted, and never polled again.
    let mut granted = Box::pin(stash.reserve(100));
    queue(&mut granted);
    drop(_held);
    stash.clear();
    assert_eq!(state(&stash), (0, 100, 0));
    drop(granted);
    assert_eq!(state(&stash), (0, 0, 0));
}

#[test]
fn b1_room_is_for_a_payload_and_its_overhead() {
    let (stash, _) = stash_with(|builder| builder.entry_overhead(8));
    let mut room = stash.try_reserve(10).unwrap();
    assert_eq!((room.bytes(), stash.used_bytes()), (10, 18));
    room.shrink(4);
    assert_eq!((room.bytes(), stash.used_bytes()), (4, 12));
    room.shrink(5);
    assert_eq!((room.bytes(), stash.used_bytes()), (4, 12), "it does not grow");
    let (_, room) = room.put(ALICE, payload(5)).unwrap_err().into_parts();
    assert!(room.put(ALICE, payload(3)).is_ok());
    assert_eq!(state(&stash), (1, 11, 0));
    let empty = stash.try_reserve(0).unwrap();
    assert_eq!(stash.used_bytes(), 19);
    assert!(empty.put(ALICE, payload(0)).is_ok());
    assert_eq!(stash.try_reserve(100).unwrap_err().reason(), Refusal::TooLarge);
    assert_eq!(stash.try_reserve(93).unwrap_err().reason(), Refusal::TooLarge);
    assert_eq!(stash.try_reserve(92).unwrap_err().reason(), Refusal::Full);
}

#[test]
fn b1_its_entry_lives_from_the_put_on_and_as_long_as_it_says() {
    let (stash, clock) = test_stash();
    let (one, other) = (stash.try_reserve(10).unwrap(), stash.try_reserve(10).unwrap());
    clock.advance(2 * TTL);
    assert_eq!(stash.gc(), 0, "room does not expire");
    let usual = one.put(ALICE, payload(10)).unwrap();
    let brief = other.put_with(ALICE, payload(10), PutOptions::new().ttl(SECOND)).unwrap();
    clock.advance(SECOND);
    assert_eq!((take(&stash, brief), state(&stash)), (None, (1, 10, 0)));
    clock.advance(TTL - SECOND - Duration::from_nanos(1));
    assert_eq!(take(&stash, usual), Some(payload(10)));
}

#[test]
fn b1_expired_bytes_do_not_refuse_a_reservation() {
    let (stash, clock) = test_stash();
    fill(&stash, 100);
    clock.advance(TTL);
    assert!(stash.try_reserve(100).is_ok());
    fill(&stash, 100);
    clock.advance(TTL);
    assert!(ready(&mut Box::pin(stash.reserve(100))).is_ok());
}

#[test]
fn b1_a_reservation_keeps_the_stash() {
    let (stash, _) = test_stash();
    let room = stash.try_reserve(10).unwrap();
    drop(stash);
    let stash = room.stash().clone();
    let ticket = room.put(ALICE, payload(10)).unwrap();
    assert_eq!(take(&stash, ticket), Some(payload(10)));
}

#[test]
fn b1_polled_after_its_end_it_panics_and_reserves_nothing_more() {
    let (stash, _) = stash_with(|builder| builder.max_bytes_per_owner(50));
    let mut done = Box::pin(stash.reserve_for(&ALICE, 10));
    let room: Reservation<_, _> = ready(&mut done).unwrap();
    let mut refused = Box::pin(stash.reserve_for(&ALICE, 60));
    assert_eq!(ready(&mut refused).unwrap_err().reason(), Refusal::OwnerFull);
    for future in [&mut done, &mut refused] {
        assert!(catch_unwind(AssertUnwindSafe(|| poll_once(future).is_ready())).is_err());
        assert_eq!((state(&stash), stash.owner_used_bytes(&ALICE)), ((0, 10, 0), 10));
    }
    drop((done, refused, room));
    assert_eq!((state(&stash), stash.owner_used_bytes(&ALICE)), ((0, 0, 0), 0));
}
