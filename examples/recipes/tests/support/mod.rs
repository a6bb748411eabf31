//! What the tests of several servers share.
#![allow(dead_code, reason = "no test needs all of it")]

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloakroom::Stash;

/// For what ends long before.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) type Results = Stash<Bytes, String>;

pub(crate) fn results() -> Results {
    Stash::builder().max_bytes(60 << 20).entry_overhead(0).ttl(LONG).build().unwrap()
}

/// The rows of a query's result.
pub(crate) fn rows(rows: u64) -> Bytes {
    (0..rows).map(|row| row as u8).collect()
}

/// Waits until it holds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Awaits a future that must end by itself.
pub(crate) async fn ends<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("it does not end")
}
