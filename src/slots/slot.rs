//! One slot: a state machine in one word, and the cell that it guards.
//!
//! | phase | cell | who may touch the cell | left by |
//! |---|---|---|---|
//! | `FREE` | empty | who popped the slot from the free list | `publish` -> `LIVE` |
//! | `LIVE` | an entry | nobody: whoever wants it wins it first | `win` -> `BUSY`, `claim` -> `CLAIMED` |
//! | `BUSY` | an entry | who won it, alone | `restore` -> `LIVE`, `vacate` -> `FREE` |
//! | `CLAIMED` | an entry | who claimed it, alone | `unclaim` -> `LIVE`, `vacate` -> `FREE`, `doom` -> `DOOMED` |
//! | `DOOMED` | an entry | who claimed it, alone | `vacate` -> `FREE` |
//!
//! `BUSY` is for a moment, `CLAIMED` for as long as a delivery takes. A doomed entry was claimed when all
//! entries were cleared: it is as it was for its claimer, but does not go live again.
//!
//! The word of a live slot also holds a fingerprint, 62 bits of the ticket's secret combined with a keyed
//! hash of the owner: one compare-exchange decides secrecy, ownership, at most once, and staleness
//! (invariant 7). Another ticket or owner has the same fingerprint once in 2^62 times, and even then the
//! ticket and the owner are compared before anything is delivered.
//!
//! All bits zero is a free slot that was never used.

use std::mem::MaybeUninit;

use super::deadlines::Nanos;
use crate::sync::UnsafeCell;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::ticket::Secret;

/// Zero, so that fresh memory is free slots.
const FREE: u64 = 0;
const LIVE: u64 = 1;
const BUSY: u64 = 2;
const CLAIMED: u64 = 3;
const PHASE: u64 = 3;
/// Above the phase of a claimed slot, which has no fingerprint.
const DOOMED: u64 = CLAIMED | 4;

/// What a live slot's word is, for a given mixture of secret and owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    #[inline]
    pub(super) fn new(mixed: u64) -> Self {
        Self(mixed & !PHASE | LIVE)
    }

    /// What was mixed with the secret, but for the bits that the phase takes.
    #[inline]
    pub(super) fn unmixed(self, secret: Secret) -> u64 {
        (self.0 ^ secret.low()) & !PHASE
    }
}

/// A sweep's look at a slot, from outside.
pub(super) enum Look {
    Free,
    Live(Fingerprint, Nanos),
    /// Somebody has won it, and will free it or put it back. The deadline is the entry's if it is put
    /// back, or else too early or too late for nothing.
    Busy(Nanos),
    /// Somebody has claimed it, and will free it or put it back as if it were new.
    Claimed,
}

/// What is in a slot.
pub(super) struct Entry<P, O> {
    pub(super) secret: Secret,
    pub(super) owner: O,
    pub(super) payload: P,
}

pub(super) struct Slot<P, O> {
    state: AtomicU64,
    deadline: AtomicU64,
    /// While it is live: the entry's charge. Otherwise: a link of the list that it is in.
    word: AtomicU64,
    cell: UnsafeCell<MaybeUninit<Entry<P, O>>>,
}

// SAFETY: the cell is handed from thread to thread with the phase, one at a time, as the table says; the
// entry in it is only ever moved in, moved out, or looked at by who won it.
unsafe impl<P: Send, O: Send> Sync for Slot<P, O> {}

/// A slot that this thread has won: it alone may touch the entry, until it restores or vacates.
pub(super) struct Won<'a, P, O> {
    slot: &'a Slot<P, O>,
    fingerprint: Fingerprint,
}

