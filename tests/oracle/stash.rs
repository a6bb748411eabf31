//! A stash, with everything that it can do, against the model of it.

use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{
    AcquireError, Claim, Drained, ManualClock, OnDrop, Payload as _, Permit, PutError, PutOptions,
    Reservation, Stash, Ticket,
};

pub use super::steps::*;

use super::queue::{Numbers, Tier, numbers_of};
use super::stash_model::{ModelStash, PutContext, Request};
use super::{Disagreement, Fired, Index, LIMIT, Waiter, WakeLog, Who, agree};
use crate::support::{Counted, Live};

/// A payload with a serial number, so that it differs from others of its size.
struct Numbered(usize, Counted);

impl cloakroom::Payload for Numbered {
    fn size(&self) -> usize {
        self.1.size
    }
}

impl AsRef<[u8]> for Numbered {
    fn as_ref(&self) -> &[u8] {
        &[0; MAX_SIZE as usize][..self.1.size]
    }
}

type TestStash = Stash<Numbered, u8>;

/// How a request ended.
#[derive(Debug)]
enum Ended<'a> {
    Put(Result<Ticket, PutError<Numbered>>),
    Reserved(Result<Reservation<Numbered, u8>, AcquireError>),
    Acquired(Result<Permit<'a>, AcquireError>),
}

type Requested<'a> = Waiter<dyn Future<Output = Ended<'a>> + 'a>;

/// The stash, its model, and what both have given out.
struct Run<'a> {
    stash: &'a TestStash,
    clock: ManualClock,
    model: ModelStash,
    live: Live,
    counted_stash: usize,
    log: WakeLog,
    waiters: Vec<Option<Requested<'a>>>,
    drains: Vec<Option<Waiter<Drained<'a>>>>,
    /// Every ticket that was ever issued, with its owner.
    tickets: Vec<(Ticket, u8)>,
    reservations: Vec<Reservation<Numbered, u8>>,
    permits: Vec<Permit<'a>>,
    /// What each permit must hold.
    held: Vec<u64>,
    claims: Vec<Claim<Numbered, u8>>,
    /// Claims that are being delivered, in several clones perhaps.
    bytes: Vec<(Bytes, Ticket)>,
}

pub fn run_stash(settings: Settings, script: Vec<StashStep>) -> Result<(), Disagreement> {
    let clock = ManualClock::new();
    let mut builder = Stash::builder()
        .max_bytes(LIMIT)
        .entry_overhead(settings.overhead)
        .ttl(ticks(TTL_TICKS))
        .clock(clock.clone());
    if let Some(bytes) = settings.overflow {
        builder = builder.overflow(bytes, ticks(OVERFLOW_TTL_TICKS));
    }
    if let Some(bytes) = settings.per_owner {
        builder = builder.max_bytes_per_owner(bytes);
    }
    if let Some(requests) = settings.max_waiting {
        builder = builder.max_waiting(requests as usize);
    }
    if let Some(bytes) = settings.max_waiting_bytes {
        builder = builder.max_waiting_bytes(bytes);
    }
    let weigh = |&owner: &u8, payload: &Numbered| payload.size() as u64 + u64::from(owner);
    let built = match settings.weighs_owners {
        true => builder.weigher(weigh).build(),
        false => builder.build(),
    };
    let stash: TestStash = built.map_err(|e| e.to_string())?;
    let mut run = Run {
        stash: &stash,
        clock,
        model: ModelStash::new(settings),
        live: Live::new(),
        counted_stash: 0,
        log: WakeLog::default(),
        waiters: Vec::new(),
        drains: Vec::new(),
        tickets: Vec::new(),
        reservations: Vec::new(),
        permits: Vec::new(),
        held: Vec::new(),
        claims: Vec::new(),
        bytes: Vec::new(),
    };
    for step in script {
        run.step(step)?;
        run.compare()?;
    }
    run.leave()
}

fn options(ttl: Option<u64>) -> PutOptions {
    ttl.map_or(PutOptions::new(), |ttl| PutOptions::new().ttl(ticks(ttl)))
}

