//! Measures time with a replaceable clock, so that tests of time rules need not sleep.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::slots::{NEVER, Nanos};
use crate::sync::{Mutex, contain_panic};

/// Measures time for deadlines.
///
/// The stash calls it at each put, take and sweep, and holds nothing meanwhile, so it may even call the
/// stash. It should not go backwards. If it does, entries that were put before live longer, and entries that
/// are put while it is behind live shorter.
///
/// ```
/// use std::time::Duration;
///
/// /// Follows tokio's clock, which tests can pause.
/// struct TokioClock(tokio::time::Instant);
///
/// impl cloakroom::Clock for TokioClock {
///     fn now(&self) -> Duration {
///         self.0.elapsed()
///     }
/// }
/// ```
pub trait Clock: Send + Sync + 'static {
    /// Returns the time since an origin that the clock chooses.
    ///
    /// A time above 292 years is cut to that: the clock has then come to its end, and every entry has expired.
    /// So choose an origin within the last two centuries.
    fn now(&self) -> Duration;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Duration {
        (**self).now()
    }
}

/// Selects the clock in use. The real one needs no virtual call.
pub(crate) enum ClockSource {
    Real(RealClock),
    Other(Box<dyn Clock>),
}

impl ClockSource {
    pub(crate) fn real() -> Self {
        ClockSource::Real(RealClock::new())
    }

    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        match self {
            ClockSource::Real(time) => time.now(),
            ClockSource::Other(clock) => nanos(clock.now()),
        }
    }
}

pub(crate) use self::real::RealClock;

/// Reads the processor's counter, if it runs evenly (`quanta` knows), else the system's monotonic clock.
#[cfg(all(feature = "quanta", not(any(cloakroom_loom, miri))))]
mod real {
    use std::sync::OnceLock;

    use crate::slots::{NEVER, Nanos};

    pub(crate) struct RealClock {
        clock: quanta::Clock,
        origin: u64,
        /// Nanoseconds in 2^32 ticks: a multiplication and a shift by a constant.
        scale: u64,
    }

    impl RealClock {
        pub(super) fn new() -> Self {
            // Finding the counter takes microseconds, and in a virtual machine a hundred.
            static COUNTER: OnceLock<quanta::Clock> = OnceLock::new();
            let clock = COUNTER.get_or_init(quanta::Clock::new).clone();
            let (origin, scale) = (clock.raw(), clock.delta_as_nanos(0, 1 << 32));
            Self { clock, origin, scale }
        }

        #[inline]
        pub(super) fn now(&self) -> Nanos {
            // Another core's counter may be a little behind.
            let ticks = self.clock.raw().saturating_sub(self.origin);
            let nanos = (u128::from(ticks) * u128::from(self.scale)) >> 32;
            (nanos as u64).min(NEVER - 1)
        }
    }
}

#[cfg(not(all(feature = "quanta", not(any(cloakroom_loom, miri)))))]
mod real {
    use std::time::Instant;

    use super::nanos;
    use crate::slots::Nanos;

    pub(crate) struct RealClock(Instant);

    impl RealClock {
        pub(super) fn new() -> Self {
            Self(Instant::now())
        }

        #[inline]
        pub(super) fn now(&self) -> Nanos {
            nanos(self.0.elapsed())
        }
    }
}

/// Converts to nanoseconds. Saturates after 292 years.
#[inline]
pub(crate) fn nanos(duration: Duration) -> Nanos {
    let nanos = duration.as_secs().saturating_mul(1_000_000_000);
    nanos.saturating_add(u64::from(duration.subsec_nanos())).min(NEVER - 1)
}

/// Stands still until it is advanced. Clones are the same clock.
///
/// ```
/// use std::time::Duration;
/// use cloakroom::{ManualClock, Stash};
///
/// let clock = ManualClock::new();
/// let stash: Stash<String, ()> = Stash::builder()
///     .max_bytes(1 << 20)
///     .ttl(Duration::from_secs(600))
///     .clock(clock.clone())
///     .build()?;
/// let ticket = stash.try_put((), "coat".to_owned()).unwrap();
/// clock.advance(Duration::from_secs(600));
/// assert_eq!(stash.take(&ticket, &()), None);
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct ManualClock(Arc<Mutex<Hands>>);

struct Hands {
    now: Duration,
    /// By the number of the sleep.
    sleepers: BTreeMap<u64, Sleeper>,
    next_number: u64,
}

struct Sleeper {
    until: Duration,
    waker: Waker,
}

impl ManualClock {
    /// Creates a clock at zero.
    #[must_use]
    pub fn new() -> Self {
        let hands = Hands { now: Duration::ZERO, sleepers: BTreeMap::new(), next_number: 0 };
        Self(Arc::new(Mutex::new(hands)))
    }

    /// Advances the time by `step` and wakes the sleepers whose time has come.
    pub fn advance(&self, step: Duration) {
        let due: Vec<Sleeper> = {
            let mut hands = self.0.lock();
            let now = hands.now.saturating_add(step);
            hands.now = now;
            let due = hands.sleepers.iter().filter(|(_, sleeper)| sleeper.until <= now);
            let numbers: Vec<u64> = due.map(|(number, _)| *number).collect();
            numbers.iter().filter_map(|number| hands.sleepers.remove(number)).collect()
        };
        for sleeper in due {
            contain_panic(|| sleeper.waker.wake());
        }
    }

    /// Returns a future that completes when the clock has advanced by `duration`.
    ///
    /// It is a sleep for [`Reaper::run`](crate::Reaper::run) and for `until` and `timeout`. It never completes if the
    /// clock cannot advance by `duration`, because it would then be beyond [`Duration::MAX`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the sleep and loses nothing.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        let mut hands = self.0.lock();
        let until = hands.now.checked_add(duration);
        hands.next_number += 1;
        Sleep { clock: self.clone(), number: hands.next_number, until }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        self.0.lock().now
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now()).finish()
    }
}

struct Sleep {
    clock: ManualClock,
    number: u64,
    /// `None`: beyond the end of the clock.
    until: Option<Duration>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The waker is user code: it is cloned before the lock is taken, and the one it replaces is dropped
        // after.
        let Some(until) = self.until else { return Poll::Pending };
        let sleeper = Sleeper { until, waker: cx.waker().clone() };
        let mut hands = self.clock.0.lock();
        if hands.now >= until {
            drop(hands);
            return Poll::Ready(());
        }
        let replaced = hands.sleepers.insert(self.number, sleeper);
        drop(hands);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let sleeper = self.clock.0.lock().sleepers.remove(&self.number);
        drop(sleeper);
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_never() {
        assert_eq!(nanos(Duration::MAX), NEVER - 1);
        assert_eq!(nanos(Duration::from_nanos(NEVER)), NEVER - 1);
        assert_eq!(nanos(Duration::from_nanos(NEVER - 2)), NEVER - 2);
    }
}
