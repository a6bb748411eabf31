//! Configures one put.

use std::time::Duration;

/// Configures one put.
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
    /// The entry's time to live, if not the stash's.
    pub ttl: Option<Duration>,
}

impl PutOptions {
    /// Creates options that leave everything as the stash sets it.
    #[must_use]
    pub const fn new() -> Self {
        Self { ttl: None }
    }

    /// Sets the entry's time to live: shorter or longer than the stash's.
    ///
    /// A time above 73 years is cut to that. An entry that uses the overflow lives no longer than the
    /// overflow's time to live. An entry with a time of zero has expired when it is stored.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}
