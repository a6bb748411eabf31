//! Texts that are not a ticket, and tickets that were not issued.

use cloakroom::{ParseTicketError, Ticket};

use super::issued;

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
    assert_eq!((stash.len(), stash.take(&ticket, &0).as_deref()), (1, Some("text")));
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
