//! Configures a stash and checks the settings.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock, Weak};
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
use crate::payload::{Payload, Scales, Weigher};
use crate::slots::{MAX_TTL, SlotMap};

const DEFAULT_TTL: Duration = Duration::from_secs(600);

impl<P, O> Stash<P, O> {
    /// Starts configuring a stash.
    pub fn builder() -> Builder<P, O> {
        Builder::new()
    }
}

/// Configures a [`Stash`], made by [`Stash::builder`].
///
/// `W` selects how payloads are weighed: `()` by their [`Payload`] size, [`Weigher`] by a closure.
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<P, O, W = ()> {
    /// `()`: by the payload's size.
    weigher: W,
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
            weigher: (),
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

    /// Charges each entry what `weigh` returns, and the entry overhead.
    ///
    /// Without it, an entry is charged its payload's [`size`](Payload::size). Set it for payloads of other
    /// crates' types, which then need not be a [`Payload`], and for owners that have memory of their own,
    /// which is not counted otherwise.
    ///
    /// It is called once for each put, on the thread that puts, before the stash is asked for room: it may
    /// call the stash. The weight that it returned then is what is released later, even if it would return
    /// another by that time. A weight that exceeds the limit is refused as
    /// [`TooLarge`](crate::Refusal::TooLarge).
    ///
    /// # Panics
    ///
    /// A panic in `weigh` goes to the caller of the put, and changes nothing.
    ///
    /// # Examples
    ///
    /// Owners are strings that clients choose, and count:
    ///
    /// ```
    /// # use cloakroom::{Refusal, Stash};
    /// let stash: Stash<Vec<u8>, String> = Stash::builder()
    ///     .max_bytes(1 << 20)
    ///     .weigher(|owner: &String, payload: &Vec<u8>| (owner.len() + payload.len()) as u64)
    ///     .build()?;
    /// let refused = stash.try_put("x".repeat(2 << 20), Vec::new()).unwrap_err();
    /// assert_eq!(refused.reason(), Refusal::TooLarge);
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    ///
    /// A payload that is not a [`Payload`]:
    ///
    /// ```
    /// # use cloakroom::Stash;
    /// # use std::collections::HashMap;
    /// type Table = HashMap<u64, f64>;
    /// let stash: Stash<Table, ()> = Stash::builder()
    ///     .max_bytes(1 << 20)
    ///     .weigher(|_, table: &Table| 32 * table.capacity() as u64)
    ///     .build()?;
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    pub fn weigher(
        self,
        weigh: impl Fn(&O, &P) -> u64 + Send + Sync + 'static,
    ) -> Builder<P, O, Weigher<P, O>> {
        self.with_weigher(Weigher::new(weigh)).0
    }

    /// Builds the stash.
    ///
    /// Payloads and owners are `Send + 'static`, because any thread that waits for the stash's
    /// [budget](Stash::budget) removes expired entries meanwhile, and drops them.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the setting that is wrong, and says why.
    ///
    /// # Complexity
    ///
    /// The first stash of a process takes longer: it counts the cores. With the feature `quanta` and no
    /// [`clock`](Self::clock) of your own, it also compares the processor's counter with the system's clock,
    /// which blocks the thread for about a millisecond, and for 200 at most. To choose when that happens,
    /// build a stash at the start. A later stash takes a few microseconds, and one or two kilobytes for each
    /// core while it is empty.
    pub fn build(self) -> Result<Stash<P, O>, ConfigError>
    where
        P: Payload + Send + 'static,
        O: Send + 'static,
    {
        self.build_with(Scales::Size(P::size))
    }
}

impl<P, O> Builder<P, O, Weigher<P, O>> {
    /// Builds the stash, which weighs entries with the [weigher](Builder::weigher).
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the setting that is wrong, and says why.
    pub fn build(self) -> Result<Stash<P, O>, ConfigError>
    where
        P: Send + 'static,
        O: Send + 'static,
    {
        let (builder, weigher) = self.with_weigher(());
        builder.build_with(Scales::Weigher(weigher))
    }
}

impl<P, O, W> Builder<P, O, W> {
    fn with_weigher<V>(self, weigher: V) -> (Builder<P, O, V>, W) {
        let builder = Builder {
            weigher,
            max_bytes: self.max_bytes,
            ttl: self.ttl,
            entry_overhead: self.entry_overhead,
            clock: self.clock,
            overflow: self.overflow,
            max_bytes_per_owner: self.max_bytes_per_owner,
            max_waiting: self.max_waiting,
            max_waiting_bytes: self.max_waiting_bytes,
            observer: self.observer,
            stash: self.stash,
        };
        (builder, self.weigher)
    }

