//! B6: the limit per owner.

use std::future::pending;
use std::hash::BuildHasher;
use std::time::Duration;

use cloakroom::{ManualClock, PutOptions, Refusal, Stash};

use crate::executors::Executor;
use crate::fixtures::{
    ALICE, BOB, SECOND, TestStash, checked_stats, fill, payload, put, stash_with, state, take,
    test_stash,
};
use crate::support::{TTL, must_come_back, put_task, queue, ready};

/// 100 for all, 60 for one.
fn limited() -> (TestStash, ManualClock) {
    stash_with(|builder| builder.max_bytes_per_owner(60))
}

fn held(stash: &TestStash) -> (u64, u64) {
    (stash.owner_used_bytes(&ALICE), stash.owner_used_bytes(&BOB))
}

#[test]
fn b6_one_owner_is_refused_and_others_are_not() {
    let (stash, _) = limited();
    let ticket = put(&stash, 40);
    let refused = stash.try_put(ALICE, payload(21)).unwrap_err();
    assert_eq!(refused.reason(), Refusal::OwnerFull);
    assert_eq!((refused.requested(), refused.used(), refused.limit()), (21, 40, 60));
    assert_eq!((refused.queue_position(), refused.into_payload()), (None, payload(21)));
    assert!(stash.try_put(BOB, payload(30)).is_ok());
    assert!(stash.try_put(ALICE, payload(20)).is_ok(), "exactly what one may hold");
    assert_eq!((held(&stash), checked_stats(&stash).refused.owner_full), ((60, 30), 1));
    assert!(take(&stash, ticket).is_some());
    assert_eq!(held(&stash), (20, 30));
    stash.clear();
    assert_eq!(held(&stash), (0, 0));
}

#[test]
fn b6_which_refusal_comes_first() {
    let (stash, _) = limited();
    assert_eq!(stash.try_put(ALICE, payload(61)).unwrap_err().reason(), Refusal::OwnerFull);
    assert_eq!(stash.try_put(ALICE, payload(101)).unwrap_err().reason(), Refusal::TooLarge);
    let forever = Duration::MAX;
    let blocking = stash.put_timeout(ALICE, payload(61), forever).unwrap_err();
    assert_eq!(blocking.reason(), Refusal::OwnerFull);
    assert_eq!(
        stash.reserve_timeout_for(&ALICE, 61, forever).unwrap_err().reason(),
        Refusal::OwnerFull
    );
    assert_eq!(stash.try_reserve_for(&ALICE, u64::MAX).unwrap_err().reason(), Refusal::TooLarge);
    stash.close();
    assert_eq!(stash.try_put(ALICE, payload(61)).unwrap_err().reason(), Refusal::Closed);
    assert_eq!(stash.try_put(ALICE, payload(1)).unwrap_err().reason(), Refusal::Closed);
    assert_eq!(held(&stash), (0, 0), "what is refused is charged to nobody");
}

on_every_executor! {
    /// Refused at once, although others wait in the queue.
    fn b6_an_owner_at_its_limit_blocks_no_other_owner(executor) {
        let (stash, _) = limited();
        let full = [put(&stash, 60), stash.try_put(BOB, payload(40)).unwrap()];
        let handle = stash.clone();
        let alices = executor.start(async move { handle.put(ALICE, payload(1)).await });
        assert_eq!(alices.output().unwrap_err().reason(), Refusal::OwnerFull);
        let handle = stash.clone();
        let bobs = executor.start(async move { handle.put(BOB, payload(20)).await });
        assert!(bobs.is_pending());
        assert_eq!(held(&stash), (60, 60), "waiting puts count");
        let handle = stash.clone();
        let more = executor.start(async move { handle.reserve_for(&BOB, 1).await.map(drop) });
        assert_eq!(more.output().unwrap_err().reason(), Refusal::OwnerFull);
        assert!(take(&stash, full[0]).is_some());
        assert!(bobs.output().is_ok());
        assert_eq!((held(&stash), stash.clear(), held(&stash)), ((0, 60), 2, (0, 0)));
    }
}

on_every_executor! {
    fn b6_a_waiter_that_leaves_is_no_longer_charged_to_its_owner(executor) {
        let (stash, clock) = limited();
        let _ = stash.try_put(BOB, payload(60)).unwrap();
        fill(&stash, 10);
        let (handle, until) = (stash.clone(), clock.sleep(SECOND));
        let late = executor.start(async move { handle.put(ALICE, payload(40)).until(until).await });
        assert_eq!(held(&stash), (50, 60));
        clock.advance(SECOND);
        assert_eq!(late.output().unwrap_err().reason(), Refusal::Cancelled);
        assert_eq!(held(&stash), (10, 60));
        let handle = stash.clone();
        let closed = executor
            .start(async move { handle.reserve_for(&ALICE, 40).until(pending::<()>()).await.map(drop) });
        assert_eq!(held(&stash), (50, 60));
        stash.close();
        assert_eq!(closed.output().unwrap_err().reason(), Refusal::Closed);
        assert_eq!(held(&stash), (10, 60));
    }
}

