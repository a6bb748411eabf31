//! What goes beyond the original, by number, as far as it is the same over several replicas.

use std::time::Duration;

use cloakroom::{Cloakroom, CloakroomClaim, CloakroomReservation, PutOptions, Refusal};

use crate::support::{eventually, payload, soon};
use crate::world::{Setup, World};
use crate::{alice, mallory, on_both, put, refused, start_put, take};

on_both! {
    b1_a_reservation_holds_room_before_there_is_a_payload,
    b1_a_dropped_reservation_serves_the_next,
    b2_a_put_back_keeps_ticket_and_deadline,
    b4_overflow_lives_shorter,
    b5_each_entry_can_have_its_own_ttl,
    b6_one_owner_is_bounded_and_blocks_nobody,
    b7_the_queue_is_bounded_by_number_and_by_bytes,
    b7_with_a_bound_of_zero_no_request_waits,
    b8_the_limit_moves_up_and_down,
    b9_close_ends_waiters_and_drained_waits_for_the_rest,
    b10_the_totals_add_up,
    b10_an_empty_payload_without_overhead_is_charged_a_byte,
    b10_a_refusal_is_counted_as_its_caller_sees_it,
    b10_a_take_is_no_claim,
    b10_a_waiter_that_is_refused_is_counted_once,
    b10_a_claim_that_expired_and_was_cleared_is_counted_as_expired,
    b14_a_dropped_put_leaves_nothing_behind,
    b22_what_expired_is_no_reason_to_refuse,
}

async fn b1_a_reservation_holds_room_before_there_is_a_payload<W: World>() {
    let world = W::new(Setup::default()).await;
    let room = world.here().reserve(None, 80).await.unwrap();
    assert_eq!((room.bytes(), world.state().await.1), (80, 80));
    refused(world.there().try_put(alice(), payload(30)).await, Refusal::Full, 30);
    let rejected = room.put(alice(), payload(90)).await.unwrap_err();
    assert_eq!(rejected.reason(), Some(Refusal::TooLarge));
    let (back, room) = rejected.into_inner();
    assert_eq!(back, payload(90));
    let ticket = room.unwrap().put(alice(), payload(50)).await.unwrap();
    assert_eq!(world.state().await, (1, 50, 0));
    assert_eq!(take(&world, ticket).await, Some(payload(50)));
    assert_eq!(world.state().await, (0, 0, 0));
    let too_large = world.here().try_reserve(None, 101).await.err().unwrap();
    assert_eq!(too_large.reason(), Some(Refusal::TooLarge));
}

async fn b1_a_dropped_reservation_serves_the_next<W: World>() {
    let world = W::new(Setup::default()).await;
    let room = world.here().try_reserve(None, 80).await.unwrap();
    let waiter = start_put(&world, 60).await;
    let second = world.there().try_reserve(None, 10).await.err().unwrap();
    assert_eq!(second.reason(), Some(Refusal::Full));
    drop(room);
    let _ = waiter.await.unwrap().unwrap();
    assert_eq!(world.state().await, (1, 60, 0));
}

async fn b2_a_put_back_keeps_ticket_and_deadline<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 40).await;
    world.advance(Duration::from_millis(500)).await;
    let claim = world.here().claim(&ticket, &alice()).await.unwrap().unwrap();
    claim.put_back().await;
    world.advance(Duration::from_millis(499)).await;
    let claim = world.there().claim(&ticket, &alice()).await.unwrap().unwrap();
    world.advance(Duration::from_millis(1)).await;
    // Its time is up while it is claimed: it goes instead of being put back, and can still be delivered.
    assert_eq!(world.state().await, (1, 40, 0));
    claim.put_back().await;
    assert_eq!(world.state().await, (0, 0, 0));
    assert_eq!(take(&world, ticket).await, None);
    // Cleared while it is claimed: the same.
    let ticket = put(&world, 40).await;
    let claim = world.here().claim(&ticket, &alice()).await.unwrap().unwrap();
    world.there().clear().await.unwrap();
    claim.put_back().await;
    assert_eq!(take(&world, ticket).await, None);
    assert_eq!(world.state().await, (0, 0, 0));
}

