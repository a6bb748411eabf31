//! Claims against every other operation on the same entry: models S6 of the slot map.
#![cfg(cloakroom_loom)]

use std::sync::{Arc, Mutex};

use cloakroom::Ticket;
use cloakroom::loom_internals::Slots;
use loom::thread;
use loom_tests::{bounded_model, model};

const ALICE: u64 = 1;
/// A deadline that has come at `NOW`.
const EARLY: u64 = 5;
const NOW: u64 = 10;
const LATE: u64 = 100;

fn slots() -> Arc<Slots> {
    Arc::new(Slots::new())
}

/// What is put back expires: this sweep finds it, or the next.
#[test]
fn s6_a_claim_that_is_put_back_is_found_by_a_sweep() {
    model(|| {
        let slots = slots();
        let ticket = slots.insert(ALICE, 7, EARLY);
        let claimed = slots.claim(ticket, ALICE).unwrap();
        let sweeper = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.expire(NOW).count())
        };
        assert!(claimed.put_back(), "nobody has cleared");
        let found = sweeper.join().unwrap();
        assert_eq!(found + slots.expire(NOW).count(), 1, "expired entries must be found");
        assert_eq!(slots.len(), 0);
    });
}

/// As above, and the claim is made while the sweep is under way.
#[test]
fn s6_a_claim_among_two_sweeps() {
    bounded_model(3, || {
        let slots = slots();
        let ticket = slots.insert(ALICE, 7, EARLY);
        let claimer = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                slots.claim(ticket, ALICE).is_none_or(|claimed| claimed.put_back())
            })
        };
        let found = slots.expire(NOW);
        assert!(claimer.join().unwrap(), "nobody has cleared");
        assert_eq!(found.count() + slots.expire(NOW).count(), 1, "expired entries must be found");
        drop(found);
        assert_eq!(slots.len(), 0);
    });
}

/// A take, a claim that reads and is put back, and a claim that delivers, all of one entry.
#[test]
fn s6_two_claims_and_a_take_deliver_once() {
    model(|| {
        let slots = slots();
        let ticket = slots.insert(ALICE, 7, LATE);
        let broken = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                if let Some(claimed) = slots.claim(ticket, ALICE) {
                    assert_eq!(claimed.payload(), 7);
                    assert!(claimed.put_back());
                }
            })
        };
        let deliverer = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.claim(ticket, ALICE).map(|claimed| claimed.deliver()))
        };
        let taken = slots.take(ticket, ALICE);
        broken.join().unwrap();
        let delivered = deliverer.join().unwrap();
        // Neither, if both came while it was claimed by the first.
        let rest = slots.take(ticket, ALICE);
        let all: Vec<u64> = [taken, delivered, rest].into_iter().flatten().collect();
        assert_eq!(all, [7], "delivered exactly once");
        assert_eq!(slots.len(), 0);
    });
}

/// As S1, for a claim: only the slot orders the put and the claim.
#[test]
fn s6_what_was_put_is_what_is_claimed() {
    model(|| {
        let slots = slots();
        let ticket = Arc::new(Mutex::new(None::<Ticket>));
        let putter = {
            let (slots, ticket) = (Arc::clone(&slots), Arc::clone(&ticket));
            thread::spawn(move || {
                *ticket.lock().unwrap() = Some(slots.insert(ALICE, 7, LATE));
            })
        };
        thread::yield_now();
        let seen = *ticket.lock().unwrap();
        if let Some(claimed) = seen.and_then(|ticket| slots.claim(ticket, ALICE)) {
            assert_eq!(claimed.payload(), 7);
            assert!(claimed.put_back());
        }
        putter.join().unwrap();
        assert_eq!(slots.len(), 1);
    });
}

/// Cleared once: by the clear, or by the put back if it was claimed during the clear.
#[test]
fn s6_a_clear_leaves_nothing_behind_that_is_being_claimed() {
    model(|| {
        let slots = slots();
        let ticket = slots.insert(ALICE, 7, LATE);
        let claimer = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                slots.claim(ticket, ALICE).is_some_and(|claimed| !claimed.put_back())
            })
        };
        let cleared = slots.clear().count();
        let doomed = claimer.join().unwrap();
        assert_eq!(cleared + usize::from(doomed), 1, "cleared exactly once");
        assert_eq!(slots.len(), 0, "left behind");
    });
}

