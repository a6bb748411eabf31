//! Random schedules of more tasks than loom can explore, by [shuttle](https://docs.rs/shuttle):
//! `.ci/schedules`.
//!
//! Shuttle switches tasks at every access to an atomic and every lock, as a seeded random generator says,
//! or by probabilistic concurrency testing (PCT), which gives tasks random priorities and changes them at
//! a few points. Its memory is sequentially consistent: it finds lost wakeups, wrong order and wrong
//! sums, but no ordering that is too weak; those are loom's. Blocking calls are not here either.
//!
//! A task is a shuttle thread that polls by hand, or a future on shuttle's executor. What is granted is
//! held for a while, so that order and sums can be seen from outside.
#![cfg(cloakroom_shuttle)]

mod support;

use std::collections::BTreeMap;
use std::env;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloakroom::{Budget, ManualClock, Permit, PutError, Refusal, Stash, Ticket};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner, future, thread};

use self::support::ledger::{Fate, Ledger, Record, Tracked};
use self::support::random::Rng;
use self::support::{Count, Hooks, Request, Task, acquire_task, counting, poll, put_task};

// ---- Running ---------------------------------------------------------------------------------------

fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    let asked = env::var(name).ok();
    asked.map_or(otherwise, |text| text.parse().ok().expect("a number"))
}

/// Runs `body` under `SCHEDULES` random schedules (1,000 unless set) and half as many of PCT's, from
/// `SCHEDULES_SEED` on. `body` gets other random numbers at each schedule.
fn explore(name: &str, body: impl Fn(u64) + Send + Sync + 'static) {
    let iterations: usize = setting("SCHEDULES", 1_000);
    let seed: u64 = setting("SCHEDULES_SEED", 0xC0A7);
    let body = Arc::new(body);
    let config = || {
        let mut config = Config::default();
        config.silence_warnings = true;
        config.max_steps = MaxSteps::FailAfter(1_000_000);
        config
    };
    let run = || {
        let (body, round) = (Arc::clone(&body), AtomicU64::new(0));
        move || body(seed.wrapping_add(round.fetch_add(1, Ordering::Relaxed) << 16))
    };
    let random = RandomScheduler::new_from_seed(seed, iterations);
    let random = Runner::new(random, config()).run(run());
    let pct = PctScheduler::new_from_seed(seed, 5, iterations / 2);
    let pct = Runner::new(pct, config()).run(run());
    // `.ci/schedules` counts these lines.
    println!("schedules of {name}: {random} random, {pct} PCT, seed {seed}");
}

/// Locks of the tests are `std`'s, and held for an instant: nothing that shuttle switches at happens
/// under them.
fn with<T, R>(mutex: &Mutex<T>, f: impl FnOnce(&mut T) -> R) -> R {
    f(&mut mutex.lock().unwrap_or_else(PoisonError::into_inner))
}

fn spawn_all<T: Send + 'static>(
    tasks: u64,
    seed: u64,
    body: impl Fn(u64, &mut Rng) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let body = Arc::new(body);
    let spawn = |number| {
        let body = Arc::clone(&body);
        thread::spawn(move || body(number, &mut Rng::new(seed + number)))
    };
    let threads: Vec<_> = (0..tasks).map(spawn).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// All of it can be had, once.
fn settled(budget: &Budget, limit: u64) {
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
    let all = budget.try_acquire(limit).expect("all of it is free");
    assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Full);
    drop(all);
}

// ---- The budget ------------------------------------------------------------------------------------

const LIMIT: u64 = 10;

struct Waiting {
    _request: Request,
    count: Arc<Count>,
}

/// Polls it once. A request that has to wait is added to the list.
fn request(
    budget: &Budget,
    bytes: u64,
    waker: (Arc<Count>, Waker),
) -> Result<Permit<'static>, Option<Waiting>> {
    let (count, waker) = waker;
    let mut request = acquire_task(budget, bytes);
    match poll(&mut request, &waker) {
        Poll::Ready(Ok(permit)) => Ok(permit),
        Poll::Ready(Err(e)) => {
            assert_eq!(e.reason(), Refusal::TooLarge);
            Err(None)
        }
        Poll::Pending => Err(Some(Waiting { _request: request, count })),
    }
}

