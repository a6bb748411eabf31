//! Runs everything at once, for minutes: threads and tasks over one stash and one budget, with cancels,
//! timeouts, wakers that panic or call back, payloads and owners that do, a clock that jumps, clears,
//! reservations, claims that are put back or delivered elsewhere and late, limits of all kinds that are hit
//! or moved, an observer that calls back.
//!
//!     SOAK_MINUTES=10 SOAK_SEED=7 cargo test --release --test soak -- --ignored --nocapture
//!
//! The seed repeats what the threads choose, not how they interleave. What is asserted holds whatever the
//! schedule was: the limit at every sample; at the end nothing is used, nothing waits, and every payload
//! went exactly one way. What was swept had expired or met a clear, and what had expired was not
//! delivered. A thread that blocks without a timeout must come back, too.
#![cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]

mod actors;
mod calls;
mod figures;
mod random;
mod reservations_and_claims;
#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::fmt::Debug;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::{Budget, ManualClock, Refusal, Stash};

use self::actors::supervise;
use self::calls::{MoodyOwner, Soak, SoakStash};
use self::figures::Figures;
use self::random::{SEED, silence_panics_on_purpose};
use self::reservations_and_claims::CountingObserver;
use self::support::ledger::{Fate, Ledger};

const LIMIT: u64 = 10_000;
const OVERHEAD: u64 = 8;
const TTL: Duration = Duration::from_millis(50);
/// Of an entry that asks for more than is usual.
const LONG_TTL: Duration = Duration::from_millis(100);
const OVERFLOW: u64 = 2_000;
const OVERFLOW_TTL: Duration = Duration::from_millis(20);
const PER_OWNER: u64 = LIMIT;
const MAX_WAITING: usize = 40;
const MAX_WAITING_BYTES: u64 = 4 * LIMIT;
/// The lowest that the stash's limit is moved to.
const LOWEST: u64 = LIMIT / 2;
const OWNERS: u64 = 5;
/// How deep user code that calls the stash may be in user code that the stash called.
const DEPTH: u32 = 3;
const FOREVER: Duration = Duration::from_secs(1_000_000);

const CALLERS: usize = 4;
const TASKS: usize = 8;

