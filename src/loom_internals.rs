//! Exposes internals to the models. Exists under `--cfg cloakroom_loom` only.

use crate::budget::{Budget, MODEL_BATCH, Permit, Returned, Share, Tier};
use crate::slots::{
    Bound, ClaimedSlot, FreeList, Links, MapHandle, NEVER, Removed, RemovedBatch, SlotMap,
};
use crate::stash::NextSweep;
use crate::sync::MODEL_SHARE;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::ticket::Ticket;

/// Wraps the slot map of a stash that has no budget, with one shard.
///
/// Owners are numbers, payloads too; the caller passes the time.
#[derive(Debug)]
pub struct Slots(SlotMap<Box<u64>, u64>);

impl Default for Slots {
    fn default() -> Self {
        Self(SlotMap::new(1, None))
    }
}

impl Slots {
    /// Creates an empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a payload.
    pub fn insert(&self, owner: u64, payload: u64, deadline: u64) -> Ticket {
        self.0.insert(owner, Box::new(payload), 1, || deadline).expect("the model has slots enough")
    }

    /// Takes a payload out at time 0.
    #[must_use]
    pub fn take(&self, ticket: Ticket, owner: u64) -> Option<u64> {
        self.take_at(0, ticket, owner)
    }

    /// Takes a payload out, unless it has expired.
    #[must_use]
    pub fn take_at(&self, now: u64, ticket: Ticket, owner: u64) -> Option<u64> {
        match self.0.remove(ticket, &owner, now, || ())? {
            Removed::Delivered(gone) => Some(*gone.payload),
            Removed::Expired(_) => None,
        }
    }

    /// Claims an entry, whatever the time.
    #[must_use]
    pub fn claim(&self, ticket: Ticket, owner: u64) -> Option<Claimed<'_>> {
        let claimed = SlotMap::claim(self, ticket, &owner)?;
        assert!(claimed.is_for(ticket, &owner), "the fingerprint is another's");
        Some(Claimed(claimed))
    }

    /// Guards an entry and restores it, as a sweep does that finds it renewed. Returns whether it was guarded.
    pub fn guard_and_restore(&self, ticket: Ticket, owner: u64) -> bool {
        self.0.guard_and_restore(ticket, &owner)
    }

    /// Sweeps once.
    #[must_use]
    pub fn expire(&self, now: u64) -> Swept<'_> {
        Swept(self.0.expire(now).0)
    }

    /// Removes all entries.
    #[must_use]
    pub fn clear(&self) -> Swept<'_> {
        Swept(self.0.clear())
    }

    /// Counts the entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Wraps a slot map whose owners have quotas, which are charged together with something else.
#[derive(Debug)]
pub struct OwnerQuotas(SlotMap<(), u64>);

impl OwnerQuotas {
    /// Creates one in which each owner may hold `limit`.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self(SlotMap::new(1, Some(limit)))
    }

    /// Charges the owner's quota if the attempt succeeds. `None`: the quota is full, and `refuse` was called.
    pub fn charge_or(
        &self,
        owner: u64,
        bytes: u64,
        attempt: impl FnOnce() -> bool,
        refuse: impl FnOnce(),
    ) -> Option<bool> {
        let key = self.0.owner_key(&owner).expect("owners have quotas");
        let attempt = || if attempt() { Ok(()) } else { Err(Some(false)) };
        let refuse = |_| {
            refuse();
            None
        };
        let charged = self.0.charge_owner(key, bytes, attempt, refuse);
        charged.map_or_else(|refused| refused, |()| Some(true))
    }

    /// Releases a charge.
    pub fn release(&self, owner: u64, bytes: u64) {
        let key = self.0.owner_key(&owner).expect("owners have quotas");
        self.0.refund_owner(key, bytes);
    }

    /// Returns what the owner holds.
    #[must_use]
    pub fn used(&self, owner: u64) -> u64 {
        self.0.owner_key(&owner).map_or(0, |key| self.0.owner_used(key))
    }
}

