//! What comes in wrong: settings, sizes, tickets. Each is refused in words that help, and nothing panics.
#![cfg(not(loom))]

mod support;

use std::cell::Cell;
use std::error::Error;
use std::time::Duration;

use cloakroom::{
    AcquireError, Budget, Builder, ConfigError, ParseTicketError, Payload, PutOptions, Refusal,
    Stash, Ticket,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use self::support::{Live, put_task, ready, stash_of};

type Strings = Stash<String, u8>;

// ---- Settings --------------------------------------------------------------------------------------

/// The refusal, which must name the setting and be a sentence about it.
#[track_caller]
fn refused(built: Result<Strings, ConfigError>, setting: &str) -> String {
    let error = built.expect_err("it was to be refused");
    assert_eq!(error.setting(), setting);
    let text = error.to_string();
    assert!(text.starts_with(&format!("{setting}: ")), "{text}");
    let error: Box<dyn Error + Send + Sync> = error.into();
    assert!(error.source().is_none());
    text
}

#[test]
fn max_bytes_must_be_set_and_not_to_zero() {
    refused(Stash::builder().build(), "max_bytes");
    refused(Stash::builder().max_bytes(0).build(), "max_bytes");
    refused(Stash::builder().max_bytes(0).entry_overhead(0).build(), "max_bytes");
}

#[test]
fn max_bytes_must_be_countable() {
    for max in [Budget::MAX_LIMIT + 1, u64::MAX] {
        let text = refused(Stash::builder().max_bytes(max).build(), "max_bytes");
        assert!(text.contains(&max.to_string()), "{text}");
        assert!(text.contains(&Budget::MAX_LIMIT.to_string()), "{text}");
    }
    let largest: Strings = Stash::builder().max_bytes(Budget::MAX_LIMIT).build().unwrap();
    assert_eq!(largest.max_bytes(), Budget::MAX_LIMIT);
}

#[test]
fn ttl_must_not_be_zero() {
    refused(Stash::builder().max_bytes(100).entry_overhead(0).ttl(Duration::ZERO).build(), "ttl");
}

#[test]
fn ttl_must_not_overflow_a_deadline() {
    let years = |n: u64| Duration::from_secs(n * 365 * 24 * 3_600);
    for ttl in [Duration::MAX, Duration::from_secs(u64::MAX), years(584), years(292), years(74)] {
        let text =
            refused(Stash::builder().max_bytes(100).entry_overhead(0).ttl(ttl).build(), "ttl");
        assert!(text.contains(&format!("{ttl:?}")), "{text}");
    }
    let long: Strings =
        Stash::builder().max_bytes(100).entry_overhead(0).ttl(years(73)).build().unwrap();
    let ticket = long.try_put(0, "coat".to_owned()).unwrap();
    assert_eq!(long.take(&ticket, &0).as_deref(), Some("coat"));
}

#[test]
fn the_longest_ttl_is_a_quarter_of_what_the_clock_counts() {
    let with = |nanos| Stash::builder().max_bytes(1_000).ttl(Duration::from_nanos(nanos)).build();
    let built: Result<Strings, ConfigError> = with(1 << 61);
    assert!(built.is_ok());
    refused(with((1 << 61) + 1), "ttl");
}

#[test]
fn a_clock_may_be_shared() {
    let clock = std::sync::Arc::new(cloakroom::ManualClock::new());
    let builder = Stash::builder().max_bytes(1_000).ttl(Duration::from_secs(1));
    let stash: Strings = builder.clock(std::sync::Arc::clone(&clock)).build().unwrap();
    let ticket = stash.try_put(0, "coat".to_owned()).unwrap();
    clock.advance(Duration::from_secs(1));
    assert!(stash.take(&ticket, &0).is_none());
}

#[test]
fn the_shortest_ttl_is_a_nanosecond() {
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(Duration::from_nanos(1));
    let clock = cloakroom::ManualClock::new();
    let brief: Strings = builder.clock(clock.clone()).build().unwrap();
    let ticket = brief.try_put(0, "coat".to_owned()).unwrap();
    assert!(brief.take(&ticket, &0).is_some());
    let ticket = brief.try_put(0, "coat".to_owned()).unwrap();
    clock.advance(Duration::from_nanos(1));
    assert!(brief.take(&ticket, &0).is_none());
}

#[test]
fn entry_overhead_must_leave_room_for_an_entry() {
    for overhead in [101, u64::MAX] {
        let text = refused(
            Stash::builder().max_bytes(100).entry_overhead(overhead).build(),
            "entry_overhead",
        );
        assert!(text.contains(&overhead.to_string()) && text.contains("100"), "{text}");
    }
    // The overhead that is charged unless it is set is as real.
    refused(Stash::builder().max_bytes(1).build(), "entry_overhead");
    // Exactly the limit: one entry without contents.
    let one: Strings = Stash::builder().max_bytes(100).entry_overhead(100).build().unwrap();
    assert!(one.try_put(0, String::new()).is_ok());
    assert_eq!(one.try_put(0, String::new()).unwrap_err().reason(), Refusal::Full);
    assert_eq!(one.try_put(0, "x".to_owned()).unwrap_err().reason(), Refusal::TooLarge);
}

/// With a limit of 100 and no overhead.
fn with(
    set: impl FnOnce(Builder<String, u8>) -> Builder<String, u8>,
) -> Result<Strings, ConfigError> {
    set(Stash::builder().max_bytes(100).entry_overhead(0).ttl(support::TTL)).build()
}

#[test]
fn an_overflow_must_be_more_than_nothing() {
    let second = Duration::from_secs(1);
    refused(with(|builder| builder.overflow(0, second)), "overflow");
    refused(with(|builder| builder.overflow(10, Duration::ZERO)), "overflow");
    assert!(with(|builder| builder.overflow(1, Duration::from_nanos(1))).is_ok());
}

#[test]
fn an_overflow_must_not_live_longer_than_the_rest() {
    for longer in [Duration::from_nanos(1), support::TTL] {
        let ttl = support::TTL + longer;
        let text = refused(with(|builder| builder.overflow(10, ttl)), "overflow");
        assert!(text.contains(&format!("{ttl:?}")) && text.contains("10s"), "{text}");
    }
    for ttl in [Duration::MAX, Duration::from_secs(1 << 40)] {
        refused(with(|builder| builder.overflow(10, ttl)), "overflow");
    }
    assert!(with(|builder| builder.overflow(10, support::TTL)).is_ok());
    // Whichever is set first.
    let long = 2 * support::TTL;
    assert!(with(|builder| builder.overflow(10, long).ttl(long)).is_ok());
}

#[test]
fn an_overflow_must_be_countable_together_with_the_limit() {
    let ttl = support::TTL;
    for overflow in [Budget::MAX_LIMIT - 99, Budget::MAX_LIMIT, u64::MAX - 100, u64::MAX] {
        let text = refused(with(|builder| builder.overflow(overflow, ttl)), "overflow");
        assert!(text.contains(&overflow.to_string()), "{text}");
    }
    let largest = with(|builder| builder.overflow(Budget::MAX_LIMIT - 100, ttl)).unwrap();
    assert_eq!((largest.max_bytes(), largest.budget().limit()), (100, Budget::MAX_LIMIT));
    let all = with(|builder| builder.max_bytes(Budget::MAX_LIMIT).overflow(1, ttl));
    refused(all, "overflow");
    // The setting that is wrong first is named.
    refused(with(|builder| builder.max_bytes(u64::MAX).overflow(1, ttl)), "max_bytes");
}

#[test]
fn what_one_owner_may_hold_must_leave_room_for_an_entry() {
    refused(with(|builder| builder.max_bytes_per_owner(0)), "max_bytes_per_owner");
    for overhead in [11, 100] {
        let little = with(|builder| builder.entry_overhead(overhead).max_bytes_per_owner(10));
        let text = refused(little, "max_bytes_per_owner");
        assert!(text.contains("10") && text.contains(&overhead.to_string()), "{text}");
    }
    let exact = with(|builder| builder.entry_overhead(10).max_bytes_per_owner(10)).unwrap();
    assert!(exact.try_put(0, String::new()).is_ok());
    assert_eq!(exact.try_put(0, String::new()).unwrap_err().reason(), Refusal::OwnerFull);
    assert!(exact.try_put(1, String::new()).is_ok());
    // More than there is limits nobody.
    let all = with(|builder| builder.max_bytes_per_owner(u64::MAX)).unwrap();
    assert!(all.try_put(0, "x".repeat(100)).is_ok());
    assert_eq!(all.try_put(0, "x".to_owned()).unwrap_err().reason(), Refusal::Full);
}

#[test]
fn a_time_to_live_of_an_entry_may_be_anything() {
    let clock = cloakroom::ManualClock::new();
    let stash = with(|builder| builder.clock(clock.clone())).unwrap();
    let year = Duration::from_secs(365 * 24 * 3_600);
    for ttl in [Duration::MAX, Duration::from_secs(u64::MAX), 300 * year, 73 * year] {
        let options = PutOptions::new().ttl(ttl);
        assert_eq!(options.ttl, Some(ttl));
        let ticket = stash.try_put_with(0, "coat".to_owned(), options).unwrap();
        clock.advance(70 * year);
        assert_eq!((stash.gc(), stash.take(&ticket, &0).as_deref()), (0, Some("coat")));
    }
    let ticket = stash.try_put_with(0, "coat".to_owned(), PutOptions::new().ttl(Duration::ZERO));
    assert!(stash.take(&ticket.unwrap(), &0).is_none());
    assert_eq!(PutOptions::new(), PutOptions::default());
}

#[test]
fn a_reservation_of_anything_is_refused_or_made_at_once() {
    for overhead in [0, 1, 100] {
        let stash = with(|builder| builder.entry_overhead(overhead)).unwrap();
        for bytes in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62, Budget::MAX_LIMIT, 101] {
            let requested = bytes.saturating_add(overhead);
            let refused = stash.try_reserve(bytes).unwrap_err();
            assert_eq!((refused.reason(), refused.requested()), (Refusal::TooLarge, requested));
            let refused = stash.reserve_timeout(bytes, Duration::MAX).unwrap_err();
            assert_eq!(refused.reason(), Refusal::TooLarge, "and does not block");
            let refused = ready(&mut Box::pin(stash.reserve(bytes))).unwrap_err();
            assert_eq!(refused.reason(), Refusal::TooLarge, "and does not wait");
        }
        let mut nothing = stash.try_reserve(0).unwrap();
        assert_eq!((nothing.bytes(), stash.used_bytes()), (0, overhead));
        nothing.shrink(u64::MAX);
        nothing.shrink(0);
        assert_eq!(stash.used_bytes(), overhead);
        let refused = nothing.put(0, "x".to_owned()).unwrap_err();
        assert_eq!(refused.reason(), Refusal::TooLarge);
        assert!(refused.into_parts().1.put(0, String::new()).is_ok());
        assert_eq!((stash.len(), stash.used_bytes(), stash.clear()), (1, overhead, 1));
    }
}

