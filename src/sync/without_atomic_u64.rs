//! Replaces the missing type on targets without 64-bit atomics.
//!
//! It re-exports the rest of `std::sync::atomic`. The replacement has no working method: it is there so that
//! the error in `lib.rs` is the only one. No build succeeds with it.

#[allow(unused_imports, reason = "which are used depends on the features")]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

#[derive(Debug, Default)]
pub(crate) struct AtomicU64;

macro_rules! missing {
    ($($method:ident($($argument:ty),*) -> $result:ty;)*) => {
        impl AtomicU64 {
            pub(crate) const fn new(_: u64) -> Self {
                Self
            }
            $(pub(crate) fn $method(&self, $(_: $argument),*) -> $result {
                unreachable!()
            })*
        }
    };
}

missing! {
    load(Ordering) -> u64;
    store(u64, Ordering) -> ();
    swap(u64, Ordering) -> u64;
    compare_exchange(u64, u64, Ordering, Ordering) -> Result<u64, u64>;
    compare_exchange_weak(u64, u64, Ordering, Ordering) -> Result<u64, u64>;
    fetch_add(u64, Ordering) -> u64;
    fetch_sub(u64, Ordering) -> u64;
    fetch_or(u64, Ordering) -> u64;
    fetch_and(u64, Ordering) -> u64;
    fetch_min(u64, Ordering) -> u64;
    fetch_max(u64, Ordering) -> u64;
}
