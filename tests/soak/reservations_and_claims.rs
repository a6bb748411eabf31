//! The soak's reservations, claims and observer.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use cloakroom::{
    AcquireError, Claim, Clock, Event, Observer, OnDrop, Refusal, Reservation, Stash, Stats,
};

use crate::calls::{Entry, MoodyOwner, Soak, SoakStash};
use crate::figures::add;
use crate::random::{below, local, once_in, size};
use crate::support::ledger::{Fate, Tracked};
use crate::{LOWEST, MAX_WAITING, MAX_WAITING_BYTES, OVERFLOW, OVERHEAD, OWNERS};

pub(crate) type SoakReservation = Reservation<Tracked, MoodyOwner>;
pub(crate) type Claimed = (Claim<Tracked, MoodyOwner>, Entry);

// ---- The observer ----------------------------------------------------------------------------------

/// Counts what happens, and now and then calls the stash or panics.
#[derive(Default)]
pub(crate) struct CountingObserver {
    soak: OnceLock<Weak<Soak>>,
    stored: AtomicU64,
    delivered: AtomicU64,
    expired: AtomicU64,
    cleared: AtomicU64,
    claimed: AtomicU64,
    put_back: AtomicU64,
    waited: AtomicU64,
    refused: AtomicU64,
}

impl CountingObserver {
    pub(crate) fn watch(&self, soak: &Arc<Soak>) {
        assert!(self.soak.set(Arc::downgrade(soak)).is_ok());
    }
}

impl Observer for CountingObserver {
    fn event(&self, event: Event) {
        let (counter, count) = match event {
            Event::Stored { .. } => (&self.stored, 1),
            Event::Delivered { .. } => (&self.delivered, 1),
            Event::Expired { entries, .. } => (&self.expired, entries),
            Event::Cleared { entries, .. } => (&self.cleared, entries),
            Event::Claimed { .. } => (&self.claimed, 1),
            Event::PutBack { .. } => (&self.put_back, 1),
            Event::Waited { .. } => (&self.waited, 1),
            Event::Refused { .. } => (&self.refused, 1),
            other => panic!("{other:?}"),
        };
        counter.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(soak) = self.soak.get().and_then(Weak::upgrade) {
            soak.misbehave(below(1_000));
        }
    }
}

impl Soak {
    // ---- Refusals ----------------------------------------------------------------------------------

    pub(crate) fn refused(&self, refused: &AcquireError) {
        let figures = &self.figures;
        add(&figures.refused);
        match refused.reason() {
            Refusal::Full => add(&figures.full),
            Refusal::TooLarge => add(&figures.too_large),
            Refusal::TimedOut => add(&figures.timed_out),
            Refusal::Cancelled => add(&figures.cancelled_by_until),
            Refusal::OwnerFull => add(&figures.owner_full),
            Refusal::QueueFull => add(&figures.queue_full),
            other => self.violation(format!("refused as {other}")),
        }
        if refused.reason() == Refusal::TooLarge && refused.requested() <= LOWEST + OVERFLOW {
            self.violation("too large, but it never is");
        }
        let owners = refused.used().saturating_add(refused.requested());
        if refused.reason() == Refusal::OwnerFull && owners <= refused.limit() {
            self.violation("its owner is not full");
        }
    }

    // ---- Reservations ------------------------------------------------------------------------------

    pub(crate) fn reserve(
        self: &Arc<Self>,
        stash: &SoakStash,
        reservations: &mut Vec<(SoakReservation, Option<u64>)>,
    ) {
        let owner = (!once_in(3)).then(|| below(OWNERS));
        let (bytes, patience) = (size(), Duration::from_micros(below(300)));
        let reserved = match owner {
            None if once_in(2) => stash.try_reserve(bytes),
            None => stash.reserve_timeout(bytes, patience),
            Some(id) => stash.reserve_timeout_for(&MoodyOwner { id, soak: None }, bytes, patience),
        };
        match reserved {
            Ok(reservation) => {
                add(&self.figures.reserved);
                if reservation.bytes() != bytes {
                    self.violation("reserved something else");
                }
                reservations.push((reservation, owner));
            }
            Err(refused) => self.refused(&refused),
        }
    }

