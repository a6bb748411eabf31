//! C1 to C17 and D1 to D7. The limit is 100 and the entry overhead 0 unless said.

use std::time::{Duration, Instant};

use cloakroom::{Cloakroom, CloakroomClaim, Refusal, Stash};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::support::{eventually, payload, soon};
use crate::world::{Setup, World};
use crate::{alice, mallory, on_both, put, refused, start_put, start_put_until, take};

on_both! {
    c01_taken_once_then_gone,
    c02_an_unknown_ticket_gets_nothing,
    c03_another_owner_gets_nothing_and_disturbs_nothing,
    c04_there_until_the_deadline_and_not_at_it,
    c05_full_refuses_and_evicts_nothing,
    c06_larger_than_the_limit_is_refused_at_once,
    c07_tickets_differ,
    c08_clear_frees_everything_and_serves_waiters,
    c09_a_put_that_fits_does_not_wait,
    c10_a_waiter_is_granted_when_there_is_room,
    c11_a_wait_that_times_out_returns_the_payload,
    c12_waiters_are_granted_in_order,
    c13_the_second_waiter_stays_and_times_out,
    c14_a_cancelled_wait_ends_at_once,
    c15_cancelled_before_the_call,
    c16_a_wait_of_zero_is_try_put,
    c17_expiry_without_a_call_grants_the_waiter,
    d1_nobody_overtakes,
    d2_the_next_is_granted_when_the_head_leaves,
    d3_the_head_comes_first,
    d4_a_waiter_is_granted_at_the_expiry,
    d6_empty_payloads_are_charged,
    d7_a_claim_keeps_its_bytes_and_can_put_back,
}

async fn c01_taken_once_then_gone<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 40).await;
    assert_eq!(world.state().await, (1, 40, 0));
    assert_eq!(take(&world, ticket).await, Some(payload(40)));
    assert_eq!(take(&world, ticket).await, None);
    assert_eq!(world.state().await, (0, 0, 0));
}

async fn c02_an_unknown_ticket_gets_nothing<W: World>() {
    let world = W::new(Setup::default()).await;
    let elsewhere: Stash<Vec<u8>, u8> = Stash::builder().max_bytes(1_000).build().unwrap();
    let unknown = elsewhere.try_put(1, payload(1)).unwrap();
    assert_eq!(take(&world, unknown).await, None);
    let ticket = put(&world, 40).await;
    assert_eq!(take(&world, unknown).await, None);
    assert_eq!(take(&world, ticket).await, Some(payload(40)));
}

async fn c03_another_owner_gets_nothing_and_disturbs_nothing<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 40).await;
    assert_eq!(world.there().take(&ticket, &mallory()).await, Ok(None));
    assert!(world.there().claim(&ticket, &mallory()).await.unwrap().is_none());
    assert_eq!(world.state().await, (1, 40, 0));
    assert_eq!(take(&world, ticket).await, Some(payload(40)));
}

async fn c04_there_until_the_deadline_and_not_at_it<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 40).await;
    world.advance(Duration::from_millis(999)).await;
    assert_eq!(take(&world, ticket).await, Some(payload(40)));

    let ticket = put(&world, 40).await;
    world.advance(Duration::from_millis(1000)).await;
    assert_eq!(take(&world, ticket).await, None);
    assert_eq!(world.state().await, (0, 0, 0));
}

async fn c05_full_refuses_and_evicts_nothing<W: World>() {
    let world = W::new(Setup { limit: 200, ..Setup::default() }).await;
    let (first, second) = (put(&world, 80).await, put(&world, 80).await);
    refused(world.there().try_put(alice(), payload(80)).await, Refusal::Full, 80);
    assert_eq!(world.state().await, (2, 160, 0));
    assert_eq!(take(&world, first).await, Some(payload(80)));
    assert_eq!(take(&world, second).await, Some(payload(80)));
}

async fn c06_larger_than_the_limit_is_refused_at_once<W: World>() {
    let world = W::new(Setup::default()).await;
    refused(world.here().try_put(alice(), payload(200)).await, Refusal::TooLarge, 200);
    refused(world.here().put(alice(), payload(200)).await, Refusal::TooLarge, 200);
    let _ = put(&world, 60).await;
    refused(world.there().put(alice(), payload(200)).await, Refusal::TooLarge, 200);
    assert_eq!(world.state().await, (1, 60, 0));
}

async fn c07_tickets_differ<W: World>() {
    let world = W::new(Setup::default()).await;
    let (first, second) = (put(&world, 10).await, put(&world, 10).await);
    assert_ne!(first, second);
}

