//! Metrics say what their help says.

mod common;

use common::{
    BIG, BRIEF, SMALL_STASH, answer, client, eventually, external, gateway, inline_id, orders,
    refusal, refused,
};
use gateway::client::Client;
use gateway::config::{Behaviour, Config};
use gateway::server::Server;

/// One whose stash holds one result and no second.
async fn full(adjust: impl FnOnce(&mut Config)) -> (Server, String) {
    let server = gateway(|config| {
        config.behaviour = Behaviour::InlineOnly;
        config.wait = BRIEF;
        config.max_bytes = SMALL_STASH;
        adjust(config);
    })
    .await;
    let id = inline_id(answer(&client(&server, "holder"), 0, BIG).await);
    (server, id)
}

async fn expect(client: &Client, values: &[(&str, f64)]) {
    for (name, value) in values {
        assert_eq!(client.metric(name).await.unwrap(), *value, "{name}");
    }
}

/// "Queries answered with an event stream": of five queries two are, and the wait of one of these times out.
#[tokio::test]
async fn a_refused_query_is_not_counted_as_answered() {
    let (server, _) = full(|config| config.max_bytes_per_owner = Some(150_000)).await;
    let ann = client(&server, "ann");
    assert_eq!(refusal(&client(&server, "holder"), "orders", &orders(0, BIG)).await.status, 429);
    assert_eq!(refusal(&ann, "orders", &orders(0, 3_000)).await.status, 413);
    assert_eq!(refusal(&ann, "nothing", &orders(0, 1)).await.status, 404);
    refused(answer(&ann, 0, BIG).await);
    expect(
        &ann,
        &[
            ("gateway_queries_total", 2.0),
            ("gateway_refusals_total", 3.0),
            ("gateway_room_total{outcome=\"at_once\"}", 1.0),
            ("gateway_room_total{outcome=\"owner_full\"}", 1.0),
            ("gateway_room_total{outcome=\"too_large\"}", 1.0),
            ("gateway_room_total{outcome=\"timed_out\"}", 1.0),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_wait_that_ran_out_is_timed_out_and_not_cancelled() {
    let (server, _) = full(|_| {}).await;
    let ann = client(&server, "ann");
    refused(answer(&ann, 0, BIG).await);
    expect(
        &ann,
        &[
            ("gateway_room_total{outcome=\"timed_out\"}", 1.0),
            ("gateway_room_total{outcome=\"full\"}", 0.0),
            ("cloakroom_refused_total{reason=\"timed_out\"}", 1.0),
            ("cloakroom_refused_total{reason=\"cancelled\"}", 0.0),
            ("gateway_wait_seconds_count", 1.0),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_query_that_may_not_wait_found_the_stash_full() {
    let (server, _) = full(|config| config.wait = std::time::Duration::ZERO).await;
    let ann = client(&server, "ann");
    assert_eq!(refusal(&ann, "orders", &orders(0, BIG)).await.status, 503);
    expect(
        &ann,
        &[
            ("gateway_room_total{outcome=\"full\"}", 1.0),
            ("gateway_room_total{outcome=\"timed_out\"}", 0.0),
            ("gateway_queries_total", 1.0),
        ],
    )
    .await;
}

#[tokio::test]
async fn who_waits_when_the_gateway_closes_is_counted_as_closed() {
    let (server, held) = full(|config| config.wait = common::FOREVER).await;
    let ann = client(&server, "ann");
    let running = common::run(&ann, 0, BIG).await;
    eventually("ann waits", || server.app().inline().usage().waiting == 1).await;
    server.app().close();
    refused(running.answer().await.unwrap());
    expect(
        &ann,
        &[
            ("gateway_room_total{outcome=\"closed\"}", 1.0),
            ("gateway_refusals_total", 0.0),
            ("cloakroom_refused_total{reason=\"closed\"}", 1.0),
        ],
    )
    .await;
    client(&server, "holder").fetch(&held).await.unwrap();
}

/// "Published by link because the stash had no room": not those that asked for a link.
#[tokio::test]
async fn a_link_that_was_asked_for_is_no_fallback() {
    let (server, _) = full(|config| config.behaviour = Behaviour::Classic).await;
    let ann = client(&server, "ann");
    let mut request = orders(0, 10);
    request["disposition"] = "EXTERNAL_LINKS".into();
    let running = ann.query("orders", &request).await.unwrap().unwrap();
    external(running.answer().await.unwrap());
    expect(&ann, &[("gateway_fallbacks_total", 0.0)]).await;
    external(answer(&ann, 0, BIG).await);
    expect(&ann, &[("gateway_fallbacks_total", 1.0), ("gateway_refusals_total", 0.0)]).await;
}
