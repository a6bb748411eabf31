//! axum: `POST /results` runs a query and answers with a ticket, `GET /results/{ticket}` fetches the result once.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use cloakroom::{AcquireError, Stash, Ticket};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

/// Results, of users. Make it with `Stash::builder().max_bytes(..).ttl(..).build()`.
pub type Results = Stash<Bytes, String>;

/// Serves until `signal` completes, then for at most `patience` until the results have been fetched.
pub async fn serve(
    listener: TcpListener,
    stash: Results,
    signal: impl Future<Output = ()> + Send + 'static,
    patience: Duration,
) -> io::Result<()> {
    tokio::spawn(stash.reaper().run(sleep)); // ends with the stash
    let routes = Router::new()
        .route("/results", post(run_query))
        .route("/results/{ticket}", get(fetch))
        .with_state(stash.clone());
    let shutdown = async move {
        signal.await;
        stash.close(); // no new results; those that are there can still be fetched
        let _ = timeout(patience, stash.drained()).await;
        stash.clear();
    };
    // The server accepts connections until `shutdown` completes: the clients need them to fetch their results.
    axum::serve(listener, routes).with_graceful_shutdown(shutdown).await
}

async fn run_query(State(stash): State<Results>, headers: HeaderMap, rows: String) -> Response {
    let (Some(user), Ok(rows)) = (user(&headers), rows.parse()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    // Room first: while it waits, a request holds no memory. A client that disconnects leaves the queue.
    let room = match stash.reserve_for(&user, rows).timeout(sleep(Duration::from_secs(5))).await {
        Ok(room) => room,
        Err(refused) => return refusal(&refused),
    };
    match room.put(user, query(rows).await) {
        Ok(ticket) => (StatusCode::CREATED, ticket.to_string()).into_response(),
        Err(refused) => refusal(refused.details()),
    }
}

async fn fetch(
    State(stash): State<Results>,
    headers: HeaderMap,
    Path(ticket): Path<String>,
) -> Response {
    let claim = || stash.claim(&ticket.parse::<Ticket>().ok()?, &user(&headers)?);
    // As a body the result stays charged until it has been sent, and goes back if the client disconnects.
    claim().map_or(StatusCode::NOT_FOUND.into_response(), |it| {
        Body::new(it.into_body()).into_response()
    })
}

/// In place of your authentication.
fn user(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("x-user")?.to_str().ok()?.to_owned())
}

fn refusal(refused: &AcquireError) -> Response {
    let status = StatusCode::from_u16(refused.http_status()).expect("a status");
    (status, refused.to_string()).into_response()
}

/// In place of your query.
async fn query(rows: u64) -> Bytes {
    (0..rows).map(|row| row as u8).collect()
}
