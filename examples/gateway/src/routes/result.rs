//! `GET /api/analytics/arrow-result/{id}`, and the links that it redirects to.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use crate::app::App;
use crate::arrow;
use crate::errors::{ApiError, Code};
use crate::external::OpenError;
use crate::inline::{Delivery, ID_PREFIX, Opened, Peeked};
use crate::links::{LinkError, LinkQuery};
use crate::owner::Owner;

/// The delay after which a download that was refused because another runs may be tried again.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// Sends a stashed result, which is delivered with its last byte, or redirects to an external one.
pub(super) async fn arrow_result(
    State(app): State<Arc<App>>,
    owner: Owner,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| unknown_statement())?;
    match id.strip_prefix(ID_PREFIX) {
        Some(ticket) => inline_result(&app, ticket, &owner).await,
        None => redirect_to_link(&app, &id, &owner),
    }
}

/// Answers as [`arrow_result`] does, without the result and without claiming it for delivery.
pub(super) async fn head_of_arrow_result(
    State(app): State<Arc<App>>,
    owner: Owner,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| unknown_statement())?;
    let Some(ticket) = id.strip_prefix(ID_PREFIX) else {
        return redirect_to_link(&app, &id, &owner);
    };
    match app.inline().peek(ticket, &owner).await {
        Peeked::There(bytes) => Ok(arrow_stream(Delivery { bytes, body: Body::empty() })),
        Peeked::Busy => Err(busy()),
        Peeked::Gone => Err(gone()),
        Peeked::Malformed => Err(unknown_statement()),
        Peeked::Unreachable => Err(ApiError::stash_unreachable()),
    }
}

async fn inline_result(app: &App, ticket: &str, owner: &Owner) -> Result<Response, ApiError> {
    match app.inline().open(ticket, owner).await {
        Opened::Delivery(delivery) => Ok(arrow_stream(delivery)),
        Opened::Busy => Err(busy()),
        Opened::Gone => Err(gone()),
        Opened::Malformed => Err(unknown_statement()),
        // The result may still be there, so this is not 410.
        Opened::Unreachable => Err(ApiError::stash_unreachable()),
    }
}

fn redirect_to_link(app: &App, id: &str, owner: &Owner) -> Result<Response, ApiError> {
    let id = Uuid::try_parse(id).map_err(|_| unknown_statement())?;
    // A warehouse without links has no such statement.
    let external = app.external().map_err(|_| unknown_statement())?;
    let link = external.find(id, owner).ok_or_else(unknown_statement)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Redirect::temporary(&link.url)).into_response())
}

/// Serves the file behind a link. The signature is the permission.
pub(super) async fn external_result(
    State(app): State<Arc<App>>,
    id: Result<Path<Uuid>, PathRejection>,
    query: Result<Query<LinkQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (Ok(Path(id)), Ok(Query(query)), Ok(external)) = (id, query, app.external()) else {
        return Err(invalid_link());
    };
    let found = external.open(id, &query).await.map_err(|error| match error {
        OpenError::Link(LinkError::Tampered) => invalid_link(),
        OpenError::Link(LinkError::Expired) => {
            ApiError::new(Code::LinkExpired, "this link has expired")
        }
        OpenError::Unreadable(error) => ApiError::internal(&error),
    })?;
    let body = Body::from_stream(ReaderStream::new(found.file));
    Ok(arrow_stream(Delivery { bytes: found.bytes, body }))
}

fn arrow_stream(delivery: Delivery) -> Response {
    let headers = [
        (header::CONTENT_TYPE, arrow::MEDIA_TYPE.to_owned()),
        (header::CONTENT_LENGTH, delivery.bytes.to_string()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        // Ranges are not supported: bytes that have been sent are not kept.
        (header::ACCEPT_RANGES, "none".to_owned()),
    ];
    (headers, delivery.body).into_response()
}

fn busy() -> ApiError {
    ApiError::new(Code::ResultBusy, "this result is being downloaded").retry_after(BUSY_RETRY)
}

fn gone() -> ApiError {
    ApiError::new(Code::ResultGone, "there is no such result, or no longer")
}

fn unknown_statement() -> ApiError {
    ApiError::new(Code::StatementNotFound, "there is no such statement")
}

fn invalid_link() -> ApiError {
    ApiError::new(Code::LinkInvalid, "this link is not valid")
}