#[test]
fn a_limit_may_be_moved_anywhere() {
    for overflow in [0, 50] {
        let stash = with(|builder| match overflow {
            0 => builder,
            _ => builder.overflow(overflow, support::TTL),
        });
        let stash = stash.unwrap();
        let ticket = stash.try_put(0, "x".repeat(100)).unwrap();
        for max in [0, 1, u64::MAX, u64::MAX - overflow, Budget::MAX_LIMIT, 99, 0] {
            stash.set_max_bytes(max);
            assert_eq!(stash.max_bytes(), max.min(Budget::MAX_LIMIT - overflow));
            assert_eq!(stash.used_bytes(), 100);
        }
        // Below its overflow, which the stash itself would not do.
        stash.budget().set_limit(overflow / 2);
        assert_eq!(stash.max_bytes(), 0);
        assert_eq!(stash.try_put(0, "x".repeat(26)).unwrap_err().reason(), Refusal::TooLarge);
        assert!(stash.take(&ticket, &0).is_some());
        stash.set_max_bytes(100);
        assert!(stash.try_put(0, "x".repeat(100)).is_ok());
    }
}

#[test]
fn limits_of_the_line_may_be_anything() {
    let stash =
        with(|builder| builder.max_waiting(usize::MAX).max_waiting_bytes(u64::MAX)).unwrap();
    let _ = stash.try_put(0, "x".repeat(100)).unwrap();
    let mut line: Vec<_> = (0..3).map(|_| put_task(&stash, 0, "x".repeat(100))).collect();
    line.iter_mut().for_each(|put| drop(support::queue(put)));
    let none = with(|builder| builder.max_waiting(0).max_waiting_bytes(0)).unwrap();
    assert!(ready(&mut put_task(&none, 0, "x".repeat(100))).is_ok());
    let refused = ready(&mut put_task(&none, 0, String::from("x"))).unwrap_err();
    assert_eq!(refused.reason(), Refusal::LineFull);
    // More than 64 bits can count, all together.
    let budget = Budget::new(u64::MAX);
    let full = budget.try_acquire(Budget::MAX_LIMIT).unwrap();
    let mut line: Vec<_> =
        (0..9).map(|_| support::acquire_task(&budget, Budget::MAX_LIMIT)).collect();
    budget.set_max_waiting_bytes(u64::MAX);
    let waits: Vec<bool> =
        line.iter_mut().map(|one| support::poll_once(one).is_pending()).collect();
    assert_eq!(waits, [true, true, true, true, true, true, true, true, false], "2^64 - 8 bytes");
    drop((full, line));
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

#[test]
fn empty_payloads_are_charged_and_so_bounded() {
    let stash: Strings = Stash::builder().max_bytes(1_000).build().unwrap();
    let stored = (0..1_001).take_while(|_| stash.try_put(0, String::new()).is_ok()).count();
    assert!(0 < stored && stored < 1_000);
    assert!(stash.used_bytes() <= 1_000);
}

#[test]
fn a_budgets_limit_is_clipped_to_what_can_be_counted() {
    let budget = Budget::new(u64::MAX);
    assert_eq!(budget.limit(), Budget::MAX_LIMIT);
    let all = budget.try_acquire(Budget::MAX_LIMIT).unwrap();
    assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Full);
    // As far below zero as room can go, and back.
    budget.set_limit(0);
    assert_eq!((budget.used(), budget.limit()), (Budget::MAX_LIMIT, 0));
    budget.set_limit(u64::MAX);
    assert_eq!((budget.used(), budget.limit()), (Budget::MAX_LIMIT, Budget::MAX_LIMIT));
    drop(all);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_budget_of_nothing_grants_nothing_and_nobody_waits_for_it() {
    let budget = Budget::new(0);
    assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::TooLarge);
    assert_eq!(ready(&mut Box::pin(budget.acquire(1))).unwrap_err().reason(), Refusal::TooLarge);
    assert_eq!(budget.try_acquire(0).unwrap().bytes(), 0);
}

