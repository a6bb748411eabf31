//! Holds the shares of a budget and decides how much is lent to them. `recall.rs` has the protocol.

use crossbeam_utils::CachePadded;

use super::share::Share;
use crate::sync::{OnceLock, StatCounter, processors, share_number};

/// Lends as much as possible at every opportunity, for tests: `--cfg cloakroom_lend`.
const EAGER: bool = cfg!(cloakroom_lend);

/// The smallest batch that is worth lending.
const MIN_BATCH: u64 = 256;

/// Holds the shares of a budget and the numbers that control lending.
///
/// The numbers affect only speed: all promises hold for any values. So they need no ordering.
pub(super) struct Lending {
    /// Allocated when the budget first lends. Their number is a power of two.
    shares: OnceLock<Box<[CachePadded<Share>]>>,
    /// The bytes that a share receives when it has too little, and keeps when it has too much. 0 turns lending off.
    pub(super) batch: StatCounter,
    /// The largest request that may use a share.
    small: StatCounter,
    /// The room, beside the overflow, that lending needs to begin.
    pub(super) plenty: StatCounter,
    /// Set if a model has chosen the numbers.
    #[cfg(cloakroom_loom)]
    fixed: bool,
}

#[cfg(cloakroom_loom)]
std::thread_local! {
    /// The batch of the budgets that this thread's models make, if those lend.
    pub(crate) static MODEL_BATCH: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// Returns the number of shares: two for each processor, since threads choose by their number.
pub(super) fn shares() -> usize {
    if EAGER { 2 } else { (2 * processors()).next_power_of_two().min(128) }
}

impl Lending {
    /// Makes the numbers for a limit of `regular` bytes, without the overflow.
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

    /// Makes fixed numbers, for models: they do not follow the limit.
    #[cfg(cloakroom_loom)]
    pub(super) fn fixed(shares: usize, batch: u64, small: u64, plenty: u64) -> Self {
        let (batch, small) = (StatCounter::new(batch), StatCounter::new(small));
        let plenty = StatCounter::new(plenty);
        let lending = Self { shares: OnceLock::new(), batch, small, plenty, fixed: true };
        lending.make_shares(shares);
        lending
    }

    /// Returns whether this is a model of lending.
    #[cfg(cloakroom_loom)]
    pub(super) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// Adapts the numbers to a limit of `regular` bytes, without the overflow.
    ///
    /// At most a 32nd of that is lent, because no share has more than two batches.
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

    /// Returns whether the budget has ever lent.
    #[inline]
    pub(super) fn has_shares(&self) -> bool {
        self.shares.get().is_some()
    }

    pub(super) fn all(&self) -> &[CachePadded<Share>] {
        self.shares.get().map_or(&[], |shares| shares)
    }

    /// Returns this thread's share, if `bytes` are few enough for a share.
    ///
    /// `None` as well before the budget first lends, and for a thread without a number.
    #[inline]
    pub(super) fn share(&self, bytes: u64) -> Option<&Share> {
        let shares = self.shares.get()?;
        if bytes > self.small.get() {
            return None;
        }
        // A power of two.
        shares.get(share_number()? & (shares.len() - 1)).map(|share| &**share)
    }

    /// Sums the room of the shares, which are read one at a time.
    pub(super) fn room(&self) -> u64 {
        self.all().iter().map(|share| share.room()).sum()
    }
}
