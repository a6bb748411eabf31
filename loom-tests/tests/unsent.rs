//! The guard of a ticket that was not sent, against every call that may have received the ticket (B14).
#![cfg(cloakroom_loom)]

use std::time::Duration;

use cloakroom::Stash;
use loom::thread;
use loom_tests::{CountingWaker, Now, Payload, Waiter, model, put};

const TTL: u64 = 10;

fn stash(now: &Now) -> Stash<Payload, ()> {
    let builder = Stash::builder().max_bytes(1).entry_overhead(0).clock(now.clone());
    builder.ttl(Duration::from_nanos(TTL)).build().unwrap()
}

/// The entry is taken or removed, once, and its bytes go to the waiter.
#[test]
fn b14_a_guard_and_a_take_end_an_entry_once() {
    model(|| {
        let stash = stash(&Now::default());
        let ticket = stash.try_put((), vec![1]).unwrap();
        let waiter = Waiter::queued(put(&stash, vec![2]), CountingWaker::new());
        let guard = stash.unsent(ticket, ());
        let dropper = thread::spawn(move || drop(guard));
        let taken = stash.take(&ticket, &()).is_some() as u64;
        dropper.join().unwrap();
        assert!(stash.take(&ticket, &()).is_none(), "removed and still there");
        assert_eq!(taken + stash.stats().unsent, 1, "one ending");
        assert!(waiter.woken_once().is_ok());
        assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (1, 1, 0));
    });
}

/// A claimed entry stays: its client has the ticket. The guard came before, or does nothing.
#[test]
fn b14_a_guard_leaves_what_is_claimed() {
    model(|| {
        let stash = stash(&Now::default());
        let ticket = stash.try_put((), vec![1]).unwrap();
        let guard = stash.unsent(ticket, ());
        let dropper = thread::spawn(move || drop(guard));
        let claim = stash.claim(&ticket, &());
        let claimed = claim.is_some();
        if let Some(claim) = claim {
            assert_eq!(*claim, [1]);
            assert_eq!(claim.into_inner(), [1]);
        }
        dropper.join().unwrap();
        assert_eq!(stash.stats().unsent, u64::from(!claimed), "one ending");
        assert_eq!((stash.len(), stash.used_bytes()), (0, 0));
    });
}

/// At its deadline, during a sweep: counted as expired or as unsent, not as both.
#[test]
fn b14_a_guard_and_a_sweep_end_an_entry_once() {
    model(|| {
        let now = Now::default();
        let stash = stash(&now);
        let ticket = stash.try_put((), vec![1]).unwrap();
        let guard = stash.unsent(ticket, ());
        now.set(TTL);
        let dropper = thread::spawn(move || drop(guard));
        let swept = stash.gc() as u64;
        dropper.join().unwrap();
        let stats = stash.stats();
        assert_eq!((stats.expired, stats.expired + stats.unsent), (swept, 1), "one ending");
        assert_eq!((stash.len(), stash.used_bytes()), (0, 0));
    });
}
