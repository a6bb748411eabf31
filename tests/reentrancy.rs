//! Promise 6: user code may call any method of the same stash wherever the crate runs it. Here every such
//! place calls back: a waker's wake, clone and drop, a payload's drop and size, an owner's `Eq` and `Hash`,
//! the clock, and what a put gives up for.
//!
//! A deadlock fails by [`must_come_back`]. Each test also looks that the order was kept, that nobody was
//! woken twice, and that all bytes come back.
#![cfg(not(loom))]

mod support;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Poll, Waker};
use std::time::Duration;

use cloakroom::{Budget, Clock, ManualClock, Payload, Permit, Refusal, Stash, Ticket};

use self::support::{
    Coat, Count, Hooks, Live, Shelf, TTL, acquire_task, counting, must_come_back, poll, poll_once,
    put_task, queue, ready, stash_of, stash_with_clock,
};

type Coats = Stash<Coat, u8>;

/// What user code may call while the crate runs it. Each leaves nothing behind but what it says.
type Call = fn(&Coats, &Live);

const CALLS: &[(&str, Call)] = &[
    ("gc", |stash, _| {
        stash.gc();
    }),
    ("clear", |stash, _| {
        stash.clear();
    }),
    ("take", |stash, _| drop(stash.take(&unknown(), &0))),
    ("try_put", |stash, live| {
        if let Ok(ticket) = stash.try_put(9, live.coat(1)) {
            assert!(stash.take(&ticket, &9).is_some());
        }
    }),
    ("put, polled and dropped", |stash, live| {
        let mut put = put_task(stash, 9, live.coat(100));
        let _ = poll_once(&mut put).map(|done| {
            drop(done.map(|ticket| stash.take(&ticket, &9)));
        });
    }),
    ("put_timeout", |stash, live| {
        if let Ok(ticket) = stash.put_timeout(9, live.coat(1), Duration::from_millis(1)) {
            assert!(stash.take(&ticket, &9).is_some());
        }
    }),
    ("the numbers", |stash, _| {
        let _ = (stash.len(), stash.used_bytes(), stash.waiting(), format!("{stash:?}"));
    }),
    ("a clone dropped", |stash, _| drop(stash.clone())),
    ("a reaper made", |stash, _| drop(stash.reaper())),
];

/// A ticket that was never issued.
fn unknown() -> Ticket {
    "00000000-0000-8000-8000-000000000000".parse().unwrap()
}

/// Runs the body once for each call, on a fresh stash with a limit of 100.
fn with_each_call(body: fn(&Coats, &ManualClock, &Live, Call)) {
    for &(name, call) in CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (stash, clock) = stash_of(100);
            let live = Live::new();
            body(&stash, &clock, &live, call);
            stash.clear();
            assert_eq!((stash.used_bytes(), stash.len(), stash.waiting()), (0, 0, 0));
            assert_eq!(live.get(), 0, "payloads alive");
        });
    }
}

// ---- Wakers: wake ----------------------------------------------------------------------------------

