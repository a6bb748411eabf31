//! A tower layer that bounds the bytes of uploads in flight: `POST /uploads` stores one and answers with a ticket.
//!
//! Two limits: one for what is on its way in, one for what is stored. With one for both, an upload would wait for the
//! bytes that it holds itself.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use cloakroom::{Budget, RequestBytesLayer, Stash, Ticket};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

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
    let bytes_in_flight = RequestBytesLayer::new(in_flight.clone(), |refused, status| {
        (status, refused.to_string()).into_response()
    })
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
        in_flight.close(); // no new uploads; requests without a body still pass
        let drain = async {
            in_flight.drained().await; // those that had begun are stored
            stash.close();
            stash.drained().await;
        };
        let _ = timeout(patience, drain).await;
        stash.close(); // if the time was over before
        stash.clear();
    };
    axum::serve(listener, routes).with_graceful_shutdown(shutdown).await
}

async fn upload(State(stash): State<Uploads>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(user) = user(&headers) else { return StatusCode::UNAUTHORIZED.into_response() };
    match stash.put(user, body).timeout(sleep(Duration::from_secs(5))).await {
        Ok(ticket) => (StatusCode::CREATED, ticket.to_string()).into_response(),
        Err(refused) => {
            let status = StatusCode::from_u16(refused.details().http_status()).expect("a status");
            (status, refused.to_string()).into_response()
        }
    }
}

async fn fetch(
    State(stash): State<Uploads>,
    headers: HeaderMap,
    Path(ticket): Path<String>,
) -> Response {
    let claim = || stash.claim(&ticket.parse::<Ticket>().ok()?, &user(&headers)?);
    claim().map_or(StatusCode::NOT_FOUND.into_response(), |it| {
        Body::new(it.into_body()).into_response()
    })
}

/// In place of your authentication.
fn user(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("x-user")?.to_str().ok()?.to_owned())
}
