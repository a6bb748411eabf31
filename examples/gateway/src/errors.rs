//! Errors as clients see them: a stable code and a sentence, without internals.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The codes clients may rely on. Each has one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Unauthenticated,
    NotFound,
    MethodNotAllowed,
    InvalidRequest,
    InvalidParameters,
    RequestTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
    QueryNotFound,
    StatementNotFound,
    ResultGone,
    ResultBusy,
    LinkInvalid,
    LinkExpired,
    NotImplemented,
    StashExhausted,
    QueueFull,
    OwnerFull,
    ResultTooLarge,
    StashUnreachable,
    ShuttingDown,
    Internal,
}

impl Code {
    /// The code as it goes over the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Unauthenticated => "UNAUTHENTICATED",
            Code::NotFound => "NOT_FOUND",
            Code::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Code::InvalidRequest => "INVALID_REQUEST",
            Code::InvalidParameters => "INVALID_PARAMETERS",
            Code::RequestTooLarge => "REQUEST_TOO_LARGE",
            Code::RequestTimeout => "REQUEST_TIMEOUT",
            Code::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Code::QueryNotFound => "QUERY_NOT_FOUND",
            Code::StatementNotFound => "STATEMENT_NOT_FOUND",
            Code::ResultGone => "RESULT_GONE",
            Code::ResultBusy => "RESULT_BUSY",
            Code::LinkInvalid => "LINK_INVALID",
            Code::LinkExpired => "LINK_EXPIRED",
            Code::NotImplemented => "NOT_IMPLEMENTED",
            Code::StashExhausted => "INLINE_ARROW_STASH_EXHAUSTED",
            Code::QueueFull => "INLINE_ARROW_QUEUE_FULL",
            Code::OwnerFull => "INLINE_ARROW_OWNER_FULL",
            Code::ResultTooLarge => "INLINE_ARROW_RESULT_TOO_LARGE",
            Code::StashUnreachable => "STASH_UNREACHABLE",
            Code::ShuttingDown => "SHUTTING_DOWN",
            Code::Internal => "INTERNAL",
        }
    }

    /// The HTTP status; inside an event stream, where the status line is gone, it is sent as a field.
    pub fn status(self) -> StatusCode {
        match self {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::NotFound | Code::QueryNotFound | Code::StatementNotFound => StatusCode::NOT_FOUND,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::InvalidRequest | Code::InvalidParameters => StatusCode::BAD_REQUEST,
            Code::RequestTooLarge | Code::ResultTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::ResultGone | Code::LinkExpired => StatusCode::GONE,
            Code::LinkInvalid => StatusCode::FORBIDDEN,
            Code::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Code::ResultBusy => StatusCode::CONFLICT,
            Code::OwnerFull => StatusCode::TOO_MANY_REQUESTS,
            Code::StashExhausted
            | Code::QueueFull
            | Code::StashUnreachable
            | Code::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    code: Code,
    message: String,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// `message` is sent to the client, so it must not describe the inside of the gateway.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        ApiError { code, message: message.into(), retry_after: None }
    }

    /// Sets the delay after which the same request may succeed.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Logs the cause, and sends the client a general error.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        ApiError::new(Code::Internal, "the request could not be completed")
    }

    /// Reports that the engine of a shared stash does not answer.
    pub fn stash_unreachable() -> Self {
        ApiError::new(Code::StashUnreachable, "the results cannot be reached now")
            .retry_after(Duration::from_secs(1))
    }

    pub fn shutting_down() -> Self {
        ApiError::new(Code::ShuttingDown, "the gateway is shutting down")
            .retry_after(Duration::from_secs(1))
    }

    pub fn code(&self) -> Code {
        self.code
    }

    /// The body of a JSON error, and the data of an `error` event.
    pub fn to_json(&self) -> Value {
        let mut error = json!({
            "code": self.code.as_str(),
            "status": self.code.status().as_u16(),
            "message": self.message,
        });
        if let Some(delay) = self.retry_after {
            error["retryAfterMs"] = json!(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        }
        json!({ "type": "error", "error": error })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), Json(self.to_json())).into_response();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(delay) = self.retry_after {
            // The header counts whole seconds. Rounded up, so that no client returns too early.
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
