//! Reports events to the `tracing` crate.

use std::borrow::Cow;

use ::tracing::debug;

use crate::observe::{Event, Observer};

/// Emits every event of a stash as a [`tracing`](::tracing) event.
///
/// Target `cloakroom`, level `DEBUG`, one message for each kind of [`Event`], with its numbers as fields, in the
/// caller's span. An observer that was made with a [name](Self::named) adds the field `stash`.
///
/// # Examples
///
/// ```
/// use cloakroom::{Stash, TracingObserver};
///
/// let stash: Stash<Vec<u8>> =
///     Stash::builder().max_bytes(1 << 20).observer(TracingObserver::named("results")).build()?;
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct TracingObserver {
    name: Option<Cow<'static, str>>,
}

impl TracingObserver {
    /// Creates an observer whose events do not name the stash.
    #[must_use]
    pub const fn new() -> Self {
        Self { name: None }
    }

    /// Creates an observer whose events have the field `stash` with this value.
    pub fn named(stash: impl Into<Cow<'static, str>>) -> Self {
        Self { name: Some(stash.into()) }
    }
}

impl Observer for TracingObserver {
    fn event(&self, event: Event) {
        // Without a name, the field is left out.
        let stash = self.name.as_deref();
        match event {
            Event::Stored { bytes, overflow } => {
                debug!(target: "cloakroom", stash, bytes, overflow, "stored");
            }
            Event::Refused { reason, bytes } => {
                debug!(target: "cloakroom", stash, bytes, reason = reason.as_str(), "refused");
            }
            Event::Waited { bytes, wait } => {
                let seconds = wait.as_secs_f64();
                debug!(target: "cloakroom", stash, bytes, seconds, "waited");
            }
            Event::Delivered { bytes } => debug!(target: "cloakroom", stash, bytes, "delivered"),
            Event::Claimed { bytes } => debug!(target: "cloakroom", stash, bytes, "claimed"),
            Event::PutBack { bytes } => debug!(target: "cloakroom", stash, bytes, "put back"),
            Event::Expired { entries, bytes } => {
                debug!(target: "cloakroom", stash, entries, bytes, "expired");
            }
            Event::Cleared { entries, bytes } => {
                debug!(target: "cloakroom", stash, entries, bytes, "cleared");
            }
            Event::Unsent { bytes } => debug!(target: "cloakroom", stash, bytes, "unsent"),
        }
    }
}
