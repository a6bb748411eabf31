//! Whose result it is, and what everybody else gets to see.

mod common;

use std::time::Duration;

use common::{answer, client, eventually, full_gateway, gateway, inline_id, orders};
use gateway::config::Behaviour;
use gateway::owner::USER_HEADER;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;

/// A ticket that is well-formed and was never issued.
const NEVER_ISSUED: &str = "inline-00000000-0000-8000-8000-000000000000";

#[tokio::test]
async fn who_names_no_user_gets_nothing() {
    let (server, id) = full_gateway(Behaviour::Classic, common::FOREVER).await;
    let http = reqwest::Client::new();
    let query = || {
        http.post(format!("http://{}/api/analytics/query/orders", server.address()))
            .json(&orders(0, 1))
    };
    let fetch = || http.get(format!("http://{}/api/analytics/arrow-result/{id}", server.address()));
    type Unnamed = (fn(RequestBuilder) -> RequestBuilder, &'static str);
    let unnamed: [Unnamed; 5] = [
        (|request| request, "missing"),
        (|request| request.header(USER_HEADER, ""), "blank"),
        (|request| request.header(USER_HEADER, " \t "), "blank"),
        (|request| request.header(USER_HEADER, b"\xff".as_slice()), "not plain text"),
        (
            |request| request.header(USER_HEADER, "holder").header(USER_HEADER, "ann"),
            "more than once",
        ),
    ];
    for (unnamed, why) in unnamed {
        for request in [query(), fetch()] {
            let response = unnamed(request).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(response.headers()["content-type"], "application/json");
            let body: Value = response.json().await.unwrap();
            assert_eq!(body["error"]["code"], "UNAUTHENTICATED");
            assert!(body["error"]["message"].as_str().unwrap().ends_with(why), "{body}");
        }
    }
    assert_eq!(client(&server, "holder").fetch(&id).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_wrong_owner_a_spent_ticket_and_an_unknown_one_look_the_same() {
    let server = gateway(|_| {}).await;
    let (ann, bob) = (client(&server, "ann"), client(&server, "bob"));
    let id = inline_id(answer(&ann, 0, 10).await);

    let wrong_owner = bob.fetch(&id).await.unwrap();
    assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::OK);
    let spent = ann.fetch(&id).await.unwrap();
    let unknown = ann.fetch(NEVER_ISSUED).await.unwrap();
    for gone in [&wrong_owner, &spent, &unknown] {
        assert_eq!(gone.status, StatusCode::GONE);
        assert_eq!(gone.refusal().unwrap().code, "RESULT_GONE");
        assert_eq!(gone.body, spent.body);
        assert_eq!(gone.headers["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn an_expired_result_is_gone_and_its_bytes_are_free() {
    let server = gateway(|config| config.ttl = Duration::from_millis(1)).await;
    let ann = client(&server, "ann");
    let id = inline_id(answer(&ann, 0, 10).await);
    eventually("the result expires", || server.app().inline().usage().entries == 0).await;
    let expired = ann.fetch(&id).await.unwrap();
    assert_eq!((expired.status, server.app().inline().usage().used_bytes), (StatusCode::GONE, 0));
}

#[tokio::test]
async fn what_was_never_an_id_is_not_found() {
    for behaviour in [Behaviour::Classic, Behaviour::InlineOnly] {
        let server = gateway(|config| config.behaviour = behaviour).await;
        let ann = client(&server, "ann");
        for id in [
            "inline-",
            "inline-x",
            "inline-zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz",
            "inline-inline-00000000-0000-8000-8000-000000000000",
            "nothing",
            "%ff",
            "..%2f..%2fetc%2fpasswd",
            "00000000-0000-4000-8000-000000000000",
        ] {
            let fetched = ann.fetch(id).await.unwrap();
            assert_eq!(fetched.status, StatusCode::NOT_FOUND, "{id}");
            assert_eq!(fetched.refusal().unwrap().code, "STATEMENT_NOT_FOUND");
        }
    }
}
