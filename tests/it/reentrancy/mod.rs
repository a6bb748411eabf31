//! Promise 6: user code may call any method of the same stash wherever the crate runs it. Here each such
//! place calls back. One file for each kind of user code.
//!
//! [`must_come_back`] turns a deadlock into a failure. Each test also checks that the order is kept, that
//! no waiter is woken twice, and that all bytes come back.

mod claims;
mod clocks;
mod drained;
mod observers;
mod owners;
mod payloads;
mod until;
mod waker_clone_and_drop;
mod wakes;

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cloakroom::{Clock, Event, ManualClock, Observer, OnDrop, PutOptions, Stash, Ticket};

use crate::fixtures::{ALICE, BOB, SECOND, checked_stats, state};
use crate::support::{Counted, Live, TTL, must_come_back, poll_once, put_task, ready, stash_of};

type CountedStash = Stash<Counted, u8>;

/// What user code may call while the crate runs it. Each leaves nothing behind but what it says.
type Call = fn(&CountedStash, &Live);

const CALLS: &[(&str, Call)] = &[
    ("gc", |stash, _| {
        stash.gc();
    }),
    ("clear", |stash, _| {
        stash.clear();
    }),
    ("take", |stash, _| drop(stash.take(&unknown(), &0))),
    ("try_put", |stash, live| {
        if let Ok(ticket) = stash.try_put(9, live.counted(1)) {
            assert!(stash.take(&ticket, &9).is_some());
        }
    }),
    ("put, polled and dropped", |stash, live| {
        let mut put = put_task(stash, 9, live.counted(100));
        let _ = poll_once(&mut put).map(|done| {
            drop(done.map(|ticket| stash.take(&ticket, &9)));
        });
    }),
    ("put_timeout", |stash, live| {
        if let Ok(ticket) = stash.put_timeout(9, live.counted(1), Duration::from_millis(1)) {
            assert!(stash.take(&ticket, &9).is_some());
        }
    }),
    ("the numbers", |stash, _| {
        let _ = (stash.len(), stash.used_bytes(), stash.waiting(), format!("{stash:?}"));
    }),
    ("a clone dropped", |stash, _| drop(stash.clone())),
    ("a reaper made", |stash, _| drop(stash.reaper())),
];

/// A ticket that was never issued.
fn unknown() -> Ticket {
    "00000000-0000-8000-8000-000000000000".parse().unwrap()
}

/// Runs the body once for each call, on a fresh stash with a limit of 100.
fn with_each_call(body: fn(&CountedStash, &ManualClock, &Live, Call)) {
    for &(name, call) in CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (stash, clock) = stash_of(100);
            let live = Live::new();
            body(&stash, &clock, &live, call);
            stash.clear();
            assert_eq!((stash.used_bytes(), stash.len(), stash.waiting()), (0, 0, 0));
            assert_eq!(live.get(), 0, "payloads alive");
        });
    }
}

const CLAIM_CALLS: &[(&str, Call)] = &[
    ("gc", |stash, _| _ = stash.gc()),
    ("clear", |stash, _| _ = stash.clear()),
    ("stats", |stash, _| _ = stash.stats()),
    ("the numbers", |stash, _| {
        let _ = (stash.len(), stash.used_bytes(), stash.owner_used_bytes(&9), stash.max_bytes());
        let _ = format!("{stash:?} {:?}", stash.budget());
    }),
    ("put, claim and put back, claim and deliver", |stash, live| {
        if let Ok(ticket) = stash.try_put(9, live.counted(1)) {
            if stash.claim(&ticket, &9).is_some_and(|claim| claim.put_back()) {
                drop(stash.claim(&ticket, &9).map(|claim| claim.on_drop(OnDrop::Finish)));
            }
            drop(stash.take(&ticket, &9));
        }
    }),
    ("put for a moment", |stash, live| {
        let _ = stash.try_put_with(9, live.counted(1), PutOptions::new().ttl(Duration::ZERO));
        stash.gc();
    }),
    ("reserve and drop", |stash, _| drop(stash.try_reserve_for(&9, 1))),
    ("reserve and use", |stash, live| {
        if let Ok(room) = stash.try_reserve(2) {
            let ticket = room.put(9, live.counted(1)).unwrap();
            drop(stash.take(&ticket, &9));
        }
    }),
    ("wait and leave", |stash, live| {
        let mut put = put_task(stash, 9, live.counted(50));
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

fn counted_stash(observer: impl Observer, clock: impl Clock) -> CountedStash {
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL).clock(clock);
    let builder = builder.max_bytes_per_owner(100).max_waiting(10).observer(observer);
    builder.build().unwrap()
}

/// Everything that tells an observer something, and each kind of user code, on the way.
fn everything(stash: &CountedStash, clock: &ManualClock, live: &Live) {
    let Ok(ticket) = stash.try_put(ALICE, live.counted(60)) else { return };
    drop(stash.claim(&ticket, &ALICE));
    drop(stash.claim(&ticket, &ALICE).map(|claim| claim.on_drop(OnDrop::Finish)));
    let full = stash.try_put(ALICE, live.counted(100));
    let mut head = put_task(stash, BOB, live.counted(70));
    let head_done = poll_once(&mut head);
    drop(stash.try_put(BOB, live.counted(7)));
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
        drop(room.put_with(ALICE, live.counted(10), PutOptions::new().ttl(SECOND)));
    }
    let expiring = stash.try_put(ALICE, live.counted(10)).unwrap();
    let claim = stash.claim(&expiring, &ALICE);
    clock.advance(TTL);
    drop(claim);
    stash.gc();
    let cleared = stash.try_put(ALICE, live.counted(10)).unwrap();
    let claim = stash.claim(&cleared, &ALICE);
    drop((stash.clear(), claim));
}

fn nothing_is_left(stash: &CountedStash, live: &Live) {
    stash.clear();
    assert_eq!((state(stash), live.get()), ((0, 0, 0), 0));
    assert!([ALICE, BOB, 9].iter().all(|owner| stash.owner_used_bytes(owner) == 0));
    assert_eq!(checked_stats(stash).claims, 0);
}

thread_local!(static BUSY: Cell<bool> = const { Cell::new(false) });

/// Calls unless it is what the call does that came here.
fn once_deep(call: impl FnOnce()) {
    if !BUSY.replace(true) {
        call();
        BUSY.set(false);
    }
}

struct Calls(Arc<OnceLock<CountedStash>>, Live, Call);

impl Observer for Calls {
    fn event(&self, _: Event) {
        let Some(stash) = self.0.get() else { return };
        once_deep(|| (self.2)(stash, &self.1));
    }
}
