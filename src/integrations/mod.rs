//! Connects to other crates' traits, each behind the feature with that crate's name.

#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http-body")]
mod http_body;
#[cfg(feature = "serde")]
mod serde;
#[cfg(feature = "stream")]
mod stream;
#[cfg(feature = "tower")]
mod tower;
#[cfg(feature = "uuid")]
mod uuid;

#[cfg(feature = "http-body")]
pub use self::http_body::ClaimBody;
#[cfg(feature = "stream")]
pub use self::stream::{ClaimItems, ClaimStream};
#[cfg(feature = "tower")]
pub use self::tower::{PermitBody, RequestBytesFuture, RequestBytesLayer, RequestBytesService};

/// The largest part that is handed to a server at once.
///
/// A server holds few of them at a time, so the parts that it has not asked for can be told from those that
/// it has.
#[cfg(any(feature = "http-body", feature = "stream"))]
const FRAME: usize = 64 << 10;
