//! Wakes sleeping reapers: at the end of the stash, and when a deadline appears that is earlier than they know.

use std::sync::{Arc, Weak};
use std::task::{Context, Waker};

use crate::slots::{NEVER, Nanos};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, ThreadSignal, contain_panic};

/// When the next look at what has expired is due; see the head of this file.
#[derive(Debug)]
pub(crate) struct NextSweep(AtomicU64);

impl NextSweep {
    /// Nobody is going to look: 0, so that no put rings.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Before a sweep.
    pub(crate) fn begin(&self) {
        // ORDERING: Acquire [next_sweep.begin] pairs with [next_sweep.lower]: a put that came before has lowered its bounds.
        self.0.swap(NEVER, Ordering::Acquire);
    }

    /// After a sweep: the next is to be at `until`. Returns when it is due.
    pub(crate) fn plan(&self, until: Nanos) -> Nanos {
        self.lower(until).min(until)
    }

    /// Returns whether who is to look must be told.
    pub(crate) fn notify_earlier(&self, deadline: Nanos) -> bool {
        self.lower(deadline) > deadline
    }

    fn lower(&self, to: Nanos) -> Nanos {
        // ORDERING: Release [next_sweep.lower] pairs with [next_sweep.begin].
        self.0.fetch_min(to, Ordering::Release)
    }

    pub(crate) fn get(&self) -> Nanos {
        // ORDERING: Relaxed [next_sweep.get]: who listens first sees what was lowered, or is rung, by the alarm's lock;
        // who sees it looks, and that begins with [next_sweep.begin].
        self.0.load(Ordering::Relaxed)
    }
}

/// How a sleeping reaper hears that it is over.
pub(crate) struct Alarm {
    pub(super) thread: ThreadSignal,
    task: Mutex<Option<Waker>>,
}

impl Alarm {
    /// Has the task that is being polled woken by the alarm.
    pub(super) fn watch(&self, cx: &mut Context<'_>) {
        let waker = cx.waker().clone();
        let old = self.task.lock().replace(waker);
        drop(old);
    }

    fn wake(&self) {
        self.thread.notify();
        let task = self.task.lock().take();
        if let Some(waker) = task {
            contain_panic(|| waker.wake());
        }
    }
}

/// The alarms of all reapers of a stash.
pub(crate) struct Alarms {
    all: Mutex<Vec<Weak<Alarm>>>,
    pub(super) next_sweep: NextSweep,
}

impl Alarms {
    pub(crate) fn new() -> Self {
        Self { all: Mutex::new(Vec::new()), next_sweep: NextSweep::new() }
    }

    pub(super) fn add(&self) -> Arc<Alarm> {
        let alarm = Arc::new(Alarm { thread: ThreadSignal::new(), task: Mutex::new(None) });
        let mut all = self.all.lock();
        all.retain(|alarm| alarm.strong_count() > 0);
        all.push(Arc::downgrade(&alarm));
        alarm
    }

    /// Something expires at `deadline`, perhaps sooner than the reapers know.
    #[cold]
    pub(crate) fn notify_earlier(&self, deadline: Nanos) {
        if self.next_sweep.notify_earlier(deadline) {
            self.wake();
        }
    }

    #[cold]
    pub(crate) fn wake(&self) {
        let all = self.all.lock().clone();
        all.iter().filter_map(Weak::upgrade).for_each(|alarm| alarm.wake());
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn alarms_of_reapers_that_are_gone_are_forgotten() {
        let alarms = Alarms::new();
        let kept = alarms.add();
        (0..100).for_each(|_| drop(alarms.add()));
        // The last is only known to be gone when the next is added.
        assert_eq!(alarms.all.lock().len(), 2);
        assert_eq!(Arc::weak_count(&kept), 1);
    }
}
