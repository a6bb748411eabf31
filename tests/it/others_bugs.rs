//! Bugs that others had in code like this, one test each. The comment above a test says where it happened.
//!
//! Tested elsewhere, where one test serves for both:
//!
//! | bug | where it happened | test |
//! |---|---|---|
//! | waker cloned, replaced or dropped under the lock | tokio-rs/tokio#5429, #4129, apache/asyncband#189 | `reentrancy::waker_clone_and_drop::a_waker_may_call_anything_when_it_is_cloned_or_dropped` |
//! | executor polls inline in `wake()` | nginx/ngx-rust#295 | `reentrancy::wakes::{an_executor_may_poll_inside_of_wake, a_wake_may_poll_everybody_else_and_nobody_gets_ahead}` |
//! | node freed while in a detached wake list | tokio-rs/tokio#2340 | `reentrancy::wakes::a_wake_may_drop_a_future_that_was_granted_with_it` (Miri sees a use after free) |
//! | panic in a callback strands the batch or leaks | tokio-rs/tokio#8542, #5578 | all of `panics` |

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use cloakroom::{Budget, ManualClock, Permit, Refusal};

use crate::support::{
    Counted, Hooks, Live, Request, SharedTask, acquire_task, counting, must_come_back, poll,
    poll_once, put_task, queue, ready, stash_of,
};

// Matthias247/futures-intrusive#61, embassy-rs/embassy#6964, golang/go#37852
#[test]
fn head_cancelled_next_fits() {
    let budget = Budget::new(100);
    let _held = budget.try_acquire(60).unwrap();
    let mut head = acquire_task(&budget, 80);
    let (head_woken, mut next, mut last) =
        (queue(&mut head), acquire_task(&budget, 30), acquire_task(&budget, 30));
    let (next_woken, last_woken) = (queue(&mut next), queue(&mut last));
    drop(head);
    // With no further call, and no further than fits.
    assert_eq!((head_woken.get(), next_woken.get(), last_woken.get()), (0, 1, 0));
    assert_eq!((budget.used(), budget.waiting()), (90, 1));
    assert_eq!(ready(&mut next).unwrap().bytes(), 30);
}

// The same where the head gives up by itself.
#[test]
fn head_gives_up_next_fits() {
    let (stash, clock) = stash_of::<Counted, u8>(100);
    let live = Live::new();
    let _ = stash.try_put(0, live.counted(60)).unwrap();
    let patience = clock.sleep(Duration::from_secs(1));
    let mut head = Box::pin(stash.put(1, live.counted(80)).until(patience));
    let mut next = put_task(&stash, 2, live.counted(30));
    let (head_woken, next_woken) = (queue(&mut head), queue(&mut next));
    clock.advance(Duration::from_secs(1));
    assert_eq!((head_woken.get(), next_woken.get()), (1, 0));
    let refused = ready(&mut head).unwrap_err();
    assert_eq!((refused.reason(), refused.payload().size), (Refusal::Cancelled, 80));
    assert_eq!(next_woken.get(), 1);
    assert!(ready(&mut next).is_ok());
}

