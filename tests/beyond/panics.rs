//! Promise 11 on the ways that lie beyond the original: a panic in user code strands nobody, loses nothing,
//! and reaches the caller only if it is the caller's own code.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use cloakroom::{Clock, OnDrop, PutOptions};

use super::support::{
    Hooks, Live, TTL, counting, must_come_back, poll, poll_once, put_task, queue, ready, stash_of,
    stash_with_clock,
};
use super::*;

fn boom() {
    panic!("on purpose");
}

/// The caller's own panic: it must reach the caller.
#[track_caller]
fn reaches_the_caller(call: impl FnOnce()) {
    let caught = catch_unwind(AssertUnwindSafe(call)).expect_err("the panic was swallowed");
    assert_eq!(caught.downcast_ref(), Some(&"on purpose"));
}

// ---- Observers -------------------------------------------------------------------------------------

#[test]
fn an_observer_that_panics_changes_nothing() {
    struct Faints;
    impl Observer for Faints {
        fn event(&self, _: Event) {
            boom();
        }
    }
    must_come_back(|| {
        let (stash, clock) = hall_with(|builder| builder.max_bytes_per_owner(100).observer(Faints));
        let ticket = put(&stash, 100);
        assert!(stash.try_put(BOB, payload(1)).is_err());
        assert!(stash.claim(&ticket, &ALICE).unwrap().put_back());
        let mut next = put_task(&stash, BOB, payload(100));
        queue(&mut next);
        assert_eq!(stash.claim(&ticket, &ALICE).unwrap().into_inner(), payload(100));
        let ticket = ready(&mut next).unwrap();
        let claim = stash.claim(&ticket, &BOB).unwrap();
        clock.advance(TTL);
        assert!(!claim.put_back());
        fill(&stash, 10);
        clock.advance(TTL);
        assert_eq!(stash.gc(), 1);
        fill(&stash, 10);
        assert_eq!(stash.clear(), 1);
        drop(stash.try_reserve(10).unwrap());
        assert_eq!((state(&stash), stats(&stash).stored), ((0, 0, 0), 4));
        assert_eq!((stash.owner_used_bytes(&ALICE), stash.owner_used_bytes(&BOB)), (0, 0));
    });
}

// ---- Payloads --------------------------------------------------------------------------------------

#[test]
fn a_claimed_payload_whose_drop_panics_is_gone_and_its_bytes_are_free() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        for ending in 0..4 {
            let ticket = stash.try_put(ALICE, live.coat(100).on_drop(boom)).unwrap();
            let mut next = put_task(&stash, BOB, live.coat(100));
            let woken = queue(&mut next);
            let claim = stash.claim(&ticket, &ALICE).unwrap();
            match ending {
                0 => drop(claim.on_drop(OnDrop::Finish)),
                1 => reaches_the_caller(|| drop(claim.into_inner())),
                2 => {
                    clock.advance(TTL);
                    assert!(!claim.put_back());
                }
                _ => {
                    stash.clear();
                    drop(claim);
                }
            }
            assert_eq!((woken.get(), live.get()), (1, 1));
            let ticket = ready(&mut next).unwrap();
            assert!(stash.take(&ticket, &BOB).is_some());
        }
        assert_eq!((state(&stash), super::stats(&stash).claims), ((0, 0, 0), 0));
    });
}

/// Whatever it is asked for by a claim's last step: it has not been delivered.
#[test]
fn a_payload_that_panics_when_it_is_read_is_put_back() {
    struct Sealed(Arc<AtomicBool>);
    impl cloakroom::Payload for Sealed {
        fn size(&self) -> usize {
            10
        }
    }
    impl AsRef<[u8]> for Sealed {
        fn as_ref(&self) -> &[u8] {
            if self.0.load(Ordering::SeqCst) {
                boom();
            }
            b"ten bytes."
        }
    }
    must_come_back(|| {
        let (stash, _) = stash_of::<Sealed, u8>(100);
        let sealed = Arc::new(AtomicBool::new(true));
        let ticket = stash.try_put(ALICE, Sealed(Arc::clone(&sealed))).unwrap();
        reaches_the_caller(|| drop(stash.claim(&ticket, &ALICE).unwrap().into_bytes()));
        #[cfg(feature = "http-body")]
        reaches_the_caller(|| drop(stash.claim(&ticket, &ALICE).unwrap().into_body()));
        assert_eq!((state(&stash), super::stats(&stash).delivered), ((1, 10, 0), 0));
        sealed.store(false, Ordering::SeqCst);
        let bytes = stash.claim(&ticket, &ALICE).unwrap().into_bytes();
        assert_eq!((&bytes[..], stash.used_bytes()), (&b"ten bytes."[..], 10));
        drop(bytes);
        assert_eq!(state(&stash), (0, 0, 0));
    });
}