// ---- Sizes -----------------------------------------------------------------------------------------

/// Says what it is told to, each time something else if wished.
struct Says(Cell<usize>, usize);

impl Payload for Says {
    fn size(&self) -> usize {
        let said = self.0.get();
        self.0.set(said.wrapping_add(self.1));
        said
    }
}

fn says(size: usize) -> Says {
    Says(Cell::new(size), 0)
}

#[test]
fn sizes_that_overflow_the_counter_are_too_large() {
    let max = Budget::MAX_LIMIT;
    for overhead in [0, 1, max] {
        let stash: Stash<Says, u8> =
            Stash::builder().max_bytes(max).entry_overhead(overhead).build().unwrap();
        // With and without wrapping around, in the sum with the overhead and in the counter's units.
        for size in [usize::MAX, usize::MAX - 1, 1 << 63, 1 << 62, 1 << 61] {
            let charge = (size as u64).saturating_add(overhead);
            let refused = stash.try_put(0, says(size)).unwrap_err();
            assert_eq!((refused.reason(), refused.requested()), (Refusal::TooLarge, charge));
            assert_eq!(refused.into_payload().0.get(), size, "the payload comes back");
            let refused = ready(&mut put_task(&stash, 0, says(size))).unwrap_err();
            assert_eq!(refused.reason(), Refusal::TooLarge, "and does not wait");
            let refused = stash.put_timeout(0, says(size), Duration::MAX).unwrap_err();
            assert_eq!(refused.reason(), Refusal::TooLarge, "and does not block");
        }
        assert_eq!((stash.used_bytes(), stash.waiting(), stash.len()), (0, 0, 0));
    }
    let budget = Budget::new(max);
    for bytes in [max + 1, 1 << 62, 1 << 63, u64::MAX] {
        assert_eq!(budget.try_acquire(bytes).unwrap_err().reason(), Refusal::TooLarge);
        assert_eq!(
            budget.acquire_timeout(bytes, Duration::MAX).unwrap_err().reason(),
            Refusal::TooLarge
        );
    }
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
}

