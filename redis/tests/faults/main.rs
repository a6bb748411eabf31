//! The failure table, row by row, with real faults on real engines.

#[path = "../support/mod.rs"]
mod support;

mod connection;
mod death;
mod engine;
mod large;
mod limits;
mod persistence;
mod session;

use std::time::Duration;

use cloakroom::{Cloakroom, CloakroomClaim};

use support::payload;
use support::replica::{Replica, alice};

async fn state(stash: &Replica) -> (u64, u64, usize) {
    let stats = Cloakroom::stats(stash).await.unwrap();
    (stats.entries, stats.used_bytes, stats.waiting)
}

async fn put(stash: &Replica, size: usize) -> cloakroom::Ticket {
    stash.try_put(alice(), payload(size)).await.unwrap()
}

/// A replica in a process of its own; see `support::replica::Process`.
#[tokio::test]
#[ignore = "a role of other tests, which start it"]
async fn child() {
    use support::replica::{LEASE_SECONDS, ROLE, URL, replica_with};
    let read = |name| std::env::var(name).ok();
    let (Some(role), Some(url), Some(lease)) = (read(ROLE), read(URL), read(LEASE_SECONDS)) else {
        return;
    };
    let stash = replica_with(&url, Duration::from_secs_f64(lease.parse().unwrap())).await;
    let wait_forever = || tokio::time::sleep(Duration::from_secs(600));
    match role.as_str() {
        "waits" => {
            println!("READY");
            match stash.put(alice(), payload(60)).await {
                Ok(_) => println!("RESULT stored"),
                Err(rejected) => {
                    let failure = rejected.failure();
                    let intact = rejected.into_inner() == payload(60);
                    println!("RESULT {failure:?} payload {intact}");
                }
            }
            wait_forever().await;
        }
        "reserves" => {
            let _room = stash.reserve(None, 80).await.unwrap();
            println!("READY");
            wait_forever().await;
        }
        "stores" => {
            println!("READY {}", stash.try_put(alice(), payload(50)).await.unwrap());
            wait_forever().await;
        }
        // Claims what it is told, and holds on to it.
        "claims" => {
            println!("READY");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            let ticket = line.trim().parse().unwrap();
            let claim = stash.claim(&ticket, &alice()).await.unwrap().unwrap();
            println!("CLAIMED {}", claim.payload().len());
            wait_forever().await;
        }
        // Dies between the reply and the note about it.
        "takes" => {
            println!("READY");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            let taken = stash.take(&line.trim().parse().unwrap(), &alice()).await.unwrap().unwrap();
            println!("TAKEN {}", taken.len());
            std::process::abort();
        }
        // Blocks its own event loop for longer than its lease.
        "blocks" => {
            let ticket = stash.try_put(alice(), payload(60)).await.unwrap();
            let _room = stash.reserve(None, 40).await.unwrap();
            println!("READY {ticket}");
            std::thread::sleep(support::replica::LEASE * 2);
            println!("RESULT {:?}", state(&stash).await);
            wait_forever().await;
        }
        other => panic!("no role {other}"),
    }
}
