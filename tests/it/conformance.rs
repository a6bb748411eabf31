//! Scenarios C1 to C17, and the defects D1 to D6 of the original, which must be impossible here. Sizes are
//! bytes, the limit is 100 and the entry overhead 0 unless said.
//!
//! What waits is run on three executors: tokio, smol, and one that polls inside `wake`.

use std::cell::Cell;
use std::future::{pending, ready};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::executors::{Executor, Task};
use cloakroom::{ManualClock, PutError, Refusal, Stash, Ticket};

const TTL: Duration = Duration::from_millis(1000);
const LONG: Duration = Duration::from_secs(60);

type Payload = Vec<u8>;

/// A stash on a clock that stands still.
#[derive(Clone)]
struct Fixture {
    stash: Stash<Payload>,
    clock: ManualClock,
}

impl Fixture {
    fn new() -> Self {
        Self::with_limit(100)
    }

    fn with_limit(limit: u64) -> Self {
        Self::with_ttl(limit, TTL)
    }

    fn with_ttl(limit: u64, ttl: Duration) -> Self {
        let clock = ManualClock::new();
        let builder = Stash::builder().max_bytes(limit).ttl(ttl).entry_overhead(0);
        Self { stash: builder.clock(clock.clone()).build().unwrap(), clock }
    }

    fn put(&self, size: usize) -> Ticket {
        self.stash.try_put(alice(), payload(size)).unwrap()
    }

    fn take(&self, ticket: Ticket) -> Option<Payload> {
        self.stash.take(&ticket, "alice")
    }

    /// Starts a task that puts, and waits if the stash is full.
    fn start_put<E: Executor>(&self, executor: &E, size: usize) -> Task<PutResult> {
        self.start_put_until(executor, size, pending::<()>())
    }

    fn start_put_until<E: Executor, F>(
        &self,
        executor: &E,
        size: usize,
        until: F,
    ) -> Task<PutResult>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let stash = self.stash.clone();
        executor.start(async move { stash.put(alice(), payload(size)).until(until).await })
    }

    fn state(&self) -> (usize, u64, usize) {
        (self.stash.len(), self.stash.used_bytes(), self.stash.waiting())
    }
}

type PutResult = Result<Ticket, PutError<Payload>>;

fn alice() -> Arc<str> {
    "alice".into()
}

/// Distinguishable by size.
fn payload(size: usize) -> Payload {
    (0..size).map(|at| (at + size) as u8).collect()
}

fn refused(result: PutResult, reason: Refusal, size: usize) {
    let error = result.expect_err("it should have been refused");
    assert_eq!(error.reason(), reason);
    assert_eq!(error.into_payload(), payload(size), "the payload comes back");
}

#[test]
fn c01_taken_once_then_gone() {
    let fixture = Fixture::new();
    let ticket = fixture.put(40);
    assert_eq!(fixture.state(), (1, 40, 0));
    assert_eq!(fixture.take(ticket), Some(payload(40)));
    assert_eq!(fixture.take(ticket), None);
    assert_eq!(fixture.state(), (0, 0, 0));
}

#[test]
fn c02_an_unknown_ticket_gets_nothing() {
    let fixture = Fixture::new();
    let unknown = Fixture::new().put(40);
    assert_eq!(fixture.take(unknown), None);
    let ticket = fixture.put(40);
    assert_eq!(fixture.take(unknown), None);
    assert_eq!(fixture.take(ticket), Some(payload(40)));
}

#[test]
fn c03_another_owner_gets_nothing_and_disturbs_nothing() {
    let fixture = Fixture::new();
    let ticket = fixture.put(40);
    assert_eq!(fixture.stash.take(&ticket, "mallory"), None);
    assert_eq!(fixture.state(), (1, 40, 0));
    assert_eq!(fixture.take(ticket), Some(payload(40)));
}

#[test]
fn c04_there_until_the_deadline_and_not_at_it() {
    let fixture = Fixture::new();
    let ticket = fixture.put(40);
    fixture.clock.advance(Duration::from_millis(999));
    let at_999 = fixture.take(ticket);
    assert_eq!(at_999, Some(payload(40)));

    let ticket = fixture.put(40);
    fixture.clock.advance(Duration::from_millis(1000));
    assert_eq!(fixture.take(ticket), None);
    assert_eq!(fixture.state(), (0, 0, 0));
}

#[test]
fn c05_full_refuses_and_evicts_nothing() {
    let fixture = Fixture::with_limit(200);
    let (first, second) = (fixture.put(80), fixture.put(80));
    refused(fixture.stash.try_put(alice(), payload(80)), Refusal::Full, 80);
    assert_eq!(fixture.state(), (2, 160, 0));
    assert_eq!(fixture.take(first), Some(payload(80)));
    assert_eq!(fixture.take(second), Some(payload(80)));
}

