//! Clocks that panic when they are asked for the time, and sleepers whose waker panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloakroom::{Clock, ManualClock, PutOptions, Stash};

use super::{boom, reaches_the_caller};
use crate::fixtures::{ALICE, BOB, SECOND, checked_stats, state};
use crate::support::{
    Counted, Hooks, Live, TTL, must_come_back, poll, poll_once, put_task, queue, ready,
    stash_with_clock,
};

#[derive(Clone, Default)]
struct PanickingClock {
    panics: Arc<AtomicBool>,
    time: ManualClock,
}

impl PanickingClock {
    fn set_panics(&self, whether: bool) {
        self.panics.store(whether, Ordering::SeqCst);
    }
}

impl Clock for PanickingClock {
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
        let clock = PanickingClock::default();
        let live = Live::new();
        let stash: Stash<Counted, u8> = stash_with_clock(100, clock.clone());
        let ticket = stash.try_put(0, live.counted(60)).unwrap();
        let mut put = put_task(&stash, 1, live.counted(100));
        let mut next = put_task(&stash, 1, live.counted(100));
        let (woken, next_woken) = (queue(&mut put), queue(&mut next));

        clock.set_panics(true);
        reaches_the_caller(|| _ = stash.take(&ticket, &0));
        reaches_the_caller(|| _ = stash.gc());
        reaches_the_caller(|| _ = stash.try_put(0, live.counted(40)));
        assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (1, 60, 2));
        assert_eq!(live.get(), 3);
        clock.set_panics(false);
        assert!(stash.take(&ticket, &0).is_some());
        assert_eq!(woken.get(), 1);

        // Granted, and then there is no time at which to store it.
        clock.set_panics(true);
        reaches_the_caller(|| _ = poll_once(&mut put));
        assert_eq!((stash.len(), stash.used_bytes(), next_woken.get()), (0, 100, 1));
        clock.set_panics(false);
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

#[test]
fn a_clock_that_panics_in_put_back_puts_back_all_the_same() {
    must_come_back(|| {
        let (clock, live) = (PanickingClock::default(), Live::new());
        let stash: Stash<Counted, u8> = stash_with_clock(100, clock.clone());
        let ticket = stash.try_put(ALICE, live.counted(40)).unwrap();
        for drops in [false, true] {
            let claim = stash.claim(&ticket, &ALICE).unwrap();
            clock.set_panics(true);
            if drops {
                drop(claim);
            } else {
                assert!(claim.put_back());
            }
            reaches_the_caller(|| drop(stash.claim(&ticket, &ALICE)));
            clock.set_panics(false);
        }
        // The entry has expired while the clock panicked: the next take finds that.
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        clock.time.advance(TTL);
        clock.set_panics(true);
        let unwinding = || {
            let _claim = claim;
            boom();
        };
        reaches_the_caller(unwinding);
        clock.set_panics(false);
        assert!(stash.take(&ticket, &ALICE).is_none());
        assert_eq!((state(&stash), live.get(), checked_stats(&stash).claims), ((0, 0, 0), 0, 0));
    });
}

#[test]
fn a_clock_that_panics_leaks_neither_bytes_nor_owner_charges() {
    must_come_back(|| {
        let (clock, live) = (PanickingClock::default(), Live::new());
        let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL);
        let stash: Stash<Counted, u8> =
            builder.clock(clock.clone()).max_bytes_per_owner(60).build().unwrap();
        let room = stash.try_reserve_for(&ALICE, 60).unwrap();
        clock.set_panics(true);
        reaches_the_caller(|| drop(room.put(ALICE, live.counted(60))));
        reaches_the_caller(|| drop(stash.try_put(ALICE, live.counted(30))));
        reaches_the_caller(|| {
            drop(stash.try_put_with(ALICE, live.counted(30), PutOptions::new().ttl(TTL)))
        });
        reaches_the_caller(|| drop(stash.try_put(ALICE, live.counted(61))));
        assert_eq!((state(&stash), stash.owner_used_bytes(&ALICE)), ((0, 0, 0), 0));
        clock.set_panics(false);

        // In the first poll of a wait, which may be tried again: it is the same request, charged once.
        let full = stash.try_put(BOB, live.counted(60)).unwrap();
        let mut put = put_task_pinned(&stash, live.counted(50));
        clock.set_panics(true);
        reaches_the_caller(|| drop(poll_once(&mut put)));
        clock.set_panics(false);
        let woken = queue(&mut put);
        assert_eq!((stash.owner_used_bytes(&ALICE), stash.waiting()), (50, 1));
        assert!(stash.take(&full, &BOB).is_some());
        assert_eq!(woken.get(), 1);
        let ticket = ready(&mut put).unwrap();
        assert!(stash.take(&ticket, &ALICE).is_some());
        assert_eq!((state(&stash), stash.owner_used_bytes(&ALICE), live.get()), ((0, 0, 0), 0, 0));
    });
}

type Putting<'a> = std::pin::Pin<Box<cloakroom::Put<'a, Counted, u8>>>;

/// Not in an `async` block, which could not be polled again after a panic.
fn put_task_pinned(stash: &Stash<Counted, u8>, counted: Counted) -> Putting<'_> {
    Box::pin(stash.put(ALICE, counted))
}

#[test]
fn a_clock_that_panics_in_one_of_two_reapers_does_not_stop_the_other() {
    must_come_back(|| {
        let (clock, live) = (PanickingClock::default(), Live::new());
        let stash: Stash<Counted, u8> = stash_with_clock(100, clock.clone());
        let running = || {
            let (reaper, timer) = (stash.reaper(), clock.time.clone());
            Box::pin(reaper.run(move |duration| timer.sleep(duration)))
        };
        let (mut one, mut other) = (running(), running());
        queue(&mut one);
        queue(&mut other);
        let brief = PutOptions::new().ttl(SECOND);
        let _ = stash.try_put_with(ALICE, live.counted(10), brief).unwrap();
        clock.set_panics(true);
        reaches_the_caller(|| _ = poll_once(&mut one));
        clock.set_panics(false);
        drop(one);
        let woken = queue(&mut other);
        clock.time.advance(SECOND);
        assert_eq!(woken.get(), 1);
        assert!(poll_once(&mut other).is_pending());
        assert_eq!((state(&stash), live.get()), ((0, 0, 0), 0));
    });
}
