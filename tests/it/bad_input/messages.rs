//! Messages and debug output: helpful, and without secrets or contents.

use std::error::Error;
use std::time::Duration;

use cloakroom::{AcquireError, Budget, Payload};

use super::{Strings, issued};
use crate::support::{Counted, Live, ready, stash_of};

#[test]
fn debug_of_a_ticket_does_not_tell_the_secret() {
    let (_, ticket) = issued();
    let (text, debug) = (ticket.to_string(), format!("{ticket:?} {ticket:#?}"));
    // Behind the first eight digits all is secret, but for two digits that are always the same.
    let secret: String = text[9..].chars().filter(|c| *c != '-').collect();
    for at in 0..=secret.len() - 4 {
        assert!(!debug.contains(&secret[at..at + 4]), "{debug} tells of {text}");
    }
    assert!(debug.starts_with("Ticket("));
}

#[test]
fn a_ticket_pads_like_a_string() {
    let (_, ticket) = issued();
    assert_eq!(format!("{ticket:>40}"), format!("    {ticket}"));
}

#[test]
fn debug_of_a_put_error_asks_nothing_of_the_payload() {
    /// Neither `Debug` nor anything else.
    struct Mute;
    impl Payload for Mute {
        fn size(&self) -> usize {
            200
        }
    }
    let (stash, _) = stash_of::<Mute, u8>(100);
    let error = stash.try_put(0, Mute).unwrap_err();
    let text = error.to_string();
    assert_eq!(text, "larger than the limit: 200 bytes requested, 0 of 100 used, 0 waiting");
    let debug = format!("{error:?}");
    assert!(debug.starts_with("PutError") && debug.contains("TooLarge"), "{debug}");
    // As an error among others.
    let error: Box<dyn Error> = Box::new(error);
    assert!(error.source().is_none());
}

#[test]
fn debug_of_a_put_error_does_not_show_the_payload() {
    let (stash, _) = stash_of::<String, u8>(4);
    let error = stash.try_put(0, "secret".to_owned()).unwrap_err();
    assert!(!format!("{error:?} {error:#?} {error}").contains("secret"));
    assert_eq!((error.payload().as_str(), error.requested(), error.limit()), ("secret", 6, 4));
    assert_eq!((error.used(), error.waiting()), (0, 0));
}

#[test]
fn refusals_say_what_happened_in_numbers() {
    let budget = Budget::new(100);
    let _held = budget.try_acquire(80).unwrap();
    let full: AcquireError = budget.try_acquire(30).unwrap_err();
    assert_eq!(full.to_string(), "full: 30 bytes requested, 80 of 100 used, 0 waiting");
    assert_eq!((full.requested(), full.used(), full.limit(), full.waiting()), (30, 80, 100, 0));
    let until = std::future::ready(());
    let gave_up = ready(&mut Box::pin(budget.acquire(30).until(until))).unwrap_err();
    assert_eq!(
        gave_up.to_string(),
        "cancelled in the wait queue: 30 bytes requested, 80 of 100 used, 0 waiting"
    );
    let late = budget.acquire_timeout(30, Duration::from_millis(1)).unwrap_err();
    assert_eq!(
        late.to_string(),
        "timed out in the wait queue: 30 bytes requested, 80 of 100 used, 0 waiting"
    );
    budget.close();
    let closed = budget.try_acquire(30).unwrap_err();
    assert_eq!(closed.to_string(), "closed: 30 bytes requested, 80 of 100 used, 0 waiting");
}

#[test]
fn debug_output_of_public_types() {
    let (stash, clock) = stash_of::<Counted, u8>(100);
    let _ = stash.try_put(0, Live::new().counted(10)).unwrap();
    let text = format!("{stash:?}");
    assert_eq!(text, "Stash { len: 1, used_bytes: 10, max_bytes: 100, waiting: 0, .. }");
    let budget = Budget::new(100);
    let permit = budget.try_acquire(10).unwrap();
    assert_eq!(format!("{budget:?}"), "Budget { limit: 100, used: 10, waiting: 0 }");
    assert_eq!(format!("{permit:?}"), "Permit { bytes: 10, .. }");
    let put = format!("{:?}", stash.put(0, Live::new().counted(11)));
    assert!(put.starts_with("Put") && put.contains("11"), "{put}");
    clock.advance(Duration::from_millis(5));
    assert_eq!(format!("{clock:?} {:?}", stash.reaper()), "ManualClock(5ms) Reaper { .. }");
    let builder = Strings::builder().max_bytes(100).ttl(Duration::from_secs(7)).entry_overhead(3);
    let builder = builder.max_waiting(9).max_waiting_bytes(99);
    assert_eq!(
        format!("{builder:?}"),
        "Builder { max_bytes: 100, ttl: 7s, entry_overhead: 3, overflow: None, \
         max_bytes_per_owner: None, max_waiting: 9, max_waiting_bytes: 99, .. }"
    );
}
