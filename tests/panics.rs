//! Promise 11: a panic in user code leaves budget, line and slots consistent, and strands nobody.
//!
//! The rule that is tested along: a panic in somebody else's code that a call happens to run does not
//! reach the caller; one in the caller's own code does.
#![cfg(not(loom))]

mod support;

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloakroom::{Budget, Clock, ManualClock, Payload, Refusal, Stash};

use self::support::{
    Coat, Count, Hooks, Live, Request, TTL, acquire_task, counting, must_come_back, poll,
    poll_once, put_task, queue, ready, stash_of, stash_with_clock,
};

/// More than are woken in one hold of the lock.
const MANY: usize = 50;

fn boom() {
    panic!("on purpose");
}

/// The caller's own panic: it must reach the caller.
#[track_caller]
fn reaches_the_caller(call: impl FnOnce()) {
    let caught = catch_unwind(AssertUnwindSafe(call)).expect_err("the panic was swallowed");
    assert_eq!(caught.downcast_ref(), Some(&"on purpose"));
}

// ---- Wakers ----------------------------------------------------------------------------------------

/// Many in line for a byte each; every `nth` panics when it is woken.
fn line_with_panicking_wakers(budget: &Budget, nth: usize) -> Vec<(Request, Arc<Count>)> {
    (0..MANY)
        .map(|n| {
            let hooks = Hooks::new();
            let hooks = if n % nth == 0 { hooks.on_wake(boom) } else { hooks };
            let (count, waker) = hooks.waker();
            let mut task = acquire_task(budget, 1);
            assert!(poll(&mut task, &waker).is_pending());
            (task, count)
        })
        .collect()
}

#[test]
fn wakers_that_panic_keep_nobody_from_being_woken() {
    must_come_back(|| {
        let budget = Budget::new(MANY as u64);
        // Different places in the batches, and everybody.
        for nth in [1, 2, 3, 16, 17, MANY] {
            let full = budget.try_acquire(MANY as u64).unwrap();
            let mut line = line_with_panicking_wakers(&budget, nth);
            drop(full);
            assert!(line.iter().all(|(_, count)| count.get() == 1), "every {nth}th panics");
            assert_eq!((budget.used(), budget.waiting()), (MANY as u64, 0));
            for (task, _) in &mut line {
                assert!(ready(task).is_ok());
            }
            drop(line);
            assert_eq!(budget.used(), 0);
        }
    });
}

#[test]
fn wakers_that_panic_when_the_line_is_closed_keep_nobody_from_being_woken() {
    must_come_back(|| {
        let budget = Budget::new(MANY as u64);
        let full = budget.try_acquire(MANY as u64).unwrap();
        let mut line = line_with_panicking_wakers(&budget, 2);
        assert_eq!(budget.close(), MANY);
        for (task, count) in &mut line {
            assert_eq!(count.get(), 1);
            assert_eq!(ready(task).unwrap_err().reason(), Refusal::Closed);
        }
        drop(full);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn wakers_that_panic_when_the_head_leaves_or_the_limit_is_raised_strand_nobody() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let held = budget.try_acquire(5).unwrap();
        let mut head = acquire_task(&budget, 10);
        queue(&mut head);
        let mut line = line_with_panicking_wakers(&budget, 2);
        drop(head);
        assert_eq!((budget.used(), budget.waiting()), (10, MANY - 5));
        budget.set_limit(5 + MANY as u64);
        assert_eq!((budget.used(), budget.waiting()), (5 + MANY as u64, 0));
        for (task, count) in &mut line {
            assert_eq!(count.get(), 1);
            assert!(ready(task).is_ok());
        }
        drop(held);
        assert_eq!(budget.used(), 0);
    });
}

