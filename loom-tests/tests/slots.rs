//! The slot map, and sweeps of it: models S1 to S5.
#![cfg(cloakroom_loom)]

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use cloakroom::Ticket;
use cloakroom::loom_internals::{Free, OwnerQuotas, Slots, Tree};
use loom::thread;
use loom_tests::{Exclusive, bounded_model, model};

const ALICE: u64 = 1;
const MALLORY: u64 = 2;
/// A deadline that has come at `NOW`.
const EARLY: u64 = 5;
const NOW: u64 = 10;
const LATE: u64 = 100;

fn slots() -> Arc<Slots> {
    Arc::new(Slots::new())
}

/// The ticket is passed on outside of what loom sees, so it orders nothing: only the slot orders the put and the
/// take.
#[test]
fn s1_what_was_put_is_what_is_taken() {
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
        let taken = seen.map(|ticket| slots.take(ticket, ALICE));
        putter.join().unwrap();
        match taken {
            Some(Some(payload)) => assert_eq!(payload, 7),
            // Nothing orders the two, so the take may come before the put.
            Some(None) | None => assert_eq!(slots.len(), 1),
        }
    });
}

#[test]
fn s2_one_winner_and_the_wrong_owner_disturbs_nobody() {
    model(|| {
        let slots = slots();
        let ticket = slots.insert(ALICE, 7, LATE);
        let take = |owner| {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.take(ticket, owner))
        };
        let (right, wrong) = (take(ALICE), take(MALLORY));
        let here = slots.take(ticket, ALICE);
        let there = right.join().unwrap();
        assert_eq!(wrong.join().unwrap(), None);
        assert_eq!(here.is_some() as u8 + there.is_some() as u8, 1, "delivered exactly once");
        assert_eq!(here.or(there), Some(7));
        assert_eq!(slots.len(), 0);
    });
}

#[test]
fn s3_a_stale_ticket_gets_nothing_and_disturbs_nobody() {
    model(|| {
        let slots = slots();
        let first = slots.insert(ALICE, 7, LATE);
        let taker = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.take(first, ALICE))
        };
        let reuser = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                let second = slots.insert(ALICE, 8, LATE);
                assert_eq!(slots.take(second, ALICE), Some(8));
            })
        };
        let again = slots.take(first, ALICE);
        let taken = taker.join().unwrap();
        reuser.join().unwrap();
        assert_eq!(again.is_some() as u8 + taken.is_some() as u8, 1);
        assert_eq!(again.or(taken), Some(7));
        assert_eq!(slots.len(), 0);
    });
}

/// Thread 1 takes two and gives the first back, so the top is what it was, and what is below is not.
#[test]
fn s4_no_slot_is_handed_out_twice() {
    model(|| {
        let free = Arc::new(Free::new(3));
        let users: Arc<[Exclusive; 3]> = Arc::default();
        let other = {
            let (free, users) = (Arc::clone(&free), Arc::clone(&users));
            thread::spawn(move || {
                let (a, b) = (free.pop().unwrap(), free.pop());
                users[a as usize].touch();
                free.push(a);
                b
            })
        };
        let mine: Vec<u32> = [free.pop(), free.pop()].into_iter().flatten().collect();
        mine.iter().for_each(|slot| users[*slot as usize].touch());
        let theirs = other.join().unwrap();
        let mut held: Vec<u32> = mine.into_iter().chain(theirs).collect();
        while let Some(slot) = free.pop() {
            held.push(slot);
        }
        held.sort_unstable();
        assert_eq!(held, [0, 1, 2], "every slot exactly once");
    });
}

#[test]
fn s4_two_threads_take_turns_with_one_slot() {
    model(|| {
        let free = Arc::new(Free::new(1));
        let user = Arc::new(Exclusive::default());
        let turn = |free: &Free, user: &Exclusive| {
            if let Some(slot) = free.pop() {
                user.touch();
                free.push(slot);
            }
        };
        let other = {
            let (free, user) = (Arc::clone(&free), Arc::clone(&user));
            thread::spawn(move || turn(&free, &user))
        };
        turn(&free, &user);
        other.join().unwrap();
        assert_eq!(free.len(), 1, "the depth is right");
        assert_eq!(free.pop(), Some(0));
        assert_eq!(free.pop(), None);
    });
}

/// Each of two threads pops and pushes, so each counts on what the other has pushed below.
#[test]
fn s4_the_depth_counts_what_others_have_pushed() {
    model(|| {
        let free = Arc::new(Free::new(2));
        let slots = [free.pop().unwrap(), free.pop().unwrap()];
        let other = {
            let free = Arc::clone(&free);
            thread::spawn(move || free.push(slots[0]))
        };
        free.push(slots[1]);
        other.join().unwrap();
        assert_eq!(free.len(), 2, "the depth is right");
        while free.pop().is_some() {}
    });
}