impl<'a> Run<'a> {
    fn step(&mut self, step: StashStep) -> Result<(), Disagreement> {
        use StashStep::*;
        let (stash, model) = (self.stash, &mut self.model);
        match step {
            Put(how, owner, size, ttl) => self.put(how, owner, size, ttl)?,
            Reserve(how, owner, size) => self.reserve(how, owner, size)?,
            Permit(how, bytes) => self.acquire(how, bytes)?,
            Poll(index, new_waker) => self.poll(index, new_waker)?,
            Fire(index) => {
                let Some(at) = model.budget.pick(index) else { return Ok(()) };
                model.budget.waiters[at].fired = true;
                if let Some(waiter) = &self.waiters[at] {
                    waiter.fire.set(true);
                }
            }
            Cancel(index) => {
                let Some(at) = model.budget.pick(index) else { return Ok(()) };
                if self.waiters[at].take().is_some() {
                    model.budget.drop_waiter(at);
                }
            }
            PutReserved(index, owner, size, ttl) => self.put_reserved(index, owner, size, ttl)?,
            ShrinkReservation(index, to) => {
                let Some(at) = index.of(self.reservations.len()) else { return Ok(()) };
                self.reservations[at].shrink(to);
                model.shrink(at, model.charge_for(to));
            }
            DropReservation(index) => {
                let Some(at) = index.of(self.reservations.len()) else { return Ok(()) };
                drop(self.reservations.swap_remove(at));
                model.drop_reservation(at);
            }
            ShrinkPermit(index, to) => {
                let Some(at) = index.of(self.permits.len()) else { return Ok(()) };
                self.permits[at].shrink(to);
                let excess = self.held[at].saturating_sub(to);
                self.held[at] -= excess;
                model.budget.release(excess);
            }
            DropPermit(index) => {
                let Some(at) = index.of(self.permits.len()) else { return Ok(()) };
                drop(self.permits.swap_remove(at));
                model.budget.release(self.held.swap_remove(at));
            }
            Take(index, off) => {
                let Some((ticket, owner)) = self.ticket(index, off) else { return Ok(()) };
                let expected = self.model.take(ticket, owner);
                let actual = stash.take(&ticket, &owner).map(|payload| payload.0);
                agree!(actual, expected, "what was taken");
            }
            TakeForged(bits, owner) => {
                agree!(stash.take(&forged(bits), &owner).is_none(), true);
                agree!(stash.claim(&forged(bits), &owner).is_none(), true);
            }
            Claim(index, off) => self.claim(index, off)?,
            Renew(index, ttl) => {
                let Some(at) = index.of(self.claims.len()) else { return Ok(()) };
                let claim = &mut self.claims[at];
                agree!(claim.renew(ticks(ttl)), self.model.renew(claim.ticket(), ttl), "renewed");
            }
            EndClaim(index, end) => self.end_claim(index, end)?,
            Unsent(index, off) => {
                let Some((ticket, owner)) = self.ticket(index, off) else { return Ok(()) };
                drop(stash.unsent(ticket, owner));
                self.model.drop_unsent(ticket, owner);
            }
            CloneBytes(index) => {
                let Some(at) = index.of(self.bytes.len()) else { return Ok(()) };
                self.bytes.push(self.bytes[at].clone());
            }
            DropBytes(index) => {
                let Some(at) = index.of(self.bytes.len()) else { return Ok(()) };
                self.drop_bytes(at);
            }
            Gc => agree!(stash.gc(), model.gc()),
            Clear => agree!(stash.clear(), model.clear()),
            Advance(step) => {
                self.clock.advance(ticks(step));
                model.now += step;
            }
            SetMaxBytes(bytes) => {
                stash.set_max_bytes(bytes);
                model.budget.set_limit(bytes + model.budget.overflow);
            }
            Close => agree!(stash.close(), model.budget.close()),
            Drained => {
                model.budget.new_drain();
                self.drains.push(Some(Waiter::new(|_| Box::pin(stash.drained()))));
            }
            PollDrained(index, new_waker) => {
                let Some(at) = index.of(self.drains.len()) else { return Ok(()) };
                let Some(drain) = &mut self.drains[at] else { return Ok(()) };
                let expected = model.budget.poll_drain(at, new_waker);
                let actual = drain.poll(&self.log, Who::Drain(at), new_waker).is_ready();
                agree!(actual, expected, "drained");
                if actual {
                    self.drains[at] = None;
                }
            }
            DropDrained(index) => {
                let Some(at) = index.of(self.drains.len()) else { return Ok(()) };
                self.drains[at] = None;
                model.budget.drop_drain(at);
            }
        }
        Ok(())
    }

    // ---- In --------------------------------------------------------------------------------------------

    fn serial(&mut self, size: u64) -> (usize, Numbered) {
        let number = self.counted_stash;
        self.counted_stash += 1;
        (number, Numbered(number, self.live.counted(size as usize)))
    }

