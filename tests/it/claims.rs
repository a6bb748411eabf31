//! B2: a claimed entry is charged until it is delivered, put back or removed.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use cloakroom::{Claim, ManualClock, OnDrop, PutOptions, Stash};

use crate::executors::Executor;
use crate::fixtures::{
    ALICE, BOB, EventLog, SECOND, checked_stats, payload, put, stash_with, state, take, test_stash,
};
use crate::support::random::Rng;
use crate::support::{
    Counted, Live, TTL, counting, must_come_back, poll, put_task, queue, ready, stash_of,
};

on_every_executor! {
    fn b2_a_claimed_entry_is_charged_until_it_is_delivered(executor) {
        let (stash, _) = test_stash();
        let ticket = put(&stash, 100);
        let handle = stash.clone();
        let head = executor.start(async move { handle.put(BOB, payload(100)).await });
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        assert_eq!((claim.ticket(), claim.charge(), claim.len()), (ticket, 100, 100));
        assert!(head.is_pending());
        assert_eq!(state(&stash), (1, 100, 1));
        assert_eq!((checked_stats(&stash).claims, checked_stats(&stash).claimed), (1, 1));
        assert_eq!(claim.into_inner(), payload(100));
        assert!(head.output().is_ok());
        assert_eq!((checked_stats(&stash).claims, checked_stats(&stash).delivered), (0, 1));
    }
}

#[test]
fn b2_a_claimed_entry_is_not_available_to_others() {
    let (stash, clock) = test_stash();
    let ticket = put(&stash, 40);
    assert!(stash.claim(&ticket, &BOB).is_none());
    let claim = stash.claim(&ticket, &ALICE).unwrap();
    for owner in [ALICE, BOB] {
        assert!(stash.claim(&ticket, &owner).is_none());
        assert!(stash.take(&ticket, &owner).is_none());
    }
    clock.advance(TTL);
    assert_eq!(stash.gc(), 0, "not even the sweep's");
    assert_eq!(claim.into_inner(), payload(40), "it was claimed in time");
    assert_eq!((state(&stash), checked_stats(&stash).delivered), ((0, 0, 0), 1));
}

#[test]
fn b2_unknown_expired_and_delivered_are_all_none() {
    let (stash, clock) = test_stash();
    let unknown = put(&test_stash().0, 1);
    assert!(stash.claim(&unknown, &ALICE).is_none());
    let ticket = put(&stash, 40);
    clock.advance(TTL);
    assert!(stash.claim(&ticket, &ALICE).is_none());
    assert_eq!((state(&stash), checked_stats(&stash).expired), ((0, 0, 0), 1), "and removed");
    let ticket = put(&stash, 40);
    drop(stash.claim(&ticket, &ALICE).unwrap().into_inner());
    assert!(stash.claim(&ticket, &ALICE).is_none() && take(&stash, ticket).is_none());
    assert_eq!((checked_stats(&stash).claimed, checked_stats(&stash).put_back), (1, 0));
}

#[test]
fn b2_an_entry_put_back_keeps_its_ticket_owner_and_deadline() {
    let (stash, clock) = test_stash();
    let ticket = put(&stash, 40);
    let last = Duration::from_nanos(1);
    clock.advance(TTL - last);
    for way in 0..3 {
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        match way {
            0 => assert!(claim.put_back()),
            1 => drop(claim),
            _ => drop(claim.on_drop(OnDrop::Finish).on_drop(OnDrop::PutBack)),
        }
        assert_eq!(state(&stash), (1, 40, 0));
        assert!(stash.take(&ticket, &BOB).is_none());
    }
    assert_eq!((checked_stats(&stash).put_back, checked_stats(&stash).claimed), (3, 3));
    let again = stash.claim(&ticket, &ALICE).unwrap();
    assert_eq!(*again, payload(40));
    drop(again);
    clock.advance(last);
    assert_eq!(take(&stash, ticket), None, "the deadline did not move");
    assert_eq!((state(&stash), checked_stats(&stash).expired), ((0, 0, 0), 1));
}