/// As S3, for a claim: the slot is used again once it is empty.
#[test]
fn s6_a_slot_is_reused_when_its_claim_is_delivered() {
    model(|| {
        let slots = slots();
        let ticket = slots.insert(ALICE, 7, LATE);
        let claimed = slots.claim(ticket, ALICE).unwrap();
        let reuser = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                let second = slots.insert(ALICE, 8, LATE);
                assert_eq!(slots.take(second, ALICE), Some(8));
            })
        };
        assert_eq!(claimed.deliver(), 7);
        reuser.join().unwrap();
        assert_eq!(slots.take(ticket, ALICE), None);
        assert_eq!(slots.len(), 0);
    });
}

/// Two clears, and a claim that delivers: a doomed entry is the claimer's all the same.
#[test]
fn s6_a_claimed_entry_is_delivered_despite_clears() {
    model(|| {
        let slots = slots();
        let ticket = slots.insert(ALICE, 7, LATE);
        let claimed = slots.claim(ticket, ALICE).unwrap();
        let clear = || {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.clear().count())
        };
        let clears = [clear(), clear()];
        assert_eq!(claimed.deliver(), 7);
        for clear in clears {
            assert_eq!(clear.join().unwrap(), 0, "it was claimed");
        }
        assert_eq!(slots.len(), 0);
    });
}

/// A sweep may have observed the entry before it was claimed: with the old deadline, which has come.
#[test]
fn s6_a_renewed_claim_is_not_swept_before_its_time() {
    bounded_model(3, || {
        let slots = slots();
        let ticket = slots.insert(ALICE, 7, EARLY);
        let sweeper = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.expire(NOW).count())
        };
        let renewed = slots.claim(ticket, ALICE).map(|mut claimed| {
            claimed.renew(LATE);
            assert!(claimed.put_back(), "nobody has cleared");
        });
        let swept = sweeper.join().unwrap();
        assert_eq!(swept, usize::from(renewed.is_none()), "renewed entries must stay");
        if renewed.is_some() {
            assert_eq!(slots.expire(LATE - 1).count(), 0, "too early");
            assert_eq!(slots.expire(LATE).count(), 1, "expired entries must be found");
        }
        assert_eq!(slots.len(), 0);
    });
}

/// The sweep runs because of another entry, and skips the claimed one.
#[test]
fn s6_a_claim_renewed_to_an_earlier_time_is_found_by_a_sweep() {
    bounded_model(3, || {
        let slots = slots();
        let _other = slots.insert(ALICE, 8, EARLY);
        let ticket = slots.insert(ALICE, 7, LATE);
        let mut claimed = slots.claim(ticket, ALICE).unwrap();
        let sweeper = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.expire(NOW).count())
        };
        claimed.renew(EARLY);
        assert!(claimed.put_back(), "nobody has cleared");
        let found = sweeper.join().unwrap();
        assert_eq!(found + slots.expire(NOW).count(), 2, "expired entries must be found");
        assert_eq!(slots.len(), 0);
    });
}

/// The slot's state orders a renewal and a take: the taker sees the deadline that the entry was put back with.
#[test]
fn s6_a_take_after_a_renewed_claim_sees_the_new_deadline() {
    model(|| {
        let slots = slots();
        let ticket = slots.insert(ALICE, 7, EARLY);
        let claimer = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                slots.claim(ticket, ALICE).is_some_and(|mut claimed| {
                    claimed.renew(LATE);
                    claimed.put_back()
                })
            })
        };
        let taken = slots.take_at(NOW, ticket, ALICE);
        let renewed = claimer.join().unwrap();
        // Before the claim it had expired, and was removed; after it, it is in time.
        assert!(taken.is_none() || renewed, "expired entries must not be delivered");
        let rest = slots.take_at(NOW, ticket, ALICE);
        assert_eq!(taken.is_some() || rest.is_some(), renewed, "renewed entries must be there");
        assert_eq!(slots.len(), 0);
    });
}
