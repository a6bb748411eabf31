//! What other crates expect, each behind the feature with that crate's name.

#[cfg(feature = "http-body")]
mod http_body;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "serde")]
mod serde;
#[cfg(feature = "tracing")]
mod tracing;

#[cfg(feature = "http-body")]
pub use self::http_body::ClaimBody;
#[cfg(feature = "metrics")]
pub use self::metrics::MetricsObserver;
#[cfg(feature = "tracing")]
pub use self::tracing::TracingObserver;
