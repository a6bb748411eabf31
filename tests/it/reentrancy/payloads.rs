//! A payload calls back when it is dropped or asked for its size.

use cloakroom::{ManualClock, Payload, Stash, Ticket};

use super::{CALLS, Call, CountedStash, with_each_call};
use crate::support::{Counted, Live, TTL, must_come_back, put_task, queue, ready, stash_of};

/// Both ways in which entries are dropped by the stash while others wait.
#[test]
fn the_drop_of_a_payload_may_call_anything() {
    fn drop_by(
        remove: fn(&CountedStash, &Ticket),
        call: Call,
        stash: &CountedStash,
        clock: &ManualClock,
    ) {
        let live = Live::new();
        let mut tickets = Vec::new();
        for _ in 0..4 {
            let (again, other) = (stash.clone(), live.clone());
            let counted = live.counted(25).on_drop(move || call(&again, &other));
            tickets.push(stash.try_put(0, counted).unwrap());
        }
        let mut a = put_task(stash, 1, live.counted(60));
        let mut b = put_task(stash, 1, live.counted(60));
        let (a_woken, b_woken) = (queue(&mut a), queue(&mut b));
        clock.advance(TTL);
        tickets.iter().for_each(|ticket| remove(stash, ticket));
        assert_eq!((a_woken.get(), b_woken.get(), stash.used_bytes()), (1, 0, 60));
        drop((a, b));
        assert_eq!((live.get(), stash.used_bytes(), stash.len()), (0, 0, 0));
    }
    with_each_call(|stash, clock, _, call| {
        drop_by(|stash, _| _ = stash.gc(), call, stash, clock);
        drop_by(|stash, _| _ = stash.clear(), call, stash, clock);
        drop_by(|stash, ticket| drop(stash.unsent(*ticket, 0)), call, stash, clock);
        drop_by(|stash, ticket| assert!(stash.take(ticket, &0).is_none()), call, stash, clock);
    });
}

#[test]
fn the_drop_of_a_waiting_payload_may_call_anything() {
    with_each_call(|stash, _, live, call| {
        let full = stash.try_put(0, live.counted(100)).unwrap();
        let (again, other) = (stash.clone(), live.clone());
        let mut a = put_task(stash, 1, live.counted(60).on_drop(move || call(&again, &other)));
        let mut b = put_task(stash, 1, live.counted(60));
        queue(&mut a);
        let b_woken = queue(&mut b);
        drop(a);
        drop(stash.take(&full, &0));
        assert_eq!(b_woken.get(), 1);
        assert!(ready(&mut b).is_ok());
    });
}

#[test]
fn entries_may_put_their_successors_in_while_they_are_swept() {
    must_come_back(|| {
        let (stash, clock) = stash_of::<Counted, u8>(100);
        let live = Live::new();
        for _ in 0..10 {
            let (again, other) = (stash.clone(), live.clone());
            // The bytes are free before the payload is dropped.
            let heir = move || _ = again.try_put(0, other.counted(10)).expect("room");
            let _ = stash.try_put(0, live.counted(10).on_drop(heir)).unwrap();
        }
        clock.advance(TTL);
        assert_eq!(stash.gc(), 10);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (10, 100, 10));
        assert_eq!(stash.clear(), 10);
        assert_eq!((stash.len(), stash.used_bytes(), live.get()), (0, 0, 0));
    });
}

#[test]
fn a_payload_may_hold_the_last_handle() {
    must_come_back(|| {
        let live = Live::new();
        let (stash, _) = stash_of::<Counted, u8>(100);
        let inner = stash.clone();
        let ticket = stash.try_put(0, live.counted(10).on_drop(move || _ = inner.gc())).unwrap();
        let _ = stash.try_put(0, live.counted(10)).unwrap();
        let counted = stash.take(&ticket, &0).unwrap();
        drop(stash);
        assert_eq!(live.get(), 2);
        drop(counted);
        assert_eq!(live.get(), 0, "the rest went with the stash");
    });
}

#[test]
fn a_payload_may_call_the_stash_when_it_is_asked_for_its_size() {
    struct CallingPayload(CountedStash, Call);
    impl Payload for CallingPayload {
        fn size(&self) -> usize {
            (self.1)(&self.0, &Live::new());
            10
        }
    }
    for &(_, call) in CALLS {
        must_come_back(move || {
            let stash: Stash<CallingPayload, ()> =
                Stash::builder().max_bytes(10).entry_overhead(0).build().unwrap();
            let (other, _) = stash_of::<Counted, u8>(10);
            let ticket = stash.try_put((), CallingPayload(other.clone(), call)).unwrap();
            assert!(stash.take(&ticket, &()).is_some());
            assert_eq!((stash.used_bytes(), other.used_bytes()), (0, 0));
        });
    }
}
