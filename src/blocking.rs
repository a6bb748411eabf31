//! Blocks a thread on a future that ends its own wait at a deadline.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::sync::{Arc, Wait, with_thread_signal};

/// Completes at its instant, but wakes no task: [`run`] polls it again then.
#[derive(Debug)]
pub(crate) struct Elapsed(Option<Instant>);

impl Future for Elapsed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match self.0 {
            Some(deadline) if Instant::now() >= deadline => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

/// Blocks on the future that `make` makes of the deadline `timeout` from now.
///
/// A deadline beyond the clock's range never comes. After each poll it calls `before_sleep`, which returns
/// how long the thread may sleep at most, and may wake it earlier by the waker.
pub(crate) fn run<F: Future>(
    timeout: Duration,
    mut before_sleep: impl FnMut(&Waker) -> Option<Duration>,
    make: impl FnOnce(Elapsed) -> F,
) -> F::Output {
    let deadline = Instant::now().checked_add(timeout);
    let mut future = pin!(make(Elapsed(deadline)));
    with_thread_signal(|signal| {
        let waker = Waker::from(Arc::clone(signal));
        let mut cx = Context::from_waker(&waker);
        loop {
            let done = signal.wait_unless(|| {
                if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                    return Wait::Done(output);
                }
                match before_sleep(&waker) {
                    Some(Duration::ZERO) => Wait::Again,
                    Some(sleep) => {
                        Wait::Until(earlier(deadline, Instant::now().checked_add(sleep)))
                    }
                    None => Wait::Until(deadline),
                }
            });
            if let Some(output) = done {
                return output;
            }
        }
    })
}

/// Returns the earlier of two instants, where `None` never comes.
fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Returns whether `future` completes before `elapsed` does.
pub(crate) async fn completes(future: impl Future, elapsed: Elapsed) -> bool {
    let (mut future, mut elapsed) = (pin!(future), pin!(elapsed));
    poll_fn(|cx| {
        if future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        elapsed.as_mut().poll(cx).map(|()| false)
    })
    .await
}