/// Checks the end: no waiter is left that could be granted, and none at all once all bytes are back.
fn nobody_is_forgotten(budget: &Budget, waiting: Vec<Waiting>, permits: Vec<Permit<'static>>) {
    let (mut waiting, granted): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|waiting| waiting.count.get() == 0);
    assert!(granted.iter().all(|waiting| waiting.count.get() == 1), "woken once");
    assert_eq!(
        budget.waiting(),
        waiting.len(),
        "waiters in the queue, and waiters that were not woken"
    );
    // Changes no limit but grants waiters: a waiter granted here should have been granted before.
    budget.set_limit(budget.limit());
    assert!(waiting.iter().all(|waiting| waiting.count.get() == 0), "forgotten: {budget:?}");
    budget.set_limit(LIMIT);
    drop(permits);
    drop(granted);
    while !waiting.is_empty() {
        let before = waiting.len();
        // Again: wakers that were woken by the last time may have moved it.
        budget.set_limit(LIMIT);
        waiting.retain(|waiting| waiting.count.get() == 0);
        assert!(waiting.len() < before, "somebody waits for nobody: {budget:?}");
    }
    budget.set_limit(LIMIT);
    settled(budget, LIMIT);
}

/// Cancels, releases, moves of the limit and wakers that call back, by twelve tasks.
#[test]
fn no_wakeup_is_lost() {
    explore("no_wakeup_is_lost", |seed| {
        let budget = Budget::new(LIMIT);
        let again = budget.clone();
        let ends = spawn_all(12, seed, move |_, rng| {
            let (mut waiting, mut permits) = (Vec::new(), Vec::new());
            for _ in 0..4 {
                match rng.below(8) {
                    0..4 => {
                        let waker = if rng.once_in(3) {
                            let (budget, bytes) = (budget.clone(), rng.below(LIMIT));
                            let call = move || match bytes {
                                0..3 => budget.set_limit(LIMIT - bytes),
                                _ => drop(budget.try_acquire(bytes)),
                            };
                            Hooks::new().on_wake(call).waker()
                        } else {
                            counting()
                        };
                        match request(&budget, 1 + rng.below(LIMIT), waker) {
                            Ok(permit) => permits.push(permit),
                            Err(queued) => waiting.extend(queued),
                        }
                    }
                    4 => drop(rng.draw(&mut waiting)),
                    5 | 6 => drop(rng.draw(&mut permits)),
                    _ => budget.set_limit(LIMIT / 2 + rng.below(LIMIT / 2 + 1)),
                }
            }
            (waiting, permits)
        });
        let (mut waiting, mut permits) = (Vec::new(), Vec::new());
        for (more_waiting, more_permits) in ends {
            waiting.extend(more_waiting);
            permits.extend(more_permits);
        }
        nobody_is_forgotten(&again, waiting, permits);
    });
}

