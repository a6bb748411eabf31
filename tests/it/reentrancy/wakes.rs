//! A waker calls back when it is woken.

use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::time::Duration;

use cloakroom::{Budget, Permit, Refusal};

use super::with_each_call;
use crate::fixtures::{ALICE, BOB};
use crate::support::{
    Count, Counted, Hooks, Live, Request, SharedTask, TTL, acquire_task, counting, must_come_back,
    poll, put_task, queue, ready, stash_of,
};

#[test]
fn a_wake_may_call_anything_and_the_order_is_kept() {
    with_each_call(|stash, _, live, call| {
        let full = stash.try_put(0, live.counted(100)).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut puts = Vec::new();
        for (name, size) in [("a", 40), ("b", 40), ("c", 40)] {
            let (again, order, other) = (stash.clone(), Arc::clone(&order), live.clone());
            let (count, waker) = Hooks::new()
                .on_wake(move || {
                    order.lock().unwrap().push(name);
                    call(&again, &other);
                })
                .waker();
            let mut put = put_task(stash, 1, live.counted(size));
            assert!(poll(&mut put, &waker).is_pending());
            puts.push((put, count));
        }
        drop(stash.take(&full, &0));
        assert_eq!(*order.lock().unwrap(), ["a", "b"], "the third does not fit");
        let [(a, _), (b, _), (c, _)] = &mut puts[..] else { unreachable!() };
        let first = ready(a).unwrap();
        let _second = ready(b).unwrap();
        drop(stash.take(&first, &1));
        assert_eq!(*order.lock().unwrap(), ["a", "b", "c"]);
        let _third = ready(c).unwrap();
        assert!(puts.iter().all(|(_, count)| count.get() == 1), "each is woken once");
    });
}

#[test]
fn a_wake_does_not_overtake_waiters() {
    must_come_back(|| {
        let budget = Budget::new(100);
        let full = budget.try_acquire(100).unwrap();
        let found = Arc::new(OnceLock::new());
        let (again, tell) = (budget.clone(), Arc::clone(&found));
        let (_, waker) =
            Hooks::new().on_wake(move || tell.set(again.try_acquire(1).map(drop)).unwrap()).waker();
        let mut a = acquire_task(&budget, 60);
        assert!(poll(&mut a, &waker).is_pending());
        let mut b = acquire_task(&budget, 60);
        let b_woken = queue(&mut b);
        drop(full);
        let refused = found.get().unwrap().unwrap_err();
        assert_eq!((refused.reason(), refused.waiting()), (Refusal::Full, 1));
        assert_eq!(b_woken.get(), 0);
        drop(a);
        assert_eq!(b_woken.get(), 1, "granted and dropped: the next is served");
        drop(b);
        assert_eq!(budget.used(), 0);
    });
}

#[test]
fn a_wake_that_makes_more_room_has_the_next_served_after_it() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let large = stash.try_put(0, live.counted(60)).unwrap();
        let small = stash.try_put(0, live.counted(40)).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut a = put_task(&stash, 1, live.counted(60));
        let mut b = put_task(&stash, 1, live.counted(40));
        let (again, log) = (stash.clone(), Arc::clone(&order));
        let (a_woken, waker) = Hooks::new()
            .on_wake(move || {
                log.lock().unwrap().push("a");
                // Serves b, inside of the call that serves a.
                assert!(again.take(&small, &0).is_some());
                log.lock().unwrap().push("a done");
            })
            .waker();
        assert!(poll(&mut a, &waker).is_pending());
        let log = Arc::clone(&order);
        let (b_woken, waker) = Hooks::new().on_wake(move || log.lock().unwrap().push("b")).waker();
        assert!(poll(&mut b, &waker).is_pending());
        drop(stash.take(&large, &0));
        assert_eq!(*order.lock().unwrap(), ["a", "b", "a done"]);
        assert_eq!((a_woken.get(), b_woken.get()), (1, 1));
        assert!(ready(&mut a).is_ok() && ready(&mut b).is_ok());
        assert_eq!(stash.used_bytes(), 100);
        assert_eq!(stash.clear(), 2);
        assert_eq!((stash.used_bytes(), live.get()), (0, 0));
    });
}

