//! Replicas that are killed, stopped, or block themselves.

use cloakroom::{Cloakroom, Failure};

use crate::support::audit::audit;
use crate::support::proxy::Proxy;
use crate::support::replica::{GRACE, LEASE, LONG_LEASE, Process, alice, replica, replica_with};
use crate::support::server::{Server, signal_process};
use crate::support::{eventually, payload, soon};
use crate::{put, state};

#[tokio::test]
async fn killed_in_the_queue_the_next_is_served() {
    let server = Server::start();
    let stash = replica_with(&server.url(), LONG_LEASE).await;
    let full = put(&stash, 100).await;
    let mut dead = Process::start("waits", &server.url(), LONG_LEASE);
    dead.expect("READY");
    eventually("in the queue", || state(&stash), |state| state.2 == 1).await;
    let behind = stash.clone();
    let behind = tokio::spawn(async move { behind.put(alice(), payload(70)).await });
    eventually("behind it", || state(&stash), |state| state.2 == 2).await;
    dead.kill();
    assert_eq!(stash.take(&full, &alice()).await, Ok(Some(payload(100))));
    let _ = soon("served", behind).await.unwrap().unwrap();
    assert_eq!(state(&stash).await, (1, 70, 0));
    audit(&mut server.connection(), "faults");
}

/// From the prototype: only the head was probed, so a dead holder of a grant cost a whole lease.
#[tokio::test]
async fn killed_with_a_reservation_its_bytes_go_to_the_next() {
    let server = Server::start();
    let stash = replica_with(&server.url(), LONG_LEASE).await;
    let mut dead = Process::start("reserves", &server.url(), LONG_LEASE);
    dead.expect("READY");
    let next = stash.clone();
    let next = tokio::spawn(async move { next.put(alice(), payload(70)).await });
    eventually("in the queue", || state(&stash), |state| state.2 == 1).await;
    dead.kill();
    let _ = soon("served", next).await.unwrap().unwrap();
    assert_eq!(state(&stash).await, (1, 70, 0));
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn killed_with_a_claim_the_payload_is_put_back() {
    let server = Server::start();
    let stash = replica_with(&server.url(), LONG_LEASE).await;
    let ticket = put(&stash, 60).await;
    let mut dead = Process::start("claims", &server.url(), LONG_LEASE);
    dead.expect("READY");
    dead.say(&ticket.to_string());
    assert_eq!(dead.expect("CLAIMED"), "60");
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(None));
    dead.kill();
    let look = || async { stash.take(&ticket, &alice()).await };
    let taken = eventually("put back", look, |taken| *taken != Ok(None)).await;
    assert_eq!(taken, Ok(Some(payload(60))));
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "faults");
}

/// The engine has handed the payload over, and never hears whether it arrived.
#[tokio::test]
async fn killed_after_a_take_s_reply_the_payload_is_finished() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let (dead, stash) = (
        replica_with(&proxy.url(), LONG_LEASE).await,
        replica_with(&server.url(), LONG_LEASE).await,
    );
    let ticket = put(&stash, 60).await;
    proxy.drop_replies(true);
    let taker = dead.clone();
    let taker = tokio::spawn(async move { taker.take(&ticket, &alice()).await });
    let look = || async { audit(&mut server.connection(), "faults").claims };
    eventually("claimed", look, |&claims| claims == 1).await;
    // To the engine this is what a kill is.
    proxy.sever();
    eventually("finished", || state(&stash), |state| *state == (0, 0, 0)).await;
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(None), "delivered at most once");
    drop(taker);
    audit(&mut server.connection(), "faults");
}