on_every_executor! {
    /// Empty or full, waiting or not.
    fn c06_larger_than_the_limit_is_refused_at_once(executor) {
        let fixture = Fixture::new();
        for _ in 0..2 {
            refused(fixture.stash.try_put(alice(), payload(200)), Refusal::TooLarge, 200);
            refused(fixture.start_put(executor, 200).output(), Refusal::TooLarge, 200);
            let blocking = fixture.stash.put_timeout(alice(), payload(200), LONG);
            refused(blocking, Refusal::TooLarge, 200);
            let _ = fixture.stash.try_put(alice(), payload(100));
        }
        // It does not wait behind other waiters either.
        let waiting = fixture.start_put(executor, 50);
        refused(fixture.start_put(executor, 200).output(), Refusal::TooLarge, 200);
        refused(fixture.stash.try_put(alice(), payload(200)), Refusal::TooLarge, 200);
        assert!(waiting.is_pending());
    }
}

#[test]
fn c07_every_put_gets_a_ticket_of_its_own() {
    let fixture = Fixture::new();
    assert_ne!(fixture.put(10), fixture.put(10));
}

on_every_executor! {
    fn c08_clear_empties_and_grants_waiters(executor) {
        let fixture = Fixture::new();
        let tickets = [fixture.put(60), fixture.put(40)];
        assert_eq!(fixture.stash.clear(), 2);
        assert_eq!(fixture.state(), (0, 0, 0));
        assert!(tickets.iter().all(|ticket| fixture.take(*ticket).is_none()));

        let old = fixture.put(100);
        let waiting = fixture.start_put(executor, 50);
        assert!(waiting.is_pending());
        assert_eq!(fixture.stash.clear(), 1);
        let ticket = waiting.output().unwrap();
        assert_eq!(fixture.state(), (1, 50, 0), "what the waiter put stays");
        assert_eq!(fixture.take(old), None);
        assert_eq!(fixture.take(ticket), Some(payload(50)));
    }
}

on_every_executor! {
    fn c09_a_waiting_put_with_room_is_done_at_once(executor) {
        let fixture = Fixture::new();
        let ticket = fixture.start_put(executor, 100).output().unwrap();
        assert_eq!(fixture.take(ticket), Some(payload(100)));
        let ticket = fixture.stash.put_timeout(alice(), payload(100), LONG).unwrap();
        assert_eq!(fixture.take(ticket), Some(payload(100)));
    }
}

on_every_executor! {
    fn c10_a_take_serves_the_waiter(executor) {
        let fixture = Fixture::new();
        let first = fixture.put(80);
        let _ = fixture.put(20);
        let waiting = fixture.start_put(executor, 50);
        assert!(waiting.is_pending());
        assert_eq!(fixture.state(), (2, 100, 1));
        assert_eq!(fixture.take(first), Some(payload(80)));
        assert!(waiting.output().is_ok());
        assert_eq!(fixture.state(), (2, 70, 0));
    }
}

#[test]
fn c10_a_take_serves_a_blocked_thread() {
    let fixture = Fixture::new();
    let first = fixture.put(80);
    let _ = fixture.put(20);
    let blocked = {
        let stash = fixture.stash.clone();
        thread::spawn(move || stash.put_timeout(alice(), payload(50), LONG))
    };
    while fixture.stash.waiting() == 0 {
        thread::yield_now();
    }
    fixture.take(first).unwrap();
    assert!(blocked.join().unwrap().is_ok());
    assert_eq!(fixture.state(), (2, 70, 0));
}

on_every_executor! {
    fn c11_a_wait_that_elapses_gives_the_payload_back(executor) {
        let fixture = Fixture::new();
        let _ = fixture.put(100);
        let elapsed = fixture.clock.sleep(Duration::from_millis(20));
        let waiting = fixture.start_put_until(executor, 50, elapsed);
        fixture.clock.advance(Duration::from_millis(19));
        assert!(waiting.is_pending(), "gave up too early");
        fixture.clock.advance(Duration::from_millis(1));
        refused(waiting.output(), Refusal::Cancelled, 50);
        assert_eq!(fixture.state(), (1, 100, 0));
    }
}

#[test]
fn c11_a_blocked_thread_gives_up_no_earlier_than_told() {
    let fixture = Fixture::new();
    let _ = fixture.put(100);
    let timeout = Duration::from_millis(20);
    let started = Instant::now();
    let result = fixture.stash.put_timeout(alice(), payload(50), timeout);
    assert!(started.elapsed() >= timeout);
    refused(result, Refusal::TimedOut, 50);
    assert_eq!(fixture.state(), (1, 100, 0));
}