#[test]
fn a_large_refusal_does_not_look_at_who_else_is_there() {
    let (stash, _) = stash_of::<Says, u8>(100);
    let _ = stash.try_put(0, says(100)).unwrap();
    assert_eq!(stash.try_put(0, says(101)).unwrap_err().reason(), Refusal::TooLarge);
    assert_eq!(stash.try_put(0, says(100)).unwrap_err().reason(), Refusal::Full);
    stash.close();
    assert_eq!(stash.try_put(0, says(101)).unwrap_err().reason(), Refusal::Closed);
}

#[test]
fn what_was_charged_is_returned_whatever_the_payload_says_later() {
    for step in [7, usize::MAX, 1 << 40] {
        let (stash, clock) = stash_of::<Says, u8>(100);
        let changing = || Says(Cell::new(40), step);
        let taken = stash.try_put(0, changing()).unwrap();
        let _ = stash.try_put(0, changing()).unwrap();
        assert_eq!(stash.used_bytes(), 80);
        assert!(stash.take(&taken, &0).is_some());
        assert_eq!(stash.used_bytes(), 40);
        clock.advance(support::TTL);
        assert_eq!((stash.gc(), stash.used_bytes()), (1, 0));
        // In line, too: what it asked for when it was put is what it gets.
        let full = stash.try_put(0, says(100)).unwrap();
        let mut put = put_task(&stash, 0, changing());
        support::queue(&mut put);
        assert!(stash.take(&full, &0).is_some());
        assert!(ready(&mut put).is_ok());
        assert_eq!(stash.used_bytes(), 40);
        assert_eq!((stash.clear(), stash.used_bytes()), (1, 0));
    }
}

