//! The connection breaks at any point of any step: nothing lost, nothing twice.

use std::time::Duration;

use cloakroom::{Cloakroom, CloakroomClaim, CloakroomReservation, Failure, Refusal};

use futures_lite::future::poll_once;

use crate::support::audit::audit;
use crate::support::proxy::Proxy;
use crate::support::replica::{LEASE, Replica, alice, builder, replica};
use crate::support::server::Server;
use crate::support::{eventually, payload, soon};
use crate::{put, state};

/// One of each step, each with its outcome.
async fn everything(stash: &Replica) {
    let small = put(stash, 60).await;
    let claim = stash.claim(&small, &alice()).await.unwrap().unwrap();
    assert!(claim.put_back().await.unwrap());
    let waiter = stash.clone();
    let waiter = tokio::spawn(async move { waiter.put(alice(), payload(90)).await });
    eventually("in the queue", || state(stash), |state| state.2 == 1).await;
    assert_eq!(stash.take(&small, &alice()).await, Ok(Some(payload(60))), "what was put back");
    let waited = waiter.await.unwrap().unwrap();
    assert_eq!(stash.take(&waited, &alice()).await, Ok(Some(payload(90))), "what waited");
    assert_eq!(stash.take(&waited, &alice()).await, Ok(None), "taken already");
    let room = stash.reserve(None, 70).await.unwrap();
    let reserved = room.put(alice(), payload(50)).await.unwrap();
    let claim = stash.claim(&reserved, &alice()).await.unwrap().unwrap();
    assert_eq!(claim.into_inner(), payload(50));
    let _ = put(stash, 10).await;
    // The number is of the try that was heard of: a retry finds nothing left.
    assert!(matches!(stash.clear().await, Ok(0 | 1)));
    assert_eq!(state(stash).await, (0, 0, 0));
    let stats = stash.stats().await.unwrap();
    assert_eq!((stats.stored, stats.delivered, stats.cleared), (4, 3, 1));
}

/// Cuts at many points, in requests or in replies.
async fn cut_everywhere(cut: impl Fn(&Proxy, i64), step: usize) {
    let server = Server::start();
    let mut at = 0;
    loop {
        let name = format!("cut {at}");
        let proxy = Proxy::to(server.port);
        let stash = builder(&proxy.url(), &name).open().await.unwrap();
        cut(&proxy, at);
        everything(&stash).await;
        audit(&mut server.connection(), &name);
        if proxy.cuts() == 0 {
            // The whole script has passed.
            assert!(at > 1_000, "the cuts never came");
            return;
        }
        at += step as i64;
    }
}

#[tokio::test]
async fn a_request_is_torn_anywhere() {
    cut_everywhere(Proxy::cut_requests_after, 23).await;
}

#[tokio::test]
async fn a_reply_is_torn_anywhere() {
    cut_everywhere(Proxy::cut_replies_after, 11).await;
}

/// Everything that others need is on the keeper's thread: the link, the notes, the place in the connection.
#[tokio::test]
async fn a_caller_that_stops_polling_while_it_connects_again_holds_up_nobody() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    // The session has the lease's time to connect again.
    let open =
        |url: String| async move { builder(&url, "faults").grace(LEASE).open().await.unwrap() };
    let (stash, other) = (open(proxy.url()).await, open(server.url()).await);
    let (ticket, claimed) = (put(&stash, 30).await, put(&stash, 30).await);
    let room = stash.reserve(None, 40).await.unwrap();
    let owner = alice();
    let claim = stash.claim(&claimed, &owner).await.unwrap().unwrap();
    proxy.sever();
    drop(claim);
    let mut take = std::pin::pin!(stash.take(&ticket, &owner));
    for _ in 0..20 {
        assert_eq!(poll_once(&mut take).await, None, "the engine is out of reach");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.mend();
    tokio::time::sleep(2 * LEASE).await;
    assert_eq!(audit(&mut server.connection(), "faults").sessions, 2, "a session was lost");
    assert_eq!(other.take(&claimed, &owner).await, Ok(Some(payload(30))), "put back meanwhile");
    assert_eq!(take.await, Ok(Some(payload(30))));
    drop(room);
    eventually("at rest", || state(&other), |state| *state == (0, 0, 0)).await;
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn what_was_polled_first_is_asked_first() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let _held = stash.reserve(None, 50).await.unwrap();
    for _ in 0..50 {
        eventually("nobody waits", || state(&stash), |state| state.2 == 0).await;
        let mut first = std::pin::pin!(stash.put(alice(), payload(60)));
        assert!(poll_once(&mut first).await.is_none());
        let rejected = stash.try_put(alice(), payload(50)).await.unwrap_err();
        assert_eq!(rejected.reason(), Some(Refusal::Full), "it overtook");
    }
}

