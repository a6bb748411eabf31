//! Hashes owners with a key.
//!
//! The key is the stash's own, secret, and reaches all of the input: no choice of names makes two owners
//! collide in every stash.
//!
//! Without quotas, a collision matters only with the ticket, and does no more than hide an entry while two
//! owners are compared. A fast hash (foldhash, with all of its seeds drawn) is enough for that: two names
//! made to collide do so in one stash of some ten million. With quotas, a collision would make strangers
//! share one, so the hash is then SipHash, for which no such pairs are known; it costs 10 to 20 ns more.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;

use crate::secrets;

/// Hashes owners, fast or strongly.
pub(super) enum OwnerHasher {
    Fast {
        seed: u64,
        shared: SharedSeed,
    },
    /// A hasher that has been fed the key; each call clones it.
    Strong(DefaultHasher),
}

impl OwnerHasher {
    pub(super) fn fast() -> Self {
        let [seed, shared] = key();
        Self::Fast { seed, shared: SharedSeed::from_u64(shared) }
    }

    pub(super) fn strong() -> Self {
        // `RandomState` draws once a thread, so copies of a process share its keys: ours are added.
        let mut keyed = RandomState::new().build_hasher();
        key().into_iter().for_each(|word| keyed.write_u64(word));
        Self::Strong(keyed)
    }

    #[inline]
    pub(super) fn hash<Q: Hash + ?Sized>(&self, owner: &Q) -> u64 {
        match self {
            Self::Fast { seed, shared } => hash_with(FoldHasher::with_seed(*seed, shared), owner),
            Self::Strong(keyed) => hash_strongly(keyed, owner),
        }
    }
}

#[inline]
fn hash_with<Q: Hash + ?Sized>(mut hasher: impl Hasher, owner: &Q) -> u64 {
    owner.hash(&mut hasher);
    hasher.finish()
}

/// Hashes an owner with SipHash. Not inlined, so that it does not lengthen the calls that do not need it.
#[inline(never)]
fn hash_strongly<Q: Hash + ?Sized>(keyed: &DefaultHasher, owner: &Q) -> u64 {
    hash_with(keyed.clone(), owner)
}

fn key() -> [u64; 2] {
    let [a, b, c, d] = secrets::draw().map(u64::from);
    [a << 32 | b, c << 32 | d]
}

#[cfg(all(test, not(cloakroom_loom)))]
mod tests {
    use super::*;

    #[test]
    fn hashes_differ_from_stash_to_stash_and_not_from_call_to_call() {
        for new in [OwnerHasher::fast, OwnerHasher::strong] {
            let (one, other) = (new(), new());
            for owner in ["", "a", "alice", "a name that is longer than sixteen bytes"] {
                assert_eq!(one.hash(owner), one.hash(&owner.to_owned()));
                assert_ne!(one.hash(owner), other.hash(owner), "{owner}");
            }
        }
    }
}
