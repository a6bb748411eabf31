//! Settings of a stash, and what is wrong with them.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::Stash;
use super::alarms::Alarms;
use super::counters::Counters;
use super::shared::Inner;
use crate::budget::{Budget, MAX_LIMIT, Reclaim};
use crate::clock::{Clock, ClockSource, nanos};
use crate::error::ConfigError;
use crate::observe::Observer;
use crate::slots::{MAX_TTL, SlotMap};

const DEFAULT_TTL: Duration = Duration::from_secs(600);

impl<P, O> Stash<P, O> {
    /// Starts making a stash.
    pub fn builder() -> Builder<P, O> {
        Builder::new()
    }
}

/// Settings of a [`Stash`], made by [`Stash::builder`].
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<P, O> {
    max_bytes: u64,
    ttl: Duration,
    entry_overhead: u64,
    clock: Option<Box<dyn Clock>>,
    overflow: Option<(u64, Duration)>,
    max_bytes_per_owner: Option<u64>,
    max_waiting: usize,
    max_waiting_bytes: u64,
    observer: Option<Box<dyn Observer>>,
    stash: PhantomData<fn() -> Stash<P, O>>,
}

impl<P, O> Builder<P, O> {
    fn new() -> Self {
        Self {
            max_bytes: 0,
            ttl: DEFAULT_TTL,
            entry_overhead: SlotMap::<P, O>::ENTRY_BYTES,
            clock: None,
            overflow: None,
            max_bytes_per_owner: None,
            max_waiting: usize::MAX,
            max_waiting_bytes: u64::MAX,
            observer: None,
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

    /// The clock that bounds are kept by. Unless set, it is a monotonic one: with the feature `quanta`,
    /// which is on unless you turn it off, the processor's counter, if that runs evenly. It is held against the
    /// system's clock when a process builds its first stash, which takes about a millisecond then, and 200 at
    /// most.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Box::new(clock));
        self
    }

    /// For bursts: so many bytes above `max_bytes`. What is admitted with any of its bytes up there lives no
    /// longer than `ttl`. There is one budget and one line: a put waits only when the overflow is full too.
    ///
    /// Above zero, and together with `max_bytes` at most [`Budget::MAX_LIMIT`]; `ttl` above zero and no longer
    /// than the stash's.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::{ManualClock, Stash};
    /// let clock = ManualClock::new();
    /// let stash: Stash<Vec<u8>, ()> = Stash::builder()
    ///     .max_bytes(100)
    ///     .overflow(50, Duration::from_secs(5))
    ///     .entry_overhead(0)
    ///     .clock(clock.clone())
    ///     .build()?;
    /// let usual = stash.try_put((), vec![0; 80]).unwrap();
    /// let above = stash.try_put((), vec![0; 60]).unwrap();
    /// clock.advance(Duration::from_secs(5));
    /// assert!(stash.take(&above, &()).is_none());
    /// assert!(stash.take(&usual, &()).is_some());
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    pub fn overflow(mut self, bytes: u64, ttl: Duration) -> Self {
        self.overflow = Some((bytes, ttl));
        self
    }

    /// How many bytes one owner may hold, with what is in line for the owner: a put beyond it is refused at
    /// once, as [`OwnerFull`](crate::Refusal::OwnerFull), and stands in nobody's way. Above the entry
    /// overhead.
    ///
    /// With it puts and takes look up the owner's account, under a lock that is shared with about a sixteenth
    /// of the owners and held for that look-up only. Without it, there are no accounts.
    ///
    /// ```
    /// # use cloakroom::{Refusal, Stash};
    /// let stash: Stash<Vec<u8>> =
    ///     Stash::builder().max_bytes(100).max_bytes_per_owner(60).entry_overhead(0).build()?;
    /// let ticket = stash.try_put("noisy".into(), vec![0; 60]).unwrap();
    /// let refused = stash.try_put("noisy".into(), vec![0; 10]).unwrap_err();
    /// assert_eq!((refused.reason(), refused.used(), refused.limit()), (Refusal::OwnerFull, 60, 60));
    /// assert!(stash.try_put("quiet".into(), vec![0; 10]).is_ok());
    /// # let _ = ticket;
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    pub fn max_bytes_per_owner(mut self, bytes: u64) -> Self {
        self.max_bytes_per_owner = Some(bytes);
        self
    }

    /// How many may be in line: one more is refused at once, as [`QueueFull`](crate::Refusal::QueueFull). With
    /// 0 nobody waits. No limit unless set.
    ///
    /// ```
    /// # use cloakroom::{Refusal, Stash};
    /// # futures_lite::future::block_on(async {
    /// let stash: Stash<Vec<u8>, ()> =
    ///     Stash::builder().max_bytes(100).max_waiting(0).entry_overhead(0).build()?;
    /// let ticket = stash.put((), vec![0; 100]).await.unwrap();
    /// let refused = stash.put((), vec![0; 1]).await.unwrap_err();
    /// assert_eq!((refused.reason(), refused.queue_position()), (Refusal::QueueFull, Some(1)));
    /// # let _ = ticket;
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn max_waiting(mut self, requests: usize) -> Self {
        self.max_waiting = requests;
        self
    }

    /// How many bytes all who are in line may ask for together: one who would exceed it is refused at once,
    /// as [`QueueFull`](crate::Refusal::QueueFull). No limit unless set.
    pub fn max_waiting_bytes(mut self, bytes: u64) -> Self {
        self.max_waiting_bytes = bytes;
        self
    }

    /// Whom to tell what happens. Nobody unless set.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Builds the stash.
    ///
    /// Payloads and owners are `Send + 'static`, because any thread that waits for the stash's
    /// [budget](Stash::budget) removes expired entries meanwhile, and drops them.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the setting that is wrong, and why.
    pub fn build(self) -> Result<Stash<P, O>, ConfigError>
    where
        P: Send + 'static,
        O: Send + 'static,
    {
        self.check_bytes()?;
        self.check_times()?;
        let (overflow, overflow_ttl) = self.overflow.unwrap_or((0, self.ttl));
        let inner = Arc::new_cyclic(|inner: &Weak<Inner<P, O>>| {
            let reclaimer: Weak<dyn Reclaim> = inner.clone();
            let limit = self.max_bytes + overflow;
            let budget = Budget::of_stash(limit, overflow, Some(reclaimer));
            budget.set_max_waiting(self.max_waiting);
            budget.set_max_waiting_bytes(self.max_waiting_bytes);
            Inner {
                budget,
                slots: SlotMap::new(shards(), self.max_bytes_per_owner),
                ttl: nanos(self.ttl),
                overflow_ttl: nanos(overflow_ttl),
                entry_overhead: self.entry_overhead,
                clock: self.clock.map_or_else(ClockSource::real, ClockSource::Other),
                observer: self.observer,
                alarms: Alarms::new(),
                counters: Counters::new(),
            }
        });
        Ok(Stash { inner })
    }

    fn check_bytes(&self) -> Result<(), ConfigError> {
        let Self { max_bytes, entry_overhead, overflow, max_bytes_per_owner, .. } = *self;
        let wrong = |setting, problem: String| Err(ConfigError::new(setting, problem));
        if max_bytes == 0 {
            return wrong("max_bytes", "must be set, to at least 1".into());
        }
        if max_bytes > MAX_LIMIT {
            let problem = format!("{max_bytes} is more than the {MAX_LIMIT} that can be counted");
            return wrong("max_bytes", problem);
        }
        match overflow {
            Some((0, _)) => return wrong("overflow", "is zero bytes: leave it out".into()),
            Some((bytes, _)) if bytes > MAX_LIMIT - max_bytes => {
                let problem = format!(
                    "{bytes} and max_bytes are more than the {MAX_LIMIT} that can be counted"
                );
                return wrong("overflow", problem);
            }
            _ => {}
        }
        if entry_overhead > max_bytes {
            let problem =
                format!("{entry_overhead} is more than max_bytes, {max_bytes}: nothing would fit");
            return wrong("entry_overhead", problem);
        }
        match max_bytes_per_owner {
            Some(0) => wrong("max_bytes_per_owner", "is zero: nobody could put anything".into()),
            Some(bytes) if bytes < entry_overhead => {
                let problem = format!(
                    "{bytes} is less than entry_overhead, {entry_overhead}: nobody could put anything"
                );
                wrong("max_bytes_per_owner", problem)
            }
            _ => Ok(()),
        }
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        check_ttl("ttl", self.ttl)?;
        if let Some((_, ttl)) = self.overflow {
            check_ttl("overflow", ttl)?;
            if ttl > self.ttl {
                let problem =
                    format!("its ttl, {ttl:?}, is longer than the stash's, {:?}", self.ttl);
                return Err(ConfigError::new("overflow", problem));
            }
        }
        Ok(())
    }
}

fn check_ttl(setting: &'static str, ttl: Duration) -> Result<(), ConfigError> {
    if ttl.is_zero() {
        return Err(ConfigError::new(setting, "its ttl is zero: entries would never be there"));
    }
    if ttl.as_nanos() > u128::from(MAX_TTL) {
        let problem = format!("{ttl:?} is more than 73 years, which bounds cannot count");
        return Err(ConfigError::new(setting, problem));
    }
    Ok(())
}

/// Four per core, so that threads seldom share one.
fn shards() -> usize {
    if cfg!(cloakroom_loom) {
        1
    } else {
        4 * thread::available_parallelism().map_or(4, usize::from)
    }
}

impl<P, O> fmt::Debug for Builder<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("max_bytes", &self.max_bytes)
            .field("ttl", &self.ttl)
            .field("entry_overhead", &self.entry_overhead)
            .field("overflow", &self.overflow)
            .field("max_bytes_per_owner", &self.max_bytes_per_owner)
            .field("max_waiting", &self.max_waiting)
            .field("max_waiting_bytes", &self.max_waiting_bytes)
            .finish_non_exhaustive()
    }
}
