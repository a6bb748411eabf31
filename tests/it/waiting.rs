//! How waits end: B12, owned futures; B17, timeouts told from cancellations; B22, waits that see expiry by
//! themselves; and reapers that return to their executor.

use std::future::{Future, pending, poll_fn, ready as completed};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use cloakroom::{
    Acquire, Budget, Cloakroom, Clock, Event, ManualClock, Never, PutOptions, Refusal, Reserve,
    Stash, Ticket, Until,
};

use crate::fixtures::{
    ALICE, BOB, EventLog, TestStash, checked_stats, fill, payload, put, stash_with, state, take,
    test_stash,
};
use crate::support::{TTL, counting, must_come_back, poll, poll_once, queue, ready};

/// No deadline: a wait that misses what should end it never ends, and its test fails.
const PATIENCE: Duration = Duration::MAX;
const SOON: Duration = Duration::from_millis(20);

/// On the real clock, without a reaper: full, and everything expires soon.
fn full_until_soon() -> TestStash {
    let stash = Stash::builder().max_bytes(100).entry_overhead(0).ttl(SOON).build().unwrap();
    fill(&stash, 100);
    stash
}

// ---- W2: blocking waits -----------------------------------------------------------------------------

/// Blocks on a stash that is full until soon, and returns the number of bytes in use after a grant.
fn blocked(wait: impl FnOnce(&TestStash) -> bool + Send + 'static) -> bool {
    must_come_back(move || wait(&full_until_soon()))
}

#[test]
fn w2_a_blocking_put_is_granted_when_what_is_in_its_way_expires() {
    assert!(blocked(|stash| stash.put_timeout(ALICE, payload(60), PATIENCE).is_ok()));
}

#[test]
fn w2_a_blocking_reserve_is_granted_when_what_is_in_its_way_expires() {
    assert!(blocked(|stash| stash.reserve_timeout(60, PATIENCE).is_ok()));
    assert!(blocked(|stash| stash.reserve_timeout_for(&ALICE, 60, PATIENCE).is_ok()));
}

#[test]
fn w2_a_blocking_permit_is_granted_when_what_is_in_its_way_expires() {
    assert!(blocked(|stash| stash.budget().acquire_timeout(60, PATIENCE).is_ok()));
}

#[test]
fn w2_a_blocking_drain_ends_when_the_last_entry_expires() {
    assert!(blocked(|stash| {
        stash.close();
        stash.drained_timeout(PATIENCE) && stash.is_empty()
    }));
}

#[test]
fn b22_a_blocking_wait_behind_another_waiter_serves_it_too() {
    let granted = blocked(|stash| {
        let mut ahead = Box::pin(stash.put(ALICE, payload(60)));
        queue(&mut ahead);
        let behind = stash.put_timeout(ALICE, payload(40), PATIENCE).is_ok();
        behind && ready(&mut ahead).is_ok()
    });
    assert!(granted);
}

