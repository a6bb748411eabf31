//! Events for the `tracing` crate.

use ::tracing::debug;

use crate::observe::{Event, Observer};

/// Emits what happens as [`tracing`](::tracing) events: target `cloakroom`, level `DEBUG`, one message for
/// each kind of [`Event`], with its numbers as fields. In the span of whoever called.
///
/// ```
/// use cloakroom::{Stash, TracingObserver};
///
/// let stash: Stash<Vec<u8>> =
///     Stash::builder().max_bytes(1 << 20).observer(TracingObserver).build()?;
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingObserver;

impl Observer for TracingObserver {
    fn event(&self, event: Event) {
        match event {
            Event::Stored { bytes, overflow } => {
                debug!(target: "cloakroom", bytes, overflow, "stored");
            }
            Event::Refused { reason, bytes } => {
                debug!(target: "cloakroom", bytes, reason = reason.as_str(), "refused");
            }
            Event::Waited { bytes, wait } => {
                let seconds = wait.as_secs_f64();
                debug!(target: "cloakroom", bytes, seconds, "waited");
            }
            Event::Delivered { bytes } => debug!(target: "cloakroom", bytes, "delivered"),
            Event::Claimed { bytes } => debug!(target: "cloakroom", bytes, "claimed"),
            Event::PutBack { bytes } => debug!(target: "cloakroom", bytes, "put back"),
            Event::Expired { entries, bytes } => {
                debug!(target: "cloakroom", entries, bytes, "expired");
            }
            Event::Cleared { entries, bytes } => {
                debug!(target: "cloakroom", entries, bytes, "cleared");
            }
        }
    }
}
