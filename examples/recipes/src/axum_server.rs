//! axum: `POST /results` runs a query and answers with a ticket, `GET /results/{ticket}` fetches the result once.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use cloakroom::{ClaimBody, Stash, Ticket};
use tokio::net::TcpListener;
use tokio::time::sleep;

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
    // The server accepts connections until this completes: the clients need them to fetch their results.
    let shutdown = async move {
        signal.await;
        stash.shut_down(sleep(patience)).await;
    };
    axum::serve(listener, routes).with_graceful_shutdown(shutdown).await
}

async fn run_query(
    State(stash): State<Results>,
    headers: HeaderMap,
    rows: String,
) -> Result<(StatusCode, String), Response> {
    let user = user(&headers).map_err(IntoResponse::into_response)?;
    let rows = rows.parse().map_err(|_| StatusCode::BAD_REQUEST.into_response())?;
    // Room first: while it waits, a request holds no memory. A client that disconnects leaves the queue.
    let room = stash.reserve_for(&user, rows).timeout(sleep(Duration::from_secs(5))).await?;
    let ticket = room.put(user, query(rows).await)?;
    Ok((StatusCode::CREATED, ticket.to_string()))
}

async fn fetch(
    State(stash): State<Results>,
    headers: HeaderMap,
    Path(ticket): Path<Ticket>,
) -> Result<Response<ClaimBody>, StatusCode> {
    let claim = stash.claim(&ticket, &user(&headers)?).ok_or(StatusCode::NOT_FOUND)?;
    // As a body the result stays charged until it has been sent, and goes back if the client disconnects.
    Ok(Response::new(claim.into_body()))
}

/// In place of your authentication.
fn user(headers: &HeaderMap) -> Result<String, StatusCode> {
    let user = headers.get("x-user").and_then(|it| it.to_str().ok());
    Ok(user.ok_or(StatusCode::UNAUTHORIZED)?.to_owned())
}

/// In place of your query.
async fn query(rows: u64) -> Bytes {
    (0..rows).map(|row| row as u8).collect()
}
