//! Arguments of calls and limits that are moved: any value is refused or served.

use std::time::Duration;

use cloakroom::{Budget, PutOptions, Refusal, Stash};

use super::{Strings, with};
use crate::support::{TTL, acquire_task, poll_once, put_task, queue, ready};

#[test]
fn a_time_to_live_of_an_entry_may_be_anything() {
    let clock = cloakroom::ManualClock::new();
    let stash = with(|builder| builder.clock(clock.clone())).unwrap();
    let year = Duration::from_secs(365 * 24 * 3_600);
    for ttl in [Duration::MAX, Duration::from_secs(u64::MAX), 300 * year, 73 * year] {
        let options = PutOptions::new().ttl(ttl);
        assert_eq!(options.ttl, Some(ttl));
        let ticket = stash.try_put_with(0, "text".to_owned(), options).unwrap();
        clock.advance(70 * year);
        assert_eq!((stash.gc(), stash.take(&ticket, &0).as_deref()), (0, Some("text")));
    }
    let ticket = stash.try_put_with(0, "text".to_owned(), PutOptions::new().ttl(Duration::ZERO));
    assert!(stash.take(&ticket.unwrap(), &0).is_none());
    assert_eq!(PutOptions::new(), PutOptions::default());
}

#[test]
fn a_reservation_of_anything_is_refused_or_made_at_once() {
    for overhead in [0, 1, 100] {
        let stash = with(|builder| builder.entry_overhead(overhead)).unwrap();
        for bytes in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62, Budget::MAX_LIMIT, 101] {
            let requested = bytes.saturating_add(overhead);
            let refused = stash.try_reserve(bytes).unwrap_err();
            assert_eq!((refused.reason(), refused.requested()), (Refusal::TooLarge, requested));
            let refused = stash.reserve_timeout(bytes, Duration::MAX).unwrap_err();
            assert_eq!(refused.reason(), Refusal::TooLarge, "and does not block");
            let refused = ready(&mut Box::pin(stash.reserve(bytes))).unwrap_err();
            assert_eq!(refused.reason(), Refusal::TooLarge, "and does not wait");
        }
        // Nothing is free: without an overhead it is the room for 1 byte.
        let charge = overhead.max(1);
        let mut nothing = stash.try_reserve(0).unwrap();
        assert_eq!((nothing.bytes(), stash.used_bytes()), (charge - overhead, charge));
        nothing.shrink(u64::MAX);
        nothing.shrink(0);
        assert_eq!(stash.used_bytes(), charge);
        let refused = nothing.put(0, "xx".to_owned()).unwrap_err();
        assert_eq!(refused.reason(), Refusal::TooLarge);
        assert!(refused.into_parts().1.put(0, String::new()).is_ok());
        assert_eq!((stash.len(), stash.used_bytes(), stash.clear()), (1, charge, 1));
    }
}

#[test]
fn a_limit_may_be_moved_anywhere() {
    for overflow in [0, 50] {
        let stash = with(|builder| match overflow {
            0 => builder,
            _ => builder.overflow(overflow, TTL),
        });
        let stash = stash.unwrap();
        let ticket = stash.try_put(0, "x".repeat(100)).unwrap();
        for max in [0, 1, u64::MAX, u64::MAX - overflow, Budget::MAX_LIMIT, 99, 0] {
            stash.set_max_bytes(max);
            assert_eq!(stash.max_bytes(), max.min(Budget::MAX_LIMIT - overflow));
            assert_eq!(stash.used_bytes(), 100);
        }
        // Below its overflow, which the stash itself would not do.
        stash.budget().set_limit(overflow / 2);
        assert_eq!(stash.max_bytes(), 0);
        assert_eq!(stash.try_put(0, "x".repeat(26)).unwrap_err().reason(), Refusal::TooLarge);
        assert!(stash.take(&ticket, &0).is_some());
        stash.set_max_bytes(100);
        assert!(stash.try_put(0, "x".repeat(100)).is_ok());
    }
}

#[test]
fn limits_of_the_wait_queue_may_be_anything() {
    let stash =
        with(|builder| builder.max_waiting(usize::MAX).max_waiting_bytes(u64::MAX)).unwrap();
    let _ = stash.try_put(0, "x".repeat(100)).unwrap();
    let mut waiters: Vec<_> = (0..3).map(|_| put_task(&stash, 0, "x".repeat(100))).collect();
    waiters.iter_mut().for_each(|put| drop(queue(put)));
    let none = with(|builder| builder.max_waiting(0).max_waiting_bytes(0)).unwrap();
    assert!(ready(&mut put_task(&none, 0, "x".repeat(100))).is_ok());
    let refused = ready(&mut put_task(&none, 0, String::from("x"))).unwrap_err();
    assert_eq!(refused.reason(), Refusal::QueueFull);
    // More than 64 bits can count, all together.
    let budget = Budget::new(u64::MAX);
    let full = budget.try_acquire(Budget::MAX_LIMIT).unwrap();
    let mut waiters: Vec<_> = (0..17).map(|_| acquire_task(&budget, Budget::MAX_LIMIT)).collect();
    budget.set_max_waiting_bytes(u64::MAX);
    let waits: Vec<bool> = waiters.iter_mut().map(|one| poll_once(one).is_pending()).collect();
    let wait = waits.iter().take_while(|waits| **waits).count();
    assert_eq!((wait, waits.len()), (16, 17), "2^64 - 16 bytes");
    drop((full, waiters));
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

#[test]
fn empty_payloads_are_charged_and_so_bounded() {
    let stash: Strings = Stash::builder().max_bytes(1_000).build().unwrap();
    let stored = (0..1_001).take_while(|_| stash.try_put(0, String::new()).is_ok()).count();
    assert!(0 < stored && stored < 1_000);
    assert!(stash.used_bytes() <= 1_000);
}

#[test]
fn a_budgets_limit_is_clipped_to_what_can_be_counted() {
    let budget = Budget::new(u64::MAX);
    assert_eq!(budget.limit(), Budget::MAX_LIMIT);
    let all = budget.try_acquire(Budget::MAX_LIMIT).unwrap();
    assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Full);
    // As far below zero as room can go, and back.
    budget.set_limit(0);
    assert_eq!((budget.used(), budget.limit()), (Budget::MAX_LIMIT, 0));
    budget.set_limit(u64::MAX);
    assert_eq!((budget.used(), budget.limit()), (Budget::MAX_LIMIT, Budget::MAX_LIMIT));
    drop(all);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_budget_of_nothing_grants_nothing_and_nobody_waits_for_it() {
    let budget = Budget::new(0);
    assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::TooLarge);
    assert_eq!(ready(&mut Box::pin(budget.acquire(1))).unwrap_err().reason(), Refusal::TooLarge);
    assert_eq!(budget.try_acquire(0).unwrap().bytes(), 0);
}
