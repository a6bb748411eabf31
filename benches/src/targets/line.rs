//! T6 to T8: the budget against semaphores: uncontended, by two threads, a hand-off, joining and leaving a
//! queue.

use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::Timed;
use crate::crew::{Crew, Job};
use crate::rounds::Candidate;
use crate::semaphores::{AsyncLock, Cloakroom, FuturesIntrusive, Mea, Semaphore, Tokio, UNIT};

/// The same for every semaphore.
macro_rules! everyone {
    ($make:ident ( $($argument:expr),* )) => {
        vec![
            $make::<Cloakroom>($($argument),*),
            $make::<Tokio>($($argument),*),
            $make::<FuturesIntrusive>($($argument),*),
            $make::<AsyncLock>($($argument),*),
            $make::<Mea>($($argument),*),
        ]
    };
}
pub(super) use everyone;

pub(crate) const HAND_OFF: &str = "hand-off: join, release, poll";

pub(super) const TIMED: &[Timed] = &[
    Timed {
        target: "T6",
        title: "try to acquire + release, 1 thread",
        candidates: |_| everyone!(acquire_release(&Rc::new(Crew::new(1)), NEAR)),
    },
    Timed {
        target: "T6",
        title: "acquire + release, 1 thread, by a future that is ready at its first poll",
        candidates: |_| everyone!(acquire_by_future()),
    },
    Timed {
        target: "T6",
        title: "try to acquire + release, 2 threads",
        candidates: |_| everyone!(acquire_release(&Rc::new(Crew::new(2)), NEAR)),
    },
    Timed { target: "T7", title: HAND_OFF, candidates: |_| everyone!(hand_off()) },
    Timed {
        target: "T8",
        title: "join and leave at the end of the queue",
        candidates: |quick| {
            by_waiters(quick, |waiters| {
                let mut all = everyone!(join_leave(waiters));
                all.push(lock_twice(waiters));
                all
            })
        },
    },
    Timed {
        target: "T8",
        title: "leave from a random position of the queue, join at its end",
        candidates: |quick| by_waiters(quick, |waiters| everyone!(leave_random(waiters))),
    },
];

fn by_waiters(quick: bool, make: impl Fn(usize) -> Vec<Candidate>) -> Vec<Candidate> {
    let waiters = [1_000, 100_000, 1_000_000];
    let waiters = &waiters[..if quick { 2 } else { waiters.len() }];
    waiters.iter().flat_map(|waiters| make(*waiters)).collect()
}

/// Too little to lend from: all threads change one atomic.
const NEAR: u64 = 16 * UNIT;

pub(super) fn acquire_release<S: Semaphore>(crew: &Rc<Crew>, limit: u64) -> Candidate {
    let crew = Rc::clone(crew);
    Candidate::new(S::NAME, move || {
        let semaphore = Arc::new(S::new(limit));
        move |operations| {
            let semaphore = Arc::clone(&semaphore);
            let job: Job = Arc::new(move |_| {
                let started = Instant::now();
                for _ in 0..operations {
                    semaphore.acquire_release(UNIT);
                }
                started.elapsed()
            });
            crew.run(&job)
        }
    })
}

fn acquire_by_future<S: Semaphore>() -> Candidate {
    Candidate::new(S::NAME, || {
        let semaphore = S::new(16 * UNIT);
        move |operations| {
            let mut cx = Context::from_waker(Waker::noop());
            let started = Instant::now();
            for _ in 0..operations {
                let granted = pin!(semaphore.acquire(UNIT)).poll(&mut cx);
                assert!(black_box(&granted).is_ready(), "there is room");
            }
            started.elapsed()
        }
    })
}

/// Two requests take turns: one holds all, the other joins, the first releases, the other is granted.
fn hand_off<S: Semaphore>() -> Candidate {
    Candidate::new(S::NAME, || {
        let semaphore = S::new(UNIT);
        move |operations| {
            let mut cx = Context::from_waker(Waker::noop());
            let started = Instant::now();
            let Poll::Ready(mut holder) = pin!(semaphore.acquire(UNIT)).poll(&mut cx) else {
                panic!("there is room");
            };
            for _ in 0..operations {
                let mut next = pin!(semaphore.acquire(UNIT));
                assert!(next.as_mut().poll(&mut cx).is_pending(), "it waits");
                drop(holder);
                let Poll::Ready(granted) = next.poll(&mut cx) else { panic!("it was released") };
                holder = black_box(granted);
            }
            started.elapsed()
        }
    })
}

/// A semaphore whose permits are all taken and never released.
fn full<S: Semaphore>() -> &'static S {
    // Leaked, so that a wait can be stored beside its semaphore.
    let semaphore: &'static S = Box::leak(Box::new(S::new(UNIT)));
    let taken = pin!(semaphore.acquire(UNIT)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(taken.is_ready(), "there is room");
    std::mem::forget(taken);
    semaphore
}

fn wait<S: Semaphore>(semaphore: &'static S) -> Pin<Box<impl Future + use<S>>> {
    let mut waiter = Box::pin(semaphore.acquire(UNIT));
    assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    waiter
}

fn join_leave<S: Semaphore>(waiters: usize) -> Candidate {
    let make = move || {
        let semaphore = full::<S>();
        let line: Vec<_> = (0..waiters).map(|_| wait(semaphore)).collect();
        move |operations| {
            assert_eq!(line.len(), waiters);
            let mut cx = Context::from_waker(Waker::noop());
            let started = Instant::now();
            for _ in 0..operations {
                let waits = pin!(semaphore.acquire(UNIT)).poll(&mut cx).is_pending();
                assert!(black_box(waits));
            }
            started.elapsed()
        }
    };
    Candidate::new(S::NAME, make).at(waiters as u64)
}

/// The floor of a queue under one lock: a lock to join, and a lock to leave.
fn lock_twice(waiters: usize) -> Candidate {
    Candidate::new("floor: two locks", || {
        let line = parking_lot::Mutex::new(0_u64);
        move |operations| {
            let started = Instant::now();
            for _ in 0..operations {
                *black_box(&line).lock() += 1;
                *black_box(&line).lock() -= 1;
            }
            started.elapsed()
        }
    })
    .at(waiters as u64)
}

/// Its neighbours in the queue have long left the caches, so with many of them this waits for memory.
fn leave_random<S: Semaphore>(waiters: usize) -> Candidate {
    let make = move || {
        let semaphore = full::<S>();
        let mut line: Vec<_> = (0..waiters).map(|_| wait(semaphore)).collect();
        let mut random = 1_u64;
        move |operations| {
            let started = Instant::now();
            for _ in 0..operations {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let place = &mut line[(random >> 33) as usize % waiters];
                *place = wait(semaphore);
            }
            started.elapsed()
        }
    };
    Candidate::new(S::NAME, make).at(waiters as u64)
}
