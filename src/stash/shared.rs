//! Joins the budget and the slots in each operation, for all handles.
//!
//! A put acquires, then stores; a take removes, then releases. Between the two steps the bytes belong to the
//! call, and its permit releases them if the call fails or panics.

use std::hash::Hash;

use super::alarms::Alarms;
use super::counters::Counters;
use super::options::PutOptions;
use crate::budget::{Budget, Tier};
use crate::clock::{ClockSource, nanos};
use crate::error::{AcquireError, PutError};
use crate::observe::{Event, Observer};
use crate::payload::Scales;
use crate::slots::{CAPPED, MAX_TTL, NEVER, Nanos, RemovedEntry, SlotMap};
use crate::sync::contain_panic;
use crate::ticket::Ticket;

/// Holds what all handles of a stash share.
pub(crate) struct Inner<P, O> {
    pub(super) budget: Budget,
    pub(super) slots: SlotMap<P, O>,
    pub(super) ttl: Nanos,
    /// Caps the time to live of entries that use the overflow.
    pub(super) overflow_ttl: Nanos,
    pub(super) scales: Scales<P, O>,
    pub(super) entry_overhead: u64,
    pub(super) clock: ClockSource,
    pub(super) observer: Option<Box<dyn Observer>>,
    /// Wakes reapers when the last handle is dropped, and when an earlier deadline appears.
    pub(super) alarms: Alarms,
    pub(super) counters: Counters,
}

impl<P, O> Inner<P, O> {
    #[inline]
    pub(super) fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Returns the charge of a payload of `bytes`.
    ///
    /// It saturates: the result is then more than any limit. It is at least 1, so that every entry is charged:
    /// `drained`, and the bounds on the number of entries, depend on the charges.
    #[inline]
    pub(super) fn charge_for(&self, bytes: u64) -> u64 {
        bytes.saturating_add(self.entry_overhead).max(1)
    }

    /// Returns the charge of this payload. Runs user code, so the caller must hold nothing.
    #[inline]
    pub(super) fn charge_of(&self, owner: &O, payload: &P) -> u64 {
        self.charge_for(self.scales.weigh(owner, payload))
    }

    /// Calls the observer, if there is one. The caller must hold nothing.
    #[inline]
    pub(super) fn observe(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = &self.observer {
            contain_panic(|| observer.event(event()));
        }
    }

    /// Counts and reports a refusal on its way to the caller.
    #[cold]
    pub(super) fn record_refusal(&self, refusal: AcquireError) -> AcquireError {
        self.counters.refused(refusal.reason()).add(1);
        self.observe(|| Event::Refused { reason: refusal.reason(), bytes: refusal.requested() });
        refusal
    }

    #[inline]
    pub(super) fn refuse_put(&self, payload: P, refusal: AcquireError) -> PutError<P> {
        PutError::new(payload, self.record_refusal(refusal))
    }

    /// Drops an undeliverable entry, then releases its bytes.
    ///
    /// In this order: the bytes are in use until it is dropped.
    pub(super) fn discard(&self, gone: RemovedEntry<P, O>) {
        let RemovedEntry { payload, owner, charge } = gone;
        contain_panic(|| drop(owner));
        contain_panic(|| drop(payload));
        self.budget.release(charge);
    }

    /// Discards an expired entry that has been counted already.
    ///
    /// The caller counted it before its slot was free. Otherwise `stats` could miss it in both numbers, and count it
    /// as delivered.
    pub(super) fn discard_expired(&self, gone: RemovedEntry<P, O>) {
        let bytes = gone.charge;
        self.discard(gone);
        self.observe(|| Event::Expired { entries: 1, bytes });
    }

    /// Releases the bytes of a delivered entry and returns its payload.
    #[inline]
    pub(super) fn deliver(&self, gone: RemovedEntry<P, O>) -> P {
        let RemovedEntry { payload, owner, charge } = gone;
        self.budget.release(charge);
        contain_panic(|| drop(owner));
        self.observe(|| Event::Delivered { bytes: charge });
        payload
    }
}

impl<P, O: Hash> Inner<P, O> {
    /// Stores an entry that takes over `charge`, and releases it at its end.
    ///
    /// # Errors
    ///
    /// Returns the payload if no slot is left.
    #[inline(always)]
    pub(super) fn insert(
        &self,
        owner: O,
        payload: P,
        charge: u64,
        tier: Tier,
        options: PutOptions,
    ) -> Result<Ticket, P> {
        let mut ttl = options.ttl.map_or(self.ttl, |ttl| nanos(ttl).min(MAX_TTL));
        if tier == Tier::Overflow {
            ttl = ttl.min(self.overflow_ttl);
        }
        let mut deadline = 0;
        let ticket = self.slots.insert(owner, payload, charge, || {
            deadline = self.now().saturating_add(ttl).min(NEVER);
            if tier == Tier::Overflow { deadline | CAPPED } else { deadline }
        })?;
        if ttl < self.ttl {
            self.alarms.notify_earlier(deadline);
        }
        self.observe(|| Event::Stored { bytes: charge, overflow: tier == Tier::Overflow });
        Ok(ticket)
    }
}

/// Ends the stash when no handle is left, and so no claim and no reservation.
///
/// Clones of its budget may be left, and their callers may wait for its bytes or for `drained`.
impl<P, O> Drop for Inner<P, O> {
    /// Releases the bytes of all entries, for the holders of the budget's clones. Then drops the payloads.
    fn drop(&mut self) {
        let removed = self.slots.clear();
        let (count, bytes) = (removed.count(), removed.bytes());
        if count > 0 {
            // As in `clear`: all bytes in one release, then the payloads.
            self.budget.release(bytes);
            drop(removed);
            self.observe(|| Event::Cleared { entries: count, bytes });
        }
        self.alarms.wake_all();
    }
}