#[test]
fn a_take_returns_the_payload_though_another_tasks_waker_panics() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let ticket = stash.try_put(0, live.coat(100)).unwrap();
        let (woken, waker) = Hooks::new().on_wake(boom).waker();
        let mut put = put_task(&stash, 1, live.coat(60));
        assert!(poll(&mut put, &waker).is_pending());
        assert_eq!(stash.take(&ticket, &0).unwrap().size, 100);
        assert_eq!(woken.get(), 1);
        assert!(ready(&mut put).is_ok());
        assert_eq!((stash.clear(), stash.used_bytes(), live.get()), (1, 0, 0));
    });
}

#[test]
fn a_waker_whose_clone_panics_joins_no_line() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = budget.try_acquire(10).unwrap();
        let (_, waker) = Hooks::new().on_clone(boom).waker();
        let mut request = Box::pin(budget.acquire(10));
        reaches_the_caller(|| _ = poll(&mut request, &waker));
        assert_eq!(budget.waiting(), 0);
        // It may try again with a better one.
        let woken = queue(&mut request);
        drop(full);
        assert_eq!(woken.get(), 1);
        drop(ready(&mut request));
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn a_waker_whose_clone_panics_in_line_leaves_the_old_one_there() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = budget.try_acquire(10).unwrap();
        let mut request = Box::pin(budget.acquire(10));
        let woken = queue(&mut request);
        let (_, waker) = Hooks::new().on_clone(boom).waker();
        reaches_the_caller(|| _ = poll(&mut request, &waker));
        assert_eq!(budget.waiting(), 1);
        drop(full);
        assert_eq!(woken.get(), 1);
        drop(ready(&mut request));
        assert_eq!(budget.used(), 0);
    });
}

/// In line with a waker whose clone in the line panics when it is dropped.
fn queue_with_panicking_drop<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Arc<Count> {
    let (count, waker) = Hooks::new().on_drop(boom).waker();
    // Not this one.
    let waker = ManuallyDrop::new(waker);
    assert!(poll(future, &waker).is_pending());
    count
}

#[test]
fn a_waker_whose_drop_panics_when_it_is_replaced_has_been_replaced() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = budget.try_acquire(10).unwrap();
        let mut request = Box::pin(budget.acquire(10));
        queue_with_panicking_drop(&mut request);
        let (woken, waker) = counting();
        reaches_the_caller(|| _ = poll(&mut request, &waker));
        drop(full);
        assert_eq!(woken.get(), 1);
        drop(ready(&mut request));
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

#[test]
fn a_waker_whose_drop_panics_when_it_leaves_the_line_strands_nobody() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let _stored = stash.try_put(0, live.coat(60)).unwrap();
        let mut head = Box::pin(stash.put(1, live.coat(50)));
        queue_with_panicking_drop(&mut head);
        let mut next = put_task(&stash, 1, live.coat(40));
        let woken = queue(&mut next);
        reaches_the_caller(|| drop(head));
        assert_eq!((woken.get(), live.get()), (1, 2), "the head's payload went with it");
        assert!(ready(&mut next).is_ok());
        assert_eq!(stash.clear(), 2);
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}

#[test]
fn a_waker_whose_drop_panics_does_not_cost_a_grant_that_comes_at_once() {
    must_come_back(|| {
        let budget = Budget::new(10);
        let full = Cell::new(Some(budget.try_acquire(10).unwrap().into_owned()));
        // Room comes after the first look, so that the waker is cloned for a line that it does not join.
        let freed = std::sync::Mutex::new(full.take());
        let (_, waker) =
            Hooks::new().on_clone(move || drop(freed.lock().unwrap().take())).on_drop(boom).waker();
        // This one is not to be dropped, not even if the poll panics.
        let waker = ManuallyDrop::new(waker);
        let mut request = Box::pin(budget.acquire(10));
        let Poll::Ready(Ok(permit)) = poll(&mut request, &waker) else { panic!("there was room") };
        assert_eq!((permit.bytes(), budget.used()), (10, 10));
        drop(permit);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    });
}

// ---- What a put gives up for -----------------------------------------------------------------------

