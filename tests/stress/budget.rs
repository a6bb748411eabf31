//! A budget, without a stash.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use cloakroom::{Budget, Permit, Refusal};

use super::{LIMIT, THREADS, on_threads, rounds, size};
use crate::support::{acquire_task, counting, must_come_back, poll};

use crate::support::random::Rng;

/// What is held by test threads must never pass the limit: the bytes are counted while they are held.
#[derive(Default)]
struct Held(AtomicU64);

impl Held {
    fn hold(&self, permit: Permit<'_>, limit: u64) {
        let bytes = permit.bytes();
        let held = self.0.fetch_add(bytes, Ordering::SeqCst) + bytes;
        assert!(held <= limit, "{held} bytes are held");
        thread::yield_now();
        self.0.fetch_sub(bytes, Ordering::SeqCst);
        drop(permit);
    }
}

/// Nothing is used, nothing waits, and the whole limit can be acquired once.
fn settled(budget: &Budget) {
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
    let all = budget.try_acquire(budget.limit()).expect("all of it is free");
    assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Full);
    drop(all);
}

#[test]
fn trying_never_passes_the_limit_and_restores_all() {
    let (budget, held) = (Budget::new(LIMIT), Held::default());
    on_threads(|_, rng| {
        for _ in 0..rounds(20_000) {
            let bytes = size(rng);
            match budget.try_acquire(bytes) {
                Ok(mut permit) => {
                    if let Some(part) = permit.split(bytes / 3) {
                        held.hold(part, LIMIT);
                    }
                    permit.shrink(bytes / 2);
                    held.hold(permit, LIMIT);
                }
                Err(refused) if bytes > LIMIT => assert_eq!(refused.reason(), Refusal::TooLarge),
                Err(refused) => assert_eq!(refused.reason(), Refusal::Full),
            }
        }
    });
    settled(&budget);
}

/// Futures that are polled by hand, some dropped while they wait and some after the grant, next to
/// threads that block for short.
#[test]
fn waiting_blocking_and_cancelling() {
    must_come_back(|| {
        let (budget, held) = (Budget::new(LIMIT), Held::default());
        let granted = AtomicU64::new(0);
        on_threads(|number, rng| {
            let mut waiting = Vec::new();
            for _ in 0..rounds(4_000) {
                match rng.below(8) {
                    0..4 => {
                        let (count, waker) = counting();
                        let mut request = acquire_task(&budget, size(rng));
                        match poll(&mut request, &waker) {
                            Poll::Pending => waiting.push((request, count)),
                            Poll::Ready(Ok(permit)) => held.hold(permit, LIMIT),
                            Poll::Ready(Err(e)) => assert_eq!(e.reason(), Refusal::TooLarge),
                        }
                    }
                    4 => drop(rng.draw(&mut waiting)),
                    5 if number % 2 == 0 => {
                        let patience = Duration::from_micros(rng.below(200));
                        if let Ok(permit) = budget.acquire_timeout(size(rng), patience) {
                            held.hold(permit, LIMIT);
                        }
                    }
                    _ => {
                        // A grant that is not polled would block all threads, this one too.
                        waiting.retain_mut(|(request, count)| {
                            if count.get() == 0 {
                                return true;
                            }
                            assert_eq!(count.get(), 1, "woken once for the grant");
                            let (_, waker) = counting();
                            match poll(request, &waker) {
                                Poll::Ready(Ok(permit)) => held.hold(permit, LIMIT),
                                other => panic!("woken, but not granted: {other:?}"),
                            }
                            granted.fetch_add(1, Ordering::Relaxed);
                            false
                        });
                    }
                }
            }
        });
        settled(&budget);
        println!("{} granted after a wait", granted.into_inner());
    });
}

/// All waiters are granted in the end, with no call but the drop of permits.
#[test]
fn blocked_threads_are_all_granted_in_the_end() {
    must_come_back(|| {
        let (budget, held) = (Budget::new(LIMIT), Held::default());
        on_threads(|_, rng| {
            for _ in 0..rounds(4_000) {
                let bytes = 1 + rng.below(LIMIT);
                let forever = Duration::from_secs(100_000);
                held.hold(budget.acquire_timeout(bytes, forever).unwrap(), LIMIT);
            }
        });
        settled(&budget);
    });
}

