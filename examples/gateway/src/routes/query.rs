//! `POST /api/analytics/query/{key}`: runs a query and tells over an event stream where its result is.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rusqlite::Rows;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::app::App;
use crate::catalog::{Column, Query};
use crate::errors::{ApiError, Code};
use crate::external::ExternalResults;
use crate::inline::{Reason, Refused};
use crate::owner::Owner;
use crate::sse::{Answer, warehouse_status};
use crate::warehouse::{ExecutionError, Statement};
use crate::{arrow, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Format {
    ArrowStream,
    JsonArray,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Disposition {
    #[default]
    Inline,
    ExternalLinks,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryRequest {
    format: Format,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// Where a statement's result is to go.
enum Destination {
    /// Into the event stream, as rows.
    Events,
    /// Into the stash.
    Stash,
    /// Into a file, because the client asked for one.
    Link(Arc<ExternalResults>),
}

/// Tells proxies not to hold events back.
const NO_BUFFERING: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

pub(super) async fn run(
    State(app): State<Arc<App>>,
    owner: Owner,
    key: Result<Path<String>, PathRejection>,
    request: Result<Json<QueryRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let query = key.ok().and_then(|Path(key)| Query::find(&key));
    let query = query
        .ok_or_else(|| ApiError::new(Code::QueryNotFound, "there is no query of that name"))?;
    let Json(request) = request.map_err(|rejection| bad_request(&rejection))?;
    let destination = destination(&app, &request)?;
    let bindings = query
        .bind(request.parameters)
        .map_err(|bad| ApiError::new(Code::InvalidParameters, bad.to_string()))?;
    if app.is_closing() {
        return Err(ApiError::shutting_down());
    }

    app.metrics().queries.add_one();
    let statement = Statement::new(query, bindings);
    let keep_alive = KeepAlive::new().interval(app.config().keep_alive);
    let status = warehouse_status(statement.id, app.config().behaviour);
    // The stream owns the whole work: when the client goes away, the server drops the stream, and
    // with it the place in line.
    let answer = async move {
        let answer = answer(&app, &owner, &statement, destination).await;
        answer.unwrap_or_else(Answer::Refused).to_event()
    };
    let events = stream::iter([status]).chain(stream::once(answer)).map(Ok::<_, Infallible>);
    Ok(([NO_BUFFERING], Sse::new(events).keep_alive(keep_alive)).into_response())
}

fn bad_request(rejection: &JsonRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(Code::RequestTooLarge, "the request is too large");
    }
    ApiError::new(
        Code::InvalidRequest,
        "the request must be JSON with a format of ARROW_STREAM or JSON_ARRAY, parameters, \
         and if you like a disposition of INLINE or EXTERNAL_LINKS",
    )
}

fn destination(app: &App, request: &QueryRequest) -> Result<Destination, ApiError> {
    match (request.format, request.disposition) {
        (Format::JsonArray, Disposition::Inline) => Ok(Destination::Events),
        (Format::ArrowStream, Disposition::Inline) => Ok(Destination::Stash),
        (Format::ArrowStream, Disposition::ExternalLinks) => {
            Ok(Destination::Link(Arc::clone(app.external()?)))
        }
        (Format::JsonArray, Disposition::ExternalLinks) => Err(ApiError::new(
            Code::InvalidRequest,
            "EXTERNAL_LINKS are for results in the format ARROW_STREAM",
        )),
    }
}

/// Runs the statement, once, and finds a way out for its result.
async fn answer(
    app: &App,
    owner: &Owner,
    statement: &Statement,
    destination: Destination,
) -> Result<Answer, ApiError> {
    match destination {
        Destination::Events => {
            let rows = execute(app, statement, json::encode).await?;
            let columns = statement.query.columns;
            Ok(Answer::Rows { columns, rows })
        }
        Destination::Stash => {
            let payload = execute(app, statement, arrow::encode).await?;
            stash(app, owner, statement, payload).await
        }
        Destination::Link(external) => {
            let payload = execute(app, statement, arrow::encode).await?;
            publish(&external, owner, statement, payload).await
        }
    }
}

async fn execute<T: Send + 'static>(
    app: &App,
    statement: &Statement,
    encode: fn(&'static [Column], Rows<'_>) -> Result<T, ExecutionError>,
) -> Result<T, ApiError> {
    let executed = app.warehouse().execute(statement, encode).await;
    executed.map_err(|error| ApiError::internal(&error))
}

/// Stores the result, or sends the same bytes another way if there is one.
async fn stash(
    app: &App,
    owner: &Owner,
    statement: &Statement,
    payload: Bytes,
) -> Result<Answer, ApiError> {
    let Refused { reason, payload } = match app.inline().put(owner, payload).await {
        Ok(id) => return Ok(Answer::Inline { id }),
        Err(refused) => refused,
    };
    if reason == Reason::Closed {
        return Err(ApiError::shutting_down());
    }
    if let Ok(external) = app.external() {
        app.metrics().fallbacks.add_one();
        return publish(external, owner, statement, payload).await;
    }
    app.metrics().refusals.add_one();
    Err(no_way_out(app, reason))
}

async fn publish(
    external: &ExternalResults,
    owner: &Owner,
    statement: &Statement,
    payload: Bytes,
) -> Result<Answer, ApiError> {
    let published = external.publish(statement.id, owner.clone(), payload).await;
    let link = published.map_err(|error| ApiError::internal(&error))?;
    Ok(Answer::External { statement: statement.id, link })
}

fn no_way_out(app: &App, reason: Reason) -> ApiError {
    match reason {
        Reason::TooLarge => ApiError::new(
            Code::ResultTooLarge,
            "the result is larger than what can be returned inline",
        ),
        Reason::Full | Reason::Closed => {
            ApiError::new(Code::StashExhausted, "too many results are waiting to be fetched")
                .retry_after(app.inline().wait())
        }
    }
}