#[test]
fn a_wake_may_call_anything_and_the_order_is_kept() {
    with_each_call(|stash, _, live, call| {
        let full = stash.try_put(0, live.coat(100)).unwrap();
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
            let mut put = put_task(stash, 1, live.coat(size));
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
fn a_wake_does_not_overtake_those_who_still_wait() {
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
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let large = stash.try_put(0, live.coat(60)).unwrap();
        let small = stash.try_put(0, live.coat(40)).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut a = put_task(&stash, 1, live.coat(60));
        let mut b = put_task(&stash, 1, live.coat(40));
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
        let (stash, clock) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let _ = stash.try_put(0, live.coat(30)).unwrap();
        clock.advance(TTL / 2);
        let taken = stash.try_put(0, live.coat(70)).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut counts = Vec::new();
        for (name, size) in [("head", 70), ("next", 30), ("last", 50)] {
            let shelf = Shelf::new(put_task(&stash, 1, live.coat(size)));
            let (inline, again, log) = (Arc::clone(&shelf), stash.clone(), Arc::clone(&order));
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
            assert!(shelf.poll(&waker).is_none());
            counts.push((count, shelf));
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
        let tasks: Arc<Vec<_>> =
            Arc::new((0..20).map(|n| Shelf::new(acquire_task(&budget, [3, 4][n % 2]))).collect());
        let permits = Arc::new(Mutex::new(Vec::new()));
        let mut counts = Vec::new();
        for shelf in tasks.iter() {
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
            assert!(shelf.poll(&waker).is_none());
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

#[test]
fn a_wake_may_drop_the_future_of_another_who_was_granted_with_it() {
    must_come_back(|| {
        let budget = Budget::new(100);
        let full = budget.try_acquire(100).unwrap();
        let mut a = acquire_task(&budget, 50);
        let b = Shelf::new(acquire_task(&budget, 50));
        let mut c = acquire_task(&budget, 50);
        let victim = Arc::clone(&b);
        let (a_woken, waker) = Hooks::new().on_wake(move || victim.discard()).waker();
        assert!(poll(&mut a, &waker).is_pending());
        let (b_woken, waker) = counting();
        assert!(b.poll(&waker).is_none());
        let c_woken = queue(&mut c);
        // Grants a and b; a's wake frees b's future, whose waker is still to be woken by then.
        drop(full);
        assert_eq!((a_woken.get(), c_woken.get()), (1, 1), "b's bytes went on to c");
        assert!(b_woken.get() <= 1);
        let (a, c) = (ready(&mut a).unwrap(), ready(&mut c).unwrap());
        assert_eq!((budget.used(), budget.waiting()), (100, 0));
        drop((a, c));
        assert_eq!(budget.used(), 0);
    });
}

#[test]
fn a_wake_may_drop_the_future_of_another_who_still_waits() {
    must_come_back(|| {
        let budget = Budget::new(100);
        let full = budget.try_acquire(100).unwrap();
        let mut a = acquire_task(&budget, 50);
        let b = Shelf::new(acquire_task(&budget, 80));
        let mut c = acquire_task(&budget, 50);
        let victim = Arc::clone(&b);
        let (a_woken, waker) = Hooks::new().on_wake(move || victim.discard()).waker();
        assert!(poll(&mut a, &waker).is_pending());
        let (b_woken, waker) = counting();
        assert!(b.poll(&waker).is_none());
        let c_woken = queue(&mut c);
        drop(full);
        assert_eq!((a_woken.get(), b_woken.get(), c_woken.get()), (1, 0, 1));
        drop((ready(&mut a), ready(&mut c)));
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn a_wake_may_block_its_thread_in_line_for_a_while() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.coat(100)).unwrap();
        let found = Arc::new(OnceLock::new());
        let (again, tell, other) = (stash.clone(), Arc::clone(&found), live.clone());
        let (a_woken, waker) = Hooks::new()
            .on_wake(move || {
                let refused =
                    again.put_timeout(2, other.coat(50), Duration::from_millis(5)).unwrap_err();
                tell.set((refused.reason(), refused.into_payload().size)).unwrap();
            })
            .waker();
        let mut a = put_task(&stash, 1, live.coat(60));
        assert!(poll(&mut a, &waker).is_pending());
        let mut b = put_task(&stash, 1, live.coat(60));
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

// ---- Wakers: clone and drop ------------------------------------------------------------------------

#[test]
fn a_waker_may_call_anything_when_it_is_cloned_or_dropped() {
    with_each_call(|stash, _, live, call| {
        let full = stash.try_put(0, live.coat(100)).unwrap();
        let busy = Arc::new(AtomicBool::new(false));
        let calling = || {
            let (stash, live, busy) = (stash.clone(), live.clone(), Arc::clone(&busy));
            move || {
                // What is called may clone and drop wakers of its own, so not without end.
                if !busy.swap(true, Ordering::SeqCst) {
                    call(&stash, &live);
                    busy.store(false, Ordering::SeqCst);
                }
            }
        };
        let hooked = || Hooks::new().on_clone(calling()).on_drop(calling()).waker();
        let mut a = put_task(stash, 1, live.coat(60));
        let mut b = put_task(stash, 1, live.coat(60));
        for _ in 0..3 {
            // Joins the line, and then has its waker replaced by another.
            let (_, waker) = hooked();
            if poll(&mut a, &waker).is_ready() {
                // `clear` made room.
                return;
            }
            let (_, waker) = hooked();
            assert!(poll(&mut b, &waker).is_pending());
        }
        // One leaves with its waker in line, the other is granted.
        drop(a);
        drop(stash.take(&full, &0));
        assert!(ready(&mut b).is_ok());
    });
}

#[test]
fn room_made_while_the_waker_is_cloned_for_the_line_is_seen() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.coat(100)).unwrap();
        let again = stash.clone();
        let (woken, waker) = Hooks::new().on_clone(move || drop(again.take(&full, &0))).waker();
        let mut put = put_task(&stash, 1, live.coat(50));
        // Too late for the first look, and too early for the line: nobody would wake it.
        let Poll::Ready(Ok(ticket)) = poll(&mut put, &waker) else { panic!("room was overlooked") };
        assert_eq!((woken.get(), stash.waiting(), stash.used_bytes()), (0, 0, 50));
        drop(stash.take(&ticket, &1));
        assert_eq!((stash.used_bytes(), live.get()), (0, 0));
    });
}

#[test]
fn a_grant_while_the_waker_is_replaced_is_seen_at_once() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.coat(100)).unwrap();
        let mut put = put_task(&stash, 1, live.coat(50));
        let old_woken = queue(&mut put);
        let again = stash.clone();
        let (new_woken, waker) = Hooks::new().on_clone(move || drop(again.take(&full, &0))).waker();
        let Poll::Ready(Ok(ticket)) = poll(&mut put, &waker) else { panic!("a grant got lost") };
        assert_eq!((old_woken.get(), new_woken.get()), (1, 0));
        drop(stash.take(&ticket, &1));
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}

#[test]
fn room_made_by_the_drop_of_a_waker_that_leaves_goes_to_the_next() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.coat(100)).unwrap();
        let mut a = put_task(&stash, 1, live.coat(50));
        let again = stash.clone();
        let (a_woken, waker) = Hooks::new().on_drop(move || drop(again.take(&full, &0))).waker();
        // The one that stays in the line is the clone; this one must not be dropped yet.
        assert!(poll(&mut a, &waker).is_pending());
        let mut b = put_task(&stash, 1, live.coat(50));
        let b_woken = queue(&mut b);
        drop(a);
        assert_eq!((a_woken.get(), b_woken.get()), (0, 1));
        assert!(ready(&mut b).is_ok());
        drop(waker);
        assert_eq!(stash.clear(), 1);
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}

