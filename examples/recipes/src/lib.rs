//! A stash behind servers of several kinds. Each file stands alone and can be copied.
//!
//! All of them do the same: a request runs a query and is answered with a ticket, a second request of the same user
//! fetches the result once, and a shutdown waits until the results are fetched. The tests drive them with real
//! clients over loopback.

#[cfg(feature = "actix")]
pub mod actix_server;
#[cfg(feature = "flight")]
pub mod arrow_flight_server;
pub mod axum_server;
pub mod hyper_on_smol;
pub mod threads;
pub mod upload_limit;