// SAFETY: the map is in what the reference refers to, wherever the reference is moved.
unsafe impl MapHandle<Box<u64>, u64> for &Slots {
    fn map(&self) -> &SlotMap<Box<u64>, u64> {
        &self.0
    }
}

/// Wraps a claimed entry.
pub struct Claimed<'a>(ClaimedSlot<&'a Slots, Box<u64>, u64>);

impl Claimed<'_> {
    /// Returns the payload.
    #[must_use]
    pub fn payload(&self) -> u64 {
        **self.0.payload()
    }

    /// Changes its deadline.
    pub fn renew(&mut self, deadline: u64) {
        self.0.renew(deadline);
    }

    /// Makes it live again. `false`: it is removed instead, because all were cleared.
    #[must_use]
    pub fn put_back(self) -> bool {
        self.0.put_back().map_err(ClaimedSlot::remove).is_ok()
    }

    /// Removes it and returns the payload.
    #[must_use]
    pub fn deliver(self) -> u64 {
        *self.0.remove().0.payload
    }
}

impl std::fmt::Debug for Claimed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Claimed").field(&self.payload()).finish()
    }
}

/// Holds what a sweep removed. Its slots are freed when this is dropped.
pub struct Swept<'a>(RemovedBatch<'a, Box<u64>, u64>);

impl Swept<'_> {
    /// Counts the entries.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count()
    }
}

impl std::fmt::Debug for Swept<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Swept").field(&self.count()).finish()
    }
}

/// Keeps one entry under two levels of bounds, which are the real ones.
#[derive(Debug)]
pub struct Tree {
    upper: Bound,
    lower: Bound,
    /// The entry's deadline; 0: there is none.
    entry: AtomicU64,
}

impl Default for Tree {
    fn default() -> Self {
        Self { upper: Bound::new(), lower: Bound::new(), entry: AtomicU64::new(0) }
    }
}

impl Tree {
    /// Creates one without an entry, with the bounds that an entry with this deadline left.
    #[must_use]
    pub fn with_bounds(deadline: u64) -> Self {
        let tree = Self::default();
        tree.put(deadline);
        // ORDERING: Relaxed [slot.vacate]: stands for the slot's.
        tree.entry.swap(0, Ordering::Relaxed);
        tree
    }

    /// Publishes the entry and lowers the bounds.
    pub fn put(&self, deadline: u64) {
        // ORDERING: Release [slot.publish]: stands for the slot's.
        self.entry.swap(deadline, Ordering::Release);
        self.lower.lower(deadline);
        self.upper.lower_if_above(deadline);
    }

    /// Sweeps, and returns whether this sweep removed the entry.
    #[must_use]
    pub fn expire(&self, now: u64) -> bool {
        self.sweep(now).0
    }

    /// Sweeps as `expire` does; also returns when to sweep again.
    #[must_use]
    pub fn sweep(&self, now: u64) -> (bool, u64) {
        let mut removed = false;
        let left = self.upper.sweep(now, || {
            self.lower.sweep(now, || {
                // ORDERING: Acquire [slot.observe]: stands for the slot's.
                match self.entry.load(Ordering::Acquire) {
                    0 => NEVER,
                    later if later > now => later,
                    due => {
                        // ORDERING: Relaxed / Relaxed [slot.guard]: stands for the slot's; nothing is read.
                        let won = self.entry.compare_exchange(
                            due,
                            0,
                            Ordering::Relaxed,
                            Ordering::Relaxed,
                        );
                        removed = won.is_ok();
                        NEVER
                    }
                }
            })
        });
        (removed, left)
    }

    /// Returns whether there is an entry.
    #[must_use]
    pub fn has_entry(&self) -> bool {
        // ORDERING: Relaxed [slot.peek]: stands for the slot's.
        self.entry.load(Ordering::Relaxed) != 0
    }
}

/// Wraps the time of the next sweep.
///
/// Reapers and puts with a short time to live use it.
#[derive(Debug)]
pub struct Sweeper(NextSweep);

