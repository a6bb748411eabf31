//! The engine restarts, runs out of memory, is flushed, is blocked; and bad input to it.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::{Cloakroom, CloakroomClaim, Failure};
use cloakroom_redis::{Builder, OpenError};

use crate::support::audit::audit;
use crate::support::replica::{Replica, alice, builder, replica};
use crate::support::server::Server;
use crate::support::{eventually, payload};
use crate::{put, state};

pub(crate) async fn start_waiting(
    stash: &Replica,
) -> tokio::task::JoinHandle<Result<cloakroom::Ticket, cloakroom::Rejected<Vec<u8>>>> {
    let waiter = stash.clone();
    let waiter = tokio::spawn(async move { waiter.put(alice(), payload(70)).await });
    eventually("in the queue", || state(stash), |state| state.2 == 1).await;
    waiter
}

#[tokio::test]
async fn restarted_without_persistence_it_is_empty() {
    let mut server = Server::start();
    let stash = replica(&server.url()).await;
    let ticket = put(&stash, 60).await;
    let waiter = start_waiting(&stash).await;
    server.kill();
    server.boot();
    let rejected = waiter.await.unwrap().unwrap_err();
    assert_eq!(rejected.failure(), Failure::Lost);
    assert_eq!(rejected.into_inner(), payload(70), "what was in hand comes back");
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(None));
    assert_eq!(state(&stash).await, (0, 0, 0));
    let ticket = put(&stash, 60).await;
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn out_of_memory_only_puts_are_refused() {
    only_puts_are_refused(|builder| builder).await;
}

#[tokio::test]
async fn out_of_memory_only_puts_are_refused_without_functions() {
    only_puts_are_refused(Builder::without_functions).await;
}

type Settings = Builder<Vec<u8>, Arc<str>>;

async fn only_puts_are_refused(mode: impl Fn(Settings) -> Settings) {
    let server = Server::start();
    let stash = mode(builder(&server.url(), "faults")).max_bytes(1 << 40).open().await.unwrap();
    let ticket = put(&stash, 50_000).await;
    let other = put(&stash, 50_000).await;
    let second = mode(builder(&server.url(), "faults")).max_bytes(1 << 40).open().await.unwrap();
    let third = put(&second, 50_000).await;
    let held = second.claim(&third, &alice()).await.unwrap().unwrap();
    let room = stash.try_reserve(None, 50_000).await.unwrap();
    server.run::<()>("CONFIG SET maxmemory 1");
    for size in [10, 60_000, 200_000, 3_000_000] {
        let rejected = stash.try_put(alice(), payload(size)).await.unwrap_err();
        assert_eq!(rejected.failure(), Failure::OutOfMemory);
        assert_eq!(rejected.into_inner(), payload(size), "the payload comes back");
    }
    // Both replicas live: longer than their lease, they beat.
    tokio::time::sleep(crate::support::replica::LEASE + Duration::from_millis(300)).await;
    stash.tick().await.unwrap();
    assert_eq!(held.into_inner(), payload(50_000));
    assert_eq!(state(&second).await.0, 2, "nothing was put back or lost");
    drop(room);
    assert_eq!(stash.take(&third, &alice()).await, Ok(None), "delivered");
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(50_000))));
    let claim = stash.claim(&other, &alice()).await.unwrap().unwrap();
    assert!(claim.put_back().await.unwrap());
    let claim = stash.claim(&other, &alice()).await.unwrap().unwrap();
    assert_eq!(claim.into_inner(), payload(50_000));
    assert_eq!(state(&stash).await, (0, 0, 0));
    assert_eq!(audit(&mut server.connection(), "faults").sessions, 2);
    server.run::<()>("CONFIG SET maxmemory 0");
    let _ = put(&stash, 10).await;
}

#[tokio::test]
async fn flushed_functions_and_scripts_are_loaded_again() {
    let server = Server::start();
    let functions = replica(&server.url()).await;
    let script = builder(&server.url(), "script").without_functions().open().await.unwrap();
    for stash in [&functions, &script] {
        let ticket = put(stash, 60).await;
        server.run::<()>("FUNCTION FLUSH");
        server.run::<()>("SCRIPT FLUSH");
        assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
        assert_eq!(state(stash).await, (0, 0, 0));
    }
    audit(&mut server.connection(), "faults");
    audit(&mut server.connection(), "script");
}