#[test]
fn b2_put_back_it_is_swept_on_time() {
    let (stash, clock) = test_stash();
    let ticket = put(&stash, 40);
    let _ = stash.try_put_with(ALICE, payload(1), PutOptions::new().ttl(TTL / 2)).unwrap();
    let claim = stash.claim(&ticket, &ALICE).unwrap();
    clock.advance(TTL / 2);
    // Passes over it, and finds nothing else that is left.
    assert_eq!(stash.gc(), 1);
    clock.advance(TTL / 2 - Duration::from_nanos(1));
    assert_eq!(stash.gc(), 0);
    assert!(claim.put_back());
    clock.advance(Duration::from_nanos(1));
    assert_eq!((stash.gc(), state(&stash)), (1, (0, 0, 0)));
}

on_every_executor! {
    /// Without the put back, no sweep would come: the reaper swept while the entry was claimed.
    fn b2_an_entry_put_back_after_a_sweep_is_reaped_on_time(executor) {
        let (stash, clock) = test_stash();
        let (reaper, timer) = (stash.reaper(), clock.clone());
        let reaper = executor.start(reaper.run(move |duration| timer.sleep(duration)));
        let ticket = put(&stash, 60);
        let brief = PutOptions::new().ttl(6 * SECOND);
        let _ = stash.try_put_with(ALICE, payload(40), brief).unwrap();
        assert!(reaper.is_pending());
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        clock.advance(6 * SECOND);
        assert!(reaper.is_pending());
        assert_eq!(state(&stash), (1, 60, 0));
        let handle = stash.clone();
        let head = executor.start(async move { handle.put(BOB, payload(100)).await });
        clock.advance(SECOND);
        assert!(claim.put_back());
        assert!(reaper.is_pending());
        clock.advance(3 * SECOND);
        assert!(reaper.is_pending());
        assert_eq!((checked_stats(&stash).expired, checked_stats(&stash).used_bytes), (2, 100));
        assert!(head.output().is_ok());
    }
}

/// Ends the claim of an entry that was removed meanwhile, by its drop or by `put_back`.
fn ends_without_put_back(claim: Claim<Vec<u8>, u8>, drops: bool) {
    if drops {
        drop(claim);
    } else {
        assert!(!claim.put_back());
    }
}

on_every_executor! {
    fn b2_expired_while_claimed_it_is_not_put_back(executor) {
        for drops in [false, true] {
            let (stash, clock) = test_stash();
            let ticket = put(&stash, 100);
            let handle = stash.clone();
            let claim = stash.claim(&ticket, &ALICE).unwrap();
            let head = executor.start(async move { handle.put(BOB, payload(100)).await });
            clock.advance(TTL);
            assert!(head.is_pending());
            ends_without_put_back(claim, drops);
            assert!(take(&stash, ticket).is_none());
            assert!(head.output().is_ok());
            let stats = checked_stats(&stash);
            assert_eq!((stats.expired, stats.put_back, stats.claims), (1, 0, 0));
            assert_eq!(state(&stash), (1, 100, 0));
        }
    }
}

on_every_executor! {
    fn b2_cleared_while_claimed_it_is_not_put_back(executor) {
        for drops in [false, true] {
            let (stash, _) = test_stash();
            let (ticket, other) = (put(&stash, 60), put(&stash, 40));
            let claim = stash.claim(&ticket, &ALICE).unwrap();
            let handle = stash.clone();
            let head = executor.start(async move { handle.put(BOB, payload(50)).await });
            assert_eq!((stash.clear(), stash.clear()), (1, 0), "what is claimed stays");
            assert!(head.is_pending());
            assert_eq!((*claim == payload(60), take(&stash, other)), (true, None));
            ends_without_put_back(claim, drops);
            assert!(take(&stash, ticket).is_none());
            assert!(head.output().is_ok());
            let stats = checked_stats(&stash);
            assert_eq!((stats.cleared, stats.put_back, stats.claims), (2, 0, 0));
            assert_eq!(state(&stash), (1, 50, 0));
        }
    }
}

#[test]
fn b2_cleared_while_claimed_it_can_still_be_delivered() {
    let (stash, clock) = test_stash();
    let tickets = [put(&stash, 60), put(&stash, 30), put(&stash, 10)];
    let [one, two, three] = tickets.map(|ticket| stash.claim(&ticket, &ALICE).unwrap());
    assert_eq!(stash.clear(), 0);
    assert_eq!(one.into_inner(), payload(60));
    assert_eq!(two.into_bytes(), payload(30));
    // Both cleared and expired: it goes, once.
    clock.advance(TTL);
    assert!(!three.put_back());
    assert_eq!(state(&stash), (0, 0, 0));
    let stats = checked_stats(&stash);
    assert_eq!((stats.delivered, stats.expired + stats.cleared), (2, 1));
}

