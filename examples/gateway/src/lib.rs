//! An analytics gateway: a query answers with a statement id, a second request brings the id and takes
//! the Arrow result.
//!
//! Between the two requests the result waits in a [`cloakroom::Stash`]: bounded in bytes, delivered once and
//! to its owner only, removed when it expires. A query reserves its bytes before it runs. When the stash is
//! full, it waits in the queue for a short time. Then its result is sent as a file, or the query is refused
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
