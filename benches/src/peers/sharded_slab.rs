//! The sharded-slab crate and an atomic. The ticket has the slab's key and a secret of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sharded_slab::Slab;

use super::{Counter, Entry, Owner, Peer, secret};

pub(crate) struct ShardedSlab {
    entries: Slab<(u128, Entry)>,
    budget: Counter,
    ttl: Duration,
}

impl Peer for ShardedSlab {
    const NAME: &'static str = "sharded-slab";
    type Ticket = (usize, u128);

    fn new(max_bytes: u64, ttl: Duration) -> Self {
        Self { entries: Slab::new(), budget: Counter::new(max_bytes), ttl }
    }

    fn put(&self, owner: Owner, payload: Bytes) -> Option<Self::Ticket> {
        let charge = payload.len() as u64;
        if !self.budget.charge(charge) {
            return None;
        }
        let secret = secret();
        let key = self.entries.insert((secret, Entry::new(owner, payload, self.ttl)));
        if key.is_none() {
            self.budget.release(charge);
        }
        Some((key?, secret))
    }

    fn take(&self, (key, secret): Self::Ticket, owner: Owner) -> Option<Bytes> {
        // The key has the slot's generation, so the entry that is removed is the one that was checked.
        let good = |held: &(u128, Entry)| held.0 == secret && held.1.owner == owner;
        if !good(&*self.entries.get(key)?) {
            return None;
        }
        let (_, entry) = self.entries.take(key)?;
        self.budget.release(entry.charge());
        entry.is_live(Instant::now()).then_some(entry.payload)
    }

    /// A slab that is shared cannot be walked.
    fn expire(&self) -> Option<usize> {
        None
    }
}
