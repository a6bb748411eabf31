//! What the benchmarks share.

use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Stash, Ticket};

/// A 16-byte owner.
pub type Owner = u128;

/// Owns the entries that are held.
const HOLDER: Owner = 1;

/// A payload of 1 KiB that shares its bytes, so that the benchmark is not one of memory copies.
#[must_use]
pub fn payload() -> Bytes {
    static KIB: [u8; 1024] = [7; 1024];
    Bytes::from_static(&KIB)
}

/// A stash with room, that holds `entries` which do not expire meanwhile. The tickets keep nothing
/// alive; they are for looking at what is held.
#[must_use]
pub fn stash_holding(entries: usize) -> (Stash<Bytes, Owner>, Vec<Ticket>) {
    let stash = Stash::builder()
        .max_bytes(1 << 40)
        .ttl(Duration::from_secs(24 * 3600))
        .build()
        .expect("the settings are good");
    let put = |_| stash.try_put(HOLDER, payload()).expect("there is room");
    let tickets = (0..entries).map(put).collect();
    (stash, tickets)
}
