//! Settings of a builder: the error names the setting.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloakroom::{Budget, Clock, ConfigError, Refusal, Stash};

use super::{Strings, with};
use crate::support::TTL;

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
    let ticket = long.try_put(0, "text".to_owned()).unwrap();
    assert_eq!(long.take(&ticket, &0).as_deref(), Some("text"));
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
    let ticket = stash.try_put(0, "text".to_owned()).unwrap();
    clock.advance(Duration::from_secs(1));
    assert!(stash.take(&ticket, &0).is_none());
}

/// Nothing is later than such a time, so a thread that waits has no deadline to wake for.
#[test]
fn a_clock_at_its_end_expires_everything_and_keeps_no_thread_busy() {
    struct AtItsEnd(AtomicUsize);
    impl Clock for AtItsEnd {
        fn now(&self) -> Duration {
            self.0.fetch_add(1, Ordering::Relaxed);
            Duration::MAX
        }
    }
    let clock = Arc::new(AtItsEnd(AtomicUsize::new(0)));
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).clock(Arc::clone(&clock));
    let stash: Strings = builder.build().unwrap();
    let ticket = stash.try_put(0, "text".to_owned()).unwrap();
    assert!(stash.take(&ticket, &0).is_none());
    let _all = stash.try_reserve(100).unwrap();
    stash.reaper().spawn().unwrap();
    let before = clock.0.load(Ordering::Relaxed);
    let refused = stash.put_timeout(0, "text".to_owned(), Duration::from_millis(100)).unwrap_err();
    assert_eq!(refused.reason(), Refusal::TimedOut);
    let read = clock.0.load(Ordering::Relaxed) - before;
    assert!(read < 50, "read {read} times");
}

#[test]
fn the_shortest_ttl_is_a_nanosecond() {
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(Duration::from_nanos(1));
    let clock = cloakroom::ManualClock::new();
    let brief: Strings = builder.clock(clock.clone()).build().unwrap();
    let ticket = brief.try_put(0, "text".to_owned()).unwrap();
    assert!(brief.take(&ticket, &0).is_some());
    let ticket = brief.try_put(0, "text".to_owned()).unwrap();
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

#[test]
fn an_overflow_must_be_more_than_nothing() {
    let second = Duration::from_secs(1);
    refused(with(|builder| builder.overflow(0, second)), "overflow");
    refused(with(|builder| builder.overflow(10, Duration::ZERO)), "overflow");
    assert!(with(|builder| builder.overflow(1, Duration::from_nanos(1))).is_ok());
}

#[test]
fn an_overflow_must_not_live_longer_than_the_rest() {
    for longer in [Duration::from_nanos(1), TTL] {
        let ttl = TTL + longer;
        let text = refused(with(|builder| builder.overflow(10, ttl)), "overflow");
        assert!(text.contains(&format!("{ttl:?}")) && text.contains("10s"), "{text}");
    }
    for ttl in [Duration::MAX, Duration::from_secs(1 << 40)] {
        refused(with(|builder| builder.overflow(10, ttl)), "overflow");
    }
    assert!(with(|builder| builder.overflow(10, TTL)).is_ok());
    // Whichever is set first.
    let long = 2 * TTL;
    assert!(with(|builder| builder.overflow(10, long).ttl(long)).is_ok());
}

#[test]
fn an_overflow_must_be_countable_together_with_the_limit() {
    let ttl = TTL;
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
fn the_limit_per_owner_must_leave_room_for_an_entry() {
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
    // A limit per owner above the limit has no effect.
    let all = with(|builder| builder.max_bytes_per_owner(u64::MAX)).unwrap();
    assert!(all.try_put(0, "x".repeat(100)).is_ok());
    assert_eq!(all.try_put(0, "x".to_owned()).unwrap_err().reason(), Refusal::Full);
}
