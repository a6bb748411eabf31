//! A waker calls back when it is cloned or dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use super::with_each_call;
use crate::support::{
    Counted, Hooks, Live, must_come_back, poll, put_task, queue, ready, stash_of,
};

#[test]
fn a_waker_may_call_anything_when_it_is_cloned_or_dropped() {
    with_each_call(|stash, _, live, call| {
        let full = stash.try_put(0, live.counted(100)).unwrap();
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
        let mut a = put_task(stash, 1, live.counted(60));
        let mut b = put_task(stash, 1, live.counted(60));
        for _ in 0..3 {
            // Joins the queue, and then has its waker replaced by another.
            let (_, waker) = hooked();
            if poll(&mut a, &waker).is_ready() {
                // `clear` made room.
                return;
            }
            let (_, waker) = hooked();
            assert!(poll(&mut b, &waker).is_pending());
        }
        // One leaves with its waker in the queue, the other is granted.
        drop(a);
        drop(stash.take(&full, &0));
        assert!(ready(&mut b).is_ok());
    });
}

#[test]
fn room_made_while_the_waker_is_cloned_for_the_queue_is_seen() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.counted(100)).unwrap();
        let again = stash.clone();
        let (woken, waker) = Hooks::new().on_clone(move || drop(again.take(&full, &0))).waker();
        let mut put = put_task(&stash, 1, live.counted(50));
        // Too late for the first attempt, and too early for the queue: no release would wake it.
        let Poll::Ready(Ok(ticket)) = poll(&mut put, &waker) else { panic!("room was overlooked") };
        assert_eq!((woken.get(), stash.waiting(), stash.used_bytes()), (0, 0, 50));
        drop(stash.take(&ticket, &1));
        assert_eq!((stash.used_bytes(), live.get()), (0, 0));
    });
}

#[test]
fn a_grant_while_the_waker_is_replaced_is_seen_at_once() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.counted(100)).unwrap();
        let mut put = put_task(&stash, 1, live.counted(50));
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
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.counted(100)).unwrap();
        let mut a = put_task(&stash, 1, live.counted(50));
        let again = stash.clone();
        let (a_woken, waker) = Hooks::new().on_drop(move || drop(again.take(&full, &0))).waker();
        // The queue holds the clone; this one must not be dropped yet.
        assert!(poll(&mut a, &waker).is_pending());
        let mut b = put_task(&stash, 1, live.counted(50));
        let b_woken = queue(&mut b);
        drop(a);
        assert_eq!((a_woken.get(), b_woken.get()), (0, 1));
        assert!(ready(&mut b).is_ok());
        drop(waker);
        assert_eq!(stash.clear(), 1);
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}
