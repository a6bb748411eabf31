//! Wakes sleepers at the end of the stash, and when an earlier deadline appears.

use std::task::Waker;

use crate::slots::{NEVER, Nanos};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, contain_panic};

/// Holds the time of the next sweep; see `expiry.rs`.
#[derive(Debug)]
pub(crate) struct NextSweep(AtomicU64);

impl NextSweep {
    /// Creates it for no sleepers: the time is 0, so that no put wakes.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Begins a sweep: no next one is planned yet.
    pub(crate) fn begin(&self) {
        // ORDERING: Acquire [next_sweep.begin] pairs with [next_sweep.lower]: a put that came before has lowered its bounds.
        self.0.swap(NEVER, Ordering::Acquire);
    }

    /// Plans the next sweep at `until`, after a sweep. Returns when it is due.
    pub(crate) fn plan(&self, until: Nanos) -> Nanos {
        self.lower(until).min(until)
    }

    /// Lowers the time to `deadline`. Returns whether the sleepers must be woken.
    pub(crate) fn notify_earlier(&self, deadline: Nanos) -> bool {
        self.lower(deadline) > deadline
    }

    fn lower(&self, to: Nanos) -> Nanos {
        // ORDERING: Release [next_sweep.lower] pairs with [next_sweep.begin].
        self.0.fetch_min(to, Ordering::Release)
    }

    pub(crate) fn get(&self) -> Nanos {
        // ORDERING: Relaxed [next_sweep.get]: a sleeper that is in the list already sees what was lowered, or is
        // woken, by the list's lock; a sleeper that sees it sweeps, which begins with [next_sweep.begin].
        self.0.load(Ordering::Relaxed)
    }
}

/// Lists the sleepers of a stash: reapers, and threads that block on it. See `expiry.rs`.
pub(crate) struct Alarms {
    sleepers: Mutex<Sleepers>,
    pub(super) next_sweep: NextSweep,
}

/// Wakers by the numbers of the sleepers. A number is used again when its sleeper has left.
#[derive(Default)]
struct Sleepers {
    wakers: Vec<Option<Waker>>,
    vacant: Vec<usize>,
}

impl Alarms {
    pub(crate) fn new() -> Self {
        Self { sleepers: Mutex::default(), next_sweep: NextSweep::new() }
    }

    /// Admits a sleeper, and returns its number.
    pub(super) fn enter(&self) -> usize {
        let mut sleepers = self.sleepers.lock();
        if let Some(number) = sleepers.vacant.pop() {
            return number;
        }
        sleepers.wakers.push(None);
        sleepers.wakers.len() - 1
    }

    /// Registers `waker` to wake the sleeper, once.
    pub(super) fn watch(&self, sleeper: usize, waker: &Waker) {
        // The wakers are user code: the new one is cloned before the lock is taken, and the old one is
        // dropped after.
        let waker = waker.clone();
        let old = self.sleepers.lock().wakers[sleeper].replace(waker);
        drop(old);
    }

    /// Removes the sleeper and wakes another.
    ///
    /// The other one sweeps, and so plans again for both.
    pub(super) fn leave(&self, sleeper: usize) {
        let (own, next) = {
            let mut sleepers = self.sleepers.lock();
            let own = sleepers.wakers[sleeper].take();
            sleepers.vacant.push(sleeper);
            (own, sleepers.wakers.iter_mut().find_map(Option::take))
        };
        // A sleeper that plans meanwhile sweeps again. Without sleepers, no put needs to wake one.
        self.next_sweep.notify_earlier(0);
        drop(own);
        if let Some(waker) = next {
            contain_panic(|| waker.wake());
        }
    }

    /// Wakes the sleepers if an entry expires at `deadline`, earlier than the planned sweep.
    #[cold]
    pub(crate) fn notify_earlier(&self, deadline: Nanos) {
        if self.next_sweep.notify_earlier(deadline) {
            self.wake_all();
        }
    }

    #[cold]
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> =
            self.sleepers.lock().wakers.iter_mut().filter_map(Option::take).collect();
        for waker in wakers {
            contain_panic(|| waker.wake());
        }
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_sleeper_that_left_is_used_again() {
        let alarms = Alarms::new();
        let kept = alarms.enter();
        for _ in 0..100 {
            let number = alarms.enter();
            assert_ne!(number, kept);
            alarms.leave(number);
        }
        assert_eq!(alarms.sleepers.lock().wakers.len(), 2);
    }
}
