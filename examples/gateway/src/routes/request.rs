//! The body of a query: read within a time limit, and checked part by part, so that a refusal names the
//! part that was bad.

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::MAX_REQUEST_BYTES;
use crate::app::App;
use crate::errors::{ApiError, Code};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Format {
    ArrowStream,
    JsonArray,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Disposition {
    #[default]
    Inline,
    ExternalLinks,
}

/// What a client asks for.
#[derive(Debug)]
pub(super) struct QueryRequest {
    pub(super) format: Format,
    pub(super) disposition: Disposition,
    pub(super) parameters: Map<String, Value>,
}

impl QueryRequest {
    pub(super) async fn read(app: &App, request: Request) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::new(
                Code::UnsupportedMediaType,
                "the content-type must be application/json",
            ));
        }
        let too_large = || ApiError::new(Code::RequestTooLarge, "the request is too large");
        // What a client announces need not be waited for.
        if request.body().size_hint().lower() > MAX_REQUEST_BYTES as u64 {
            return Err(too_large());
        }
        let body = Bytes::from_request(request, &());
        let body = tokio::time::timeout(app.config().body_timeout, body).await.map_err(|_| {
            ApiError::new(Code::RequestTimeout, "the body of the request did not arrive in time")
        })?;
        let body = body.map_err(|rejection| match rejection.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(),
            _ => invalid("the body of the request could not be read"),
        })?;
        Self::parse(&body)
    }

    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| invalid(format!("the body is not JSON: {error}")))?;
        let Value::Object(mut fields) = body else {
            return Err(invalid("the body must be a JSON object"));
        };
        let format = field(&mut fields, "format", "ARROW_STREAM or JSON_ARRAY")?
            .ok_or_else(|| invalid("format is missing: it must be ARROW_STREAM or JSON_ARRAY"))?;
        let disposition = field(&mut fields, "disposition", "INLINE or EXTERNAL_LINKS")?;
        let parameters = field(&mut fields, "parameters", "an object")?;
        if fields.is_empty() {
            let (disposition, parameters) =
                (disposition.unwrap_or_default(), parameters.unwrap_or_default());
            Ok(QueryRequest { format, disposition, parameters })
        } else {
            Err(invalid(
                "the body has an unknown field: it may have format, disposition and parameters",
            ))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next());
    media_type.is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"))
}

fn field<T: DeserializeOwned>(
    fields: &mut Map<String, Value>,
    name: &str,
    expected: &str,
) -> Result<Option<T>, ApiError> {
    fields
        .remove(name)
        .map(|value| {
            serde_json::from_value(value).map_err(|_| invalid(format!("{name} must be {expected}")))
        })
        .transpose()
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidRequest, message)
}