#[tokio::test]
async fn a_reply_that_never_comes_is_asked_for_again() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let stash = replica(&proxy.url()).await;
    let ticket = put(&stash, 60).await;
    proxy.drop_replies(true);
    let taker = stash.clone();
    let taker = tokio::spawn(async move { taker.take(&ticket, &alice()).await });
    // Executed, and not heard of.
    let look = || async { audit(&mut server.connection(), "faults").claims };
    eventually("claimed", look, |&claims| claims == 1).await;
    proxy.drop_replies(false);
    assert_eq!(taker.await.unwrap(), Ok(Some(payload(60))));
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn a_reply_that_comes_after_the_retry_changes_nothing() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let stash = replica(&proxy.url()).await;
    // Longer than the response timeout.
    proxy.delay(Duration::from_millis(700));
    let putter = stash.clone();
    let putter = tokio::spawn(async move { putter.try_put(alice(), payload(60)).await });
    tokio::time::sleep(Duration::from_millis(600)).await;
    proxy.delay(Duration::ZERO);
    let ticket = putter.await.unwrap().unwrap();
    assert_eq!(state(&stash).await, (1, 60, 0));
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "faults");
}

/// The first try is under way, the connection breaks, the retry is executed, and then the first try arrives.
#[tokio::test]
async fn a_first_try_that_arrives_late_is_fenced_off() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let (stash, other) = (replica(&proxy.url()).await, replica(&server.url()).await);

    // A put: executed twice, it would store again what was taken.
    proxy.hold_requests();
    let putter = stash.clone();
    let putter = tokio::spawn(async move { putter.try_put(alice(), payload(60)).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    proxy.forget_held();
    let ticket = putter.await.unwrap().unwrap();
    assert_eq!(other.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    assert!(proxy.deliver_held() > 0);
    assert_eq!(state(&other).await, (0, 0, 0), "the put came twice");

    // A claim: executed late, it would claim what was put back.
    let ticket = put(&other, 60).await;
    proxy.hold_requests();
    let claimer = stash.clone();
    let claimer = tokio::spawn(async move { claimer.claim(&ticket, &alice()).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    proxy.forget_held();
    assert_eq!(claimer.await.unwrap().unwrap().unwrap().put_back().await, Ok(true));
    assert!(proxy.deliver_held() > 0);
    assert_eq!(audit(&mut server.connection(), "faults").claims, 0, "the claim came twice");
    assert_eq!(other.take(&ticket, &alice()).await, Ok(Some(payload(60))));

    // A request that waits: joining late, it would wait for nobody and hold up the queue.
    let full = put(&other, 100).await;
    proxy.hold_requests();
    let waiter = stash.clone();
    let patience = tokio::time::sleep(Duration::from_millis(1_000));
    let waiter =
        tokio::spawn(async move { waiter.put_until(alice(), payload(50), patience).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    proxy.forget_held();
    assert!(waiter.await.unwrap().is_err());
    assert!(proxy.deliver_held() > 0);
    assert_eq!(state(&other).await, (1, 100, 0), "it joined twice");
    assert_eq!(other.take(&full, &alice()).await, Ok(Some(payload(100))));
    audit(&mut server.connection(), "faults");
}

/// Whether the engine has shrunk the reservation is not known. A payload that the caller's side holds to be too large is
/// not sent, and must not be stored without its bytes.
#[tokio::test]
async fn a_payload_above_what_a_reservation_was_to_shrink_to_is_refused() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let patience = Duration::from_millis(400);
    let stash =
        builder(&proxy.url(), "faults").grace(LEASE).patience(patience).open().await.unwrap();
    let mut room = stash.reserve(None, 80).await.unwrap();
    proxy.sever();
    assert_eq!(room.shrink(10).await, Err(Failure::Unreachable));
    proxy.mend();
    eventually("connected", || stash.stats(), Result::is_ok).await.unwrap();
    let rejected = room.put(alice(), payload(50)).await.unwrap_err();
    assert_eq!(rejected.failure(), Failure::Refused(Refusal::TooLarge));
    let (rejected, room) = rejected.into_inner();
    assert_eq!(rejected, payload(50));
    let ticket = room.unwrap().put(alice(), payload(10)).await.unwrap();
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(10))));
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn a_notification_that_is_lost_costs_a_beat() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let (stash, other) = (replica(&proxy.url()).await, replica(&server.url()).await);
    let full = put(&other, 100).await;
    let waiter = stash.clone();
    let waiter = tokio::spawn(async move { waiter.put(alice(), payload(50)).await });
    eventually("in the queue", || state(&other), |state| state.2 == 1).await;
    // The grant is published into a connection that passes nothing on.
    proxy.drop_replies(true);
    assert_eq!(other.take(&full, &alice()).await, Ok(Some(payload(100))));
    let look = || async { audit(&mut server.connection(), "faults").grants };
    eventually("granted", look, |&grants| grants == 1).await;
    proxy.drop_replies(false);
    // A response timeout until the connection is given up, and a beat.
    let _ = soon("told by a beat", waiter).await.unwrap().unwrap();
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn an_engine_that_cannot_be_reached_is_not_an_empty_stash() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let patience = Duration::from_millis(300);
    let stash = builder(&proxy.url(), "faults").patience(patience).open().await.unwrap();
    let ticket = put(&stash, 60).await;
    proxy.sever();
    assert_eq!(stash.take(&ticket, &alice()).await, Err(Failure::Unreachable));
    let rejected = stash.try_put(alice(), payload(10)).await.unwrap_err();
    assert_eq!(rejected.failure(), Failure::Unreachable);
    assert_eq!(rejected.into_inner(), payload(10), "the payload comes back");
    assert!(stash.last_error().is_some());
    proxy.mend();
    // Neither the take nor the put had happened, and neither happens later.
    let look = || async { stash.take(&ticket, &alice()).await };
    let taken = eventually("reached again", look, |taken| taken.is_ok()).await;
    assert_eq!(taken, Ok(Some(payload(60))));
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "faults");
}

/// A take whose claim was executed and whose patience ended: it goes back, and can be taken again.
#[tokio::test]
async fn a_take_that_was_given_up_puts_back() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let patience = Duration::from_millis(300);
    let stash = builder(&proxy.url(), "faults").patience(patience).open().await.unwrap();
    let ticket = put(&stash, 60).await;
    proxy.drop_replies(true);
    assert_eq!(stash.take(&ticket, &alice()).await, Err(Failure::Unreachable));
    proxy.drop_replies(false);
    let look = || async { stash.take(&ticket, &alice()).await };
    let taken = eventually("put back", look, |taken| matches!(taken, Ok(Some(_)))).await;
    assert_eq!(taken, Ok(Some(payload(60))));
    assert_eq!(state(&stash).await, (0, 0, 0));
}

/// From the prototype: 16 MiB over a link that breaks every few chunks.
#[tokio::test]
async fn a_large_payload_passes_a_link_that_breaks_every_few_chunks() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let open = |url: String| async move {
        builder(&url, "large")
            .max_bytes(64 << 20)
            .response_timeout(Duration::from_secs(2))
            .open()
            .await
    };
    let stash = open(proxy.url()).await.unwrap();
    let other = open(server.url()).await.unwrap();
    let (from, to) = (proxy, stash.clone());
    let large = payload(16 << 20);
    let sent = large.clone();
    let putter = tokio::spawn(async move { to.try_put(alice(), sent).await });
    while !putter.is_finished() {
        from.cut_requests_after(3 << 20);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ticket = putter.await.unwrap().unwrap();
    assert!(from.cuts() > 0, "it never broke");
    from.cut_requests_after(i64::MAX);
    audit(&mut server.connection(), "large");
    from.cut_replies_after(5 << 20);
    assert!(stash.take(&ticket, &alice()).await.unwrap().unwrap() == large);
    assert_eq!(other.take(&ticket, &alice()).await, Ok(None));
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "large");
}
