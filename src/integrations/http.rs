//! Converts refusals into HTTP statuses and responses.

use ::http::header::{CONTENT_TYPE, HeaderValue};
use ::http::{Response, StatusCode};

use crate::error::{AcquireError, PutError};
use crate::stash::ReservationError;

/// Converts into the status that [`AcquireError::http_status`] suggests.
///
/// # Examples
///
/// ```
/// # use http::StatusCode;
/// let budget = cloakroom::Budget::new(100);
/// let refused = budget.try_acquire(101).unwrap_err();
/// assert_eq!(StatusCode::from(refused), StatusCode::PAYLOAD_TOO_LARGE);
/// ```
impl From<AcquireError> for StatusCode {
    fn from(error: AcquireError) -> Self {
        StatusCode::from_u16(error.http_status()).expect("is a status")
    }
}

/// Answers a refused request: for `?` where a handler returns a `Result` with a response as its error.
///
/// The status is that of [`AcquireError::http_status`]. The body is the reason alone: the numbers of the error are
/// the server's own. Add a `Retry-After` header from [`Stash::retry_after`](crate::Stash::retry_after) if clients
/// heed it.
///
/// # Examples
///
/// A handler for axum. hyper takes the same with a body of its own.
///
/// ```
/// # use cloakroom::Stash;
/// # type Body = String;
/// # async fn query() -> Vec<u8> { vec![7; 100] }
/// use http::Response;
///
/// async fn run_query(stash: Stash<Vec<u8>, u64>, user: u64) -> Result<String, Response<Body>> {
///     let room = stash.reserve_for(&user, 1_000).await?;
///     Ok(room.put(user, query().await)?.to_string())
/// }
/// # let stash = Stash::builder().max_bytes(500).build().unwrap();
/// # let refused = futures_lite::future::block_on(run_query(stash, 7)).unwrap_err();
/// # assert_eq!((refused.status().as_u16(), &refused.body()[..]), (413, "larger than the limit"));
/// ```
impl<B: From<String>> From<AcquireError> for Response<B> {
    fn from(error: AcquireError) -> Self {
        let mut response = Response::new(B::from(error.reason().to_string()));
        *response.status_mut() = error.into();
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        response
    }
}

/// Drops the payload, and answers as for an [`AcquireError`].
impl<B: From<String>, P> From<PutError<P>> for Response<B> {
    fn from(error: PutError<P>) -> Self {
        AcquireError::from(error).into()
    }
}

/// Drops the payload and the reservation, and answers as for an [`AcquireError`].
impl<B: From<String>, P, O> From<ReservationError<P, O>> for Response<B> {
    fn from(error: ReservationError<P, O>) -> Self {
        AcquireError::from(error).into()
    }
}