#[test]
fn the_limit_moves_while_threads_wait() {
    must_come_back(|| {
        let (budget, held) = (Budget::new(LIMIT), Held::default());
        let running = AtomicUsize::new(THREADS as usize);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng::new(99);
                while running.load(Ordering::SeqCst) > 0 {
                    budget.set_limit(rng.below(LIMIT + 1));
                    thread::yield_now();
                }
                budget.set_limit(LIMIT);
            });
            on_threads(|_, rng| {
                for _ in 0..rounds(2_000) {
                    let bytes = rng.below(LIMIT);
                    let patience = Duration::from_millis(rng.below(3));
                    match budget.acquire_timeout(bytes, patience) {
                        // What the limit was when they were granted is not known here: the highest.
                        Ok(permit) => held.hold(permit, LIMIT),
                        Err(e) => assert!(matches!(
                            e.reason(),
                            Refusal::Full | Refusal::TooLarge | Refusal::TimedOut
                        )),
                    }
                }
                running.fetch_sub(1, Ordering::SeqCst);
            });
        });
        settled(&budget);
    });
}

/// After a burst of everything, with all threads at rest, no waiter is left that could be
/// granted.
#[test]
fn at_rest_nobody_is_forgotten() {
    for round in 0..rounds(1_000) {
        let budget = Budget::new(LIMIT);
        let (waiting, permits) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        on_threads(|number, rng| {
            let mut rng = Rng::new(round * THREADS + number + rng.next());
            let (mut mine, mut held) = (Vec::new(), Vec::new());
            for _ in 0..8 {
                match rng.below(8) {
                    0..4 => {
                        let bytes = 1 + rng.below(LIMIT);
                        let (count, waker) = counting();
                        let mut request = acquire_task(&budget, bytes);
                        match poll(&mut request, &waker) {
                            Poll::Pending => mine.push((request, count)),
                            Poll::Ready(Ok(permit)) => held.push(permit),
                            Poll::Ready(Err(e)) => assert_eq!(e.reason(), Refusal::TooLarge),
                        }
                    }
                    4 | 5 => drop(rng.draw(&mut mine)),
                    6 => drop(rng.draw(&mut held)),
                    _ => budget.set_limit(LIMIT / 2 + rng.below(LIMIT / 2 + 1)),
                }
            }
            waiting.lock().unwrap().extend(mine);
            permits.lock().unwrap().extend(held);
        });
        let waiting = waiting.into_inner().unwrap();
        // Nothing is dropped here: that would give bytes back.
        let (mut waiting, granted): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, count)| count.get() == 0);
        assert_eq!(
            budget.waiting(),
            waiting.len(),
            "waiters in the queue, and waiters that were not woken"
        );
        // Changes no limit but grants waiters: a waiter granted here should have been granted before.
        budget.set_limit(budget.limit());
        assert!(waiting.iter().all(|(_, count)| count.get() == 0), "forgotten: {budget:?}");
        // With all bytes back, nothing waits.
        budget.set_limit(LIMIT);
        permits.into_inner().unwrap().clear();
        drop(granted);
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|(_, count)| count.get() == 0);
            assert!(waiting.len() < before, "a waiter is left over: {budget:?}");
        }
        settled(&budget);
    }
}

#[test]
fn closing_ends_every_wait() {
    must_come_back(|| {
        for round in 0..rounds(400) {
            let budget = Budget::new(LIMIT);
            let (joined, closed) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let full = budget.try_acquire(LIMIT).unwrap();
            on_threads(|number, rng| {
                if number == 0 {
                    (0..rng.below(round + 1) % 50).for_each(|_| thread::yield_now());
                    assert!(budget.close() <= joined.load(Ordering::SeqCst));
                    assert_eq!(budget.close(), 0);
                } else {
                    joined.fetch_add(1, Ordering::SeqCst);
                    let refused = budget.acquire_timeout(1, Duration::from_secs(100_000));
                    assert_eq!(refused.unwrap_err().reason(), Refusal::Closed);
                    closed.fetch_add(1, Ordering::SeqCst);
                }
            });
            drop(full);
            assert_eq!((closed.into_inner(), budget.used(), budget.waiting()), (3, 0, 0));
        }
    });
}
