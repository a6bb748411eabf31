//! The threads and tasks: each calls until the soak is over.

use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use cloakroom::{Budget, Permit, Stats};
use futures_lite::future::{or, yield_now};

use crate::calls::{PutContext, Soak};
use crate::figures::add;
use crate::random::{below, local, once_in, size};
use crate::support::{acquire_task, counting, poll};
use crate::{FOREVER, LIMIT, LONG_TTL, LOWEST, OVERFLOW, TASKS};

impl Soak {
    pub(crate) fn random_calls(self: &Arc<Self>) {
        let stash = self.stash().unwrap();
        let (mut waiting, mut reservations, mut claims) = (Vec::new(), Vec::new(), Vec::new());
        while self.running() {
            add(&self.figures.operations);
            match below(44) {
                0..6 => self.try_put(&stash),
                6..12 => self.put_by_hand(&stash, |new| waiting.push(new)),
                12..14 => self.put_timeout(&stash, Duration::from_micros(below(300))),
                14..21 => self.take_one(&stash),
                21..23 => {
                    if let Some(one) = local(|local| local.rng.draw(&mut waiting)) {
                        self.drop_put(one);
                    }
                }
                23 => drop(stash.gc()),
                24 if once_in(2_000) => self.clear(&stash),
                32..34 => self.reserve(&stash, &mut reservations),
                34..36 => self.use_reservation(&mut reservations),
                36..39 => self.claim_one(&stash, &mut claims),
                39..42 => {
                    if let Some(one) = local(|local| local.rng.draw(&mut claims)) {
                        self.end_claim(one);
                    }
                }
                42 | 43 => drop(self.drop_download()),
                _ => self.poll_some(&mut waiting),
            }
            if waiting.len() > 16 {
                let one = waiting.swap_remove(below(16) as usize);
                self.drop_put(one);
            }
            if claims.len() > 4 {
                let one = claims.swap_remove(below(4) as usize);
                self.end_claim(one);
            }
            reservations.truncate(3);
        }
        waiting.into_iter().for_each(|one| self.drop_put(one));
        claims.into_iter().for_each(|one| self.end_claim(one));
        drop(reservations);
        while self.drop_download() {}
    }

    /// Puts without a timeout: a lost wakeup would block this thread forever.
    pub(crate) fn patient_puts(self: &Arc<Self>) {
        let stash = self.stash().unwrap();
        while self.running() {
            add(&self.figures.operations);
            self.put_timeout(&stash, FOREVER);
        }
    }

    /// Puts with all sorts of `until`. `timer` is the runtime's.
    pub(crate) async fn task<F>(self: Arc<Self>, timer: impl Fn(Duration) -> F)
    where
        F: Future,
    {
        while self.running() {
            let Some(stash) = self.stash() else { return };
            add(&self.figures.operations);
            if once_in(4) {
                let moment = timer(Duration::from_micros(below(2_000)));
                self.reserve_and_put(&stash, moment).await;
                continue;
            }
            add(&self.figures.puts);
            let (payload, context) = self.payload();
            let put = stash.put_with(self.owner(&context), payload, context.options());
            let moment = Duration::from_micros(below(2_000));
            let (how, yields) = (below(5), below(20));
            let until = async {
                match how {
                    0 => drop(timer(moment).await),
                    1 => self.clock.sleep(moment).await,
                    2 => ready(()).await,
                    3 => {
                        for _ in 0..yields {
                            yield_now().await;
                        }
                    }
                    _ => std::future::pending().await,
                }
            };
            let mut put = pin!(put.until(until));
            // Dropped before the put, wherever this task is dropped.
            let mut cancel = CancelOnDrop(Some(context));
            let impatient = once_in(3);
            let impatience = async {
                if impatient {
                    timer(moment).await;
                } else {
                    std::future::pending::<()>().await;
                }
                None
            };
            let ended = or(async { Some(put.as_mut().await) }, impatience).await;
            if let Some(result) = ended {
                let context = cancel.0.take().unwrap();
                self.put_was(result, context);
            } else {
                add(&self.figures.futures_dropped);
            }
            drop(cancel);
            yield_now().await;
        }
    }

