//! Owners whose `Eq`, `Hash` or drop panics.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;

use cloakroom::{ManualClock, Stash};

use super::{boom, reaches_the_caller};
use crate::fixtures::{checked_stats, state};
use crate::support::{
    Counted, Live, TTL, must_come_back, poll_once, put_task, queue, ready, stash_of,
};

thread_local! {
    static EQ_PANICS: Cell<bool> = const { Cell::new(false) };
    /// Counts down: the call of `hash` that finds 1 panics.
    static HASH_PANICS: Cell<u32> = const { Cell::new(0) };
}

/// An owner whose `Eq` and `Hash` panic when told to; its drop panics if its payload's does.
#[derive(Debug)]
struct PanickingOwner(u8, #[expect(dead_code)] Option<Counted>);

impl PartialEq for PanickingOwner {
    fn eq(&self, other: &Self) -> bool {
        if EQ_PANICS.take() {
            boom();
        }
        self.0 == other.0
    }
}
impl Eq for PanickingOwner {}

impl Hash for PanickingOwner {
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

fn owner(number: u8) -> PanickingOwner {
    PanickingOwner(number, None)
}

#[test]
fn b14_an_owner_whose_eq_or_hash_panics_leaves_the_entry() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, PanickingOwner>(100);
        let live = Live::new();
        let ticket = stash.try_put(owner(1), live.counted(40)).unwrap();
        EQ_PANICS.set(true);
        drop(stash.unsent(ticket, owner(1)));
        assert!(!EQ_PANICS.get(), "it was asked");
        HASH_PANICS.set(1);
        drop(stash.unsent(ticket, owner(1)));
        assert_eq!(
            (HASH_PANICS.get(), state(&stash), checked_stats(&stash).unsent),
            (0, (1, 40, 0), 0)
        );
        drop(stash.unsent(ticket, owner(1)));
        assert_eq!((state(&stash), checked_stats(&stash).unsent), ((0, 0, 0), 1));
    });
}

#[test]
fn an_entry_is_still_there_after_its_owners_eq_panicked() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Counted, PanickingOwner>(100);
        let live = Live::new();
        let ticket = stash.try_put(owner(1), live.counted(40)).unwrap();
        for _ in 0..2 {
            EQ_PANICS.set(true);
            reaches_the_caller(|| _ = stash.take(&ticket, &owner(1)));
            assert_eq!((stash.len(), stash.used_bytes()), (1, 40));
        }
        assert_eq!(stash.take(&ticket, &owner(1)).unwrap().size, 40);
        // And for the sweep.
        let ticket = stash.try_put(owner(1), live.counted(40)).unwrap();
        EQ_PANICS.set(true);
        reaches_the_caller(|| _ = stash.take(&ticket, &owner(1)));
        clock.advance(TTL);
        assert_eq!(stash.gc(), 1);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

#[test]
fn an_entry_is_untouched_when_its_owners_hash_panics() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, PanickingOwner>(100);
        let live = Live::new();
        let ticket = stash.try_put(owner(1), live.counted(40)).unwrap();
        HASH_PANICS.set(1);
        reaches_the_caller(|| _ = stash.take(&ticket, &owner(1)));
        assert_eq!(stash.take(&ticket, &owner(1)).unwrap().size, 40);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

#[test]
fn a_put_whose_owners_hash_panics_gives_its_bytes_back_and_the_next_is_served() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, PanickingOwner>(100);
        let live = Live::new();
        HASH_PANICS.set(1);
        reaches_the_caller(|| _ = stash.try_put(owner(1), live.counted(40)));
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));

        let full = stash.try_put(owner(1), live.counted(100)).unwrap();
        let mut first = put_task(&stash, owner(2), live.counted(100));
        let mut next = put_task(&stash, owner(3), live.counted(100));
        let (first_woken, next_woken) = (queue(&mut first), queue(&mut next));
        drop(stash.take(&full, &owner(1)));
        HASH_PANICS.set(1);
        reaches_the_caller(|| _ = poll_once(&mut first));
        assert_eq!((first_woken.get(), next_woken.get()), (1, 1));
        assert!(ready(&mut next).is_ok());
        assert_eq!((stash.len(), stash.used_bytes()), (1, 100));
        assert_eq!(stash.clear(), 1);
        assert_eq!((stash.used_bytes(), live.get()), (0, 0));
    });
}

#[test]
fn an_owner_whose_drop_panics_costs_nobody_the_payload() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Counted, PanickingOwner>(100);
        let live = Live::new();
        let angry = || PanickingOwner(1, Some(live.counted(0).on_drop(boom)));
        let ticket = stash.try_put(angry(), live.counted(40)).unwrap();
        assert_eq!(stash.take(&ticket, &owner(1)).unwrap().size, 40);
        let ticket = stash.try_put(angry(), live.counted(40)).unwrap();
        let _ = stash.try_put(angry(), live.counted(40)).unwrap();
        clock.advance(TTL);
        assert!(stash.take(&ticket, &owner(1)).is_none());
        assert_eq!(stash.gc(), 1);
        let _ = stash.try_put(angry(), live.counted(40)).unwrap();
        assert_eq!(stash.clear(), 1);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

