//! This crate.

use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Stash, Ticket};

use super::{Owner, Peer, WaitingPeer};

pub(crate) struct Cloakroom(Stash<Bytes, Owner>);

impl Peer for Cloakroom {
    const NAME: &'static str = "cloakroom";
    type Ticket = Ticket;

    /// Charges payloads only, as the peers do.
    fn new(max_bytes: u64, ttl: Duration) -> Self {
        let builder = Stash::builder().max_bytes(max_bytes).ttl(ttl).entry_overhead(0);
        Self(builder.build().expect("the settings are good"))
    }

    fn put(&self, owner: Owner, payload: Bytes) -> Option<Ticket> {
        self.0.try_put(owner, payload).ok()
    }

    fn take(&self, ticket: Ticket, owner: Owner) -> Option<Bytes> {
        self.0.take(&ticket, &owner)
    }

    fn expire(&self) -> Option<usize> {
        Some(self.0.gc())
    }
}

impl WaitingPeer for Cloakroom {
    async fn put_wait(&self, owner: Owner, payload: Bytes) -> Ticket {
        self.0.put(owner, payload).await.expect("it fits, in time")
    }
}