    /// Moves the clock: mostly a little, sometimes beyond every deadline.
    pub(crate) fn move_clock(&self) {
        while self.running() {
            let step = if once_in(20) { LONG_TTL } else { Duration::from_micros(below(2_000)) };
            self.clock.advance(step);
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Used is never more than the highest limit, and of the other budget, whose limit stays, than that.
    pub(crate) fn sample(&self, steady: &Budget) {
        let stash = self.stash().unwrap();
        let mut last = Stats::default();
        while self.running() {
            let used = {
                let _still = self.moving.lock().unwrap();
                stash.used_bytes()
            };
            let held = steady.used();
            if used > LIMIT + OVERFLOW || held > steady.limit() {
                self.violation(format!("used: {used}, held: {held}"));
            }
            let stats = stash.stats();
            self.check_stats(&stats);
            let totals = |s: &Stats| {
                [s.stored, s.delivered, s.expired, s.cleared, s.claimed, s.put_back, s.waited]
            };
            if totals(&last).iter().zip(totals(&stats)).any(|(&before, now)| now < before) {
                self.violation(format!("a total went down: {last:?}, {stats:?}"));
            }
            last = stats;
            add(&self.figures.samples);
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// A budget of its own, whose limit moves.
    pub(crate) fn acquire(&self, budget: &Budget, held: &AtomicU64) {
        let hold = |permit: Permit<'_>| {
            add(&self.figures.budget_acquired);
            let bytes = permit.bytes();
            if held.fetch_add(bytes, Ordering::SeqCst) + bytes > LIMIT {
                self.violation("permits for more than the highest limit");
            }
            held.fetch_sub(bytes, Ordering::SeqCst);
            drop(permit);
        };
        let mut waiting = Vec::new();
        while self.running() {
            add(&self.figures.operations);
            // The stash has more to do in the same time.
            if once_in(64) {
                thread::sleep(Duration::from_micros(100));
            }
            match below(8) {
                0 => match budget.acquire_timeout(size(), Duration::from_micros(below(300))) {
                    Ok(permit) => hold(permit),
                    Err(_) => add(&self.figures.budget_refused),
                },
                1 | 2 => match budget.try_acquire(size()) {
                    Ok(permit) => hold(permit),
                    Err(_) => add(&self.figures.budget_refused),
                },
                3 | 4 => {
                    let mut request = acquire_task(budget, size());
                    let (count, waker) = counting();
                    match poll(&mut request, &waker) {
                        Poll::Ready(Ok(permit)) => hold(permit),
                        Poll::Ready(Err(_)) => add(&self.figures.budget_refused),
                        Poll::Pending => waiting.push((request, count)),
                    }
                }
                5 => drop(local(|local| local.rng.draw(&mut waiting))),
                _ => waiting.retain_mut(|(request, count)| {
                    match (count.get(), poll(request, &counting().1)) {
                        (_, Poll::Ready(Ok(permit))) => hold(permit),
                        (_, Poll::Ready(Err(_))) => add(&self.figures.budget_refused),
                        // It has another waker now: poll it again soon.
                        (_, Poll::Pending) => return true,
                    }
                    false
                }),
            }
        }
    }

    pub(crate) fn move_limits(&self, budget: &Budget) {
        let stash = self.stash().unwrap();
        while self.running() {
            let limit = if once_in(3) { LIMIT } else { below(LIMIT + 1) };
            budget.set_limit(limit);
            let limit = if once_in(3) { LIMIT } else { LOWEST + below(LIMIT - LOWEST + 1) };
            {
                let _moves = self.moving.lock().unwrap();
                stash.set_max_bytes(limit);
            }
            add(&self.figures.limit_changes);
            thread::sleep(Duration::from_micros(200));
        }
        budget.set_limit(LIMIT);
        stash.set_max_bytes(LIMIT);
    }
}

/// The payload goes with the put.
struct CancelOnDrop(Option<PutContext>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(context) = self.0.take() {
            context.record.cancel();
        }
    }
}

/// Has tasks run, aborts some, and starts others in their place.
pub(crate) async fn supervise(soak: Arc<Soak>) {
    let mut tasks: Vec<tokio::task::JoinHandle<()>> = Vec::new();
    while soak.running() {
        while tasks.len() < TASKS {
            tasks.push(tokio::spawn(Arc::clone(&soak).task(tokio::time::sleep)));
        }
        tokio::time::sleep(Duration::from_micros(below(3_000))).await;
        let task = tasks.swap_remove(below(TASKS as u64) as usize);
        task.abort();
        match task.await {
            Err(e) if e.is_cancelled() => add(&soak.figures.tasks_aborted),
            Err(e) => soak.violation(format!("a task panicked: {e}")),
            Ok(()) => {}
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
}
