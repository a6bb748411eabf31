//! An owner calls back in `Eq` or `Hash`.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use cloakroom::Stash;

use crate::support::{Counted, Live, TTL, must_come_back, poll_once, put_task, stash_of};

type NextCall = RefCell<Option<Rc<dyn Fn()>>>;

thread_local! {
    /// Run by the next `Eq` or `Hash` of an owner on this thread, and not by those that it leads to.
    static ON_EQ: NextCall = const { RefCell::new(None) };
    static ON_HASH: NextCall = const { RefCell::new(None) };
}

fn run_once(hook: &'static std::thread::LocalKey<NextCall>) {
    let hook = hook.with_borrow_mut(Option::take);
    if let Some(hook) = hook {
        hook();
    }
}

#[derive(Debug)]
struct CallingOwner(u8);

impl PartialEq for CallingOwner {
    fn eq(&self, other: &Self) -> bool {
        run_once(&ON_EQ);
        self.0 == other.0
    }
}
impl Eq for CallingOwner {}

impl Hash for CallingOwner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        run_once(&ON_HASH);
        self.0.hash(state);
    }
}

type OwnedStash = Stash<Counted, CallingOwner>;

fn on_eq(hook: impl Fn() + 'static) {
    ON_EQ.set(Some(Rc::new(hook)));
}

fn on_hash(hook: impl Fn() + 'static) {
    ON_HASH.set(Some(Rc::new(hook)));
}

/// All hooks have run: a test whose hook is never reached tests nothing.
fn all_ran() -> bool {
    ON_EQ.with_borrow(Option::is_none) && ON_HASH.with_borrow(Option::is_none)
}

/// Takes with a hook that takes the same ticket, and returns how many got the payload.
fn taken_twice(set: fn(Box<dyn Fn()>)) -> u32 {
    let (stash, _) = stash_of::<Counted, CallingOwner>(100);
    let live = Live::new();
    let ticket = stash.try_put(CallingOwner(1), live.counted(10)).unwrap();
    let inner = Rc::new(Cell::new(0));
    let (again, count) = (stash.clone(), Rc::clone(&inner));
    set(Box::new(move || count.set(u32::from(again.take(&ticket, &CallingOwner(1)).is_some()))));
    let outer = u32::from(stash.take(&ticket, &CallingOwner(1)).is_some());
    assert!(all_ran());
    assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    inner.get() + outer
}

#[test]
fn an_owners_eq_that_takes_the_same_ticket_gets_one_payload_in_all() {
    must_come_back(|| assert_eq!(taken_twice(on_eq), 1));
}

#[test]
fn an_owners_hash_that_takes_the_same_ticket_gets_one_payload_in_all() {
    must_come_back(|| assert_eq!(taken_twice(on_hash), 1));
}

/// What an owner's code may do to the stash meanwhile.
const OWNER_CALLS: &[fn(&OwnedStash, &Live)] = &[
    |stash, _| {
        stash.gc();
    },
    |stash, _| {
        stash.clear();
    },
    |stash, live| {
        let ticket = stash.try_put(CallingOwner(7), live.counted(1)).unwrap();
        assert!(stash.take(&ticket, &CallingOwner(7)).is_some());
    },
    |stash, live| {
        let mut put = put_task(stash, CallingOwner(7), live.counted(100));
        assert!(poll_once(&mut put).is_pending());
    },
    |stash, _| {
        let _ = (stash.len(), stash.used_bytes(), stash.waiting());
    },
];

#[test]
fn an_owners_eq_may_call_anything_and_the_payload_is_delivered() {
    for &call in OWNER_CALLS {
        must_come_back(move || {
            let (stash, _) = stash_of::<Counted, CallingOwner>(100);
            let live = Live::new();
            let ticket = stash.try_put(CallingOwner(1), live.counted(40)).unwrap();
            let (again, other) = (stash.clone(), live.clone());
            on_eq(move || call(&again, &other));
            // It was won before the owner was asked, so even `clear` passes by.
            assert!(stash.take(&ticket, &CallingOwner(1)).is_some());
            assert!(all_ran());
            assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
        });
    }
}

#[test]
fn an_owners_hash_may_call_anything_on_the_way_in_and_out() {
    for &call in OWNER_CALLS {
        must_come_back(move || {
            let (stash, _) = stash_of::<Counted, CallingOwner>(100);
            let live = Live::new();
            let calling = || {
                let (again, other) = (stash.clone(), live.clone());
                on_hash(move || call(&again, &other));
            };
            calling();
            let ticket = stash.try_put(CallingOwner(1), live.counted(40)).unwrap();
            assert!(all_ran());
            assert_eq!(stash.used_bytes(), 40);
            calling();
            // Before the slot is touched: `clear` finds the entry, and is the one to remove it.
            drop(stash.take(&ticket, &CallingOwner(1)));
            assert!(all_ran());
            assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
        });
    }
}

#[test]
fn an_expired_entry_whose_owner_sweeps_in_its_eq_is_freed_once() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Counted, CallingOwner>(100);
        let live = Live::new();
        let ticket = stash.try_put(CallingOwner(1), live.counted(40)).unwrap();
        let _ = stash.try_put(CallingOwner(2), live.counted(60)).unwrap();
        clock.advance(TTL);
        let again = stash.clone();
        on_eq(move || assert_eq!(again.gc(), 1, "the other one"));
        assert!(stash.take(&ticket, &CallingOwner(1)).is_none());
        assert!(all_ran());
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
        assert_eq!(stash.gc(), 0);
    });
}

/// All of them have the same hash, as `Hash` allows: then `Eq` alone identifies the owner.
#[derive(Debug)]
struct SameHash(u8);

impl PartialEq for SameHash {
    fn eq(&self, other: &Self) -> bool {
        run_once(&ON_EQ);
        self.0 == other.0
    }
}
impl Eq for SameHash {}

impl Hash for SameHash {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[test]
fn owners_with_the_same_hash_are_told_apart() {
    let (stash, clock) = stash_of::<Counted, SameHash>(100);
    let live = Live::new();
    let ticket = stash.try_put(SameHash(1), live.counted(40)).unwrap();
    assert!(stash.take(&ticket, &SameHash(2)).is_none());
    assert_eq!((stash.len(), stash.used_bytes()), (1, 40));
    clock.advance(TTL);
    // The attempt of the wrong owner has not hidden it from the sweep.
    assert!(stash.take(&ticket, &SameHash(2)).is_none());
    assert_eq!(stash.gc(), 1);
    assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
}

/// A known limit of owners whose `Hash` does not tell them apart: the entry is out of reach while the
/// wrong one is compared. It is not lost by that.
#[test]
fn a_wrong_owner_with_the_same_hash_hides_the_entry_only_while_it_is_compared() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, SameHash>(100);
        let live = Live::new();
        let ticket = stash.try_put(SameHash(1), live.counted(40)).unwrap();
        let meanwhile = stash.clone();
        on_eq(move || assert!(meanwhile.take(&ticket, &SameHash(1)).is_none()));
        assert!(stash.take(&ticket, &SameHash(2)).is_none());
        assert!(all_ran());
        assert!(stash.take(&ticket, &SameHash(1)).is_some(), "the rightful owner was refused");
    });
}
