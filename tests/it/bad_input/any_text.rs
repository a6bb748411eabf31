//! Random text, bytes and near-tickets: parsing never panics.

use cloakroom::Ticket;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::issued;

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