#[test]
fn b6_a_dropped_future_gives_back_whether_granted_or_not() {
    let (stash, _) = limited();
    let full = stash.try_put(BOB, payload(60)).unwrap();
    let mut waiting = put_task(&stash, ALICE, payload(50));
    let mut behind = put_task(&stash, ALICE, payload(10));
    queue(&mut waiting);
    queue(&mut behind);
    assert_eq!(held(&stash), (60, 60));
    drop(behind);
    assert_eq!(held(&stash), (50, 60));
    assert!(stash.take(&full, &BOB).is_some());
    assert_eq!((held(&stash), stash.used_bytes()), ((50, 0), 50), "granted");
    drop(waiting);
    assert_eq!((held(&stash), state(&stash)), ((0, 0), (0, 0, 0)));
    // Never polled: never charged.
    drop(put_task(&stash, ALICE, payload(50)));
    assert_eq!(held(&stash), (0, 0));
}

#[test]
fn b6_a_blocking_wait_gives_back_when_it_times_out() {
    must_come_back(|| {
        let (stash, _) = limited();
        let _ = stash.try_put(BOB, payload(60)).unwrap();
        let patience = Duration::from_millis(1);
        let late = stash.put_timeout(ALICE, payload(50), patience).unwrap_err();
        assert_eq!((late.reason(), held(&stash)), (Refusal::TimedOut, (0, 60)));
        let late = stash.reserve_timeout_for(&ALICE, 50, patience).unwrap_err();
        assert_eq!((late.reason(), held(&stash)), (Refusal::TimedOut, (0, 60)));
    });
}

#[test]
fn b6_expired_entries_do_not_refuse_their_owner() {
    let (stash, clock) = limited();
    fill(&stash, 60);
    clock.advance(TTL);
    assert_eq!(held(&stash), (60, 0));
    assert!(stash.try_put(ALICE, payload(60)).is_ok());
    assert_eq!(held(&stash), (60, 0));
    clock.advance(TTL);
    assert!(ready(&mut put_task(&stash, ALICE, payload(60))).is_ok());
    clock.advance(TTL);
    let room = stash.try_reserve_for(&ALICE, 60).unwrap();
    assert_eq!((held(&stash), state(&stash)), ((60, 0), (0, 60, 0)));
    drop(room);
    let brief = PutOptions::new().ttl(Duration::ZERO);
    let _ = stash.try_put_with(ALICE, payload(60), brief).unwrap();
    assert!(stash.take(&put(&stash, 60), &ALICE).is_some());
    assert_eq!(held(&stash), (0, 0));
}

#[test]
fn b6_a_claimed_entry_still_counts_for_its_owner() {
    let (stash, clock) = limited();
    let tickets = [put(&stash, 10), put(&stash, 20), put(&stash, 30)];
    let [one, two, three] = tickets.map(|ticket| stash.claim(&ticket, &ALICE).unwrap());
    assert_eq!(stash.try_put(ALICE, payload(1)).unwrap_err().reason(), Refusal::OwnerFull);
    assert!(two.put_back());
    assert_eq!(held(&stash), (60, 0));
    drop(one.into_inner());
    assert_eq!(held(&stash), (50, 0));
    let bytes = three.into_bytes();
    stash.clear();
    assert_eq!(held(&stash), (30, 0));
    drop(bytes);
    assert_eq!(held(&stash), (0, 0));
    for cleared in [true, false] {
        let ticket = put(&stash, 40);
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        if cleared {
            stash.clear();
        } else {
            clock.advance(TTL);
        }
        assert_eq!((held(&stash), claim.put_back(), held(&stash)), ((40, 0), false, (0, 0)));
    }
}

#[test]
fn b6_a_reservation_is_its_owners_from_the_start() {
    let (stash, _) = limited();
    let mut room = stash.try_reserve_for(&ALICE, 60).unwrap();
    assert_eq!(held(&stash), (60, 0));
    assert_eq!(stash.try_put(ALICE, payload(1)).unwrap_err().reason(), Refusal::OwnerFull);
    room.shrink(50);
    assert_eq!(held(&stash), (50, 0));
    let ticket = room.put(ALICE, payload(30)).unwrap();
    assert_eq!((held(&stash), stash.used_bytes()), ((30, 0), 30));
    assert!(take(&stash, ticket).is_some());
    drop(stash.try_reserve_for(&ALICE, 60).unwrap());
    assert_eq!((held(&stash), state(&stash)), ((0, 0), (0, 0, 0)));
}

#[test]
fn b6_a_reservation_may_be_used_for_another_owner_with_room() {
    let (stash, _) = limited();
    let room = stash.try_reserve_for(&ALICE, 50).unwrap();
    let bobs = stash.try_put(BOB, payload(40)).unwrap();
    let refused = room.put(BOB, payload(30)).unwrap_err();
    assert_eq!(refused.reason(), Refusal::OwnerFull);
    assert_eq!((refused.details().used(), refused.details().limit()), (40, 60));
    let (returned, room) = refused.into_parts();
    assert_eq!((returned, room.bytes(), held(&stash)), (payload(30), 50, (50, 40)));
    let ticket = room.put(BOB, payload(20)).unwrap();
    assert_eq!((held(&stash), stash.used_bytes()), ((0, 60), 60));
    assert!(stash.take(&bobs, &BOB).is_some() && stash.take(&ticket, &BOB).is_some());
    assert_eq!((held(&stash), state(&stash)), ((0, 0), (0, 0, 0)));
}

