//! What goes beyond the original, by the contract's numbers B1 to B10 (B3, the HTTP body, is in
//! `http_body.rs`; what the other features emit in `integrations.rs`). Sizes are bytes, the limit is 100, the
//! entry overhead 0 and the time to live ten seconds unless said.
//!
//! What waits is run on three executors: tokio, smol, and one that polls inside `wake`.
#![cfg(not(loom))]

#[macro_use]
#[path = "../conformance/executors.rs"]
mod executors;
#[path = "../support/mod.rs"]
mod support;

mod claims;
mod expiry;
mod insight;
mod line;
mod owners;
mod panics;
mod reentrancy;
mod reserve;
mod shutdown;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::{Builder, Event, ManualClock, Observer, Stash, Stats, Ticket};

use self::support::{Coat, TTL, stash_of};

/// Owners are numbers: 1 is alice, 2 is bob.
type Hall = Stash<Vec<u8>, u8>;

const ALICE: u8 = 1;
const BOB: u8 = 2;
const SECOND: Duration = Duration::from_secs(1);

fn hall() -> (Hall, ManualClock) {
    stash_of(100)
}

/// A hall with further settings.
fn hall_with(
    set: impl FnOnce(Builder<Vec<u8>, u8>) -> Builder<Vec<u8>, u8>,
) -> (Hall, ManualClock) {
    let clock = ManualClock::new();
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL).clock(clock.clone());
    (set(builder).build().unwrap(), clock)
}

/// Distinguishable by size.
fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at + size) as u8).collect()
}

fn put(stash: &Hall, size: usize) -> Ticket {
    stash.try_put(ALICE, payload(size)).unwrap()
}

/// As `put`, when nobody will take it.
fn fill(stash: &Hall, size: usize) {
    let _ = put(stash, size);
}

fn take(stash: &Hall, ticket: Ticket) -> Option<Vec<u8>> {
    stash.take(&ticket, &ALICE)
}

/// Entries, bytes, and who waits.
fn state<P, O>(stash: &Stash<P, O>) -> (usize, u64, usize) {
    (stash.len(), stash.used_bytes(), stash.waiting())
}

/// The statistics, which must add up.
#[track_caller]
fn stats<P, O>(stash: &Stash<P, O>) -> Stats {
    let stats = stash.stats();
    let gone = stats.delivered + stats.expired + stats.cleared;
    assert_eq!(stats.stored, stats.entries + gone, "{stats:?}");
    assert_eq!((stats.entries, stats.used_bytes), (stash.len() as u64, stash.used_bytes()));
    assert!(stats.used_bytes <= stats.peak_bytes, "{stats:?}");
    assert!(stats.claims <= stats.entries, "{stats:?}");
    assert!(stats.put_back + stats.claims <= stats.claimed, "{stats:?}");
    stats
}

/// Writes down what happens.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<Event>>>);

impl Diary {
    /// What happened since the last call.
    fn read(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Diary {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}
