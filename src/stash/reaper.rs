//! Expiry without traffic: somebody who looks when the next deadline comes.
//!
//! A reaper sleeps until the earliest deadline that it knows of, and never past a time to live after its
//! last look. So a put need not tell it: an entry that it did not see read the clock after that look, or
//! was between reading the clock and lowering its bounds, a few instructions without user code. Only a put
//! whose thread is descheduled right there is late to be reaped, by at most as long as that lasted.
//!
//! A put with a shorter time to live does tell it, and so does a claim that is put back, which that look has
//! passed over. When the next look is due is one atomic, which both sides change by read-modify-writes, so one
//! comes first. A reaper's plan: begin (next look: never), sweep, lower the next look to what the sweep says.
//! A put's: store, lower the bounds, lower the next look to the deadline, and ring if it was later. If the
//! put's comes before the reaper begins, the sweep finds the entry; if between begin and plan, the reaper sees
//! the earlier time when it plans; if after the plan, the put sees that the time is later than its own, and
//! rings.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use super::Stash;
use super::alarms::{Alarm, Alarms};
use super::shared::Inner;
use crate::slots::Nanos;

impl<P, O> Stash<P, O> {
    /// A driver that removes entries when they expire, traffic or not. Nothing runs until it is told to,
    /// with [`Reaper::spawn`] or [`Reaper::run`].
    pub fn reaper(&self) -> Reaper<P, O> {
        Reaper::new(Arc::downgrade(&self.inner), &self.inner.alarms)
    }
}

/// Removes entries when they expire, with no call needed. Made by [`Stash::reaper`].
///
/// It holds no handle: when the last [`Stash`] handle is dropped, it ends.
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
    alarm: Arc<Alarm>,
}

impl<P, O> Reaper<P, O> {
    fn new(stash: Weak<Inner<P, O>>, alarms: &Alarms) -> Self {
        Self { stash, alarm: alarms.add() }
    }

    /// One look: removes a batch of what has expired. Returns when to look again; `None` when the stash is
    /// gone.
    fn look(&self) -> Option<Plan> {
        let stash = self.stash.upgrade()?;
        stash.alarms.next_sweep.begin();
        let now = stash.now();
        let (removed, next) = stash.expire_batch(now);
        // From the look on, but the sweep and the user code that it ran have taken their time.
        let until = stash.alarms.next_sweep.plan(next.min(now.saturating_add(stash.ttl)));
        let wait = until.saturating_sub(stash.now());
        // Due, but nothing to remove: somebody else is at it. Not so short as to spin.
        let wait = if removed == 0 && until <= now { wait.max(1_000_000) } else { wait };
        Some(Plan { until, wait: Duration::from_nanos(wait) })
    }

    /// Whether to look again before the time: something expires sooner, or it is over.
    fn is_called(&self, plan: &Plan) -> bool {
        self.stash.upgrade().is_none_or(|stash| stash.alarms.next_sweep.get() < plan.until)
    }

    /// Runs it on a new thread, which ends when the last handle is dropped.
    ///
    /// It sleeps in real time: with a clock of your own, use [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub fn spawn(self) -> io::Result<thread::JoinHandle<()>>
    where
        P: Send + 'static,
        O: Send + 'static,
    {
        thread::Builder::new().name("cloakroom-reaper".to_owned()).spawn(move || {
            while let Some(plan) = self.look() {
                let deadline = Instant::now().checked_add(plan.wait);
                self.alarm.thread.wait_unless(deadline, || self.is_called(&plan).then_some(()));
            }
        })
    }

    /// Runs it as a future, on any runtime: `sleep` makes a future that completes after a duration, such
    /// as `tokio::time::sleep`. Completes when the last handle is dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the reaper; nothing is lost.
    pub async fn run<S, F>(self, mut sleep: S)
    where
        S: FnMut(Duration) -> F,
        F: Future,
    {
        while let Some(plan) = self.look() {
            if plan.wait.is_zero() {
                // More is due: let others run, then go on.
                yield_now().await;
                continue;
            }
            let mut nap = pin!(sleep(plan.wait));
            poll_fn(|cx| {
                self.alarm.watch(cx);
                if self.is_called(&plan) {
                    return Poll::Ready(());
                }
                nap.as_mut().poll(cx).map(drop)
            })
            .await;
        }
    }
}

/// If there is another, the time that it is to look next may have been ours only.
impl<P, O> Drop for Reaper<P, O> {
    fn drop(&mut self) {
        if let Some(stash) = self.stash.upgrade() {
            stash.alarms.notify_earlier(0);
        }
    }
}

/// When a reaper looks again.
struct Plan {
    until: Nanos,
    wait: Duration,
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
