//! The soak's reservations, claims and observer.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use cloakroom::{
    AcquireError, Claim, Clock, Event, Observer, OnDrop, Refusal, Reservation, Stash, Stats,
};

use crate::calls::{Check, Cloakroom, Guest, Hall};
use crate::figures::add;
use crate::random::{below, local, once_in, size};
use crate::support::ledger::{Fate, Parcel};
use crate::{LOWEST, MAX_WAITING, MAX_WAITING_BYTES, OVERFLOW, OVERHEAD, OWNERS};

pub(crate) type Room = Reservation<Parcel, Guest>;
pub(crate) type Claimed = (Claim<Parcel, Guest>, Check);

// ---- Somebody who counts ---------------------------------------------------------------------------

/// Counts what happens, and now and then calls the stash or panics.
#[derive(Default)]
pub(crate) struct Diary {
    hall: OnceLock<Weak<Hall>>,
    stored: AtomicU64,
    delivered: AtomicU64,
    expired: AtomicU64,
    cleared: AtomicU64,
    claimed: AtomicU64,
    put_back: AtomicU64,
    waited: AtomicU64,
    refused: AtomicU64,
}

impl Diary {
    pub(crate) fn watch(&self, hall: &Arc<Hall>) {
        assert!(self.hall.set(Arc::downgrade(hall)).is_ok());
    }
}

impl Observer for Diary {
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
        if let Some(hall) = self.hall.get().and_then(Weak::upgrade) {
            hall.misbehave(below(1_000));
        }
    }
}

