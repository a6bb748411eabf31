//! The budget and its wait queue: models L1 to L14. L16 and L17 are in `close_and_limit.rs`, L18 in `ordering.rs`.
//!
//! Every model ends with `settled`: whatever the interleaving, all bytes are released and no request waits.
#![cfg(cloakroom_loom)]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use cloakroom::{Budget, Permit, Refusal};
use loom::thread;
use loom_tests::{CountingWaker, Waiter, acquire, hold, model, settled};

/// Counts the bytes that holders believe they hold.
#[derive(Clone)]
struct Held {
    bytes: Arc<AtomicU64>,
    limit: u64,
}

impl Held {
    fn new(limit: u64) -> Self {
        Self { bytes: Arc::new(AtomicU64::new(0)), limit }
    }

    fn enter(&self, permit: &Permit<'_>) {
        let before = self.bytes.fetch_add(permit.bytes(), SeqCst);
        assert!(before + permit.bytes() <= self.limit, "more is held than the limit");
    }

    fn leave(&self, permit: Permit<'_>) {
        self.bytes.fetch_sub(permit.bytes(), SeqCst);
        drop(permit);
    }
}

/// All hold their grants at the same time: none of them needs the bytes of another.
fn granted_together(waiters: [Waiter<loom_tests::Acquired>; 3]) {
    let permits = waiters.map(|waiter| waiter.woken_once().unwrap());
    drop(permits);
}

fn queued(budget: &Budget, bytes: u64) -> Waiter<loom_tests::Acquired> {
    Waiter::queued(acquire(budget, bytes), CountingWaker::new())
}

#[test]
fn l1_the_limit_holds_and_all_is_restored() {
    model(|| {
        let budget = Budget::new(2);
        let held = Held::new(2);
        let try_once = |budget: &Budget, held: &Held, bytes| {
            if let Ok(Ok(permit)) = Waiter::started(acquire(budget, bytes)) {
                held.enter(&permit);
                thread::yield_now();
                held.leave(permit);
            }
        };
        let other = {
            let (budget, held) = (budget.clone(), held.clone());
            thread::spawn(move || try_once(&budget, &held, 1))
        };
        try_once(&budget, &held, 2);
        other.join().unwrap();
        settled(&budget);
    });
}

#[test]
fn l2_three_threads_never_charge_more_than_the_limit() {
    model(|| {
        let budget = Budget::new(2);
        let held = Held::new(2);
        let threads = [1, 2].map(|bytes| {
            let (budget, held) = (budget.clone(), held.clone());
            thread::spawn(move || {
                if let Ok(permit) = budget.try_acquire(bytes) {
                    held.enter(&permit);
                    held.leave(permit);
                }
            })
        });
        if let Ok(permit) = budget.try_acquire(1) {
            held.enter(&permit);
            held.leave(permit);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        settled(&budget);
    });
}

#[test]
fn l3_no_request_overtakes_the_queue() {
    model(|| {
        let budget = Budget::new(2);
        let (p, q) = (hold(&budget, 1), hold(&budget, 1));
        let a = queued(&budget, 2);
        let b = queued(&budget, 1);
        let releaser = thread::spawn(move || drop(p));
        let latecomer = {
            let budget = budget.clone();
            thread::spawn(move || {
                // A and then B wait all the time: no interleaving has room for this one.
                assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Full);
            })
        };
        drop(q);
        releaser.join().unwrap();
        latecomer.join().unwrap();
        let b = b.still_waits();
        drop(a.woken_once());
        drop(b.woken_once());
        settled(&budget);
    });
}

#[test]
fn l4_pending_means_exactly_one_wake() {
    model(|| {
        let budget = Budget::new(2);
        let releasers =
            [hold(&budget, 1), hold(&budget, 1)].map(|p| thread::spawn(move || drop(p)));
        let outcome = Waiter::started(acquire(&budget, 2));
        for releaser in releasers {
            releaser.join().unwrap();
        }
        match outcome {
            Ok(permit) => drop(permit.unwrap()),
            Err(waiter) => drop(waiter.woken_once().unwrap()),
        }
        settled(&budget);
    });
}

