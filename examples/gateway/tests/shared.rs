//! Several gateways on one engine: Redis or Valkey, from `CLOAKROOM_ENGINE` or the path. Skipped without one.

mod common;

use std::time::Duration;

use common::{
    BIG, FOREVER, answer, client, eventually, external, gateway, inline_id, refused, run,
};
use gateway::config::{Behaviour, Config, StashKind};
use gateway::engine::Engine;
use gateway::server::Server;
use reqwest::StatusCode;

/// Room for one big result and no second, with what an entry costs on the engine.
const ROOM: u64 = 200_000;

/// An engine of the test's own, or `None` and a line that says so.
async fn engine() -> Option<Engine> {
    let started = Engine::start().await.expect("an engine that is installed starts");
    if started.is_none() {
        eprintln!("SKIPPED: no engine: {}", gateway::engine::HOW_TO_INSTALL);
    }
    started
}

async fn on(engine: &Engine, adjust: impl FnOnce(&mut Config)) -> Server {
    gateway(|config| {
        config.behaviour = Behaviour::InlineOnly;
        config.max_bytes = ROOM;
        config.stash = StashKind::Shared;
        config.engine = Some(engine.url());
        adjust(config);
    })
    .await
}

#[tokio::test]
async fn a_ticket_of_one_gateway_is_good_once_at_any_and_for_its_owner_only() {
    let Some(engine) = engine().await else { return };
    let (one, two) = (on(&engine, |_| {}).await, on(&engine, |_| {}).await);
    let id = inline_id(answer(&client(&one, "ann"), 0, BIG).await);
    let url = format!("/api/analytics/arrow-result/{id}");
    assert_eq!(client(&two, "bob").fetch(&id).await.unwrap().status, StatusCode::GONE);
    let head = reqwest::Client::new().head(format!("http://{}{url}", two.address()));
    let head = head.header("x-forwarded-user", "ann").send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    let fetched = client(&two, "ann").fetch(&id).await.unwrap();
    assert_eq!(fetched.status, StatusCode::OK);
    assert_eq!(head.headers()["content-length"], fetched.body.len().to_string().as_str());
    let totals = gateway::check::Totals::of_stream(&fetched.body).unwrap();
    let expected = gateway::check::Totals::of_database(&one.app().database(), 0, BIG).unwrap();
    assert_eq!(totals, expected);
    for server in [&one, &two] {
        assert_eq!(client(server, "ann").fetch(&id).await.unwrap().status, StatusCode::GONE);
        assert_eq!(
            client(server, "ann").fetch("inline-x").await.unwrap().status,
            StatusCode::NOT_FOUND
        );
        eventually("it has left", || server.app().inline().usage().used_bytes == 0).await;
    }
}

#[tokio::test]
async fn a_full_stash_is_full_for_all_and_a_fetch_at_one_serves_who_waits_at_another() {
    let Some(engine) = engine().await else { return };
    let (one, two) = (on(&engine, |_| {}).await, on(&engine, |_| {}).await);
    let held = inline_id(answer(&client(&one, "holder"), 0, BIG).await);
    let waiting = run(&client(&two, "ann"), 0, BIG).await;
    eventually("both see the line", || {
        [&one, &two].iter().all(|server| server.app().inline().usage().waiting == 1)
    })
    .await;
    let fetched = client(&one, "holder").fetch(&held).await.unwrap();
    assert_eq!(fetched.status, StatusCode::OK);
    let id = inline_id(waiting.answer().await.unwrap());
    assert_eq!(client(&one, "ann").fetch(&id).await.unwrap().status, StatusCode::OK);
    let metric = client(&one, "ann").metric("cloakroom_peak_bytes").await.unwrap();
    assert!(metric <= ROOM as f64, "{metric}");
}

