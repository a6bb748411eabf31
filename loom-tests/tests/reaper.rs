//! A reaper that sleeps, against what expires sooner than it knows of: model R1, with the whole stash, and by the
//! steps that the reaper and a put take.
#![cfg(cloakroom_loom)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use cloakroom::loom_internals::{Sweeper, Tree};
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
    /// It has swept once, and sleeps.
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

    /// When it sweeps again, if nothing more happens.
    fn sweeps_again(&mut self) -> u64 {
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
        assert!(reaping.sweeps_again() <= SHORT, "the reaper sleeps past its deadline");
    });
}

/// The reaper's sweep skips the claimed entry, and raises the bounds, because something else is due.
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
        assert!(reaping.sweeps_again() <= TTL, "the reaper sleeps past its deadline");
    });
}

/// Two reapers share the time of the next sweep. One is dropped, and may have hidden from the other what it was
/// about to see: the other takes over.
#[test]
fn r2_a_reaper_that_is_dropped_hands_over_what_it_saw() {
    model(|| {
        let now = Now::default();
        let stash = stash(&now);
        let mut stays = Reaping::started(&stash, &now);
        let leaver = {
            let (stash, now) = (stash.clone(), now.clone());
            thread::spawn(move || drop(Reaping::started(&stash, &now)))
        };
        let short = PutOptions::new().ttl(Duration::from_nanos(SHORT));
        assert!(stash.try_put_with((), vec![1], short).is_ok());
        leaver.join().unwrap();
        assert!(stays.sweeps_again() <= SHORT, "the reaper sleeps past its deadline");
    });
}

// ---- By the steps ----------------------------------------------------------------------------------

/// A deadline that has come at `NOW`.
const EARLY: u64 = 5;
const NOW: u64 = 10;
const LATE: u64 = 100;

/// A reaper begins, sweeps and plans while a put stores, lowers the bounds and the time of the next
/// sweep: the entry is found, or the plan is early enough, or the reaper is woken.
fn a_reaper_and_a_put(now: u64) {
    let (tree, look) = (Arc::new(Tree::default()), Arc::new(Sweeper::default()));
    // A put before the first sweep wakes nothing: nothing sleeps.
    assert!(!look.notify_earlier(EARLY));
    let putter = {
        let (tree, look) = (Arc::clone(&tree), Arc::clone(&look));
        thread::spawn(move || {
            tree.put(EARLY);
            look.notify_earlier(EARLY)
        })
    };
    look.begin();
    let (found, left) = tree.sweep(now);
    let until = look.plan(left.min(LATE));
    let told = putter.join().unwrap();
    assert!(found || until <= EARLY || told, "the reaper sleeps past its deadline");
    assert_ne!(found, tree.has_entry());
}

#[test]
fn r1_a_reaper_finds_an_entry_or_is_woken() {
    model(|| a_reaper_and_a_put(NOW));
}

#[test]
fn r1_a_reaper_plans_for_an_entry_or_is_woken() {
    model(|| a_reaper_and_a_put(0));
}

/// The bounds are only read, and the time of the next sweep has been lowered before: a reaper that sees that time
/// sees the bounds lowered, or else the time itself is early enough.
#[test]
fn r1_a_sweeper_sees_the_bounds_lowered_before() {
    model(|| {
        let look = Arc::new(Sweeper::default());
        look.begin();
        // Stands for all bounds.
        let bound = Arc::new(loom::sync::atomic::AtomicU64::new(LATE));
        let putter = {
            let (look, bound) = (Arc::clone(&look), Arc::clone(&bound));
            thread::spawn(move || {
                bound.fetch_min(EARLY, Relaxed);
                look.notify_earlier(EARLY)
            })
        };
        look.begin();
        let until = look.plan(bound.load(Relaxed));
        let told = putter.join().unwrap();
        // A time that was lowered before it began is reset: then the bound must show it.
        assert!(until <= EARLY || told && look.plan(LATE) <= EARLY, "it sleeps past the deadline");
    });
}
