//! Executors that a scenario can be stepped on: after each step, whatever can run has run.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

type Output<T> = Arc<Mutex<Option<T>>>;

/// A task that was started, and its outcome.
pub(crate) struct Task<T> {
    output: Output<T>,
    settle: Box<dyn Fn()>,
}

impl<T> Task<T> {
    /// Runs everything that can run, then tells whether the task still waits.
    pub(crate) fn is_pending(&self) -> bool {
        (self.settle)();
        self.output.lock().unwrap().is_none()
    }

    /// Returns the output of the task, which must have completed.
    pub(crate) fn output(self) -> T {
        (self.settle)();
        self.output.lock().unwrap().take().expect("the task still waits")
    }
}

pub(crate) trait Executor {
    /// Starts a task and runs it as far as it gets.
    fn start<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static)
    -> Task<T>;
}

/// Writes a future's output where it can be seen.
fn recording<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> (Output<T>, impl Future<Output = ()> + Send + 'static) {
    let output = Output::default();
    let slot = Arc::clone(&output);
    (output, async move {
        let value = future.await;
        *slot.lock().unwrap() = Some(value);
    })
}

pub(crate) struct Tokio(Arc<tokio::runtime::Runtime>);

impl Tokio {
    pub(crate) fn new() -> Self {
        Self(Arc::new(tokio::runtime::Builder::new_current_thread().build().unwrap()))
    }
}

impl Executor for Tokio {
    fn start<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let (output, future) = recording(future);
        self.0.spawn(future);
        let runtime = Arc::clone(&self.0);
        let settle = move || {
            runtime.block_on(async {
                for _ in 0..32 {
                    tokio::task::yield_now().await;
                }
            });
        };
        settle();
        Task { output, settle: Box::new(settle) }
    }
}

pub(crate) struct Smol(Arc<smol::Executor<'static>>);

impl Smol {
    pub(crate) fn new() -> Self {
        Self(Arc::new(smol::Executor::new()))
    }
}

impl Executor for Smol {
    fn start<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let (output, future) = recording(future);
        self.0.spawn(future).detach();
        let executor = Arc::clone(&self.0);
        let settle = move || while executor.try_tick() {};
        settle();
        Task { output, settle: Box::new(settle) }
    }
}

/// Polls a task inside `wake`, on the stack of the waking call.
pub(crate) struct Inline;

struct InlineTask {
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    woken: AtomicBool,
}

impl InlineTask {
    fn run(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        // The call that polls it now, perhaps further up this stack, sees that it was woken again.
        while let Ok(mut future) = self.future.try_lock() {
            if !self.woken.swap(false, SeqCst) {
                return;
            }
            let waker = Waker::from(Arc::clone(self));
            let done = future.as_mut().is_none_or(|future| {
                future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            });
            if done {
                *future = None;
            }
        }
    }
}

impl Wake for InlineTask {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

impl Executor for Inline {
    fn start<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let (output, future) = recording(future);
        let task = InlineTask {
            future: Mutex::new(Some(Box::pin(future))),
            woken: AtomicBool::new(false),
        };
        Arc::new(task).run();
        Task { output, settle: Box::new(|| ()) }
    }
}

/// The same scenario on every executor.
macro_rules! on_every_executor {
    ($(#[$doc:meta])* fn $name:ident($executor:ident) $body:block) => {
        mod $name {
            use super::*;

            $(#[$doc])*
            fn scenario($executor: &impl Executor) $body

            #[test]
            fn tokio() {
                scenario(&crate::executors::Tokio::new());
            }

            #[test]
            fn smol() {
                scenario(&crate::executors::Smol::new());
            }

            #[test]
            fn inline() {
                scenario(&crate::executors::Inline);
            }
        }
    };
}