#[test]
fn l5_a_grant_that_nobody_took_goes_to_the_next() {
    model(|| {
        let budget = Budget::new(2);
        let (p, q) = (hold(&budget, 1), hold(&budget, 1));
        let a = queued(&budget, 1);
        let b = queued(&budget, 2);
        drop(p);
        assert_eq!(a.wakes(), 1);
        let dropper = thread::spawn(move || drop(a));
        let releaser = thread::spawn(move || drop(q));
        dropper.join().unwrap();
        releaser.join().unwrap();
        let permit = b.woken_once().unwrap();
        assert_eq!(budget.used(), 2);
        drop(permit);
        settled(&budget);
    });
}

#[test]
fn l6_the_head_leaves_and_the_next_fits() {
    model(|| {
        let budget = Budget::new(3);
        let p = hold(&budget, 2);
        let a = queued(&budget, 3);
        let b = queued(&budget, 1);
        let leaver = {
            let budget = budget.clone();
            thread::spawn(move || {
                drop(a);
                // B fits beside `p`, so it has been granted: by this thread, or before.
                assert_eq!(budget.waiting(), 0, "the head left and the next was not granted");
            })
        };
        let releaser = thread::spawn(move || drop(p));
        leaver.join().unwrap();
        releaser.join().unwrap();
        drop(b.woken_once().unwrap());
        settled(&budget);
    });
}

#[test]
fn l7_a_waker_that_releases_wakes_nobody_twice() {
    model(|| {
        let budget = Budget::new(3);
        let (p, q, r) = (hold(&budget, 1), hold(&budget, 1), hold(&budget, 1));
        let in_waker = Mutex::new(Some(q));
        let a = Waiter::queued(
            acquire(&budget, 1),
            CountingWaker::calling(move || {
                let q = in_waker.lock().unwrap().take();
                drop(q);
            }),
        );
        let b = queued(&budget, 1);
        let c = queued(&budget, 1);
        let releaser = thread::spawn(move || drop(p));
        drop(r);
        releaser.join().unwrap();
        granted_together([a, b, c]);
        settled(&budget);
    });
}

#[test]
fn l8_a_waiter_leaves_while_a_batch_is_woken() {
    model(|| {
        let budget = Budget::new(3);
        let p = hold(&budget, 3);
        let survivors = [queued(&budget, 1), queued(&budget, 1)];
        let last = queued(&budget, 1);
        let releaser = thread::spawn(move || drop(p));
        drop(last);
        releaser.join().unwrap();
        let permits = survivors.map(|waiter| waiter.woken_once().unwrap());
        drop(permits);
        settled(&budget);
    });
}

#[test]
fn l9_serving_goes_on_after_a_full_batch() {
    model(|| {
        let budget = Budget::new(3);
        let p = hold(&budget, 3);
        let waiters = [queued(&budget, 1), queued(&budget, 1), queued(&budget, 1)];
        drop(p);
        granted_together(waiters);
        settled(&budget);
    });
}

/// The head leaves, and more fit behind it than are woken at once.
#[test]
fn l9_serving_goes_on_after_a_full_batch_behind_a_head_that_left() {
    model(|| {
        let budget = Budget::new(4);
        let p = hold(&budget, 1);
        let large = queued(&budget, 4);
        let waiters = [queued(&budget, 1), queued(&budget, 1), queued(&budget, 1)];
        drop(large);
        granted_together(waiters);
        drop(p);
        settled(&budget);
    });
}

#[test]
fn l10_the_newest_waker_is_woken() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let mut a = queued(&budget, 1);
        let releaser = thread::spawn(move || drop(p));
        let old = std::mem::replace(&mut a.waker, CountingWaker::new());
        let polled = a.poll();
        releaser.join().unwrap();
        match polled {
            Poll::Ready(permit) => drop(permit.unwrap()),
            Poll::Pending => {
                assert_eq!(old.wakes(), 0, "the old waker was woken after it had been replaced");
                drop(a.woken_once().unwrap());
            }
        }
        settled(&budget);
    });
}