/// The links still say what they said when both slots were on the list.
#[test]
fn s4_counting_never_reads_a_link_of_before_the_push() {
    model(|| {
        let free = Arc::new(Free::new(2));
        let slots = [free.pop().unwrap(), free.pop().unwrap()];
        let other = {
            let free = Arc::clone(&free);
            thread::spawn(move || free.push(slots[0]))
        };
        assert!(free.len() <= 1, "counted a slot that is not on the list");
        other.join().unwrap();
        assert_eq!(free.len(), 1);
    });
}

/// The segment is not there yet, and both install one.
#[test]
fn s4_two_puts_add_the_same_segment() {
    bounded_model(2, || {
        let slots = slots();
        let other = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.insert(ALICE, 7, LATE))
        };
        let here = slots.insert(MALLORY, 8, LATE);
        let there = other.join().unwrap();
        assert_eq!(slots.len(), 2);
        assert_eq!((slots.take(there, ALICE), slots.take(here, MALLORY)), (Some(7), Some(8)));
    });
}

#[test]
fn s5_a_sweep_or_the_next_finds_what_is_put_meanwhile() {
    model(|| {
        let slots = slots();
        let putter = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.insert(ALICE, 7, EARLY))
        };
        let found = slots.expire(NOW);
        let _ = putter.join().unwrap();
        assert_eq!(found.count() + slots.expire(NOW).count(), 1, "expired entries must be found");
        drop(found);
        assert_eq!(slots.len(), 0);
    });
}

/// The put adds a segment, which the sweep does or does not come to see.
#[test]
fn s5_a_put_that_adds_a_segment() {
    model(|| {
        let slots = slots();
        let first = [EARLY, LATE].map(|deadline| slots.insert(ALICE, 7, deadline));
        let putter = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.insert(ALICE, 8, EARLY))
        };
        let found = slots.expire(NOW);
        let _ = putter.join().unwrap();
        assert_eq!(found.count() + slots.expire(NOW).count(), 2, "expired entries must be found");
        drop(found);
        assert_eq!(slots.take(first[1], ALICE), Some(7));
        assert_eq!(slots.len(), 0);
    });
}

/// The block is due because of another entry. A slot that was never used has the deadline 0.
#[test]
fn s5_a_sweep_leaves_what_has_not_expired() {
    bounded_model(3, || {
        let slots = slots();
        let early = slots.insert(ALICE, 7, EARLY);
        let putter = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.insert(ALICE, 8, LATE))
        };
        assert_eq!(slots.expire(NOW).count(), 1);
        let late = putter.join().unwrap();
        assert_eq!(slots.take(early, ALICE), None);
        assert_eq!(slots.take(late, ALICE), Some(8), "removed before its time");
    });
}

/// The put's block is one that the sweep skips, because its bound is not due yet.
#[test]
fn s5_a_put_next_to_what_a_sweep_passes_by() {
    model(|| {
        let slots = slots();
        let first = [EARLY, LATE, LATE].map(|deadline| slots.insert(ALICE, 7, deadline));
        let putter = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.insert(ALICE, 8, EARLY))
        };
        let found = slots.expire(NOW);
        let _ = putter.join().unwrap();
        assert_eq!(found.count() + slots.expire(NOW).count(), 2, "expired entries must be found");
        drop(found);
        assert_eq!(slots.take(first[2], ALICE), Some(7));
    });
}

#[test]
fn s5_what_does_not_fit_into_a_batch_is_found_by_the_next_sweep() {
    model(|| {
        let slots = slots();
        let _tickets = [EARLY; 3].map(|deadline| slots.insert(ALICE, 7, deadline));
        assert_eq!(slots.expire(NOW).count(), 2);
        assert_eq!(slots.expire(NOW).count(), 1, "expired entries must be found");
    });
}

/// With a put in between, whose deadline is later than what the other sweep is at.
#[test]
fn s5_a_sweep_trusts_no_bound_that_another_sweep_has_raised() {
    bounded_model(2, || {
        let slots = slots();
        let early = slots.insert(ALICE, 7, EARLY);
        let other = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.expire(NOW).count())
        };
        let _late = slots.insert(ALICE, 8, LATE);
        let here = slots.expire(NOW).count();
        assert_eq!(slots.take(early, ALICE), None, "left because another sweep was at it");
        assert_eq!(here + other.join().unwrap(), 1, "one of the two removed it");
    });
}

/// The put finds the upper bound low already, on account of what is gone, and does not write it.
#[test]
fn s5_a_put_that_relies_on_a_bound_which_a_sweep_raises() {
    model(|| {
        let tree = Arc::new(Tree::with_bounds(EARLY));
        let putter = {
            let tree = Arc::clone(&tree);
            thread::spawn(move || tree.put(EARLY))
        };
        let found = tree.expire(NOW);
        putter.join().unwrap();
        assert!(found || tree.expire(NOW), "expired entries must be found");
    });
}