    /// Drops it, makes it smaller, or puts something in that fits or does not.
    pub(crate) fn use_reservation(
        self: &Arc<Self>,
        reservations: &mut Vec<(SoakReservation, Option<u64>)>,
    ) {
        let drawn = local(|local| local.rng.draw(reservations));
        let Some((mut reservation, owner)) = drawn else { return };
        match below(8) {
            0 => return,
            1 | 2 => {
                reservation.shrink(below(reservation.bytes() + 1));
                reservations.push((reservation, owner));
                return;
            }
            _ => {}
        }
        let most = reservation.bytes();
        let bytes = match below(4) {
            0 => most,
            1 => most + 1,
            _ => below(most + 1),
        };
        // Mostly for whom it was reserved.
        if let Some(reservation) = self.put_into(reservation, bytes, owner.filter(|_| !once_in(8)))
        {
            reservations.push((reservation, owner));
        }
    }

    /// Gives the room back if it could not be used.
    fn put_into(
        self: &Arc<Self>,
        reservation: SoakReservation,
        bytes: u64,
        owner: Option<u64>,
    ) -> Option<SoakReservation> {
        let most = reservation.bytes();
        let (payload, mut context) = self.payload_of(bytes);
        context.owner = owner.unwrap_or(context.owner);
        add(&self.figures.puts);
        let options = context.options();
        match reservation.put_with(self.owner(&context), payload, options) {
            Ok(ticket) => {
                if bytes > most {
                    self.violation("more than was reserved");
                }
                add(&self.figures.reserved_and_put);
                self.put_was(Ok(ticket), context);
                None
            }
            Err(refused) => {
                add(&self.figures.refused);
                match refused.reason() {
                    Refusal::TooLarge if bytes > most => add(&self.figures.reserved_too_little),
                    Refusal::OwnerFull if bytes <= most => add(&self.figures.owner_full),
                    other => self.violation(format!("{bytes} of {most} reserved: {other}")),
                }
                let (payload, reservation) = refused.into_parts();
                payload.returned();
                if reservation.bytes() != most {
                    self.violation("a refused put changed its reservation");
                }
                Some(reservation)
            }
        }
    }

    /// In a task, which may be dropped while it waits.
    pub(crate) async fn reserve_and_put(
        self: &Arc<Self>,
        stash: &SoakStash,
        patience: impl Future,
    ) {
        let (owner, bytes) = (below(OWNERS), size());
        let reserved = stash.reserve_for(&MoodyOwner { id: owner, soak: None }, bytes);
        match reserved.until(patience).await {
            Ok(reservation) => {
                add(&self.figures.reserved);
                let bytes = below(reservation.bytes() + 1);
                drop(self.put_into(reservation, bytes, Some(owner)));
            }
            Err(refused) => self.refused(&refused),
        }
    }

    // ---- Claims ------------------------------------------------------------------------------------

    /// The claim, if there is one, or else the check is dealt with.
    fn claim(self: &Arc<Self>, stash: &SoakStash) -> Option<Claimed> {
        let entry = local(|local| local.rng.draw(&mut self.entries.lock().unwrap()))?;
        let wrong = MoodyOwner { id: entry.owner + 1, soak: None };
        if once_in(4) && stash.claim(&entry.ticket, &wrong).is_some() {
            self.violation("claimed by another");
        }
        let now = self.clock.now();
        let owner = MoodyOwner { id: entry.owner, soak: None };
        let moody = entry.moody && once_in(2);
        local(|local| local.moody = moody);
        let claimed = self.guarded(|| stash.claim(&entry.ticket, &owner));
        local(|local| local.moody = false);
        match claimed {
            Some(Some(claim)) => {
                add(&self.figures.claims);
                if now >= entry.dead_by {
                    self.violation("claimed after it had expired");
                }
                if (claim.charge(), claim.ticket()) != (entry.charge, entry.ticket)
                    || claim.record().fate() != Fate::Alive
                {
                    self.violation(format!("another's: {claim:?}"));
                }
                Some((claim, entry))
            }
            Some(None) => {
                self.denied(entry);
                None
            }
            None => {
                self.entries.lock().unwrap().push(entry);
                None
            }
        }
    }

    pub(crate) fn claim_one(self: &Arc<Self>, stash: &SoakStash, claims: &mut Vec<Claimed>) {
        claims.extend(self.claim(stash));
    }

    pub(crate) fn claim_for_a_moment(self: &Arc<Self>, stash: &SoakStash) {
        if let Some(claimed) = self.claim(stash) {
            self.end_claim(claimed);
        }
    }

