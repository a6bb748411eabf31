//! Helpers that several test targets share.
#![allow(dead_code, unreachable_pub)]

pub mod ledger;
pub mod random;

use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::thread;
use std::time::Duration;

use cloakroom::{
    AcquireError, Budget, Clock, ManualClock, Payload, Permit, PutError, Stash, Ticket,
};

/// Runs `body` on a thread of its own, and fails if it does not come back: a deadlock, or recursion
/// without an end. The time is so long that no slow machine gets there.
pub fn must_come_back<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, wait) = channel();
    let thread = thread::spawn(move || {
        let result = body();
        let _ = done.send(());
        result
    });
    if wait.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
        panic!("deadlock: the test's body did not come back");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// How often a waker was woken.
#[derive(Default)]
pub struct Count(AtomicUsize);

impl Count {
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub fn counting() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    (Arc::clone(&count), Waker::from(count))
}

type Hook = Box<dyn Fn() + Send + Sync>;

/// A waker that runs code of the test's choice when it is woken, cloned or dropped.
#[derive(Default)]
pub struct Hooks {
    on_wake: Option<Hook>,
    on_clone: Option<Hook>,
    on_drop: Option<Hook>,
}

impl Hooks {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn on_wake(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_wake = Some(Box::new(hook));
        self
    }

    pub fn on_clone(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_clone = Some(Box::new(hook));
        self
    }

    pub fn on_drop(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_drop = Some(Box::new(hook));
        self
    }

    /// The waker, and how often it was woken.
    pub fn waker(self) -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        let shared = Arc::new((self, Arc::clone(&count)));
        // SAFETY: the data pointer is an `Arc`'s, as the table's functions expect; all of it is `Send + Sync`.
        let waker = unsafe { Waker::new(Arc::into_raw(shared).cast(), &HOOKED) };
        (count, waker)
    }
}

type Shared = (Hooks, Arc<Count>);

fn run(hook: &Option<Hook>) {
    if let Some(hook) = hook {
        hook();
    }
}

// Each takes over the reference that it is told to consume *before* the hook runs, which may panic.
static HOOKED: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: from `Arc::into_raw`; borrowed, not consumed.
        let shared = ManuallyDrop::new(unsafe { Arc::from_raw(data.cast::<Shared>()) });
        run(&shared.0.on_clone);
        RawWaker::new(Arc::into_raw(Arc::clone(&shared)).cast(), &HOOKED)
    },
    |data| {
        // SAFETY: from `Arc::into_raw`, and consumed.
        let shared = unsafe { Arc::from_raw(data.cast::<Shared>()) };
        shared.1.0.fetch_add(1, Ordering::SeqCst);
        run(&shared.0.on_wake);
    },
    |data| {
        // SAFETY: from `Arc::into_raw`; borrowed, not consumed.
        let shared = ManuallyDrop::new(unsafe { Arc::from_raw(data.cast::<Shared>()) });
        shared.1.0.fetch_add(1, Ordering::SeqCst);
        run(&shared.0.on_wake);
    },
    |data| {
        // SAFETY: from `Arc::into_raw`, and consumed.
        let shared = unsafe { Arc::from_raw(data.cast::<Shared>()) };
        run(&shared.0.on_drop);
    },
);

/// A future that owns what it works on, so that wakers and payloads can hold it.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>, waker: &Waker) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(waker))
}

/// Polls with a waker that does nothing.
pub fn poll_once<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    poll(future, Waker::noop())
}

/// The output of a future that must be complete.
pub fn ready<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> F::Output {
    match poll_once(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it still waits"),
    }
}

/// Queues a future: polls it for the first time, with a counting waker, and it must have to wait.
pub fn queue<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Arc<Count> {
    let (count, waker) = counting();
    assert!(poll(future, &waker).is_pending(), "it was to wait");
    count
}

pub fn put_task<P, O>(
    stash: &Stash<P, O>,
    owner: O,
    payload: P,
) -> Task<Result<Ticket, PutError<P>>>
where
    P: Payload + Send + 'static,
    O: Eq + std::hash::Hash + Send + 'static,
{
    let stash = stash.clone();
    Box::pin(async move { stash.put(owner, payload).await })
}

pub type Request = Task<Result<Permit<'static>, AcquireError>>;

pub fn acquire_task(budget: &Budget, bytes: u64) -> Request {
    let budget = budget.clone();
    Box::pin(async move { budget.acquire(bytes).await.map(Permit::into_owned) })
}

/// A future that other code may poll, finish or drop, such as a waker or a payload's drop.
pub struct SharedTask<T>(Mutex<Option<Task<T>>>);

impl<T> SharedTask<T> {
    pub fn new(task: Task<T>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(task))))
    }

    /// Polls the future if it is there. It is moved out meanwhile, so that the test holds no lock while it
    /// runs.
    pub fn poll(&self, waker: &Waker) -> Option<T> {
        let mut task = self.0.lock().unwrap().take()?;
        match poll(&mut task, waker) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => {
                *self.0.lock().unwrap() = Some(task);
                None
            }
        }
    }

    /// Polls with a waker that does nothing.
    pub fn poll_once(&self) -> Option<T> {
        self.poll(Waker::noop())
    }

    pub fn discard(&self) {
        let task = self.0.lock().unwrap().take();
        drop(task);
    }
}

/// How many of something are alive: goes up when one is made, and down when it is dropped.
#[derive(Clone, Default)]
pub struct Live(Arc<AtomicIsize>);

impl Live {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn get(&self) -> isize {
        self.0.load(Ordering::SeqCst)
    }

    pub fn counted(&self, size: usize) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted { size, live: self.clone(), on_drop: None }
    }
}

/// A payload that is counted while it lives, and may do something when it is dropped.
pub struct Counted {
    pub size: usize,
    live: Live,
    on_drop: Option<Hook>,
}

impl Counted {
    pub fn on_drop(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_drop = Some(Box::new(hook));
        self
    }
}

impl Payload for Counted {
    fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.0.fetch_sub(1, Ordering::SeqCst);
        run(&self.on_drop);
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Counted({})", self.size)
    }
}

pub const TTL: Duration = Duration::from_secs(10);

/// A stash with a limit of `max` bytes, no overhead, a ttl of ten seconds, and a clock to turn by hand.
pub fn stash_of<P: Payload + Send + 'static, O: Send + 'static>(
    max: u64,
) -> (Stash<P, O>, ManualClock) {
    let clock = ManualClock::new();
    (stash_with_clock(max, clock.clone()), clock)
}

pub fn stash_with_clock<P, O>(max: u64, clock: impl Clock) -> Stash<P, O>
where
    P: Payload + Send + 'static,
    O: Send + 'static,
{
    Stash::builder().max_bytes(max).entry_overhead(0).ttl(TTL).clock(clock).build().unwrap()
}