fn setting<T: FromStr<Err: Debug>>(name: &str, otherwise: T) -> T {
    env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

#[test]
#[ignore = "runs for minutes"]
fn everything_at_once() {
    let minutes: f64 = setting("SOAK_MINUTES", 10.0);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed: u64 = setting("SOAK_SEED", u64::from(now.subsec_nanos()));
    println!("SOAK_SEED={seed} SOAK_MINUTES={minutes}");
    SEED.store(seed, Ordering::SeqCst);
    silence_panics_on_purpose();

    let clock = ManualClock::new();
    let observer = Arc::new(CountingObserver::default());
    let stash: SoakStash = Stash::builder()
        .max_bytes(LIMIT)
        .entry_overhead(OVERHEAD)
        .ttl(TTL)
        .overflow(OVERFLOW, OVERFLOW_TTL)
        .max_bytes_per_owner(PER_OWNER)
        .max_waiting(MAX_WAITING)
        .max_waiting_bytes(MAX_WAITING_BYTES)
        .clock(clock.clone())
        .observer(Arc::clone(&observer))
        .build()
        .unwrap();
    let soak = Arc::new(Soak {
        stash: RwLock::new(Some(stash.clone())),
        clock: clock.clone(),
        ledger: Ledger::new(),
        figures: Figures::default(),
        entries: Mutex::default(),
        gone: Mutex::default(),
        downloads: Mutex::default(),
        moving: Mutex::default(),
        clears_begun: AtomicU64::new(0),
        clears_done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        violations: Mutex::default(),
    });
    observer.watch(&soak);
    let (moved, steady) = (Budget::new(LIMIT), Budget::new(LIMIT));
    let (moved_held, steady_held) = (AtomicU64::new(0), AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let reaper = runtime.spawn(stash.reaper().run(move |pause| clock.sleep(pause)));
    let tasks = runtime.spawn(supervise(Arc::clone(&soak)));
    let smol: Vec<_> = (0..2)
        .map(|_| {
            let timer = |pause| async move { _ = smol::Timer::after(pause).await };
            smol::spawn(Arc::clone(&soak).task(timer))
        })
        .collect();

    let started = Instant::now();
    let end = Duration::from_secs_f64(minutes * 60.0);
    thread::scope(|scope| {
        let soak = &soak;
        let mut threads = Vec::new();
        for _ in 0..CALLERS {
            threads.push(scope.spawn(|| soak.random_calls()));
        }
        for _ in 0..2 {
            threads.push(scope.spawn(|| soak.patient_puts()));
            threads.push(scope.spawn(|| soak.acquire(&moved, &moved_held)));
            threads.push(scope.spawn(|| soak.acquire(&steady, &steady_held)));
        }
        threads.push(scope.spawn(|| soak.move_clock()));
        threads.push(scope.spawn(|| soak.move_limits(&moved)));
        threads.push(scope.spawn(|| soak.sample(&steady)));

        while soak.running() && started.elapsed() < end {
            thread::sleep(Duration::from_millis(20));
            // A thread that panicked has said why.
            if threads.iter().any(|thread| thread.is_finished()) {
                break;
            }
        }
        soak.stop.store(true, Ordering::SeqCst);
        // The puts that wait without a timeout get room now.
        let stopped = Instant::now();
        let mut tasks_done = false;
        while !(tasks_done && threads.iter().all(|thread| thread.is_finished())) {
            tasks_done = tasks.is_finished() && smol.iter().all(|task| task.is_finished());
            soak.clear(&stash);
            thread::sleep(Duration::from_millis(1));
            if stopped.elapsed() > Duration::from_secs(60) {
                // Not a panic: the scope would wait forever for the blocked thread.
                eprintln!("a thread never comes back: {stash:?}, {moved:?}, {steady:?}");
                std::process::abort();
            }
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    runtime.block_on(tasks).unwrap();
    smol.into_iter().for_each(smol::block_on);

    // What is in the list and not taken has expired or been cleared, which is checked where it is dropped.
    let entries = std::mem::take(&mut *soak.entries.lock().unwrap());
    let half = entries.len() / 2;
    let mut missed = 0;
    for (at, entry) in entries.into_iter().enumerate() {
        if at == half {
            soak.clock.advance(LONG_TTL);
            stash.gc();
            missed = stash.len();
        }
        soak.take(&stash, entry);
    }
    assert!(soak.entries.lock().unwrap().is_empty(), "with nobody about, every take decides");
    let swept_at_the_end = stash.clear();
    let gone = std::mem::take(&mut *soak.gone.lock().unwrap());
    let figures = &soak.figures;
    figures.print(seconds);
    println!("SOAK_SEED={seed}: {:.0} s, {stash:?}", seconds);

    assert_eq!(*soak.violations.lock().unwrap(), [""; 0]);
    assert!(gone.iter().all(|record| record.fate() != Fate::Alive), "denied, and still there");
    assert_eq!(missed, 0, "what a sweep missed");
    assert_eq!(swept_at_the_end, 0, "every entry had a ticket");
    assert_eq!((stash.used_bytes(), stash.len(), stash.waiting()), (0, 0, 0));
    soak.ledger.assert_settled();
    let swept = figures.expired.load(Ordering::Relaxed) + figures.cleared.load(Ordering::Relaxed);
    assert_eq!(swept, soak.ledger.count(Fate::Swept));
    assert_eq!(
        figures.stored.load(Ordering::Relaxed),
        figures.delivered.load(Ordering::Relaxed) + swept,
        "tickets issued, and what became of them"
    );
    for budget in [&moved, &steady] {
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
        drop(budget.try_acquire(LIMIT).expect("all of it is free"));
    }
    soak.check_in_the_end(&stash, &observer);

    // All of it can be had, and all that one may have, and no more.
    let all = stash.budget().try_acquire(LIMIT + OVERFLOW).expect("all of it is free");
    assert_eq!(stash.budget().try_acquire(1).unwrap_err().reason(), Refusal::Full);
    drop(all);
    let steady_owner = || MoodyOwner { id: 0, soak: None };
    let most = soak.ledger.tracked(PER_OWNER - OVERHEAD);
    let ticket = stash.try_put(steady_owner(), most).expect("the account is empty");
    let more = stash.try_put(steady_owner(), soak.ledger.tracked(0)).expect_err("and no more");
    assert_eq!(more.reason(), Refusal::OwnerFull);
    more.into_payload().returned();
    stash.close();
    assert!(!stash.drained_timeout(Duration::ZERO), "there is an entry");
    stash.take(&ticket, &steady_owner()).unwrap().delivered();
    assert!(stash.drained_timeout(Duration::from_secs(60)), "{stash:?}");

    // The reaper ends with the last handle.
    drop(soak.stash.write().unwrap().take());
    drop(stash);
    runtime.block_on(reaper).unwrap();
}
