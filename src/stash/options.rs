//! Options of one put.

use std::time::Duration;

/// Sets options of one entry.
///
/// ```
/// use std::time::Duration;
/// use cloakroom::PutOptions;
///
/// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
/// let short = PutOptions::new().ttl(Duration::from_secs(5));
/// let ticket = stash.try_put_with((), vec![7], short).unwrap();
/// # let _ = ticket;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutOptions {
    /// How long the entry can be taken, if not for the stash's time to live.
    pub ttl: Option<Duration>,
}

impl PutOptions {
    /// Nothing special.
    #[must_use]
    pub const fn new() -> Self {
        Self { ttl: None }
    }

    /// How long the entry can be taken: shorter or longer than others, up to 73 years, which longer ones
    /// are cut to. What is admitted out of the overflow lives no longer than the overflow's time to live. An
    /// entry with zero has expired when it is stored.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}
