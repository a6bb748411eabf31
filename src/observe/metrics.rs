//! Reports events and numbers to the `metrics` crate.

use ::metrics::{Label, SharedString, counter, gauge, histogram};

use crate::observe::{Event, Observer};
use crate::stash::Stats;

/// Emits every event of a stash to the global recorder of the [`metrics`](::metrics) crate.
///
/// | metric | kind | labels |
/// |---|---|---|
/// | `cloakroom_put_total` | counter | `outcome`: `stored`, or [why it was refused](crate::Refusal::as_str) |
/// | `cloakroom_stored_bytes_total`, `cloakroom_delivered_bytes_total` | counter | |
/// | `cloakroom_delivered_total`, `cloakroom_expired_total`, `cloakroom_cleared_total`, `cloakroom_unsent_total` | counter | |
/// | `cloakroom_claim_total` | counter | `outcome`: `claimed`, `put_back` |
/// | `cloakroom_wait_seconds` | histogram | |
///
/// and, from [`record`](Self::record), the gauges `cloakroom_used_bytes`, `cloakroom_peak_bytes`,
/// `cloakroom_max_bytes`, `cloakroom_entries`, `cloakroom_claims`, `cloakroom_waiting`,
/// `cloakroom_waiting_bytes`, `cloakroom_oldest_wait_seconds`.
///
/// An observer that was made with a [name](Self::named) adds the label `stash` to each of them. Several
/// stashes in one process need names: without, they overwrite each other's gauges and add to the same
/// counters.
///
/// # Examples
///
/// ```
/// use cloakroom::{MetricsObserver, Stash};
///
/// let observer = MetricsObserver::named("results");
/// let stash: Stash<Vec<u8>> =
///     Stash::builder().max_bytes(1 << 20).observer(observer.clone()).build()?;
/// // Now and then, or when scraped:
/// observer.record(&stash.stats());
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MetricsObserver {
    name: Option<SharedString>,
}

impl MetricsObserver {
    /// Creates an observer whose metrics have no label that names the stash.
    #[must_use]
    pub const fn new() -> Self {
        Self { name: None }
    }

    /// Creates an observer whose metrics have the label `stash` with this value.
    ///
    /// # Examples
    ///
    /// ```
    /// use cloakroom::{MetricsObserver, Stash};
    ///
    /// let stash = |name| {
    ///     let builder = Stash::<Vec<u8>, u64>::builder().max_bytes(64 << 20);
    ///     builder.observer(MetricsObserver::named(name)).build()
    /// };
    /// let (results, uploads) = (stash("results")?, stash("uploads")?);
    /// # drop((results, uploads));
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    pub fn named(stash: impl Into<SharedString>) -> Self {
        Self { name: Some(stash.into()) }
    }

    /// Sets the gauges to these numbers.
    pub fn record(&self, stats: &Stats) {
        let set = |name: &'static str, value: f64| gauge!(name, self.labels(None)).set(value);
        set("cloakroom_used_bytes", stats.used_bytes as f64);
        set("cloakroom_peak_bytes", stats.peak_bytes as f64);
        set("cloakroom_max_bytes", stats.max_bytes as f64);
        set("cloakroom_entries", stats.entries as f64);
        set("cloakroom_claims", stats.claims as f64);
        set("cloakroom_waiting", stats.waiting as f64);
        set("cloakroom_waiting_bytes", stats.waiting_bytes as f64);
        let oldest = stats.oldest_wait.unwrap_or_default();
        set("cloakroom_oldest_wait_seconds", oldest.as_secs_f64());
    }

    fn labels(&self, outcome: Option<&'static str>) -> Vec<Label> {
        let stash = self.name.iter().map(|name| Label::new("stash", name.clone()));
        stash.chain(outcome.map(|outcome| Label::from_static_parts("outcome", outcome))).collect()
    }

    fn count(&self, name: &'static str, outcome: Option<&'static str>, by: u64) {
        counter!(name, self.labels(outcome)).increment(by);
    }
}

impl Observer for MetricsObserver {
    fn event(&self, event: Event) {
        match event {
            Event::Stored { bytes, .. } => {
                self.count("cloakroom_put_total", Some("stored"), 1);
                self.count("cloakroom_stored_bytes_total", None, bytes);
            }
            Event::Refused { reason, .. } => {
                self.count("cloakroom_put_total", Some(reason.as_str()), 1);
            }
            Event::Waited { wait, .. } => {
                let labels = self.labels(None);
                histogram!("cloakroom_wait_seconds", labels).record(wait.as_secs_f64());
            }
            Event::Delivered { bytes } => {
                self.count("cloakroom_delivered_total", None, 1);
                self.count("cloakroom_delivered_bytes_total", None, bytes);
            }
            Event::Claimed { .. } => self.count("cloakroom_claim_total", Some("claimed"), 1),
            Event::PutBack { .. } => self.count("cloakroom_claim_total", Some("put_back"), 1),
            Event::Expired { entries, .. } => {
                self.count("cloakroom_expired_total", None, entries as u64);
            }
            Event::Cleared { entries, .. } => {
                self.count("cloakroom_cleared_total", None, entries as u64);
            }
            Event::Unsent { .. } => self.count("cloakroom_unsent_total", None, 1),
        }
    }
}
