//! Bugs of others that no other test has by its nature. docs/replicas.md has the table of all.

mod support;

use std::time::Duration;

use cloakroom::{Cloakroom, Refusal};
use cloakroom_redis::Library;

use support::audit::audit;
use support::replica::{alice, builder, replica};
use support::server::Server;
use support::{eventually, payload};

fn set_clock(server: &Server, micros: u64) {
    let mut connection = server.connection();
    redis::cmd("SET").arg("ck:{faults}:clock").arg(micros).exec(&mut connection).unwrap();
}

/// Sidekiq #4105: the clocks of two machines were compared. Here only the engine's counts, and never backwards.
#[tokio::test]
async fn a_clock_that_goes_back_revives_nothing_and_kills_nothing() {
    let server = Server::start();
    let library = Library::on_a_manual_clock();
    let ttl = Duration::from_secs(1);
    let stash = builder(&server.url(), "faults").ttl(ttl).library(library).open().await.unwrap();
    set_clock(&server, 5_000_000);
    let early = stash.try_put(alice(), payload(50)).await.unwrap();
    set_clock(&server, 6_000_000);
    assert_eq!(stash.take(&early, &alice()).await, Ok(None), "expired");
    set_clock(&server, 1_000_000);
    let late = stash.try_put(alice(), payload(60)).await.unwrap();
    assert_eq!(stash.take(&early, &alice()).await, Ok(None), "and stays so");
    // Its deadline counts from the latest time that was seen.
    set_clock(&server, 6_999_999);
    assert_eq!(stash.take(&late, &alice()).await, Ok(Some(payload(60))));
    audit(&mut server.connection(), "faults");
}

/// Sidekiq #2944: everybody was woken for what one could have.
#[tokio::test]
async fn one_grant_is_told_to_one_session() {
    let server = Server::start();
    let holder = replica(&server.url()).await;
    let ticket = holder.try_put(alice(), payload(100)).await.unwrap();
    let mut waiters = Vec::new();
    for count in 1..=5 {
        let stash = replica(&server.url()).await;
        waiters.push(tokio::spawn(async move { stash.put(alice(), payload(100)).await }));
        let look = || async { holder.stats().await.unwrap().waiting };
        eventually("in the queue", look, |&waiting| waiting == count).await;
    }
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut listening = connection.as_pubsub();
    listening.psubscribe("ck:{faults}:n:*").unwrap();
    listening.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(holder.take(&ticket, &alice()).await, Ok(Some(payload(100))));
    let mut grants = 0;
    loop {
        match listening.get_message() {
            Ok(message) => {
                grants += usize::from(message.get_payload_bytes().first() == Some(&b'g'));
                // Long for the first, short for one too many.
                listening.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            }
            Err(error) => {
                assert!(error.is_timeout(), "{error}");
                break;
            }
        }
    }
    assert_eq!(grants, 1);
    let finished = || async { waiters.iter().filter(|waiter| waiter.is_finished()).count() };
    eventually("one is stored", finished, |&finished| finished == 1).await;
    for waiter in waiters {
        waiter.abort();
    }
}

/// From the prototype: a sweep scanned from 0 each time, found only emptied buckets, and stopped.
#[tokio::test]
async fn clearing_more_than_one_batch_frees_all_of_it() {
    let server = Server::start();
    let stash = builder(&server.url(), "faults").max_bytes(5_000).open().await.unwrap();
    for _ in 0..500 {
        let _ticket = stash.try_put(alice(), payload(10)).await.unwrap();
    }
    let waiter = stash.clone();
    let waiter = tokio::spawn(async move { waiter.put(alice(), payload(5_000)).await });
    let look = || async { stash.stats().await.unwrap().waiting };
    eventually("in the queue", look, |&waiting| waiting == 1).await;
    assert_eq!(stash.clear().await, Ok(500));
    let _ticket = waiter.await.unwrap().unwrap();
    assert_eq!(audit(&mut server.connection(), "faults").used, 5_000);
}

/// As above, for a close with more waiters than one step ends.
#[tokio::test]
async fn closing_ends_more_waiters_than_one_batch() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let _ticket = stash.try_put(alice(), payload(100)).await.unwrap();
    let waiters: Vec<_> = (0..150)
        .map(|_| {
            let stash = stash.clone();
            tokio::spawn(async move { stash.put(alice(), payload(10)).await })
        })
        .collect();
    let look = || async { stash.stats().await.unwrap().waiting };
    eventually("in the queue", look, |&waiting| waiting == 150).await;
    assert_eq!(stash.close().await, Ok(150));
    for waiter in waiters {
        let rejected = waiter.await.unwrap().unwrap_err();
        assert_eq!(rejected.reason(), Some(Refusal::Closed));
        assert_eq!(rejected.into_inner(), payload(10));
    }
    audit(&mut server.connection(), "faults");
}

/// Operations can be awaited on any executor: the keeper's thread runs them.
#[test]
fn an_executor_without_tokio_is_enough() {
    let server = Server::start();
    futures_lite::future::block_on(async {
        let stash = replica(&server.url()).await;
        let ticket = stash.put(alice(), payload(60)).await.unwrap();
        let cancelled =
            stash.put_until(alice(), payload(60), futures_lite::future::ready(())).await;
        assert_eq!(cancelled.unwrap_err().reason(), Some(Refusal::Cancelled));
        assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    });
}