impl Hall {
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
        stash: &Cloakroom,
        rooms: &mut Vec<(Room, Option<u64>)>,
    ) {
        let owner = (!once_in(3)).then(|| below(OWNERS));
        let (bytes, patience) = (size(), Duration::from_micros(below(300)));
        let reserved = match owner {
            None if once_in(2) => stash.try_reserve(bytes),
            None => stash.reserve_timeout(bytes, patience),
            Some(id) => stash.reserve_timeout_for(&Guest { id, hall: None }, bytes, patience),
        };
        match reserved {
            Ok(room) => {
                add(&self.figures.reserved);
                if room.bytes() != bytes {
                    self.violation("reserved something else");
                }
                rooms.push((room, owner));
            }
            Err(refused) => self.refused(&refused),
        }
    }

    /// Drops it, makes it smaller, or puts something in that fits or does not.
    pub(crate) fn use_room(self: &Arc<Self>, rooms: &mut Vec<(Room, Option<u64>)>) {
        let drawn = local(|local| local.dice.draw(rooms));
        let Some((mut room, owner)) = drawn else { return };
        match below(8) {
            0 => return,
            1 | 2 => {
                room.shrink(below(room.bytes() + 1));
                rooms.push((room, owner));
                return;
            }
            _ => {}
        }
        let most = room.bytes();
        let bytes = match below(4) {
            0 => most,
            1 => most + 1,
            _ => below(most + 1),
        };
        // Mostly for whom it was reserved.
        if let Some(room) = self.put_into(room, bytes, owner.filter(|_| !once_in(8))) {
            rooms.push((room, owner));
        }
    }

    /// Gives the room back if it could not be used.
    fn put_into(self: &Arc<Self>, room: Room, bytes: u64, owner: Option<u64>) -> Option<Room> {
        let most = room.bytes();
        let (parcel, mut luggage) = self.parcel_of(bytes);
        luggage.owner = owner.unwrap_or(luggage.owner);
        add(&self.figures.puts);
        let options = luggage.options();
        match room.put_with(self.owner(&luggage), parcel, options) {
            Ok(ticket) => {
                if bytes > most {
                    self.violation("more than was reserved");
                }
                add(&self.figures.reserved_and_put);
                self.put_was(Ok(ticket), luggage);
                None
            }
            Err(refused) => {
                add(&self.figures.refused);
                match refused.reason() {
                    Refusal::TooLarge if bytes > most => add(&self.figures.reserved_too_little),
                    Refusal::OwnerFull if bytes <= most => add(&self.figures.owner_full),
                    other => self.violation(format!("{bytes} of {most} reserved: {other}")),
                }
                let (parcel, room) = refused.into_parts();
                parcel.returned();
                if room.bytes() != most {
                    self.violation("a refused put changed its reservation");
                }
                Some(room)
            }
        }
    }

    /// In a task, which may be dropped while it waits.
    pub(crate) async fn reserve_and_put(
        self: &Arc<Self>,
        stash: &Cloakroom,
        patience: impl Future,
    ) {
        let (owner, bytes) = (below(OWNERS), size());
        let reserved = stash.reserve_for(&Guest { id: owner, hall: None }, bytes);
        match reserved.until(patience).await {
            Ok(room) => {
                add(&self.figures.reserved);
                let bytes = below(room.bytes() + 1);
                drop(self.put_into(room, bytes, Some(owner)));
            }
            Err(refused) => self.refused(&refused),
        }
    }

    // ---- Claims ------------------------------------------------------------------------------------

    /// The claim, if there is one, or else the check is dealt with.
    fn claim(self: &Arc<Self>, stash: &Cloakroom) -> Option<Claimed> {
        let check = local(|local| local.dice.draw(&mut self.checks.lock().unwrap()))?;
        let wrong = Guest { id: check.owner + 1, hall: None };
        if once_in(4) && stash.claim(&check.ticket, &wrong).is_some() {
            self.violation("claimed by another");
        }
        let now = self.clock.now();
        let owner = Guest { id: check.owner, hall: None };
        let moody = check.moody && once_in(2);
        local(|local| local.moody = moody);
        let claimed = self.guarded(|| stash.claim(&check.ticket, &owner));
        local(|local| local.moody = false);
        match claimed {
            Some(Some(claim)) => {
                add(&self.figures.claims);
                if now >= check.dead_by {
                    self.violation("claimed after it had expired");
                }
                if (claim.charge(), claim.ticket()) != (check.charge, check.ticket)
                    || claim.record().fate() != Fate::Alive
                {
                    self.violation(format!("another's: {claim:?}"));
                }
                Some((claim, check))
            }
            Some(None) => {
                self.denied(check);
                None
            }
            None => {
                self.checks.lock().unwrap().push(check);
                None
            }
        }
    }

    pub(crate) fn claim_one(self: &Arc<Self>, stash: &Cloakroom, claims: &mut Vec<Claimed>) {
        claims.extend(self.claim(stash));
    }

    pub(crate) fn claim_for_a_moment(self: &Arc<Self>, stash: &Cloakroom) {
        if let Some(claimed) = self.claim(stash) {
            self.end_claim(claimed);
        }
    }

    pub(crate) fn end_claim(self: &Arc<Self>, (claim, check): Claimed) {
        let stash: &Cloakroom = &self.stash().unwrap();
        if stash.take(&check.ticket, &Guest { id: check.owner, hall: None }).is_some() {
            self.violation("taken, though it is claimed");
        }
        match below(8) {
            0..2 => {
                if claim.put_back() {
                    add(&self.figures.claims_put_back);
                    self.checks.lock().unwrap().push(check);
                } else {
                    self.denied(check);
                }
            }
            2..4 => {
                drop(claim);
                self.checks.lock().unwrap().push(check);
            }
            4 => {
                add(&self.figures.delivered);
                claim.into_inner().delivered();
            }
            // The stash drops the payload then, and has delivered it.
            5 => {
                add(&self.figures.delivered);
                add(&self.figures.claims_finished);
                check.record.deliver();
                drop(claim.on_drop(OnDrop::Finish));
            }
            _ => {
                add(&self.figures.delivered);
                add(&self.figures.downloads);
                check.record.deliver();
                let bytes = claim.into_bytes();
                if bytes.len() as u64 + OVERHEAD != check.charge {
                    self.violation("as bytes it has another length");
                }
                let clones = (0..below(3)).map(|_| bytes.clone());
                self.downloads.lock().unwrap().extend(clones);
                self.downloads.lock().unwrap().push(bytes);
            }
        }
    }

    /// Anybody's. More when there are many.
    pub(crate) fn drop_download(&self) -> bool {
        let mut drops = 1 + self.downloads.lock().unwrap().len() / 16;
        while drops > 0 {
            let drawn = local(|local| local.dice.draw(&mut self.downloads.lock().unwrap()));
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

    /// Nobody is about: everybody's counts must agree.
    pub(crate) fn check_in_the_end(&self, stash: &Stash<Parcel, Guest>, diary: &Diary) {
        let (stats, figures) = (stash.stats(), &self.figures);
        println!("{stats:?}");
        let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((stats.entries, stats.claims, stats.waiting_bytes), (0, 0, 0));
        for id in 0..=OWNERS {
            assert_eq!(stash.owner_used_bytes(&Guest { id, hall: None }), 0, "of owner {id}");
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
            (stats.stored, &diary.stored),
            (stats.delivered, &diary.delivered),
            (stats.expired, &diary.expired),
            (stats.cleared, &diary.cleared),
            (stats.claimed, &diary.claimed),
            (stats.put_back, &diary.put_back),
            (stats.waited, &diary.waited),
            (stats.refused.total(), &diary.refused),
        ];
        let (stats, observed): (Vec<_>, Vec<_>) =
            counted.into_iter().map(|(stat, counter)| (stat, n(counter))).unzip();
        assert_eq!(stats, observed, "the statistics, and what the observer was told");
    }
}