async fn b4_overflow_lives_shorter<W: World>() {
    let overflow = Some((50, Duration::from_millis(100)));
    let world = W::new(Setup { overflow, ..Setup::default() }).await;
    let regular = put(&world, 90).await;
    let burst = put(&world, 50).await;
    refused(world.here().try_put(alice(), payload(20)).await, Refusal::Full, 20);
    world.advance(Duration::from_millis(99)).await;
    assert_eq!(world.state().await, (2, 140, 0));
    world.advance(Duration::from_millis(1)).await;
    assert_eq!(take(&world, burst).await, None);
    assert_eq!(take(&world, regular).await, Some(payload(90)));
}

async fn b5_each_entry_can_have_its_own_ttl<W: World>() {
    let world = W::new(Setup::default()).await;
    let ttl = |millis| PutOptions::new().ttl(Duration::from_millis(millis));
    let short = world.here().try_put_with(alice(), payload(10), ttl(5)).await.unwrap();
    let long = world.here().try_put_with(alice(), payload(10), ttl(5_000)).await.unwrap();
    world.advance(Duration::from_millis(1_500)).await;
    assert_eq!(take(&world, short).await, None);
    assert_eq!(take(&world, long).await, Some(payload(10)));
}

async fn b6_one_owner_is_bounded_and_blocks_nobody<W: World>() {
    let world = W::new(Setup { per_owner: Some(50), ..Setup::default() }).await;
    let ticket = put(&world, 40).await;
    refused(world.there().try_put(alice(), payload(11)).await, Refusal::OwnerFull, 11);
    refused(world.there().put(alice(), payload(11)).await, Refusal::OwnerFull, 11);
    let other = world.there().try_put(mallory(), payload(50)).await.unwrap();
    assert_eq!(take(&world, ticket).await, Some(payload(40)));
    assert_eq!(world.state().await, (1, 50, 0));
    let room = world.here().try_reserve(Some(&alice()), 50).await.unwrap();
    refused(world.here().try_put(alice(), payload(1)).await, Refusal::OwnerFull, 1);
    drop(room);
    let look = || world.here().try_put(alice(), payload(50));
    let _ = eventually("the reservation is given back", look, |put| put.is_ok()).await;
    assert_eq!(world.here().take(&other, &mallory()).await, Ok(Some(payload(50))));
}

async fn b7_the_queue_is_bounded_by_number_and_by_bytes<W: World>() {
    let world =
        W::new(Setup { max_waiting: Some(2), max_waiting_bytes: Some(100), ..Setup::default() })
            .await;
    let _ = put(&world, 100).await;
    let first = start_put(&world, 60).await;
    refused(world.there().put(alice(), payload(50)).await, Refusal::QueueFull, 50);
    let second = start_put(&world, 40).await;
    refused(world.here().put(alice(), payload(0)).await, Refusal::QueueFull, 0);
    world.here().clear().await.unwrap();
    let _ = first.await.unwrap().unwrap();
    let _ = second.await.unwrap().unwrap();
}

async fn b7_with_a_bound_of_zero_no_request_waits<W: World>() {
    let none = Setup { max_waiting: Some(0), ..Setup::default() };
    for setup in [none, Setup { max_waiting_bytes: Some(0), ..Setup::default() }] {
        let world = W::new(setup).await;
        let _ = put(&world, 100).await;
        let patience = Duration::from_secs(5);
        let put = tokio::time::timeout(patience, world.there().put(alice(), payload(1)));
        refused(put.await.expect("it does not wait"), Refusal::QueueFull, 1);
        let reserve = tokio::time::timeout(patience, world.here().reserve(None, 0));
        let rejected = reserve.await.expect("it does not wait").err().unwrap();
        assert_eq!(rejected.reason(), Some(Refusal::QueueFull));
        refused(world.here().try_put(alice(), payload(1)).await, Refusal::Full, 1);
        assert_eq!(world.state().await, (1, 100, 0));
    }
}

