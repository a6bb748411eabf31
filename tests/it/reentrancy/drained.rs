//! The waker of a task that waits for `drained` calls back.

use std::sync::Arc;

use super::CLAIM_CALLS;
use crate::fixtures::{ALICE, state};
use crate::support::{
    Counted, Hooks, Live, SharedTask, must_come_back, poll, poll_once, ready, stash_of,
};

#[test]
fn the_waker_of_a_task_that_waits_to_drain_may_call_anything() {
    for &(name, call) in CLAIM_CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (stash, _) = stash_of::<Counted, u8>(100);
            let live = Live::new();
            let ticket = stash.try_put(ALICE, live.counted(60)).unwrap();
            let mut waiting = Vec::new();
            for _ in 0..20 {
                let (handle, again, other) = (stash.clone(), stash.clone(), live.clone());
                let shared = SharedTask::new(Box::pin(async move { handle.drained().await }));
                let inline = Arc::clone(&shared);
                let (count, waker) = Hooks::new()
                    .on_wake(move || {
                        call(&again, &other);
                        assert!(inline.poll_once().is_some(), "drained, inside of the wake");
                        assert!(poll_once(&mut Box::pin(again.drained())).is_ready());
                        drop((again.clear(), again.take(&ticket, &ALICE), again.close()));
                    })
                    .waker();
                assert!(shared.poll(&waker).is_none());
                waiting.push((count, shared));
            }
            stash.close();
            let early = waiting.pop().unwrap();
            early.1.discard();
            assert!(stash.take(&ticket, &ALICE).is_some());
            assert!(waiting.iter().all(|(count, _)| count.get() == 1));
            assert_eq!(early.0.get(), 0);
            assert_eq!((state(&stash), live.get()), ((0, 0, 0), 0));
        });
    }
}

#[test]
fn the_wakers_clone_and_drop_may_call_anything_while_it_waits_to_drain() {
    for &(name, call) in CLAIM_CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (stash, _) = stash_of::<Counted, u8>(100);
            let live = Live::new();
            let room = stash.try_reserve(60).unwrap();
            let calling = || {
                let (again, other) = (stash.clone(), live.clone());
                move || call(&again, &other)
            };
            let mut drained = Box::pin(stash.drained());
            for _ in 0..3 {
                let (_, waker) = Hooks::new().on_clone(calling()).on_drop(calling()).waker();
                assert!(poll(&mut drained, &waker).is_pending());
            }
            stash.close();
            let (woken, waker) = Hooks::new().on_clone(calling()).on_drop(calling()).waker();
            assert!(poll(&mut drained, &waker).is_pending());
            drop(room);
            assert_eq!(woken.get(), 1);
            ready(&mut drained);
            // Drained already: the waker is cloned and dropped for nothing.
            assert!(poll(&mut Box::pin(stash.drained()), &waker).is_ready());
            drop((drained, waker));
            assert_eq!((state(&stash), live.get()), ((0, 0, 0), 0));
        });
    }
}
