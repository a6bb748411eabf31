//! Observers that panic when they receive an event.

use cloakroom::{Event, Observer};

use super::boom;
use crate::fixtures::{ALICE, BOB, EventLog, checked_stats, fill, payload, put, stash_with, state};
use crate::support::{TTL, must_come_back, put_task, queue, ready};

struct PanickingObserver;

impl Observer for PanickingObserver {
    fn event(&self, _: Event) {
        boom();
    }
}

#[test]
fn of_two_observers_one_that_panics_takes_no_event_from_the_other() {
    must_come_back(|| {
        let log = EventLog::default();
        let pair = (PanickingObserver, (log.clone(), PanickingObserver));
        let (stash, _) = stash_with(|builder| builder.observer(pair));
        fill(&stash, 10);
        assert_eq!(stash.clear(), 1);
        let stored = Event::Stored { bytes: 10, overflow: false };
        assert_eq!(log.read(), [stored, Event::Cleared { entries: 1, bytes: 10 }]);
    });
}

#[test]
fn an_observer_that_panics_changes_nothing() {
    must_come_back(|| {
        let (stash, clock) =
            stash_with(|builder| builder.max_bytes_per_owner(100).observer(PanickingObserver));
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
        assert_eq!((state(&stash), checked_stats(&stash).stored), ((0, 0, 0), 4));
        assert_eq!((stash.owner_used_bytes(&ALICE), stash.owner_used_bytes(&BOB)), (0, 0));
    });
}