#[test]
fn a_payload_that_cannot_tell_its_size_is_not_put_and_its_room_goes_to_the_next() {
    struct Unsized;
    impl cloakroom::Payload for Unsized {
        fn size(&self) -> usize {
            boom();
            0
        }
    }
    must_come_back(|| {
        let (stash, _) = stash_of::<Unsized, u8>(100);
        let room = stash.try_reserve(100).unwrap();
        let mut next = Box::pin(stash.reserve(100));
        let woken = queue(&mut next);
        reaches_the_caller(|| drop(room.put(ALICE, Unsized)));
        assert_eq!(woken.get(), 1);
        drop(next);
        assert_eq!(state(&stash), (0, 0, 0));
    });
}

// ---- Wakers ----------------------------------------------------------------------------------------

#[test]
fn wakers_that_panic_keep_nobody_from_hearing_that_it_is_drained() {
    must_come_back(|| {
        let (stash, _) = hall();
        let room = stash.try_reserve(100).unwrap();
        let mut line: Vec<_> = (0..50)
            .map(|n| {
                let hooks = if n % 2 == 0 { Hooks::new().on_wake(boom) } else { Hooks::new() };
                let (count, waker) = hooks.waker();
                let mut drained = Box::pin(stash.drained());
                assert!(poll(&mut drained, &waker).is_pending());
                (drained, count)
            })
            .collect();
        stash.close();
        drop(room);
        for (drained, count) in &mut line {
            assert_eq!(count.get(), 1);
            ready(drained);
        }
    });
}

#[test]
fn a_waker_whose_drop_panics_when_its_wait_to_drain_is_dropped_strands_nobody() {
    must_come_back(|| {
        let (stash, _) = hall();
        let room = stash.try_reserve(100).unwrap();
        let mut first = Box::pin(stash.drained());
        let (_, waker) = Hooks::new().on_drop(boom).waker();
        let waker = ManuallyDrop::new(waker);
        assert!(poll(&mut first, &waker).is_pending());
        let mut second = Box::pin(stash.drained());
        let woken = queue(&mut second);
        stash.close();
        reaches_the_caller(|| drop(first));
        drop(room);
        assert_eq!(woken.get(), 1);
        ready(&mut second);
        // Too late to wait: the clone is dropped for nothing, and that is not the end of the world.
        ready(&mut Box::pin(stash.drained()));
        assert!(poll(&mut Box::pin(stash.drained()), &waker).is_ready());
    });
}

#[test]
fn a_waker_whose_clone_panics_does_not_wait_to_drain() {
    must_come_back(|| {
        let (stash, _) = hall();
        let room = stash.try_reserve(100).unwrap();
        let mut drained = Box::pin(stash.drained());
        let (_, bad) = Hooks::new().on_clone(boom).waker();
        reaches_the_caller(|| _ = poll(&mut drained, &bad));
        let (woken, waker) = counting();
        assert!(poll(&mut drained, &waker).is_pending());
        reaches_the_caller(|| _ = poll(&mut drained, &bad));
        stash.close();
        drop(room);
        assert_eq!(woken.get(), 1);
        ready(&mut drained);
    });
}

// ---- Owners ----------------------------------------------------------------------------------------

thread_local! {
    static EQ_PANICS: Cell<bool> = const { Cell::new(false) };
    /// The how manieth from now.
    static HASH_PANICS: Cell<u32> = const { Cell::new(0) };
}

