//! The payload of a claim calls back when the claim ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cloakroom::OnDrop;

use super::CLAIM_CALLS;
use crate::fixtures::{ALICE, BOB, state};
use crate::support::{Counted, Live, TTL, must_come_back, put_task, queue, ready, stash_of};

/// Its payload is dropped by the end of a claim: delivered, expired, cleared, or the last handle's.
#[test]
fn a_claimed_payloads_drop_may_call_anything() {
    for &(name, call) in CLAIM_CALLS {
        for ending in 0..4 {
            must_come_back(move || {
                println!("calling {name} at ending {ending}");
                let (stash, clock) = stash_of::<Counted, u8>(100);
                let live = Live::new();
                let (again, other) = (stash.clone(), live.clone());
                let dropped = Arc::new(AtomicBool::new(false));
                let note = Arc::clone(&dropped);
                let counted = live.counted(60).on_drop(move || {
                    note.store(true, Ordering::SeqCst);
                    call(&again, &other);
                });
                let ticket = stash.try_put(ALICE, counted).unwrap();
                let mut next = put_task(&stash, BOB, live.counted(100));
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

/// A payload that is dropped by an expiring claim and holds the last handle.
#[test]
fn a_claim_may_be_the_end_of_the_stash() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let inner = stash.clone();
        let counted = live.counted(10).on_drop(move || _ = (inner.gc(), inner.stats()));
        let ticket = stash.try_put(ALICE, counted).unwrap();
        let _ = stash.try_put(ALICE, live.counted(10)).unwrap();
        let claim = stash.claim(&ticket, &ALICE).unwrap();
        drop(stash);
        clock.advance(TTL);
        drop(claim);
        assert_eq!(live.get(), 0);
    });
}
