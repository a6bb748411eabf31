//! Reads the numbers.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::Stats;

use crate::engine::{Engine, Step, StepError};

/// Holds the numbers, and whether the stash is closed and drained.
pub(crate) struct Seen {
    pub(crate) stats: Stats,
    pub(crate) is_closed: bool,
    pub(crate) is_drained: bool,
}

pub(crate) async fn stats(engine: &Arc<Engine>) -> Result<Seen, StepError> {
    // What this replica has delivered counts.
    engine.flush().await?;
    let (reply, _) = engine.step(Step::new("stats", &[]), engine.deadline()).await?;
    // The fields of state.lua, from 1.
    let fields = reply.numbers(4);
    let field = |index: usize| fields.get(index - 1).copied().unwrap_or(0);
    let mut stats = Stats::default();
    stats.max_bytes = field(1);
    stats.overflow_bytes = field(3);
    stats.used_bytes = field(12);
    stats.waiting = field(14) as usize;
    stats.waiting_bytes = field(15);
    stats.claims = field(16);
    stats.peak_bytes = field(22);
    stats.stored = field(23);
    stats.delivered = field(24);
    stats.expired = field(25);
    stats.cleared = field(26);
    stats.claimed = field(27);
    stats.put_back = field(28);
    stats.waited = field(29);
    stats.refused.full = field(30);
    stats.refused.too_large = field(31);
    stats.refused.timed_out = field(32);
    stats.refused.cancelled = field(33);
    stats.refused.closed = field(34);
    stats.refused.owner_full = field(35);
    stats.refused.queue_full = field(36);
    stats.unsent = field(37);
    stats.abandoned = field(38);
    stats.entries = reply.number(5).unwrap_or(0) as u64;
    stats.head_bytes = reply.number(6).map(|bytes| bytes as u64);
    stats.oldest_wait = reply.number(7).map(|micros| Duration::from_micros(micros as u64));
    let is_closed = field(17) == 1;
    Ok(Seen { stats, is_closed, is_drained: is_closed && field(13) == 0 })
}
