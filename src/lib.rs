#![doc = include_str!("../README.md")]

mod blocking;
mod budget;
mod builder;
mod clock;
mod error;
#[cfg(loom)]
#[doc(hidden)]
pub mod model;
mod payload;
mod put;
mod reaper;
mod slots;
mod stash;
mod sync;
mod ticket;

pub use budget::{Acquire, Budget, Permit};
pub use builder::Builder;
pub use clock::{Clock, ManualClock};
pub use error::{AcquireError, ConfigError, PutError, Refusal};
pub use payload::Payload;
pub use put::Put;
pub use reaper::Reaper;
pub use stash::Stash;
pub use ticket::{ParseTicketError, Ticket};