// ---- What a put gives up for -----------------------------------------------------------------------

#[test]
fn what_a_put_gives_up_for_may_call_anything() {
    with_each_call(|stash, _, live, call| {
        let _full = stash.try_put(0, live.coat(100)).unwrap();
        let (again, other) = (stash.clone(), live.clone());
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let until = poll_fn(move |_| {
            call(&again, &other);
            if count.fetch_add(1, Ordering::SeqCst) < 2 { Poll::Pending } else { Poll::Ready(()) }
        });
        let stash = stash.clone();
        let payload = live.coat(50);
        let mut put = Box::pin(async move { stash.put(1, payload).until(until).await });
        for _ in 0..3 {
            if let Poll::Ready(done) = poll_once(&mut put) {
                // Granted in that very poll if the call made room; else the third poll gives up.
                let gave_up = calls.load(Ordering::SeqCst) == 3;
                assert!(done.is_ok_and(|_| true) || gave_up);
                return;
            }
        }
        panic!("it was to give up");
    });
}

#[test]
fn the_grant_wins_if_giving_up_is_what_brings_it() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.coat(100)).unwrap();
        let (again, mut polls) = (stash.clone(), 0);
        let until = poll_fn(move |_| {
            polls += 1;
            if polls == 1 {
                return Poll::Pending;
            }
            assert!(again.take(&full, &0).is_some());
            Poll::Ready(())
        });
        let mut put = Box::pin(stash.put(1, live.coat(50)).until(until));
        assert!(poll_once(&mut put).is_pending());
        let ticket = ready(&mut put).expect("granted before it gave up");
        assert!(stash.take(&ticket, &1).is_some());
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}