#[test]
fn l11_two_join_and_one_wins() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let join = |budget: &Budget| {
            let budget = budget.clone();
            thread::spawn(move || Waiter::started(acquire(&budget, 1)))
        };
        let threads = [join(&budget), join(&budget)];
        drop(p);
        let mut granted = Vec::new();
        let mut waiting = Vec::new();
        for outcome in threads.map(|thread| thread.join().unwrap()) {
            match outcome {
                Ok(permit) => granted.push(permit.unwrap()),
                Err(waiter) if waiter.wakes() > 0 => granted.push(waiter.woken_once().unwrap()),
                Err(waiter) => waiting.push(waiter.still_waits()),
            }
        }
        assert_eq!((granted.len(), waiting.len()), (1, 1), "exactly one winner");
        drop(granted);
        drop(waiting.pop().unwrap().woken_once().unwrap());
        settled(&budget);
    });
}

/// A joiner that fits takes its bytes without having waited.
#[test]
fn l11_a_joiner_that_fits_refuses_nobody() {
    model(|| {
        let budget = Budget::new(2);
        let p = hold(&budget, 2);
        let other = {
            let budget = budget.clone();
            thread::spawn(move || Waiter::started(acquire(&budget, 1)))
        };
        drop(p);
        drop(budget.try_acquire(1).expect("the other has one, or waits for nothing"));
        match other.join().unwrap() {
            Ok(permit) => drop(permit.unwrap()),
            Err(waiter) => drop(waiter.woken_once().unwrap()),
        }
        settled(&budget);
    });
}

#[test]
fn l12_a_late_joiner_never_overtakes() {
    model(|| {
        let budget = Budget::new(2);
        let (p, q) = (hold(&budget, 1), hold(&budget, 1));
        let a = queued(&budget, 2);
        let late = {
            let budget = budget.clone();
            // There is never room beside A, which is the head or has all.
            thread::spawn(move || queued(&budget, 1))
        };
        let releaser = thread::spawn(move || drop(p));
        drop(q);
        releaser.join().unwrap();
        let b = late.join().unwrap().still_waits();
        drop(a.woken_once().unwrap());
        drop(b.woken_once().unwrap());
        settled(&budget);
    });
}

#[test]
fn l13_block_on_is_woken() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let releaser = thread::spawn(move || drop(p));
        drop(loom::future::block_on(acquire(&budget, 1)).unwrap());
        releaser.join().unwrap();
        settled(&budget);
    });
}

#[test]
fn l13_a_blocked_thread_is_woken() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let releaser = thread::spawn(move || drop(p));
        // No deadline ever comes under loom: only a grant ends this.
        drop(budget.acquire_timeout(1, std::time::Duration::from_secs(1)).unwrap());
        releaser.join().unwrap();
        settled(&budget);
    });
}

#[test]
fn l14_granted_or_timed_out_never_both() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let mut a = queued(&budget, 1);
        // A's time is up: it polls once more and leaves.
        let expiring = thread::spawn(move || match a.poll() {
            Poll::Ready(permit) => drop(permit.unwrap()),
            Poll::Pending => drop(a),
        });
        let releaser = thread::spawn(move || drop(p));
        let b = Waiter::started(acquire(&budget, 1));
        expiring.join().unwrap();
        releaser.join().unwrap();
        match b {
            Ok(permit) => drop(permit.unwrap()),
            Err(waiter) => drop(waiter.woken_once().unwrap()),
        }
        settled(&budget);
    });
}

#[test]
fn l14_until_and_the_grant_together() {
    model(|| {
        let budget = Budget::new(1);
        let p = hold(&budget, 1);
        let fired = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut a = {
            let (budget, fired) = (budget.clone(), Arc::clone(&fired));
            let give_up = std::future::poll_fn(move |_| match fired.load(SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            Waiter::queued(
                Box::pin(
                    async move { budget.acquire(1).until(give_up).await.map(Permit::into_owned) },
                ),
                CountingWaker::new(),
            )
        };
        fired.store(true, SeqCst);
        let releaser = thread::spawn(move || drop(p));
        match a.poll() {
            Poll::Ready(Ok(permit)) => drop(permit),
            Poll::Ready(Err(error)) => {
                assert_eq!(error.reason(), Refusal::Cancelled);
                assert_eq!(a.wakes(), 0, "woken for a grant that it did not get");
            }
            Poll::Pending => panic!("`until` was complete"),
        }
        releaser.join().unwrap();
        settled(&budget);
    });
}
