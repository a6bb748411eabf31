//! S1 to S9: what a second core, a new stash and a long queue cost.

use std::collections::VecDeque;
use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use cloakroom::Stash;
use crossbeam_utils::CachePadded;

use super::line::{acquire_release, everyone};
use super::put_take::{everyone as every_stash, million, put_take};
use super::{DAY, Timed, printed};
use crate::crew::{Crew, Job};
use crate::peers::{Cloakroom as OurStash, Glue, Owner};
use crate::results::{Data, root};
use crate::rounds::{Candidate, Effort};
use crate::semaphores::{AsyncLock, Cloakroom, FuturesIntrusive, Mea, Semaphore, Tokio, UNIT};

/// Far from any use: room is lent from here.
const FAR: u64 = 1 << 30;
/// As many as this project's machines have cores: threads that share a core would not meet in a short run.
const THREADS: [usize; 2] = [1, 2];

pub(crate) const ACQUIRE: &str = "acquire + release, far from the limit, by threads";
pub(crate) const PUT_TAKE: &str = "put + take, nothing held, by threads";
pub(crate) const PUT_TAKE_HELD: &str = "put + take, 1 M held, by threads";
pub(crate) const BUILD: &str = "build a stash and drop it";
pub(crate) const GRANT: &str = "release that grants the head, and join at the tail, by waiters";
pub(crate) const EACH: &str = "cloakroom, one for each thread";
pub(crate) const ONE_LINE: &str = "one change of one shared atomic";

pub(super) const TIMED: &[Timed] = &[
    Timed {
        target: "S1",
        title: ACQUIRE,
        candidates: |_| {
            by_threads(|crew, threads| {
                let mut all = everyone!(acquire_release(crew, FAR));
                all.push(acquire_each(crew, threads));
                all.push(change_one_atomic(crew));
                all
            })
        },
    },
    Timed {
        target: "S2",
        title: PUT_TAKE,
        candidates: |_| by_threads(|_, threads| every_stash(threads, 0)),
    },
    Timed {
        target: "S2",
        title: PUT_TAKE_HELD,
        candidates: |quick| {
            let held = million(quick);
            by_threads(move |crew, threads| {
                vec![
                    put_take::<OurStash>(crew, threads, held),
                    put_take::<Glue>(crew, threads, held),
                ]
            })
        },
    },
    Timed { target: "S8", title: BUILD, candidates: |_| vec![build()] },
    Timed {
        target: "S9",
        title: GRANT,
        candidates: |quick| {
            let waiters = [1, 1_000, 1_000_000];
            let waiters = &waiters[..if quick { 2 } else { waiters.len() }];
            waiters.iter().flat_map(|waiters| everyone!(grant(*waiters))).collect()
        },
    },
];

fn by_threads(make: impl Fn(&Rc<Crew>, usize) -> Vec<Candidate>) -> Vec<Candidate> {
    let at = |threads| {
        let candidates = make(&Rc::new(Crew::new(threads)), threads);
        candidates.into_iter().map(move |candidate| candidate.at(threads as u64))
    };
    THREADS.into_iter().flat_map(at).collect()
}

/// What several threads would do if they had nothing in common.
fn acquire_each(crew: &Rc<Crew>, threads: usize) -> Candidate {
    let crew = Rc::clone(crew);
    Candidate::new(EACH, move || {
        let budgets: Arc<[Cloakroom]> = (0..threads).map(|_| Cloakroom::new(FAR)).collect();
        move |operations| {
            let budgets = Arc::clone(&budgets);
            let job: Job = Arc::new(move |thread| {
                let started = Instant::now();
                for _ in 0..operations {
                    budgets[thread].acquire_release(UNIT);
                }
                started.elapsed()
            });
            crew.run(&job)
        }
    })
}

/// The time of a cache line that moves between cores.
fn change_one_atomic(crew: &Rc<Crew>) -> Candidate {
    let crew = Rc::clone(crew);
    Candidate::new(ONE_LINE, move || {
        let atomic = Arc::new(CachePadded::new(AtomicU64::new(0)));
        move |operations| {
            let atomic = Arc::clone(&atomic);
            let job: Job = Arc::new(move |_| {
                let started = Instant::now();
                for _ in 0..operations {
                    black_box(&atomic).fetch_add(1, Ordering::Relaxed);
                }
                started.elapsed()
            });
            crew.run(&job)
        }
    })
}

fn build() -> Candidate {
    Candidate::new("cloakroom", || {
        |operations| {
            let started = Instant::now();
            for _ in 0..operations {
                let builder = Stash::<Bytes, Owner>::builder().max_bytes(FAR).ttl(DAY);
                drop(black_box(builder.build().expect("the settings are good")));
            }
            started.elapsed()
        }
    })
}

/// One holds all. It releases, the head is granted and becomes the holder, and a new request joins at the tail.
fn grant<S: Semaphore>(waiters: usize) -> Candidate {
    fn request<S: Semaphore>(
        semaphore: &'static S,
    ) -> impl Future<Output = S::Granted<'static>> + use<S> {
        semaphore.acquire(UNIT)
    }
    fn join<F: Future>(mut request: Pin<Box<F>>) -> Pin<Box<F>> {
        let polled = request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "it waits");
        request
    }

    let make = move || {
        let semaphore: &'static S = Box::leak(Box::new(S::new(UNIT)));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(request(semaphore)).poll(&mut cx) else {
            panic!("there is room");
        };
        let mut holder = Some(first);
        let mut queue: VecDeque<_> =
            (0..waiters).map(|_| join(Box::pin(request(semaphore)))).collect();
        move |operations| {
            let mut cx = Context::from_waker(Waker::noop());
            let started = Instant::now();
            for _ in 0..operations {
                drop(holder.take());
                let mut head = queue.pop_front().expect("never empty");
                let Poll::Ready(granted) = head.as_mut().poll(&mut cx) else {
                    panic!("it was granted");
                };
                holder = Some(black_box(granted));
                head.set(request(semaphore));
                queue.push_back(join(head));
            }
            started.elapsed()
        }
    };
    Candidate::new(S::NAME, make).at(waiters as u64)
}

/// A line of the test: `shared writes of what: number per operation`.
pub(crate) const WRITES: &str = "shared writes of ";
/// What the count ends with for a budget that lends nothing.
pub(crate) const SMALL: &str = "a small budget";

/// S4: what `.ci/count` counts.
pub(super) fn measure(_: Effort) -> Data {
    eprintln!("  the test `shared_writes`");
    printed(Command::new(root().join(".ci/count")), |line| {
        let (what, value) = line.split_once(WRITES)?.1.split_once(": ")?;
        let value = value.split(' ').next()?.parse().ok()?;
        Some((format!("{WRITES}{what}"), value))
    })
}
