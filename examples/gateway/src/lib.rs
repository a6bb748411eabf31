//! An analytics gateway: a query answers with a statement id, a second request brings the id and takes
//! the Arrow result.
//!
//! Between the two requests the result waits in a [`cloakroom::Stash`]: bounded in bytes, handed out
//! once and to its owner only, freed when its time is over. A query takes room before it runs. When there
//! is none, it waits its turn for a short while; then its result goes another way, or it is refused
//! without having run.
//!
//! [`server`] binds and stops, [`app`] holds what the requests share, [`routes`] is the HTTP surface.

#![warn(missing_debug_implementations)]

pub mod app;
pub mod arrow;
pub mod catalog;
pub mod check;
pub mod client;
pub mod config;
mod connections;
pub mod engine;
pub mod errors;
pub mod estimate;
pub mod external;
pub mod guarded;
pub mod inline;
pub mod json;
pub mod links;
pub mod metrics;
pub mod owner;
pub mod prometheus;
pub mod routes;
pub mod sample;
pub mod server;
pub mod sse;
pub mod warehouse;
