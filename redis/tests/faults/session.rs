//! What must be undone when the session ends meanwhile, and sessions that nobody waits for.

use std::time::Duration;

use cloakroom::{Cloakroom, Failure};
use cloakroom_redis::Library;
use futures_lite::future::poll_once;

use crate::put;
use crate::support::audit::audit;
use crate::support::replica::{LONG_LEASE, Replica, alice, builder, replica_with};
use crate::support::server::Server;
use crate::support::{eventually, payload};

/// The step is executed, and its reply never comes: nor does one of a retry.
fn without_reply(step: &str, last: &str) -> Library {
    let begin = format!("steps.{step} = function(k, a)\n  local S, reply = begin(k, a)\n");
    let retry = format!("{begin}  if a[3] == '1' then error('no reply') end\n");
    let died = format!("{last} error('no reply')");
    Library::released().patched("retry", &begin, &retry).patched(
        "died",
        &format!("  return {last}"),
        &format!("  {died}"),
    )
}

/// Ends the session, whose replica does not learn it yet.
async fn end_session(server: &Server, session: &str, other: &Replica) {
    server.run::<()>(&format!("ZADD ck:{{faults}}:s 0 {session}"));
    other.tick().await.unwrap();
}

fn only_session(server: &Server) -> String {
    let sessions: Vec<String> = server.run("ZRANGE ck:{faults}:s 0 -1");
    assert_eq!(sessions.len(), 1);
    sessions[0].clone()
}

/// The caller has its payload back: nobody knows the ticket of what was stored.
#[tokio::test]
async fn what_a_session_stored_before_it_ended_is_removed() {
    let server = Server::start();
    let library = without_reply("store", "done(S, 'STORED', rid, int(n), room)");
    let stash = builder(&server.url(), "faults").max_bytes(1 << 20).lease(LONG_LEASE);
    let stash = stash.library(library).open().await.unwrap();
    let session = only_session(&server);
    let other = builder(&server.url(), "faults").max_bytes(1 << 20).lease(LONG_LEASE);
    let other = other.open().await.unwrap();
    let putting = stash.clone();
    let putting = tokio::spawn(async move { putting.put(alice(), payload(200_000)).await });
    let entries = || async { other.stats().await.unwrap().entries };
    eventually("stored", entries, |&entries| entries == 1).await;
    end_session(&server, &session, &other).await;
    let rejected = putting.await.unwrap().unwrap_err();
    assert_eq!(rejected.failure(), Failure::Lost);
    assert_eq!(rejected.into_inner(), payload(200_000));
    eventually("removed", entries, |&entries| entries == 0).await;
    audit(&mut server.connection(), "faults");
}

/// The claim began in one session and was executed in the next.
#[tokio::test]
async fn a_claim_without_a_reply_is_put_back_in_the_session_that_made_it() {
    let server = Server::start();
    let library = without_reply("claim", "done(S, 'OK', cid, int(n), chunks, v)");
    let stash = builder(&server.url(), "faults").lease(LONG_LEASE).library(library);
    let stash = stash.patience(Duration::from_millis(500)).beat(LONG_LEASE / 2);
    let stash = stash.open().await.unwrap();
    let session = only_session(&server);
    let other = replica_with(&server.url(), LONG_LEASE).await;
    let ticket = put(&other, 60).await;
    end_session(&server, &session, &other).await;
    let failed = stash.claim(&ticket, &alice()).await.unwrap_err();
    assert_eq!(failed, Failure::Unreachable);
    let claims = || async { other.stats().await.unwrap().claims };
    eventually("put back", claims, |&claims| claims == 0).await;
    assert_eq!(other.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    audit(&mut server.connection(), "faults");
}

/// The caller gave up while the outcome was on its way: the thread and its session would stay for ever.
#[tokio::test]
async fn a_stash_that_nobody_waits_for_any_more_ends_its_session() {
    let server = Server::start();
    let mut opening = Box::pin(builder(&server.url(), "faults").lease(LONG_LEASE).open());
    // `None`, unless the machine is busy and the keeper faster.
    let opened = poll_once(&mut opening).await;
    let sessions = || async { server.run::<usize>("ZCARD ck:{faults}:s") };
    eventually("a session", sessions, |&sessions| sessions == 1).await;
    // Until the outcome is on its way to the caller.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop((opening, opened));
    eventually("no session", sessions, |&sessions| sessions == 0).await;
}