/// The head is woken, and its put goes on inside of the wake: it sweeps, which frees an entry, which is
/// granted to the next, which goes on inside of *its* wake. The head has its bytes all the same.
#[test]
fn an_executor_may_poll_inside_of_wake() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let _ = stash.try_put(0, live.counted(30)).unwrap();
        clock.advance(TTL / 2);
        let taken = stash.try_put(0, live.counted(70)).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut counts = Vec::new();
        for (name, size) in [("head", 70), ("next", 30), ("last", 50)] {
            let shared = SharedTask::new(put_task(&stash, 1, live.counted(size)));
            let (inline, again, log) = (Arc::clone(&shared), stash.clone(), Arc::clone(&order));
            let (count, waker) = Hooks::new()
                .on_wake(move || {
                    log.lock().unwrap().push(format!("{name} woken"));
                    again.gc();
                    let ticket = inline.poll_once().expect("granted").expect("in order");
                    log.lock().unwrap().push(format!("{name} in"));
                    if name != "last" {
                        return;
                    }
                    assert!(again.take(&ticket, &1).is_some());
                })
                .waker();
            assert!(shared.poll(&waker).is_none());
            counts.push((count, shared));
        }
        clock.advance(TTL / 2);
        drop(stash.take(&taken, &0));
        // `next` was served by the sweep in the head's wake.
        assert_eq!(
            *order.lock().unwrap(),
            ["head woken", "next woken", "next in", "head in"],
            "both fit, `last` does not"
        );
        assert_eq!((stash.used_bytes(), stash.len(), stash.waiting()), (100, 2, 1));
        stash.clear();
        assert_eq!(order.lock().unwrap()[4..], ["last woken", "last in"]);
        assert!(counts.iter().all(|(count, _)| count.get() == 1));
        assert_eq!((stash.used_bytes(), live.get()), (0, 0));
    });
}

#[test]
fn a_wake_may_poll_everybody_else_and_nobody_gets_ahead() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = budget.try_acquire(10).unwrap();
        let tasks: Arc<Vec<_>> = Arc::new(
            (0..20).map(|n| SharedTask::new(acquire_task(&budget, [3, 4][n % 2]))).collect(),
        );
        let permits = Arc::new(Mutex::new(Vec::new()));
        let mut counts = Vec::new();
        for shared in tasks.iter() {
            let (all, granted) = (Arc::clone(&tasks), Arc::clone(&permits));
            let (count, waker) = Hooks::new()
                .on_wake(move || {
                    // From the tail on, so that an order that is not kept would show.
                    for (number, other) in all.iter().enumerate().rev() {
                        if let Some(permit) = other.poll_once() {
                            granted.lock().unwrap().push((number, permit.unwrap()));
                        }
                    }
                })
                .waker();
            assert!(shared.poll(&waker).is_none());
            counts.push(count);
        }
        drop(full);
        let mut done = Vec::new();
        loop {
            let batch = std::mem::take(&mut *permits.lock().unwrap());
            if batch.is_empty() {
                // Their wakers were replaced by others that do nothing.
                let more = tasks.iter().enumerate();
                let more = more.filter_map(|(n, task)| Some((n, task.poll_once()?.unwrap())));
                permits.lock().unwrap().extend(more);
                if permits.lock().unwrap().is_empty() {
                    break;
                }
                continue;
            }
            let mut numbers: Vec<_> = batch.iter().map(|(number, _)| *number).collect();
            numbers.sort_unstable();
            done.extend(numbers);
            drop(batch);
        }
        assert_eq!(done, Vec::from_iter(0..20), "in the order in which they joined");
        assert!(counts.iter().all(|count| count.get() <= 1));
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

/// Frees 100 bytes for three requests: a and c for 50, b for `b_bytes`. The wake of a drops the future of b.
/// Returns a, c and how often each of the three was woken.
fn second_is_dropped_in_the_wake_of_the_first(
    budget: &Budget,
    b_bytes: u64,
) -> (Request, Request, [usize; 3]) {
    let full = budget.try_acquire(100).unwrap();
    let mut a = acquire_task(budget, 50);
    let b = SharedTask::new(acquire_task(budget, b_bytes));
    let mut c = acquire_task(budget, 50);
    let victim = Arc::clone(&b);
    let (a_woken, waker) = Hooks::new().on_wake(move || victim.discard()).waker();
    assert!(poll(&mut a, &waker).is_pending());
    let (b_woken, waker) = counting();
    assert!(b.poll(&waker).is_none());
    let c_woken = queue(&mut c);
    drop(full);
    (a, c, [a_woken, b_woken, c_woken].map(|woken| woken.get()))
}

/// Grants a and b; a's wake frees b's future before b's waker is woken.
#[test]
fn a_wake_may_drop_a_future_that_was_granted_with_it() {
    must_come_back(|| {
        let budget = Budget::new(100);
        let (mut a, mut c, woken) = second_is_dropped_in_the_wake_of_the_first(&budget, 50);
        assert_eq!((woken[0], woken[2]), (1, 1), "b's bytes went on to c");
        assert!(woken[1] <= 1);
        let (a, c) = (ready(&mut a).unwrap(), ready(&mut c).unwrap());
        assert_eq!((budget.used(), budget.waiting()), (100, 0));
        drop((a, c));
        assert_eq!(budget.used(), 0);
    });
}