async fn c08_clear_frees_everything_and_serves_waiters<W: World>() {
    let world = W::new(Setup::default()).await;
    let (first, second) = (put(&world, 60).await, put(&world, 40).await);
    let waiter = start_put(&world, 70).await;
    assert_eq!(world.there().clear().await, Ok(2));
    assert_eq!(take(&world, first).await, None);
    assert_eq!(take(&world, second).await, None);
    let ticket = waiter.await.unwrap().unwrap();
    assert_eq!(world.state().await, (1, 70, 0));
    assert_eq!(take(&world, ticket).await, Some(payload(70)));
    assert_eq!(world.here().clear().await, Ok(0));
}

async fn c09_a_put_that_fits_does_not_wait<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = world.here().put(alice(), payload(100)).await.unwrap();
    assert_eq!(world.state().await, (1, 100, 0));
    assert_eq!(take(&world, ticket).await, Some(payload(100)));
}

async fn c10_a_waiter_is_granted_when_there_is_room<W: World>() {
    let world = W::new(Setup::default()).await;
    let (first, _second) = (put(&world, 80).await, put(&world, 20).await);
    let waiter = start_put(&world, 50).await;
    assert_eq!(take(&world, first).await, Some(payload(80)));
    let ticket = waiter.await.unwrap().unwrap();
    assert_eq!(world.state().await, (2, 70, 0));
    assert_eq!(take(&world, ticket).await, Some(payload(50)));
}

async fn c11_a_wait_that_times_out_returns_the_payload<W: World>() {
    let world = W::new(Setup::default()).await;
    let _ = put(&world, 100).await;
    let began = Instant::now();
    let patience = sleep(Duration::from_millis(20));
    let result = world.there().put_timeout(alice(), payload(50), patience).await;
    assert!(began.elapsed() >= Duration::from_millis(20));
    refused(result, Refusal::TimedOut, 50);
    assert_eq!(world.state().await, (1, 100, 0));
}

async fn c12_waiters_are_granted_in_order<W: World>() {
    let world = W::new(Setup::default()).await;
    let full = put(&world, 100).await;
    let first = start_put(&world, 60).await;
    let second = start_put(&world, 30).await;
    assert_eq!(take(&world, full).await, Some(payload(100)));
    let _ = first.await.unwrap().unwrap();
    let _ = second.await.unwrap().unwrap();
    assert_eq!(world.state().await, (2, 90, 0));
}

async fn c13_the_second_waiter_stays_and_times_out<W: World>() {
    let world = W::new(Setup::default()).await;
    let full = put(&world, 100).await;
    let first = start_put(&world, 80).await;
    let second = start_put_until(&world, 80, sleep(Duration::from_millis(150))).await;
    assert_eq!(take(&world, full).await, Some(payload(100)));
    let _ = first.await.unwrap().unwrap();
    refused(second.await.unwrap(), Refusal::Cancelled, 80);
    assert_eq!(world.state().await, (1, 80, 0));
}

async fn c14_a_cancelled_wait_ends_at_once<W: World>() {
    let world = W::new(Setup::default()).await;
    let _ = put(&world, 100).await;
    let (cancel, cancelled) = oneshot::channel::<()>();
    let waiter = start_put_until(&world, 50, cancelled).await;
    cancel.send(()).unwrap();
    refused(soon("cancelled", waiter).await.unwrap(), Refusal::Cancelled, 50);
    assert_eq!(world.state().await, (1, 100, 0));
}

async fn c15_cancelled_before_the_call<W: World>() {
    let world = W::new(Setup::default()).await;
    let fired = || std::future::ready(());
    let ticket = world.here().put_until(alice(), payload(100), fired()).await.unwrap();
    let refusal = world.there().put_until(alice(), payload(50), fired()).await;
    refused(refusal, Refusal::Cancelled, 50);
    assert_eq!(world.state().await, (1, 100, 0));
    assert_eq!(take(&world, ticket).await, Some(payload(100)));
}

async fn c16_a_wait_of_zero_is_try_put<W: World>() {
    let world = W::new(Setup::default()).await;
    let zero = || std::future::ready(());
    let ticket = world.here().put_timeout(alice(), payload(100), zero()).await.unwrap();
    let result = world.here().put_timeout(alice(), payload(50), zero()).await;
    let rejected = result.expect_err("there is no room");
    assert!(matches!(rejected.reason(), Some(Refusal::Full | Refusal::TimedOut)));
    assert_eq!(rejected.into_inner(), payload(50));
    assert_eq!(world.state().await, (1, 100, 0));
    assert_eq!(take(&world, ticket).await, Some(payload(100)));
}

