//! What the models share: a `model` that cannot pass silently, wakers that count, futures that can be
//! polled by hand and moved between threads.
//!
//! Run with `.ci/loom`. Without `--cfg cloakroom_loom` this package is empty.
#![cfg(cloakroom_loom)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use cloakroom::{
    AcquireError, Budget, Clock, Permit, PutError, Refusal, Stash, Ticket, loom_internals,
};

/// Explores every interleaving of `f`, without bounds, and prints how many there were.
///
/// # Panics
///
/// If an environment variable would cut the exploration short: loom then stops early and passes.
pub fn model(f: impl Fn() + Send + Sync + 'static) {
    for limit in [
        "LOOM_MAX_DURATION",
        "LOOM_MAX_PERMUTATIONS",
        "LOOM_MAX_PREEMPTIONS",
        "LOOM_CHECKPOINT_FILE",
    ] {
        assert!(
            std::env::var_os(limit).is_none(),
            "{limit} is set: the model would not be exhaustive"
        );
    }
    let builder = loom::model::Builder::new();
    assert!(builder.preemption_bound.is_none() && builder.max_permutations.is_none());
    explore(&builder, "", f);
}

/// Explores the interleavings of `f` with at most `preemptions` preemptions each: *not* exhaustive, for
/// what is too big. Says so in what it prints.
pub fn bounded_model(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    explore(&builder, &format!(" (BOUNDED: {preemptions} preemptions)"), f);
}

fn explore(builder: &loom::model::Builder, note: &str, f: impl Fn() + Send + Sync + 'static) {
    let executions = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let counter = Arc::clone(&executions);
    builder.check(move || {
        counter.fetch_add(1, SeqCst);
        f();
    });
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    println!(
        "model {name}: {} executions, {:.1?}{note}",
        executions.load(SeqCst),
        started.elapsed()
    );
}

/// A waker that counts, and may do something each time.
pub struct CountingWaker {
    wakes: AtomicUsize,
    then: Box<dyn Fn() + Send + Sync>,
}

impl CountingWaker {
    /// Only counts.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::calling(|| ())
    }

    /// Calls `then` on every wake, as an executor that acts inside `wake` would.
    pub fn calling(then: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { wakes: AtomicUsize::new(0), then: Box::new(then) })
    }

    /// How often it was woken.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.wakes.load(SeqCst)
    }
}

impl std::fmt::Debug for CountingWaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CountingWaker").field("wakes", &self.wakes).finish_non_exhaustive()
    }
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wakes.fetch_add(1, SeqCst);
        (self.then)();
    }
}

/// A future that can be moved between threads while it waits.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What an acquire comes to.
pub type Acquired = Result<Permit<'static>, AcquireError>;

/// `budget.acquire(bytes)`, owning what it needs.
#[must_use]
pub fn acquire(budget: &Budget, bytes: u64) -> Boxed<Acquired> {
    let budget = budget.clone();
    Box::pin(async move { budget.acquire(bytes).await.map(Permit::into_owned) })
}

/// `bytes` of the budget, which must be free, to be released by dropping.
pub fn hold(budget: &Budget, bytes: u64) -> Permit<'static> {
    budget.try_acquire(bytes).expect("free").into_owned()
}

/// Polls once.
pub fn poll<T>(future: &mut Boxed<T>, waker: &Arc<CountingWaker>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(waker))))
}

/// A waiter: a future and the waker it was last polled with.
pub struct Waiter<T> {
    future: Boxed<T>,
    /// The waker.
    pub waker: Arc<CountingWaker>,
}

impl<T> Waiter<T> {
    /// Polls `future`, which has to wait, for the first time.
    #[must_use]
    pub fn queued(future: Boxed<T>, waker: Arc<CountingWaker>) -> Self {
        let mut waiter = Self { future, waker };
        assert!(waiter.poll().is_pending(), "it should have had to wait");
        waiter
    }

