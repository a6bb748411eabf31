//! What the gateway's tests share: a gateway of their own on a free port, and clients.

#![allow(dead_code, reason = "every test file is a crate of its own and uses a part of this")]

use std::time::Duration;

use gateway::client::{Answer, Client, Refusal, Running};
use gateway::config::{Behaviour, Config};
use gateway::server::Server;
use serde_json::{Value, json};

/// Rows whose Arrow stream fits into [`SMALL_STASH`] once, but not twice.
pub const BIG: u32 = 2_000;
pub const SMALL_STASH: u64 = 200_000;

/// Long enough that no test ever sees it pass.
pub const FOREVER: Duration = Duration::from_secs(3_600);
/// For what must end: less than `FOREVER`, and enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// For waits that time out.
pub const BRIEF: Duration = Duration::from_millis(20);

/// A gateway that is its usual self but for what `adjust` changes.
pub async fn gateway(adjust: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config { rows: 3_000, wait: FOREVER, audit: true, ..Config::default() };
    adjust(&mut config);
    Server::start(config, 0).await.expect("the gateway starts")
}

/// A gateway of that behaviour whose stash holds one result and no second.
pub async fn full_gateway(behaviour: Behaviour, wait: Duration) -> (Server, String) {
    let server = gateway(|config| {
        config.behaviour = behaviour;
        config.wait = wait;
        config.drain = FOREVER;
        config.max_bytes = SMALL_STASH;
    })
    .await;
    let id = inline_id(answer(&client(&server, "holder"), 0, BIG).await);
    (server, id)
}

/// A query whose result is as many times larger than the gateway expects as it is wide.
pub fn labels(rows: u32, width: u32) -> Value {
    let parameters = json!({ "first": 0, "rows": rows, "width": width });
    json!({ "format": "ARROW_STREAM", "parameters": parameters })
}

pub fn client(server: &Server, user: &str) -> Client {
    Client::new(server.address(), user)
}

pub fn orders(first: u32, rows: u32) -> Value {
    json!({ "format": "ARROW_STREAM", "parameters": { "first": first, "rows": rows } })
}

/// Sends a query for orders and waits for the first event.
pub async fn run(client: &Client, first: u32, rows: u32) -> Running {
    client.query("orders", &orders(first, rows)).await.expect("a stream").expect("no refusal")
}

/// Sends a query for orders and waits for its answer.
pub async fn answer(client: &Client, first: u32, rows: u32) -> Answer {
    run(client, first, rows).await.answer().await.expect("an answer")
}

/// Sends a request that is refused before any event.
pub async fn refusal(client: &Client, key: &str, request: &Value) -> Refusal {
    client.query(key, request).await.expect("a response").expect_err("a refusal")
}

pub fn inline_id(answer: Answer) -> String {
    match answer {
        Answer::Inline { id } => id,
        other => panic!("expected an inline result, got {other:?}"),
    }
}

pub fn external(answer: Answer) -> (String, String) {
    match answer {
        Answer::External { id, link } => (id, link),
        other => panic!("expected a link, got {other:?}"),
    }
}

pub fn refused(answer: Answer) -> Refusal {
    match answer {
        Answer::Refused(refusal) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Returns once `condition` holds. A test that hangs here has failed.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("never: {what}"));
}
