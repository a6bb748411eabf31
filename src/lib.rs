#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod blocking;
mod budget;
mod cloakroom;
mod clock;
mod error;
mod integrations;
#[cfg(cloakroom_loom)]
#[doc(hidden)]
pub mod loom_internals;
mod observe;
mod payload;
mod slots;
mod stash;
mod sync;
mod ticket;

pub use budget::{Acquire, Budget, Drained, Permit};
pub use cloakroom::{Cloakroom, CloakroomClaim, CloakroomReservation, Failure, Numbers, Rejected};
pub use clock::{Clock, ManualClock};
pub use error::{AcquireError, ConfigError, PutError, Refusal};
#[cfg(feature = "http-body")]
pub use integrations::ClaimBody;
#[cfg(feature = "metrics")]
pub use observe::MetricsObserver;
#[cfg(feature = "tracing")]
pub use observe::TracingObserver;
pub use observe::{Event, Observer};
pub use payload::Payload;
pub use stash::{
    Builder, Claim, OnDrop, Put, PutOptions, Reaper, Refused, Reservation, ReservationError,
    Reserve, Stash, Stats,
};
pub use ticket::{ParseTicketError, Ticket};