#[tokio::test]
async fn flushed_data_is_an_empty_stash() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let ticket = put(&stash, 60).await;
    let waiter = start_waiting(&stash).await;
    server.run::<()>("FLUSHALL");
    let rejected = waiter.await.unwrap().unwrap_err();
    assert_eq!(rejected.failure(), Failure::Lost);
    assert_eq!(rejected.into_inner(), payload(70));
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(None));
    let _ = put(&stash, 100).await;
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn killed_connections_are_made_anew() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let full = put(&stash, 100).await;
    let waiter = start_waiting(&stash).await;
    for _ in 0..5 {
        server.run::<()>("CLIENT KILL TYPE normal SKIPME yes");
        server.run::<()>("CLIENT KILL TYPE pubsub SKIPME yes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state(&stash).await, (1, 100, 1), "it has kept its place");
    assert_eq!(stash.take(&full, &alice()).await, Ok(Some(payload(100))));
    let _ = waiter.await.unwrap().unwrap();
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn an_engine_that_sleeps_is_waited_for() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let ticket = put(&stash, 60).await;
    let port = server.port;
    let sleeper = std::thread::spawn(move || {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let mut connection = client.get_connection().unwrap();
        redis::cmd("DEBUG").arg("SLEEP").arg("1.2").exec(&mut connection).unwrap();
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Longer than the response timeout, shorter than the lease and the patience.
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    sleeper.join().unwrap();
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn bad_settings_are_refused_before_anything_is_stored() {
    let server = Server::start();
    let setting = |error: OpenError| match error {
        OpenError::Setting { setting, .. } => setting,
        other => panic!("{other}"),
    };
    let open = |name: &'static str| builder(&server.url(), name);
    for name in ["", "a{b}", "}", "{"] {
        let error = builder(&server.url(), name).open().await.unwrap_err();
        assert_eq!(setting(error), "name");
    }
    assert_eq!(setting(open("x").max_bytes(0).open().await.unwrap_err()), "max_bytes");
    assert_eq!(setting(open("x").max_bytes(u64::MAX).open().await.unwrap_err()), "max_bytes");
    assert_eq!(setting(open("x").ttl(Duration::ZERO).open().await.unwrap_err()), "ttl");
    assert_eq!(setting(open("x").ttl(Duration::MAX).open().await.unwrap_err()), "ttl");
    let second = Duration::from_secs(1);
    for (builder, wrong) in [
        (open("x").overflow(0, second), "overflow"),
        (open("x").overflow(1, Duration::ZERO), "overflow ttl"),
        (open("x").overflow(1, Duration::MAX), "overflow ttl"),
        (open("x").ttl(second).overflow(1, 2 * second), "overflow ttl"),
        (open("x").entry_overhead(101), "entry_overhead"),
        (open("x").max_bytes_per_owner(0), "max_bytes_per_owner"),
        (open("x").entry_overhead(50).max_bytes_per_owner(49), "max_bytes_per_owner"),
        (open("x").beat(9 * second), "beat"),
        (open("x").beat(Duration::MAX), "beat"),
        (open("x").patience(Duration::ZERO), "patience"),
        (open("x").patience(Duration::MAX), "patience"),
        (open("x").response_timeout(Duration::ZERO), "response_timeout"),
        (open("x").response_timeout(Duration::MAX), "response_timeout"),
    ] {
        assert_eq!(setting(builder.open().await.unwrap_err()), wrong);
    }
    assert_eq!(setting(builder("nonsense", "x").open().await.unwrap_err()), "url");
    assert_eq!(setting(open("x").url("nonsense").open().await.unwrap_err()), "url");
    for (builder, text) in [
        (open("x").max_bytes(1 << 52), "4503599627370496 is more than 2^51 bytes"),
        (open("x").ttl(Duration::MAX), "is more than 71 years"),
        (open("x").ttl(second).overflow(1, 2 * second), "2s is longer than the stash's ttl, 1s"),
        (open("x").entry_overhead(101), "101 is more than max_bytes, 100"),
        (
            open("x").entry_overhead(50).max_bytes_per_owner(49),
            "49 is less than entry_overhead, 50",
        ),
    ] {
        let error = builder.open().await.unwrap_err().to_string();
        assert!(error.ends_with(text), "{error}");
    }
    assert_eq!(server.run::<Vec<String>>("KEYS *"), Vec::<String>::new());
    builder("nonsense", "x").url(&server.url()).open().await.expect("the last one counts");
}

#[tokio::test]
async fn another_limit_is_refused_by_name() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let error = builder(&server.url(), "faults").max_bytes(200).open().await.unwrap_err();
    assert_eq!(error, OpenError::Differs { setting: "max_bytes", here: 200, there: 100 });
    let error = builder(&server.url(), "faults").ttl(Duration::from_secs(1)).open().await;
    assert!(matches!(error, Err(OpenError::Differs { setting: "ttl", .. })));
    let overflow = |ttl| builder(&server.url(), "bursts").overflow(50, ttl);
    let _stash = overflow(Duration::from_millis(500)).open().await.unwrap();
    let error = overflow(Duration::from_secs(2)).open().await.unwrap_err();
    assert_eq!(error.to_string(), "overflow ttl: the stash was opened with 500ms, not 2s");
    // What was changed while it runs is not a difference.
    stash.set_max_bytes(500).await.unwrap();
    let other = replica(&server.url()).await;
    assert_eq!(Cloakroom::stats(&other).await.unwrap().max_bytes, 500);
}

#[tokio::test]
async fn an_engine_that_evicts_is_refused() {
    let server = Server::with(&["--maxmemory-policy", "allkeys-lru"]);
    let error = builder(&server.url(), "faults").open().await.unwrap_err();
    assert_eq!(error, OpenError::Evicts("allkeys-lru".into()));
}

#[tokio::test]
async fn a_wrong_password_is_said_plainly() {
    let server = Server::with(&["--requirepass", "secret"]);
    let without = format!("redis://127.0.0.1:{}", server.port);
    let wrong = format!("redis://:wrong@127.0.0.1:{}", server.port);
    for url in [&without, &wrong] {
        let error = builder(url, "faults").open().await.unwrap_err();
        assert!(matches!(error, OpenError::NotAuthenticated(_)), "{error}");
        assert!(!error.to_string().contains("wrong@"), "{error}");
    }
    let _ = put(&replica(&server.url()).await, 10).await;
}

#[tokio::test]
async fn no_engine_is_said_within_the_patience() {
    let patience = Duration::from_millis(200);
    let error = builder("redis://127.0.0.1:1", "x").patience(patience).open().await.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable(_)), "{error}");
}

/// Its connection is accepted, and nothing is answered.
#[tokio::test]
async fn a_silent_engine_is_said_within_the_patience() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let builder = builder(&url, "x").patience(Duration::from_millis(200));
    let open = builder.response_timeout(Duration::from_secs(3_600)).open();
    let error = tokio::time::timeout(Duration::from_secs(60), open).await;
    let error = error.expect("the patience ends it").unwrap_err();
    assert!(matches!(error, OpenError::Unreachable(_)), "{error}");
}

/// Where functions are not allowed, the same source runs as a script.
#[tokio::test]
async fn without_permission_for_functions_it_runs_as_a_script() {
    let server = Server::start();
    server.run::<()>("ACL SETUSER app on >secret ~* &* +@all -function");
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port);
    let stash = replica(&url).await;
    let ticket = put(&stash, 60).await;
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    assert_eq!(state(&stash).await, (0, 0, 0));
    audit(&mut server.connection(), "faults");
}

/// SLOWLOG and MONITOR show commands: no ticket is among them, with which somebody could take.
#[tokio::test]
async fn no_command_shows_a_live_ticket() {
    let server = Server::start();
    server.run::<()>("CONFIG SET slowlog-log-slower-than 0");
    let stash = replica(&server.url()).await;
    let ticket = put(&stash, 60).await;
    drop(stash.claim(&ticket, &alice()).await.unwrap());
    let log: redis::Value = server.run("SLOWLOG GET 128");
    let log = format!("{log:?}").to_lowercase();
    assert!(log.contains("fcall"), "the log has the steps");
    let text = ticket.to_string();
    assert!(!log.contains(&text) && !log.contains(&text.replace('-', "")), "{log}");
}
