//! An observer calls back when it receives an event.

use std::sync::Arc;

use cloakroom::ManualClock;

use super::{CLAIM_CALLS, Calls, counted_stash, everything, nothing_is_left};
use crate::support::{Live, must_come_back};

#[test]
fn an_observer_may_call_anything() {
    for &(name, call) in CLAIM_CALLS {
        must_come_back(move || {
            println!("calling {name}");
            let (slot, clock, live) = (Arc::default(), ManualClock::new(), Live::new());
            let stash = counted_stash(Calls(Arc::clone(&slot), live.clone(), call), clock.clone());
            assert!(slot.set(stash.clone()).is_ok());
            everything(&stash, &clock, &live);
            nothing_is_left(&stash, &live);
        });
    }
}
