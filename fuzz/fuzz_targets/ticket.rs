//! Any bytes as the text of a ticket: no panic, and two readings of the format agree.
#![no_main]

use cloakroom::Ticket;
use libfuzzer_sys::fuzz_target;

/// The format once more, by other means: a version 8 UUID in its hyphenated form.
fn is_ticket(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.concat().chars().all(|digit| digit.is_ascii_hexdigit())
        && groups[2].starts_with('8')
        && groups[3].starts_with(['8', '9', 'a', 'b', 'A', 'B'])
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<Ticket>() {
        Ok(ticket) => {
            assert!(is_ticket(&text), "{text:?} was read as a ticket");
            assert_eq!(ticket.to_string(), text.to_ascii_lowercase());
            assert_eq!(text.to_ascii_uppercase().parse(), Ok(ticket));
            assert_eq!(format!("{ticket:?}"), format!("Ticket({}-..)", &ticket.to_string()[..8]));
        }
        Err(problem) => {
            assert!(!is_ticket(&text), "{text:?} was not read as a ticket: {problem}");
            assert!(problem.to_string().starts_with("invalid ticket: "));
        }
    }
});
