//! An analytics gateway: a query answers with a statement id, a second request brings the id and takes
//! the Arrow result.
//!
//! Between the two requests the result waits in a [`cloakroom::Stash`]: bounded in bytes, handed out
//! once and to its owner only, freed when its time is over. When the stash is full, a query waits its
//! turn for a short while; when that is over, the bytes it already has go out by another way, and the
//! query is never run again.
//!
//! [`server`] binds and stops, [`app`] holds what the requests share, [`routes`] is the HTTP surface.

#![warn(missing_debug_implementations)]

pub mod app;
pub mod arrow;
pub mod catalog;
pub mod check;
pub mod client;
pub mod config;
pub mod errors;
pub mod external;
pub mod inline;
pub mod json;
pub mod links;
pub mod metrics;
pub mod owner;
pub mod routes;
pub mod sample;
pub mod server;
pub mod sse;
pub mod warehouse;
