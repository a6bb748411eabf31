//! Reports events of a stash to an observer.

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod tracing;

use std::sync::Arc;
use std::time::Duration;

use crate::error::Refusal;
use crate::sync::contain_panic;

#[cfg(feature = "metrics")]
pub use self::metrics::MetricsObserver;
#[cfg(feature = "tracing")]
pub use self::tracing::TracingObserver;

/// Describes an event in a stash. `bytes` are the charge: payload size and entry overhead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An entry was stored.
    Stored {
        /// Its charge.
        bytes: u64,
        /// Whether it was admitted out of the overflow.
        overflow: bool,
    },
    /// A put or a reservation was refused, at once or after a wait.
    Refused {
        /// The reason.
        reason: Refusal,
        /// The charge that it asked for.
        bytes: u64,
    },
    /// A put or a reservation was granted after a wait.
    Waited {
        /// The charge that it asked for.
        bytes: u64,
        /// The time from joining the wait queue until the poll that found the grant.
        wait: Duration,
    },
    /// An entry was taken, or a claim of it was delivered.
    Delivered {
        /// Its charge.
        bytes: u64,
    },
    /// An entry was claimed.
    Claimed {
        /// Its charge.
        bytes: u64,
    },
    /// A claim was put back.
    PutBack {
        /// Its charge.
        bytes: u64,
    },
    /// Entries were removed because their deadline had passed.
    Expired {
        /// Their number.
        entries: usize,
        /// The sum of their charges.
        bytes: u64,
    },
    /// Entries were cleared, or were left when the last handle was dropped.
    Cleared {
        /// Their number.
        entries: usize,
        /// The sum of their charges.
        bytes: u64,
    },
    /// An entry was removed because its ticket was not sent.
    Unsent {
        /// Its charge.
        bytes: u64,
    },
}

/// Receives every event on the thread that caused it, after the operation.
///
/// Set it with [`Builder::observer`](crate::Builder::observer); without an observer, no events are made.
///
/// The stash calls it with nothing held, so it may call the stash. Its work takes the caller's time, and the
/// stash may have moved on since the event. A panic in it does not reach the caller.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::sync::Arc;
/// use cloakroom::{Event, Observer, Stash};
///
/// #[derive(Default)]
/// struct Delivered(AtomicU64);
///
/// impl Observer for Delivered {
///     fn event(&self, event: Event) {
///         if let Event::Delivered { bytes } = event {
///             self.0.fetch_add(bytes, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let delivered = Arc::new(Delivered::default());
/// let stash: Stash<Vec<u8>, ()> =
///     Stash::builder().max_bytes(1_000).entry_overhead(0).observer(delivered.clone()).build()?;
/// let ticket = stash.try_put((), vec![7; 100]).unwrap();
/// stash.take(&ticket, &());
/// assert_eq!(delivered.0.load(Ordering::Relaxed), 100);
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Receives one event.
    fn event(&self, event: Event);
}

impl<T: Observer + ?Sized> Observer for Arc<T> {
    fn event(&self, event: Event) {
        (**self).event(event);
    }
}

/// Calls both observers, one after the other. A panic in the first takes no event from the second.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn event(&self, event: Event) {
        contain_panic(|| self.0.event(event));
        self.1.event(event);
    }
}
