//! B21: a claim that is put back with another time to live than it had.

use std::time::Duration;

use cloakroom::{ManualClock, OnDrop, PutOptions, Stash};

use crate::executors::Executor;
use crate::fixtures::{
    ALICE, BOB, SECOND, TestStash, checked_stats, payload, put, stash_with, state, take, test_stash,
};
use crate::support::TTL;

const LAST: Duration = Duration::from_nanos(1);

/// Turns the clock to the deadline, `ttl` from now: the entry is there until then, and swept then.
#[track_caller]
fn expires_in(stash: &TestStash, clock: &ManualClock, ttl: Duration) {
    clock.advance(ttl - LAST);
    assert_eq!((stash.gc(), stash.len()), (0, 1), "too early");
    clock.advance(LAST);
    assert_eq!((stash.gc(), state(stash)), (1, (0, 0, 0)), "too late");
}

#[test]
fn b21_a_transfer_may_outlive_the_time_to_live() {
    let (stash, clock) = test_stash();
    let ticket = put(&stash, 40);
    let mut claim = stash.claim(&ticket, &ALICE).unwrap();
    assert!(claim.renew(3 * TTL));
    clock.advance(2 * TTL);
    assert_eq!((stash.gc(), state(&stash)), (0, (1, 40, 0)));
    assert!(claim.put_back());
    assert!(stash.take(&ticket, &BOB).is_none());
    let claim = stash.claim(&ticket, &ALICE).expect("it has a time to live of its own");
    drop(claim);
    expires_in(&stash, &clock, TTL);
    assert!(take(&stash, ticket).is_none());
}

#[test]
fn b21_however_it_is_put_back_it_has_the_new_deadline() {
    let (stash, clock) = test_stash();
    for ttl in [TTL / 4, TTL, 5 * TTL] {
        for way in 0..6 {
            let ticket = put(&stash, 40);
            clock.advance(SECOND);
            let mut claim = stash.claim(&ticket, &ALICE).unwrap();
            if way == 0 {
                assert!(claim.put_back_with(PutOptions::new().ttl(ttl)));
            } else {
                assert!(claim.renew(TTL / 2) && claim.renew(ttl), "the last one holds");
                match way {
                    1 => drop(claim),
                    2 => drop(claim.into_reader()),
                    3 => drop(claim.on_drop(OnDrop::PutBack).into_bytes()),
                    4 => assert!(claim.put_back_with(PutOptions::new())),
                    _ => assert!(claim.put_back()),
                }
            }
            expires_in(&stash, &clock, ttl);
        }
    }
    assert_eq!(checked_stats(&stash).put_back, 18);
}

#[test]
fn b21_expired_is_expired() {
    let (stash, clock) = test_stash();
    for options in [PutOptions::new(), PutOptions::new().ttl(TTL)] {
        let ticket = put(&stash, 40);
        let mut claim = stash.claim(&ticket, &ALICE).unwrap();
        clock.advance(TTL);
        assert!(!claim.renew(TTL), "its time was up");
        assert!(!claim.put_back_with(options));
        assert_eq!((state(&stash), take(&stash, ticket)), ((0, 0, 0), None));
    }
    // Renewed to nothing.
    let mut claim = stash.claim(&put(&stash, 40), &ALICE).unwrap();
    assert!(claim.renew(Duration::ZERO) && !claim.renew(TTL));
    assert!(!claim.put_back());
    assert_eq!(checked_stats(&stash).expired, 3);
    // It can still be delivered.
    let mut claim = stash.claim(&put(&stash, 40), &ALICE).unwrap();
    clock.advance(TTL);
    assert!(!claim.renew(TTL));
    assert_eq!(claim.into_inner(), payload(40));
}

#[test]
fn b21_cleared_it_is_gone_renewed_or_not() {
    let (stash, _) = test_stash();
    let mut claim = stash.claim(&put(&stash, 40), &ALICE).unwrap();
    assert_eq!(stash.clear(), 0);
    claim.renew(5 * TTL);
    assert!(!claim.put_back());
    assert_eq!((state(&stash), checked_stats(&stash).cleared), ((0, 0, 0), 1));
}

#[test]
fn b21_the_overflows_time_to_live_is_a_cap_for_what_uses_it() {
    let (stash, clock) = stash_with(|builder| builder.overflow(50, 3 * SECOND));
    let usual = put(&stash, 100);
    let above = put(&stash, 50);
    let mut claim = stash.claim(&above, &ALICE).unwrap();
    clock.advance(2 * SECOND);
    assert!(claim.renew(TTL));
    drop(claim);
    // Again and again, and shorter too: the cap stays.
    let claim = stash.claim(&above, &ALICE).unwrap();
    assert!(claim.put_back_with(PutOptions::new().ttl(SECOND)));
    let claim = stash.claim(&above, &ALICE).unwrap();
    assert!(claim.put_back_with(PutOptions::new().ttl(TTL)));
    assert!(stash.claim(&usual, &ALICE).unwrap().put_back_with(PutOptions::new().ttl(TTL)));
    clock.advance(3 * SECOND - LAST);
    assert_eq!(stash.gc(), 0);
    clock.advance(LAST);
    assert_eq!((stash.gc(), take(&stash, above)), (1, None));
    expires_in(&stash, &clock, TTL - 3 * SECOND);
    // The slot's next entry is capped by nothing.
    let next = put(&stash, 100);
    assert!(stash.claim(&next, &ALICE).unwrap().put_back_with(PutOptions::new().ttl(3 * TTL)));
    expires_in(&stash, &clock, 3 * TTL);
}

#[test]
fn b21_times_too_long_are_cut() {
    let clock = ManualClock::new();
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).clock(clock.clone());
    let stash: TestStash = builder.build().unwrap();
    let ticket = put(&stash, 40);
    for _ in 0..3 {
        assert!(stash.claim(&ticket, &ALICE).unwrap().renew(Duration::MAX));
    }
    assert!(
        stash.claim(&ticket, &ALICE).unwrap().put_back_with(PutOptions::new().ttl(Duration::MAX))
    );
    clock.advance(Duration::from_secs(70 * 365 * 24 * 3_600));
    assert_eq!((stash.gc(), take(&stash, ticket)), (0, Some(payload(40))));
}

on_every_executor! {
    /// The reaper's sweep came while it was claimed, and its next one was planned for later.
    fn b21_renewed_to_an_earlier_time_it_is_reaped_on_time(executor) {
        let (stash, clock) = test_stash();
        let (reaper, timer) = (stash.reaper(), clock.clone());
        let reaper = executor.start(reaper.run(move |duration| timer.sleep(duration)));
        let ticket = put(&stash, 100);
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        assert!(reaper.is_pending());
        let handle = stash.clone();
        let head = executor.start(async move { handle.put(BOB, payload(100)).await });
        assert!(head.is_pending());
        assert!(claim.put_back_with(PutOptions::new().ttl(2 * SECOND)));
        assert!(reaper.is_pending());
        clock.advance(2 * SECOND);
        assert!(reaper.is_pending());
        assert!(head.output().is_ok());
        assert_eq!(checked_stats(&stash).expired, 1);
    }
}
