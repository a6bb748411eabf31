//! Promise 6 on the ways that lie beyond the original: observers, drains, claims, reservations.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use cloakroom::{Clock, OnDrop, PutOptions, Refusal};

use super::support::{
    Hooks, Live, Shelf, TTL, must_come_back, poll, poll_once, put_task, queue, ready, stash_of,
};
use super::*;

type Coats = Stash<Coat, u8>;

/// What user code may call while the crate runs it.
type Call = fn(&Coats, &Live);

const CALLS: &[(&str, Call)] = &[
    ("gc", |stash, _| _ = stash.gc()),
    ("clear", |stash, _| _ = stash.clear()),
    ("stats", |stash, _| _ = stash.stats()),
    ("the numbers", |stash, _| {
        let _ = (stash.len(), stash.used_bytes(), stash.owner_used_bytes(&9), stash.max_bytes());
        let _ = format!("{stash:?} {:?}", stash.budget());
    }),
    ("put, claim and put back, claim and deliver", |stash, live| {
        if let Ok(ticket) = stash.try_put(9, live.coat(1)) {
            if stash.claim(&ticket, &9).is_some_and(|claim| claim.put_back()) {
                drop(stash.claim(&ticket, &9).map(|claim| claim.on_drop(OnDrop::Finish)));
            }
            drop(stash.take(&ticket, &9));
        }
    }),
    ("put for a moment", |stash, live| {
        let _ = stash.try_put_with(9, live.coat(1), PutOptions::new().ttl(Duration::ZERO));
        stash.gc();
    }),
    ("reserve and drop", |stash, _| drop(stash.try_reserve_for(&9, 1))),
    ("reserve and use", |stash, live| {
        if let Ok(room) = stash.try_reserve(2) {
            let ticket = room.put(9, live.coat(1)).unwrap();
            drop(stash.take(&ticket, &9));
        }
    }),
    ("wait in line and leave", |stash, live| {
        let mut put = put_task(stash, 9, live.coat(50));
        let _ = poll_once(&mut put).map(|done| drop(done.map(|ticket| stash.take(&ticket, &9))));
        let mut room = Box::pin(stash.reserve(50));
        drop(poll_once(&mut room));
    }),
    ("wait to drain and leave", |stash, _| {
        let mut drained = Box::pin(stash.drained());
        let _ = (poll_once(&mut drained), stash.drained_timeout(Duration::ZERO));
    }),
    ("resize", |stash, _| {
        let max = stash.max_bytes();
        stash.set_max_bytes(max + 1);
        stash.set_max_bytes(max);
    }),
    ("a reaper made and dropped", |stash, _| drop(stash.reaper())),
];

fn coats(observer: impl Observer, clock: impl Clock) -> Coats {
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL).clock(clock);
    let builder = builder.max_bytes_per_owner(100).max_waiting(10).observer(observer);
    builder.build().unwrap()
}

/// Everything that tells an observer something, and each kind of user code, on the way.
fn everything(stash: &Coats, clock: &ManualClock, live: &Live) {
    let Ok(ticket) = stash.try_put(ALICE, live.coat(60)) else { return };
    drop(stash.claim(&ticket, &ALICE));
    drop(stash.claim(&ticket, &ALICE).map(|claim| claim.on_drop(OnDrop::Finish)));
    let full = stash.try_put(ALICE, live.coat(100));
    let mut head = put_task(stash, BOB, live.coat(70));
    let head_done = poll_once(&mut head);
    drop(stash.try_put(BOB, live.coat(7)));
    if let Ok(full) = full {
        drop(stash.take(&full, &ALICE));
    }
    if head_done.is_pending() {
        drop(poll_once(&mut head));
    }
    drop(head);
    let room = ready(&mut Box::pin(stash.reserve(10)));
    clock.advance(TTL);
    if let Ok(room) = room {
        drop(room.put_with(ALICE, live.coat(10), PutOptions::new().ttl(SECOND)));
    }
    let expiring = stash.try_put(ALICE, live.coat(10)).unwrap();
    let claim = stash.claim(&expiring, &ALICE);
    clock.advance(TTL);
    drop(claim);
    stash.gc();
    let cleared = stash.try_put(ALICE, live.coat(10)).unwrap();
    let claim = stash.claim(&cleared, &ALICE);
    drop((stash.clear(), claim));
}

fn nothing_is_left(stash: &Coats, live: &Live) {
    stash.clear();
    assert_eq!((state(stash), live.get()), ((0, 0, 0), 0));
    assert!([ALICE, BOB, 9].iter().all(|owner| stash.owner_used_bytes(owner) == 0));
    assert_eq!(super::stats(stash).claims, 0);
}

thread_local!(static BUSY: Cell<bool> = const { Cell::new(false) });

/// Calls unless it is what the call does that came here.
fn once_deep(call: impl FnOnce()) {
    if !BUSY.replace(true) {
        call();
        BUSY.set(false);
    }
}

struct Calls(Arc<OnceLock<Coats>>, Live, Call);

impl Observer for Calls {
    fn event(&self, _: Event) {
        let Some(stash) = self.0.get() else { return };
        once_deep(|| (self.2)(stash, &self.1));
    }
}