async fn c17_expiry_without_a_call_grants_the_waiter<W: World>() {
    let ttl = Duration::from_millis(200);
    let world = W::new(Setup { real_time: true, ttl, ..Setup::default() }).await;
    let began = Instant::now();
    let _ = put(&world, 100).await;
    let stash = world.there().clone();
    let waiter = tokio::spawn(async move { stash.put(alice(), payload(50)).await });
    let _ = waiter.await.unwrap().unwrap();
    let waited = began.elapsed();
    assert!(waited >= ttl, "not before the entry has expired");
    assert!(waited < ttl + Duration::from_millis(100), "on time: {waited:?}");
}

async fn d1_nobody_overtakes<W: World>() {
    let world = W::new(Setup::default()).await;
    let (large, _small) = (put(&world, 60).await, put(&world, 20).await);
    let head = start_put(&world, 60).await;
    refused(world.there().try_put(alice(), payload(20)).await, Refusal::Full, 20);
    refused(world.here().try_put(alice(), payload(20)).await, Refusal::Full, 20);
    let behind = start_put(&world, 20).await;
    assert!(!head.is_finished() && !behind.is_finished());
    assert_eq!(take(&world, large).await, Some(payload(60)));
    let _ = head.await.unwrap().unwrap();
    let _ = behind.await.unwrap().unwrap();
    assert_eq!(world.state().await, (3, 100, 0));
}

async fn d2_the_next_is_granted_when_the_head_leaves<W: World>() {
    let world = W::new(Setup::default()).await;
    let _ = put(&world, 60).await;
    let (cancel, cancelled) = oneshot::channel::<()>();
    let head = start_put_until(&world, 80, cancelled).await;
    let next = start_put(&world, 30).await;
    cancel.send(()).unwrap();
    refused(head.await.unwrap(), Refusal::Cancelled, 80);
    let _ = next.await.unwrap().unwrap();
    assert_eq!(world.state().await, (2, 90, 0));
    // The same when the head's future is dropped.
    let head = start_put(&world, 80).await;
    let next = start_put(&world, 10).await;
    head.abort();
    let _ = next.await.unwrap().unwrap();
    assert_eq!(world.state().await, (3, 100, 0));
}

async fn d3_the_head_comes_first<W: World>() {
    let world = W::new(Setup { ttl: Duration::from_secs(3600), ..Setup::default() }).await;
    let first = put(&world, 60).await;
    let short = cloakroom::PutOptions::new().ttl(Duration::from_millis(50));
    let _ = world.here().try_put_with(alice(), payload(40), short).await.unwrap();
    let head = start_put(&world, 70).await;
    let second = start_put(&world, 80).await;
    assert_eq!(take(&world, first).await, Some(payload(60)));
    world.advance(Duration::from_millis(50)).await;
    let _ = head.await.unwrap().unwrap();
    assert!(!second.is_finished());
    assert_eq!(world.state().await, (1, 70, 1));
    second.abort();
    eventually("left", || world.state(), |state| state.2 == 0).await;
}

async fn d4_a_waiter_is_granted_at_the_expiry<W: World>() {
    let ttl = Duration::from_millis(50);
    let world = W::new(Setup { real_time: true, ttl, ..Setup::default() }).await;
    let _ = put(&world, 100).await;
    let put = world.there().put_timeout(alice(), payload(50), sleep(Duration::from_secs(60)));
    let _ = soon("granted", put).await.unwrap();
}

async fn d6_empty_payloads_are_charged<W: World>() {
    let world = W::new(Setup { overhead: 40, ..Setup::default() }).await;
    let _ = put(&world, 0).await;
    let _ = put(&world, 0).await;
    refused(world.here().try_put(alice(), payload(0)).await, Refusal::Full, 0);
    assert_eq!(world.state().await, (2, 80, 0));
}

async fn d7_a_claim_keeps_its_bytes_and_can_put_back<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 80).await;
    let claim = world.here().claim(&ticket, &alice()).await.unwrap().unwrap();
    assert_eq!(claim.payload(), &payload(80));
    assert_eq!(world.state().await, (1, 80, 0));
    refused(world.there().try_put(alice(), payload(80)).await, Refusal::Full, 80);
    assert_eq!(take(&world, ticket).await, None);
    // The connection broke.
    claim.put_back().await;
    assert_eq!(world.state().await, (1, 80, 0));
    let claim = world.there().claim(&ticket, &alice()).await.unwrap().unwrap();
    drop(claim);
    let look = || async { world.here().take(&ticket, &alice()).await.unwrap().is_some() };
    eventually("put back", look, |is_back| *is_back).await;
    assert_eq!(world.state().await, (0, 0, 0));
}