// ---- Payloads --------------------------------------------------------------------------------------

/// Both ways in which entries are dropped by the stash while others wait.
#[test]
fn the_drop_of_a_payload_may_call_anything() {
    fn drop_by(remove: fn(&Coats, &Ticket), call: Call, stash: &Coats, clock: &ManualClock) {
        let live = Live::new();
        let mut tickets = Vec::new();
        for _ in 0..4 {
            let (again, other) = (stash.clone(), live.clone());
            let coat = live.coat(25).on_drop(move || call(&again, &other));
            tickets.push(stash.try_put(0, coat).unwrap());
        }
        let mut a = put_task(stash, 1, live.coat(60));
        let mut b = put_task(stash, 1, live.coat(60));
        let (a_woken, b_woken) = (queue(&mut a), queue(&mut b));
        clock.advance(TTL);
        tickets.iter().for_each(|ticket| remove(stash, ticket));
        assert_eq!((a_woken.get(), b_woken.get(), stash.used_bytes()), (1, 0, 60));
        drop((a, b));
        assert_eq!((live.get(), stash.used_bytes(), stash.len()), (0, 0, 0));
    }
    with_each_call(|stash, clock, _, call| {
        drop_by(|stash, _| _ = stash.gc(), call, stash, clock);
        drop_by(|stash, _| _ = stash.clear(), call, stash, clock);
        drop_by(|stash, ticket| assert!(stash.take(ticket, &0).is_none()), call, stash, clock);
    });
}

#[test]
fn the_drop_of_a_payload_that_waits_in_line_may_call_anything() {
    with_each_call(|stash, _, live, call| {
        let full = stash.try_put(0, live.coat(100)).unwrap();
        let (again, other) = (stash.clone(), live.clone());
        let mut a = put_task(stash, 1, live.coat(60).on_drop(move || call(&again, &other)));
        let mut b = put_task(stash, 1, live.coat(60));
        queue(&mut a);
        let b_woken = queue(&mut b);
        drop(a);
        drop(stash.take(&full, &0));
        assert_eq!(b_woken.get(), 1);
        assert!(ready(&mut b).is_ok());
    });
}

#[test]
fn entries_may_put_their_successors_in_while_they_are_swept() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        for _ in 0..10 {
            let (again, other) = (stash.clone(), live.clone());
            // The bytes are free before the payload is dropped.
            let heir = move || _ = again.try_put(0, other.coat(10)).expect("room");
            let _ = stash.try_put(0, live.coat(10).on_drop(heir)).unwrap();
        }
        clock.advance(TTL);
        assert_eq!(stash.gc(), 10);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (10, 100, 10));
        assert_eq!(stash.clear(), 10);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

#[test]
fn a_payload_may_hold_the_last_handle() {
    must_come_back(|| {
        let live = Live::new();
        let (stash, _) = stash_of::<Coat, u8>(100);
        let inner = stash.clone();
        let ticket = stash.try_put(0, live.coat(10).on_drop(move || _ = inner.gc())).unwrap();
        let _ = stash.try_put(0, live.coat(10)).unwrap();
        let coat = stash.take(&ticket, &0).unwrap();
        drop(stash);
        assert_eq!(live.get(), 2);
        drop(coat);
        assert_eq!(live.get(), 0, "the rest went with the stash");
    });
}

