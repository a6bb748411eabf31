//! B14: an entry whose ticket was not sent goes with its guard.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cloakroom::{Event, ManualClock, Stash};

use crate::fixtures::{
    ALICE, BOB, EventLog, checked_stats, payload, put, stash_with, state, take, test_stash,
};
use crate::support::{Counted, Live, TTL, must_come_back, put_task, queue, ready, stash_of};

#[test]
fn b14_dropped_it_takes_the_entry_with_it_and_grants_the_head() {
    let log = EventLog::default();
    let (stash, _) = stash_with(|builder| builder.observer(log.clone()));
    let ticket = put(&stash, 100);
    let unsent = stash.unsent(ticket, ALICE);
    assert_eq!((unsent.ticket(), state(&stash)), (ticket, (1, 100, 0)));
    assert_eq!(format!("{unsent:?}"), format!("Unsent {{ ticket: {ticket:?}, .. }}"));
    let mut next = put_task(&stash, BOB, payload(60));
    let woken = queue(&mut next);
    log.read();
    drop(unsent);
    assert_eq!(log.read(), [Event::Unsent { bytes: 100 }]);
    assert_eq!((woken.get(), take(&stash, ticket)), (1, None));
    assert!(ready(&mut next).is_ok());
    let stats = checked_stats(&stash);
    assert_eq!((stats.unsent, stats.delivered, stats.expired, stats.cleared), (1, 0, 0, 0));
    assert_eq!(state(&stash), (1, 60, 0));
}

#[test]
fn b14_sent_it_leaves_the_entry() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 40);
    stash.unsent(ticket, ALICE).sent();
    assert_eq!((checked_stats(&stash).unsent, take(&stash, ticket)), (0, Some(payload(40))));
}

#[test]
fn b14_it_leaves_alone_what_is_not_there_or_not_its_own() {
    let (stash, _) = test_stash();
    let taken = put(&stash, 10);
    let guards = [stash.unsent(taken, ALICE), stash.unsent(taken, ALICE)];
    assert!(take(&stash, taken).is_some());
    let other = put(&stash, 20);
    drop(guards);
    // Another's ticket, and one of another stash.
    drop(stash.unsent(other, BOB));
    drop(stash.unsent(put(&test_stash().0, 1), ALICE));
    assert_eq!((checked_stats(&stash).unsent, state(&stash)), (0, (1, 20, 0)));
    // Twice: the second finds nothing.
    drop((stash.unsent(other, ALICE), stash.unsent(other, ALICE)));
    assert_eq!((checked_stats(&stash).unsent, state(&stash)), (1, (0, 0, 0)));
}

#[test]
fn b14_what_is_claimed_was_sent() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 40);
    let (unsent, claim) = (stash.unsent(ticket, ALICE), stash.claim(&ticket, &ALICE).unwrap());
    drop(unsent);
    assert!(claim.put_back());
    assert_eq!((checked_stats(&stash).unsent, take(&stash, ticket)), (0, Some(payload(40))));
}

#[test]
fn b14_an_entry_whose_time_is_up_has_one_ending() {
    let (stash, clock) = test_stash();
    for swept in [false, true] {
        let unsent = stash.unsent(put(&stash, 40), ALICE);
        clock.advance(TTL);
        if swept {
            assert_eq!(stash.gc(), 1);
        }
        drop(unsent);
        let stats = checked_stats(&stash);
        assert_eq!((stats.unsent, stats.expired), (1, u64::from(swept)));
    }
    let unsent = stash.unsent(put(&stash, 40), ALICE);
    assert_eq!(stash.clear(), 1);
    drop(unsent);
    assert_eq!((checked_stats(&stash).unsent, state(&stash)), (1, (0, 0, 0)));
}

#[test]
fn b14_it_works_while_a_panic_unwinds_and_in_a_dropped_future() {
    let (stash, _) = test_stash();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _unsent = stash.unsent(put(&stash, 40), ALICE);
        panic!("on purpose");
    }));
    assert!(caught.is_err());
    assert_eq!((checked_stats(&stash).unsent, state(&stash)), (1, (0, 0, 0)));
    let respond = async {
        let unsent = stash.unsent(put(&stash, 40), ALICE);
        std::future::pending::<()>().await;
        unsent.sent();
    };
    let mut respond = Box::pin(respond);
    assert!(
        futures_lite::future::block_on(futures_lite::future::poll_once(&mut respond)).is_none()
    );
    assert_eq!(stash.len(), 1);
    drop(respond);
    assert_eq!((checked_stats(&stash).unsent, state(&stash)), (2, (0, 0, 0)));
}

#[test]
fn b14_a_payload_that_panics_in_its_drop_does_not_reach_the_dropper() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let counted = live.counted(100).on_drop(|| panic!("on purpose"));
        let ticket = stash.try_put(ALICE, counted).unwrap();
        let mut next = put_task(&stash, BOB, live.counted(100));
        let woken = queue(&mut next);
        drop(stash.unsent(ticket, ALICE));
        assert_eq!((woken.get(), live.get(), checked_stats(&stash).unsent), (1, 1, 1));
        assert!(ready(&mut next).is_ok());
    });
}

#[test]
fn b14_a_guard_keeps_the_stash_and_owners_get_their_bytes_back() {
    let stash: Stash<Vec<u8>> = Stash::builder()
        .max_bytes(100)
        .max_bytes_per_owner(60)
        .entry_overhead(0)
        .clock(ManualClock::new())
        .build()
        .unwrap();
    let ticket = stash.try_put("alice".into(), payload(60)).unwrap();
    let unsent = stash.unsent(ticket, "alice".into());
    assert_eq!(stash.owner_used_bytes("alice"), 60);
    drop(unsent);
    assert_eq!((stash.owner_used_bytes("alice"), stash.used_bytes()), (0, 0));
    let ticket = stash.try_put("alice".into(), payload(60)).unwrap();
    let budget = stash.budget().clone();
    let unsent = stash.unsent(ticket, "alice".into());
    drop(stash);
    assert_eq!(budget.used(), 60);
    std::thread::spawn(move || drop(unsent)).join().unwrap();
    assert_eq!(budget.used(), 0);
}
