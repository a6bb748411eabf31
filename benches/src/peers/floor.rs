//! The floor for any exact, shared budget: two operations on one atomic, one ticket from a CSPRNG, one clock
//! read. It stores nothing: the ticket carries the payload.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Counter, Owner, Peer, secret};

pub(crate) struct Floor {
    budget: Counter,
    ttl: Duration,
}

impl Peer for Floor {
    const NAME: &'static str = "floor";
    type Ticket = (u128, Instant, Bytes);

    fn new(max_bytes: u64, ttl: Duration) -> Self {
        Self { budget: Counter::new(max_bytes), ttl }
    }

    fn put(&self, owner: Owner, payload: Bytes) -> Option<Self::Ticket> {
        if !self.budget.charge(payload.len() as u64) {
            return None;
        }
        black_box(owner);
        Some((secret(), Instant::now() + self.ttl, payload))
    }

    fn take(&self, (secret, deadline, payload): Self::Ticket, owner: Owner) -> Option<Bytes> {
        black_box((secret, deadline, owner));
        self.budget.release(payload.len() as u64);
        Some(payload)
    }

    fn expire(&self) -> Option<usize> {
        None
    }
}
