//! A memory-bounded, drain-on-read stash.

mod blocking;
mod budget;
mod error;
mod sync;

pub use budget::{Acquire, Budget, Permit};
pub use error::{AcquireError, ConfigError, PutError, Refusal};
