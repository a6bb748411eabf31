//! Who is asking.
//!
//! The gateway stands behind a proxy that signs users in and names them in `x-forwarded-user`. A
//! request without a name is refused: an anonymous owner would be shared by everybody.

use std::fmt;
use std::sync::Arc;

use axum::extract::FromRequestParts;
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

impl<S: Sync> FromRequestParts<S> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        // Two names are nobody: which of them the proxy meant cannot be told.
        let mut names = parts.headers.get_all(USER_HEADER).iter();
        match (names.next(), names.next()) {
            (Some(name), None) => name.to_str().ok().and_then(Owner::new),
            _ => None,
        }
        .ok_or_else(|| ApiError::new(Code::Unauthenticated, "the request names no user"))
    }
}