impl<P, O> Slot<P, O> {
    /// Needed only where memory cannot be zeroed into being.
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU64::new(FREE),
            deadline: AtomicU64::new(0),
            word: AtomicU64::new(0),
            cell: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Puts an entry in and makes it live.
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
        // SAFETY: a free slot is its popper's alone.
        self.cell.with_mut(|cell| unsafe { (*cell).write(entry) });
        // ORDERING: Relaxed [slot.deadline.set]: published with the state.
        self.deadline.store(deadline, Ordering::Relaxed);
        self.set_word(charge);
        self.go_live(fingerprint);
    }

    #[inline]
    fn go_live(&self, fingerprint: Fingerprint) {
        // ORDERING: Release [slot.publish] pairs with [slot.win] and [slot.look].
        self.state.store(fingerprint.0, Ordering::Release);
    }

    /// Wins the slot if it is live with this fingerprint. Lock-free; one attempt.
    #[inline]
    pub(super) fn win(&self, fingerprint: Fingerprint) -> Option<Won<'_, P, O>> {
        // ORDERING: Relaxed [slot.peek]: spares those who cannot win the write; the CAS decides.
        if self.state.load(Ordering::Relaxed) != fingerprint.0 {
            return None;
        }
        self.win_or_look(fingerprint).ok()
    }

    /// As `win`, or else what is there instead.
    #[inline]
    pub(super) fn win_or_look(&self, fingerprint: Fingerprint) -> Result<Won<'_, P, O>, Look> {
        // ORDERING: Acquire / Relaxed [slot.win] pairs with [slot.publish]: the entry is visible.
        match self.state.compare_exchange(fingerprint.0, BUSY, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Ok(Won { slot: self, fingerprint }),
            Err(found) => Err(self.read(found)),
        }
    }

    /// What a sweep sees.
    pub(super) fn look(&self) -> Look {
        // ORDERING: Acquire [slot.look] pairs with [slot.publish]: the deadline is this entry's or a later
        // one's, never an earlier one's.
        self.read(self.state.load(Ordering::Acquire))
    }

    #[inline]
    fn read(&self, state: u64) -> Look {
        match state & PHASE {
            LIVE => Look::Live(Fingerprint(state), self.deadline()),
            BUSY => Look::Busy(self.deadline()),
            CLAIMED => Look::Claimed,
            _ => Look::Free,
        }
    }

    /// As `win`, for as long as a delivery takes. It is claimed from the start, so that a doom that comes by
    /// does not miss it.
    pub(super) fn claim(&self, fingerprint: Fingerprint) -> bool {
        // ORDERING: Acquire / Relaxed [slot.claim] pairs with [slot.publish]: the entry is visible.
        self.state
            .compare_exchange(fingerprint.0, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// If it is claimed, it does not go live again. `false`: the claim has ended, and it may be live.
    pub(super) fn doom(&self) -> bool {
        // ORDERING: Relaxed / Relaxed [slot.doom]: nothing but the state is read by who finds it.
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
        // ORDERING: Release / Relaxed [slot.unclaim] pairs with [slot.win] and [slot.look], as a publish.
        self.state
            .compare_exchange(CLAIMED, fingerprint.0, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// The entry of a claimed slot.
    ///
    /// # Safety
    /// The caller has claimed the slot, and does not end the claim while the reference lives.
    pub(super) unsafe fn claimed(&self) -> &Entry<P, O> {
        // SAFETY: claimed, so there is an entry and nobody else touches it.
        self.cell.with(|cell| unsafe { (*cell).assume_init_ref() })
    }

    #[inline]
    pub(super) fn deadline(&self) -> Nanos {
        // ORDERING: Relaxed [slot.deadline.get]: after [slot.look] or [slot.win].
        self.deadline.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn word(&self) -> u64 {
        // ORDERING: Relaxed [slot.word.get]: as a charge read after [slot.win]; as a link checked by a CAS
        // on the list's head.
        self.word.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_word(&self, word: u64) {
        // ORDERING: Relaxed [slot.word.set]: published with the state, or with the list's head.
        self.word.store(word, Ordering::Relaxed);
    }
}

impl<'a, P, O> Won<'a, P, O> {
    /// Lets `f` look at the entry.
    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(&Entry<P, O>) -> R) -> R {
        // SAFETY: won, so there is an entry and nobody else touches it.
        self.slot.cell.with(|cell| f(unsafe { (*cell).assume_init_ref() }))
    }

    #[inline]
    pub(super) fn deadline(&self) -> Nanos {
        self.slot.deadline()
    }

    #[inline]
    pub(super) fn charge(&self) -> u64 {
        self.slot.word()
    }

    /// Makes it live again, as it was.
    pub(super) fn restore(self) {
        self.slot.go_live(self.fingerprint);
    }

    #[inline]
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Keeps it won for whoever finds the slot in a list of such slots; see [`Slot::vacate`].
    pub(super) fn leave_won(self) -> &'a Slot<P, O> {
        self.slot
    }

    /// Moves the entry out. The slot is free then, and the caller's to push to the free list.
    #[inline]
    pub(super) fn vacate(self) -> Entry<P, O> {
        // SAFETY: won.
        unsafe { self.slot.vacate() }
    }
}

impl<P, O> Slot<P, O> {
    /// # Safety
    /// The caller has won or claimed the slot, and has not restored or vacated it since.
    #[inline]
    pub(super) unsafe fn vacate(&self) -> Entry<P, O> {
        // SAFETY: won, so there is an entry and it is ours; the phase says that it is gone.
        let entry = self.cell.with_mut(|cell| unsafe { (*cell).assume_init_read() });
        // ORDERING: Relaxed [slot.vacate]: the next user gets the slot through the free list.
        self.state.store(FREE, Ordering::Relaxed);
        entry
    }
}