/// Pends for some polls, and panics at the next; after that it pends for good.
struct Fuse(u32);

impl Future for Fuse {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.0 = self.0.wrapping_sub(1);
        if self.0 == u32::MAX {
            boom();
        }
        Poll::Pending
    }
}

#[test]
fn a_panic_in_what_a_put_gives_up_for_keeps_its_place_in_line() {
    must_come_back(|| {
        for fuse in [0, 1] {
            let (stash, _) = stash_of::<Coat, u8>(100);
            let live = Live::new();
            let full = stash.try_put(0, live.coat(100)).unwrap();
            let mut put = Box::pin(stash.put(1, live.coat(60)).until(Fuse(fuse)));
            if fuse > 0 {
                queue(&mut put);
            }
            reaches_the_caller(|| _ = poll_once(&mut put));
            assert_eq!(stash.waiting(), fuse as usize);
            // The future is still good, and whether or not it had joined, it is before the next.
            let woken = queue(&mut put);
            let mut next = put_task(&stash, 1, live.coat(60));
            let next_woken = queue(&mut next);
            assert!(stash.take(&full, &0).is_some());
            assert_eq!((woken.get(), next_woken.get()), (1, 0));
            let ticket = ready(&mut put).unwrap();
            assert_eq!(stash.take(&ticket, &1).unwrap().size, 60);
            assert_eq!(next_woken.get(), 1);
            drop((put, next));
            assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
        }
    });
}

#[test]
fn a_put_that_is_dropped_after_such_a_panic_leaves_the_line() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let _ = stash.try_put(0, live.coat(60)).unwrap();
        let mut head = Box::pin(stash.put(1, live.coat(50)).until(Fuse(1)));
        queue(&mut head);
        let mut next = put_task(&stash, 1, live.coat(40));
        let woken = queue(&mut next);
        reaches_the_caller(|| {
            let mut head = head;
            _ = poll_once(&mut head);
        });
        assert_eq!((woken.get(), live.get()), (1, 2));
        drop(next);
        assert_eq!((stash.used_bytes(), stash.waiting()), (60, 0));
    });
}

// ---- Payloads --------------------------------------------------------------------------------------

/// What is left after many payloads were dropped by a call, every second of which panicked.
fn drop_many(remove: impl FnOnce(&Stash<Coat, u8>, &ManualClock)) {
    let (stash, clock) = stash_of::<Coat, u8>(MANY as u64);
    let live = Live::new();
    for n in 0..MANY {
        let coat = live.coat(1);
        let coat = if n % 2 == 0 { coat.on_drop(boom) } else { coat };
        let _ = stash.try_put(0, coat).unwrap();
    }
    let mut waiters: Vec<_> = (0..MANY).map(|_| put_task(&stash, 1, live.coat(1))).collect();
    let woken: Vec<_> = waiters.iter_mut().map(queue).collect();
    remove(&stash, &clock);
    assert!(woken.iter().all(|count| count.get() == 1));
    assert_eq!(live.get(), MANY as isize, "only those who waited");
    for put in &mut waiters {
        assert!(ready(put).is_ok());
    }
    assert_eq!((stash.len(), stash.used_bytes()), (MANY, MANY as u64));
    assert_eq!(stash.clear(), MANY);
    assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
}

#[test]
fn payloads_whose_drop_panics_in_gc_are_gone_with_all_others() {
    must_come_back(|| {
        drop_many(|stash, clock| {
            clock.advance(TTL);
            assert_eq!(stash.gc(), MANY);
        });
    });
}

#[test]
fn payloads_whose_drop_panics_in_clear_are_gone_with_all_others() {
    must_come_back(|| drop_many(|stash, _| assert_eq!(stash.clear(), MANY)));
}

