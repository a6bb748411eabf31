//! scc's hash map and an atomic.

use std::time::{Duration, Instant};

use bytes::Bytes;
use scc::HashMap;

use super::{Counter, Entry, Owner, Peer, secret};

pub(crate) struct Scc {
    entries: HashMap<u128, Entry>,
    budget: Counter,
    ttl: Duration,
}

impl Peer for Scc {
    const NAME: &'static str = "scc";
    type Ticket = u128;

    fn new(max_bytes: u64, ttl: Duration) -> Self {
        Self { entries: HashMap::new(), budget: Counter::new(max_bytes), ttl }
    }

    fn put(&self, owner: Owner, payload: Bytes) -> Option<u128> {
        if !self.budget.charge(payload.len() as u64) {
            return None;
        }
        let ticket = secret();
        let inserted = self.entries.insert_sync(ticket, Entry::new(owner, payload, self.ttl));
        inserted.is_ok().then_some(ticket)
    }

    fn take(&self, ticket: u128, owner: Owner) -> Option<Bytes> {
        let (_, entry) = self.entries.remove_if_sync(&ticket, |entry| entry.owner == owner)?;
        self.budget.release(entry.charge());
        entry.is_live(Instant::now()).then_some(entry.payload)
    }

    fn expire(&self) -> Option<usize> {
        let now = Instant::now();
        let (mut removed, mut freed) = (0, 0);
        self.entries.retain_sync(|_, entry| {
            let live = entry.is_live(now);
            if !live {
                removed += 1;
                freed += entry.charge();
            }
            live
        });
        self.budget.release(freed);
        Some(removed)
    }
}