#[test]
fn b2_a_slot_that_was_cleared_under_a_claim_is_reusable() {
    let (stash, _) = test_stash();
    for _ in 0..100 {
        let ticket = put(&stash, 10);
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        stash.clear();
        assert!(!claim.put_back());
        let next = put(&stash, 10);
        assert!(take(&stash, ticket).is_none());
        assert!(stash.claim(&next, &ALICE).unwrap().put_back());
        assert_eq!(take(&stash, next), Some(payload(10)));
    }
    assert_eq!(state(&stash), (0, 0, 0));
}

#[test]
fn b2_dropped_with_finish_it_counts_as_delivered_and_serves_the_head() {
    let (stash, clock) = stash_of::<Counted, u8>(100);
    let live = Live::new();
    for expired in [false, true] {
        let ticket = stash.try_put(ALICE, live.counted(100)).unwrap();
        let claim = stash.claim(&ticket, &ALICE).unwrap().on_drop(OnDrop::Finish);
        let mut next = put_task(&stash, BOB, live.counted(100));
        let woken = queue(&mut next);
        if expired {
            clock.advance(TTL);
        }
        drop(claim);
        assert_eq!((woken.get(), live.get()), (1, 1));
        let ticket = ready(&mut next).unwrap();
        assert!(stash.take(&ticket, &BOB).is_some());
    }
    assert_eq!((state(&stash), checked_stats(&stash).delivered), ((0, 0, 0), 4));
}

#[test]
fn b2_a_claim_dropped_by_a_panic_puts_it_back() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 40);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _claim = stash.claim(&ticket, &ALICE).unwrap();
        panic!("on purpose");
    }));
    assert!(caught.is_err());
    assert_eq!((checked_stats(&stash).put_back, take(&stash, ticket)), (1, Some(payload(40))));
}

#[test]
fn b2_bytes_are_free_with_the_last_clone_wherever_it_is() {
    must_come_back(|| {
        let (stash, _) = test_stash();
        let ticket = put(&stash, 100);
        let mut next = put_task(&stash, BOB, payload(100));
        let (woken, waker) = counting();
        assert!(poll(&mut next, &waker).is_pending());
        let bytes = stash.claim(&ticket, &ALICE).unwrap().into_bytes();
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let part = bytes.slice(n..n + 10);
                thread::spawn(move || assert_eq!(part[0], payload(100)[n]))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((woken.get(), stash.used_bytes(), checked_stats(&stash).claims), (0, 100, 1));
        thread::spawn(move || drop(bytes)).join().unwrap();
        assert_eq!(
            (woken.get(), checked_stats(&stash).claims, checked_stats(&stash).delivered),
            (1, 0, 1)
        );
        assert!(ready(&mut next).is_ok());
    });
}

#[test]
fn b2_bytes_of_an_empty_payload_are_charged_until_they_are_dropped() {
    let (stash, _) = stash_with(|builder| builder.entry_overhead(8));
    let ticket = put(&stash, 0);
    let bytes = stash.claim(&ticket, &ALICE).unwrap().into_bytes();
    assert_eq!((bytes.len(), state(&stash)), (0, (1, 8, 0)));
    drop(bytes);
    assert_eq!((state(&stash), checked_stats(&stash).delivered), ((0, 0, 0), 1));
}

#[test]
fn b2_a_claim_keeps_the_stash() {
    let live = Live::new();
    let (stash, _) = stash_of::<Counted, u8>(100);
    let ticket = stash.try_put(ALICE, live.counted(10)).unwrap();
    let _ = stash.try_put(ALICE, live.counted(10)).unwrap();
    let claim = stash.claim(&ticket, &ALICE).unwrap();
    let reaper = stash.reaper();
    drop(stash);
    assert_eq!(live.get(), 2);
    assert_eq!(claim.size, 10);
    drop(claim);
    assert_eq!(live.get(), 0, "it went back into a stash that nobody has");
    drop(reaper);
}

