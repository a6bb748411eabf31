//! `POST /api/analytics/query/{key}`: runs a query, and sends the location of its result in an event stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::HeaderName;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future, poll, stream};
use rusqlite::Rows;

use super::request::{Disposition, Format, QueryRequest};
use crate::app::App;
use crate::catalog::{Column, Query};
use crate::errors::{ApiError, Code};
use crate::external::ExternalResults;
use crate::inline::{Reason, Refused, Reserving};
use crate::owner::Owner;
use crate::sse::{Answer, warehouse_status};
use crate::warehouse::{ExecutionError, Statement};
use crate::{arrow, json};

/// Where a client wants its result.
enum Wanted {
    Rows,
    Inline,
    Link(Arc<ExternalResults>),
}

/// Where to send the result of a statement.
enum Destination {
    /// Into the event stream, as rows.
    Events,
    /// Into the stash, which is being asked for its bytes.
    Stash(Reserving),
    /// Into a file, because the client asked for one.
    Link(Arc<ExternalResults>),
}

/// The delay after which a refused query may be tried again, where no query waits.
const RETRY: Duration = Duration::from_secs(1);

/// Tells proxies not to hold events back.
pub(super) const NO_BUFFERING: (HeaderName, &str) =
    (HeaderName::from_static("x-accel-buffering"), "no");

pub(super) async fn run(
    State(app): State<Arc<App>>,
    owner: Owner,
    key: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = key.ok().and_then(|Path(key)| Query::find(&key));
    let query = query
        .ok_or_else(|| ApiError::new(Code::QueryNotFound, "there is no query of that name"))?;
    let request = QueryRequest::read(&app, request).await?;
    let wanted = wanted(&app, &request)?;
    let bindings = query
        .bind(request.parameters)
        .map_err(|bad| ApiError::new(Code::InvalidParameters, bad.to_string()))?;
    if app.is_closing() {
        return Err(ApiError::shutting_down());
    }

    let statement = Statement::new(query, bindings);
    let (destination, waits) = match wanted {
        Wanted::Rows => (Destination::Events, false),
        Wanted::Link(external) => (Destination::Link(external), false),
        Wanted::Inline => {
            let (reserving, waits) = reserve(&app, &owner, &statement).await?;
            (Destination::Stash(reserving), waits)
        }
    };
    app.metrics().queries.add_one();
    let keep_alive = KeepAlive::new().interval(app.config().keep_alive);
    let status = warehouse_status(statement.id, app.config().behaviour, waits);
    // The stream owns all of the work. When the client disconnects, the server drops the stream, which leaves
    // the queue.
    let answer = async move {
        let answer = answer(&app, &owner, &statement, destination).await;
        answer.unwrap_or_else(Answer::Refused).to_event()
    };
    let events = stream::iter([status]).chain(stream::once(answer)).map(Ok::<_, Infallible>);
    Ok(([NO_BUFFERING], Sse::new(events).keep_alive(keep_alive)).into_response())
}

fn wanted(app: &App, request: &QueryRequest) -> Result<Wanted, ApiError> {
    match (request.format, request.disposition) {
        (Format::JsonArray, Disposition::Inline) => Ok(Wanted::Rows),
        (Format::ArrowStream, Disposition::Inline) => Ok(Wanted::Inline),
        (Format::ArrowStream, Disposition::ExternalLinks) => {
            Ok(Wanted::Link(Arc::clone(app.external()?)))
        }
        (Format::JsonArray, Disposition::ExternalLinks) => Err(ApiError::new(
            Code::InvalidRequest,
            "EXTERNAL_LINKS are for results in the format ARROW_STREAM",
        )),
    }
}