/// The entry that expires soon appears after the wait began.
#[test]
fn w2_a_blocking_wait_is_woken_for_a_deadline_that_appears_while_it_sleeps() {
    must_come_back(|| {
        let stash: TestStash =
            Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL * 60).build().unwrap();
        let room = stash.try_reserve(100).unwrap();
        let waiter = {
            let stash = stash.clone();
            thread::spawn(move || stash.put_timeout(ALICE, payload(1), PATIENCE).is_ok())
        };
        while stash.waiting() == 0 {
            thread::yield_now();
        }
        let soon = PutOptions::new().ttl(SOON);
        let _ = room.put_with(ALICE, payload(100), soon).unwrap();
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn w2_a_blocking_wait_is_woken_for_a_claim_that_is_put_back() {
    must_come_back(|| {
        let stash: TestStash =
            Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL * 60).build().unwrap();
        let soon = PutOptions::new().ttl(SOON * 5);
        let ticket = stash.try_put_with(ALICE, payload(100), soon).unwrap();
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        let waiter = {
            let stash = stash.clone();
            thread::spawn(move || stash.put_timeout(ALICE, payload(1), PATIENCE).is_ok())
        };
        while stash.waiting() == 0 {
            thread::yield_now();
        }
        claim.put_back();
        assert!(waiter.join().unwrap());
    });
}

/// Several blocked threads share the knowledge of the next deadline; those that stay go on without those that
/// leave.
#[test]
fn w2_blocked_threads_that_give_up_leave_the_deadline_to_those_that_stay() {
    must_come_back(|| {
        let stash: TestStash =
            Stash::builder().max_bytes(100).entry_overhead(0).ttl(SOON * 5).build().unwrap();
        fill(&stash, 100);
        let wait = |patience| {
            let stash = stash.clone();
            thread::spawn(move || stash.put_timeout(ALICE, payload(10), patience).is_ok())
        };
        let stays = wait(PATIENCE);
        let leaves: Vec<_> = (0..3).map(|_| wait(SOON / 10)).collect();
        leaves.into_iter().for_each(|thread| assert!(!thread.join().unwrap()));
        assert!(stays.join().unwrap());
    });
}

#[test]
fn w2_a_blocked_permit_does_not_keep_the_stash_alive() {
    must_come_back(|| {
        let (stash, _) = test_stash();
        fill(&stash, 100);
        let budget = stash.budget().clone();
        let waiter = {
            let budget = budget.clone();
            thread::spawn(move || budget.acquire_timeout(60, PATIENCE).is_ok())
        };
        while budget.waiting() == 0 {
            thread::yield_now();
        }
        drop(stash);
        assert!(waiter.join().unwrap());
        assert_eq!(budget.used(), 0);
    });
}

// ---- W2: asynchronous waits --------------------------------------------------------------------------

/// Lets a wait of 50 bytes begin, then everything expire, then the wait end by its bound: the bound must not
/// refuse it. Returns what came of it.
fn given_up_after_expiry<F, T>(
    wait: impl FnOnce(&'static TestStash, Pin<Box<dyn Future<Output = ()>>>) -> F,
) -> T
where
    F: Future<Output = T>,
{
    let (stash, clock) = test_stash();
    // Borrowed futures of a stash that lives as long as the test's process.
    let stash: &'static TestStash = Box::leak(Box::new(stash));
    fill(stash, 100);
    let mut waiting = Box::pin(wait(stash, Box::pin(clock.sleep(TTL))));
    queue(&mut waiting);
    clock.advance(TTL);
    ready(&mut waiting)
}

#[test]
fn w2_an_asynchronous_wait_is_granted_though_its_bound_completes_first() {
    assert!(
        given_up_after_expiry(|stash, bound| stash.put(ALICE, payload(50)).until(bound)).is_ok()
    );
    assert!(
        given_up_after_expiry(|stash, bound| stash.put(ALICE, payload(50)).timeout(bound)).is_ok()
    );
    assert!(given_up_after_expiry(|stash, bound| stash.reserve(50).until(bound)).is_ok());
    assert!(
        given_up_after_expiry(|stash, bound| stash.reserve_for(&ALICE, 50).until(bound)).is_ok()
    );
    assert!(given_up_after_expiry(|stash, bound| stash.budget().acquire(50).until(bound)).is_ok());
    assert!(
        given_up_after_expiry(|stash, bound| stash.budget().acquire(50).timeout(bound)).is_ok()
    );
}

#[test]
fn b22_an_asynchronous_wait_behind_the_head_is_granted_too() {
    let (stash, clock) = test_stash();
    fill(&stash, 100);
    let mut head = Box::pin(stash.put(ALICE, payload(60)));
    queue(&mut head);
    let mut second = Box::pin(stash.put(ALICE, payload(40)).until(clock.sleep(TTL)));
    queue(&mut second);
    clock.advance(TTL);
    assert!(ready(&mut second).is_ok());
    assert!(ready(&mut head).is_ok());
}

#[test]
fn w2_a_bare_permit_is_not_refused_for_expired_bytes() {
    let (stash, clock) = test_stash();
    fill(&stash, 100);
    clock.advance(TTL);
    assert!(stash.budget().try_acquire(100).is_ok());
}

// ---- W13 ---------------------------------------------------------------------------------------------

/// Counts how often the clock is read: a refused attempt reads it for its sweep.
#[derive(Clone)]
struct CountedClock(ManualClock, Arc<AtomicUsize>);

impl Clock for CountedClock {
    fn now(&self) -> Duration {
        self.1.fetch_add(1, SeqCst);
        self.0.now()
    }
}

#[test]
fn w13_a_blocking_put_attempts_its_admission_once() {
    let reads = Arc::new(AtomicUsize::new(0));
    let clock = CountedClock(ManualClock::new(), Arc::clone(&reads));
    let (stash, _) = stash_with(|builder| builder.clock(clock));
    let read_by = |call: &dyn Fn() -> bool| {
        let before = reads.load(SeqCst);
        let succeeded = call();
        (succeeded, reads.load(SeqCst) - before)
    };
    // With room, both read the clock for the deadline only.
    let (at_once, once) = read_by(&|| stash.try_put(ALICE, payload(50)).is_ok());
    let (blocking, as_often) = read_by(&|| stash.put_timeout(ALICE, payload(50), PATIENCE).is_ok());
    assert_eq!((at_once, blocking, once, as_often), (true, true, 1, 1));
    // Without room, a refusal reads it for one sweep that finds nothing. A first poll adds the time at which the
    // wait began.
    let (_, refused) = read_by(&|| stash.try_put(ALICE, payload(1)).is_ok());
    let (_, polled) =
        read_by(&|| poll_once(&mut Box::pin(stash.put(ALICE, payload(1)))).is_ready());
    assert_eq!((refused, polled), (1, 2));
}

// ---- W16, W18 ----------------------------------------------------------------------------------------

#[test]
fn w16_a_loop_of_cooperative_puts_lets_other_tasks_run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let turns = Arc::new(AtomicUsize::new(0));
    let others = Arc::clone(&turns);
    runtime.block_on(async {
        tokio::spawn(async move {
            loop {
                others.fetch_add(1, SeqCst);
                tokio::task::yield_now().await;
            }
        });
        let (stash, _) = test_stash();
        for _ in 0..10_000 {
            let put = tokio::task::coop::cooperative(stash.put(ALICE, payload(1)));
            let ticket = put.await.unwrap();
            assert!(take(&stash, ticket).is_some());
        }
    });
    // Tokio gives a task 128 steps at a time.
    assert!(turns.load(SeqCst) >= 10_000 / 128);
}

#[test]
fn w18_a_reaper_whose_sleep_completes_immediately_returns_to_its_executor() {
    let (stash, _) = test_stash();
    fill(&stash, 1);
    let mut reaper = Box::pin(stash.reaper().run(|_| completed(())));
    for _ in 0..3 {
        assert!(must_poll(&mut reaper).is_pending());
    }
    drop(stash);
    assert!(must_poll(&mut reaper).is_ready());
}

/// A test that advances its clock by all that there is, to expire everything, has no later time to wait for.
#[test]
fn w18_a_reaper_on_a_manual_clock_at_its_end_sleeps() {
    let (stash, clock) = test_stash();
    fill(&stash, 1);
    let sleep = clock.clone();
    let mut reaper = Box::pin(stash.reaper().run(move |wait| sleep.sleep(wait)));
    assert!(must_poll(&mut reaper).is_pending());
    clock.advance(Duration::MAX);
    let (woken, waker) = counting();
    while woken.get() < 10 {
        let before = woken.get();
        assert!(poll(&mut reaper, &waker).is_pending());
        if woken.get() == before {
            break;
        }
    }
    assert!(woken.get() < 10, "it is called again and again");
    assert!(stash.is_empty());
    drop(stash);
    assert!(must_poll(&mut reaper).is_ready());
}

fn must_poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

// ---- B12: owned futures ------------------------------------------------------------------------------

/// Futures that have names, in a struct.
struct Service {
    acquire: Acquire<'static>,
    reserve: Reserve<'static, Vec<u8>, u8, Until<Never, std::future::Pending<()>>>,
    put: Pin<Box<cloakroom::Put<'static, Vec<u8>, u8>>>,
}

#[test]
fn b12_owned_futures_have_names_and_outlive_the_handles() {
    let (stash, _) = test_stash();
    let service = Service {
        acquire: stash.budget().acquire_owned(20),
        reserve: stash.reserve_owned(30).until(pending()),
        put: Box::pin(stash.put_owned(ALICE, payload(50))),
    };
    drop(stash);
    let Service { acquire, reserve, mut put } = service;
    let permit = ready(&mut Box::pin(acquire)).unwrap();
    let room = ready(&mut Box::pin(reserve)).unwrap();
    let ticket: Ticket = ready(&mut put).unwrap();
    assert_eq!((permit.bytes(), room.bytes()), (20, 30));
    assert_eq!(take(room.stash(), ticket), Some(payload(50)));
    assert_eq!(state(room.stash()), (0, 50, 0));
}

#[test]
fn b12_owned_waits_are_spawned_and_served_in_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let (stash, _) = stash_with(|builder| builder.max_bytes_per_owner(100));
        let full = put(&stash, 100);
        let wait_for = |waiting: usize| {
            let stash = stash.clone();
            async move {
                while stash.waiting() < waiting {
                    tokio::task::yield_now().await;
                }
            }
        };
        let first = tokio::spawn(stash.budget().acquire_owned(60));
        wait_for(1).await;
        let second = tokio::spawn(stash.reserve_owned_for(&2, 30));
        wait_for(2).await;
        let third = tokio::spawn(stash.put_owned(3, payload(10)));
        wait_for(3).await;
        assert!(take(&stash, full).is_some());
        let permit = first.await.unwrap().unwrap();
        let room = second.await.unwrap().unwrap();
        let ticket = third.await.unwrap().unwrap();
        assert_eq!((permit.bytes(), room.bytes(), stash.used_bytes()), (60, 30, 100));
        assert_eq!(stash.take(&ticket, &3), Some(payload(10)));
    });
}