#[test]
fn b6_a_reservation_without_owner_is_charged_to_the_owner_that_uses_it() {
    let (stash, _) = limited();
    let room = stash.try_reserve(100).unwrap();
    assert_eq!(held(&stash), (0, 0));
    let (returned, room) = room.put(ALICE, payload(61)).unwrap_err().into_parts();
    assert_eq!((returned.len(), room.bytes(), held(&stash)), (61, 100, (0, 0)));
    let ticket = room.put(ALICE, payload(60)).unwrap();
    assert_eq!((held(&stash), stash.used_bytes()), ((60, 0), 60));
    assert!(take(&stash, ticket).is_some());
    assert_eq!((held(&stash), state(&stash)), ((0, 0), (0, 0, 0)));
}

/// What is reserved stays good: only the owner's account can refuse it, and not for what has expired.
#[test]
fn b6_a_reservation_without_owner_outlives_a_close_and_a_lowered_limit() {
    for spoil in [
        |stash: &TestStash| assert_eq!(stash.close(), 0),
        |stash: &TestStash| stash.set_max_bytes(5),
    ] {
        let (stash, clock) = limited();
        fill(&stash, 60);
        let room = stash.try_reserve(40).unwrap();
        spoil(&stash);
        let refused = room.put(ALICE, payload(10)).unwrap_err();
        assert_eq!(refused.reason(), Refusal::OwnerFull);
        assert_eq!((refused.details().used(), refused.details().limit()), (60, 60));
        let (payload, room) = refused.into_parts();
        clock.advance(TTL);
        assert!(room.put(ALICE, payload).is_ok());
        assert_eq!((held(&stash), state(&stash)), ((10, 0), (1, 10, 0)));
    }
}

#[test]
fn b6_overhead_counts_and_nothing_is_kept_when_off() {
    let (stash, _) = stash_with(|builder| builder.entry_overhead(10).max_bytes_per_owner(30));
    fill(&stash, 10);
    fill(&stash, 0);
    assert_eq!(stash.try_put(ALICE, payload(0)).unwrap_err().reason(), Refusal::OwnerFull);
    assert_eq!(stash.owner_used_bytes(&ALICE), 30);
    let (off, _) = test_stash();
    fill(&off, 50);
    let _room = off.try_reserve_for(&ALICE, 50).unwrap();
    assert_eq!(off.owner_used_bytes(&ALICE), 0);
}

/// Waits for the ticket's bytes while another owner's put waits too: granted in order of arrival.
#[test]
fn b6_waiting_owners_are_granted_in_order() {
    let (stash, _) = limited();
    let full = [put(&stash, 50), stash.try_put(BOB, payload(50)).unwrap()];
    let mut bobs = put_task(&stash, BOB, payload(10));
    let mut alices = put_task(&stash, ALICE, payload(10));
    let (bobs_woken, alices_woken) = (queue(&mut bobs), queue(&mut alices));
    assert!(stash.take(&full[1], &BOB).is_some());
    assert_eq!((bobs_woken.get(), alices_woken.get()), (1, 1));
    assert!(ready(&mut alices).is_ok() && ready(&mut bobs).is_ok());
    assert_eq!(held(&stash), (60, 10));
}

/// Two owners, of 15 bytes that are chosen freely and 16 that are foldhash's own first seed twice: each half
/// of the hash is then multiplied by zero, with whatever key for the hasher.
fn owners_that_collide_under_a_fixed_seed() -> [Vec<u8>; 2] {
    const SEED: u64 = 0xc0ac_29b7_c97c_50dd;
    [*b"an honest owner", *b"not quite so ho"].map(|name| {
        let seed = SEED.to_ne_bytes();
        [&name[..], &seed, &seed].concat()
    })
}

#[test]
fn w10_no_names_share_an_account_in_every_stash() {
    let [alice, mallory] = owners_that_collide_under_a_fixed_seed();
    for key in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
        let hasher = foldhash::fast::FixedState::with_seed(key);
        assert_eq!(hasher.hash_one(&alice), hasher.hash_one(&mallory), "what this is about");
    }
    for _ in 0..20 {
        let stash: Stash<Vec<u8>, Vec<u8>> = Stash::builder()
            .max_bytes(100)
            .max_bytes_per_owner(60)
            .entry_overhead(0)
            .build()
            .unwrap();
        let _ticket = stash.try_put(alice.clone(), vec![0; 60]).unwrap();
        assert_eq!(stash.owner_used_bytes(&alice), 60);
        assert_eq!(stash.owner_used_bytes(&mallory), 0);
        assert!(stash.try_put(mallory.clone(), vec![0; 40]).is_ok());
    }
}