#[test]
fn a_size_of_zero_fits_in_the_last_byte_and_beyond() {
    let (stash, _) = stash_of::<Says, u8>(10);
    let _ = stash.try_put(0, says(10)).unwrap();
    let nothing = stash.try_put(0, says(0)).unwrap();
    assert_eq!((stash.len(), stash.used_bytes()), (2, 10));
    assert!(stash.take(&nothing, &0).is_some());
    // But not past somebody who waits.
    let mut put = put_task(&stash, 0, says(1));
    support::queue(&mut put);
    assert_eq!(stash.try_put(0, says(0)).unwrap_err().reason(), Refusal::Full);
}

// ---- Tickets ---------------------------------------------------------------------------------------

fn issued() -> (Strings, Ticket) {
    let stash: Strings = Stash::builder().max_bytes(1 << 20).build().unwrap();
    let ticket = stash.try_put(0, "coat".to_owned()).unwrap();
    (stash, ticket)
}

/// Refused, in a few words that do not repeat what came in.
#[track_caller]
fn no_ticket(text: &str) -> ParseTicketError {
    let error = text.parse::<Ticket>().expect_err("that is no ticket");
    let message = error.to_string();
    assert!(message.starts_with("invalid ticket: ") && message.len() < 80, "{message}");
    error
}

#[test]
fn a_ticket_of_the_wrong_length_is_refused() {
    let text = issued().1.to_string();
    no_ticket("");
    for end in 0..text.len() {
        no_ticket(&text[..end]);
        no_ticket(&text[end + 1..]);
    }
    for longer in [format!("{text}0"), format!("0{text}"), format!(" {text}"), format!("{text}\n")]
    {
        no_ticket(&longer);
    }
    no_ticket(&"0".repeat(1 << 20));
    no_ticket(&text.repeat(1 << 15));
}

