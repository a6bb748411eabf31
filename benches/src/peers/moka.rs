//! moka's cache with a weigher and a time to live. When it is full it evicts instead of refusing, and it
//! keeps its limit only eventually. Both count in its favour here.

use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;

use super::{Owner, Peer, secret};

pub(crate) struct Moka(Cache<u128, (Owner, Bytes)>);

impl Peer for Moka {
    const NAME: &'static str = "moka";
    type Ticket = u128;

    fn new(max_bytes: u64, ttl: Duration) -> Self {
        let weigh = |_: &u128, (_, payload): &(Owner, Bytes)| {
            payload.len().try_into().expect("payloads are small")
        };
        let cache = Cache::builder().weigher(weigh).max_capacity(max_bytes).time_to_live(ttl);
        Self(cache.build())
    }

    fn put(&self, owner: Owner, payload: Bytes) -> Option<u128> {
        let ticket = secret();
        self.0.insert(ticket, (owner, payload));
        Some(ticket)
    }

    fn take(&self, ticket: u128, owner: Owner) -> Option<Bytes> {
        if self.0.get(&ticket)?.0 != owner {
            return None;
        }
        // Of two concurrent takes, one gets it.
        self.0.remove(&ticket).map(|(_, payload)| payload)
    }

    /// At its own pace.
    fn expire(&self) -> Option<usize> {
        None
    }
}
