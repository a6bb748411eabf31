//! How many writes go to cache lines that another thread writes too, per operation: `.ci/count`.
//!
//! This is what a second core costs, counted instead of timed, so it is the same on every machine: a line that two
//! threads write moves between their caches each time.
#![cfg(cloakroom_count)]

use std::collections::HashMap;
use std::sync::Barrier;
use std::thread;

use cloakroom::count_internals::{lend, take_writes};
use cloakroom::{Budget, Stash};

const OPERATIONS: u64 = 20_000;
const THREADS: usize = 4;

/// Writes to lines that more than one of the threads wrote, per operation.
fn shared_writes(operation: impl Fn(u64) + Sync) -> f64 {
    let barrier = Barrier::new(THREADS);
    let counts: Vec<HashMap<usize, u64>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (barrier, operation) = (&barrier, &operation);
                scope.spawn(move || {
                    // What is made once, and the first batch.
                    (0..OPERATIONS / 10).for_each(operation);
                    barrier.wait();
                    drop(take_writes());
                    (0..OPERATIONS).for_each(operation);
                    take_writes()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut lines: HashMap<usize, (u32, u64)> = HashMap::new();
    for (line, writes) in counts.into_iter().flatten() {
        let (threads, all) = lines.entry(line).or_default();
        *threads += 1;
        *all += writes;
    }
    let shared: u64 = lines.values().filter(|(threads, _)| *threads > 1).map(|(_, all)| all).sum();
    shared as f64 / (OPERATIONS * THREADS as u64) as f64
}

fn acquire_and_release(budget: &Budget) -> f64 {
    shared_writes(|_| drop(budget.try_acquire(1024).unwrap()))
}

/// Four threads keep 64 entries each, and put one for each that they take.
fn put_and_take(stash: &Stash<Vec<u8>, ()>) -> f64 {
    shared_writes(|_| {
        let ticket = stash.try_put((), vec![0; 1024]).unwrap();
        assert!(stash.take(&ticket, &()).is_some());
    })
}

fn show(what: &str, writes: f64) -> f64 {
    println!("shared writes of {what}: {writes:.5} per operation");
    writes
}

#[test]
fn acquire_and_release_write_no_shared_line() {
    let budget = Budget::new(1 << 30);
    lend(&budget);
    let lent = show("acquire + release, far from the limit", acquire_and_release(&budget));
    assert!(lent <= 0.01, "{lent} per operation");
    assert_eq!(budget.used(), 0);
}

/// What the other tests would show without lending: two writes an operation.
#[test]
fn a_budget_too_small_to_lend_writes_a_shared_line() {
    let budget = Budget::new(16 << 10);
    lend(&budget);
    let writes = show("acquire + release, a small budget", acquire_and_release(&budget));
    assert!(writes >= 2.0, "{writes} per operation: the count misses some");
}

/// Bytes go one way: what one thread acquires, another releases.
#[test]
fn bytes_that_change_threads_go_in_batches() {
    let budget = Budget::new(1 << 30);
    lend(&budget);
    let (send, receive): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| std::sync::mpsc::channel::<cloakroom::Permit<'static>>())
        .map(|(send, receive)| (std::sync::Mutex::new(send), std::sync::Mutex::new(receive)))
        .unzip();
    let next = std::sync::atomic::AtomicUsize::new(0);
    thread_local! { static MINE: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) } }
    let writes = shared_writes(|_| {
        if MINE.get() == usize::MAX {
            MINE.set(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
        let mine = MINE.get();
        let permit = budget.try_acquire(1024).unwrap().into_owned();
        send[(mine + 1) % THREADS].lock().unwrap().send(permit).unwrap();
        while let Ok(permit) = receive[mine].lock().unwrap().try_recv() {
            drop(permit);
        }
    });
    let writes = show("acquire, release on another thread", writes);
    assert!(writes <= 0.01, "{writes} per operation");
}

#[test]
fn put_and_take_write_no_shared_line() {
    let stash = Stash::builder().max_bytes(1 << 30).build().unwrap();
    lend(stash.budget());
    let writes = show("put + take, nothing held", put_and_take(&stash));
    assert!(writes <= 0.01, "{writes} per operation");
    for _ in 0..10_000 {
        let _ = stash.try_put((), vec![0; 1024]).unwrap();
    }
    let writes = show("put + take, 10,000 held", put_and_take(&stash));
    assert!(writes <= 0.01, "{writes} per operation");
}
