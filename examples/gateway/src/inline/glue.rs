//! The inline store without the crate: a concurrent map, a semaphore that counts bytes, a task that sweeps.
//! The load run compares it with the crate.
//!
//! It has unguessable tickets, checks owners and deadlines, counts bytes until the last has been sent, and
//! has a fair queue. It does not put results back when a download breaks, has no limits for owners or the
//! queue, and does not release expired bytes on time: that takes more than glue.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use dashmap::DashMap;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use uuid::Uuid;

use super::{Delivery, InlineStore, Opened, Peeked, Reason, Refused, Reserved, Usage};
use crate::config::Config;
use crate::owner::Owner;
use crate::prometheus::Page;

/// How often the sweeper removes expired results.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);
/// Roughly what an entry takes besides its payload.
const ENTRY_BYTES: u64 = 128;

/// Results in a map, and a semaphore with a permit for each byte.
#[derive(Debug)]
pub struct GlueStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    entries: DashMap<Uuid, Entry>,
    room: Arc<Semaphore>,
    closed: Arc<Semaphore>,
    max_bytes: u64,
    ttl: Duration,
    waiting: AtomicUsize,
    peak_bytes: AtomicU64,
}

struct Entry {
    owner: Owner,
    deadline: Instant,
    payload: Paid,
}

/// Bytes, and the permits that they hold.
struct Paid {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("bytes", &self.payload.bytes.len()).finish_non_exhaustive()
    }
}

impl GlueStore {
    /// Must be called inside a tokio runtime. The sweeper's task ends with the store.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        anyhow::ensure!(config.max_bytes > 0, "max_bytes: must be set, to at least 1");
        anyhow::ensure!(
            config.max_bytes <= Semaphore::MAX_PERMITS as u64,
            "max_bytes: more than a semaphore can count"
        );
        let shared = Arc::new(Shared {
            entries: DashMap::new(),
            room: Arc::new(Semaphore::new(config.max_bytes as usize)),
            closed: Arc::new(Semaphore::new(0)),
            max_bytes: config.max_bytes,
            ttl: config.ttl,
            waiting: AtomicUsize::new(0),
            peak_bytes: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                let Some(shared) = weak.upgrade() else { break };
                let now = Instant::now();
                shared.entries.retain(|_, entry| now < entry.deadline);
            }
        });
        Ok(GlueStore { shared })
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.is_closed()
    }

    fn used_bytes(&self) -> u64 {
        self.max_bytes - (self.room.available_permits() as u64).min(self.max_bytes)
    }

    /// Acquires a permit for `bytes`, in the semaphore's own fair queue, for at most `wait`.
    async fn acquire(&self, bytes: u64, wait: Duration) -> Result<OwnedSemaphorePermit, Reason> {
        let charge = bytes.saturating_add(ENTRY_BYTES);
        if charge > self.max_bytes {
            return Err(Reason::TooLarge);
        }
        if self.is_closed() {
            return Err(Reason::Closed);
        }
        // One acquisition of the semaphore is limited to 32 bits.
        let charge = u32::try_from(charge).map_err(|_| Reason::TooLarge)?;
        let room = Arc::clone(&self.room);
        let permit = match Arc::clone(&room).try_acquire_many_owned(charge) {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) if wait.is_zero() => return Err(Reason::Full),
            Err(_) => self.wait_for(room, charge, wait).await?,
        };
        self.peak_bytes.fetch_max(self.used_bytes(), Ordering::Relaxed);
        Ok(permit)
    }

    async fn wait_for(
        &self,
        room: Arc<Semaphore>,
        charge: u32,
        wait: Duration,
    ) -> Result<OwnedSemaphorePermit, Reason> {
        let _waiting = Waiting::begin(&self.waiting);
        tokio::select! {
            biased;
            permit = room.acquire_many_owned(charge) => permit.map_err(|_| Reason::Closed),
            // A closed semaphore would refuse the use of permits that were granted before. So there are two.
            _ = self.closed.acquire() => Err(Reason::Closed),
            () = tokio::time::sleep(wait) => Err(Reason::TimedOut),
        }
    }

    fn store(&self, owner: Owner, bytes: Bytes, permit: OwnedSemaphorePermit) -> String {
        // 122 random bits.
        let ticket = Uuid::new_v4();
        let payload = Paid { bytes, _permit: permit };
        let deadline = Instant::now() + self.ttl;
        self.entries.insert(ticket, Entry { owner, deadline, payload });
        ticket.to_string()
    }
}