fn stash_with_quota() -> (Stash<Counted, PanickingOwner>, ManualClock) {
    let clock = ManualClock::new();
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL).clock(clock.clone());
    (builder.max_bytes_per_owner(100).build().unwrap(), clock)
}

#[test]
fn an_entry_is_still_there_after_its_owners_eq_panicked_in_a_claim() {
    must_come_back(|| {
        let (stash, clock) = stash_with_quota();
        let live = Live::new();
        let ticket = stash.try_put(owner(1), live.counted(40)).unwrap();
        for _ in 0..3 {
            EQ_PANICS.set(true);
            reaches_the_caller(|| drop(stash.claim(&ticket, &owner(1))));
            assert_eq!(state(&stash), (1, 40, 0));
        }
        let stats = checked_stats(&stash);
        assert_eq!((stats.claimed, stats.put_back, stats.claims), (0, 0, 0), "nobody claimed it");
        let claim = stash.claim(&ticket, &owner(1)).unwrap();
        assert_eq!(checked_stats(&stash).claims, 1);
        assert!(claim.put_back());
        // And for the sweep.
        EQ_PANICS.set(true);
        reaches_the_caller(|| drop(stash.claim(&ticket, &owner(1))));
        clock.advance(TTL);
        assert_eq!((stash.gc(), stash.owner_used_bytes(&owner(1))), (1, 0));
    });
}

#[test]
fn an_owners_hash_that_panics_reserves_and_claims_nothing() {
    must_come_back(|| {
        let (stash, _) = stash_with_quota();
        let live = Live::new();
        HASH_PANICS.set(1);
        reaches_the_caller(|| drop(stash.try_reserve_for(&owner(1), 10)));
        HASH_PANICS.set(1);
        reaches_the_caller(|| drop(stash.reserve_for(&owner(1), 10)));
        HASH_PANICS.set(1);
        reaches_the_caller(|| drop(stash.reserve_timeout_for(&owner(1), 10, TTL)));
        assert_eq!(state(&stash), (0, 0, 0));
        let ticket = stash.try_put(owner(1), live.counted(40)).unwrap();
        HASH_PANICS.set(1);
        reaches_the_caller(|| drop(stash.claim(&ticket, &owner(1))));
        assert!(stash.claim(&ticket, &owner(1)).unwrap().put_back());
        assert_eq!(checked_stats(&stash).claimed, 1);
    });
}

/// At each of the two times that it is hashed: for the owner charge, and for the slot.
#[test]
fn an_owners_hash_that_panics_on_the_way_in_costs_no_bytes() {
    must_come_back(|| {
        let (stash, _) = stash_with_quota();
        let live = Live::new();
        for at in 1..=2 {
            for reserved_for in [None, Some(owner(1)), Some(owner(2))] {
                let room = match &reserved_for {
                    None => stash.try_reserve(40).unwrap(),
                    Some(owner) => stash.try_reserve_for(owner, 40).unwrap(),
                };
                let mut next = put_task(&stash, owner(3), live.counted(100));
                let woken = queue(&mut next);
                HASH_PANICS.set(at);
                reaches_the_caller(|| drop(room.put(owner(1), live.counted(40))));
                assert_eq!((woken.get(), stash.used_bytes()), (1, 100));
                drop(next);
            }
            HASH_PANICS.set(at);
            reaches_the_caller(|| drop(stash.try_put(owner(1), live.counted(40))));
            HASH_PANICS.set(at);
            reaches_the_caller(|| {
                let mut put = Box::pin(stash.put(owner(1), live.counted(40)));
                drop(poll_once(&mut put));
            });
        }
        assert_eq!((state(&stash), live.get()), ((0, 0, 0), 0));
        assert!((1..=3).all(|number| stash.owner_used_bytes(&owner(number)) == 0));
    });
}

/// An owner whose drop panics too.
#[derive(PartialEq, Eq, Hash)]
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        boom();
    }
}

#[test]
fn an_owner_and_a_payload_that_both_panic_when_dropped_are_contained_one_by_one() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Counted, PanicsOnDrop>(100);
        let live = Live::new();
        let _ = stash.try_put(PanicsOnDrop, live.counted(40).on_drop(boom)).unwrap();
        let ticket = stash.try_put(PanicsOnDrop, live.counted(40).on_drop(boom)).unwrap();
        assert_eq!(stash.clear(), 2);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
        assert!(stash.take(&ticket, &*ManuallyDrop::new(PanicsOnDrop)).is_none());

        let ticket = stash.try_put(PanicsOnDrop, live.counted(40).on_drop(boom)).unwrap();
        clock.advance(TTL);
        assert!(stash.take(&ticket, &*ManuallyDrop::new(PanicsOnDrop)).is_none(), "expired");
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}
