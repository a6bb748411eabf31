//! Guards one entry with a state machine in one atomic `state`.
//!
//! | phase | cell | may touch the cell | transitions |
//! |---|---|---|---|
//! | `FREE` | empty | the thread that popped the slot from the free list | `publish` -> `LIVE` |
//! | `LIVE` | an entry | no thread, until it has guarded or claimed the slot | `guard` -> `BUSY`, `claim` -> `CLAIMED` |
//! | `BUSY` | an entry | the holder of the guard | `restore` -> `LIVE`, `vacate` -> `FREE` |
//! | `CLAIMED` | an entry | the claimer | `unclaim` -> `LIVE`, `vacate` -> `FREE`, `doom` -> `DOOMED` |
//! | `DOOMED` | an entry | the claimer | `vacate` -> `FREE` |
//!
//! A slot is `BUSY` for the length of one call, `CLAIMED` for as long as a delivery takes. An entry is doomed
//! if it was claimed when all entries were cleared: nothing changes for its claimer, but the entry does not
//! go live again.
//!
//! The `state` of a live slot also holds a fingerprint: 62 bits of the ticket's secret combined with a keyed
//! hash of the owner. So one compare-exchange decides secrecy, ownership, at most once, and staleness
//! (invariant 7). Another ticket or owner has the same fingerprint once in 2^62 times, and even then ticket
//! and owner are compared before an entry is delivered.
//!
//! A slot whose bits are all zero is free and was never used.

use std::mem::MaybeUninit;

use super::bounds::Nanos;
use crate::sync::UnsafeCell;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::ticket::Secret;

/// Zero, so that zeroed memory is free slots.
const FREE: u64 = 0;
const LIVE: u64 = 1;
const BUSY: u64 = 2;
const CLAIMED: u64 = 3;
const PHASE: u64 = 3;
/// Marks a claimed slot as doomed, in a bit above the phase.
///
/// A claimed slot has no fingerprint there.
const DOOMED: u64 = CLAIMED | 4;

/// Marks a deadline as capped, in a bit above all deadlines.
///
/// The entry's time to live stays capped when it is renewed.
pub(crate) const CAPPED: Nanos = 1 << 63;

/// Equals the `state` of a live slot, for a given mixture of secret and owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    #[inline]
    pub(super) fn new(mixed: u64) -> Self {
        Self(mixed & !PHASE | LIVE)
    }

    /// Recovers what was mixed with the secret, without the bits that the phase takes.
    #[inline]
    pub(super) fn unmixed(self, secret: Secret) -> u64 {
        (self.0 ^ secret.low()) & !PHASE
    }
}

/// Says what a sweep sees of a slot without guarding it.
pub(super) enum Observed {
    Free,
    Live(Fingerprint, Nanos),
    /// Another thread guards it, and frees it or puts it back. If it is put back, the deadline is the
    /// entry's. If not, a wrong deadline makes a sweep neither miss an entry nor remove one.
    Busy(Nanos),
    /// A claimer has it, and frees it or puts it back as a new entry.
    Claimed,
}

/// Holds a payload with its owner and ticket's secret, as a slot stores it.
pub(super) struct Entry<P, O> {
    pub(super) secret: Secret,
    pub(super) owner: O,
    pub(super) payload: P,
}

/// Holds one entry at a time, and says which thread may touch it.
pub(super) struct Slot<P, O> {
    state: AtomicU64,
    deadline: AtomicU64,
    /// The entry's charge while it is live. Otherwise a link of the list that the slot is in.
    charge_or_link: AtomicU64,
    cell: UnsafeCell<MaybeUninit<Entry<P, O>>>,
}

// SAFETY: the cell is handed from thread to thread with the phase, one at a time, as the table says; the
// entry in it is only ever moved in, moved out, or read by the thread that has guarded or claimed it.
unsafe impl<P: Send, O: Send> Sync for Slot<P, O> {}

/// Owns the slot's entry until this thread restores or vacates the slot.
///
/// No other thread may touch the entry.
pub(super) struct SlotGuard<'a, P, O> {
    slot: &'a Slot<P, O>,
    fingerprint: Fingerprint,
}