/// Ten requests of more than half each, so that one has bytes at a time: they have them in the order in
/// which they joined. Some that wait in between leave, and others try to overtake.
#[test]
fn grants_come_in_the_order_of_joining() {
    explore("grants_come_in_the_order_of_joining", |seed| {
        let budget = Budget::new(LIMIT);
        let full = budget.try_acquire(LIMIT).unwrap().into_owned();
        // When each began to join, when it had joined, and when it was found granted.
        let joins = Arc::new(Mutex::new(BTreeMap::<u64, (u64, u64)>::new()));
        let grants = Arc::new(Mutex::new(Vec::new()));
        let now = Arc::new(AtomicU64::new(0));
        let tick = |now: &AtomicU64| now.fetch_add(1, Ordering::SeqCst);
        let (again, joined, granted) = (budget.clone(), Arc::clone(&joins), Arc::clone(&grants));
        let opener = thread::spawn(move || drop(full));
        spawn_all(12, seed, move |number, rng| {
            if number < 2 {
                for _ in 0..3 {
                    if let Ok(permit) = again.try_acquire(1) {
                        // It was not queued: no request that joined before may be waiting.
                        drop(permit);
                    }
                }
                return;
            }
            let leaves = rng.once_in(4);
            let bytes = LIMIT / 2 + 1 + rng.below(LIMIT / 2);
            let mut future = acquire_task(&again, bytes);
            let began = tick(&now);
            let first = future::block_on(poll_fn(|cx| Poll::Ready(poll(&mut future, cx.waker()))));
            let ended = tick(&now);
            if leaves {
                return;
            }
            with(&joined, |joins| joins.insert(number, (began, ended)));
            let permit = match first {
                Poll::Ready(permit) => permit,
                Poll::Pending => future::block_on(future),
            };
            // The permit is still held: no other request is granted before this is recorded.
            with(&granted, |grants| grants.push(number));
            drop(permit.unwrap());
        });
        opener.join().unwrap();
        let (joins, grants) = (with(&joins, std::mem::take), with(&grants, std::mem::take));
        assert_eq!(grants.len(), joins.len());
        for (at, later) in grants.iter().enumerate() {
            for earlier in &grants[..at] {
                let ((began, _), (_, ended)) = (joins[earlier], joins[later]);
                assert!(began < ended, "{later} had joined before {earlier} came: {grants:?}");
            }
        }
        settled(&budget, LIMIT);
    });
}

/// Ten requests of any size, and one task that releases byte by byte, so that it alone grants, and wakers
/// run in the order of the grants: a small request does not pass a large one.
#[test]
fn a_small_request_does_not_pass_an_earlier_one() {
    explore("a_small_request_does_not_pass_an_earlier_one", |seed| {
        let budget = Budget::new(LIMIT);
        let mut full = budget.try_acquire(LIMIT).unwrap().into_owned();
        let grants = Arc::new(Mutex::new(Vec::new()));
        let now = Arc::new(AtomicU64::new(0));
        let releaser = thread::spawn(move || (0..LIMIT).rev().for_each(|rest| full.shrink(rest)));
        let (again, granted) = (budget.clone(), Arc::clone(&grants));
        let joins = spawn_all(10, seed, move |number, rng| {
            let log = Arc::clone(&granted);
            let (_, waker) =
                Hooks::new().on_wake(move || with(&log, |log| log.push(number))).waker();
            let mut request = acquire_task(&again, 1 + rng.below(LIMIT));
            let began = now.fetch_add(1, Ordering::SeqCst);
            let first = poll(&mut request, &waker);
            if first.is_ready() {
                with(&granted, |log| log.push(number));
            }
            let ended = now.fetch_add(1, Ordering::SeqCst);
            // Grants are kept: only the releaser gives bytes back.
            (began, ended, request, first)
        });
        releaser.join().unwrap();
        let order = with(&grants, |log| log.clone());
        for (at, &later) in order.iter().enumerate() {
            for &earlier in &order[..at] {
                let (began, ended) = (joins[earlier as usize].0, joins[later as usize].1);
                assert!(began < ended, "{later} had joined before {earlier} came: {order:?}");
            }
        }
        drop(joins);
        settled(&budget, LIMIT);
    });
}

/// Sixteen tasks take and give back: what is held never passes the limit, and all of it comes back.
#[test]
fn sums_are_exact() {
    explore("sums_are_exact", |seed| {
        let (budget, held) = (Budget::new(LIMIT), Arc::new(AtomicU64::new(0)));
        let again = budget.clone();
        spawn_all(16, seed, move |_, rng| {
            let bytes = rng.below(LIMIT + 1);
            let permit = match rng.below(4) {
                0 => again.try_acquire(bytes).ok(),
                1 => {
                    let mut future = acquire_task(&again, bytes);
                    match poll(&mut future, Waker::noop()) {
                        Poll::Ready(permit) => Some(permit.unwrap()),
                        // Dropped while waiting, or with a grant.
                        Poll::Pending => None,
                    }
                }
                _ => Some(future::block_on(again.acquire(bytes)).unwrap()),
            };
            if let Some(mut permit) = permit {
                let sum = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                assert!(sum <= LIMIT, "{sum} are held");
                thread::yield_now();
                held.fetch_sub(bytes, Ordering::SeqCst);
                permit.shrink(bytes / 2);
                drop(permit.split(bytes / 3));
            }
        });
        settled(&budget, LIMIT);
    });
}

