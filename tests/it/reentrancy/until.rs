//! The future that a put is given with `until` calls back.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use super::with_each_call;
use crate::support::{Counted, Live, must_come_back, poll_once, ready, stash_of};

#[test]
fn until_may_call_anything() {
    with_each_call(|stash, _, live, call| {
        let _full = stash.try_put(0, live.counted(100)).unwrap();
        let (again, other) = (stash.clone(), live.clone());
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let until = poll_fn(move |_| {
            call(&again, &other);
            if count.fetch_add(1, Ordering::SeqCst) < 2 { Poll::Pending } else { Poll::Ready(()) }
        });
        let stash = stash.clone();
        let payload = live.counted(50);
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
fn the_grant_wins_if_until_brings_it() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let full = stash.try_put(0, live.counted(100)).unwrap();
        let (again, mut polls) = (stash.clone(), 0);
        let until = poll_fn(move |_| {
            polls += 1;
            if polls == 1 {
                return Poll::Pending;
            }
            assert!(again.take(&full, &0).is_some());
            Poll::Ready(())
        });
        let mut put = Box::pin(stash.put(1, live.counted(50)).until(until));
        assert!(poll_once(&mut put).is_pending());
        let ticket = ready(&mut put).expect("granted before it gave up");
        assert!(stash.take(&ticket, &1).is_some());
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}