impl Default for Sweeper {
    fn default() -> Self {
        Self(NextSweep::new())
    }
}

impl Sweeper {
    /// Performs a reaper's first step, before its sweep.
    pub fn begin(&self) {
        self.0.begin();
    }

    /// Performs a reaper's last step: returns when it sweeps again.
    #[must_use]
    pub fn plan(&self, until: u64) -> u64 {
        self.0.plan(until)
    }

    /// Performs a put's last step: returns whether the reaper must be woken.
    #[must_use]
    pub fn notify_earlier(&self, deadline: u64) -> bool {
        self.0.notify_earlier(deadline)
    }
}

/// Wraps a free list over slots that are nothing but their links.
#[derive(Debug)]
pub struct Free {
    list: FreeList,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link(AtomicU64);

impl Links for Vec<Link> {
    fn link(&self, index: u32) -> u64 {
        // ORDERING: Relaxed [slot.charge_or_link.get]: stands for the slot's.
        self[index as usize].0.load(Ordering::Relaxed)
    }

    fn set_link(&self, index: u32, link: u64) {
        // ORDERING: Relaxed [slot.charge_or_link.set]: stands for the slot's.
        self[index as usize].0.store(link, Ordering::Relaxed);
    }
}

impl Free {
    /// Creates a list of the slots `0..slots`, the last on top.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        let links = (0..slots).map(|_| Link(AtomicU64::new(0))).collect();
        let free = Self { list: FreeList::new(), links };
        (0..slots).for_each(|slot| free.push(slot));
        free
    }

    /// Takes one.
    #[must_use]
    pub fn pop(&self) -> Option<u32> {
        self.list.pop(&self.links)
    }

    /// Returns one.
    pub fn push(&self, slot: u32) {
        self.list.push(&self.links, slot);
    }

    /// Counts the slots on the list.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.list.len(&self.links)
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Creates a budget that can lend to two shares, in batches of `batch`.
///
/// It lends if besides `overflow` at least `plenty` is free.
#[must_use]
pub fn lending(limit: u64, overflow: u64, batch: u64, plenty: u64) -> Budget {
    Budget::with_lending(limit, overflow, batch, plenty)
}

/// Lets all later budgets of this model lend to two shares, in batches of `batch`.
pub fn lend_in_batches(batch: u64) {
    MODEL_BATCH.set(Some(batch));
}

/// Starts lending, if the budget allows it.
pub fn lend(budget: &Budget) {
    budget.lend();
}

/// Chooses the share that the calling thread uses.
pub fn use_share(number: usize) {
    MODEL_SHARE.with(|share| share.set(number));
}

/// Wraps one share, as if the state that it belongs to were `LENT`.
pub struct OneShare(Share);

impl Default for OneShare {
    fn default() -> Self {
        let share = Share::new();
        share.resume();
        Self(share)
    }
}

impl OneShare {
    /// Takes bytes; `false`: it has too few.
    #[must_use]
    pub fn try_acquire(&self, bytes: u64) -> bool {
        self.0.try_acquire(bytes)
    }

    /// Releases bytes into the share; `false`: it would have more than `most`.
    #[must_use]
    pub fn release(&self, bytes: u64, most: u64) -> bool {
        self.0.release(bytes, most) == Returned::Kept
    }

    /// Adds bytes, and returns the room before.
    pub fn deposit(&self, bytes: u64) -> u64 {
        self.0.deposit(bytes)
    }

    /// Takes out the bytes above `kept`.
    #[must_use]
    pub fn withdraw(&self, kept: u64) -> u64 {
        self.0.withdraw(kept)
    }

    /// Takes out all bytes.
    #[must_use]
    pub fn recall(&self) -> u64 {
        self.0.recall()
    }
}

impl std::fmt::Debug for OneShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OneShare").field(&self.0.room()).finish()
    }
}

/// Returns whether bytes of the permit were from the overflow when it was granted.
#[must_use]
pub fn is_overflow(permit: &Permit<'_>) -> bool {
    permit.tier() == Tier::Overflow
}
