//! The shares of a budget, and how much is lent to them. `recall.rs` has the protocol.

use crossbeam_utils::CachePadded;

use super::share::Share;
use crate::sync::{OnceLock, StatCounter, processors, share_number};

/// Whether everything is lent at every opportunity, for tests: `--cfg cloakroom_lend`.
const EAGER: bool = cfg!(cloakroom_lend);

/// A smaller batch is not worth it.
const MIN_BATCH: u64 = 256;

/// The shares of a budget, and how much is lent to them.
///
/// The numbers only decide what is fast: any values keep all promises. So they need no ordering.
pub(super) struct Lending {
    /// Made when something is lent for the first time. As many as the power of two.
    shares: OnceLock<Box<[CachePadded<Share>]>>,
    /// What a share is given when it has too little, and keeps when it has too much. 0: nothing is lent.
    pub(super) batch: StatCounter,
    /// Larger requests use the state.
    small: StatCounter,
    /// How much must be free, beside the overflow, for lending to begin.
    pub(super) plenty: StatCounter,
    /// Whether the numbers are a model's.
    #[cfg(cloakroom_loom)]
    fixed: bool,
}

#[cfg(cloakroom_loom)]
std::thread_local! {
    /// The batch of the budgets that this thread's models make, if they are to lend.
    pub(crate) static MODEL_BATCH: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// How many shares there are: twice as many as processors, since threads choose by number.
pub(super) fn shares() -> usize {
    if EAGER { 2 } else { (2 * processors()).next_power_of_two().min(128) }
}

impl Lending {
    /// `regular`: the limit without the overflow.
    pub(super) fn new(regular: u64) -> Self {
        #[cfg(cloakroom_loom)]
        if let Some(batch) = MODEL_BATCH.get() {
            return Self::fixed(2, batch, batch, 0);
        }
        let lending = Self {
            shares: OnceLock::new(),
            batch: StatCounter::new(0),
            small: StatCounter::new(0),
            plenty: StatCounter::new(0),
            #[cfg(cloakroom_loom)]
            fixed: false,
        };
        lending.adapt(regular);
        lending
    }

    /// For models: so many shares, and these numbers, whatever the limit is.
    #[cfg(cloakroom_loom)]
    pub(super) fn fixed(shares: usize, batch: u64, small: u64, plenty: u64) -> Self {
        let (batch, small) = (StatCounter::new(batch), StatCounter::new(small));
        let plenty = StatCounter::new(plenty);
        let lending = Self { shares: OnceLock::new(), batch, small, plenty, fixed: true };
        lending.make_shares(shares);
        lending
    }

    /// Whether this is a model of lending.
    #[cfg(cloakroom_loom)]
    pub(super) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// Follows the limit, of which `regular` is not overflow. At most a 32nd of that is lent: no share has more
    /// than two batches.
    pub(super) fn adapt(&self, regular: u64) {
        #[cfg(cloakroom_loom)]
        if self.fixed {
            return;
        }
        let batch = match regular / (64 * shares() as u64) {
            _ if cfg!(cloakroom_loom) => 0,
            _ if EAGER => (regular / 16).max(1),
            small if small < MIN_BATCH => 0,
            batch => batch,
        };
        self.batch.set(batch);
        self.small.set(if EAGER { batch } else { batch / 2 });
        self.plenty.set(regular / 4);
    }

    pub(super) fn make_shares(&self, count: usize) -> &[CachePadded<Share>] {
        self.shares.get_or_init(|| (0..count).map(|_| CachePadded::new(Share::new())).collect())
    }

    /// Returns whether anything was ever lent.
    #[inline]
    pub(super) fn has_shares(&self) -> bool {
        self.shares.get().is_some()
    }

    pub(super) fn all(&self) -> &[CachePadded<Share>] {
        self.shares.get().map_or(&[], |shares| shares)
    }

    /// The share of this thread, if there are any, `bytes` are few enough for one, and the thread has a number.
    #[inline]
    pub(super) fn share(&self, bytes: u64) -> Option<&Share> {
        let shares = self.shares.get()?;
        if bytes > self.small.get() {
            return None;
        }
        // A power of two.
        shares.get(share_number()? & (shares.len() - 1)).map(|share| &**share)
    }

    /// What the shares have, each at a moment of its own.
    pub(super) fn room(&self) -> u64 {
        self.all().iter().map(|share| share.room()).sum()
    }
}