/// Nineteen wait: more than are woken in one batch.
#[test]
fn closing_ends_every_wait() {
    explore("closing_ends_every_wait", |seed| {
        let budget = Budget::new(LIMIT);
        let full = budget.try_acquire(LIMIT).unwrap().into_owned();
        let (again, found) = (budget.clone(), Arc::new(AtomicUsize::new(0)));
        let (closed, ended) = (Arc::clone(&found), Arc::new(AtomicUsize::new(0)));
        let ends = Arc::clone(&ended);
        spawn_all(20, seed, move |number, rng| {
            if number == 0 {
                (0..rng.below(30)).for_each(|_| thread::yield_now());
                closed.store(again.close(), Ordering::SeqCst);
            } else {
                let refused = future::block_on(again.acquire(1 + rng.below(LIMIT)));
                assert_eq!(refused.unwrap_err().reason(), Refusal::Closed);
                ends.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!(ended.load(Ordering::SeqCst), 19);
        assert!(found.load(Ordering::SeqCst) <= 19);
        drop(full);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

// ---- The stash -------------------------------------------------------------------------------------

type TestStash = Stash<Tracked, u64>;
type PutResult = Result<Ticket, PutError<Tracked>>;

fn test_stash() -> (TestStash, ManualClock) {
    let clock = ManualClock::new();
    let stash = Stash::builder()
        .max_bytes(LIMIT)
        .entry_overhead(1)
        .ttl(Duration::from_millis(4))
        .clock(clock.clone())
        .build()
        .unwrap();
    (stash, clock)
}

struct WaitingPut {
    put: Task<PutResult>,
    count: Arc<Count>,
    record: Arc<Record>,
}

#[derive(Default)]
struct Hands {
    checks: Vec<(Ticket, Arc<Record>)>,
    waiting: Vec<WaitingPut>,
    gone: Vec<Arc<Record>>,
}

impl Hands {
    fn put_was(&mut self, result: PutResult, record: Arc<Record>) {
        match result {
            Ok(ticket) => self.checks.push((ticket, record)),
            Err(refused) => refused.into_payload().returned(),
        }
    }

    fn take(&mut self, stash: &TestStash, (ticket, record): (Ticket, Arc<Record>)) {
        assert!(stash.take(&ticket, &8).is_none(), "another's");
        match stash.take(&ticket, &7) {
            Some(tracked) => tracked.delivered(),
            None => self.gone.push(record),
        }
    }

    fn step(
        &mut self,
        stash: &TestStash,
        clock: &ManualClock,
        ledger: &Arc<Ledger>,
        rng: &mut Rng,
    ) {
        match rng.below(16) {
            0..3 => {
                let tracked = ledger.tracked(rng.below(LIMIT));
                let record = tracked.record();
                self.put_was(stash.try_put(7, tracked), record);
            }
            3..8 => {
                let (again, call) = (stash.clone(), rng.below(5));
                // A payload whose drop calls back, and a waker that does.
                let call_back = move || match call {
                    0 => drop(again.gc()),
                    1 => drop(again.clear()),
                    2 => assert!(again.len() <= 100),
                    _ => {}
                };
                let tracked = ledger.tracked(rng.below(LIMIT)).on_swept(call_back.clone());
                let record = tracked.record();
                let (count, waker) = Hooks::new().on_wake(call_back).waker();
                let mut put = put_task(stash, 7, tracked);
                match poll(&mut put, &waker) {
                    Poll::Ready(result) => self.put_was(result, record),
                    Poll::Pending => self.waiting.push(WaitingPut { put, count, record }),
                }
            }
            8..11 => {
                if let Some(check) = rng.draw(&mut self.checks) {
                    self.take(stash, check);
                }
            }
            11 => {
                if let Some(WaitingPut { put, record, .. }) = rng.draw(&mut self.waiting) {
                    record.cancel();
                    drop(put);
                }
            }
            12 => clock.advance(Duration::from_millis(rng.below(5))),
            13 => drop(stash.gc()),
            14 => drop(stash.clear()),
            _ => {
                let waiting = std::mem::take(&mut self.waiting);
                for mut one in waiting {
                    let woken = one.count.get();
                    let (count, waker) = counting();
                    match poll(&mut one.put, &waker) {
                        Poll::Ready(result) => self.put_was(result, one.record),
                        Poll::Pending => {
                            assert_eq!(woken, 0, "woken, but it still waits");
                            self.waiting.push(WaitingPut { count, ..one });
                        }
                    }
                }
            }
        }
    }
}

/// Ten tasks do everything that a stash can do. In the end the remaining waiters are granted one after the
/// other, and every payload went exactly one way.
#[test]
fn every_payload_goes_exactly_one_way() {
    explore("every_payload_goes_exactly_one_way", |seed| {
        let ((stash, clock), ledger) = (test_stash(), Ledger::new());
        let (again, book) = (stash.clone(), Arc::clone(&ledger));
        let ends = spawn_all(10, seed, move |_, rng| {
            let mut hands = Hands::default();
            for _ in 0..5 {
                hands.step(&again, &clock, &book, rng);
            }
            hands
        });
        let mut all = Hands::default();
        for hands in ends {
            all.checks.extend(hands.checks);
            all.waiting.extend(hands.waiting);
            all.gone.extend(hands.gone);
        }
        // Each turn makes room: with nothing stored, a waiter has been granted.
        while !(all.waiting.is_empty() && all.checks.is_empty()) {
            for check in std::mem::take(&mut all.checks) {
                all.take(&stash, check);
            }
            stash.clear();
            let (woken, waiting): (Vec<_>, Vec<_>) =
                std::mem::take(&mut all.waiting).into_iter().partition(|one| one.count.get() > 0);
            assert!(
                waiting.is_empty() || !woken.is_empty(),
                "somebody waits for nobody: {stash:?}"
            );
            all.waiting = waiting;
            for mut one in woken {
                match Pin::new(&mut one.put).poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => all.put_was(result, one.record),
                    Poll::Pending => panic!("woken, but it still waits"),
                }
            }
        }
        assert!(all.gone.iter().all(|record| record.fate() == Fate::Swept));
        assert_eq!((stash.clear(), stash.used_bytes(), stash.waiting()), (0, 0, 0));
        ledger.assert_settled();
        let whole = ledger.tracked(LIMIT - 1);
        let ticket = stash.try_put(7, whole).expect("all of it is free");
        stash.try_put(7, ledger.tracked(0)).expect_err("and no more").into_payload().returned();
        stash.take(&ticket, &7).unwrap().delivered();
    });
}

/// Eight producers and four takers: nothing is lost on the way, however crowded it is.
#[test]
fn whatever_is_put_is_taken() {
    explore("whatever_is_put_is_taken", |seed| {
        let ((stash, _), ledger) = (test_stash(), Ledger::new());
        let (again, book) = (stash.clone(), Arc::clone(&ledger));
        let tickets = Arc::new(Mutex::new(Vec::new()));
        spawn_all(12, seed, move |number, rng| {
            if number < 8 {
                for _ in 0..2 {
                    let tracked = book.tracked(rng.below(LIMIT));
                    let ticket = future::block_on(again.put(7, tracked)).unwrap();
                    with(&tickets, |tickets| tickets.push(ticket));
                }
                return;
            }
            let mut taken = 0;
            while taken < 4 {
                match with(&tickets, Vec::pop) {
                    Some(ticket) => {
                        again.take(&ticket, &7).expect("a good ticket").delivered();
                        taken += 1;
                    }
                    None => thread::yield_now(),
                }
            }
        });
        assert_eq!(ledger.count(Fate::Delivered), 16);
        assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (0, 0, 0));
        ledger.assert_settled();
    });
}
