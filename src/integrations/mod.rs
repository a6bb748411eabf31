//! What other crates expect, each behind the feature with that crate's name.

#[cfg(feature = "http-body")]
mod http_body;
#[cfg(feature = "serde")]
mod serde;

#[cfg(feature = "http-body")]
pub use self::http_body::ClaimBody;
