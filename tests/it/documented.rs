//! Sentences of the documentation that no other module tests, one test each.

use cloakroom::Budget;

use crate::support::{TTL, queue, ready, stash_of};

/// A sweep goes in batches of some hundred; `gc` is all of them.
#[test]
fn gc_removes_all_that_has_expired_however_much_it_is() {
    let (stash, clock) = stash_of::<String, u8>(5_005);
    let many = if cfg!(miri) { 20 } else { 5_000 };
    for _ in 0..many {
        let _ = stash.try_put(0, String::new()).unwrap();
    }
    assert_eq!(stash.gc(), 0);
    clock.advance(TTL);
    let _ = stash.try_put(0, "later".to_owned()).unwrap();
    assert_eq!((stash.gc(), stash.len(), stash.used_bytes()), (many, 1, 5));
}

#[test]
fn a_limit_has_60_bits() {
    assert_eq!(Budget::MAX_LIMIT, (1 << 60) - 1);
    let budget = Budget::new(Budget::MAX_LIMIT);
    let all = budget.try_acquire(Budget::MAX_LIMIT).unwrap();
    assert_eq!((all.bytes(), budget.used()), (Budget::MAX_LIMIT, Budget::MAX_LIMIT));
    assert!(budget.try_acquire(1).is_err());
}

#[test]
fn every_reaper_ends_with_the_last_handle() {
    let (stash, clock) = stash_of::<String, u8>(100);
    let reaper = |_| {
        let clock = clock.clone();
        Box::pin(stash.reaper().run(move |nap| clock.sleep(nap)))
    };
    let mut reapers: Vec<_> = (0..3).map(reaper).collect();
    let woken: Vec<_> = reapers.iter_mut().map(queue).collect();
    drop(stash);
    for (reaper, woken) in reapers.iter_mut().zip(woken) {
        assert_eq!(woken.get(), 1);
        ready(reaper);
    }
}

/// A reaper sweeps in batches, yields after each, and sleeps when nothing more is due.
#[test]
fn a_reaper_does_not_sleep_while_more_is_due() {
    let (stash, clock) = stash_of::<String, u8>(5_005);
    let many = if cfg!(miri) { 20 } else { 5_000 };
    for _ in 0..many {
        let _ = stash.try_put(0, String::new()).unwrap();
    }
    clock.advance(TTL);
    let time = clock.clone();
    let mut reaper = Box::pin(stash.reaper().run(move |nap| time.sleep(nap)));
    queue(&mut reaper);
    assert!(!stash.is_empty(), "it lets others run in between");
    for _ in 0..20 {
        queue(&mut reaper);
    }
    assert_eq!(stash.len(), 0);
}

#[test]
fn claims_and_reservations_can_be_printed_without_their_secrets() {
    let (stash, _clock) = stash_of::<String, u8>(100);
    let ticket = stash.try_put(0, "text".to_owned()).unwrap();
    let claim = stash.claim(&ticket, &0).unwrap();
    let text = format!("{claim:?} {:?}", stash.try_reserve(7).unwrap());
    let expected = "Claim { ticket: Ticket(00000000-..), charge: Some(4), on_drop: PutBack, .. } \
                    Reservation { bytes: 7, .. }";
    // The slot index depends on the thread.
    let place = &format!("{ticket:?}");
    assert_eq!(text, expected.replace("Ticket(00000000-..)", place));
    assert!(!text.contains(&ticket.to_string()));
    let admit = "Admit { acquire: Acquire { bytes: 7, phase: Fresh, .. }, .. }";
    let waiting =
        [format!("{:?}", stash.reserve(7)), format!("{:?}", stash.put(0, "7 bytes".to_owned()))];
    let expected = ["Reserve", "Put"].map(|name| format!("{name} {{ admit: {admit}, .. }}"));
    assert_eq!(waiting, expected);
}

#[test]
fn a_reservation_that_is_too_small_says_so_and_not_that_the_stash_is() {
    let (stash, _clock) = stash_of::<String, u8>(100);
    let _ = stash.try_put(0, "x".repeat(60)).unwrap();
    let refused = stash.try_reserve(3).unwrap().put(0, "text".to_owned()).unwrap_err();
    assert_eq!(refused.to_string(), "larger than the reservation: 4 bytes needed, 3 reserved");
}