    pub(crate) fn end_claim(self: &Arc<Self>, (claim, entry): Claimed) {
        let stash: &SoakStash = &self.stash().unwrap();
        if stash.take(&entry.ticket, &MoodyOwner { id: entry.owner, soak: None }).is_some() {
            self.violation("taken, though it is claimed");
        }
        match below(8) {
            0..2 => {
                if claim.put_back() {
                    add(&self.figures.claims_put_back);
                    self.entries.lock().unwrap().push(entry);
                } else {
                    self.denied(entry);
                }
            }
            2..4 => {
                drop(claim);
                self.entries.lock().unwrap().push(entry);
            }
            4 => {
                add(&self.figures.delivered);
                claim.into_inner().delivered();
            }
            // The stash drops the payload then, and has delivered it.
            5 => {
                add(&self.figures.delivered);
                add(&self.figures.claims_finished);
                entry.record.deliver();
                drop(claim.on_drop(OnDrop::Finish));
            }
            _ => {
                add(&self.figures.delivered);
                add(&self.figures.downloads);
                entry.record.deliver();
                let bytes = claim.into_bytes();
                if bytes.len() as u64 + OVERHEAD != entry.charge {
                    self.violation("as bytes it has another length");
                }
                let clones = (0..below(3)).map(|_| bytes.clone());
                self.downloads.lock().unwrap().extend(clones);
                self.downloads.lock().unwrap().push(bytes);
            }
        }
    }

    /// Downloads of any actor. More when there are many.
    pub(crate) fn drop_download(&self) -> bool {
        let mut drops = 1 + self.downloads.lock().unwrap().len() / 16;
        while drops > 0 {
            let drawn = local(|local| local.rng.draw(&mut self.downloads.lock().unwrap()));
            if drawn.is_none() {
                return false;
            }
            // With no lock held: it may be the last clone.
            drop(drawn);
            drops -= 1;
        }
        true
    }

    // ---- Statistics --------------------------------------------------------------------------------

    /// What holds at all times.
    pub(crate) fn check_stats(&self, stats: &Stats) {
        let gone = stats.delivered + stats.expired + stats.cleared;
        if stats.stored != stats.entries + gone
            || stats.waiting > MAX_WAITING
            || stats.waiting_bytes > MAX_WAITING_BYTES
            || stats.waiting_bytes < stats.head_bytes.unwrap_or(0)
            || stats.head_bytes.is_some() != (stats.waiting > 0)
        {
            self.violation(format!("it does not add up: {stats:?}"));
        }
    }

    /// Compares all counts, now that no other thread calls.
    pub(crate) fn check_in_the_end(
        &self,
        stash: &Stash<Tracked, MoodyOwner>,
        observer: &CountingObserver,
    ) {
        let (stats, figures) = (stash.stats(), &self.figures);
        println!("{stats:?}");
        let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((stats.entries, stats.claims, stats.waiting_bytes), (0, 0, 0));
        for id in 0..=OWNERS {
            assert_eq!(stash.owner_used_bytes(&MoodyOwner { id, soak: None }), 0, "of owner {id}");
        }
        assert_eq!(stats.stored, stats.delivered + stats.expired + stats.cleared);
        assert_eq!(stats.stored, n(&figures.stored));
        assert_eq!(stats.delivered, n(&figures.delivered));
        assert_eq!(stats.delivered, self.ledger.count(Fate::Delivered));
        assert_eq!(stats.expired + stats.cleared, self.ledger.count(Fate::Swept));
        assert_eq!(stats.claimed, n(&figures.claims));
        assert!(stats.put_back >= n(&figures.claims_put_back), "some were dropped");
        assert_eq!(stats.refused.total(), n(&figures.refused));
        let counted = [
            (stats.stored, &observer.stored),
            (stats.delivered, &observer.delivered),
            (stats.expired, &observer.expired),
            (stats.cleared, &observer.cleared),
            (stats.claimed, &observer.claimed),
            (stats.put_back, &observer.put_back),
            (stats.waited, &observer.waited),
            (stats.refused.total(), &observer.refused),
        ];
        let (stats, observed): (Vec<_>, Vec<_>) =
            counted.into_iter().map(|(stat, counter)| (stat, n(counter))).unzip();
        assert_eq!(stats, observed, "the statistics, and what the observer was told");
    }
}