async fn b8_the_limit_moves_up_and_down<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 100).await;
    let waiter = start_put(&world, 80).await;
    world.there().set_max_bytes(180).await.unwrap();
    let _ = waiter.await.unwrap().unwrap();
    assert_eq!(world.state().await, (2, 180, 0));
    // Nothing is removed, and nothing admitted until the sum is below the limit.
    world.here().set_max_bytes(90).await.unwrap();
    let large = start_put(&world, 85).await;
    world.there().set_max_bytes(50).await.unwrap();
    refused(large.await.unwrap(), Refusal::TooLarge, 85);
    assert_eq!(take(&world, ticket).await, Some(payload(100)));
    refused(world.here().try_put(alice(), payload(10)).await, Refusal::Full, 10);
    assert_eq!(world.state().await, (1, 80, 0));
}

async fn b9_close_ends_waiters_and_drained_waits_for_the_rest<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 60).await;
    let room = world.here().try_reserve(None, 40).await.unwrap();
    let waiter = start_put(&world, 50).await;
    let stash = world.there().clone();
    let drained = tokio::spawn(async move { stash.drained().await });
    assert_eq!(world.there().close().await, Ok(1));
    refused(waiter.await.unwrap(), Refusal::Closed, 50);
    refused(world.here().put(alice(), payload(1)).await, Refusal::Closed, 1);
    assert_eq!(world.here().close().await, Ok(0));
    // What was begun is finished.
    let second = room.put(alice(), payload(40)).await.unwrap();
    assert_eq!(take(&world, ticket).await, Some(payload(60)));
    assert!(!drained.is_finished());
    let claim = world.here().claim(&second, &alice()).await.unwrap().unwrap();
    assert_eq!(claim.into_inner(), payload(40));
    soon("drained", drained).await.unwrap().unwrap();
}

async fn b10_the_totals_add_up<W: World>() {
    let world = W::new(Setup::default()).await;
    let first = put(&world, 50).await;
    let _ = put(&world, 50).await;
    refused(world.here().try_put(alice(), payload(10)).await, Refusal::Full, 10);
    refused(world.here().try_put(alice(), payload(500)).await, Refusal::TooLarge, 500);
    let waiter = start_put(&world, 30).await;
    let stats = world.there().stats().await.unwrap();
    assert_eq!((stats.waiting, stats.waiting_bytes, stats.head_bytes), (1, 30, Some(30)));
    assert!(stats.oldest_wait.is_some());
    assert_eq!(take(&world, first).await, Some(payload(50)));
    let _ = waiter.await.unwrap().unwrap();
    world.state().await;
    world.advance(Duration::from_millis(1_000)).await;
    let stats = world.there().stats().await.unwrap();
    assert_eq!((stats.stored, stats.delivered, stats.expired, stats.waited), (3, 1, 2, 1));
    assert_eq!((stats.refused.full, stats.refused.too_large), (1, 1));
    assert_eq!((stats.entries, stats.used_bytes, stats.peak_bytes), (0, 0, 100));
    assert_eq!(stats.max_bytes, 100);
}

async fn b14_a_dropped_put_leaves_nothing_behind<W: World>() {
    let world = W::new(Setup { limit: 1_000, ..Setup::default() }).await;
    for polls in 0..20_u32 {
        let stash = world.here().clone();
        let task = tokio::spawn(async move { stash.put(alice(), payload(100)).await });
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        if polls % 4 == 0 {
            tokio::time::sleep(Duration::from_micros(u64::from(polls) * 50)).await;
        }
        task.abort();
        if let Ok(Ok(ticket)) = task.await {
            // It was ready before it could be aborted.
            assert_eq!(take(&world, ticket).await, Some(payload(100)));
        }
    }
    eventually("all is undone", || world.state(), |state| *state == (0, 0, 0)).await;
}

async fn b22_what_expired_is_no_reason_to_refuse<W: World>() {
    let world = W::new(Setup { limit: 1_000, ..Setup::default() }).await;
    // More than one step frees.
    for _ in 0..200 {
        let _ = put(&world, 5).await;
    }
    refused(world.here().try_put(alice(), payload(900)).await, Refusal::Full, 900);
    world.advance(Duration::from_millis(1_000)).await;
    let _ = world.here().try_put(alice(), payload(1_000)).await.unwrap();
    assert_eq!(world.state().await, (1, 1_000, 0));
}

