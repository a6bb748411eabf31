//! What a connection may take: time for a head, time for a body, and how many there may be.

mod common;

use std::time::{Duration, Instant};

use common::{BRIEF, PATIENCE, answer, client, gateway, inline_id};
use gateway::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The limits under test.
const LIMIT: Duration = Duration::from_millis(100);

const HEAD: &str = "POST /api/analytics/query/orders HTTP/1.1\r\nhost: x\r\nx-forwarded-user: ann\r\n\
                    content-type: application/json\r\n";
const GET: &str = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";

/// Sends `text` and leaves the connection open.
async fn send(server: &Server, text: &str) -> TcpStream {
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    connection.write_all(text.as_bytes()).await.unwrap();
    connection
}

/// Reads until the gateway closes the connection.
async fn rest(mut connection: TcpStream) -> String {
    let mut text = String::new();
    timeout(PATIENCE, connection.read_to_string(&mut text)).await.expect("it is closed").unwrap();
    text
}

/// Reads until `text` has come.
async fn read_until(connection: &mut TcpStream, text: &str) {
    let mut read = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&read).contains(text) {
            assert!(connection.read_buf(&mut read).await.unwrap() > 0, "closed before {text:?}");
        }
    };
    timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("{text:?} does not come"));
}

#[tokio::test]
async fn a_half_sent_head_ends() {
    let server = gateway(|config| config.header_timeout = LIMIT).await;
    for head in ["", "G", HEAD] {
        let began = Instant::now();
        let answer = rest(send(&server, head).await).await;
        assert!(!answer.contains(" 200 "), "{head:?}: {answer}");
        assert!(began.elapsed() >= LIMIT, "{head:?}");
    }
}

#[tokio::test]
async fn a_limit_beyond_the_clock_is_none() {
    let server = gateway(|config| {
        (config.header_timeout, config.body_timeout) = (Duration::MAX, Duration::MAX);
    })
    .await;
    inline_id(answer(&client(&server, "ann"), 0, 1).await);
}

#[tokio::test]
async fn a_head_that_drips_ends_too() {
    let server = gateway(|config| config.header_timeout = LIMIT).await;
    let (mut read, mut write) = send(&server, "GET / HTTP/1.1\r\n").await.into_split();
    let drip = async {
        // Each byte comes well before the limit.
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(LIMIT / 5).await;
        }
    };
    // Reset or closed: it is over.
    let over = async { while matches!(read.read(&mut [0; 512]).await, Ok(1..)) {} };
    timeout(PATIENCE, async {
        tokio::select! { () = drip => {}, () = over => {} }
    })
    .await
    .expect("it ends");
}

#[tokio::test]
async fn a_kept_connection_that_asks_for_nothing_ends() {
    let server = gateway(|config| config.header_timeout = LIMIT).await;
    let mut connection = send(&server, GET).await;
    read_until(&mut connection, "cloakroom_used_bytes").await;
    rest(connection).await;
}

#[tokio::test]
async fn a_half_sent_body_ends_with_a_refusal() {
    let server = gateway(|config| config.body_timeout = LIMIT).await;
    for (length, body) in [("100", ""), ("100", r#"{"format":"ARR"#)] {
        let text = format!("{HEAD}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let answer = rest(send(&server, &text).await).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("REQUEST_TIMEOUT"), "{answer}");
    }
    assert_eq!(server.app().metrics().queries.get(), 0);
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_not_waited_for() {
    let server = gateway(|config| config.body_timeout = common::FOREVER).await;
    let text = format!("{HEAD}content-length: 100000000\r\nconnection: close\r\n\r\n");
    let mut connection = send(&server, &text).await;
    read_until(&mut connection, "REQUEST_TOO_LARGE").await;
}

#[tokio::test]
async fn a_body_that_drips_ends_too() {
    let server = gateway(|config| config.body_timeout = LIMIT).await;
    let text = format!("{HEAD}content-length: 60000\r\nconnection: close\r\n\r\n");
    let (mut read, mut write) = send(&server, &text).await.into_split();
    let drip = async {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(LIMIT / 5).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let answered = async {
        while !answer.windows(4).any(|four| four == b" 408") {
            assert!(read.read_buf(&mut answer).await.unwrap() > 0);
        }
    };
    timeout(PATIENCE, async {
        tokio::select! { () = drip => {}, () = answered => {} }
    })
    .await
    .expect("it is refused");
}

#[tokio::test]
async fn a_slow_client_keeps_no_other_waiting_and_a_long_answer_is_not_cut() {
    let server = gateway(|config| {
        (config.header_timeout, config.body_timeout) = (LIMIT, LIMIT);
        config.max_bytes = common::SMALL_STASH;
        config.keep_alive = BRIEF;
    })
    .await;
    let holder = client(&server, "holder");
    let held = inline_id(answer(&holder, 0, common::BIG).await);
    // Its event stream is silent but for comments, and lasts longer than any limit on requests.
    let running = common::run(&client(&server, "ann"), 0, common::BIG).await;
    tokio::time::sleep(LIMIT * 3).await;
    holder.fetch(&held).await.unwrap();
    inline_id(running.answer().await.unwrap());
}

#[tokio::test]
async fn one_connection_more_waits_until_another_ends() {
    let server = gateway(|config| config.max_connections = 2).await;
    let mut first = send(&server, GET).await;
    read_until(&mut first, "cloakroom_used_bytes").await;
    let mut second = send(&server, GET).await;
    read_until(&mut second, "cloakroom_used_bytes").await;

    let mut third = send(&server, GET).await;
    let mut byte = [0];
    timeout(LIMIT, third.read_exact(&mut byte)).await.expect_err("it is not accepted yet");
    drop(first);
    read_until(&mut third, "cloakroom_used_bytes").await;
    // Those that are open still answer.
    second.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut second, "cloakroom_used_bytes").await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_the_bound() {
    let server = gateway(|config| config.max_connections = 1).await;
    let mut only = send(&server, GET).await;
    read_until(&mut only, "cloakroom_used_bytes").await;
    let _second = send(&server, GET).await;
    let shutdown = timeout(PATIENCE, server.shutdown()).await.expect("it ends").unwrap();
    assert!(shutdown.complete);
}
