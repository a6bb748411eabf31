//! The peers of a stash. Each does the same work: a ticket that cannot be guessed, an owner that is checked,
//! a deadline that is stored and checked, a budget of bytes that is enforced, a payload that is moved in and
//! out.
//!
//! Maps keep their default hasher, as most code does; `glue, foldhash`
//! shows what a faster one is worth.

mod cloakroom;
mod features;
mod first_fit;
mod floor;
mod glue;
mod moka;
mod mutex;
mod scc;
mod sharded_slab;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_utils::CachePadded;
use rand::Rng;

pub(crate) use self::cloakroom::Cloakroom;
pub(crate) use self::features::{Claimed, Limited, Observed, Overflow, OwnTtl, Plain, Reserved};
pub(crate) use self::first_fit::FirstFit;
pub(crate) use self::floor::Floor;
pub(crate) use self::glue::{Glue, GlueFoldhash};
pub(crate) use self::moka::Moka;
pub(crate) use self::mutex::{ParkingLotMutex, StdMutex};
pub(crate) use self::scc::Scc;
pub(crate) use self::sharded_slab::ShardedSlab;

/// A 16-byte owner.
pub(crate) type Owner = u128;

/// A stash, or a peer in its place.
pub(crate) trait Peer: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    type Ticket: Send;

    fn new(max_bytes: u64, ttl: Duration) -> Self;

    /// `None`: refused.
    fn put(&self, owner: Owner, payload: Bytes) -> Option<Self::Ticket>;

    /// `None`: unknown, another's, expired, taken.
    fn take(&self, ticket: Self::Ticket, owner: Owner) -> Option<Bytes>;

    /// Removes expired entries and returns how many. `None`: it cannot while it is shared.
    fn expire(&self) -> Option<usize>;
}

/// A peer whose puts can wait.
pub(crate) trait WaitingPeer: Peer {
    fn put_wait(&self, owner: Owner, payload: Bytes) -> impl Future<Output = Self::Ticket> + Send;
}

/// The stored entry of a ticket.
pub(crate) struct Entry {
    owner: Owner,
    payload: Bytes,
    deadline: Instant,
}

impl Entry {
    fn new(owner: Owner, payload: Bytes, ttl: Duration) -> Self {
        Self { owner, payload, deadline: Instant::now() + ttl }
    }

    fn charge(&self) -> u64 {
        self.payload.len() as u64
    }

    fn is_live(&self, now: Instant) -> bool {
        self.deadline > now
    }
}

/// 96 bits that cannot be guessed.
fn secret() -> u128 {
    let mut rng = rand::rng();
    u128::from(rng.next_u64()) << 32 | u128::from(rng.next_u32())
}

/// A budget in one atomic, alone on its cache line.
pub(crate) struct Counter {
    used: CachePadded<AtomicU64>,
    limit: u64,
}

impl Counter {
    fn new(limit: u64) -> Self {
        Self { used: CachePadded::new(AtomicU64::new(0)), limit }
    }

    fn charge(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Acquire, Ordering::Relaxed, fits).is_ok()
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_honest<P: Peer>(evicts: bool) {
        let payload = || Bytes::from_static(&[7; 600]);
        let peer = P::new(1_000, Duration::from_secs(600));
        let ticket = peer.put(1, payload()).expect("there is room");
        assert!(evicts || peer.put(1, payload()).is_none(), "{}: over its limit", P::NAME);
        assert!(peer.take(ticket, 2).is_none(), "{}: to another", P::NAME);

        let peer = P::new(1_000, Duration::from_secs(600));
        let ticket = peer.put(1, payload()).expect("there is room");
        assert_eq!(peer.take(ticket, 1), Some(payload()), "{}", P::NAME);
        assert!(peer.put(1, payload()).is_some(), "{}: bytes lost", P::NAME);

        let peer = P::new(1_000, Duration::from_millis(5));
        let ticket = peer.put(1, payload()).expect("there is room");
        std::thread::sleep(Duration::from_millis(10));
        assert!(peer.take(ticket, 1).is_none(), "{}: expired", P::NAME);

        let peer = P::new(1_000, Duration::from_millis(5));
        assert!(peer.put(1, payload()).is_some());
        std::thread::sleep(Duration::from_millis(10));
        assert!(peer.expire().is_none_or(|removed| removed == 1), "{}", P::NAME);
    }

    #[test]
    fn every_peer_does_the_work() {
        is_honest::<Cloakroom>(false);
        is_honest::<FirstFit>(false);
        is_honest::<Glue>(false);
        is_honest::<GlueFoldhash>(false);
        is_honest::<StdMutex>(false);
        is_honest::<ParkingLotMutex>(false);
        is_honest::<Scc>(false);
        is_honest::<ShardedSlab>(false);
        is_honest::<Moka>(true);
    }
}