// The same where the one that leaves is a thread whose time is up.
#[test]
fn head_times_out_next_fits() {
    must_come_back(|| {
        let budget = Budget::new(100);
        let held = budget.try_acquire(60).unwrap();
        let (in_line, blocked) = (Barrier::new(2), budget.clone());
        thread::scope(|scope| {
            let mut next = acquire_task(&budget, 30);
            let head = scope.spawn(|| {
                in_line.wait();
                blocked.acquire_timeout(80, Duration::from_millis(50)).map(drop)
            });
            in_line.wait();
            // Before it or behind it, or too late to meet it: it gets its bytes in the end.
            let ours = poll_once(&mut next);
            assert_eq!(head.join().unwrap().unwrap_err().reason(), Refusal::TimedOut);
            let permit = match ours {
                Poll::Ready(permit) => permit,
                Poll::Pending => ready(&mut next),
            };
            assert_eq!(permit.unwrap().bytes(), 30);
        });
        drop(held);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

// A waiter that is not the head leaves: it must not be mistaken for it, nor break the links.
#[test]
fn one_from_the_middle_or_the_tail_leaves_and_nobody_is_granted() {
    for leaver in [1, 2, 3] {
        let budget = Budget::new(100);
        let held = budget.try_acquire(100).unwrap();
        let mut waiters: Vec<_> = (0..4).map(|_| Some(acquire_task(&budget, 25))).collect();
        let woken: Vec<_> = waiters.iter_mut().map(|task| queue(task.as_mut().unwrap())).collect();
        waiters[leaver] = None;
        assert_eq!(budget.waiting(), 3);
        assert!(woken.iter().all(|count| count.get() == 0));
        drop(held);
        let counts: Vec<_> = woken.iter().map(|count| count.get()).collect();
        assert_eq!(counts, Vec::from_iter((0..4).map(|n| usize::from(n != leaver))));
        waiters.clear();
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }
}

// awslabs/shuttle#167, lalinsky/zio#94
#[test]
fn granted_then_dropped_wakes_next() {
    let budget = Budget::new(10);
    let full = budget.try_acquire(10).unwrap();
    let mut granted = acquire_task(&budget, 10);
    let mut next = acquire_task(&budget, 10);
    let (granted_woken, next_woken) = (queue(&mut granted), queue(&mut next));
    drop(full);
    assert_eq!((granted_woken.get(), next_woken.get()), (1, 0));
    // It never saw its grant.
    drop(granted);
    assert_eq!(next_woken.get(), 1);
    drop(ready(&mut next));
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

// tokio-rs/tokio#8529
#[test]
fn close_wakes_outside_the_lock() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = budget.try_acquire(10).unwrap();
        let last = SharedTask::new(acquire_task(&budget, 10));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        // Two batches and more; each wake takes the lock in all the ways there are.
        for _ in 0..40 {
            let (again, victim, log) = (budget.clone(), Arc::clone(&last), Arc::clone(&seen));
            let (count, waker) = Hooks::new()
                .on_wake(move || {
                    again.set_limit(20);
                    victim.discard();
                    let mut late = acquire_task(&again, 5);
                    let Poll::Ready(Err(refused)) = poll_once(&mut late) else {
                        panic!("it joined the queue of a closed budget");
                    };
                    log.lock().unwrap().push(refused.reason());
                })
                .waker();
            let mut task = acquire_task(&budget, 10);
            assert!(poll(&mut task, &waker).is_pending());
            waiters.push((task, count));
        }
        assert!(last.poll_once().is_none());
        assert_eq!(budget.close(), 41);
        assert_eq!(*seen.lock().unwrap(), [Refusal::Closed; 40]);
        for (task, count) in &mut waiters {
            assert_eq!(ready(task).unwrap_err().reason(), Refusal::Closed);
            assert_eq!(count.get(), 1);
        }
        drop(full);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

// tokio-rs/tokio#3399: `&mut` to an intrusive node that the list also reaches. What is asserted here is the
// order; it is Miri that sees the aliasing.
#[test]
fn neighbours_come_and_go_between_two_polls_of_one() {
    let budget = Budget::new(100);
    let full = budget.try_acquire(100).unwrap();
    let mut before = acquire_task(&budget, 10);
    let mut middle = acquire_task(&budget, 10);
    queue(&mut before);
    queue(&mut middle);
    for round in 0..4 {
        let mut behind = acquire_task(&budget, 10);
        queue(&mut behind);
        assert!(poll_once(&mut middle).is_pending());
        drop(behind);
        // With a waker that is new each time, so that it is replaced.
        queue(&mut middle);
        assert_eq!(budget.waiting(), if round < 2 { 2 } else { 1 });
        if round == 1 {
            drop(std::mem::replace(&mut before, acquire_task(&budget, 10)));
        }
    }
    drop(full);
    assert_eq!(ready(&mut middle).unwrap().bytes(), 10);
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

/// Joins when the first of many waiters is woken, and returns how the earlier waiters ended.
fn joined_meanwhile(serve: fn(&Budget, Permit<'static>)) -> (usize, Poll<Option<Refusal>>) {
    let crowd = 40;
    let budget = Budget::new(crowd);
    let full = budget.try_acquire(crowd).unwrap().into_owned();
    let late = SharedTask::new(acquire_task(&budget, 1));
    let outcome = Arc::new(Mutex::new(Poll::Pending));
    let late_woken = Arc::new(AtomicUsize::new(0));
    let mut waiters: Vec<(Request, _)> = Vec::new();
    for n in 0..crowd {
        let hooks = Hooks::new();
        let (joining, result, wakes) =
            (Arc::clone(&late), Arc::clone(&outcome), Arc::clone(&late_woken));
        let (count, waker) = if n > 0 {
            hooks.waker()
        } else {
            hooks
                .on_wake(move || {
                    let wakes = Arc::clone(&wakes);
                    let hooks =
                        Hooks::new().on_wake(move || _ = wakes.fetch_add(1, Ordering::SeqCst));
                    if let Some(done) = joining.poll(&hooks.waker().1) {
                        *result.lock().unwrap() = Poll::Ready(done.err().map(|e| e.reason()));
                    }
                })
                .waker()
        };
        let mut task = acquire_task(&budget, 1);
        assert!(poll(&mut task, &waker).is_pending());
        waiters.push((task, count));
    }
    serve(&budget, full);
    assert!(waiters.iter().all(|(_, count)| count.get() == 1));
    (late_woken.load(Ordering::SeqCst), *outcome.lock().unwrap())
}

// tokio-rs/tokio#5396
#[test]
fn waking_all_spares_waiters_that_join_meanwhile() {
    must_come_back(|| {
        // The bytes go to the earlier waiters, though they are granted batch by batch.
        assert_eq!(joined_meanwhile(|_, full| drop(full)), (0, Poll::Pending));
        // Refused at entry, not from the queue.
        let sent_away = joined_meanwhile(|budget, full| {
            assert_eq!(budget.close(), 40);
            drop(full);
        });
        assert_eq!(sent_away, (0, Poll::Ready(Some(Refusal::Closed))));
    });
}

// tokio-rs/tokio#8020
#[test]
fn closed_stays_closed_whatever_is_counted_afterwards() {
    let max = Budget::MAX_LIMIT;
    let budget = Budget::new(max);
    let mut permits: Vec<_> =
        [max - 3, 1, 1, 1].map(|bytes| budget.try_acquire(bytes).unwrap()).into();
    let mut waiter = acquire_task(&budget, 5);
    queue(&mut waiter);
    assert_eq!(budget.close(), 1);
    let closed = || {
        assert_eq!(budget.try_acquire(0).unwrap_err().reason(), Refusal::Closed);
        let refused = ready(&mut acquire_task(&budget, 1)).unwrap_err();
        assert_eq!(refused.reason(), Refusal::Closed);
        let refused = budget.acquire_timeout(1, Duration::MAX).unwrap_err();
        assert_eq!(refused.reason(), Refusal::Closed);
    };
    closed();
    assert_eq!(ready(&mut waiter).unwrap_err().reason(), Refusal::Closed);
    // Every operation that changes the counter, over its whole range.
    while let Some(mut permit) = permits.pop() {
        permit.shrink(permit.bytes() / 2);
        closed();
        drop(permit);
        closed();
    }
    for limit in [0, max, 1, 0, max] {
        budget.set_limit(limit);
        closed();
    }
    assert_eq!(budget.close(), 0);
    closed();
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

// smol-rs/event-listener#138: an early return for "nothing waits" that overlooks a thread about to wait. A lost
// wakeup would leave both threads blocked forever.
#[test]
fn two_threads_that_take_turns_never_miss_each_other() {
    must_come_back(|| {
        let rounds = if cfg!(miri) { 20 } else { 5_000 };
        let budget = Budget::new(1);
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        let permit = budget.acquire_timeout(1, Duration::MAX).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "both are inside");
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

// Refused at entry: it would never fit, and block every later request.
#[test]
fn request_above_capacity_blocks_nobody() {
    let (stash, _) = stash_of::<Counted, u8>(100);
    let live = Live::new();
    for stored in [0, 100] {
        if stored > 0 {
            let _ = stash.try_put(0, live.counted(stored)).unwrap();
        }
        let refused = ready(&mut put_task(&stash, 1, live.counted(101))).unwrap_err();
        assert_eq!((refused.reason(), refused.into_payload().size), (Refusal::TooLarge, 101));
        assert_eq!(stash.waiting(), 0);
    }
    let mut waiter = put_task(&stash, 1, live.counted(100));
    queue(&mut waiter);
    assert!(ready(&mut put_task(&stash, 1, live.counted(101))).is_err());
    assert_eq!(stash.clear(), 1);
    assert!(ready(&mut waiter).is_ok());
}

// The same for one that the limit has left behind.
#[test]
fn request_above_a_lowered_limit_blocks_nobody() {
    let budget = Budget::new(100);
    let held = budget.try_acquire(50).unwrap();
    let mut waiters: Vec<_> = [60, 40, 70, 10].map(|bytes| acquire_task(&budget, bytes)).into();
    let woken: Vec<_> = waiters.iter_mut().map(queue).collect();
    let counts = || Vec::from_iter(woken.iter().map(|count| count.get()));
    budget.set_limit(50);
    // The head is refused; the request for 70 is refused when it becomes the head.
    assert_eq!((counts(), budget.waiting()), (vec![1, 0, 0, 0], 3));
    assert_eq!(ready(&mut waiters[0]).unwrap_err().reason(), Refusal::TooLarge);
    drop(held);
    assert_eq!((counts(), budget.waiting()), (vec![1, 1, 1, 1], 0));
    assert_eq!(ready(&mut waiters[2]).unwrap_err().reason(), Refusal::TooLarge);
    let granted = (ready(&mut waiters[1]).unwrap(), ready(&mut waiters[3]).unwrap());
    assert_eq!(budget.used(), 50);
    drop(granted);
    assert_eq!(budget.used(), 0);
}

// tokio-rs/tokio#6450: inherent where bytes are granted directly. Records the behaviour, and that it ends when the
// future is dropped.
#[test]
fn a_grant_that_nobody_polls_holds_its_bytes_until_its_future_is_dropped() {
    let budget = Budget::new(10);
    let full = budget.try_acquire(10).unwrap();
    let mut forgotten: Pin<Box<_>> = acquire_task(&budget, 10);
    let mut next = acquire_task(&budget, 10);
    let (_, next_woken) = (queue(&mut forgotten), queue(&mut next));
    drop(full);
    assert_eq!((budget.used(), budget.waiting(), next_woken.get()), (10, 1, 0));
    assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Full);
    drop(forgotten);
    assert_eq!(next_woken.get(), 1);
}

// A wake that goes to a task which no longer polls the future: the wake must go to the task that polled last.
#[test]
fn the_last_task_that_polled_is_the_one_that_is_woken() {
    let budget = Budget::new(10);
    let full = budget.try_acquire(10).unwrap();
    let mut moved = acquire_task(&budget, 10);
    let (first, second) = (queue(&mut moved), queue(&mut moved));
    drop(full);
    assert_eq!((first.get(), second.get()), (0, 1));
    assert!(ready(&mut moved).is_ok());
}

// Timers that are polled more than once, or dropped before their time, and stay behind in the clock.
#[test]
fn a_sleep_of_the_manual_clock_keeps_one_waker_and_only_while_it_lives() {
    let clock = ManualClock::new();
    let mut sleep = Box::pin(clock.sleep(Duration::from_secs(1)));
    let (count, waker) = counting();
    for _ in 0..100 {
        assert!(poll(&mut sleep, &waker).is_pending());
    }
    // Ours, the one in our waker, and one in the clock.
    assert!(Arc::strong_count(&count) <= 3, "{} are kept", Arc::strong_count(&count));
    drop(sleep);
    assert_eq!(Arc::strong_count(&count), 2, "it stayed behind");
}
