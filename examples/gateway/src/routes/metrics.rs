//! `GET /metrics`: for Prometheus. Names no user and no ticket, so it asks for no user.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::prometheus::MEDIA_TYPE;

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, MEDIA_TYPE)], app.describe()).into_response()
}
