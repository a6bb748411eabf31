//! Scripts of steps, run against the crate and against a model that is too simple to be wrong: a queue that
//! is a `VecDeque`, entries that are a `Vec`. After every step the two must agree on everything that can
//! be seen: results and reasons, numbers in refusals, which waker was woken and in which order, what is used.
//!
//! Other code makes the scripts: random ones are in `tests/it/properties.rs`, the fuzzer's in `fuzz`.
#![allow(dead_code, unreachable_pub)]

pub mod budget;
pub mod bytes;
mod queue;
pub mod stash;
mod stash_model;
pub mod steps;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

/// In what the crate and the model do not agree.
pub type Disagreement = String;

/// What the crate does, and what the model says.
macro_rules! agree {
    ($actual:expr, $expected:expr $(, $what:literal)?) => {
        match (&$actual, &$expected) {
            (actual, expected) if actual == expected => {}
            (actual, expected) => {
                let what = [$($what,)? stringify!($actual)][0];
                return Err(format!("{what}: {expected:?}, not {actual:?}"));
            }
        }
    };
}
use agree;

/// The limit, in bytes, to begin with.
pub const LIMIT: u64 = 20;

/// Chooses among as many as there are then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Index(pub u8);

impl Index {
    /// `None` among none.
    fn of(self, len: usize) -> Option<usize> {
        usize::from(self.0).checked_rem(len)
    }
}

// ---- Wakers that tell in which order they were woken -----------------------------------------------

/// Whose waker it is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Waiter(usize),
    Drain(usize),
}

/// Which waker of whom was woken, in the order in which it happened.
type WakeLog = Arc<Mutex<Vec<(Who, usize)>>>;

struct Logging {
    log: WakeLog,
    who: Who,
    /// A waiter that is polled with a new waker counts on: only the last one must be woken.
    edition: usize,
}

impl Wake for Logging {
    fn wake(self: Arc<Self>) {
        self.log.lock().unwrap().push((self.who, self.edition));
    }
}

/// Completes once the script says so. Wakes no task: the script polls.
struct Fired(Rc<Cell<bool>>);

impl Future for Fired {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0.get() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// What every future needs besides itself.
struct Waiter<F: ?Sized> {
    future: Pin<Box<F>>,
    fire: Rc<Cell<bool>>,
    edition: usize,
    waker: Option<Waker>,
}

impl<F: Future + ?Sized> Waiter<F> {
    fn new(make: impl FnOnce(Fired) -> Pin<Box<F>>) -> Self {
        let fire = Rc::new(Cell::new(false));
        let future = make(Fired(Rc::clone(&fire)));
        Self { future, fire, edition: 0, waker: None }
    }

    fn poll(&mut self, log: &WakeLog, who: Who, new_waker: bool) -> Poll<F::Output> {
        if new_waker || self.waker.is_none() {
            self.edition += 1;
            let logging = Logging { log: Arc::clone(log), who, edition: self.edition };
            self.waker = Some(Waker::from(Arc::new(logging)));
        }
        let waker = self.waker.clone().unwrap();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}