#[test]
fn b12_an_owned_wait_that_is_dropped_leaves_the_queue_and_the_quota() {
    let (stash, _) = stash_with(|builder| builder.max_bytes_per_owner(100));
    let held = stash.budget().try_acquire(100).unwrap();
    let mut waiting = Box::pin(stash.put_owned(ALICE, payload(60)));
    queue(&mut waiting);
    assert_eq!((stash.waiting(), stash.owner_used_bytes(&ALICE)), (1, 60));
    drop(waiting);
    assert_eq!((stash.waiting(), stash.owner_used_bytes(&ALICE)), (0, 0));
    drop(held);
}

// ---- B17: timeouts, cancellations, departures ----------------------------------------------------------

#[test]
fn b17_a_timeout_is_told_from_a_cancellation() {
    let (stash, clock) = test_stash();
    let held = stash.budget().try_acquire(100).unwrap();
    let sleep = || clock.sleep(Duration::from_secs(1));
    let mut timed = Box::pin(stash.put(ALICE, payload(1)).timeout(sleep()));
    let mut cancelled = Box::pin(stash.reserve(1).until(sleep()));
    let mut dropped = Box::pin(stash.put(ALICE, payload(1)));
    queue(&mut timed);
    queue(&mut cancelled);
    queue(&mut dropped);
    clock.advance(Duration::from_secs(1));
    assert_eq!(ready(&mut timed).unwrap_err().reason(), Refusal::TimedOut);
    assert_eq!(ready(&mut cancelled).unwrap_err().reason(), Refusal::Cancelled);
    drop(dropped);
    let stats = checked_stats(&stash);
    assert_eq!((stats.refused.timed_out, stats.refused.cancelled, stats.abandoned), (1, 1, 1));
    drop(held);
}

