#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    target_family = "wasm",
    allow(dead_code, unused_imports, reason = "only the calls that block use it")
)]

#[cfg(not(target_has_atomic = "64"))]
compile_error!("cloakroom needs 64-bit atomics, which this target does not have");

#[cfg(not(target_family = "wasm"))]
mod blocking;
mod budget;
mod clock;
mod contract;
#[cfg(cloakroom_count)]
#[doc(hidden)]
pub mod count_internals;
mod error;
mod give_up;
mod integrations;
#[cfg(cloakroom_loom)]
#[doc(hidden)]
pub mod loom_internals;
mod maybe_owned;
mod observe;
mod payload;
mod secrets;
mod slots;
mod stash;
mod sync;
mod ticket;

pub use budget::{Acquire, Budget, BudgetStats, Drained, Permit};
pub use clock::{Clock, ManualClock};
pub use contract::{Cloakroom, CloakroomClaim, CloakroomReservation, Failure, Numbers, Rejected};
pub use error::{AcquireError, ConfigError, PutError, Refusal};
pub use give_up::{GiveUp, Never, Until};
#[cfg(feature = "http-body")]
pub use integrations::ClaimBody;
#[cfg(feature = "stream")]
pub use integrations::{ClaimItems, ClaimStream};
#[cfg(feature = "tower")]
pub use integrations::{PermitBody, RequestBytesFuture, RequestBytesLayer, RequestBytesService};
#[cfg(feature = "metrics")]
pub use observe::MetricsObserver;
#[cfg(feature = "tracing")]
pub use observe::TracingObserver;
pub use observe::{Event, Observer};
pub use payload::{Payload, Weigher};
pub use stash::{
    Builder, Chunks, Claim, ClaimReader, Contiguous, OnDrop, Put, PutOptions, Reaper, Refused,
    Reservation, ReservationError, Reserve, Stash, Stats, Unsent,
};
pub use ticket::{ParseTicketError, Ticket};

/// The examples of the guide, as doctests.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
pub struct Guide;
