//! Engines that crash and come back with what their append-only file has.

use std::path::PathBuf;
use std::time::Duration;

use cloakroom::Cloakroom;
use cloakroom_redis::Persistence;

use crate::engine::start_waiting;
use crate::support::audit::audit;
use crate::support::proxy::Proxy;
use crate::support::replica::{alice, builder, replica};
use crate::support::server::Server;
use crate::support::{eventually, payload};
use crate::{put, state};

const ALWAYS: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test]
async fn restarted_with_an_append_only_file_it_goes_on() {
    let mut server = Server::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let stash = replica(&server.url()).await;
    let ticket = put(&stash, 60).await;
    let waiter = start_waiting(&stash).await;
    server.kill();
    server.boot();
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    let _ = waiter.await.unwrap().unwrap();
    assert_eq!(state(&stash).await, (1, 70, 0));
    audit(&mut server.connection(), "faults");
}

/// The engine dies, not the machine: the file has every step that was written. With `everysec`, a step is written after
/// its answer if a synchronization is under way.
#[tokio::test]
async fn restarted_with_a_file_that_is_synchronized_later_it_goes_on() {
    for sync in ["everysec", "no"] {
        let mut server = Server::with(&["--appendonly", "yes", "--appendfsync", sync]);
        let stash = replica(&server.url()).await;
        let ticket = put(&stash, 60).await;
        let unwritten = || async { server.run::<String>("INFO persistence") };
        eventually("all is written", unwritten, |info| info.contains("aof_buffer_length:0\r"))
            .await;
        server.kill();
        server.boot();
        assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))), "{sync}");
        audit(&mut server.connection(), "faults");
    }
}

#[tokio::test]
async fn open_reports_what_the_engine_keeps() {
    for (args, expected) in [
        (&[][..], Persistence::NoFile),
        (&["--appendonly", "yes", "--appendfsync", "no"], Persistence::Eventually),
        (&["--appendonly", "yes"], Persistence::EverySecond),
        (ALWAYS, Persistence::Always),
    ] {
        let server = Server::with(args);
        assert_eq!(replica(&server.url()).await.persistence(), expected);
    }
    let server = Server::start();
    server.run::<()>("ACL SETUSER app on >secret ~* &* +@all -config");
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port);
    assert_eq!(replica(&url).await.persistence(), Persistence::Unknown);
}

/// The file that the engine writes steps to.
fn log(server: &Server) -> PathBuf {
    let folder = std::fs::read_dir(server.dir.join("appendonlydir")).unwrap();
    let mut files = folder.map(|file| file.unwrap().path());
    files.find(|path| path.to_string_lossy().ends_with(".incr.aof")).unwrap()
}

/// The machine stops, and the end of the file with it: a prefix of the history, and whole.
#[tokio::test]
async fn restarted_with_a_file_that_lost_its_end_it_has_a_prefix() {
    let mut server = Server::with(ALWAYS);
    let name = "faults";
    let mut sizes = Vec::new();
    let mut tickets = Vec::new();
    {
        let stash = builder(&server.url(), name).max_bytes(1_000).open().await.unwrap();
        for size in [10, 20, 30, 40] {
            sizes.push(log(&server).metadata().unwrap().len());
            tickets.push(put(&stash, size).await);
        }
        assert_eq!(stash.take(&tickets[0], &alice()).await, Ok(Some(payload(10))));
        // Dropped here, while the engine still runs: its session ends.
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.kill();
    let whole = std::fs::read(log(&server)).unwrap();
    // At a step's end, and torn inside of a step.
    for (cut, entries) in [
        (sizes[1], 1),
        (sizes[2], 2),
        (sizes[2] + 9, 2),
        (sizes[3] - 5, 2),
        (sizes[3], 3),
        (sizes[3] + 100, 3),
    ] {
        std::fs::write(log(&server), &whole[..cut as usize]).unwrap();
        server.boot();
        let found = audit(&mut server.connection(), name);
        assert_eq!(found.entries, entries, "cut at {cut}");
        let stash = builder(&server.url(), name).max_bytes(1_000).open().await.unwrap();
        for (at, ticket) in tickets.iter().enumerate() {
            let expected = (at < entries).then(|| payload((at + 1) * 10));
            assert_eq!(stash.take(ticket, &alice()).await, Ok(expected), "cut at {cut}");
        }
        server.kill();
        drop(stash);
    }
}

/// The engine is killed right after a take's reply was sent: the payload stays taken.
#[tokio::test]
async fn killed_after_a_take_s_reply_it_stays_taken() {
    let mut server = Server::with(ALWAYS);
    let (stash, other) = (replica(&server.url()).await, replica(&server.url()).await);
    for _ in 0..5 {
        let ticket = put(&stash, 60).await;
        assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
        server.kill();
        server.boot();
        assert_eq!(other.take(&ticket, &alice()).await, Ok(None), "delivered at most once");
        assert_eq!(stash.take(&ticket, &alice()).await, Ok(None));
        let look = || state(&stash);
        eventually("its note is said", look, |state| *state == (0, 0, 0)).await;
        audit(&mut server.connection(), "faults");
    }
    assert_eq!(stash.stats().await.unwrap().delivered, 5);
}

/// As above, and the replica dies with it: nobody is left to say that it was delivered.
#[tokio::test]
async fn killed_with_the_replica_after_a_take_s_reply_it_stays_taken() {
    let mut server = Server::with(ALWAYS);
    let proxy = Proxy::to(server.port);
    let (dead, stash) = (replica(&proxy.url()).await, replica(&server.url()).await);
    let ticket = put(&stash, 60).await;
    proxy.drop_replies(true);
    let taker = tokio::spawn(async move { dead.take(&ticket, &alice()).await });
    let look = || async { audit(&mut server.connection(), "faults").claims };
    eventually("claimed", look, |&claims| claims == 1).await;
    proxy.sever();
    server.kill();
    server.boot();
    eventually("finished", || state(&stash), |state| *state == (0, 0, 0)).await;
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(None), "delivered at most once");
    audit(&mut server.connection(), "faults");
    taker.abort();
}

/// The step is in the file and its reply is lost: the retry gets the payload from the engine that came back.
#[tokio::test]
async fn killed_before_a_take_s_reply_the_retry_gets_it() {
    let mut server = Server::with(ALWAYS);
    let proxy = Proxy::to(server.port);
    let (stash, other) = (replica(&proxy.url()).await, replica(&server.url()).await);
    let ticket = put(&other, 60).await;
    proxy.drop_replies(true);
    let taker = tokio::spawn(async move { (stash.take(&ticket, &alice()).await, stash) });
    let look = || async { audit(&mut server.connection(), "faults").claims };
    eventually("claimed", look, |&claims| claims == 1).await;
    server.kill();
    proxy.drop_replies(false);
    server.boot();
    let (taken, stash) = taker.await.unwrap();
    assert_eq!(taken, Ok(Some(payload(60))));
    assert_eq!(other.take(&ticket, &alice()).await, Ok(None));
    let look = || state(&stash);
    eventually("its note is said", look, |state| *state == (0, 0, 0)).await;
    audit(&mut server.connection(), "faults");
}
