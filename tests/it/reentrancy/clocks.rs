//! A clock calls back when it is asked for the time.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use cloakroom::{Clock, Event, ManualClock, Observer, Stash};

use super::{
    BUSY, CALLS, CLAIM_CALLS, Call, Calls, CountedStash, counted_stash, everything, nothing_is_left,
};
use crate::fixtures::EventLog;
use crate::support::{
    Counted, Hooks, Live, TTL, must_come_back, poll, poll_once, put_task, queue, ready,
    stash_with_clock,
};

/// A clock that calls the stash whenever it is asked for the time, except when that call asks it.
#[derive(Clone)]
struct CallingClock {
    time: ManualClock,
    stash: Arc<OnceLock<CountedStash>>,
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
            let stash: CountedStash = stash_with_clock(100, clock.clone());
            assert!(clock.stash.set(stash.clone()).is_ok());
            let mut a = put_task(&stash, 1, live.counted(60));
            let first = ready(&mut a).unwrap();
            let mut b = put_task(&stash, 1, live.counted(60));
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

/// It empties the stash between the refusal and the sweep that was to make room.
#[test]
fn a_clock_that_sweeps_does_not_make_a_put_fail() {
    struct Sweeping(ManualClock, Arc<OnceLock<Stash<Counted>>>);

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
        let _ = stash.try_put("a".into(), live.counted(100)).unwrap();
        slot.set(stash.clone()).unwrap();
        time.advance(TTL);
        assert!(stash.try_put("a".into(), live.counted(100)).is_ok());
    });
}

/// A clock that calls whenever it is asked, in the claim, its putting back, a wait's beginning, its end.
struct ClaimsClock(ManualClock, Calls);

impl Clock for ClaimsClock {
    fn now(&self) -> Duration {
        self.1.event(Event::Claimed { bytes: 0 });
        self.0.now()
    }
}

#[test]
fn a_clock_may_call_anything_during_claims_and_reservations() {
    for &(name, call) in CLAIM_CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (slot, clock, live) = (Arc::default(), ManualClock::new(), Live::new());
            let calls = Calls(Arc::clone(&slot), live.clone(), call);
            let stash = counted_stash(EventLog::default(), ClaimsClock(clock.clone(), calls));
            assert!(slot.set(stash.clone()).is_ok());
            everything(&stash, &clock, &live);
            BUSY.set(true);
            nothing_is_left(&stash, &live);
            BUSY.set(false);
        });
    }
}