#[test]
fn a_payload_may_call_the_stash_when_it_is_asked_for_its_size() {
    struct Nosy(Coats, Call);
    impl Payload for Nosy {
        fn size(&self) -> usize {
            (self.1)(&self.0, &Live::new());
            10
        }
    }
    for &(_, call) in CALLS {
        must_come_back(move || {
            let stash: Stash<Nosy, ()> =
                Stash::builder().max_bytes(10).entry_overhead(0).build().unwrap();
            let (other, _) = stash_of::<Coat, u8>(10);
            let ticket = stash.try_put((), Nosy(other.clone(), call)).unwrap();
            assert!(stash.take(&ticket, &()).is_some());
            assert_eq!((stash.used_bytes(), other.used_bytes()), (0, 0));
        });
    }
}

// ---- Owners ----------------------------------------------------------------------------------------

type NextCall = RefCell<Option<Rc<dyn Fn()>>>;

thread_local! {
    /// Run by the next `Eq` or `Hash` of an owner on this thread, and not by those that it leads to.
    static ON_EQ: NextCall = const { RefCell::new(None) };
    static ON_HASH: NextCall = const { RefCell::new(None) };
}

fn run_once(hook: &'static std::thread::LocalKey<NextCall>) {
    let hook = hook.with_borrow_mut(Option::take);
    if let Some(hook) = hook {
        hook();
    }
}

#[derive(Debug)]
struct Guest(u8);

impl PartialEq for Guest {
    fn eq(&self, other: &Self) -> bool {
        run_once(&ON_EQ);
        self.0 == other.0
    }
}
impl Eq for Guest {}

impl Hash for Guest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        run_once(&ON_HASH);
        self.0.hash(state);
    }
}

type Guests = Stash<Coat, Guest>;

fn on_eq(hook: impl Fn() + 'static) {
    ON_EQ.set(Some(Rc::new(hook)));
}

fn on_hash(hook: impl Fn() + 'static) {
    ON_HASH.set(Some(Rc::new(hook)));
}

/// All hooks have run: a test whose hook is never reached tests nothing.
fn all_ran() -> bool {
    ON_EQ.with_borrow(Option::is_none) && ON_HASH.with_borrow(Option::is_none)
}

/// Takes with a hook that takes the same ticket, and says how many got the coat.
fn taken_twice(set: fn(Box<dyn Fn()>)) -> u32 {
    let (stash, _) = stash_of::<Coat, Guest>(100);
    let live = Live::new();
    let ticket = stash.try_put(Guest(1), live.coat(10)).unwrap();
    let inner = Rc::new(Cell::new(0));
    let (again, count) = (stash.clone(), Rc::clone(&inner));
    set(Box::new(move || count.set(u32::from(again.take(&ticket, &Guest(1)).is_some()))));
    let outer = u32::from(stash.take(&ticket, &Guest(1)).is_some());
    assert!(all_ran());
    assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    inner.get() + outer
}

#[test]
fn an_owners_eq_that_takes_the_same_ticket_gets_one_coat_in_all() {
    must_come_back(|| assert_eq!(taken_twice(on_eq), 1));
}

#[test]
fn an_owners_hash_that_takes_the_same_ticket_gets_one_coat_in_all() {
    must_come_back(|| assert_eq!(taken_twice(on_hash), 1));
}

/// What an owner's code may do to the stash meanwhile.
const GUEST_CALLS: &[fn(&Guests, &Live)] = &[
    |stash, _| {
        stash.gc();
    },
    |stash, _| {
        stash.clear();
    },
    |stash, live| {
        let ticket = stash.try_put(Guest(7), live.coat(1)).unwrap();
        assert!(stash.take(&ticket, &Guest(7)).is_some());
    },
    |stash, live| {
        let mut put = put_task(stash, Guest(7), live.coat(100));
        assert!(poll_once(&mut put).is_pending());
    },
    |stash, _| {
        let _ = (stash.len(), stash.used_bytes(), stash.waiting());
    },
];

