//! The HTTP surface. Every refusal, from whatever layer, is JSON with a stable code.

mod live;
mod metrics;
mod page;
mod query;
mod request;
mod result;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use crate::app::App;
use crate::errors::{ApiError, Code};
use crate::links;

pub(crate) use self::page::read_apache_arrow;

/// A request is a key and a few values.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// All routes over `app`.
pub fn router(app: Arc<App>) -> Router {
    // A GET route answers HEAD too by default, and would claim the result to answer with its head.
    let arrow_result = get(result::arrow_result).head(result::head_of_arrow_result);
    Router::new()
        .route("/api/analytics/query/{key}", post(query::run))
        .route("/api/analytics/arrow-result/{id}", arrow_result)
        .route("/", get(page::index))
        .route("/page/apache-arrow.js", get(page::apache_arrow))
        .route("/page/session.json", get(page::session))
        .route("/page/{file}", get(page::asset))
        .route("/stash/events", get(live::events))
        .route("/metrics", get(metrics::metrics))
        .route(&format!("{}/{{id}}", links::PATH), get(result::external_result))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(app)
}

async fn not_found() -> ApiError {
    ApiError::new(Code::NotFound, "there is nothing here")
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(Code::MethodNotAllowed, "this method does not apply here")
}
