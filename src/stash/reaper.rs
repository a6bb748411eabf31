//! Expires entries without traffic: sweeps when the next deadline comes (`expiry.rs`).

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::Stash;
use super::expiry::Plan;
use super::shared::Inner;
#[cfg(not(target_family = "wasm"))]
use crate::sync::{Wait, with_thread_signal};

impl<P, O> Stash<P, O> {
    /// Makes a driver that removes entries when they expire, traffic or not.
    ///
    /// Nothing runs until [`Reaper::spawn`] or [`Reaper::run`] is called.
    pub fn reaper(&self) -> Reaper<P, O> {
        Reaper { stash: Arc::downgrade(&self.inner), sleeper: self.inner.alarms.enter() }
    }
}

/// Removes entries when they expire, with no call needed. Made by [`Stash::reaper`].
///
/// It holds no handle: it ends when the last [`Stash`] handle is dropped. It sweeps at each deadline, and once in each
/// time to live ([`Builder::ttl`](crate::Builder::ttl)) even if nothing is stored.
///
/// It can be late for an entry whose put was descheduled between reading the clock and lowering its bounds.
///
/// # Examples
///
/// On a thread of its own:
///
/// ```
/// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1 << 20).build().unwrap();
/// stash.reaper().spawn()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// On any runtime:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1 << 20).build().unwrap();
/// let reaper = tokio::spawn(stash.reaper().run(tokio::time::sleep));
/// drop(stash);
/// reaper.await.unwrap();
/// # }
/// ```
#[must_use = "a reaper does nothing until it is spawned or run"]
pub struct Reaper<P, O> {
    stash: Weak<Inner<P, O>>,
    /// Its number among the stash's sleepers.
    sleeper: usize,
}

impl<P, O> Reaper<P, O> {
    /// Removes a batch of expired entries. Returns when to sweep again; `None` when the stash is gone.
    fn sweep(&self) -> Option<Plan> {
        Some(self.stash.upgrade()?.sweep_and_plan())
    }

    /// Registers `waker` for an earlier sweep, or for the end of the stash.
    ///
    /// Returns whether one of them has come already.
    fn is_called(&self, plan: &Plan, waker: &Waker) -> bool {
        let Some(stash) = self.stash.upgrade() else { return true };
        // First the waker, then the check: a deadline that appears between the two wakes it.
        stash.alarms.watch(self.sleeper, waker);
        stash.is_due_earlier(plan)
    }

    /// Runs the reaper on a new thread, which ends when the last handle is dropped.
    ///
    /// The thread sleeps in real time: with a clock of your own, use [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    #[cfg(not(target_family = "wasm"))]
    pub fn spawn(self) -> io::Result<thread::JoinHandle<()>>
    where
        P: Send + 'static,
        O: Send + 'static,
    {
        thread::Builder::new().name("cloakroom-reaper".to_owned()).spawn(move || {
            with_thread_signal(|signal| {
                let waker = Waker::from(Arc::clone(signal));
                while let Some(plan) = self.sweep() {
                    let deadline = Instant::now().checked_add(plan.wait);
                    signal.wait_unless(|| {
                        let called = self.is_called(&plan, &waker);
                        if called { Wait::Done(()) } else { Wait::Until(deadline) }
                    });
                }
            });
        })
    }

    /// Runs the reaper as a future, on any runtime, until the last handle is dropped.
    ///
    /// `sleep` makes a future that completes after a duration, such as `tokio::time::sleep`. The reaper
    /// returns to its executor between any two sweeps, even if `sleep` completes immediately.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the reaper and loses nothing.
    pub async fn run<S, F>(self, mut sleep: S)
    where
        S: FnMut(Duration) -> F,
        F: Future,
    {
        while let Some(plan) = self.sweep() {
            let mut others_ran = false;
            if !plan.wait.is_zero() {
                let mut sleeping = pin!(sleep(plan.wait));
                poll_fn(|cx| {
                    if self.is_called(&plan, cx.waker()) || sleeping.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    others_ran = true;
                    Poll::Pending
                })
                .await;
            }
            if !others_ran {
                yield_now().await;
            }
        }
    }
}

/// Passes this reaper's plan to another sleeper, if there is one.
impl<P, O> Drop for Reaper<P, O> {
    fn drop(&mut self) {
        if let Some(stash) = self.stash.upgrade() {
            stash.alarms.leave(self.sleeper);
        }
    }
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<P, O> fmt::Debug for Reaper<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaper").finish_non_exhaustive()
    }
}
