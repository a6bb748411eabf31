//! A reaper that sleeps, against what expires sooner than it knows of: model R1, with the whole stash.
//!
//! What the reaper and a put do to the next look is modelled in `slots.rs`, by the steps.
#![cfg(loom)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use cloakroom::{Clock, PutOptions, Stash};
use loom::thread;
use loom_tests::{Boxed, CountingWaker, Now, Payload, Waiter, bounded_model, model};

/// Reapers do not sleep less than a millisecond.
const MS: u64 = 1_000_000;
const TTL: u64 = 20 * MS;
const SHORT: u64 = 4 * MS;

fn stash(now: &Now) -> Stash<Payload, ()> {
    let builder = Stash::builder().max_bytes(2).entry_overhead(0).clock(now.clone());
    builder.ttl(Duration::from_nanos(TTL)).build().unwrap()
}

/// A reaper that is polled by hand, and when it would wake by itself.
struct Reaping {
    reaper: Waiter<()>,
    until: Arc<AtomicU64>,
}

impl Reaping {
    /// It has looked once, and sleeps.
    fn started(stash: &Stash<Payload, ()>, now: &Now) -> Self {
        let until = Arc::new(AtomicU64::new(0));
        let (reaper, now) = (stash.reaper(), now.clone());
        let sleeps = Arc::clone(&until);
        let future: Boxed<()> = Box::pin(reaper.run(move |wait| {
            sleeps.store((now.now() + wait).as_nanos() as u64, SeqCst);
            std::future::pending::<()>()
        }));
        Self { reaper: Waiter::queued(future, CountingWaker::new()), until }
    }

    /// When it looks again, if nothing more happens.
    fn looks_again(&mut self) -> u64 {
        if self.reaper.wakes() > 0 {
            assert!(self.reaper.poll().is_pending());
        }
        self.until.load(SeqCst)
    }
}

#[test]
fn r1_a_short_lived_put_is_reaped_in_time() {
    model(|| {
        let now = Now::default();
        let stash = stash(&now);
        let putter = {
            let stash = stash.clone();
            let short = PutOptions::new().ttl(Duration::from_nanos(SHORT));
            thread::spawn(move || stash.try_put_with((), vec![1], short).is_ok())
        };
        let mut reaping = Reaping::started(&stash, &now);
        assert!(putter.join().unwrap());
        assert!(reaping.looks_again() <= SHORT, "the reaper sleeps past its deadline");
    });
}

/// The reaper's look passes over what is claimed, and raises the bounds, because something else is due.
#[test]
fn r1_what_is_put_back_is_reaped_in_time() {
    bounded_model(3, || {
        let now = Now::default();
        let stash = stash(&now);
        let ticket = stash.try_put((), vec![1]).unwrap();
        let short = PutOptions::new().ttl(Duration::from_nanos(SHORT));
        let _ = stash.try_put_with((), vec![2], short).unwrap();
        now.set(SHORT);
        let claim = stash.claim(&ticket, &()).unwrap();
        let claimer = thread::spawn(move || claim.put_back());
        let mut reaping = Reaping::started(&stash, &now);
        assert!(claimer.join().unwrap());
        assert!(reaping.looks_again() <= TTL, "the reaper sleeps past its deadline");
    });
}