#[test]
fn payloads_whose_drop_panics_in_the_sweep_of_a_put_are_not_its_affair() {
    must_come_back(|| {
        drop_many(|stash, clock| {
            clock.advance(TTL);
            let refused = stash.try_put(2, Live::new().coat(1)).unwrap_err();
            // Others were in line for what the sweep freed.
            assert_eq!(refused.reason(), Refusal::Full);
        });
    });
}

#[test]
fn an_expired_payload_whose_drop_panics_in_take_is_not_the_takers_affair() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Coat, u8>(10);
        let live = Live::new();
        let ticket = stash.try_put(0, live.coat(10).on_drop(boom)).unwrap();
        clock.advance(TTL);
        assert!(stash.take(&ticket, &0).is_none());
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

#[test]
fn payloads_whose_drop_panics_go_with_the_last_handle() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(MANY as u64);
        let live = Live::new();
        for _ in 0..MANY {
            let _ = stash.try_put(0, live.coat(1).on_drop(boom)).unwrap();
        }
        drop(stash);
        assert_eq!(live.get(), 0);
    });
}

#[test]
fn a_payload_whose_drop_panics_in_a_cancelled_put_strands_nobody() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let _ = stash.try_put(0, live.coat(60)).unwrap();
        let mut head = put_task(&stash, 1, live.coat(50).on_drop(boom));
        queue(&mut head);
        let mut next = put_task(&stash, 1, live.coat(40));
        let woken = queue(&mut next);
        // It is the caller's own payload.
        reaches_the_caller(|| drop(head));
        assert_eq!(woken.get(), 1);
        assert!(ready(&mut next).is_ok());
        assert_eq!(stash.clear(), 2);
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}

#[test]
fn a_panic_whose_own_payload_panics_when_dropped_is_contained_too() {
    struct Twice;
    impl Drop for Twice {
        fn drop(&mut self) {
            boom();
        }
    }
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(10);
        let live = Live::new();
        let twice = || std::panic::panic_any(Twice);
        let _ = stash.try_put(0, live.coat(5).on_drop(twice)).unwrap();
        let _ = stash.try_put(0, live.coat(5)).unwrap();
        assert_eq!(stash.clear(), 2);
        assert_eq!((stash.used_bytes(), live.get()), (0, 0));
    });
}

#[test]
fn a_payload_that_panics_when_asked_for_its_size_is_not_put() {
    struct Unsized(#[expect(dead_code)] Coat);
    impl Payload for Unsized {
        fn size(&self) -> usize {
            boom();
            0
        }
    }
    must_come_back(|| {
        let (stash, _) = stash_of::<Unsized, u8>(10);
        let live = Live::new();
        reaches_the_caller(|| _ = stash.try_put(0, Unsized(live.coat(0))));
        reaches_the_caller(|| drop(stash.put(0, Unsized(live.coat(0)))));
        reaches_the_caller(|| _ = stash.put_timeout(0, Unsized(live.coat(0)), TTL));
        assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (0, 0, 0));
        assert_eq!(live.get(), 0);
    });
}

// ---- Owners ----------------------------------------------------------------------------------------

thread_local! {
    static EQ_PANICS: Cell<bool> = const { Cell::new(false) };
    static HASH_PANICS: Cell<bool> = const { Cell::new(false) };
}

struct Guest(u8, #[expect(dead_code)] Option<Coat>);

impl PartialEq for Guest {
    fn eq(&self, other: &Self) -> bool {
        if EQ_PANICS.take() {
            boom();
        }
        self.0 == other.0
    }
}
impl Eq for Guest {}

impl Hash for Guest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if HASH_PANICS.take() {
            boom();
        }
        self.0.hash(state);
    }
}

fn guest(number: u8) -> Guest {
    Guest(number, None)
}

