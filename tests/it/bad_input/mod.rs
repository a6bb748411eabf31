//! Bad input: settings, limits, sizes and tickets. Each is refused with a text that helps, and nothing
//! panics. What is extreme and allowed is accepted.

mod any_text;
mod limits;
mod messages;
mod settings;
mod sizes;
mod tickets;

use cloakroom::{Builder, ConfigError, Stash, Ticket};

use crate::support::TTL;

type Strings = Stash<String, u8>;

/// With a limit of 100 and no overhead.
fn with(
    set: impl FnOnce(Builder<String, u8>) -> Builder<String, u8>,
) -> Result<Strings, ConfigError> {
    set(Stash::builder().max_bytes(100).entry_overhead(0).ttl(TTL)).build()
}

fn issued() -> (Strings, Ticket) {
    let stash: Strings = Stash::builder().max_bytes(1 << 20).build().unwrap();
    let ticket = stash.try_put(0, "text".to_owned()).unwrap();
    (stash, ticket)
}
