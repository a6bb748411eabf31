//! The user of a request.
//!
//! The gateway stands behind a proxy that signs users in and names them in `x-forwarded-user`. A
//! request without a name is refused: an anonymous owner would be shared by everybody.

use std::fmt;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::errors::{ApiError, Code};

/// The header in which the proxy names the user.
pub const USER_HEADER: &str = "x-forwarded-user";

/// The user a result belongs to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Owner(Arc<str>);

impl Owner {
    /// The owner of that name, unless the name is blank.
    pub fn new(name: &str) -> Option<Self> {
        let name = name.trim();
        (!name.is_empty()).then(|| Owner(Arc::from(name)))
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// The name as a key that is cheap to clone.
    pub fn to_key(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// Logs must not name users.
impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner(..)")
    }
}

impl Owner {
    /// The user whom the proxy names in `headers`.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let refuse = |why: &str| {
            let message = format!("the request names no user: {USER_HEADER} {why}");
            Err(ApiError::new(Code::Unauthenticated, message))
        };
        let mut names = headers.get_all(USER_HEADER).iter();
        match (names.next(), names.next()) {
            (None, _) => refuse("is missing"),
            // Two names are refused: the gateway cannot tell which one the proxy meant.
            (Some(_), Some(_)) => refuse("is there more than once"),
            (Some(name), None) => match name.to_str().map(Owner::new) {
                Ok(Some(owner)) => Ok(owner),
                Ok(None) => refuse("is blank"),
                Err(_) => refuse("is not plain text"),
            },
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Owner::of(&parts.headers)
    }
}