#[test]
fn a_wake_may_drop_the_future_of_another_waiter() {
    must_come_back(|| {
        let budget = Budget::new(100);
        let (mut a, mut c, woken) = second_is_dropped_in_the_wake_of_the_first(&budget, 80);
        assert_eq!(woken, [1, 0, 1]);
        drop((ready(&mut a), ready(&mut c)));
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn a_wake_may_block_its_thread_in_the_queue_for_a_while() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.counted(100)).unwrap();
        let found = Arc::new(OnceLock::new());
        let (again, tell, other) = (stash.clone(), Arc::clone(&found), live.clone());
        let (a_woken, waker) = Hooks::new()
            .on_wake(move || {
                let refused =
                    again.put_timeout(2, other.counted(50), Duration::from_millis(5)).unwrap_err();
                tell.set((refused.reason(), refused.into_payload().size)).unwrap();
            })
            .waker();
        let mut a = put_task(&stash, 1, live.counted(60));
        assert!(poll(&mut a, &waker).is_pending());
        let mut b = put_task(&stash, 1, live.counted(60));
        let b_woken = queue(&mut b);
        drop(stash.take(&full, &0));
        assert_eq!(found.get(), Some(&(Refusal::TimedOut, 50)));
        assert_eq!((a_woken.get(), b_woken.get(), stash.waiting()), (1, 0, 1));
        drop((a, b));
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}

#[test]
fn a_wake_may_block_until_another_thread_makes_room() {
    must_come_back(|| {
        let budget = Budget::new(100);
        let elsewhere = budget.try_acquire(60).unwrap().into_owned();
        let elsewhere = Arc::new(Mutex::new(Some(elsewhere)));
        let held = budget.try_acquire(40).unwrap();
        let mut first = acquire_task(&budget, 30);
        let again = budget.clone();
        let (_, waker) = Hooks::new()
            .on_wake(move || {
                let elsewhere = elsewhere.lock().unwrap().take();
                let helper = std::thread::spawn(move || drop(elsewhere));
                let permit = again.acquire_timeout(60, Duration::from_secs(3_600)).unwrap();
                helper.join().unwrap();
                assert_eq!(permit.bytes(), 60);
            })
            .waker();
        assert!(poll(&mut first, &waker).is_pending());
        drop(held);
        drop(ready(&mut first));
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn waiters_refused_by_close_may_call_anything_when_they_are_woken() {
    with_each_call(|stash, _, live, call| {
        let _full = stash.try_put(0, live.counted(100)).unwrap();
        let mut puts = Vec::new();
        for _ in 0..20 {
            let (again, other) = (stash.clone(), live.clone());
            let (count, waker) = Hooks::new()
                .on_wake(move || {
                    call(&again, &other);
                    assert_eq!(again.close(), again.waiting());
                })
                .waker();
            let mut put = put_task(stash, 1, live.counted(50));
            assert!(poll(&mut put, &waker).is_pending());
            puts.push((put, count));
        }
        assert_eq!(stash.close(), 20);
        for (put, count) in &mut puts {
            let refused = ready(put).unwrap_err();
            assert_eq!((refused.reason(), refused.payload().size), (Refusal::Closed, 50));
            assert_eq!(count.get(), 1);
        }
    });
}

#[test]
fn a_wake_may_change_the_limit_and_the_order_is_kept() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full: Permit<'static> = budget.try_acquire(10).unwrap().into_owned();
        let again = budget.clone();
        let (a_woken, waker) = Hooks::new().on_wake(move || again.set_limit(15)).waker();
        let mut a = acquire_task(&budget, 10);
        assert!(poll(&mut a, &waker).is_pending());
        let mut b = acquire_task(&budget, 5);
        let mut c = acquire_task(&budget, 1);
        let (b_woken, c_woken): (Arc<Count>, Arc<Count>) = (queue(&mut b), queue(&mut c));
        drop(full);
        assert_eq!((a_woken.get(), b_woken.get(), c_woken.get()), (1, 1, 0));
        let (a, b) = (ready(&mut a).unwrap(), ready(&mut b).unwrap());
        assert_eq!((budget.used(), budget.limit(), budget.waiting()), (15, 15, 1));
        drop((a, b));
        assert_eq!(c_woken.get(), 1);
        drop(poll(&mut c, Waker::noop()));
        assert_eq!(budget.used(), 0);
    });
}

/// Closes and clears in the wake of a granted waiter, which keeps its bytes.
#[test]
fn a_reservation_granted_in_a_wake_that_closes_is_valid() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let full = stash.try_put(ALICE, live.counted(100)).unwrap();
        let again = stash.clone();
        let (_, waker) = Hooks::new().on_wake(move || _ = (again.close(), again.clear())).waker();
        let mut room = Box::pin(stash.reserve(60));
        assert!(poll(&mut room, &waker).is_pending());
        let mut next = Box::pin(stash.reserve(60));
        queue(&mut next);
        assert!(stash.take(&full, &ALICE).is_some());
        let ticket = ready(&mut room).unwrap().put(BOB, live.counted(60)).unwrap();
        assert_eq!(ready(&mut next).unwrap_err().reason(), Refusal::Closed);
        assert!(stash.take(&ticket, &BOB).is_some());
        assert!(stash.drained_timeout(Duration::ZERO));
    });
}