    /// Polls `future` for the first time, whatever comes of it.
    pub fn started(future: Boxed<T>) -> Result<T, Self> {
        let mut waiter = Self { future, waker: CountingWaker::new() };
        match waiter.poll() {
            Poll::Ready(output) => Err(output),
            Poll::Pending => Ok(()),
        }
        .map_or_else(Ok, |()| Err(waiter))
    }

    /// Polls again.
    pub fn poll(&mut self) -> Poll<T> {
        poll(&mut self.future, &self.waker)
    }

    /// How often it was woken.
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.waker.wakes()
    }

    /// For when everything has been done: it was woken exactly once, and that was for its output.
    pub fn woken_once(mut self) -> T {
        assert_eq!(self.wakes(), 1, "woken exactly once");
        match self.poll() {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("woken, but not for its output"),
        }
    }

    /// For when everything has been done: it still waits and was not woken.
    pub fn still_waits(mut self) -> Self {
        assert_eq!(self.wakes(), 0, "woken though there is nothing for it");
        assert!(self.poll().is_pending(), "it should still wait");
        self
    }
}

impl<T> std::fmt::Debug for Waiter<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiter").field("waker", &self.waker).finish_non_exhaustive()
    }
}

/// Something that only one may use at a time, and only in order: loom fails the model otherwise.
#[derive(Debug, Default)]
pub struct Exclusive(loom::cell::UnsafeCell<u32>);

// SAFETY: loom runs one thread at a time, and fails the model when two could touch the cell at once.
unsafe impl Sync for Exclusive {}

impl Exclusive {
    /// Uses it.
    pub fn touch(&self) {
        // SAFETY: as above.
        self.0.with_mut(|value| unsafe { *value += 1 });
    }
}

/// Nanoseconds, set by the model; loom does not see it.
#[derive(Clone, Debug, Default)]
pub struct Now(Arc<AtomicU64>);

impl Now {
    /// Sets the time.
    pub fn set(&self, nanos: u64) {
        self.0.store(nanos, SeqCst);
    }
}

impl Clock for Now {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(SeqCst))
    }
}

/// What the models store.
pub type Payload = Vec<u8>;

/// What a put comes to.
pub type Putting = Result<Ticket, PutError<Payload>>;

/// `stash.put((), payload)`, owning what it needs.
#[must_use]
pub fn put(stash: &Stash<Payload, ()>, payload: Payload) -> Boxed<Putting> {
    let stash = stash.clone();
    Box::pin(async move { stash.put((), payload).await })
}

/// Asserts that all bytes are released and no request waits.
///
/// # Panics
///
/// If not.
pub fn settled(budget: &Budget) {
    assert_eq!(budget.used(), 0, "bytes leaked");
    assert_eq!(budget.waiting(), 0);
    match budget.try_acquire(budget.limit()) {
        // What is used never reads below zero, so this is how bytes show that were given back twice.
        Ok(_all) => assert!(budget.try_acquire(1).is_err(), "there is more room than the limit"),
        Err(refused) => {
            assert_eq!(refused.reason(), Refusal::Closed, "refused, though all is free")
        }
    }
}

/// A budget that has begun to lend; its shares have nothing yet.
#[must_use]
pub fn lent(limit: u64, batch: u64) -> Budget {
    let budget = loom_internals::lending(limit, 0, batch, 0);
    loom_internals::lend(&budget);
    budget
}

/// Runs `f` on a thread that uses the share.
pub fn on_share<T: 'static>(
    share: usize,
    f: impl FnOnce() -> T + Send + 'static,
) -> loom::thread::JoinHandle<T> {
    loom::thread::spawn(move || {
        loom_internals::use_share(share);
        f()
    })
}

/// Acquires by the share of the number, from the thread that sets a model up.
pub fn hold_on(share: usize, budget: &Budget, bytes: u64) -> Permit<'static> {
    loom_internals::use_share(share);
    let permit = hold(budget, bytes);
    loom_internals::use_share(0);
    permit
}