#[test]
fn b2_a_closed_stash_takes_back_and_delivers() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 40);
    let claim = stash.claim(&ticket, &ALICE).unwrap();
    stash.close();
    assert!(claim.put_back());
    assert_eq!(stash.claim(&ticket, &ALICE).unwrap().into_inner(), payload(40));
    assert!(stash.drained_timeout(Duration::ZERO));
}

/// All of them hash alike: it is `Eq` alone that tells the rightful owner.
#[derive(Debug, PartialEq, Eq)]
struct SameHash(u8);

impl Hash for SameHash {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[test]
fn b2_another_owner_with_the_same_hash_claims_nothing() {
    let (log, clock) = (EventLog::default(), ManualClock::new());
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL);
    let stash: Stash<Vec<u8>, SameHash> =
        builder.clock(clock.clone()).observer(log.clone()).build().unwrap();
    let ticket = stash.try_put(SameHash(1), payload(40)).unwrap();
    log.read();
    for _ in 0..3 {
        assert!(stash.claim(&ticket, &SameHash(2)).is_none());
    }
    assert_eq!(log.read(), []);
    let claim = stash.claim(&ticket, &SameHash(1)).unwrap();
    let stats = checked_stats(&stash);
    assert_eq!((stats.claims, stats.claimed, stats.put_back), (1, 1, 0));
    assert!(claim.put_back());
    clock.advance(TTL);
    assert!(stash.claim(&ticket, &SameHash(2)).is_none());
    stash.gc();
    assert_eq!((state(&stash), checked_stats(&stash).expired), ((0, 0, 0), 1));
}

/// Threads that claim, put back, deliver, take, sweep and clear the same few entries.
#[test]
fn b2_in_every_race_each_payload_ends_once_and_all_bytes_come_back() {
    must_come_back(|| {
        let live = Live::new();
        let clock = ManualClock::new();
        let stash: Stash<Counted, u8> = Stash::builder()
            .max_bytes(1_000)
            .entry_overhead(1)
            .max_bytes_per_owner(500)
            .clock(clock.clone())
            .ttl(SECOND)
            .build()
            .unwrap();
        let tickets = Mutex::new(Vec::new());
        let (stored, delivered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for seed in 0..4_u64 {
                let (stash, live, clock, tickets) = (&stash, &live, &clock, &tickets);
                let (stored, delivered) = (&stored, &delivered);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed + 1);
                    for _ in 0..4_000 {
                        let picked = {
                            let mut tickets = tickets.lock().unwrap();
                            let count: usize = tickets.len();
                            if count > 16 {
                                tickets.swap_remove(rng.index(16))
                            } else {
                                if let Ok(ticket) =
                                    stash.try_put(ALICE, live.counted(rng.index(20)))
                                {
                                    stored.fetch_add(1, Ordering::SeqCst);
                                    tickets.push(ticket);
                                    tickets.push(ticket);
                                }
                                continue;
                            }
                        };
                        let claim = || stash.claim(&picked, &ALICE);
                        let done = match rng.index(12) {
                            0..3 => claim().map(|claim| drop(claim.into_inner())),
                            3..5 => stash.take(&picked, &ALICE).map(drop),
                            5..8 => {
                                drop(claim());
                                None
                            }
                            8 => claim().map(|claim| drop(claim.on_drop(OnDrop::Finish))),
                            9 => {
                                stash.clear();
                                None
                            }
                            10 => {
                                clock.advance(SECOND / 3);
                                None
                            }
                            _ => {
                                stash.gc();
                                let _ = stash.stats();
                                None
                            }
                        };
                        delivered.fetch_add(usize::from(done.is_some()), Ordering::SeqCst);
                        tickets.lock().unwrap().push(picked);
                    }
                });
            }
        });
        let stats = checked_stats(&stash);
        assert_eq!(stats.stored, stored.into_inner() as u64);
        assert_eq!(stats.delivered, delivered.into_inner() as u64);
        assert_eq!((stats.claims, stats.entries as isize), (0, live.get()));
        stash.clear();
        assert_eq!((state(&stash), stash.owner_used_bytes(&ALICE), live.get()), ((0, 0, 0), 0, 0));
    });
}