#[test]
fn an_entry_is_still_there_after_its_owners_eq_panicked() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Coat, Guest>(100);
        let live = Live::new();
        let ticket = stash.try_put(guest(1), live.coat(40)).unwrap();
        for _ in 0..2 {
            EQ_PANICS.set(true);
            reaches_the_caller(|| _ = stash.take(&ticket, &guest(1)));
            assert_eq!((stash.len(), stash.used_bytes()), (1, 40));
        }
        assert_eq!(stash.take(&ticket, &guest(1)).unwrap().size, 40);
        // And for the sweep.
        let ticket = stash.try_put(guest(1), live.coat(40)).unwrap();
        EQ_PANICS.set(true);
        reaches_the_caller(|| _ = stash.take(&ticket, &guest(1)));
        clock.advance(TTL);
        assert_eq!(stash.gc(), 1);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

#[test]
fn an_entry_is_untouched_when_its_owners_hash_panics() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, Guest>(100);
        let live = Live::new();
        let ticket = stash.try_put(guest(1), live.coat(40)).unwrap();
        HASH_PANICS.set(true);
        reaches_the_caller(|| _ = stash.take(&ticket, &guest(1)));
        assert_eq!(stash.take(&ticket, &guest(1)).unwrap().size, 40);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

#[test]
fn a_put_whose_owners_hash_panics_gives_its_bytes_back_and_the_next_is_served() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, Guest>(100);
        let live = Live::new();
        HASH_PANICS.set(true);
        reaches_the_caller(|| _ = stash.try_put(guest(1), live.coat(40)));
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));

        let full = stash.try_put(guest(1), live.coat(100)).unwrap();
        let mut first = put_task(&stash, guest(2), live.coat(100));
        let mut next = put_task(&stash, guest(3), live.coat(100));
        let (first_woken, next_woken) = (queue(&mut first), queue(&mut next));
        drop(stash.take(&full, &guest(1)));
        HASH_PANICS.set(true);
        reaches_the_caller(|| _ = poll_once(&mut first));
        assert_eq!((first_woken.get(), next_woken.get()), (1, 1));
        assert!(ready(&mut next).is_ok());
        assert_eq!((stash.len(), stash.used_bytes()), (1, 100));
        assert_eq!(stash.clear(), 1);
        assert_eq!((stash.used_bytes(), live.get()), (0, 0));
    });
}

#[test]
fn an_owner_whose_drop_panics_costs_nobody_the_payload() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Coat, Guest>(100);
        let live = Live::new();
        let angry = || Guest(1, Some(live.coat(0).on_drop(boom)));
        let ticket = stash.try_put(angry(), live.coat(40)).unwrap();
        assert_eq!(stash.take(&ticket, &guest(1)).unwrap().size, 40);
        let ticket = stash.try_put(angry(), live.coat(40)).unwrap();
        let _ = stash.try_put(angry(), live.coat(40)).unwrap();
        clock.advance(TTL);
        assert!(stash.take(&ticket, &guest(1)).is_none());
        assert_eq!(stash.gc(), 1);
        let _ = stash.try_put(angry(), live.coat(40)).unwrap();
        assert_eq!(stash.clear(), 1);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

// ---- The clock -------------------------------------------------------------------------------------

#[derive(Clone, Default)]
struct StoppingClock {
    panics: Arc<AtomicBool>,
    time: ManualClock,
}

impl Clock for StoppingClock {
    fn now(&self) -> Duration {
        if self.panics.load(Ordering::SeqCst) {
            boom();
        }
        self.time.now()
    }
}

