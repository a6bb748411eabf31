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

use self::support::ledger::{Dice, Fate, Ledger, Parcel, Record};
use self::support::{Count, Hooks, Request, Task, acquire_task, counting, poll, put_task};

// ---- Running ---------------------------------------------------------------------------------------

fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    let asked = env::var(name).ok();
    asked.map_or(otherwise, |text| text.parse().ok().expect("a number"))
}

/// Runs `body` under `SCHEDULES` random schedules (1,000 unless set) and half as many of PCT's, from
/// `SCHEDULES_SEED` on. `body` gets dice that are other ones at each schedule.
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
    body: impl Fn(u64, &mut Dice) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let body = Arc::new(body);
    let spawn = |number| {
        let body = Arc::clone(&body);
        thread::spawn(move || body(number, &mut Dice::new(seed + number)))
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

/// First polls it. Whoever has to wait is in the list.
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

/// After everything: nobody waits who could be let in; and when all is given back, nobody waits.
fn nobody_is_forgotten(budget: &Budget, waiting: Vec<Waiting>, permits: Vec<Permit<'static>>) {
    let (mut waiting, granted): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|waiting| waiting.count.get() == 0);
    assert!(granted.iter().all(|waiting| waiting.count.get() == 1), "woken once");
    assert_eq!(budget.waiting(), waiting.len(), "who is in line, and who was not woken");
    // This moves nothing and serves the line: whoever it lets in should have been in already.
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
        let ends = spawn_all(12, seed, move |_, dice| {
            let (mut waiting, mut permits) = (Vec::new(), Vec::new());
            for _ in 0..4 {
                match dice.below(8) {
                    0..4 => {
                        let waker = if dice.once_in(3) {
                            let (budget, bytes) = (budget.clone(), dice.below(LIMIT));
                            let call = move || match bytes {
                                0..3 => budget.set_limit(LIMIT - bytes),
                                _ => drop(budget.try_acquire(bytes)),
                            };
                            Hooks::new().on_wake(call).waker()
                        } else {
                            counting()
                        };
                        match request(&budget, 1 + dice.below(LIMIT), waker) {
                            Ok(permit) => permits.push(permit),
                            Err(queued) => waiting.extend(queued),
                        }
                    }
                    4 => drop(dice.draw(&mut waiting)),
                    5 | 6 => drop(dice.draw(&mut permits)),
                    _ => budget.set_limit(LIMIT / 2 + dice.below(LIMIT / 2 + 1)),
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
        spawn_all(12, seed, move |number, dice| {
            if number < 2 {
                for _ in 0..3 {
                    if let Ok(permit) = again.try_acquire(1) {
                        // It was not in line: somebody who had joined before must not be waiting.
                        drop(permit);
                    }
                }
                return;
            }
            let leaves = dice.once_in(4);
            let bytes = LIMIT / 2 + 1 + dice.below(LIMIT / 2);
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
            // The permit is still held: nobody else is granted before this is noted.
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

/// Ten requests of any size, and one task that gives back byte by byte, so that it alone serves and wakers
/// run in the order of the grants: a small request does not pass a large one.
#[test]
fn who_fits_does_not_pass_who_came_first() {
    explore("who_fits_does_not_pass_who_came_first", |seed| {
        let budget = Budget::new(LIMIT);
        let mut full = budget.try_acquire(LIMIT).unwrap().into_owned();
        let grants = Arc::new(Mutex::new(Vec::new()));
        let now = Arc::new(AtomicU64::new(0));
        let releaser = thread::spawn(move || (0..LIMIT).rev().for_each(|rest| full.shrink(rest)));
        let (again, granted) = (budget.clone(), Arc::clone(&grants));
        let joins = spawn_all(10, seed, move |number, dice| {
            let log = Arc::clone(&granted);
            let (_, waker) =
                Hooks::new().on_wake(move || with(&log, |log| log.push(number))).waker();
            let mut request = acquire_task(&again, 1 + dice.below(LIMIT));
            let began = now.fetch_add(1, Ordering::SeqCst);
            let first = poll(&mut request, &waker);
            if first.is_ready() {
                with(&granted, |log| log.push(number));
            }
            let ended = now.fetch_add(1, Ordering::SeqCst);
            // What is granted is kept: nobody but the releaser gives back.
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
        spawn_all(16, seed, move |_, dice| {
            let bytes = dice.below(LIMIT + 1);
            let permit = match dice.below(4) {
                0 => again.try_acquire(bytes).ok(),
                1 => {
                    let mut future = acquire_task(&again, bytes);
                    match poll(&mut future, Waker::noop()) {
                        Poll::Ready(permit) => Some(permit.unwrap()),
                        // Dropped in line, or with a grant.
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
        spawn_all(20, seed, move |number, dice| {
            if number == 0 {
                (0..dice.below(30)).for_each(|_| thread::yield_now());
                closed.store(again.close(), Ordering::SeqCst);
            } else {
                let refused = future::block_on(again.acquire(1 + dice.below(LIMIT)));
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

type Hall = Stash<Parcel, u64>;
type PutResult = Result<Ticket, PutError<Parcel>>;

fn hall() -> (Hall, ManualClock) {
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

    fn take(&mut self, stash: &Hall, (ticket, record): (Ticket, Arc<Record>)) {
        assert!(stash.take(&ticket, &8).is_none(), "another's");
        match stash.take(&ticket, &7) {
            Some(parcel) => parcel.delivered(),
            None => self.gone.push(record),
        }
    }

    fn step(&mut self, stash: &Hall, clock: &ManualClock, ledger: &Arc<Ledger>, dice: &mut Dice) {
        match dice.below(16) {
            0..3 => {
                let parcel = ledger.parcel(dice.below(LIMIT));
                let record = parcel.record();
                self.put_was(stash.try_put(7, parcel), record);
            }
            3..8 => {
                let (again, call) = (stash.clone(), dice.below(5));
                // A payload whose drop calls back, and a waker that does.
                let call_back = move || match call {
                    0 => drop(again.gc()),
                    1 => drop(again.clear()),
                    2 => assert!(again.len() <= 100),
                    _ => {}
                };
                let parcel = ledger.parcel(dice.below(LIMIT)).on_swept(call_back.clone());
                let record = parcel.record();
                let (count, waker) = Hooks::new().on_wake(call_back).waker();
                let mut put = put_task(stash, 7, parcel);
                match poll(&mut put, &waker) {
                    Poll::Ready(result) => self.put_was(result, record),
                    Poll::Pending => self.waiting.push(WaitingPut { put, count, record }),
                }
            }
            8..11 => {
                if let Some(check) = dice.draw(&mut self.checks) {
                    self.take(stash, check);
                }
            }
            11 => {
                if let Some(WaitingPut { put, record, .. }) = dice.draw(&mut self.waiting) {
                    record.cancel();
                    drop(put);
                }
            }
            12 => clock.advance(Duration::from_millis(dice.below(5))),
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

/// Ten tasks do everything that a stash can do. In the end those who still wait are let in one after the
/// other, and every payload went exactly one way.
#[test]
fn every_payload_goes_exactly_one_way() {
    explore("every_payload_goes_exactly_one_way", |seed| {
        let ((stash, clock), ledger) = (hall(), Ledger::new());
        let (again, book) = (stash.clone(), Arc::clone(&ledger));
        let ends = spawn_all(10, seed, move |_, dice| {
            let mut hands = Hands::default();
            for _ in 0..5 {
                hands.step(&again, &clock, &book, dice);
            }
            hands
        });
        let mut all = Hands::default();
        for hands in ends {
            all.checks.extend(hands.checks);
            all.waiting.extend(hands.waiting);
            all.gone.extend(hands.gone);
        }
        // Each turn makes room: with nothing stored, somebody who waits has been let in.
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
        let whole = ledger.parcel(LIMIT - 1);
        let ticket = stash.try_put(7, whole).expect("all of it is free");
        stash.try_put(7, ledger.parcel(0)).expect_err("and no more").into_payload().returned();
        stash.take(&ticket, &7).unwrap().delivered();
    });
}

/// Eight producers and four takers: nothing is lost on the way, however crowded it is.
#[test]
fn whatever_is_put_is_taken() {
    explore("whatever_is_put_is_taken", |seed| {
        let ((stash, _), ledger) = (hall(), Ledger::new());
        let (again, book) = (stash.clone(), Arc::clone(&ledger));
        let tickets = Arc::new(Mutex::new(Vec::new()));
        spawn_all(12, seed, move |number, dice| {
            if number < 8 {
                for _ in 0..2 {
                    let parcel = book.parcel(dice.below(LIMIT));
                    let ticket = future::block_on(again.put(7, parcel)).unwrap();
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
