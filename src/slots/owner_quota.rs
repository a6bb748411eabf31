//! Counts what each owner holds, if that is limited.
//!
//! The key of a quota is 62 bits of the owner's keyed hash: the table stores no owners, and a removal finds
//! the quota from the slot alone, without calling user code. An owner's count is removed from the table with
//! its last byte.
//!
//! The table is behind locks, sharded by hash, that are held for one look-up and nothing else. Without the
//! limit there is no table, and put and take are lock-free.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crossbeam_utils::CachePadded;
use foldhash::fast::RandomState;

use crate::sync::Mutex;

/// Identifies one owner's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OwnerKey(pub(super) u64);

const SHARDS: usize = if cfg!(cloakroom_loom) { 1 } else { 16 };

/// Counts bytes by owner. The keys are a keyed hash that no client can choose: any hash spreads them.
type Usage = HashMap<OwnerKey, u64, RandomState>;

/// Limits the bytes of each owner.
pub(super) struct OwnerQuota {
    limit: u64,
    shards: Box<[CachePadded<Mutex<Usage>>]>,
}

impl OwnerQuota {
    pub(super) fn new(limit: u64) -> Self {
        let shard = || CachePadded::new(Mutex::new(Usage::default()));
        Self { limit, shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the shard of the key. Its lowest two bits are the phase's.
    #[cfg_attr(cloakroom_loom, allow(clippy::modulo_one, reason = "there is one under loom"))]
    fn shard(&self, key: OwnerKey) -> &Mutex<Usage> {
        &self.shards[(key.0 >> 2) as usize % SHARDS]
    }

    /// Charges the quota if `attempt` succeeds.
    ///
    /// No other call sees the quota charged for an attempt that fails. One of `attempt` and `refuse` runs, under the
    /// quota's lock, so what it decides holds at a moment at which the owner holds just this much: it must be short, and
    /// must not run user code.
    ///
    /// # Errors
    ///
    /// Returns `refuse` of what the owner holds, if the charge would exceed the limit.
    pub(super) fn charge<T, E>(
        &self,
        key: OwnerKey,
        bytes: u64,
        attempt: impl FnOnce() -> Result<T, E>,
        refuse: impl FnOnce(u64) -> E,
    ) -> Result<T, E> {
        let mut usage = self.shard(key).lock();
        let entry = usage.entry(key);
        let used = match &entry {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(_) => 0,
        };
        let Some(sum) = used.checked_add(bytes).filter(|sum| *sum <= self.limit) else {
            return Err(refuse(used));
        };
        let attempted = attempt()?;
        // An empty count would never be removed.
        if sum > 0 {
            entry.insert_entry(sum);
        }
        Ok(attempted)
    }

    pub(super) fn release(&self, key: OwnerKey, bytes: u64) {
        let mut usage = self.shard(key).lock();
        if let Entry::Occupied(mut entry) = usage.entry(key) {
            *entry.get_mut() -= bytes;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    pub(super) fn used(&self, key: OwnerKey) -> u64 {
        self.shard(key).lock().get(&key).copied().unwrap_or(0)
    }

    /// Counts the owners that hold anything.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    /// What the owner holds, if that is why it is refused.
    fn charge(owners: &OwnerQuota, key: OwnerKey, bytes: u64) -> Result<(), u64> {
        owners.charge(key, bytes, || Ok(()), |used| used)
    }

    #[test]
    fn w20_an_attempt_that_fails_is_not_charged() {
        let owners = OwnerQuota::new(10);
        let key = OwnerKey(4);
        let fail = || Err::<(), _>("full");
        assert_eq!(owners.charge(key, 7, fail, |_| "quota"), Err("full"));
        assert_eq!((owners.used(key), owners.len()), (0, 0));
        assert_eq!(owners.charge(key, 7, || Ok("granted"), |_| "quota"), Ok("granted"));
        let not_asked = || -> Result<(), u64> { unreachable!("the quota has no room") };
        assert_eq!(owners.charge(key, 4, not_asked, |used| used), Err(7));
        assert_eq!(owners.charge(key, 3, fail, |_| "quota"), Err("full"));
        assert_eq!(owners.used(key), 7);
        owners.release(key, 7);
        assert_eq!(owners.len(), 0);
    }

    #[test]
    fn an_account_disappears_with_its_last_byte() {
        let owners = OwnerQuota::new(10);
        let (a, b) = (OwnerKey(4), OwnerKey(8));
        assert_eq!(charge(&owners, a, 0), Ok(()));
        assert_eq!(owners.len(), 0);
        assert_eq!(charge(&owners, a, 7), Ok(()));
        assert_eq!(charge(&owners, a, 4), Err(7));
        assert_eq!(charge(&owners, a, u64::MAX), Err(7));
        assert_eq!(charge(&owners, b, 10), Ok(()));
        assert_eq!((owners.used(a), owners.used(b), owners.len()), (7, 10, 2));
        owners.release(a, 3);
        assert_eq!(owners.used(a), 4);
        owners.release(a, 4);
        owners.release(b, 10);
        assert_eq!(owners.len(), 0);
    }
}