on_every_executor! {
    fn c12_two_waiters_are_served_in_order(executor) {
        let fixture = Fixture::new();
        let stored = fixture.put(100);
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let waiters = [60, 30].map(|size| {
            let (stash, order) = (fixture.stash.clone(), Arc::clone(&order));
            executor.start(async move {
                let result = stash.put(alice(), payload(size)).await;
                order.lock().unwrap().push(size);
                result
            })
        });
        fixture.take(stored).unwrap();
        for waiter in waiters {
            assert!(waiter.output().is_ok());
        }
        assert_eq!(*order.lock().unwrap(), [60, 30]);
        assert_eq!(fixture.state(), (2, 90, 0));
    }
}

on_every_executor! {
    fn c13_the_second_stays_when_only_the_first_fits(executor) {
        let fixture = Fixture::new();
        let stored = fixture.put(100);
        let first = fixture.start_put(executor, 80);
        let elapsed = fixture.clock.sleep(Duration::from_millis(20));
        let second = fixture.start_put_until(executor, 80, elapsed);
        fixture.take(stored).unwrap();
        assert!(first.output().is_ok());
        assert!(second.is_pending());
        assert_eq!(fixture.state(), (1, 80, 1));
        fixture.clock.advance(Duration::from_millis(20));
        refused(second.output(), Refusal::Cancelled, 80);
        assert_eq!(fixture.state(), (1, 80, 0));
    }
}

on_every_executor! {
    fn c14_a_cancel_signal_ends_the_wait_at_once(executor) {
        let fixture = Fixture::new();
        let _ = fixture.put(100);
        let (cancel, signal) = tokio::sync::oneshot::channel::<()>();
        let waiting = fixture.start_put_until(executor, 50, signal);
        assert!(waiting.is_pending());
        cancel.send(()).unwrap();
        refused(waiting.output(), Refusal::Cancelled, 50);
        assert_eq!(fixture.state(), (1, 100, 0));
    }
}

on_every_executor! {
    fn c15_a_signal_that_has_fired_prevents_the_wait(executor) {
        let fixture = Fixture::new();
        let ticket = fixture.start_put_until(executor, 50, ready(())).output();
        assert!(ticket.is_ok(), "there was room");
        let _ = fixture.put(50);
        refused(fixture.start_put_until(executor, 50, ready(())).output(), Refusal::Cancelled, 50);
        assert_eq!(fixture.state(), (2, 100, 0));
    }
}

#[test]
fn c16_a_waiting_time_of_zero_is_try_put() {
    let fixture = Fixture::new();
    assert!(fixture.stash.put_timeout(alice(), payload(100), Duration::ZERO).is_ok());
    let result = fixture.stash.put_timeout(alice(), payload(50), Duration::ZERO);
    refused(result, Refusal::Full, 50);
    let result = fixture.stash.put_timeout(alice(), payload(200), Duration::ZERO);
    refused(result, Refusal::TooLarge, 200);
    assert_eq!(fixture.state(), (1, 100, 0));
}

on_every_executor! {
    fn c17_a_reaper_grants_waiters_when_an_entry_expires(executor) {
        let fixture = Fixture::new();
        let clock = fixture.clock.clone();
        let reaper = executor.start(fixture.stash.reaper().run(move |d| clock.sleep(d)));
        let _ = fixture.put(100);
        let waiting = fixture.start_put(executor, 50);
        fixture.clock.advance(TTL - Duration::from_millis(1));
        assert!(waiting.is_pending());
        fixture.clock.advance(Duration::from_millis(1));
        assert!(waiting.output().is_ok(), "no call was made, but time passed");
        assert_eq!(fixture.state(), (1, 50, 0));
        drop(fixture);
        reaper.output();
    }
}

#[test]
fn c17_a_reaper_thread_serves_a_blocked_thread() {
    let stash: Stash<Payload> = Stash::builder()
        .max_bytes(100)
        .ttl(Duration::from_millis(30))
        .entry_overhead(0)
        .build()
        .unwrap();
    let reaper = stash.reaper().spawn().unwrap();
    let _ = stash.try_put(alice(), payload(100)).unwrap();
    assert!(stash.put_timeout(alice(), payload(50), LONG).is_ok());
    drop(stash);
    reaper.join().expect("it ends when the last handle is gone");
}

on_every_executor! {
    fn d1_a_later_request_that_would_fit_does_not_overtake(executor) {
        let fixture = Fixture::new();
        let (large, _small) = (fixture.put(60), fixture.put(20));
        let first = fixture.start_put(executor, 60);
        refused(fixture.stash.try_put(alice(), payload(20)), Refusal::Full, 20);
        let second = fixture.start_put(executor, 20);
        assert!(first.is_pending() && second.is_pending());
        assert_eq!(fixture.state(), (2, 80, 2));
        fixture.take(large).unwrap();
        assert!(first.output().is_ok() && second.output().is_ok());
        assert_eq!(fixture.state(), (3, 100, 0));
    }
}

