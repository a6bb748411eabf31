//! Results that turn out larger than the room that was taken for them.

mod common;

use common::{BIG, BRIEF, client, eventually, external, gateway, inline_id, labels, refused, run};
use gateway::client::{Answer, Client};
use gateway::config::Behaviour;
use gateway::warehouse::Executions;
use reqwest::StatusCode;

/// About 410 KB, where 28 KB are expected.
const ROWS: u32 = 1_000;
const WIDTH: u32 = 400;

async fn ask(client: &Client) -> Answer {
    let running = client.query("order_labels", &labels(ROWS, WIDTH)).await.unwrap().unwrap();
    running.answer().await.unwrap()
}

#[tokio::test]
async fn a_result_that_outgrew_its_room_gets_the_rest_if_there_is_some() {
    let server = gateway(|config| config.behaviour = Behaviour::InlineOnly).await;
    let ann = client(&server, "ann");
    let id = inline_id(ask(&ann).await);
    let fetched = ann.fetch(&id).await.unwrap();
    assert_eq!(fetched.status, StatusCode::OK);
    assert!(fetched.body.len() > 400_000);
    let (metrics, usage) = (server.app().metrics(), server.app().inline().usage());
    assert_eq!((metrics.outgrown.get(), metrics.stored.get()), (1, 1));
    eventually("nothing is held", || server.app().inline().usage().used_bytes == 0).await;
    assert!(usage.peak_bytes > 400_000);
}

#[tokio::test]
async fn it_waits_for_the_rest_and_is_not_run_again() {
    let server = gateway(|config| {
        config.behaviour = Behaviour::InlineOnly;
        config.max_bytes = 500_000;
    })
    .await;
    let holder = client(&server, "holder");
    let held = inline_id(common::answer(&holder, 0, BIG).await);
    let ann = client(&server, "ann");
    let running = ann.query("order_labels", &labels(ROWS, WIDTH)).await.unwrap().unwrap();
    eventually("it waits for more", || server.app().inline().usage().waiting == 1).await;
    // It gave up what it had, so only what the holder has is counted.
    assert!(server.app().inline().usage().used_bytes < 150_000);
    holder.fetch(&held).await.unwrap();
    let id = inline_id(running.answer().await.unwrap());
    assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::OK);
    assert_eq!(
        server.app().warehouse().executions(),
        Executions { total: 2, statements: 2, most: 1 }
    );
}

#[tokio::test]
async fn without_it_the_answer_is_clear() {
    for (max_bytes, owner_bytes, status, code) in [
        (500_000, None, 503, "INLINE_ARROW_STASH_EXHAUSTED"),
        (300_000, None, 413, "INLINE_ARROW_RESULT_TOO_LARGE"),
        (1_000_000, Some(300_000), 413, "INLINE_ARROW_RESULT_TOO_LARGE"),
    ] {
        let server = gateway(|config| {
            config.behaviour = Behaviour::InlineOnly;
            config.wait = BRIEF;
            config.max_bytes = max_bytes;
            config.max_bytes_per_owner = owner_bytes;
        })
        .await;
        inline_id(common::answer(&client(&server, "holder"), 0, BIG).await);
        let refusal = refused(ask(&client(&server, "ann")).await);
        assert_eq!((refusal.status, refusal.code.as_str()), (status, code));
        assert_eq!(server.app().metrics().outgrown.get(), 1);
        assert_eq!(server.app().inline().usage().entries, 1);
    }
}

#[tokio::test]
async fn on_classic_the_same_bytes_go_out_by_link() {
    let server = gateway(|config| config.max_bytes = 300_000).await;
    let ann = client(&server, "ann");
    let (id, _) = external(ask(&ann).await);
    assert!(ann.fetch(&id).await.unwrap().body.len() > 400_000);
    assert_eq!(server.app().warehouse().executions().total, 1);
    assert_eq!(server.app().inline().usage().used_bytes, 0);
}

#[tokio::test]
async fn who_hangs_up_while_the_query_runs_gives_its_room_back() {
    let server = gateway(|config| config.connections = 1).await;
    let running = run(&client(&server, "ann"), 0, BIG).await;
    drop(running);
    // Run or not, answered or not: at most one result without a known ticket, and no unused reservation.
    eventually("the room is a result, or free", || {
        let usage = server.app().inline().usage();
        (usage.entries == 0) == (usage.used_bytes == 0)
    })
    .await;
}
