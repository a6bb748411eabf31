//! Events and numbers for the `metrics` crate.

use ::metrics::{counter, gauge, histogram};

use crate::observe::{Event, Observer};
use crate::stash::Stats;

/// Emits what happens to the global recorder of the [`metrics`](::metrics) crate.
///
/// | metric | kind | labels |
/// |---|---|---|
/// | `cloakroom_put_total` | counter | `outcome`: `stored`, or [why it was refused](crate::Refusal::as_str) |
/// | `cloakroom_stored_bytes_total`, `cloakroom_delivered_bytes_total` | counter | |
/// | `cloakroom_delivered_total`, `cloakroom_expired_total`, `cloakroom_cleared_total` | counter | |
/// | `cloakroom_claim_total` | counter | `outcome`: `claimed`, `put_back` |
/// | `cloakroom_wait_seconds` | histogram | |
///
/// and, from [`record`](Self::record), the gauges `cloakroom_used_bytes`, `cloakroom_peak_bytes`,
/// `cloakroom_max_bytes`, `cloakroom_entries`, `cloakroom_claims`, `cloakroom_waiting`,
/// `cloakroom_waiting_bytes`, `cloakroom_oldest_wait_seconds`.
///
/// ```
/// use cloakroom::{MetricsObserver, Stash};
///
/// let stash: Stash<Vec<u8>> =
///     Stash::builder().max_bytes(1 << 20).observer(MetricsObserver).build()?;
/// // Now and then, or when scraped:
/// MetricsObserver.record(&stash.stats());
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricsObserver;

impl MetricsObserver {
    /// Sets the gauges.
    pub fn record(&self, stats: &Stats) {
        let set = |name: &'static str, value: u64| gauge!(name).set(value as f64);
        set("cloakroom_used_bytes", stats.used_bytes);
        set("cloakroom_peak_bytes", stats.peak_bytes);
        set("cloakroom_max_bytes", stats.max_bytes);
        set("cloakroom_entries", stats.entries);
        set("cloakroom_claims", stats.claims);
        set("cloakroom_waiting", stats.waiting as u64);
        set("cloakroom_waiting_bytes", stats.waiting_bytes);
        let oldest = stats.oldest_wait.unwrap_or_default();
        gauge!("cloakroom_oldest_wait_seconds").set(oldest.as_secs_f64());
    }
}

impl Observer for MetricsObserver {
    fn event(&self, event: Event) {
        match event {
            Event::Stored { bytes, .. } => {
                counter!("cloakroom_put_total", "outcome" => "stored").increment(1);
                counter!("cloakroom_stored_bytes_total").increment(bytes);
            }
            Event::Refused { reason, .. } => {
                counter!("cloakroom_put_total", "outcome" => reason.as_str()).increment(1);
            }
            Event::Waited { wait, .. } => {
                histogram!("cloakroom_wait_seconds").record(wait.as_secs_f64());
            }
            Event::Delivered { bytes } => {
                counter!("cloakroom_delivered_total").increment(1);
                counter!("cloakroom_delivered_bytes_total").increment(bytes);
            }
            Event::Claimed { .. } => {
                counter!("cloakroom_claim_total", "outcome" => "claimed").increment(1);
            }
            Event::PutBack { .. } => {
                counter!("cloakroom_claim_total", "outcome" => "put_back").increment(1);
            }
            Event::Expired { entries, .. } => {
                counter!("cloakroom_expired_total").increment(entries as u64);
            }
            Event::Cleared { entries, .. } => {
                counter!("cloakroom_cleared_total").increment(entries as u64);
            }
        }
    }
}