impl<P, O> Slot<P, O> {
    /// Creates a free slot, where zeroed memory is not one already.
    #[cfg(cloakroom_loom)]
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU64::new(FREE),
            deadline: AtomicU64::new(0),
            charge_or_link: AtomicU64::new(0),
            cell: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Stores an entry and makes it live. The deadline may be marked as [`CAPPED`].
    ///
    /// # Memory ordering
    ///
    /// Release: a thread that guards, claims or observes the entry sees all of it.
    ///
    /// # Safety
    /// The caller has popped the slot from the free list, or is the first to use it, and has not
    /// published it since.
    #[inline]
    pub(super) unsafe fn publish(
        &self,
        entry: Entry<P, O>,
        fingerprint: Fingerprint,
        deadline: Nanos,
        charge: u64,
    ) {
        // Step P2.
        // SAFETY: a free slot is its popper's alone.
        self.cell.with_mut(|cell| unsafe { (*cell).write(entry) });
        // ORDERING: Relaxed [slot.deadline.set]: published with the state.
        self.deadline.store(deadline, Ordering::Relaxed);
        self.set_charge_or_link(charge);
        // Step P3.
        self.go_live(fingerprint);
    }

    #[inline]
    fn go_live(&self, fingerprint: Fingerprint) {
        // ORDERING: Release [slot.publish] pairs with [slot.guard] and [slot.observe].
        self.state.store(fingerprint.0, Ordering::Release);
    }