/// The process itself dies with the payload in its hands, in the millisecond before its note would go out.
#[tokio::test]
async fn dead_with_a_taken_payload_it_is_finished() {
    let server = Server::start();
    let stash = replica_with(&server.url(), LONG_LEASE).await;
    let ticket = put(&stash, 60).await;
    let mut dead = Process::start("takes", &server.url(), LONG_LEASE);
    dead.expect("READY");
    dead.say(&ticket.to_string());
    assert_eq!(dead.expect("TAKEN"), "60");
    let look = || async { audit(&mut server.connection(), "faults").sessions };
    eventually("its session has ended", look, |&sessions| sessions == 1).await;
    assert_eq!(state(&stash).await, (0, 0, 0));
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(None), "delivered at most once");
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn what_a_dead_replica_has_stored_stays() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let mut dead = Process::start("stores", &server.url(), LEASE);
    let ticket = dead.expect("READY").parse().unwrap();
    dead.kill();
    let look = || async { audit(&mut server.connection(), "faults").sessions };
    eventually("its session has ended", look, |&sessions| sessions == 1).await;
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(50))));
}

#[tokio::test]
async fn stopped_for_longer_than_its_lease_it_gets_its_payload_back() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let full = put(&stash, 100).await;
    let mut stopped = Process::start("waits", &server.url(), LEASE);
    stopped.expect("READY");
    eventually("in the queue", || state(&stash), |state| state.2 == 1).await;
    signal_process(stopped.pid(), "-STOP");
    // Its connection stands, so only the lease ends it.
    eventually("its place is removed", || state(&stash), |state| state.2 == 0).await;
    assert_eq!(stash.take(&full, &alice()).await, Ok(Some(payload(100))));
    let after = put(&stash, 100).await;
    signal_process(stopped.pid(), "-CONT");
    assert_eq!(stopped.expect("RESULT"), "Lost payload true");
    assert_eq!(stash.take(&after, &alice()).await, Ok(Some(payload(100))));
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "faults");
}

/// A claim that outlived its session is at least once, and says so; it gives nothing back a second time.
#[tokio::test]
async fn a_claim_of_an_ended_session_knows_and_changes_nothing() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let (paused, stash) = (replica(&proxy.url()).await, replica(&server.url()).await);
    let ticket = put(&stash, 60).await;
    let claim = paused.claim(&ticket, &alice()).await.unwrap().unwrap();
    assert!(claim.is_current());
    proxy.sever();
    let look = || async { stash.claim(&ticket, &alice()).await.unwrap().is_some() };
    eventually("put back and claimed by another", look, |&is_back| is_back).await;
    proxy.mend();
    // The other's claim was dropped, so it is put back a second time.
    eventually("at rest", || state(&stash), |state| *state == (1, 60, 0)).await;
    let look = || async { claim.is_current() };
    eventually("it knows", look, |is_current| !is_current).await;
    assert_eq!(claim.put_back().await, Err(Failure::Lost));
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "faults");
}

/// From the prototype: a client that blocked its own event loop died falsely.
#[tokio::test]
async fn a_replica_that_blocks_its_event_loop_keeps_its_session() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let mut blocked = Process::start("blocks", &server.url(), LEASE);
    let ticket = blocked.expect("READY").parse().unwrap();
    tokio::time::sleep(LEASE + GRACE).await;
    assert_eq!(state(&stash).await, (1, 100, 0), "its reservation stands");
    assert_eq!(blocked.expect("RESULT"), "(1, 100, 0)");
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
}

#[tokio::test]
async fn all_replicas_die_and_one_comes_back() {
    let server = Server::start();
    let mut stores = Process::start("stores", &server.url(), LEASE);
    let ticket = stores.expect("READY").parse().unwrap();
    let mut waits = Process::start("waits", &server.url(), LEASE);
    waits.expect("READY");
    let look = || async { audit(&mut server.connection(), "faults").queue };
    eventually("it waits", look, |queue| *queue == [60]).await;
    stores.kill();
    waits.kill();
    tokio::time::sleep(LEASE).await;
    let stash = replica(&server.url()).await;
    stash.tick().await.unwrap();
    assert_eq!(state(&stash).await, (1, 50, 0), "exact from its first look on");
    audit(&mut server.connection(), "faults");
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(50))));
}