    fn enqueue(
        &mut self,
        request: Request,
        charge: u64,
        make: impl FnOnce(Fired) -> Pin<Box<dyn Future<Output = Ended<'a>> + 'a>>,
    ) {
        self.model.new_request(request, charge);
        self.waiters.push(Some(Waiter::new(make)));
    }

    /// Enqueues a request whose wait ends as timed out.
    fn enqueue_timed(
        &mut self,
        request: Request,
        charge: u64,
        make: impl FnOnce(Fired) -> Pin<Box<dyn Future<Output = Ended<'a>> + 'a>>,
    ) {
        self.enqueue(request, charge, make);
        self.model.budget.waiters.last_mut().expect("enqueued").timed = true;
    }

    fn put(
        &mut self,
        how: How,
        owner: u8,
        size: u64,
        ttl: Option<u64>,
    ) -> Result<(), Disagreement> {
        let (serial, payload) = self.serial(size);
        let (stash, options) = (self.stash, options(ttl));
        let request = Request::Put(PutContext { owner, serial, ttl });
        let charge = self.model.charge_of(owner, size);
        let actual = match how {
            How::Try => stash.try_put_with(owner, payload, options),
            How::TimeoutZero => stash.put_timeout_with(owner, payload, Duration::ZERO, options),
            How::Future => {
                self.enqueue(request, charge, |fired| {
                    let put = stash.put_with(owner, payload, options).until(fired);
                    Box::pin(async { Ended::Put(put.await) })
                });
                return Ok(());
            }
            How::Owned => {
                self.enqueue_timed(request, charge, |fired| {
                    let put = stash.put_owned_with(owner, payload, options).timeout(fired);
                    Box::pin(async { Ended::Put(put.await) })
                });
                return Ok(());
            }
        };
        let expected = self.model.admit(request, charge);
        self.ended(request, charge, expected, Ended::Put(actual))
    }

    fn reserve(&mut self, how: How, owner: Option<u8>, size: u64) -> Result<(), Disagreement> {
        let (stash, zero) = (self.stash, Duration::ZERO);
        let request = Request::Reserve(owner);
        let charge = self.model.charge_for(size);
        let actual = match (how, &owner) {
            (How::Try, None) => stash.try_reserve(size),
            (How::Try, Some(owner)) => stash.try_reserve_for(owner, size),
            (How::TimeoutZero, None) => stash.reserve_timeout(size, zero),
            (How::TimeoutZero, Some(owner)) => stash.reserve_timeout_for(owner, size, zero),
            (How::Future, owner) => {
                self.enqueue(request, charge, |fired| {
                    let reserve = match owner {
                        None => stash.reserve(size),
                        Some(owner) => stash.reserve_for(owner, size),
                    };
                    let reserve = reserve.until(fired);
                    Box::pin(async { Ended::Reserved(reserve.await) })
                });
                return Ok(());
            }
            (How::Owned, owner) => {
                self.enqueue_timed(request, charge, |fired| {
                    let reserve = match owner {
                        None => stash.reserve_owned(size),
                        Some(owner) => stash.reserve_owned_for(owner, size),
                    };
                    let reserve = reserve.timeout(fired);
                    Box::pin(async { Ended::Reserved(reserve.await) })
                });
                return Ok(());
            }
        };
        let expected = self.model.admit(request, charge);
        self.ended(request, charge, expected, Ended::Reserved(actual))
    }

    fn acquire(&mut self, how: How, bytes: u64) -> Result<(), Disagreement> {
        let budget = self.stash.budget();
        let actual = match how {
            How::Try => budget.try_acquire(bytes),
            How::TimeoutZero => budget.acquire_timeout(bytes, Duration::ZERO),
            How::Future => {
                self.enqueue(Request::Permit, bytes, |fired| {
                    let acquire = budget.acquire(bytes).until(fired);
                    Box::pin(async { Ended::Acquired(acquire.await) })
                });
                return Ok(());
            }
            How::Owned => {
                self.enqueue_timed(Request::Permit, bytes, |fired| {
                    let acquire = budget.acquire_owned(bytes).timeout(fired);
                    Box::pin(async { Ended::Acquired(acquire.await) })
                });
                return Ok(());
            }
        };
        let expected = self.model.admit(Request::Permit, bytes);
        self.ended(Request::Permit, bytes, expected, Ended::Acquired(actual))
    }

