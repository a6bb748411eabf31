//! The usual code of today: `DashMap` and tokio's semaphore.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::Semaphore;

use super::{Entry, Owner, Peer, WaitingPeer, secret};

/// With the hasher `S` for tickets.
pub(crate) struct GlueWith<S> {
    entries: DashMap<u128, Entry, S>,
    room: Semaphore,
    ttl: Duration,
}

pub(crate) type Glue = GlueWith<RandomState>;
pub(crate) type GlueFoldhash = GlueWith<foldhash::fast::RandomState>;

impl<S: BuildHasher + Clone + Default> GlueWith<S> {
    pub(crate) fn new(max_bytes: u64, ttl: Duration) -> Self {
        let room = Semaphore::new(usize::try_from(max_bytes).expect("64 bits"));
        Self { entries: DashMap::default(), room, ttl }
    }

    /// Permits count bytes, and are 32 bits.
    fn permits(payload: &Bytes) -> u32 {
        payload.len().try_into().expect("payloads are small")
    }

    pub(crate) fn put(&self, owner: Owner, payload: Bytes) -> Option<u128> {
        let permit = self.room.try_acquire_many(Self::permits(&payload)).ok()?;
        permit.forget();
        Some(self.store(owner, payload))
    }

    fn store(&self, owner: Owner, payload: Bytes) -> u128 {
        let ticket = secret();
        self.entries.insert(ticket, Entry::new(owner, payload, self.ttl));
        ticket
    }

    pub(crate) fn take(&self, ticket: u128, owner: Owner) -> Option<Bytes> {
        let (_, entry) = self.entries.remove_if(&ticket, |_, entry| entry.owner == owner)?;
        self.room.add_permits(entry.payload.len());
        entry.is_live(Instant::now()).then_some(entry.payload)
    }

    fn expire(&self) -> usize {
        let now = Instant::now();
        let (mut removed, mut freed) = (0, 0);
        self.entries.retain(|_, entry| {
            let live = entry.is_live(now);
            if !live {
                removed += 1;
                freed += entry.payload.len();
            }
            live
        });
        self.room.add_permits(freed);
        removed
    }
}

macro_rules! peer {
    ($type:ty, $name:literal) => {
        impl Peer for $type {
            const NAME: &'static str = $name;
            type Ticket = u128;

            fn new(max_bytes: u64, ttl: Duration) -> Self {
                Self::new(max_bytes, ttl)
            }

            fn put(&self, owner: Owner, payload: Bytes) -> Option<u128> {
                self.put(owner, payload)
            }

            fn take(&self, ticket: u128, owner: Owner) -> Option<Bytes> {
                self.take(ticket, owner)
            }

            fn expire(&self) -> Option<usize> {
                Some(self.expire())
            }
        }
    };
}

peer!(Glue, "glue");
peer!(GlueFoldhash, "glue, foldhash");

impl WaitingPeer for Glue {
    async fn put_wait(&self, owner: Owner, payload: Bytes) -> u128 {
        let permit = self.room.acquire_many(Self::permits(&payload)).await;
        permit.expect("never closed").forget();
        self.store(owner, payload)
    }
}
