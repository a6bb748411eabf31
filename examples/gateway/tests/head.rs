//! Requests that ask for the head of a result, or for a part of it, and answers without a body: a result
//! is taken by nothing but a whole download.

mod common;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cloakroom::{Stash, Ticket};
use common::{BIG, answer, client, eventually, gateway, inline_id};
use futures_util::future::join_all;
use gateway::config::StashKind;
use gateway::owner::USER_HEADER;
use gateway::server::Server;
use reqwest::Method;

async fn head(server: &Server, user: &str, id: &str) -> reqwest::Response {
    let url = format!("http://{}/api/analytics/arrow-result/{id}", server.address());
    reqwest::Client::new().head(url).header(USER_HEADER, user).send().await.unwrap()
}

#[tokio::test]
async fn a_head_request_says_what_a_download_would_and_takes_nothing() {
    for stash in [StashKind::Cloakroom, StashKind::Glue] {
        let server = gateway(|config| config.stash = stash).await;
        let ann = client(&server, "ann");
        let id = inline_id(answer(&ann, 0, BIG).await);
        let used = server.app().inline().usage().used_bytes;
        let mut heads = Vec::new();
        for _ in 0..3 {
            heads.push(head(&server, "ann", &id).await);
        }
        assert_eq!(head(&server, "bob", &id).await.status(), StatusCode::GONE);
        assert_eq!(server.app().inline().usage().used_bytes, used);
        assert_eq!(server.app().metrics().downloads.get(), 0);

        let fetched = ann.fetch(&id).await.unwrap();
        assert_eq!(fetched.status, StatusCode::OK);
        assert_eq!(fetched.headers["content-length"], fetched.body.len().to_string());
        for head in heads {
            assert_eq!(head.status(), StatusCode::OK);
            for name in ["content-length", "content-type", "cache-control", "accept-ranges"] {
                assert_eq!(head.headers()[name], fetched.headers[name], "{name}");
            }
        }
        eventually("it has left", || server.app().inline().usage().used_bytes == 0).await;
        assert_eq!(head(&server, "ann", &id).await.status(), StatusCode::GONE);
        assert_eq!(head(&server, "ann", "inline-x").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(head(&server, "ann", "nothing").await.status(), StatusCode::NOT_FOUND);
    }
}

/// To look at a result, the store takes it for a moment. Nobody must find it gone meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_fetches_while_others_look_is_never_told_that_it_is_gone() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    for _ in 0..20 {
        let id = inline_id(answer(&ann, 0, 10).await);
        let looks = join_all((0..8).map(|_| head(&server, "ann", &id)));
        let (_, fetched) = tokio::join!(looks, ann.fetch(&id));
        assert_eq!(fetched.unwrap().status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_request_for_a_part_or_for_news_gets_the_whole_result() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    let http = reqwest::Client::new();
    for (name, value) in [
        ("range", "bytes=0-9"),
        ("range", "bytes=-1"),
        ("if-none-match", "*"),
        ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT"),
    ] {
        let id = inline_id(answer(&ann, 0, 100).await);
        let size = head(&server, "ann", &id).await.headers()["content-length"].clone();
        let url = format!("http://{}/api/analytics/arrow-result/{id}", server.address());
        let request = http.get(url).header(USER_HEADER, "ann").header(name, value);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        assert_eq!(response.headers()["accept-ranges"], "none");
        let body = response.bytes().await.unwrap();
        assert_eq!(body.len().to_string(), size.to_str().unwrap(), "{name}");
        assert!(gateway::check::Totals::of_stream(&body).is_ok_and(|totals| totals.rows == 100));
    }
}

type Payloads = Stash<Vec<u8>, ()>;

/// Answers with the body of a claim and the status that `x-status` asks for.
async fn serve_claim(
    State((stash, ticket)): State<(Payloads, Ticket)>,
    headers: axum::http::HeaderMap,
) -> Response {
    let Some(claim) = stash.claim(&ticket, &()) else {
        return StatusCode::GONE.into_response();
    };
    let status = headers["x-status"].to_str().unwrap().parse().unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    (status, Body::new(claim.into_body())).into_response()
}

/// A claim's own body, in the hands of a server that drops it unread.
#[tokio::test]
async fn an_answer_without_a_body_puts_the_claim_back_an_empty_one_too() {
    for payload in [vec![7; 1_000], Vec::new()] {
        let stash: Payloads = Stash::builder().max_bytes(10_000).build().unwrap();
        let ticket = stash.try_put((), payload.clone()).unwrap();
        let router = Router::new().route("/", get(serve_claim)).with_state((stash.clone(), ticket));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let serving = tokio::spawn(axum::serve(listener, router).into_future());
        let http = Arc::new(reqwest::Client::new());
        let send = async |method: Method, status: &str| {
            let request = http.request(method, &url).header("x-status", status);
            request.send().await.unwrap()
        };
        for (method, status) in [(Method::HEAD, "200"), (Method::GET, "304"), (Method::GET, "204")]
        {
            let response = send(method, status).await;
            assert_eq!(response.status().as_str(), status);
            assert_eq!(response.bytes().await.unwrap().len(), 0);
            eventually("it is put back", || stash.stats().claims == 0).await;
            assert_eq!(stash.len(), 1, "{status} of {} bytes", payload.len());
        }
        let response = send(Method::GET, "200").await;
        assert_eq!(response.bytes().await.unwrap(), payload);
        eventually("it is delivered", || stash.is_empty()).await;
        serving.abort();
    }
}