#[test]
fn an_owners_eq_may_call_anything_and_the_coat_is_delivered() {
    for &call in GUEST_CALLS {
        must_come_back(move || {
            let (stash, _) = stash_of::<Coat, Guest>(100);
            let live = Live::new();
            let ticket = stash.try_put(Guest(1), live.coat(40)).unwrap();
            let (again, other) = (stash.clone(), live.clone());
            on_eq(move || call(&again, &other));
            // It was won before the owner was asked, so even `clear` passes by.
            assert!(stash.take(&ticket, &Guest(1)).is_some());
            assert!(all_ran());
            assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
        });
    }
}

#[test]
fn an_owners_hash_may_call_anything_on_the_way_in_and_out() {
    for &call in GUEST_CALLS {
        must_come_back(move || {
            let (stash, _) = stash_of::<Coat, Guest>(100);
            let live = Live::new();
            let calling = || {
                let (again, other) = (stash.clone(), live.clone());
                on_hash(move || call(&again, &other));
            };
            calling();
            let ticket = stash.try_put(Guest(1), live.coat(40)).unwrap();
            assert!(all_ran());
            assert_eq!(stash.used_bytes(), 40);
            calling();
            // Before the slot is touched: `clear` finds the entry, and is the one to remove it.
            drop(stash.take(&ticket, &Guest(1)));
            assert!(all_ran());
            assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
        });
    }
}

#[test]
fn an_expired_entry_whose_owner_sweeps_in_its_eq_is_freed_once() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Coat, Guest>(100);
        let live = Live::new();
        let ticket = stash.try_put(Guest(1), live.coat(40)).unwrap();
        let _ = stash.try_put(Guest(2), live.coat(60)).unwrap();
        clock.advance(TTL);
        let again = stash.clone();
        on_eq(move || assert_eq!(again.gc(), 1, "the other one"));
        assert!(stash.take(&ticket, &Guest(1)).is_none());
        assert!(all_ran());
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
        assert_eq!(stash.gc(), 0);
    });
}

/// All of them hash alike, as `Hash` may: then it is `Eq` alone that tells the rightful owner.
#[derive(Debug)]
struct Alike(u8);

impl PartialEq for Alike {
    fn eq(&self, other: &Self) -> bool {
        run_once(&ON_EQ);
        self.0 == other.0
    }
}
impl Eq for Alike {}

impl Hash for Alike {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[test]
fn owners_who_hash_alike_are_told_apart() {
    let (stash, clock) = stash_of::<Coat, Alike>(100);
    let live = Live::new();
    let ticket = stash.try_put(Alike(1), live.coat(40)).unwrap();
    assert!(stash.take(&ticket, &Alike(2)).is_none());
    assert_eq!((stash.len(), stash.used_bytes()), (1, 40));
    clock.advance(TTL);
    // The look of the wrong owner has not hidden it from the sweep.
    assert!(stash.take(&ticket, &Alike(2)).is_none());
    assert_eq!(stash.gc(), 1);
    assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
}

/// A known limit of owners whose `Hash` does not tell them apart: the entry is out of reach while the
/// wrong one is compared. It is not lost by that.
#[test]
fn a_wrong_owner_who_hashes_alike_hides_the_entry_only_while_he_is_compared() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, Alike>(100);
        let live = Live::new();
        let ticket = stash.try_put(Alike(1), live.coat(40)).unwrap();
        let meanwhile = stash.clone();
        on_eq(move || assert!(meanwhile.take(&ticket, &Alike(1)).is_none()));
        assert!(stash.take(&ticket, &Alike(2)).is_none());
        assert!(all_ran());
        assert!(stash.take(&ticket, &Alike(1)).is_some(), "the rightful owner was refused");
    });
}

// ---- The clock -------------------------------------------------------------------------------------

/// A clock that calls the stash whenever it is asked for the time, except when that call asks it.
#[derive(Clone)]
struct CallingClock {
    time: ManualClock,
    stash: Arc<OnceLock<Coats>>,
    live: Live,
    call: Call,
    busy: Arc<AtomicBool>,
}

