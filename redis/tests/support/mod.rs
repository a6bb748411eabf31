//! What the tests share: engines of their own, and the audit of what is on them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod audit;
pub(crate) mod proxy;
pub(crate) mod replica;
pub(crate) mod server;

use std::future::Future;
use std::time::{Duration, Instant};

/// Waits until the condition holds; panics with what was last seen if it takes too long.
pub(crate) async fn eventually<T: std::fmt::Debug, F: Future<Output = T>>(
    what: &str,
    mut look: impl FnMut() -> F,
    holds: impl Fn(&T) -> bool,
) -> T {
    let began = Instant::now();
    loop {
        let seen = look().await;
        if holds(&seen) {
            return seen;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{what}: still {seen:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the future completes; panics if it takes too long.
#[allow(dead_code, reason = "not each test binary waits so")]
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Distinguishable by size.
pub(crate) fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at + size) as u8).collect()
}
