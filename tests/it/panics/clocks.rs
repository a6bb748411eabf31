//! Clocks that panic when they are asked for the time, and sleepers whose waker panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloakroom::{Clock, ManualClock, PutOptions, Stash};

use super::{boom, reaches_the_caller};
use crate::fixtures::{ALICE, BOB, SECOND, checked_stats, state};
use crate::support::{
    Coat, Hooks, Live, TTL, must_come_back, poll, poll_once, put_task, queue, ready,
    stash_with_clock,
};

#[derive(Clone, Default)]
struct StoppingClock {
    panics: Arc<AtomicBool>,
    time: ManualClock,
}

impl StoppingClock {
    fn stops(&self, whether: bool) {
        self.panics.store(whether, Ordering::SeqCst);
    }
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

        clock.stops(true);
        reaches_the_caller(|| _ = stash.take(&ticket, &0));
        reaches_the_caller(|| _ = stash.gc());
        reaches_the_caller(|| _ = stash.try_put(0, live.coat(40)));
        assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (1, 60, 2));
        assert_eq!(live.get(), 3);
        clock.stops(false);
        assert!(stash.take(&ticket, &0).is_some());
        assert_eq!(woken.get(), 1);

        // Granted, and then there is no time at which to store it.
        clock.stops(true);
        reaches_the_caller(|| _ = poll_once(&mut put));
        assert_eq!((stash.len(), stash.used_bytes(), next_woken.get()), (0, 100, 1));
        clock.stops(false);
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
        let (clock, live) = (StoppingClock::default(), Live::new());
        let stash: Stash<Coat, u8> = stash_with_clock(100, clock.clone());
        let ticket = stash.try_put(ALICE, live.coat(40)).unwrap();
        for drops in [false, true] {
            let claim = stash.claim(&ticket, &ALICE).unwrap();
            clock.stops(true);
            if drops {
                drop(claim);
            } else {
                assert!(claim.put_back());
            }
            reaches_the_caller(|| drop(stash.claim(&ticket, &ALICE)));
            clock.stops(false);
        }
        // Its time is up and nobody could tell: the next look can.
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        clock.time.advance(TTL);
        clock.stops(true);
        let unwinding = || {
            let _claim = claim;
            boom();
        };
        reaches_the_caller(unwinding);
        clock.stops(false);
        assert!(stash.take(&ticket, &ALICE).is_none());
        assert_eq!((state(&stash), live.get(), checked_stats(&stash).claims), ((0, 0, 0), 0, 0));
    });
}

#[test]
fn a_clock_that_panics_costs_neither_room_nor_accounts() {
    must_come_back(|| {
        let (clock, live) = (StoppingClock::default(), Live::new());
        let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL);
        let stash: Stash<Coat, u8> =
            builder.clock(clock.clone()).max_bytes_per_owner(60).build().unwrap();
        let room = stash.try_reserve_for(&ALICE, 60).unwrap();
        clock.stops(true);
        reaches_the_caller(|| drop(room.put(ALICE, live.coat(60))));
        reaches_the_caller(|| drop(stash.try_put(ALICE, live.coat(30))));
        reaches_the_caller(|| {
            drop(stash.try_put_with(ALICE, live.coat(30), PutOptions::new().ttl(TTL)))
        });
        reaches_the_caller(|| drop(stash.try_put(ALICE, live.coat(61))));
        assert_eq!((state(&stash), stash.owner_used_bytes(&ALICE)), ((0, 0, 0), 0));
        clock.stops(false);

        // In the first poll of a wait, which may be tried again: it is the same request, charged once.
        let full = stash.try_put(BOB, live.coat(60)).unwrap();
        let mut put = put_task_pinned(&stash, live.coat(50));
        clock.stops(true);
        reaches_the_caller(|| drop(poll_once(&mut put)));
        clock.stops(false);
        let woken = queue(&mut put);
        assert_eq!((stash.owner_used_bytes(&ALICE), stash.waiting()), (50, 1));
        assert!(stash.take(&full, &BOB).is_some());
        assert_eq!(woken.get(), 1);
        let ticket = ready(&mut put).unwrap();
        assert!(stash.take(&ticket, &ALICE).is_some());
        assert_eq!((state(&stash), stash.owner_used_bytes(&ALICE), live.get()), ((0, 0, 0), 0, 0));
    });
}

type Putting<'a> = std::pin::Pin<Box<cloakroom::Put<'a, Coat, u8>>>;

/// Not in an `async` block, which could not be polled again after a panic.
fn put_task_pinned(stash: &Stash<Coat, u8>, coat: Coat) -> Putting<'_> {
    Box::pin(stash.put(ALICE, coat))
}

#[test]
fn a_clock_that_panics_in_one_of_two_reapers_leaves_the_other_to_it() {
    must_come_back(|| {
        let (clock, live) = (StoppingClock::default(), Live::new());
        let stash: Stash<Coat, u8> = stash_with_clock(100, clock.clone());
        let running = || {
            let (reaper, timer) = (stash.reaper(), clock.time.clone());
            Box::pin(reaper.run(move |duration| timer.sleep(duration)))
        };
        let (mut one, mut other) = (running(), running());
        queue(&mut one);
        queue(&mut other);
        let brief = PutOptions::new().ttl(SECOND);
        let _ = stash.try_put_with(ALICE, live.coat(10), brief).unwrap();
        clock.stops(true);
        reaches_the_caller(|| _ = poll_once(&mut one));
        clock.stops(false);
        drop(one);
        let woken = queue(&mut other);
        clock.time.advance(SECOND);
        assert_eq!(woken.get(), 1);
        assert!(poll_once(&mut other).is_pending());
        assert_eq!((state(&stash), live.get()), ((0, 0, 0), 0));
    });
}