    /// Guards the slot if it is live with this fingerprint. Lock-free: one attempt.
    ///
    /// # Returns
    ///
    /// `None` if the slot is in another phase, or has another fingerprint.
    #[inline]
    pub(super) fn guard(&self, fingerprint: Fingerprint) -> Option<SlotGuard<'_, P, O>> {
        // ORDERING: Relaxed [slot.peek]: spares callers that cannot win the write; the CAS decides.
        if self.state.load(Ordering::Relaxed) != fingerprint.0 {
            return None;
        }
        self.guard_or_observe(fingerprint).ok()
    }

    /// Guards the slot as [`guard`](Self::guard) does, or returns what was there instead.
    #[inline]
    pub(super) fn guard_or_observe(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<SlotGuard<'_, P, O>, Observed> {
        // Step T2.
        // ORDERING: Acquire / Relaxed [slot.guard] pairs with [slot.publish]: the entry is visible.
        match self.state.compare_exchange(fingerprint.0, BUSY, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Ok(SlotGuard { slot: self, fingerprint }),
            Err(found) => Err(self.read(found)),
        }
    }

    /// Reads the slot's phase and deadline without guarding it.
    pub(super) fn observe(&self) -> Observed {
        // Step W4.
        // ORDERING: Acquire [slot.observe] pairs with [slot.publish]: the deadline is this entry's or a later
        // one's, never an earlier one's.
        self.read(self.state.load(Ordering::Acquire))
    }

    #[inline]
    fn read(&self, state: u64) -> Observed {
        // Step W5.
        match state & PHASE {
            LIVE => Observed::Live(Fingerprint(state), self.deadline()),
            BUSY => Observed::Busy(self.deadline()),
            CLAIMED => Observed::Claimed,
            _ => Observed::Free,
        }
    }

    /// Claims the slot, for as long as a delivery takes. Returns whether it did.
    ///
    /// The slot goes from live to claimed in one step, so that a concurrent `doom` does not miss it.
    pub(super) fn claim(&self, fingerprint: Fingerprint) -> bool {
        // Step U1.
        // ORDERING: Acquire / Relaxed [slot.claim] pairs with [slot.publish]: the entry is visible.
        self.state
            .compare_exchange(fingerprint.0, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Dooms a claimed slot, so that it does not go live again. `false`: the claim has ended, and the slot
    /// may be live.
    pub(super) fn doom(&self) -> bool {
        // Step U3.
        // ORDERING: Relaxed / Relaxed [slot.doom]: the claimer that finds it reads nothing but the state.
        match self.state.compare_exchange(CLAIMED, DOOMED, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(found) => found & PHASE != LIVE,
        }
    }

    /// Makes a claimed slot live again, unless it is doomed.
    ///
    /// # Safety
    /// The caller has claimed the slot with this fingerprint, and this is the end of the claim if it returns
    /// `true`.
    pub(super) unsafe fn unclaim(&self, fingerprint: Fingerprint) -> bool {
        // Step U2.
        // ORDERING: Release / Relaxed [slot.unclaim] pairs with [slot.guard] and [slot.observe], as a publish.
        self.state
            .compare_exchange(CLAIMED, fingerprint.0, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// Returns the entry of a claimed slot.
    ///
    /// # Safety
    /// The caller has claimed the slot, and does not end the claim while the reference lives.
    pub(super) unsafe fn claimed(&self) -> &Entry<P, O> {
        // SAFETY: claimed, so there is an entry and no other thread touches it.
        self.cell.with(|cell| unsafe { (*cell).assume_init_ref() })
    }

    #[inline]
    pub(super) fn deadline(&self) -> Nanos {
        // ORDERING: Relaxed [slot.deadline.get]: after [slot.observe] or [slot.guard].
        self.deadline.load(Ordering::Relaxed) & !CAPPED
    }

    pub(super) fn is_capped(&self) -> bool {
        // ORDERING: Relaxed [slot.deadline.get]: after [slot.claim].
        self.deadline.load(Ordering::Relaxed) & CAPPED != 0
    }

    /// Changes the deadline, but not whether it is capped. Only a claimer may call it.
    ///
    /// A thread that guards the slot afterwards sees the new deadline. A sweep that observed the slot before
    /// may have seen the old one.
    pub(super) fn set_deadline(&self, deadline: Nanos) {
        // ORDERING: Relaxed [slot.deadline.get]: after [slot.claim].
        let mark = self.deadline.load(Ordering::Relaxed) & CAPPED;
        // Step U4.
        // ORDERING: Relaxed [slot.deadline.renew]: published by [slot.unclaim].
        self.deadline.store(deadline | mark, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn charge_or_link(&self) -> u64 {
        // ORDERING: Relaxed [slot.charge_or_link.get]: as a charge read after [slot.guard]; as a link checked by a CAS
        // on the list's head.
        self.charge_or_link.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_charge_or_link(&self, charge_or_link: u64) {
        // ORDERING: Relaxed [slot.charge_or_link.set]: published with the state, or with the list's head.
        self.charge_or_link.store(charge_or_link, Ordering::Relaxed);
    }
}

impl<'a, P, O> SlotGuard<'a, P, O> {
    /// Calls `f` with the entry.
    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(&Entry<P, O>) -> R) -> R {
        // SAFETY: guarded, so there is an entry and no other thread touches it.
        self.slot.cell.with(|cell| f(unsafe { (*cell).assume_init_ref() }))
    }

    #[inline]
    pub(super) fn deadline(&self) -> Nanos {
        self.slot.deadline()
    }

    #[inline]
    pub(super) fn charge(&self) -> u64 {
        self.slot.charge_or_link()
    }

    /// Makes the slot live again, as it was.
    pub(super) fn restore(self) {
        self.slot.go_live(self.fingerprint);
    }

    #[inline]
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Leaves the slot guarded, for the owner of a list of such slots; see [`Slot::vacate`].
    pub(super) fn leave_guarded(self) -> &'a Slot<P, O> {
        self.slot
    }

    /// Moves the entry out. The slot is then free, and the caller pushes it to the free list.
    #[inline]
    pub(super) fn vacate(self) -> Entry<P, O> {
        // SAFETY: guarded.
        unsafe { self.slot.vacate() }
    }
}

impl<P, O> Slot<P, O> {
    /// Moves the entry out of a slot and frees the slot.
    ///
    /// # Safety
    /// The caller has guarded or claimed the slot, and has not restored or vacated it since.
    #[inline]
    pub(super) unsafe fn vacate(&self) -> Entry<P, O> {
        // SAFETY: guarded or claimed, so there is an entry and it is ours; the phase then says that it has
        // gone.
        let entry = self.cell.with_mut(|cell| unsafe { (*cell).assume_init_read() });
        // Step T4.
        // ORDERING: Relaxed [slot.vacate]: the next user gets the slot through the free list.
        self.state.store(FREE, Ordering::Relaxed);
        entry
    }
}
