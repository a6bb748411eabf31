//! Large payloads: what a refused put leaves behind, and many deliveries at a time.

use std::time::Duration;

use cloakroom::{Cloakroom, CloakroomReservation, Failure, Refusal};

use crate::support::audit::audit;
use crate::support::proxy::Proxy;
use crate::support::replica::{LONG_LEASE, alice, builder};
use crate::support::server::Server;
use crate::support::{eventually, payload};

/// The reservation stays after a refusal, and with it the ticket that the chunks are named by.
#[tokio::test]
async fn a_payload_that_was_refused_is_in_no_later_one() {
    let server = Server::start();
    let quota = 2 << 20;
    let stash = builder(&server.url(), "faults").max_bytes(16 << 20).max_bytes_per_owner(quota);
    let stash = stash.open().await.unwrap();
    let bob = || "bob".into();
    let held = stash.try_put(bob(), vec![b'h'; 1 << 20]).await.unwrap();
    let size = (1 << 20) + 70_000;
    let mut room = stash.reserve(None, size as u64).await.unwrap();
    for round in 0..3 {
        let rejected = room.put(bob(), vec![b'b'; size]).await.unwrap_err();
        assert_eq!(rejected.reason(), Some(Refusal::OwnerFull), "round {round}");
        room = rejected.into_inner().1.expect("it stays");
    }
    let ticket = room.put(alice(), vec![b'a'; size]).await.unwrap();
    let taken = stash.take(&ticket, &alice()).await.unwrap().unwrap();
    assert!(taken == vec![b'a'; size], "another owner's payload was delivered");
    assert!(stash.take(&held, &bob()).await.unwrap().is_some());
    // Which says what was delivered.
    assert_eq!(stash.stats().await.unwrap().claims, 0);
    let found = audit(&mut server.connection(), "faults");
    assert!(!found.keys.iter().any(|key| key.contains(":p:")), "chunks stay: {:?}", found.keys);
}

#[tokio::test]
async fn what_was_sent_until_the_memory_was_full_is_in_no_later_payload() {
    let server = Server::start();
    let stash = builder(&server.url(), "faults").max_bytes(16 << 20).open().await.unwrap();
    let size = 6 << 20;
    let room = stash.reserve(None, size as u64).await.unwrap();
    let info: String = server.run("INFO memory");
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let used: u64 = used.trim().parse().unwrap();
    server.run::<()>(&format!("CONFIG SET maxmemory {}", used + (7 << 19)));
    let rejected = room.put(alice(), vec![b'b'; size]).await.unwrap_err();
    assert_eq!(rejected.failure(), Failure::OutOfMemory);
    server.run::<()>("CONFIG SET maxmemory 0");
    let room = rejected.into_inner().1.expect("it stays");
    let ticket = room.put(alice(), vec![b'a'; size]).await.unwrap();
    let taken = stash.take(&ticket, &alice()).await.unwrap().unwrap();
    assert!(taken == vec![b'a'; size], "the refused payload was delivered");
    audit(&mut server.connection(), "faults");
}

/// The engine hangs up on a connection with notifications when 32 MiB of replies wait to be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_deliveries_at_a_time_do_not_overfill_the_connection() {
    let server = Server::start();
    for (count, size) in [(64, 2 << 20), (800, 65_536)] {
        let stash = builder(&server.url(), "faults").max_bytes(1 << 30).lease(LONG_LEASE);
        let stash = stash.response_timeout(Duration::from_secs(5)).open().await.unwrap();
        let mut tickets = Vec::new();
        for _ in 0..count {
            tickets.push(stash.try_put(alice(), payload(size)).await.unwrap());
        }
        let mut takes = Vec::new();
        for ticket in tickets {
            let stash = stash.clone();
            takes.push(tokio::spawn(async move { stash.take(&ticket, &alice()).await }));
        }
        for take in takes {
            assert!(take.await.unwrap() == Ok(Some(payload(size))), "{:?}", stash.last_error());
        }
        assert_eq!(stash.last_error(), None, "{count} of {size}");
    }
    audit(&mut server.connection(), "faults");
}

/// What is under way would take longer than the response timeout, and with it each beat.
#[tokio::test]
async fn many_puts_at_a_time_do_not_overfill_a_slow_link() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let stash = builder(&proxy.url(), "faults").max_bytes(1 << 30);
    let stash = stash.response_timeout(Duration::from_secs(2)).open().await.unwrap();
    // 13 MB/s at most.
    proxy.delay_requests(Duration::from_millis(5));
    let mut puts = Vec::new();
    for _ in 0..40 {
        let stash = stash.clone();
        puts.push(tokio::spawn(async move { stash.put(alice(), payload(1 << 20)).await }));
    }
    for put in puts {
        let stored = put.await.unwrap();
        assert!(stored.is_ok(), "{:?}, {:?}", stored.unwrap_err().failure(), stash.last_error());
    }
    assert_eq!(stash.last_error(), None);
    audit(&mut server.connection(), "faults");
}

/// 64 MiB at 1 MB/s take longer than a minute: the first chunk had expired when the last one came, in each round.
#[tokio::test]
async fn a_chunk_stays_for_as_long_as_the_others_may_take() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let stash = builder(&proxy.url(), "faults").max_bytes(1 << 30).open().await.unwrap();
    proxy.delay_requests(Duration::from_millis(5));
    let put = tokio::spawn(async move { stash.put(alice(), payload(32 << 20)).await.is_ok() });
    let look = || async { server.run::<Vec<Vec<u8>>>("KEYS ck:{faults}:p:*:0") };
    let first = eventually("the first chunk", look, |keys| !keys.is_empty()).await;
    let left: u64 = redis::cmd("PTTL").arg(&first[0]).query(&mut server.connection()).unwrap();
    // The patience is 5 s, and begins anew with each two chunks.
    assert!(left > 16 * 5_000, "{left} ms are left");
    proxy.delay_requests(Duration::ZERO);
    assert!(put.await.unwrap());
    audit(&mut server.connection(), "faults");
}
