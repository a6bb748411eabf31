//! Payloads that panic when they are dropped, measured or read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cloakroom::{ManualClock, OnDrop, Payload, Refusal, Stash};

use super::{MANY, boom, reaches_the_caller};
use crate::fixtures::{ALICE, BOB, checked_stats, state};
use crate::support::{Counted, Live, TTL, must_come_back, put_task, queue, ready, stash_of};

/// The state after many payloads were dropped by a call, every second of which panicked.
fn drop_many(remove: impl FnOnce(&Stash<Counted, u8>, &ManualClock)) {
    let (stash, clock) = stash_of::<Counted, u8>(MANY as u64);
    let live = Live::new();
    for n in 0..MANY {
        let counted = live.counted(1);
        let counted = if n % 2 == 0 { counted.on_drop(boom) } else { counted };
        let _ = stash.try_put(0, counted).unwrap();
    }
    let mut waiters: Vec<_> = (0..MANY).map(|_| put_task(&stash, 1, live.counted(1))).collect();
    let woken: Vec<_> = waiters.iter_mut().map(queue).collect();
    remove(&stash, &clock);
    assert!(woken.iter().all(|count| count.get() == 1));
    assert_eq!(live.get(), MANY as isize, "only the payloads that waited");
    for put in &mut waiters {
        assert!(ready(put).is_ok());
    }
    assert_eq!((stash.len(), stash.used_bytes()), (MANY, MANY as u64));
    assert_eq!(stash.clear(), MANY);
    assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
}

#[test]
fn payloads_whose_drop_panics_in_gc_are_gone_with_all_others() {
    must_come_back(|| {
        drop_many(|stash, clock| {
            clock.advance(TTL);
            assert_eq!(stash.gc(), MANY);
        });
    });
}

#[test]
fn payloads_whose_drop_panics_in_clear_are_gone_with_all_others() {
    must_come_back(|| drop_many(|stash, _| assert_eq!(stash.clear(), MANY)));
}

#[test]
fn payloads_whose_drop_panics_in_the_sweep_of_a_put_do_not_fail_the_put() {
    must_come_back(|| {
        drop_many(|stash, clock| {
            clock.advance(TTL);
            let refused = stash.try_put(2, Live::new().counted(1)).unwrap_err();
            // Others waited for what the sweep freed.
            assert_eq!(refused.reason(), Refusal::Full);
        });
    });
}

#[test]
fn an_expired_payload_whose_drop_panics_in_take_does_not_fail_the_take() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Counted, u8>(10);
        let live = Live::new();
        let ticket = stash.try_put(0, live.counted(10).on_drop(boom)).unwrap();
        clock.advance(TTL);
        assert!(stash.take(&ticket, &0).is_none());
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

#[test]
fn payloads_whose_drop_panics_go_with_the_last_handle() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(MANY as u64);
        let live = Live::new();
        for _ in 0..MANY {
            let _ = stash.try_put(0, live.counted(1).on_drop(boom)).unwrap();
        }
        drop(stash);
        assert_eq!(live.get(), 0);
    });
}

#[test]
fn a_payload_whose_drop_panics_in_a_cancelled_put_strands_nobody() {
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        let _ = stash.try_put(0, live.counted(60)).unwrap();
        let mut head = put_task(&stash, 1, live.counted(50).on_drop(boom));
        queue(&mut head);
        let mut next = put_task(&stash, 1, live.counted(40));
        let woken = queue(&mut next);
        // It is the caller's own payload.
        reaches_the_caller(|| drop(head));
        assert_eq!(woken.get(), 1);
        assert!(ready(&mut next).is_ok());
        assert_eq!(stash.clear(), 2);
        assert_eq!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    });
}

#[test]
fn a_panic_whose_own_payload_panics_when_dropped_is_contained_too() {
    struct Twice;
    impl Drop for Twice {
        fn drop(&mut self) {
            boom();
        }
    }
    must_come_back(|| {
        let (stash, _) = stash_of::<Counted, u8>(10);
        let live = Live::new();
        let twice = || std::panic::panic_any(Twice);
        let _ = stash.try_put(0, live.counted(5).on_drop(twice)).unwrap();
        let _ = stash.try_put(0, live.counted(5)).unwrap();
        assert_eq!(stash.clear(), 2);
        assert_eq!((stash.used_bytes(), live.get()), (0, 0));
    });
}

#[test]
fn a_payload_that_panics_when_asked_for_its_size_is_not_put() {
    struct Unsized(#[expect(dead_code)] Counted);
    impl Payload for Unsized {
        fn size(&self) -> usize {
            boom();
            0
        }
    }
    must_come_back(|| {
        let (stash, _) = stash_of::<Unsized, u8>(10);
        let live = Live::new();
        reaches_the_caller(|| _ = stash.try_put(0, Unsized(live.counted(0))));
        reaches_the_caller(|| drop(stash.put(0, Unsized(live.counted(0)))));
        reaches_the_caller(|| _ = stash.put_timeout(0, Unsized(live.counted(0)), TTL));
        assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (0, 0, 0));
        assert_eq!(live.get(), 0);
    });
}

#[test]
fn a_claimed_payload_whose_drop_panics_is_gone_and_its_bytes_are_free() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        for ending in 0..4 {
            let ticket = stash.try_put(ALICE, live.counted(100).on_drop(boom)).unwrap();
            let mut next = put_task(&stash, BOB, live.counted(100));
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
        assert_eq!((state(&stash), checked_stats(&stash).claims), ((0, 0, 0), 0));
    });
}

/// Whichever last step of a claim reads it: the payload has not been delivered.
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
        assert_eq!((state(&stash), checked_stats(&stash).delivered), ((1, 10, 0), 0));
        sealed.store(false, Ordering::SeqCst);
        let bytes = stash.claim(&ticket, &ALICE).unwrap().into_bytes();
        assert_eq!((&bytes[..], stash.used_bytes()), (&b"ten bytes."[..], 10));
        drop(bytes);
        assert_eq!(state(&stash), (0, 0, 0));
    });
}

#[test]
fn a_payload_whose_size_panics_is_not_put_and_its_reservation_goes_to_the_next() {
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