/// Counted and reported as the caller sees it, by the trait as well.
#[test]
fn b17_a_timeout_by_the_trait_is_counted_as_one() {
    let log = EventLog::default();
    let (stash, _) = stash_with(|builder| builder.observer(log.clone()));
    fill(&stash, 100);
    log.read();
    let mut waits = Box::pin(Cloakroom::put_timeout(&stash, BOB, payload(10), pending::<()>()));
    queue(&mut waits);
    drop(waits);
    let put = Cloakroom::put_timeout(&stash, BOB, payload(10), completed(()));
    let rejected = ready(&mut Box::pin(put)).unwrap_err();
    assert_eq!(rejected.reason(), Some(Refusal::TimedOut));
    assert_eq!(rejected.into_inner(), payload(10));
    let refused = stash.stats().refused;
    assert_eq!((refused.timed_out, refused.total()), (1, 1));
    assert_eq!(log.read(), [Event::Refused { reason: Refusal::TimedOut, bytes: 10 }]);
}

#[test]
fn b17_the_first_of_several_bounds_ends_the_wait() {
    let budget = Budget::new(100);
    let held = budget.try_acquire(100).unwrap();
    let clock = ManualClock::new();
    let sleep = |seconds| clock.sleep(Duration::from_secs(seconds));
    for (order, expected) in [([1, 2, 3], Refusal::Cancelled), ([2, 1, 3], Refusal::TimedOut)] {
        let [until, timeout, other] = order.map(sleep);
        let mut waiting = Box::pin(budget.acquire(1).until(until).timeout(timeout).until(other));
        queue(&mut waiting);
        clock.advance(Duration::from_secs(1));
        assert_eq!(ready(&mut waiting).unwrap_err().reason(), expected);
    }
    drop(held);
}

#[test]
fn b17_the_grant_wins_over_every_bound() {
    let budget = Budget::new(100);
    let held = budget.try_acquire(100).unwrap();
    let mut waiting = Box::pin(budget.acquire(1).timeout(poll_fn({
        let mut polls = 0;
        move |_| {
            polls += 1;
            if polls > 1 { Poll::Ready(()) } else { Poll::Pending }
        }
    })));
    queue(&mut waiting);
    drop(held);
    assert!(ready(&mut waiting).is_ok());
}

#[test]
fn b17_an_asynchronous_stash_counts_only_waits_that_were_dropped() {
    let (stash, _) = test_stash();
    drop(stash.put(ALICE, payload(1)));
    let full = put(&stash, 100);
    let mut granted = Box::pin(stash.put(ALICE, payload(1)));
    queue(&mut granted);
    assert!(take(&stash, full).is_some());
    drop(granted);
    assert_eq!(checked_stats(&stash).abandoned, 0, "granted, so it did not wait any more");
    let mut pinned = pin!(stash.put(ALICE, payload(1)));
    assert!(pinned.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
}
