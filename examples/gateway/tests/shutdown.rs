//! How the gateway stops.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{
    BIG, answer, client, eventually, full_gateway, gateway, inline_id, orders, refused, run,
};
use futures_util::future::join_all;
use gateway::client::{Answer, Client};
use gateway::config::Behaviour;
use gateway::owner::USER_HEADER;
use gateway::server::Shutdown;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn those_in_line_are_answered_and_nobody_is_let_in() {
    for behaviour in [Behaviour::Classic, Behaviour::InlineOnly] {
        let server = gateway(|config| {
            config.behaviour = behaviour;
            config.max_bytes = common::SMALL_STASH;
            config.drain = common::BRIEF;
        })
        .await;
        inline_id(answer(&client(&server, "holder"), 0, BIG).await);
        let address = server.address();
        let app = Arc::clone(server.app());
        let running = run(&client(&server, "ann"), 0, BIG).await;
        eventually("ann stands in line", || app.inline().usage().waiting == 1).await;

        let (shutdown, answer) = tokio::join!(server.shutdown(), running.answer());
        let refusal = refused(answer.unwrap());
        assert_eq!((refusal.status, refusal.code.as_str()), (503, "SHUTTING_DOWN"));
        let shutdown = shutdown.unwrap();
        assert!(shutdown.complete);
        assert_eq!(shutdown.lost, 1);
        assert_eq!(app.inline().usage().used_bytes, 0);
        assert_eq!(app.metrics().fallbacks.get(), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }
}

#[tokio::test]
async fn a_closed_gateway_runs_nothing_but_still_hands_out() {
    let (server, held) = full_gateway(Behaviour::Classic, common::FOREVER).await;
    server.app().close();
    let response = reqwest::Client::new()
        .post(format!("http://{}/api/analytics/query/orders", server.address()))
        .header(USER_HEADER, "ann")
        .json(&orders(0, 1))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "SHUTTING_DOWN");
    assert_eq!(server.app().warehouse().executions().total, 1);
    assert_eq!(client(&server, "holder").fetch(&held).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_still_to_be_fetched_and_no_longer() {
    let (server, held) = full_gateway(Behaviour::InlineOnly, common::FOREVER).await;
    let address = server.address();
    let app = Arc::clone(server.app());
    let fetch = async {
        eventually("the gateway closes", || app.is_closing()).await;
        // Tickets are still accepted, and new queries are not.
        let ann = Client::new(address, "ann");
        assert_eq!(common::refusal(&ann, "orders", &orders(0, 1)).await.code, "SHUTTING_DOWN");
        Client::new(address, "holder").fetch(&held).await.unwrap()
    };
    // Not for the whole of the drain period.
    let both = async { tokio::join!(server.shutdown(), fetch) };
    let (shutdown, fetched) = tokio::time::timeout(common::PATIENCE, both).await.expect("it ends");
    assert_eq!(fetched.status, StatusCode::OK);
    assert_eq!(shutdown.unwrap(), Shutdown { complete: true, lost: 0 });
}

/// What was promised room before the shutdown is run, stored and fetched during it.
#[tokio::test]
async fn a_shutdown_under_load_answers_everybody_and_loses_nothing() {
    let server = gateway(|config| {
        config.behaviour = Behaviour::InlineOnly;
        config.max_bytes = 3 * common::SMALL_STASH;
    })
    .await;
    let (app, address) = (Arc::clone(server.app()), server.address());
    let last = client(&server, "last");
    let last_id = inline_id(answer(&last, 0, BIG).await);
    let clients = (0..16).map(|number| async move {
        let client = Client::new(address, &format!("client-{number}"));
        let mut fetched = 0;
        loop {
            let answer = match client.query("orders", &orders(0, BIG)).await.unwrap() {
                Ok(running) => running.answer().await.unwrap(),
                Err(refusal) => Answer::Refused(refusal),
            };
            match answer {
                Answer::Inline { id } => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    assert_eq!(client.fetch(&id).await.unwrap().status, StatusCode::OK);
                    fetched += 1;
                }
                Answer::Refused(refusal) => {
                    assert_eq!((refusal.status, refusal.code.as_str()), (503, "SHUTTING_DOWN"));
                    return fetched;
                }
                other => panic!("{other:?}"),
            }
        }
    });
    let shutdown = async {
        eventually("there is a line", || app.inline().usage().waiting > 5).await;
        server.shutdown().await.unwrap()
    };
    let clients = async {
        let fetched = join_all(clients).await;
        // The gateway has stayed up for this one, and so could answer all others.
        assert_eq!(last.fetch(&last_id).await.unwrap().status, StatusCode::OK);
        fetched.iter().sum::<u64>() + 1
    };
    let (fetched, shutdown) = tokio::join!(clients, shutdown);
    assert_eq!(shutdown, Shutdown { complete: true, lost: 0 });
    assert_eq!(app.metrics().stored.get(), fetched);
    assert_eq!(app.warehouse().executions().total, fetched);
    assert_eq!(app.inline().usage().used_bytes, 0);
}

#[tokio::test]
async fn who_does_not_end_in_time_does_not_keep_the_gateway() {
    let server = gateway(|config| config.grace = common::BRIEF).await;
    // A request that never comes to its end: the body it promises does not follow. That the gateway
    // asks for the body shows that it is in flight.
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    let head = "POST /api/analytics/query/orders HTTP/1.1\r\nhost: x\r\nx-forwarded-user: ann\r\n\
                content-type: application/json\r\ncontent-length: 100\r\n\
                expect: 100-continue\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 12];
    connection.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");

    let app = Arc::clone(server.app());
    let shutdown = server.shutdown().await.unwrap();
    assert!(!shutdown.complete);
    assert!(app.is_closing());
}

/// The process itself, asked to stop the way a service manager asks.
#[cfg(unix)]
#[test]
fn the_process_ends_well_on_sigterm() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let mut gateway = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["serve", "--port", "0", "--rows", "10"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(gateway.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("serving on http://127.0.0.1:"), "{first}");
    assert!(
        Command::new("kill").args(["-TERM", &gateway.id().to_string()]).status().unwrap().success()
    );
    assert!(gateway.wait().unwrap().success());
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(rest, ["shutting down", "stopped; 0 results were lost"]);
}