/// So it is bounded, and `drained` waits for it.
async fn b10_an_empty_payload_without_overhead_is_charged_a_byte<W: World>() {
    let world = W::new(Setup { limit: 3, ..Setup::default() }).await;
    let first = put(&world, 0).await;
    let room = world.here().try_reserve(None, 0).await.unwrap();
    assert_eq!(world.state().await, (1, 2, 0));
    let _ = room.put(alice(), payload(0)).await.unwrap();
    let _ = put(&world, 0).await;
    let rejected = world.there().try_put(alice(), payload(0)).await.unwrap_err();
    assert_eq!((rejected.reason(), rejected.numbers().requested), (Some(Refusal::Full), 1));
    assert_eq!(world.state().await, (3, 3, 0));
    assert_eq!(take(&world, first).await, Some(payload(0)));
    assert_eq!(world.state().await, (2, 2, 0));
}

/// Error, counters and numbers agree, on every way out of a wait and of a reservation.
async fn b10_a_refusal_is_counted_as_its_caller_sees_it<W: World>() {
    let world = W::new(Setup::default()).await;
    let _ = put(&world, 60).await;
    let over = || std::future::ready(());
    let rejected = world.here().put_timeout(alice(), payload(50), over()).await.unwrap_err();
    let numbers = rejected.numbers();
    assert_eq!((numbers.requested, numbers.used, numbers.limit), (50, 60, 100));
    refused(Err(rejected), Refusal::TimedOut, 50);
    let soon = tokio::time::sleep(Duration::from_millis(20));
    refused(world.here().put_timeout(alice(), payload(50), soon).await, Refusal::TimedOut, 50);
    refused(world.here().put_until(alice(), payload(50), over()).await, Refusal::Cancelled, 50);
    let rejected = world.here().reserve_until(None, 50, over()).await.err().unwrap();
    assert_eq!(rejected.reason(), Some(Refusal::Cancelled));
    let room = world.here().try_reserve(None, 30).await.unwrap();
    let rejected = room.put(alice(), payload(40)).await.unwrap_err();
    let numbers = rejected.numbers();
    assert_eq!(rejected.reason(), Some(Refusal::TooLarge));
    assert_eq!((numbers.requested, numbers.used, numbers.limit), (40, 0, 30));
    let refused = world.there().stats().await.unwrap().refused;
    assert_eq!((refused.timed_out, refused.cancelled, refused.too_large), (2, 2, 1));
    assert_eq!(refused.total(), 5);
}

async fn b10_a_take_is_no_claim<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 40).await;
    assert_eq!(take(&world, ticket).await, Some(payload(40)));
    assert_eq!(world.state().await, (0, 0, 0));
    let stats = world.here().stats().await.unwrap();
    assert_eq!((stats.delivered, stats.claimed, stats.put_back), (1, 0, 0));
}

async fn b10_a_claim_that_expired_and_was_cleared_is_counted_as_expired<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 40).await;
    let claim = world.here().claim(&ticket, &alice()).await.unwrap().unwrap();
    assert_eq!(world.there().clear().await, Ok(0));
    world.advance(Duration::from_secs(1)).await;
    claim.put_back().await;
    let stats = world.here().stats().await.unwrap();
    assert_eq!((stats.expired, stats.cleared, stats.entries), (1, 0, 0));
}

async fn b10_a_waiter_that_is_refused_is_counted_once<W: World>() {
    let world = W::new(Setup::default()).await;
    let _ = put(&world, 40).await;
    let large = start_put(&world, 90).await;
    world.there().set_max_bytes(60).await.unwrap();
    refused(large.await.unwrap(), Refusal::TooLarge, 90);
    let late = start_put(&world, 50).await;
    assert_eq!(world.there().close().await, Ok(1));
    refused(late.await.unwrap(), Refusal::Closed, 50);
    let refused = world.here().stats().await.unwrap().refused;
    assert_eq!((refused.too_large, refused.closed, refused.total()), (1, 1, 2));
}