impl InlineStore for GlueStore {
    fn reserve(
        &self,
        owner: &Owner,
        bytes: u64,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn Reserved>, Reason>> {
        let (shared, owner) = (Arc::clone(&self.shared), owner.clone());
        async move {
            let permit = shared.acquire(bytes, wait).await?;
            Ok(Box::new(Held { shared, owner, permit }) as Box<dyn Reserved>)
        }
        .boxed()
    }

    fn open<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Opened> {
        let Ok(ticket) = Uuid::try_parse(ticket) else {
            return ready(Opened::Malformed).boxed();
        };
        let now = Instant::now();
        let taken = self
            .shared
            .entries
            .remove_if(&ticket, |_, entry| entry.owner == *owner && now < entry.deadline);
        let opened = match taken {
            Some((_, entry)) => {
                let bytes = entry.payload.bytes.len() as u64;
                let body = Body::from(Bytes::from_owner(entry.payload));
                Opened::Delivery(Delivery { bytes, body })
            }
            None => Opened::Gone,
        };
        ready(opened).boxed()
    }

    fn peek<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Peeked> {
        let Ok(ticket) = Uuid::try_parse(ticket) else {
            return ready(Peeked::Malformed).boxed();
        };
        let now = Instant::now();
        let peeked = match self.shared.entries.get(&ticket) {
            Some(entry) if entry.owner == *owner && now < entry.deadline => {
                Peeked::There(entry.payload.bytes.len() as u64)
            }
            _ => Peeked::Gone,
        };
        ready(peeked).boxed()
    }

    fn close(&self) {
        self.shared.closed.close();
    }

    fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    fn drained(&self) -> BoxFuture<'_, ()> {
        async {
            while !self.is_closed() || self.shared.used_bytes() > 0 {
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'_, usize> {
        let mut cleared = 0;
        self.shared.entries.retain(|_, _| {
            cleared += 1;
            false
        });
        ready(cleared).boxed()
    }

    fn usage(&self) -> Usage {
        Usage {
            entries: self.shared.entries.len(),
            used_bytes: self.shared.used_bytes(),
            peak_bytes: self.shared.peak_bytes.load(Ordering::Relaxed),
            max_bytes: self.shared.max_bytes,
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            head_bytes: None,
        }
    }

    fn describe(&self, page: &mut Page) {
        let usage = self.usage();
        page.gauge("glue_used_bytes", "Bytes held now.", usage.used_bytes);
        page.gauge("glue_max_bytes", "The limit.", usage.max_bytes);
        page.gauge("glue_entries", "Results held.", usage.entries);
        page.gauge("glue_waiting", "Requests that wait.", usage.waiting);
    }
}

/// Permits, and their owner.
#[derive(Debug)]
struct Held {
    shared: Arc<Shared>,
    owner: Owner,
    permit: OwnedSemaphorePermit,
}

impl Reserved for Held {
    fn bytes(&self) -> u64 {
        self.permit.num_permits() as u64 - ENTRY_BYTES
    }

    fn put(
        self: Box<Self>,
        payload: Bytes,
        wait: Duration,
    ) -> BoxFuture<'static, Result<String, Refused>> {
        let Held { shared, owner, mut permit } = *self;
        async move {
            let charge = payload.len() as u64 + ENTRY_BYTES;
            match permit.num_permits().checked_sub(charge as usize) {
                Some(spare) => drop(permit.split(spare)),
                None => {
                    drop(permit);
                    permit = match shared.acquire(payload.len() as u64, wait).await {
                        Ok(permit) => permit,
                        Err(reason) => return Err(Refused { reason, payload }),
                    };
                }
            }
            Ok(shared.store(owner, payload, permit))
        }
        .boxed()
    }
}

/// Counts a waiter until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
