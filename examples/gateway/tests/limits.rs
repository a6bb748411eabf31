//! The limits for one owner and for the wait queue.

mod common;

use common::{
    BIG, BRIEF, answer, client, eventually, full_gateway, gateway, inline_id, orders, refusal, run,
};
use gateway::config::Behaviour;
use reqwest::StatusCode;

#[tokio::test]
async fn an_owner_at_its_limit_is_refused_and_others_are_not() {
    for behaviour in [Behaviour::Classic, Behaviour::InlineOnly] {
        let server = gateway(|config| {
            config.behaviour = behaviour;
            config.max_bytes_per_owner = Some(200_000);
        })
        .await;
        let (noisy, other) = (client(&server, "noisy"), client(&server, "other"));
        let id = inline_id(answer(&noisy, 0, BIG).await);
        let refused = refusal(&noisy, "orders", &orders(0, BIG)).await;
        assert_eq!((refused.status, refused.code.as_str()), (429, "INLINE_ARROW_OWNER_FULL"));
        assert!(refused.retry_after().is_some());
        inline_id(answer(&other, 0, BIG).await);
        // Not by link either, and not executed.
        let metrics = server.app().metrics();
        assert_eq!((metrics.owner_full.get(), metrics.fallbacks.get()), (1, 0));
        assert_eq!(server.app().warehouse().executions().total, 2);

        assert_eq!(noisy.fetch(&id).await.unwrap().status, StatusCode::OK);
        inline_id(answer(&noisy, 0, BIG).await);
    }
}

#[tokio::test]
async fn an_owner_in_line_is_counted_too() {
    let server = gateway(|config| {
        config.behaviour = Behaviour::InlineOnly;
        config.max_bytes = common::SMALL_STASH;
        config.max_bytes_per_owner = Some(150_000);
    })
    .await;
    inline_id(answer(&client(&server, "holder"), 0, BIG).await);
    let ann = client(&server, "ann");
    let _running = run(&ann, 0, BIG).await;
    eventually("ann stands in line", || server.app().inline().usage().waiting == 1).await;
    assert_eq!(refusal(&ann, "orders", &orders(0, BIG)).await.status, 429);
}

#[tokio::test]
async fn a_full_line_refuses_at_once_and_runs_nothing() {
    for behaviour in [Behaviour::Classic, Behaviour::InlineOnly] {
        let server = gateway(|config| {
            config.behaviour = behaviour;
            config.max_bytes = common::SMALL_STASH;
            config.max_waiting = Some(1);
        })
        .await;
        let holder = client(&server, "holder");
        let held = inline_id(answer(&holder, 0, BIG).await);
        let ann = client(&server, "ann");
        let running = run(&ann, 0, BIG).await;
        eventually("ann stands in line", || server.app().inline().usage().waiting == 1).await;
        let response = reqwest::Client::new()
            .post(format!("http://{}/api/analytics/query/orders", server.address()))
            .header(gateway::owner::USER_HEADER, "bob")
            .json(&orders(0, 1))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("retry-after"));
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], "INLINE_ARROW_QUEUE_FULL");
        assert_eq!(server.app().warehouse().executions().total, 1);
        assert_eq!(server.app().metrics().queue_full.get(), 1);

        holder.fetch(&held).await.unwrap();
        inline_id(running.answer().await.unwrap());
    }
}

#[tokio::test]
async fn metrics_are_for_prometheus_and_name_nobody() {
    let (server, held) = full_gateway(Behaviour::InlineOnly, BRIEF).await;
    let holder = client(&server, "holder");
    common::refused(answer(&client(&server, "ann"), 0, BIG).await);
    let page = reqwest::get(format!("http://{}/metrics", server.address())).await.unwrap();
    assert_eq!(page.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let page = page.text().await.unwrap();
    for name in ["ann", "holder", &held["inline-".len()..]] {
        assert!(!page.contains(name), "{page}");
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        let family = name.split('{').next().unwrap();
        let family = family.trim_end_matches("_sum").trim_end_matches("_count");
        assert!(page.contains(&format!("# TYPE {family} ")), "{line}");
    }
    let before = [
        ("gateway_queries_total", 2.0),
        ("gateway_executions_total", 1.0),
        ("gateway_room_total{outcome=\"at_once\"}", 1.0),
        ("gateway_room_total{outcome=\"timed_out\"}", 1.0),
        ("gateway_wait_seconds_count", 1.0),
        ("cloakroom_entries", 1.0),
        ("cloakroom_max_bytes", common::SMALL_STASH as f64),
        ("cloakroom_results_total{outcome=\"stored\"}", 1.0),
        ("cloakroom_refused_total{reason=\"timed_out\"}", 1.0),
    ];
    for (name, value) in before {
        assert_eq!(holder.metric(name).await.unwrap(), value, "{name}");
    }
    assert!(holder.metric("cloakroom_used_bytes").await.unwrap() > 100_000.0);
    holder.fetch(&held).await.unwrap();
    eventually("it has left", || server.app().inline().usage().used_bytes == 0).await;
    for (name, value) in [
        ("gateway_downloads_total", 1.0),
        ("cloakroom_used_bytes", 0.0),
        ("cloakroom_results_total{outcome=\"delivered\"}", 1.0),
    ] {
        assert_eq!(holder.metric(name).await.unwrap(), value, "{name}");
    }
}