impl Clock for CallingClock {
    fn now(&self) -> Duration {
        if let Some(stash) = self.stash.get() {
            if !self.busy.swap(true, Ordering::SeqCst) {
                (self.call)(stash, &self.live);
                self.busy.store(false, Ordering::SeqCst);
            }
        }
        self.time.now()
    }
}

#[test]
fn a_clock_may_call_anything() {
    for &(name, call) in CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let clock = CallingClock {
                time: ManualClock::new(),
                stash: Arc::new(OnceLock::new()),
                live: Live::new(),
                call,
                busy: Arc::new(AtomicBool::new(false)),
            };
            let live = clock.live.clone();
            let stash: Coats = stash_with_clock(100, clock.clone());
            assert!(clock.stash.set(stash.clone()).is_ok());
            let mut a = put_task(&stash, 1, live.coat(60));
            let first = ready(&mut a).unwrap();
            let mut b = put_task(&stash, 1, live.coat(60));
            let b_in = match poll_once(&mut b) {
                Poll::Ready(done) => done.map(|_| ()),
                Poll::Pending => {
                    clock.time.advance(TTL);
                    // Whether it was there or the clock's call removed it: not delivered, and not charged.
                    assert!(stash.take(&first, &1).is_none());
                    ready(&mut b).map(|_| ())
                }
            };
            assert!(b_in.is_ok());
            clock.time.advance(TTL);
            stash.gc();
            assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (0, 0, 0));
            assert_eq!(live.get(), 0);
        });
    }
}

#[test]
fn a_wake_of_the_manual_clock_may_turn_it_on() {
    must_come_back(|| {
        let clock = ManualClock::new();
        let mut second = Box::pin(clock.sleep(Duration::from_secs(2)));
        let mut first = Box::pin(clock.sleep(Duration::from_secs(1)));
        let again = clock.clone();
        let (first_woken, waker) =
            Hooks::new().on_wake(move || again.advance(Duration::from_secs(1))).waker();
        assert!(poll(&mut first, &waker).is_pending());
        let second_woken = queue(&mut second);
        clock.advance(Duration::from_secs(1));
        assert_eq!((first_woken.get(), second_woken.get()), (1, 1));
        ready(&mut first);
        ready(&mut second);
    });
}

// ---- Close -----------------------------------------------------------------------------------------

#[test]
fn those_sent_away_by_close_may_call_anything_when_they_are_woken() {
    with_each_call(|stash, _, live, call| {
        let _full = stash.try_put(0, live.coat(100)).unwrap();
        let mut puts = Vec::new();
        for _ in 0..20 {
            let (again, other) = (stash.clone(), live.clone());
            let (count, waker) = Hooks::new()
                .on_wake(move || {
                    call(&again, &other);
                    assert_eq!(again.close(), again.waiting());
                })
                .waker();
            let mut put = put_task(stash, 1, live.coat(50));
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

/// It empties the stash between the refusal and the sweep that was to make room.
#[test]
fn a_clock_that_sweeps_does_not_make_a_put_fail() {
    struct Sweeping(ManualClock, Arc<OnceLock<Stash<Coat>>>);

    impl Clock for Sweeping {
        fn now(&self) -> Duration {
            thread_local!(static BUSY: Cell<bool> = const { Cell::new(false) });
            if let Some(stash) = self.1.get().filter(|_| !BUSY.replace(true)) {
                stash.gc();
                BUSY.set(false);
            }
            self.0.now()
        }
    }

    must_come_back(|| {
        let (time, slot, live) = (ManualClock::new(), Arc::default(), Live::new());
        let stash = stash_with_clock(100, Sweeping(time.clone(), Arc::clone(&slot)));
        let _ = stash.try_put("a".into(), live.coat(100)).unwrap();
        slot.set(stash.clone()).unwrap();
        time.advance(TTL);
        assert!(stash.try_put("a".into(), live.coat(100)).is_ok());
    });
}

// ---- Budget alone ----------------------------------------------------------------------------------

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