#[test]
fn a_clock_that_panics_loses_neither_bytes_nor_entries() {
    must_come_back(|| {
        let clock = StoppingClock::default();
        let live = Live::new();
        let stash: Stash<Coat, u8> = stash_with_clock(100, clock.clone());
        let ticket = stash.try_put(0, live.coat(60)).unwrap();
        let mut put = put_task(&stash, 1, live.coat(100));
        let mut next = put_task(&stash, 1, live.coat(100));
        let (woken, next_woken) = (queue(&mut put), queue(&mut next));

        clock.panics.store(true, Ordering::SeqCst);
        reaches_the_caller(|| _ = stash.take(&ticket, &0));
        reaches_the_caller(|| _ = stash.gc());
        reaches_the_caller(|| _ = stash.try_put(0, live.coat(40)));
        assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (1, 60, 2));
        assert_eq!(live.get(), 3);
        clock.panics.store(false, Ordering::SeqCst);
        assert!(stash.take(&ticket, &0).is_some());
        assert_eq!(woken.get(), 1);

        // Granted, and then there is no time at which to store it.
        clock.panics.store(true, Ordering::SeqCst);
        reaches_the_caller(|| _ = poll_once(&mut put));
        assert_eq!((stash.len(), stash.used_bytes(), next_woken.get()), (0, 100, 1));
        clock.panics.store(false, Ordering::SeqCst);
        assert!(ready(&mut next).is_ok());
        assert_eq!(stash.clear(), 1);
        assert_eq!((stash.used_bytes(), live.get()), (0, 0));
    });
}

#[test]
fn a_sleeper_of_the_manual_clock_that_panics_strands_no_other() {
    must_come_back(|| {
        let clock = ManualClock::new();
        let mut first = Box::pin(clock.sleep(TTL));
        let (_, waker) = Hooks::new().on_wake(boom).waker();
        assert!(poll(&mut first, &waker).is_pending());
        let mut second = Box::pin(clock.sleep(TTL));
        let woken = queue(&mut second);
        // Whether it reaches the caller is not promised.
        let _ = catch_unwind(AssertUnwindSafe(|| clock.advance(TTL)));
        assert_eq!(woken.get(), 1);
        ready(&mut second);
    });
}

// ---- Other -----------------------------------------------------------------------------------------

#[test]
fn a_future_polled_after_its_end_panics_and_changes_nothing() {
    let (stash, _) = stash_of::<Coat, u8>(100);
    let live = Live::new();
    let mut put = Box::pin(stash.put(0, live.coat(10)));
    assert!(ready(&mut put).is_ok());
    assert!(catch_unwind(AssertUnwindSafe(|| _ = poll_once(&mut put))).is_err());
    assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (1, 10, 0));
    let budget = Budget::new(10);
    let mut request = Box::pin(budget.acquire(10));
    let permit = ready(&mut request).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| _ = poll(&mut request, Waker::noop()))).is_err());
    drop(request);
    assert_eq!(budget.used(), 10);
    drop(permit);
    assert_eq!(budget.used(), 0);
}

#[test]
fn permits_of_two_budgets_do_not_merge_and_both_give_their_bytes_back() {
    let (one, other) = (Budget::new(10), Budget::new(10));
    let mut permit = one.try_acquire(4).unwrap();
    let stranger = other.try_acquire(5).unwrap();
    let merge = AssertUnwindSafe(|| permit.merge(stranger));
    assert!(catch_unwind(merge).is_err());
    assert_eq!((one.used(), other.used(), permit.bytes()), (4, 0, 4));
    drop(permit);
    assert_eq!(one.used(), 0);
}

/// An owner whose drop panics too.
#[derive(PartialEq, Eq, Hash)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        boom();
    }
}

#[test]
fn an_owner_and_a_payload_that_both_panic_when_dropped_are_contained_one_by_one() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Coat, Bomb>(100);
        let live = Live::new();
        let _ = stash.try_put(Bomb, live.coat(40).on_drop(boom)).unwrap();
        let ticket = stash.try_put(Bomb, live.coat(40).on_drop(boom)).unwrap();
        assert_eq!(stash.clear(), 2);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
        assert!(stash.take(&ticket, &*ManuallyDrop::new(Bomb)).is_none());

        let ticket = stash.try_put(Bomb, live.coat(40).on_drop(boom)).unwrap();
        clock.advance(TTL);
        assert!(stash.take(&ticket, &*ManuallyDrop::new(Bomb)).is_none(), "expired");
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}