    /// Sets the hard limit, in bytes, on the sum of all charges.
    ///
    /// From 1 to [`Budget::MAX_LIMIT`]. Must be set.
    ///
    /// # What is counted
    ///
    /// - The size of each payload as it reports it, or the weight that the [weigher](Self::weigher) returns
    ///   for owner and payload.
    /// - The [entry overhead](Self::entry_overhead): the slot that an entry is in.
    ///
    /// # What is not counted
    ///
    /// - Memory of the owner's own, unless a weigher counts it. With `String` owners of 10 kB that clients
    ///   choose, empty payloads under a limit of 1 MiB hold more than 100 MiB: set a weigher, or bound what may
    ///   be an owner.
    /// - Spare capacity of payloads, and what the allocator adds.
    /// - Payloads of puts that [wait](Stash::put), each in its future.
    /// - Slots without an entry. Slots' memory is kept for later entries until the stash is dropped. There
    ///   are about 4/3 slots for each entry of the most that were stored at once, and about 1,100 for each
    ///   shard in use (four shards per core). At most `max_bytes / entry_overhead` entries are stored at
    ///   once, so slots take at most `4/3 * max_bytes * slot / entry_overhead`, where `slot` is the default
    ///   of `entry_overhead`; with the default that is `4/3 * max_bytes`. This is reached when all payloads
    ///   were once empty; with payloads of a kilobyte it is a tenth of `max_bytes`. A process that must not
    ///   use twice `max_bytes` for slots and payloads, whatever clients send, sets a higher entry overhead:
    ///   four times the default bounds the slots to a third of `max_bytes`.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets how long an entry can be taken after it was put.
    ///
    /// Above zero, up to 73 years. Ten minutes unless set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets what an entry is charged besides its payload's size or weight, in bytes.
    ///
    /// Unless set, it is the size of a slot: what an entry takes in the stash's own memory, payload and owner
    /// without what they point at. It also bounds the memory of slots that are [kept](Self::max_bytes).
    ///
    /// With zero, charges are the payloads' sizes, but an empty payload is charged 1 byte, and so is a
    /// reservation of 0 bytes: what is stored, claimed or reserved is never free, so it is bounded by the
    /// limit, and [`drained`](Stash::drained) waits for it.
    pub fn entry_overhead(mut self, bytes: u64) -> Self {
        self.entry_overhead = bytes;
        self
    }

    /// Sets the clock that measures deadlines.
    ///
    /// Unless set, it is a monotonic one: with the feature `quanta`, which is on by default, it is the
    /// processor's counter, if that runs evenly. When a process builds its first stash, the counter is
    /// compared with the system's clock, which takes about a millisecond, and 200 at most.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Box::new(clock));
        self
    }

    /// Allows `bytes` beyond `max_bytes`, for bursts.
    ///
    /// An entry that uses any of these bytes expires after `ttl` at most. This is decided when its bytes are
    /// granted: for a [reservation](Stash::reserve) with all of its bytes, however small the payload turns out,
    /// and not again when other entries go. There is one budget and one wait queue: a put waits only when the
    /// overflow is full too.
    ///
    /// `bytes` must be above zero, and together with `max_bytes` at most [`Budget::MAX_LIMIT`]; `ttl` must be
    /// above zero and no longer than the stash's.
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

    /// Sets how many bytes one owner may hold, counting its waiting requests.
    ///
    /// A put beyond it is refused immediately, as [`OwnerFull`](crate::Refusal::OwnerFull), and delays no
    /// other. It must be above zero, and at least the entry overhead.
    ///
    /// With it, puts and takes look up the owner's quota under a lock. The lock is shared with about a
    /// sixteenth of the owners and held for that look-up only. The owner is hashed with SipHash, so that no
    /// client can choose names that share a quota. Without it, no quotas are kept.
    ///
    /// When several reasons to refuse apply, the order is [`Closed`](crate::Refusal::Closed),
    /// [`TooLarge`](crate::Refusal::TooLarge), `OwnerFull`, [`Full`](crate::Refusal::Full). A request that finds its owner's
    /// quota open and then waits counts against it from its first poll until its wait ends, also if it is refused.
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

    /// Sets how many requests may wait.
    ///
    /// One more is refused immediately, as [`QueueFull`](crate::Refusal::QueueFull). With 0 no request waits.
    /// No limit unless set.
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

    /// Sets how many bytes all waiting requests may ask for together.
    ///
    /// A request that would exceed it is refused immediately, as [`QueueFull`](crate::Refusal::QueueFull). No
    /// limit unless set.
    pub fn max_waiting_bytes(mut self, bytes: u64) -> Self {
        self.max_waiting_bytes = bytes;
        self
    }

    /// Sets the observer that receives every event. None unless set.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    fn build_with(self, scales: Scales<P, O>) -> Result<Stash<P, O>, ConfigError>
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
                scales,
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
            Some(0) => wrong("max_bytes_per_owner", "is zero: no owner could put anything".into()),
            Some(bytes) if bytes < entry_overhead => {
                let problem = format!(
                    "{bytes} is less than entry_overhead, {entry_overhead}: no owner could put anything"
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
        let problem = format!("{ttl:?} is more than 73 years, which deadlines cannot count");
        return Err(ConfigError::new(setting, problem));
    }
    Ok(())
}

/// Returns four shards per core, so that threads seldom share one. Cores are counted once a process.
fn shards() -> usize {
    if cfg!(cloakroom_loom) {
        1
    } else {
        // Asking the system takes longer than the rest of `build` together.
        static CORES: OnceLock<usize> = OnceLock::new();
        4 * CORES.get_or_init(|| thread::available_parallelism().map_or(4, usize::from))
    }
}

impl<P, O, W> fmt::Debug for Builder<P, O, W> {
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
