//! Parks a *thread*, for the calls that block. Tasks wait in the wait queue's nodes instead.
//!
//! A thread listens first and then checks whether it must wait, so a notification in between is not lost. Calls
//! may nest on one thread, from a payload's drop for example: a notification ends all of them.
//!
//! The signal is an `event_listener::Event`. That crate compiles under `--cfg loom` only with its `loom` feature,
//! and then works inside a model only. So where `--cfg loom` is a dependant's own flag, and under shuttle, the
//! signal is a counter and a condition variable.

use std::sync::Arc;
use std::task::Wake;
use std::time::Instant;

use self::signal::Signal;

/// Wakes a waiting thread.
#[derive(Debug)]
pub(crate) struct ThreadSignal(Signal);

/// Says what a thread that could sleep does next.
pub(crate) enum Wait<R> {
    /// Stops waiting, with a result.
    Done(R),
    /// Checks again at once.
    Again,
    /// Sleeps until it is notified, or until the instant. Under loom and shuttle there is no time.
    Until(
        #[cfg_attr(
            any(cloakroom_loom, cloakroom_shuttle),
            allow(dead_code, reason = "there is no time")
        )]
        Option<Instant>,
    ),
}

impl ThreadSignal {
    fn new() -> Self {
        Self(Signal::new())
    }

    /// Waits for a notification, unless `check` says otherwise. May also return early.
    ///
    /// `check` runs while this thread already listens.
    pub(crate) fn wait_unless<R>(&self, check: impl FnOnce() -> Wait<R>) -> Option<R> {
        self.0.wait_unless(check)
    }
}

impl Wake for ThreadSignal {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify();
    }
}

/// Calls `f` with this thread's signal. A thread makes it once, so waiting allocates nothing.
pub(crate) fn with_thread_signal<R>(f: impl FnOnce(&Arc<ThreadSignal>) -> R) -> R {
    #[cfg(any(cloakroom_loom, cloakroom_shuttle))]
    return f(&Arc::new(ThreadSignal::new()));
    #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
    {
        thread_local! {
            static SIGNAL: Arc<ThreadSignal> = Arc::new(ThreadSignal::new());
        }
        match SIGNAL.try_with(Arc::clone) {
            Ok(signal) => f(&signal),
            // The thread is ending, and its locals with it.
            Err(_) => f(&Arc::new(ThreadSignal::new())),
        }
    }
}

#[cfg(not(any(cloakroom_shuttle, all(loom, not(cloakroom_loom)))))]
mod signal {
    use event_listener::{Event, Listener, listener};

    use super::Wait;

    /// Wakes threads, through an `event_listener::Event`.
    ///
    /// `event_listener` wakes while it holds its own lock, so it is never given a task's waker, which may
    /// call back.
    #[derive(Debug)]
    pub(super) struct Signal(Event);

    impl Signal {
        pub(super) fn new() -> Self {
            Self(Event::new())
        }

        pub(super) fn notify(&self) {
            self.0.notify(usize::MAX);
        }

        pub(super) fn wait_unless<R>(&self, check: impl FnOnce() -> Wait<R>) -> Option<R> {
            listener!(self.0 => listener);
            match check() {
                Wait::Done(result) => return Some(result),
                Wait::Again => {}
                #[cfg(not(cloakroom_loom))]
                Wait::Until(Some(deadline)) => drop(listener.wait_deadline(deadline)),
                Wait::Until(_) => listener.wait(),
            }
            None
        }
    }
}

#[cfg(any(cloakroom_shuttle, all(loom, not(cloakroom_loom))))]
mod signal {
    use super::Wait;
    use crate::sync::Mutex;

    /// Counts notifications. A waiter sleeps while the count is the one that it read before its check.
    #[derive(Debug)]
    pub(super) struct Signal {
        notifications: Mutex<u64>,
        changed: Condvar,
    }

    #[cfg(not(cloakroom_shuttle))]
    type Condvar = parking_lot::Condvar;
    #[cfg(cloakroom_shuttle)]
    type Condvar = shuttle::sync::Condvar;

    impl Signal {
        pub(super) fn new() -> Self {
            Self { notifications: Mutex::new(0), changed: Condvar::new() }
        }

        pub(super) fn notify(&self) {
            *self.notifications.lock() += 1;
            self.changed.notify_all();
        }

        pub(super) fn wait_unless<R>(&self, check: impl FnOnce() -> Wait<R>) -> Option<R> {
            let seen = *self.notifications.lock();
            match check() {
                Wait::Done(result) => return Some(result),
                Wait::Again => return None,
                #[cfg(not(cloakroom_shuttle))]
                Wait::Until(deadline) => {
                    let mut count = self.notifications.lock();
                    while *count == seen {
                        match deadline {
                            None => self.changed.wait(&mut count),
                            Some(at) if self.changed.wait_until(&mut count, at).timed_out() => {
                                break;
                            }
                            Some(_) => {}
                        }
                    }
                }
                #[cfg(cloakroom_shuttle)]
                Wait::Until(_) => {
                    let mut count = self.notifications.lock();
                    while *count == seen {
                        count = self.changed.wait(count).unwrap_or_else(|e| e.into_inner());
                    }
                }
            }
            None
        }
    }
}

#[cfg(all(test, not(any(cloakroom_loom, cloakroom_shuttle))))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_notification_that_a_nested_wait_sees_ends_the_outer_wait_too() {
        let begin = Instant::now();
        let long = begin + Duration::from_secs(20);
        with_thread_signal(|signal| {
            signal.wait_unless(|| {
                signal.wait_unless(|| {
                    Arc::clone(signal).wake();
                    Wait::<()>::Until(Some(long))
                });
                Wait::<()>::Until(Some(long))
            });
        });
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let deadline = Instant::now() + Duration::from_millis(2);
        let done =
            with_thread_signal(|signal| signal.wait_unless(|| Wait::<()>::Until(Some(deadline))));
        assert_eq!(done, None);
        assert!(Instant::now() >= deadline);
    }
}
