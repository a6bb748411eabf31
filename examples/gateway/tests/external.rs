//! Results that go out under a signed link.

mod common;

use std::time::Duration;

use common::{client, external, gateway, refusal};
use gateway::check::Totals;
use gateway::client::Client;
use gateway::config::Behaviour;
use gateway::server::Server;
use reqwest::StatusCode;
use serde_json::{Value, json};

fn by_link(rows: u32) -> Value {
    json!({
        "format": "ARROW_STREAM",
        "disposition": "EXTERNAL_LINKS",
        "parameters": { "first": 0, "rows": rows },
    })
}

/// The id and the link of a result that was asked for as one.
async fn published(client: &Client) -> (String, String) {
    let running = client.query("orders", &by_link(500)).await.unwrap().unwrap();
    let statement = running.statement.clone();
    let (id, link) = external(running.answer().await.unwrap());
    assert_eq!(id, statement);
    (id, link)
}

/// Follows a link as any holder of it can.
async fn follow(server: &Server, link: &str) -> reqwest::Response {
    reqwest::get(format!("http://{}{link}", server.address())).await.unwrap()
}

#[tokio::test]
async fn a_result_can_be_asked_for_as_a_link() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    let (id, link) = published(&ann).await;
    let expected = Totals::of_database(&server.app().database(), 0, 500).unwrap();

    let by_id = ann.fetch(&id).await.unwrap();
    assert_eq!(by_id.status, StatusCode::OK);
    assert_eq!(Totals::of_stream(&by_id.body).unwrap(), expected);

    let by_link = follow(&server, &link).await;
    assert_eq!(by_link.headers()["content-type"], "application/vnd.apache.arrow.stream");
    assert_eq!(by_link.headers()["content-length"], by_id.body.len().to_string());
    assert_eq!(by_link.headers()["cache-control"], "no-store");
    assert_eq!(by_link.bytes().await.unwrap(), by_id.body);
    assert_eq!(server.app().warehouse().executions().total, 1);
    assert_eq!(server.app().metrics().stored.get(), 0);
}

#[tokio::test]
async fn only_the_owner_is_shown_the_way() {
    let server = gateway(|_| {}).await;
    let (id, _) = published(&client(&server, "ann")).await;
    let fetched = client(&server, "bob").fetch(&id).await.unwrap();
    assert_eq!(fetched.status, StatusCode::NOT_FOUND);
    assert_eq!(fetched.refusal().unwrap().code, "STATEMENT_NOT_FOUND");
}

#[tokio::test]
async fn a_changed_link_is_refused() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    let (id, link) = published(&ann).await;
    let (other_id, _) = published(&ann).await;
    let (path, query) = link.split_once('?').unwrap();
    let (expires, signature) = query.split_once('&').unwrap();
    let last = if link.ends_with('0') { "1" } else { "0" };
    for changed in [
        link.replace(&id, &other_id),
        link.replace("expires=", "expires=9"),
        format!("{}{last}", &link[..link.len() - 1]),
        link[..link.len() - 2].to_owned(),
        format!("{path}?{signature}"),
        format!("{path}?{expires}"),
        format!("{path}?expires=soon&{signature}"),
        link.replace(&id, "..%2fwarehouse.sqlite"),
        path.to_owned(),
    ] {
        let refused = follow(&server, &changed).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{changed}");
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["error"]["code"], "LINK_INVALID");
    }
    assert_eq!(follow(&server, &link).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_link_expires_and_so_does_the_statement() {
    let server = gateway(|config| config.link_ttl = Duration::ZERO).await;
    let ann = client(&server, "ann");
    let (id, link) = published(&ann).await;
    let refused = follow(&server, &link).await;
    assert_eq!(refused.status(), StatusCode::GONE);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["code"], "LINK_EXPIRED");
    assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_file_behind_an_expired_link_is_deleted() {
    let server = gateway(|config| config.link_ttl = Duration::ZERO).await;
    published(&client(&server, "ann")).await;
    let directory = server.app().database().parent().unwrap().to_owned();
    let results = || {
        let names = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("result-")).count()
    };
    common::eventually("the file goes", || results() == 0).await;
}

#[tokio::test]
async fn a_warehouse_without_links_says_so_before_it_runs_anything() {
    let server = gateway(|config| config.behaviour = Behaviour::InlineOnly).await;
    let refusal = refusal(&client(&server, "ann"), "orders", &by_link(500)).await;
    assert_eq!((refusal.status, refusal.code.as_str()), (501, "NOT_IMPLEMENTED"));
    assert_eq!(server.app().warehouse().executions().total, 0);
}