#[tokio::test]
async fn a_download_that_breaks_at_one_gateway_can_be_fetched_at_another() {
    let Some(engine) = engine().await else { return };
    let large = |config: &mut Config| (config.max_bytes, config.rows) = (256 << 20, 60_000);
    let (one, two) = (on(&engine, large).await, on(&engine, large).await);
    let ann = client(&one, "ann");
    // Far more than socket buffers take.
    let id = ann.query_inline("order_labels", &common::labels(60_000, 400)).await.unwrap().unwrap();
    ann.break_off(&id, 1 << 20).await.unwrap();
    let elsewhere = client(&two, "ann");
    let fetched = async {
        loop {
            let fetched = elsewhere.fetch(&id).await.unwrap();
            if fetched.status != StatusCode::GONE {
                return fetched;
            }
            // The first gateway has not noticed yet.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let fetched = tokio::time::timeout(Duration::from_secs(20), fetched).await.expect("put back");
    assert_eq!(fetched.status, StatusCode::OK);
    assert!(fetched.body.len() > 20_000_000);
    assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::GONE);
}

#[tokio::test]
async fn a_gateway_that_stops_answers_who_waits_and_leaves_what_others_can_hand_out() {
    let Some(engine) = engine().await else { return };
    let (one, two) = (on(&engine, |_| {}).await, on(&engine, |_| {}).await);
    let held = inline_id(answer(&client(&one, "holder"), 0, BIG).await);
    let waiting = run(&client(&one, "ann"), 0, BIG).await;
    eventually("ann waits", || two.app().inline().usage().waiting == 1).await;
    let (shutdown, answer) = tokio::join!(one.shutdown(), waiting.answer());
    assert_eq!(refused(answer.unwrap()).code, "SHUTTING_DOWN");
    let shutdown = shutdown.unwrap();
    assert!(shutdown.complete && shutdown.lost == 0, "{shutdown:?}");
    assert_eq!(client(&two, "holder").fetch(&held).await.unwrap().status, StatusCode::OK);
    // Delivered by the one that stops now: no other may deliver it after that.
    let held = inline_id(common::answer(&client(&two, "holder"), 0, BIG).await);
    let three = on(&engine, |_| {}).await;
    assert_eq!(client(&three, "holder").fetch(&held).await.unwrap().status, StatusCode::OK);
    three.shutdown().await.unwrap();
    assert_eq!(client(&two, "holder").fetch(&held).await.unwrap().status, StatusCode::GONE);
}

#[tokio::test]
async fn an_engine_that_is_gone_is_503_and_not_410_and_results_go_by_link() {
    let Some(mut engine) = engine().await else { return };
    let inline_only = on(&engine, |_| {}).await;
    let classic = on(&engine, |config| config.behaviour = Behaviour::Classic).await;
    let ann = client(&inline_only, "ann");
    let id = inline_id(answer(&ann, 0, BIG).await);
    engine.kill().await;
    let fetched = ann.fetch(&id).await.unwrap();
    assert_eq!(fetched.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fetched.refusal().unwrap().code, "STASH_UNREACHABLE");
    assert!(fetched.headers.contains_key("retry-after"));
    let refusal = refused(answer(&ann, 0, BIG).await);
    assert_eq!((refusal.status, refusal.code.as_str()), (503, "STASH_UNREACHABLE"));
    external(answer(&client(&classic, "ann"), 0, BIG).await);
    eventually("the page is told", || {
        inline_only.app().inline().note().is_some_and(|note| note.contains("does not answer"))
    })
    .await;
    assert!(ann.metric("cloakroom_engine_up").await.unwrap() == 0.0);
}

#[tokio::test]
async fn a_gateway_with_other_limits_or_no_engine_says_which_and_does_not_start() {
    let Some(engine) = engine().await else { return };
    let _one = on(&engine, |_| {}).await;
    let other = |adjust: fn(&mut Config)| {
        let mut config = Config {
            max_bytes: ROOM,
            wait: FOREVER,
            rows: 10,
            stash: StashKind::Shared,
            engine: Some(engine.url()),
            ..Config::default()
        };
        adjust(&mut config);
        Server::start(config, 0)
    };
    let differs = other(|config| config.max_bytes += 1).await.expect_err("it differs");
    assert!(format!("{differs:#}").contains("max_bytes: the stash was opened with 200000"));
    let gone = other(|config| config.engine = Some("redis://:secret@127.0.0.1:1".parse().unwrap()));
    let gone = format!("{:#}", gone.await.expect_err("nobody is there"));
    assert!(gone.contains("cannot be reached") && !gone.contains("secret"), "{gone}");
}