#[test]
fn an_observer_may_call_anything() {
    for &(name, call) in CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (slot, clock, live) = (Arc::default(), ManualClock::new(), Live::new());
            let stash = coats(Calls(Arc::clone(&slot), live.clone(), call), clock.clone());
            assert!(slot.set(stash.clone()).is_ok());
            everything(&stash, &clock, &live);
            nothing_is_left(&stash, &live);
        });
    }
}

/// A clock that calls whenever it is asked, in the claim, its putting back, a wait's beginning, its end.
struct CallingClock(ManualClock, Calls);

impl Clock for CallingClock {
    fn now(&self) -> Duration {
        self.1.event(Event::Claimed { bytes: 0 });
        self.0.now()
    }
}

#[test]
fn a_clock_may_call_anything() {
    for &(name, call) in CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (slot, clock, live) = (Arc::default(), ManualClock::new(), Live::new());
            let calls = Calls(Arc::clone(&slot), live.clone(), call);
            let stash = coats(Diary::default(), CallingClock(clock.clone(), calls));
            assert!(slot.set(stash.clone()).is_ok());
            everything(&stash, &clock, &live);
            BUSY.set(true);
            nothing_is_left(&stash, &live);
            BUSY.set(false);
        });
    }
}

/// Its payload is dropped by the end of a claim: delivered, expired, cleared, or the last handle's.
#[test]
fn a_claimed_payloads_drop_may_call_anything() {
    for &(name, call) in CALLS {
        for ending in 0..4 {
            must_come_back(move || {
                println!("calling {name} at ending {ending}");
                let (stash, clock) = stash_of::<Coat, u8>(100);
                let live = Live::new();
                let (again, other) = (stash.clone(), live.clone());
                let dropped = Arc::new(AtomicBool::new(false));
                let note = Arc::clone(&dropped);
                let coat = live.coat(60).on_drop(move || {
                    note.store(true, Ordering::SeqCst);
                    call(&again, &other);
                });
                let ticket = stash.try_put(ALICE, coat).unwrap();
                let mut next = put_task(&stash, BOB, live.coat(100));
                let woken = queue(&mut next);
                let claim = stash.claim(&ticket, &ALICE).unwrap();
                match ending {
                    0 => drop(claim.on_drop(OnDrop::Finish)),
                    1 => drop(claim.into_inner()),
                    2 => {
                        clock.advance(TTL);
                        assert!(!claim.put_back());
                    }
                    _ => {
                        stash.clear();
                        assert!(!claim.put_back());
                    }
                }
                assert!(dropped.load(Ordering::SeqCst));
                assert_eq!((woken.get(), stash.used_bytes()), (1, 100));
                let ticket = ready(&mut next).unwrap();
                assert!(stash.take(&ticket, &BOB).is_some());
                assert_eq!((state(&stash), live.get()), ((0, 0, 0), 0));
            });
        }
    }
}

#[test]
fn the_waker_of_one_who_waits_to_drain_may_call_anything() {
    for &(name, call) in CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (stash, _) = stash_of::<Coat, u8>(100);
            let live = Live::new();
            let ticket = stash.try_put(ALICE, live.coat(60)).unwrap();
            let mut waiting = Vec::new();
            for _ in 0..20 {
                let (handle, again, other) = (stash.clone(), stash.clone(), live.clone());
                let shelf = Shelf::new(Box::pin(async move { handle.drained().await }));
                let inline = Arc::clone(&shelf);
                let (count, waker) = Hooks::new()
                    .on_wake(move || {
                        call(&again, &other);
                        assert!(inline.poll_once().is_some(), "drained, inside of the wake");
                        assert!(poll_once(&mut Box::pin(again.drained())).is_ready());
                        drop((again.clear(), again.take(&ticket, &ALICE), again.close()));
                    })
                    .waker();
                assert!(shelf.poll(&waker).is_none());
                waiting.push((count, shelf));
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
    for &(name, call) in CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (stash, _) = stash_of::<Coat, u8>(100);
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

/// Closes and clears in the wake of one who was granted: it has its bytes all the same.
#[test]
fn a_reservation_granted_in_a_wake_that_closes_is_good() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let full = stash.try_put(ALICE, live.coat(100)).unwrap();
        let again = stash.clone();
        let (_, waker) = Hooks::new().on_wake(move || _ = (again.close(), again.clear())).waker();
        let mut room = Box::pin(stash.reserve(60));
        assert!(poll(&mut room, &waker).is_pending());
        let mut next = Box::pin(stash.reserve(60));
        queue(&mut next);
        assert!(stash.take(&full, &ALICE).is_some());
        let ticket = ready(&mut room).unwrap().put(BOB, live.coat(60)).unwrap();
        assert_eq!(ready(&mut next).unwrap_err().reason(), Refusal::Closed);
        assert!(stash.take(&ticket, &BOB).is_some());
        assert!(stash.drained_timeout(Duration::ZERO));
    });
}

/// A payload that is dropped by an expiring claim and holds the last handle.
#[test]
fn a_claim_may_be_the_end_of_the_stash() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Coat, u8>(100);
        let live = Live::new();
        let inner = stash.clone();
        let coat = live.coat(10).on_drop(move || _ = (inner.gc(), inner.stats()));
        let ticket = stash.try_put(ALICE, coat).unwrap();
        let _ = stash.try_put(ALICE, live.coat(10)).unwrap();
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        drop(stash);
        clock.advance(TTL);
        drop(claim);
        assert_eq!(live.get(), 0);
    });
}
