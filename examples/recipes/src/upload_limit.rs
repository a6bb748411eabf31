//! A tower layer that bounds the bytes of uploads in flight: `POST /uploads` stores one and answers with a ticket.
//!
//! Two limits: one for what is on its way in, one for what is stored. With one for both, an upload would wait for the
//! bytes that it holds itself.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use cloakroom::{Budget, ClaimBody, RequestBytesLayer, Stash, Ticket};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Uploads, of users. Make it with `Stash::builder().max_bytes(..).ttl(..).build()`.
pub type Uploads = Stash<Bytes, String>;

/// Serves until `signal` completes, then for at most `patience` until the uploads have been fetched.
pub async fn serve(
    listener: TcpListener,
    in_flight: Budget,
    stash: Uploads,
    signal: impl Future<Output = ()> + Send + 'static,
    patience: Duration,
) -> io::Result<()> {
    tokio::spawn(stash.reaper().run(sleep)); // ends with the stash
    // Waits for its bytes before the body is read. The permit is held until the response has been sent.
    let bytes_in_flight = RequestBytesLayer::new(in_flight.clone(), |refused, _| refused.into())
        .timeout(|| sleep(Duration::from_secs(5)));
    let routes = Router::new()
        .route("/uploads", post(upload))
        .route("/uploads/{ticket}", get(fetch))
        // An upload without a `Content-Length` is charged the whole limit, and this bounds it.
        .layer(DefaultBodyLimit::max(in_flight.limit() as usize))
        .layer(bytes_in_flight)
        .with_state(stash.clone());
    let shutdown = async move {
        signal.await;
        let end = Instant::now() + patience;
        in_flight.close(); // no new uploads; requests without a body still pass
        let _ = timeout_at(end, in_flight.drained()).await; // those that had begun are stored
        stash.shut_down(sleep_until(end)).await;
    };
    axum::serve(listener, routes).with_graceful_shutdown(shutdown).await
}

async fn upload(
    State(stash): State<Uploads>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, String), Response> {
    let user = user(&headers).map_err(IntoResponse::into_response)?;
    let ticket = stash.put(user, body).timeout(sleep(Duration::from_secs(5))).await?;
    Ok((StatusCode::CREATED, ticket.to_string()))
}

async fn fetch(
    State(stash): State<Uploads>,
    headers: HeaderMap,
    Path(ticket): Path<Ticket>,
) -> Result<Response<ClaimBody>, StatusCode> {
    let claim = stash.claim(&ticket, &user(&headers)?).ok_or(StatusCode::NOT_FOUND)?;
    Ok(Response::new(claim.into_body()))
}

/// In place of your authentication.
fn user(headers: &HeaderMap) -> Result<String, StatusCode> {
    let user = headers.get("x-user").and_then(|it| it.to_str().ok());
    Ok(user.ok_or(StatusCode::UNAUTHORIZED)?.to_owned())
}