    fn poll(&mut self, index: Index, new_waker: bool) -> Result<(), Disagreement> {
        let Some(at) = self.model.budget.pick(index) else { return Ok(()) };
        let Some(waiter) = &mut self.waiters[at] else { return Ok(()) };
        let (request, charge) = (self.model.requests[at].0, self.model.budget.waiters[at].need);
        let expected = self.model.poll(at, new_waker);
        match (expected, waiter.poll(&self.log, Who::Waiter(at), new_waker)) {
            (None, Poll::Pending) => Ok(()),
            (Some(expected), Poll::Ready(actual)) => {
                self.waiters[at] = None;
                self.ended(request, charge, expected, actual)
            }
            (expected, actual) => Err(format!("waiter {at}: {expected:?}, not {actual:?}")),
        }
    }

    fn ended(
        &mut self,
        request: Request,
        charge: u64,
        expected: Result<Tier, Numbers>,
        actual: Ended<'a>,
    ) -> Result<(), Disagreement> {
        match (request, expected, actual) {
            (Request::Put(context), Ok(tier), Ended::Put(Ok(ticket))) => {
                self.stored(ticket, context, charge, tier)?;
            }
            (Request::Put(context), Err(numbers), Ended::Put(Err(e))) => {
                agree!(numbers_of(e.details()), numbers);
                agree!(e.into_payload().0, context.serial);
            }
            (_, Ok(tier), Ended::Reserved(Ok(room))) => {
                self.model.reserve(request, charge, tier);
                self.reservations.push(room);
            }
            (_, Ok(_), Ended::Acquired(Ok(permit))) => {
                self.held.push(charge);
                self.permits.push(permit);
            }
            (_, Err(numbers), Ended::Reserved(Err(e)) | Ended::Acquired(Err(e))) => {
                agree!(numbers_of(&e), numbers);
            }
            (_, expected, actual) => return Err(format!("{charge}: {expected:?}, not {actual:?}")),
        }
        Ok(())
    }

    fn stored(
        &mut self,
        ticket: Ticket,
        context: PutContext,
        charge: u64,
        tier: Tier,
    ) -> Result<(), Disagreement> {
        agree!(self.model.has(ticket), false, "issued twice");
        self.model.store(ticket, context, charge, tier);
        self.tickets.push((ticket, context.owner));
        Ok(())
    }

    fn put_reserved(
        &mut self,
        index: Index,
        owner: u8,
        size: u64,
        ttl: Option<u64>,
    ) -> Result<(), Disagreement> {
        let Some(at) = index.of(self.reservations.len()) else { return Ok(()) };
        let room = self.reservations.swap_remove(at);
        let size = size.min(room.bytes() + 1);
        let charge = self.model.charge_of(owner, size);
        let (serial, payload) = self.serial(size);
        let expected = self.model.put_reserved(at, owner, charge);
        match (expected, room.put_with(owner, payload, options(ttl))) {
            (Ok(tier), Ok(ticket)) => {
                self.stored(ticket, PutContext { owner, serial, ttl }, charge, tier)
            }
            (Err(numbers), Err(e)) => {
                agree!(numbers_of(e.details()), numbers);
                let (payload, room) = e.into_parts();
                agree!(payload.0, serial);
                // Where it was.
                self.reservations.push(room);
                let last = self.reservations.len() - 1;
                self.reservations.swap(at, last);
                Ok(())
            }
            (expected, actual) => Err(format!("{charge}: {expected:?}, not {actual:?}")),
        }
    }

    // ---- Out -------------------------------------------------------------------------------------------

    /// Counted from the last that was issued: most of the first are no longer good.
    fn ticket(&self, index: Index, off: u8) -> Option<(Ticket, u8)> {
        let at = index.of(self.tickets.len())?;
        let (ticket, owner) = self.tickets[self.tickets.len() - 1 - at];
        Some((ticket, (owner + off) % OWNERS))
    }

    fn claim(&mut self, index: Index, off: u8) -> Result<(), Disagreement> {
        let Some((ticket, owner)) = self.ticket(index, off) else { return Ok(()) };
        let expected = self.model.claim(ticket, owner);
        let claim = self.stash.claim(&ticket, &owner);
        agree!(claim.is_some(), expected, "claimed");
        if let Some(claim) = claim {
            agree!((claim.0, claim.charge()), self.model.claimed(ticket));
            agree!(claim.ticket(), ticket);
            self.claims.push(claim);
        }
        Ok(())
    }

