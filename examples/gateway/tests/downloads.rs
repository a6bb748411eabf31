//! Downloads that break off, and downloads that are asked for twice.

mod common;

use std::time::{Duration, Instant};

use common::{client, eventually, gateway, inline_id, labels};
use gateway::client::Client;
use gateway::config::{Config, StashKind};
use gateway::server::Server;
use reqwest::StatusCode;

/// More than socket buffers swallow, about 20 MB: the server must not believe that all was sent.
const ROWS: u32 = 50_000;
const WIDTH: u32 = 400;

async fn large_gateway(adjust: impl FnOnce(&mut Config)) -> Server {
    gateway(|config| {
        config.rows = ROWS;
        adjust(config);
    })
    .await
}

async fn ask(client: &Client) -> String {
    let request = labels(ROWS, WIDTH);
    let running = client.query("order_labels", &request).await.unwrap().unwrap();
    inline_id(running.answer().await.unwrap())
}

#[tokio::test]
async fn a_download_that_broke_off_can_be_repeated_whole() {
    let server = large_gateway(|_| {}).await;
    let (ann, twin) = (client(&server, "ann"), client(&server, "twin"));
    let expected = twin.fetch(&ask(&twin).await).await.unwrap().body;
    let id = ask(&ann).await;
    for bytes in [0, 100_000, 4_000_000] {
        assert!(ann.break_off(&id, bytes).await.unwrap() < expected.len());
    }
    let fetched = ann.fetch(&id).await.unwrap();
    assert_eq!(fetched.status, StatusCode::OK);
    assert!(fetched.body == expected);
    assert_eq!(ann.metric("cloakroom_claims_total{outcome=\"put_back\"}").await.unwrap(), 3.0);
    assert_eq!(server.app().warehouse().executions().total, 2);
    eventually("nothing is held", || server.app().inline().usage().used_bytes == 0).await;
    assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::GONE);
}

#[tokio::test]
async fn a_broken_download_is_no_way_to_another_owner() {
    let server = large_gateway(|_| {}).await;
    let (ann, bob) = (client(&server, "ann"), client(&server, "bob"));
    let id = ask(&ann).await;
    ann.break_off(&id, 0).await.unwrap();
    assert_eq!(bob.fetch(&id).await.unwrap().status, StatusCode::GONE);
    assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_result_on_its_way_is_not_gone_but_busy() {
    let server = large_gateway(|_| {}).await;
    let (ann, bob) = (client(&server, "ann"), client(&server, "bob"));
    let id = ask(&ann).await;
    let response = ann.begin_to_fetch(&id).await.unwrap();
    let busy = ann.fetch(&id).await.unwrap();
    assert_eq!(busy.status, StatusCode::CONFLICT);
    assert_eq!(busy.headers["retry-after"], "1");
    assert_eq!(busy.refusal().unwrap().code, "RESULT_BUSY");
    // Only the owner learns that it is being downloaded. Others are answered immediately.
    assert_eq!(bob.fetch(&id).await.unwrap().status, StatusCode::GONE);
    assert!(response.bytes().await.unwrap().len() > 20_000_000);
    eventually("it has left", || server.app().inline().usage().used_bytes == 0).await;
    assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::GONE);
}

#[tokio::test]
async fn bytes_count_until_they_have_left() {
    for stash in [StashKind::Cloakroom, StashKind::Glue] {
        let server = large_gateway(|config| config.stash = stash).await;
        let ann = client(&server, "ann");
        let id = ask(&ann).await;
        let response = ann.begin_to_fetch(&id).await.unwrap();
        assert!(server.app().inline().usage().used_bytes > 20_000_000);
        response.bytes().await.unwrap();
        eventually("it has left", || server.app().inline().usage().used_bytes == 0).await;
    }
}

#[tokio::test]
async fn what_breaks_off_after_its_time_is_gone() {
    let ttl = Duration::from_millis(1_500);
    let server = large_gateway(|config| config.ttl = ttl).await;
    let ann = client(&server, "ann");
    let id = ask(&ann).await;
    let stored = Instant::now();
    let response = ann.begin_to_fetch(&id).await.unwrap();
    tokio::time::sleep((ttl + common::BRIEF).saturating_sub(stored.elapsed())).await;
    drop(response);
    assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::GONE);
    assert_eq!(server.app().inline().usage().used_bytes, 0);
}
