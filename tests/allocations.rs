//! What the heap has to do, counted by an allocator: nothing per put + take and per wait once warm, and
//! little more than an entry's own size for each that is held.
//!
//! The counts are of the calling thread alone, so the tests do not disturb each other. Each prints what it
//! measured, for the page of benchmarks: `measured: what: number`.
#![cfg(not(cloakroom_loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Budget, Refusal, Stash};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes asked for and not given back.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn count(allocations: u64, bytes: i64) {
    // A thread that is ending has no counts any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + allocations));
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: all of it is the system's; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: the caller's.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread asks for memory in `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn report(what: &str, value: impl std::fmt::Display) {
    println!("measured: {what}: {value}");
}

/// A payload that needs no memory of its own.
fn payload() -> Bytes {
    Bytes::from_static(&[7; 1024])
}

/// 16 bytes, as a tenant's id has.
type Owner = [u8; 16];
const OWNER: Owner = [1; 16];

fn stash<O: Send + 'static>(max_bytes: u64) -> Stash<Bytes, O> {
    let builder = Stash::builder().max_bytes(max_bytes).entry_overhead(0);
    builder.build().expect("the settings are good")
}

const ROUNDS: u64 = 10_000;

#[test]
fn the_allocator_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(7)))), 1);
    let before = HELD.get();
    let held = black_box(vec![0_u8; 1000]);
    assert_eq!(HELD.get() - before, 1000);
    drop(held);
    assert_eq!(HELD.get(), before);
}

#[test]
fn a_put_and_a_take_allocate_nothing() {
    let stash = stash::<Owner>(1 << 20);
    let put_take = || {
        let ticket = stash.try_put(OWNER, payload()).unwrap();
        assert!(stash.take(&ticket, &OWNER).is_some());
    };
    put_take();
    let count = allocations(|| (0..ROUNDS).for_each(|_| put_take()));
    report("allocations per put + take", count as f64 / ROUNDS as f64);
    assert_eq!(count, 0);
}

#[test]
fn a_refused_put_and_a_failed_take_allocate_nothing() {
    let stash = stash::<Owner>(1024);
    let ticket = stash.try_put(OWNER, payload()).unwrap();
    let refused = || {
        let refused = stash.try_put(OWNER, payload()).unwrap_err();
        assert_eq!(refused.reason(), Refusal::Full);
        assert!(stash.take(&ticket, &[2; 16]).is_none());
    };
    refused();
    assert_eq!(allocations(|| (0..ROUNDS).for_each(|_| refused())), 0);
}

#[test]
fn a_wait_in_the_queue_allocates_nothing() {
    let budget = Budget::new(100);
    let mut cx = Context::from_waker(Waker::noop());
    let mut wait = || {
        let held = budget.try_acquire(100).unwrap();
        let mut granted = pin!(budget.acquire(60));
        let mut gives_up = pin!(budget.acquire(60).until(std::future::pending::<()>()));
        assert!(granted.as_mut().poll(&mut cx).is_pending());
        assert!(gives_up.as_mut().poll(&mut cx).is_pending());
        drop(held);
        let Poll::Ready(Ok(permit)) = granted.poll(&mut cx) else { panic!("it was released") };
        assert_eq!((permit.bytes(), budget.waiting()), (60, 1));
    };
    wait();
    let count = allocations(|| (0..ROUNDS).for_each(|_| wait()));
    report("allocations per wait of a future", count as f64 / ROUNDS as f64);
    assert_eq!(count, 0);
}

#[test]
fn a_put_that_waits_allocates_nothing() {
    let stash = stash::<Owner>(1024);
    let mut cx = Context::from_waker(Waker::noop());
    let mut wait = || {
        let first = stash.try_put(OWNER, payload()).unwrap();
        let mut put = pin!(stash.put(OWNER, payload()));
        assert!(put.as_mut().poll(&mut cx).is_pending());
        assert!(stash.take(&first, &OWNER).is_some());
        let Poll::Ready(Ok(second)) = put.poll(&mut cx) else { panic!("there is room") };
        assert!(stash.take(&second, &OWNER).is_some());
    };
    wait();
    let count = allocations(|| (0..ROUNDS).for_each(|_| wait()));
    report("allocations per put that waits", count as f64 / ROUNDS as f64);
    assert_eq!(count, 0);
}

#[test]
fn a_blocking_wait_that_times_out_allocates_nothing() {
    let budget = Budget::new(100);
    let _held = budget.try_acquire(100).unwrap();
    let wait = || {
        let refused = budget.acquire_timeout(60, Duration::from_micros(50)).unwrap_err();
        assert_eq!(refused.reason(), Refusal::TimedOut);
    };
    wait();
    let count = allocations(|| (0..100).for_each(|_| wait()));
    report("allocations per blocking wait that times out", count as f64 / 100.0);
    assert_eq!(count, 0);
}

/// On both sides: the waiter, and the releaser that wakes it.
#[test]
fn a_blocking_wait_that_is_granted_allocates_nothing() {
    const WAITS: u64 = 200;
    let budget = Budget::new(100);
    let (now_full, full) = channel();
    let (has_it, done) = channel();
    let waiter = thread::spawn({
        let budget = budget.clone();
        move || {
            let mut count = 0;
            for round in 0..=WAITS {
                full.recv().unwrap();
                let waited = allocations(|| {
                    drop(budget.acquire_timeout(60, Duration::from_secs(60)).unwrap());
                });
                // The first makes what this thread is woken with.
                count += if round == 0 { 0 } else { waited };
                has_it.send(()).unwrap();
            }
            count
        }
    });
    let mut count = 0;
    for round in 0..=WAITS {
        let held = budget.try_acquire(100).unwrap();
        now_full.send(()).unwrap();
        while budget.waiting() == 0 {
            thread::yield_now();
        }
        let released = allocations(|| drop(held));
        count += if round == 0 { 0 } else { released };
        done.recv().unwrap();
    }
    count += waiter.join().unwrap();
    report("allocations per blocking wait that is granted", count as f64 / WAITS as f64);
    assert_eq!(count, 0);
}

/// Bytes per entry beyond the payload, at each of these numbers held; and the most at any number from
/// the first on, because there is always a segment that is not full yet.
fn bytes_per_entry<O>(owner: O, counts: &[u64]) -> (Vec<f64>, f64)
where
    O: Copy + Eq + std::hash::Hash + Send + 'static,
{
    let before = HELD.get();
    let stash = stash::<O>(1 << 40);
    let (mut at, mut most) = (Vec::new(), 0.0_f64);
    for count in 1..=*counts.last().unwrap() {
        let _ticket = stash.try_put(owner, payload()).unwrap();
        let each = (HELD.get() - before) as f64 / count as f64;
        if count >= counts[0] {
            most = most.max(each);
        }
        if counts.contains(&count) {
            at.push(each);
        }
    }
    (at, most)
}

const COUNTS: [u64; 2] = [100_000, 1_000_000];

/// With an owner that is aligned like a pointer, or less.
#[test]
fn an_entry_needs_little_more_than_itself() {
    let (at, most) = bytes_per_entry(OWNER, &COUNTS);
    report("bytes per entry, 100000 held", at[0]);
    report("bytes per entry, 1000000 held", at[1]);
    report("bytes per entry, the most from 100000 to 1000000 held", most);
    assert!(most <= 96.0, "{most} bytes per entry");

    // A `u128` is aligned to 16 bytes, and so then is the slot.
    let (at, most) = bytes_per_entry(1_u128, &COUNTS);
    report("bytes per entry, owner u128, 100000 held", at[0]);
    report("bytes per entry, owner u128, 1000000 held", at[1]);
    report("bytes per entry, owner u128, the most from 100000 to 1000000 held", most);
}

/// As `max_bytes` says, for a stash that one thread fills with empty payloads, time and again.
fn slots_stay_within_their_bound(overhead_factor: u64) {
    const MAX_BYTES: u64 = 4 << 20;
    let before = HELD.get();
    // What a slot takes is the default overhead.
    let probe: Stash<Bytes, ()> = Stash::builder().max_bytes(1 << 20).build().unwrap();
    let _ticket = probe.try_put((), Bytes::new()).unwrap();
    let slot = probe.used_bytes();
    drop(probe);
    assert_eq!(HELD.get(), before, "slots go back with the stash");

    let overhead = overhead_factor * slot;
    let builder = Stash::builder().max_bytes(MAX_BYTES).entry_overhead(overhead);
    let stash: Stash<Bytes, ()> = builder.build().unwrap();
    let (mut most, mut held) = (0, 0);
    for _ in 0..3 {
        held = 0;
        while stash.try_put((), Bytes::new()).is_ok() {
            held += 1;
        }
        assert_eq!(held, MAX_BYTES / overhead);
        stash.clear();
        most = most.max(HELD.get() - before);
    }
    report(&format!("slots' memory under 4 MiB, overhead x {overhead_factor}"), most);
    let bound = 4 * MAX_BYTES / 3 * slot / overhead + 1_100 * slot;
    assert!(most <= bound as i64, "{most} bytes for {held} slots of {slot}; bound {bound}");
    assert!(most as u64 > held * slot, "it is the slots that are measured");
}

#[test]
fn w9_memory_that_stays_after_a_clear_is_what_max_bytes_says() {
    slots_stay_within_their_bound(1);
    slots_stay_within_their_bound(4);
}

/// A waiter's node is in its future.
#[test]
fn a_waiter_takes_no_memory_beyond_its_future() {
    const WAITERS: usize = 10_000;
    let budget = Budget::new(1);
    let _all = budget.try_acquire(1).unwrap();
    let mut waiters = Vec::with_capacity(WAITERS);
    let mut cx = Context::from_waker(Waker::noop());
    let before = HELD.get();
    for _ in 0..WAITERS {
        let mut waiter = Box::pin(budget.acquire(1));
        assert!(waiter.as_mut().poll(&mut cx).is_pending());
        waiters.push(waiter);
    }
    let futures = WAITERS * size_of_val(&*waiters[0]);
    let beyond = HELD.get() - before - futures as i64;
    report("bytes per waiter, beyond its future", beyond as f64 / WAITERS as f64);
    assert_eq!(beyond, 0);
}

/// 4 KiB with two cores. The memory of shards is allocated when they have their first entries.
#[test]
fn w19_an_empty_stash_is_small() {
    drop(stash::<Owner>(1 << 20));
    let before = HELD.get();
    let empty = stash::<Owner>(1 << 20);
    let held = HELD.get() - before;
    drop(empty);
    assert_eq!(HELD.get(), before);
    report("bytes of an empty stash", held);
    let shards = (4 * thread::available_parallelism().unwrap().get()).next_power_of_two().min(64);
    let most = 2048 + 256 * shards as i64;
    assert!(held <= most, "{held} bytes, {shards} shards");
}
