#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admit;
mod blocking;
mod budget;
mod builder;
mod claim;
mod clock;
mod error;
mod integrations;
#[cfg(loom)]
#[doc(hidden)]
pub mod model;
mod observer;
mod payload;
mod put;
mod reaper;
mod reserve;
mod slots;
mod stash;
mod stats;
mod sync;
mod ticket;

pub use budget::{Acquire, Budget, Drained, Permit};
pub use builder::Builder;
pub use claim::{Claim, OnDrop};
pub use clock::{Clock, ManualClock};
pub use error::{AcquireError, ConfigError, PutError, Refusal};
#[cfg(feature = "http-body")]
pub use integrations::ClaimBody;
#[cfg(feature = "metrics")]
pub use integrations::MetricsObserver;
#[cfg(feature = "tracing")]
pub use integrations::TracingObserver;
pub use observer::{Event, Observer};
pub use payload::Payload;
pub use put::{Put, PutOptions};
pub use reaper::Reaper;
pub use reserve::{Reservation, ReservationError, Reserve};
pub use stash::Stash;
pub use stats::{Refused, Stats};
pub use ticket::{ParseTicketError, Ticket};
