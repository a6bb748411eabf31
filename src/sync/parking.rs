//! What a *thread* waits on, for the calls that block. Tasks wait in the wait queue's nodes instead.
//!
//! A signal counts its notifications under a mutex. A thread reads the count, checks whether it must wait, and
//! sleeps while the count is still the one that it has read. A notification comes before the read, and the check
//! sees what it announces; or after it, and then the count has changed and the thread does not sleep. Calls may
//! nest on one thread, from a payload's drop for example: each compares with the count that it has read itself.

use std::sync::Arc;
use std::task::Wake;
use std::time::Instant;

use super::{Mutex, MutexGuard};

/// Wakes a thread that waits.
#[derive(Debug)]
pub(crate) struct ThreadSignal {
    notifications: Mutex<u64>,
    changed: Condvar,
}

/// What a thread that could sleep does next.
pub(crate) enum Wait<R> {
    /// Stops waiting, with a result.
    Done(R),
    /// Checks again at once.
    Again,
    /// Sleeps until it is notified, or until the instant.
    Until(Option<Instant>),
}

impl ThreadSignal {
    fn new() -> Self {
        Self { notifications: Mutex::new(0), changed: Condvar::default() }
    }

    /// Wakes every thread that waits on this signal.
    fn notify(&self) {
        let mut notifications = self.notifications.lock();
        *notifications = notifications.wrapping_add(1);
        drop(notifications);
        self.changed.notify_all();
    }

    /// Waits for a `notify`, unless `check` says otherwise, which runs after this thread has begun to listen.
    /// May also return early.
    ///
    /// Under loom and shuttle there is no time: a deadline never comes.
    pub(crate) fn wait_unless<R>(&self, check: impl FnOnce() -> Wait<R>) -> Option<R> {
        let seen = *self.notifications.lock();
        match check() {
            Wait::Done(result) => return Some(result),
            Wait::Again => {}
            Wait::Until(deadline) => {
                let mut notifications = self.notifications.lock();
                while *notifications == seen {
                    let timed_out;
                    (notifications, timed_out) = self.changed.wait(notifications, deadline);
                    if timed_out {
                        break;
                    }
                }
            }
        }
        None
    }
}

impl Wake for ThreadSignal {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

/// Calls `f` with this thread's signal. It is made once a thread, so that waiting allocates nothing.
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
            // The thread is going away and its locals with it.
            Err(_) => f(&Arc::new(ThreadSignal::new())),
        }
    }
}

#[derive(Debug, Default)]
struct Condvar(
    #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))] parking_lot::Condvar,
    #[cfg(cloakroom_loom)] loom::sync::Condvar,
    #[cfg(cloakroom_shuttle)] shuttle::sync::Condvar,
);

impl Condvar {
    fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Returns the lock again, and whether the deadline has come.
    #[cfg_attr(any(cloakroom_loom, cloakroom_shuttle), allow(unused_variables))]
    fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, T>, bool) {
        #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
        {
            let mut guard = guard;
            let Some(deadline) = deadline else {
                self.0.wait(&mut guard);
                return (guard, false);
            };
            let timed_out = self.0.wait_until(&mut guard, deadline).timed_out();
            (guard, timed_out)
        }
        #[cfg(any(cloakroom_loom, cloakroom_shuttle))]
        return (self.0.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner()), false);
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
                    signal.notify();
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
