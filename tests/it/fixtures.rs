//! What several modules share: a stash with a limit of 100 bytes, no entry overhead, a time to live of ten
//! seconds and a clock to turn by hand; two owners; and an observer that records events.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::{Builder, Event, ManualClock, Observer, Stash, Stats, Ticket};

use crate::support::{TTL, stash_of};

/// Owners are numbers: 1 is alice, 2 is bob.
pub(crate) type TestStash = Stash<Vec<u8>, u8>;

pub(crate) const ALICE: u8 = 1;
pub(crate) const BOB: u8 = 2;
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn test_stash() -> (TestStash, ManualClock) {
    stash_of(100)
}

/// A test stash with further settings.
pub(crate) fn stash_with(
    set: impl FnOnce(Builder<Vec<u8>, u8>) -> Builder<Vec<u8>, u8>,
) -> (TestStash, ManualClock) {
    let clock = ManualClock::new();
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL).clock(clock.clone());
    (set(builder).build().unwrap(), clock)
}

/// Content that differs for every size.
pub(crate) fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at + size) as u8).collect()
}

pub(crate) fn put(stash: &TestStash, size: usize) -> Ticket {
    stash.try_put(ALICE, payload(size)).unwrap()
}

/// Puts an entry whose ticket is not needed.
pub(crate) fn fill(stash: &TestStash, size: usize) {
    let _ = put(stash, size);
}

pub(crate) fn take(stash: &TestStash, ticket: Ticket) -> Option<Vec<u8>> {
    stash.take(&ticket, &ALICE)
}

/// The numbers of entries, used bytes and waiters.
pub(crate) fn state<P, O>(stash: &Stash<P, O>) -> (usize, u64, usize) {
    (stash.len(), stash.used_bytes(), stash.waiting())
}

/// Returns the statistics, after checking that they add up.
#[track_caller]
pub(crate) fn checked_stats<P, O>(stash: &Stash<P, O>) -> Stats {
    let stats = stash.stats();
    let gone = stats.delivered + stats.expired + stats.cleared + stats.unsent;
    assert_eq!(stats.stored, stats.entries + gone, "{stats:?}");
    assert_eq!((stats.entries, stats.used_bytes), (stash.len() as u64, stash.used_bytes()));
    assert!(stats.used_bytes <= stats.peak_bytes, "{stats:?}");
    assert!(stats.claims <= stats.entries, "{stats:?}");
    assert!(stats.put_back + stats.claims <= stats.claimed, "{stats:?}");
    stats
}

/// Records every event.
#[derive(Clone, Default)]
pub(crate) struct EventLog(Arc<Mutex<Vec<Event>>>);

impl EventLog {
    /// Returns the events since the last call.
    pub(crate) fn read(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for EventLog {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}