on_every_executor! {
    fn d2_when_the_head_leaves_the_next_is_served(executor) {
        let fixture = Fixture::new();
        let _ = fixture.put(60);
        let (cancel, signal) = tokio::sync::oneshot::channel::<()>();
        let head = fixture.start_put_until(executor, 80, signal);
        let next = fixture.start_put(executor, 30);
        assert!(head.is_pending() && next.is_pending());
        cancel.send(()).unwrap();
        refused(head.output(), Refusal::Cancelled, 80);
        assert!(next.output().is_ok(), "40 are free and it is the head now");
        assert_eq!(fixture.state(), (2, 90, 0));
    }
}

on_every_executor! {
    /// The head's own put collects expired entries and so frees more, which the next must not get first.
    fn d3_the_woken_head_is_not_overtaken_by_what_its_gc_frees(executor) {
        let fixture = Fixture::new();
        let stored = fixture.put(30);
        fixture.clock.advance(TTL / 2);
        let late = fixture.put(70);
        let head = fixture.start_put(executor, 70);
        let next = fixture.start_put(executor, 80);
        // Expired now, but not swept yet; then a take wakes the head.
        fixture.clock.advance(TTL / 2);
        assert_eq!(fixture.take(stored), None, "expired");
        assert!(head.is_pending(), "30 are free");
        fixture.take(late).unwrap();
        assert!(head.output().is_ok());
        assert!(next.is_pending());
        assert_eq!(fixture.state(), (1, 70, 1));
        fixture.stash.clear();
        assert!(next.output().is_ok());
        assert_eq!(fixture.state(), (1, 80, 0));
    }
}

on_every_executor! {
    fn d4_an_expiry_in_the_middle_of_a_wait_is_noticed(executor) {
        let fixture = Fixture::with_ttl(100, Duration::from_millis(50));
        let clock = fixture.clock.clone();
        let _reaper = executor.start(fixture.stash.reaper().run(move |d| clock.sleep(d)));
        let _ = fixture.put(100);
        let elapsed = fixture.clock.sleep(Duration::from_millis(300));
        let waiting = fixture.start_put_until(executor, 50, elapsed);
        fixture.clock.advance(Duration::from_millis(49));
        assert!(waiting.is_pending());
        fixture.clock.advance(Duration::from_millis(1));
        assert!(waiting.output().is_ok());
    }
}

thread_local! {
    static OWNER_CALLS: Cell<usize> = const { Cell::new(0) };
}

/// An owner that counts how often it is hashed or compared.
#[derive(Clone)]
struct Watched(u64);

impl PartialEq for Watched {
    fn eq(&self, other: &Self) -> bool {
        OWNER_CALLS.set(OWNER_CALLS.get() + 1);
        self.0 == other.0
    }
}

impl Eq for Watched {}

impl Hash for Watched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        OWNER_CALLS.set(OWNER_CALLS.get() + 1);
        self.0.hash(state);
    }
}

/// Every put and take of the original walked all entries. The times are in the benchmarks; what can be
/// asserted is that no entry but the requested one is compared.
#[test]
fn d5_work_does_not_depend_on_how_many_entries_are_held() {
    let owner_calls_with = |held: u64| {
        let stash: Stash<Payload, Watched> = Stash::builder().max_bytes(1 << 30).build().unwrap();
        for owner in 0..held {
            let _ = stash.try_put(Watched(owner), payload(10)).unwrap();
        }
        OWNER_CALLS.set(0);
        let ticket = stash.try_put(Watched(held), payload(10)).unwrap();
        assert!(stash.take(&ticket, &Watched(held)).is_some());
        OWNER_CALLS.get()
    };
    let calls = owner_calls_with(0);
    assert_eq!(calls, 3, "one hash to put, one hash and one comparison to take");
    assert_eq!(owner_calls_with(if cfg!(miri) { 100 } else { 10_000 }), calls);
}

#[test]
fn d6_payloads_without_bytes_are_bounded_too() {
    let stash: Stash<Payload, ()> = Stash::builder().max_bytes(100_000).build().unwrap();
    let mut entries = 0;
    let refusal = loop {
        match stash.try_put((), Vec::new()) {
            Ok(_) => entries += 1,
            Err(error) => break error.reason(),
        }
    };
    assert_eq!(refusal, Refusal::Full);
    assert!((100..=100_000 / size_of::<Payload>()).contains(&entries), "{entries}");
    assert_eq!(stash.len(), entries);
}