#[test]
fn s5_a_sweep_does_not_stop_where_another_is_at_it() {
    model(|| {
        let tree = Arc::new(Tree::default());
        tree.put(EARLY);
        let other = {
            let tree = Arc::clone(&tree);
            thread::spawn(move || tree.expire(NOW))
        };
        let found = tree.expire(NOW);
        assert!(!tree.has_entry(), "left because another sweep was at it");
        assert!(found != other.join().unwrap(), "one of the two removed it");
    });
}

/// A sweep ends when another one, which began later, is running: it must not speak for that one.
#[test]
fn s5_a_sweep_that_ends_late_hides_nothing() {
    bounded_model(2, || {
        let tree = Arc::new(Tree::default());
        tree.put(EARLY);
        // Outside of what loom sees: it orders nothing.
        let put_again = Arc::new(AtomicBool::new(false));
        let other = {
            let (tree, put_again) = (Arc::clone(&tree), Arc::clone(&put_again));
            thread::spawn(move || {
                let _ = tree.expire(NOW);
                tree.put(EARLY);
                put_again.store(true, SeqCst);
                let _ = tree.expire(NOW);
            })
        };
        let _ = tree.expire(NOW);
        let put_again = put_again.load(SeqCst);
        let _ = tree.expire(NOW);
        assert!(!put_again || !tree.has_entry(), "left because another sweep was at it");
        other.join().unwrap();
    });
}

/// The put finds the segment's bound low, on account of another put, which came after a sweep had skipped the
/// segment, and which has not lowered the shard's bound yet.
#[test]
fn s5_a_put_that_relies_on_a_bound_which_another_put_lowered() {
    bounded_model(2, || {
        let slots = slots();
        // The sweep removes nothing: a thread that pops a slot that it has freed has seen all that it did.
        let first = [EARLY, LATE, LATE, LATE].map(|deadline| slots.insert(ALICE, 7, deadline));
        for taken in [0, 2, 3] {
            assert_eq!(slots.take(first[taken], ALICE), Some(7));
        }
        let sweeper = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.expire(NOW).count())
        };
        let other = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.insert(ALICE, 8, EARLY))
        };
        let ticket = slots.insert(ALICE, 9, EARLY);
        let here = slots.expire(NOW).count();
        assert_eq!(slots.take(ticket, ALICE), None, "expired entries must be found");
        let _ = other.join().unwrap();
        let there = sweeper.join().unwrap();
        assert_eq!(here + there + slots.expire(NOW).count(), 2);
    });
}

#[test]
fn s5_a_put_among_two_sweeps() {
    bounded_model(3, || {
        let tree = Arc::new(Tree::with_bounds(EARLY));
        let putter = {
            let tree = Arc::clone(&tree);
            thread::spawn(move || tree.put(EARLY))
        };
        let other = {
            let tree = Arc::clone(&tree);
            thread::spawn(move || tree.expire(NOW))
        };
        let here = tree.expire(NOW);
        putter.join().unwrap();
        let there = other.join().unwrap();
        assert!(here || there || tree.expire(NOW), "expired entries must be found");
    });
}

/// One request finds room in the quota and none in the budget; another of the same owner, which the quota
/// has room for, never sees the first one's bytes.
#[test]
fn w20_an_attempt_that_fails_is_never_seen_in_the_account() {
    model(|| {
        let accounts = Arc::new(OwnerQuotas::new(100));
        let refused = {
            let accounts = Arc::clone(&accounts);
            thread::spawn(move || accounts.charge_or(ALICE, 60, || false, || ()))
        };
        assert_eq!(accounts.charge_or(ALICE, 50, || true, || ()), Some(true), "OwnerFull");
        assert!(matches!(refused.join().unwrap(), Some(false) | None));
        assert_eq!(accounts.used(ALICE), 50);
    });
}

/// A refusal is decided while the quota is full, not after.
#[test]
fn w20_a_refusal_is_decided_while_the_quota_is_full() {
    model(|| {
        // Loom's: the refusal reads it at a step of its own.
        let raised = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let accounts = Arc::new(OwnerQuotas::new(100));
        assert_eq!(accounts.charge_or(ALICE, 60, || true, || ()), Some(true));
        let other = {
            let (accounts, raised) = (Arc::clone(&accounts), Arc::clone(&raised));
            thread::spawn(move || {
                accounts.release(ALICE, 60);
                raised.store(true, SeqCst);
            })
        };
        let seen = || assert!(!raised.load(SeqCst), "the quota has room already");
        accounts.charge_or(ALICE, 60, || true, seen);
        other.join().unwrap();
    });
}

/// Two sweeps: the other has found the entry renewed, and is about to restore it.
#[test]
fn s5_what_another_sweep_restores_stays_under_its_bounds() {
    model(|| {
        let slots = Arc::new(Slots::new());
        let ticket = slots.insert(ALICE, 1, 15);
        let other = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.guard_and_restore(ticket, ALICE))
        };
        let mut removed = slots.expire(20).count();
        other.join().unwrap();
        removed += slots.expire(20).count();
        assert_eq!(removed, 1, "no sweep finds it");
    });
}
