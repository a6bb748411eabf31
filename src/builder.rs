//! Settings of a stash, and what is wrong with them.

use std::fmt;
use std::marker::PhantomData;
use std::thread;
use std::time::{Duration, Instant};

use crate::budget::{Budget, MAX_LIMIT};
use crate::clock::{Clock, Time, nanos};
use crate::error::ConfigError;
use crate::slots::SlotMap;
use crate::stash::{Settings, Stash};

const DEFAULT_TTL: Duration = Duration::from_secs(600);
/// A quarter of what the clock can count, so that deadlines do not overflow for as long again.
const MAX_TTL_NANOS: u128 = 1 << 61;

/// Settings of a [`Stash`], made by [`Stash::builder`].
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<P, O> {
    max_bytes: u64,
    ttl: Duration,
    entry_overhead: u64,
    clock: Option<Box<dyn Clock>>,
    stash: PhantomData<fn() -> Stash<P, O>>,
}

impl<P, O> Builder<P, O> {
    pub(crate) fn new() -> Self {
        Self {
            max_bytes: 0,
            ttl: DEFAULT_TTL,
            entry_overhead: SlotMap::<P, O>::ENTRY_BYTES,
            clock: None,
            stash: PhantomData,
        }
    }

    /// The hard limit, in bytes, on the sum of all charges: payload sizes and entry overheads of what is
    /// stored. From 1 to [`Budget::MAX_LIMIT`]. Must be set.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How long an entry can be taken after it was put. Above zero, up to 73 years. Ten minutes unless
    /// set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// What an entry is charged besides its payload's size, in bytes. Unless set, it is what an entry
    /// takes in the stash's own memory, so that payloads without bytes are bounded too; with zero they
    /// are not.
    pub fn entry_overhead(mut self, bytes: u64) -> Self {
        self.entry_overhead = bytes;
        self
    }

    /// The clock that deadlines are kept by. The system's monotonic clock unless set.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Box::new(clock));
        self
    }

    /// Builds the stash.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the setting that cannot be.
    pub fn build(self) -> Result<Stash<P, O>, ConfigError> {
        let Self { max_bytes, ttl, entry_overhead, clock, stash: _ } = self;
        if max_bytes == 0 {
            return Err(ConfigError::new("max_bytes", "must be set, to at least 1"));
        }
        if max_bytes > MAX_LIMIT {
            let problem = format!("{max_bytes} is more than the {MAX_LIMIT} that can be counted");
            return Err(ConfigError::new("max_bytes", problem));
        }
        if ttl.is_zero() {
            return Err(ConfigError::new("ttl", "is zero: entries would never be there"));
        }
        if ttl.as_nanos() > MAX_TTL_NANOS {
            let problem = format!("{ttl:?} is more than 73 years, which deadlines cannot count");
            return Err(ConfigError::new("ttl", problem));
        }
        if entry_overhead > max_bytes {
            let problem =
                format!("{entry_overhead} is more than max_bytes, {max_bytes}: nothing would fit");
            return Err(ConfigError::new("entry_overhead", problem));
        }
        Ok(Stash::new(Settings {
            budget: Budget::new(max_bytes),
            slots: SlotMap::new(shards()),
            ttl: nanos(ttl),
            entry_overhead,
            time: clock.map_or_else(|| Time::Real(Instant::now()), Time::Other),
        }))
    }
}

/// Four per core, so that threads seldom share one.
fn shards() -> usize {
    if cfg!(loom) { 1 } else { 4 * thread::available_parallelism().map_or(4, usize::from) }
}

impl<P, O> fmt::Debug for Builder<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("max_bytes", &self.max_bytes)
            .field("ttl", &self.ttl)
            .field("entry_overhead", &self.entry_overhead)
            .finish_non_exhaustive()
    }
}
