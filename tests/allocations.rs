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
/// the first on, as there is always a segment that is not full yet.
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