#[test]
fn other_spellings_of_a_uuid_are_refused() {
    let text = issued().1.to_string();
    no_ticket(&text.replace('-', ""));
    no_ticket(&format!("{{{text}}}"));
    no_ticket(&format!("urn:uuid:{text}"));
    no_ticket(&text.replace('-', "_"));
    no_ticket(&text.replace('-', "\u{2010}"));
    // A hyphen that is one off.
    let moved = format!("{}-{}{}", &text[..7], &text[7..8], &text[9..]);
    assert_eq!(moved.len(), 36);
    no_ticket(&moved);
    // In braces and yet 36 long.
    no_ticket(&format!("{{{}}}", &text[..34]));
}

#[test]
fn a_ticket_may_be_in_capitals() {
    let (_, ticket) = issued();
    assert_eq!(ticket.to_string().to_uppercase().parse(), Ok(ticket));
}

#[test]
fn a_wrong_character_is_refused_wherever_it_is() {
    let text = issued().1.to_string();
    for at in 0..36 {
        for wrong in ['g', 'G', ' ', '+', '-', '/', ':', '@', '`', '\0', '\u{7f}'] {
            if wrong == '-' && text.as_bytes()[at] == b'-' {
                continue;
            }
            let mut wrong_text = text.clone();
            wrong_text.replace_range(at..=at, &wrong.to_string());
            no_ticket(&wrong_text);
        }
    }
}

#[test]
fn characters_of_several_bytes_are_refused_at_the_right_length_in_bytes_and_in_characters() {
    let text = issued().1.to_string();
    for wide in ['é', '０', '٣', '€', '😀'] {
        let bytes = wide.len_utf8();
        for at in 0..=36 - bytes {
            // 36 bytes, fewer characters; a slice at a fixed place may split one.
            no_ticket(&format!("{}{wide}{}", &text[..at], &text[at + bytes..]));
        }
        // 36 characters, more bytes.
        no_ticket(&format!("{wide}{}", &text[1..]));
        no_ticket(&wide.to_string().repeat(36 / bytes));
    }
}

#[test]
fn other_versions_and_variants_of_uuids_are_refused() {
    let text = issued().1.to_string();
    for digit in "0123456789abcdefABCDEF".chars() {
        let version = format!("{}{digit}{}", &text[..14], &text[15..]);
        assert_eq!(version.parse::<Ticket>().is_ok(), digit == '8', "{version}");
        let variant = format!("{}{digit}{}", &text[..19], &text[20..]);
        assert_eq!(variant.parse::<Ticket>().is_ok(), "89abAB".contains(digit), "{variant}");
    }
    no_ticket("00000000-0000-0000-0000-000000000000");
    no_ticket("ffffffff-ffff-ffff-ffff-ffffffffffff");
}

#[test]
fn forged_tickets_get_nothing_and_disturb_nobody() {
    let (stash, ticket) = issued();
    let text = ticket.to_string();
    for at in (0..36).filter(|at| ![8, 13, 14, 18, 19, 23].contains(at)) {
        // Each digit changed: another slot, or another secret. The extremes are slots that never were.
        for digit in ['0', '7', 'f'] {
            let mut forged = text.clone();
            forged.replace_range(at..=at, &digit.to_string());
            if forged != text {
                assert!(stash.take(&forged.parse().unwrap(), &0).is_none(), "{forged}");
            }
        }
    }
    for place in ["00000000", "ffffffff", "03ffffff", "04000000", "7fffffff", "80000000"] {
        let forged = format!("{place}{}", &text[8..]);
        if forged != text {
            assert!(stash.take(&forged.parse().unwrap(), &0).is_none(), "{forged}");
        }
    }
    assert_eq!((stash.len(), stash.take(&ticket, &0).as_deref()), (1, Some("coat")));
}