#[derive(Debug)]
struct Guest(u8);

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
        match HASH_PANICS.get() {
            0 => {}
            n => {
                HASH_PANICS.set(n - 1);
                if n == 1 {
                    boom();
                }
            }
        }
        self.0.hash(state);
    }
}

fn guests() -> (Stash<Coat, Guest>, ManualClock) {
    let clock = ManualClock::new();
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL).clock(clock.clone());
    (builder.max_bytes_per_owner(100).build().unwrap(), clock)
}

#[test]
fn an_entry_is_still_there_after_its_owners_eq_panicked_in_a_claim() {
    must_come_back(|| {
        let (stash, clock) = guests();
        let live = Live::new();
        let ticket = stash.try_put(Guest(1), live.coat(40)).unwrap();
        for _ in 0..3 {
            EQ_PANICS.set(true);
            reaches_the_caller(|| drop(stash.claim(&ticket, &Guest(1))));
            assert_eq!(state(&stash), (1, 40, 0));
        }
        let stats = super::stats(&stash);
        assert_eq!((stats.claimed, stats.put_back, stats.claims), (0, 0, 0), "nobody claimed it");
        let claim = stash.claim(&ticket, &Guest(1)).unwrap();
        assert_eq!(super::stats(&stash).claims, 1);
        assert!(claim.put_back());
        // And for the sweep.
        EQ_PANICS.set(true);
        reaches_the_caller(|| drop(stash.claim(&ticket, &Guest(1))));
        clock.advance(TTL);
        assert_eq!((stash.gc(), stash.owner_used_bytes(&Guest(1))), (1, 0));
    });
}

#[test]
fn an_owners_hash_that_panics_reserves_and_claims_nothing() {
    must_come_back(|| {
        let (stash, _) = guests();
        let live = Live::new();
        HASH_PANICS.set(1);
        reaches_the_caller(|| drop(stash.try_reserve_for(&Guest(1), 10)));
        HASH_PANICS.set(1);
        reaches_the_caller(|| drop(stash.reserve_for(&Guest(1), 10)));
        HASH_PANICS.set(1);
        reaches_the_caller(|| drop(stash.reserve_timeout_for(&Guest(1), 10, TTL)));
        assert_eq!(state(&stash), (0, 0, 0));
        let ticket = stash.try_put(Guest(1), live.coat(40)).unwrap();
        HASH_PANICS.set(1);
        reaches_the_caller(|| drop(stash.claim(&ticket, &Guest(1))));
        assert!(stash.claim(&ticket, &Guest(1)).unwrap().put_back());
        assert_eq!(super::stats(&stash).claimed, 1);
    });
}

/// Whichever of the times that it is hashed: for the account, for the slot.
#[test]
fn an_owners_hash_that_panics_on_the_way_in_costs_no_bytes() {
    must_come_back(|| {
        let (stash, _) = guests();
        let live = Live::new();
        for at in 1..=2 {
            for reserved_for in [None, Some(Guest(1)), Some(Guest(2))] {
                let room = match &reserved_for {
                    None => stash.try_reserve(40).unwrap(),
                    Some(guest) => stash.try_reserve_for(guest, 40).unwrap(),
                };
                let mut next = put_task(&stash, Guest(3), live.coat(100));
                let woken = queue(&mut next);
                HASH_PANICS.set(at);
                reaches_the_caller(|| drop(room.put(Guest(1), live.coat(40))));
                assert_eq!((woken.get(), stash.used_bytes()), (1, 100));
                drop(next);
            }
            HASH_PANICS.set(at);
            reaches_the_caller(|| drop(stash.try_put(Guest(1), live.coat(40))));
            HASH_PANICS.set(at);
            reaches_the_caller(|| {
                let mut put = Box::pin(stash.put(Guest(1), live.coat(40)));
                drop(poll_once(&mut put));
            });
        }
        assert_eq!((state(&stash), live.get()), ((0, 0, 0), 0));
        assert!((1..=3).all(|guest| stash.owner_used_bytes(&Guest(guest)) == 0));
    });
}

// ---- The clock -------------------------------------------------------------------------------------

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
        assert_eq!((state(&stash), live.get(), super::stats(&stash).claims), ((0, 0, 0), 0, 0));
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
