//! Engines that are too old or too small, payloads that are too large, and replies that are mixed up.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use cloakroom::{Cloakroom, CloakroomReservation, Failure, Refusal};
use cloakroom_redis::OpenError;

use crate::support::audit::audit;
use crate::support::payload;
use crate::support::proxy::Proxy;
use crate::support::replica::{alice, builder};
use crate::support::server::Server;
use crate::{put, state};

/// An engine of another version, as far as `open` asks. Returns its URL.
fn engine_that_says(hello: &'static str, version: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            while let Some(command) = read_command(&mut stream) {
                let info = format!("redis_version:{version}\r\nmaxmemory_policy:noeviction\r\n");
                let reply = match command.as_str() {
                    "HELLO" => hello.to_owned(),
                    "INFO" => format!("${}\r\n{info}\r\n", info.len()),
                    _ => "+OK\r\n".into(),
                };
                stream.get_mut().write_all(reply.as_bytes()).unwrap();
            }
        }
    });
    url
}

/// The name of the next command; `None` at the end.
fn read_command(stream: &mut impl BufRead) -> Option<String> {
    let mut number = |mark: char| -> Option<usize> {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        line.trim().strip_prefix(mark)?.parse().ok()
    };
    let count = number('*')?;
    let mut name = String::new();
    for at in 0..count {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let length: usize = line.trim().strip_prefix('$')?.parse().ok()?;
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).ok()?;
        if at == 0 {
            name = String::from_utf8_lossy(&word[..length]).to_uppercase();
        }
    }
    Some(name)
}

#[tokio::test]
async fn an_engine_that_is_too_old_is_refused() {
    let six = "%1\r\n+server\r\n+redis\r\n";
    let error = builder(&engine_that_says(six, "6.2.14"), "x").open().await.unwrap_err();
    assert_eq!(error, OpenError::TooOld("6.2.14".into()));
    let five = "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n";
    let error = builder(&engine_that_says(five, "5.0.14"), "x").open().await.unwrap_err();
    assert_eq!(error, OpenError::TooOld("below 6".into()));
    assert!(error.to_string().contains("Redis 7"), "{error}");
}

#[tokio::test]
async fn a_payload_above_the_engine_s_maximum_comes_back() {
    let server = Server::start();
    let stash = builder(&server.url(), "faults").max_bytes(1 << 40).open().await.unwrap();
    let size = (512 << 20) + 1;
    // Its pages are never touched.
    let rejected = stash.put(alice(), vec![0; size]).await.unwrap_err();
    assert_eq!(rejected.failure(), Failure::Refused(Refusal::TooLarge));
    assert_eq!((rejected.numbers().requested, rejected.numbers().limit), (size as u64, 512 << 20));
    assert_eq!(rejected.into_inner().len(), size, "the payload comes back");
    let rejected = stash.reserve(None, size as u64).await.unwrap_err();
    assert_eq!(rejected.reason(), Some(Refusal::TooLarge));
    let room = stash.reserve(None, 512 << 20).await.unwrap();
    let (back, room) = room.put(alice(), vec![0; size]).await.unwrap_err().into_inner();
    assert_eq!((back.len(), room.unwrap().bytes()), (size, 512 << 20));
    assert_eq!(state(&stash).await.0, 0, "nothing is stored");
    let ticket = put(&stash, 100).await;
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(100))));
}

/// The least that an engine can be set to: a chunk is no larger.
#[tokio::test]
async fn an_engine_with_the_smallest_maximum_takes_large_payloads() {
    let server = Server::with(&["--proto-max-bulk-len", "1mb"]);
    let stash = builder(&server.url(), "faults").max_bytes(8 << 20).open().await.unwrap();
    for size in [65_536, 65_537, 1 << 20, (3 << 20) + 1] {
        let ticket = put(&stash, size).await;
        assert!(stash.take(&ticket, &alice()).await.unwrap().unwrap() == payload(size));
    }
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn an_engine_that_takes_no_chunk_is_refused() {
    let server = Server::with(&["--client-query-buffer-limit", "1mb"]);
    let error = builder(&server.url(), "faults").open().await.unwrap_err();
    assert!(error.to_string().contains("client-query-buffer-limit is 1048576"), "{error}");
    assert_eq!(server.run::<Vec<String>>("KEYS *"), Vec::<String>::new());
}

/// As after a bug of a client: every reply belongs to the step before.
#[tokio::test]
async fn replies_that_are_mixed_up_are_noticed() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let stash = builder(&proxy.url(), "faults").max_bytes(1_000).open().await.unwrap();
    for round in 0..20 {
        let tickets = [put(&stash, 10).await, put(&stash, 20).await, put(&stash, 30).await];
        proxy.repeat_reply();
        for (at, ticket) in tickets.iter().enumerate() {
            let taken = stash.take(ticket, &alice()).await;
            assert_eq!(taken, Ok(Some(payload((at + 1) * 10))), "round {round}");
        }
        assert_eq!(state(&stash).await, (0, 0, 0), "round {round}");
    }
    audit(&mut server.connection(), "faults");
}

/// go-redis#697: a call that was given up left its reply to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn futures_that_are_cancelled_leave_their_replies_to_nobody() {
    let server = Server::start();
    let proxy = Arc::new(Proxy::to(server.port));
    let stash = builder(&proxy.url(), "faults").max_bytes(1_000_000).open().await.unwrap();
    let mut tasks = Vec::new();
    for task in 0..8_usize {
        let stash = stash.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..40 {
                let size = 100 + task * 50 + round;
                let Ok(ticket) = stash.try_put(alice(), payload(size)).await else { panic!() };
                // Given up at any moment of its way, and not executed twice.
                let patience = Duration::from_micros((round as u64 * 37 + task as u64 * 11) % 400);
                let owner = alice();
                let first = stash.take(&ticket, &owner);
                if let Ok(taken) = tokio::time::timeout(patience, first).await {
                    assert!(taken.unwrap().unwrap() == payload(size), "another's reply");
                    continue;
                }
                let mut taken = None;
                for _ in 0..1_000 {
                    // Put back in the background, or on its way there.
                    taken = stash.take(&ticket, &alice()).await.unwrap();
                    if taken.is_some() {
                        break;
                    }
                }
                assert!(taken.unwrap() == payload(size), "another's reply");
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(state(&stash).await, (0, 0, 0));
    assert_eq!(stash.stats().await.unwrap().delivered, 320);
    audit(&mut server.connection(), "faults");
}
