//! The integration tests that need no process of their own, one module for each topic.
//!
//! Names that begin with a letter and a number are those of the contract's scenarios: C1 to C17, the
//! original's defects D1 to D6, and B1 to B10 for what goes beyond the original.
#![cfg(not(cloakroom_loom))]

#[macro_use]
mod executors;
mod fixtures;
#[path = "../oracle/mod.rs"]
mod oracle;
#[path = "../support/mod.rs"]
mod support;

mod auto_traits;
mod bad_input;
mod claims;
mod conformance;
mod contract;
mod delivery;
mod documented;
mod ending_threads;
mod expiry;
#[cfg(feature = "http-body")]
mod http_body;
#[cfg(all(feature = "metrics", feature = "serde", feature = "tracing"))]
mod integrations;
mod others_bugs;
mod owners;
mod panics;
#[cfg(not(target_family = "wasm"))]
mod platforms;
mod properties;
mod queue;
mod reentrancy;
mod refusals;
mod renew;
mod reserve;
mod shutdown;
mod stats_and_events;
mod tickets;
#[cfg(feature = "tower")]
mod tower;
mod unsent;
mod waiting;
mod weigher;