/// Reserves the bytes of the result before the statement runs, so that no statement runs in vain. An
/// immediate refusal has an HTTP status of its own. A query that has to wait does so in the event stream.
async fn reserve(
    app: &App,
    owner: &Owner,
    statement: &Statement,
) -> Result<(Reserving, bool), ApiError> {
    let likely = app.warehouse().likely_bytes(statement);
    let mut reserving = app.inline().reserve(owner, likely);
    let prompt = app.inline().prompt();
    let first = if prompt.is_zero() {
        poll!(&mut reserving)
    } else {
        // Over a network the first poll has no answer yet. A little longer than the store's own patience.
        tokio::time::timeout(prompt * 2, &mut reserving).await.map_or(Poll::Pending, Poll::Ready)
    };
    match first {
        Poll::Pending => Ok((reserving, true)),
        Poll::Ready(outcome) => {
            if let Err(reason) = &outcome {
                another_way(app, *reason)?;
            }
            Ok((future::ready(outcome).boxed(), false))
        }
    }
}

/// Runs the statement, at most once, and delivers its result.
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
        Destination::Stash(reserving) => stash(app, owner, statement, reserving).await,
        Destination::Link(external) => {
            let payload = execute(app, statement, arrow::encode).await?;
            publish(&external, owner, statement, payload).await
        }
    }
}

async fn execute<T: Send + 'static>(
    app: &App,
    statement: &Statement,
    encode: impl FnOnce(&'static [Column], Rows<'_>) -> Result<T, ExecutionError> + Send + 'static,
) -> Result<T, ApiError> {
    let executed = app.warehouse().execute(statement, encode).await;
    executed.map_err(|error| ApiError::internal(&error))
}

/// Waits for the reservation, runs the statement and stores its result. If the wait fails, the result is sent
/// as a file where that is allowed. Otherwise the statement does not run.
async fn stash(
    app: &App,
    owner: &Owner,
    statement: &Statement,
    reserving: Reserving,
) -> Result<Answer, ApiError> {
    let room = match reserving.await {
        Ok(room) => room,
        Err(reason) => {
            let external = another_way(app, reason)?;
            let payload = execute(app, statement, arrow::encode).await?;
            return fall_back(app, external, owner, statement, payload).await;
        }
    };
    // The producing thread owns the reservation meanwhile. When the client disconnects, it is released
    // together with the bytes, and not before.
    let encode = |columns, rows: Rows<'_>| Ok((arrow::encode(columns, rows)?, room));
    let (payload, room) = execute(app, statement, encode).await?;
    match room.put(payload).await {
        Ok(id) => Ok(Answer::Inline { id }),
        // The result exceeds its reservation, and the stash is full. The same bytes are sent as a file; the
        // statement does not run again.
        Err(Refused { reason, payload }) => {
            fall_back(app, another_way(app, reason)?, owner, statement, payload).await
        }
    }
}

async fn fall_back(
    app: &App,
    external: &ExternalResults,
    owner: &Owner,
    statement: &Statement,
    payload: Bytes,
) -> Result<Answer, ApiError> {
    let answer = publish(external, owner, statement, payload).await?;
    app.metrics().fallbacks.add_one();
    Ok(answer)
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

/// Where a result is sent that the stash has refused. An owner that holds too much must not avoid its limit
/// by links. When the queue is full, a file would add to the load.
fn another_way(app: &App, reason: Reason) -> Result<&ExternalResults, ApiError> {
    let later = match app.inline().wait() {
        Duration::ZERO => RETRY,
        wait => wait,
    };
    let error = match reason {
        Reason::Closed => return Err(ApiError::shutting_down()),
        Reason::Full | Reason::TimedOut | Reason::TooLarge | Reason::Unreachable
            if app.external().is_ok() =>
        {
            return app.external().map(|external| &**external);
        }
        Reason::TooLarge => ApiError::new(
            Code::ResultTooLarge,
            "the result is larger than what can be returned inline",
        ),
        Reason::Full | Reason::TimedOut => {
            ApiError::new(Code::StashExhausted, "too many results are waiting to be fetched")
                .retry_after(later)
        }
        Reason::Unreachable => ApiError::stash_unreachable(),
        Reason::QueueFull => {
            ApiError::new(Code::QueueFull, "too many queries are waiting for room")
                .retry_after(later)
        }
        Reason::OwnerFull => {
            ApiError::new(Code::OwnerFull, "you have too many results to fetch").retry_after(later)
        }
    };
    app.metrics().refusals.add_one();
    Err(error)
}