#[test]
fn another_stashs_tickets_get_nothing() {
    let (one, ones) = issued();
    let (other, others) = issued();
    // Even a stash that was just built alike, whose first entry is in the same place.
    assert_ne!(ones, others);
    assert!(one.take(&others, &0).is_none() && other.take(&ones, &0).is_none());
    assert!(one.take(&ones, &0).is_some() && other.take(&others, &0).is_some());
}

#[test]
fn a_stale_ticket_gets_nothing_from_the_next_in_its_slot() {
    let (stash, stale) = issued();
    assert!(stash.take(&stale, &0).is_some());
    for n in 0..if cfg!(miri) { 10 } else { 100 } {
        let next = stash.try_put(0, n.to_string()).unwrap();
        assert_ne!(next, stale);
        assert!(stash.take(&stale, &0).is_none());
        assert_eq!(stash.take(&next, &0), Some(n.to_string()));
    }
}

// ---- Texts -----------------------------------------------------------------------------------------

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
        "gave up in line: 30 bytes requested, 80 of 100 used, 0 waiting"
    );
    let late = budget.acquire_timeout(30, Duration::from_millis(1)).unwrap_err();
    assert_eq!(
        late.to_string(),
        "timed out in line: 30 bytes requested, 80 of 100 used, 0 waiting"
    );
    budget.close();
    let closed = budget.try_acquire(30).unwrap_err();
    assert_eq!(closed.to_string(), "closed: 30 bytes requested, 80 of 100 used, 0 waiting");
}

#[test]
fn what_can_be_printed_is() {
    let (stash, clock) = stash_of::<support::Coat, u8>(100);
    let _ = stash.try_put(0, Live::new().coat(10)).unwrap();
    let text = format!("{stash:?}");
    assert_eq!(text, "Stash { len: 1, used_bytes: 10, max_bytes: 100, waiting: 0, .. }");
    let budget = Budget::new(100);
    let permit = budget.try_acquire(10).unwrap();
    assert_eq!(format!("{budget:?}"), "Budget { limit: 100, used: 10, waiting: 0 }");
    assert_eq!(format!("{permit:?}"), "Permit { bytes: 10, .. }");
    let put = format!("{:?}", stash.put(0, Live::new().coat(11)));
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

// ---- Anything --------------------------------------------------------------------------------------

/// A parse never panics, and what it accepts is exactly the text of a ticket.
fn parses_or_not(text: &str) -> Result<(), TestCaseError> {
    if let Ok(ticket) = text.parse::<Ticket>() {
        prop_assert_eq!(ticket.to_string(), text.to_ascii_lowercase());
        prop_assert_eq!(ticket.to_string().parse(), Ok(ticket));
        prop_assert!(issued().0.take(&ticket, &0).is_none());
    }
    Ok(())
}

/// The same texts at every run, unless the environment asks for others.
fn config() -> Config {
    let config = Config::default();
    let rng_seed = match config.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0x71C2),
        fixed => fixed,
    };
    let cases = if cfg!(miri) { 8 } else { config.cases };
    Config { rng_seed, cases, failure_persistence: None, ..config }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text_parses_or_not(text in any::<String>()) {
        parses_or_not(&text)?;
    }

    #[test]
    fn any_bytes_parse_or_not(bytes in proptest::collection::vec(any::<u8>(), 30..44)) {
        parses_or_not(&String::from_utf8_lossy(&bytes))?;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            parses_or_not(text)?;
        }
    }

    /// Close enough to a ticket that many are.
    #[test]
    fn almost_tickets_parse_or_not(
        bits in any::<u128>(),
        marks in (0..4_usize, 0..6_usize),
        change in proptest::option::of((0..36_usize, any::<char>())),
    ) {
        let hex = format!("{bits:032x}");
        let (version, variant) = (&"8884"[marks.0..=marks.0], &"89abc7"[marks.1..=marks.1]);
        let mut text = format!(
            "{}-{}-{version}{}-{variant}{}-{}",
            &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..],
        );
        prop_assert_eq!(text.parse::<Ticket>().is_ok(), marks.0 < 3 && marks.1 < 4);
        if let Some((at, wrong)) = change {
            text.replace_range(at..=at, &wrong.to_string());
        }
        parses_or_not(&text)?;
    }
}