    fn end_claim(&mut self, index: Index, end: End) -> Result<(), Disagreement> {
        let Some(at) = index.of(self.claims.len()) else { return Ok(()) };
        let at = self.claims.len() - 1 - at;
        let claim = self.claims.swap_remove(at);
        let ticket = claim.ticket();
        match end {
            End::PutBack => agree!(claim.put_back(), self.model.put_back(ticket)),
            End::Drop => {
                drop(claim);
                self.model.put_back(ticket);
            }
            End::DropFinish => {
                drop(claim.on_drop(OnDrop::Finish));
                self.model.finish(ticket);
            }
            End::IntoInner => agree!(claim.into_inner().0, self.model.finish(ticket)),
            End::IntoBytes => self.bytes.push((claim.into_bytes(), ticket)),
            End::PutBackLater => {
                let later = PutOptions::new().ttl(ticks(2 * TTL_TICKS));
                self.model.renew(ticket, 2 * TTL_TICKS);
                agree!(claim.put_back_with(later), self.model.put_back(ticket));
            }
            End::Read => {
                let size = claim.1.size as u64;
                agree!(
                    std::io::copy(&mut claim.into_reader(), &mut std::io::sink()).ok(),
                    Some(size)
                );
                self.model.finish(ticket);
            }
            End::ReadInPart => {
                let most = claim.1.size.saturating_sub(1);
                let mut reader = claim.into_reader();
                agree!(reader.read_exact(&mut vec![0; most]).is_ok(), true);
                drop(reader);
                self.model.put_back(ticket);
            }
        }
        Ok(())
    }

    /// With the last clone the claim is delivered.
    fn drop_bytes(&mut self, at: usize) {
        let (bytes, ticket) = self.bytes.swap_remove(at);
        drop(bytes);
        if !self.bytes.iter().any(|(_, other)| *other == ticket) {
            self.model.finish(ticket);
        }
    }

    // ---- What can be seen ------------------------------------------------------------------------------

    fn compare(&self) -> Result<(), Disagreement> {
        let (stash, model) = (self.stash, &self.model);
        agree!(*self.log.lock().unwrap(), model.budget.woken, "wakers that were woken");
        agree!(stash.used_bytes(), model.budget.used);
        agree!(stash.is_closed(), model.budget.closed);
        agree!(stash.waiting(), model.budget.queue.len());
        agree!((stash.len(), stash.is_empty()), (model.len(), model.len() == 0));
        agree!(self.live.get() as usize, model.payloads(), "payloads alive");
        for owner in 0..OWNERS {
            agree!((owner, stash.owner_used_bytes(&owner)), (owner, model.owner_used(owner)));
        }
        for (room, expected) in self.reservations.iter().zip(&model.reservations) {
            agree!(model.charge_for(room.bytes()).min(expected.charge), expected.charge);
        }
        for (permit, bytes) in self.permits.iter().zip(&self.held) {
            agree!(permit.bytes(), *bytes);
        }
        let mut expected = model.stats();
        if cfg!(cloakroom_lend) {
            // What is lent counts as charged.
            expected.peak_bytes = stash.stats().peak_bytes.max(expected.peak_bytes);
        }
        agree!(stash.stats(), expected);
        Ok(())
    }

    /// Everybody goes, and then nothing is left.
    fn leave(mut self) -> Result<(), Disagreement> {
        self.waiters.clear();
        self.reservations.clear();
        self.permits.clear();
        self.claims.clear();
        self.bytes.clear();
        let Self { stash, live, drains, .. } = &mut self;
        stash.clear();
        agree!((stash.used_bytes(), stash.waiting(), stash.len()), (0, 0, 0));
        agree!(live.get(), 0, "payloads alive");
        agree!((0..OWNERS).map(|owner| stash.owner_used_bytes(&owner)).sum::<u64>(), 0);
        let stats = stash.stats();
        agree!((stats.claims, stats.entries, stats.waiting_bytes), (0, 0, 0));
        agree!(stats.stored, stats.delivered + stats.expired + stats.cleared + stats.unsent);
        agree!(stash.close(), 0);
        for drain in drains.iter_mut().flatten() {
            agree!(
                drain.poll(&WakeLog::default(), Who::Drain(0), false).is_ready(),
                true,
                "drained"
            );
        }
        agree!(stash.drained_timeout(Duration::ZERO), true);
        Ok(())
    }
}

/// Every bit random but those that make it a ticket.
fn forged(bits: u128) -> Ticket {
    let hex = format!("{bits:032x}");
    let text = [
        &hex[..8],
        &hex[8..12],
        &["8", &hex[13..16]].concat(),
        &["a", &hex[17..20]].concat(),
        &hex[20..],
    ]
    .join("-");
    text.parse().unwrap()
}
