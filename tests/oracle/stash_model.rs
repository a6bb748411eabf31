//! The model of the stash: entries in a `Vec`, and what an owner holds is the sum of what is the owner's.

use cloakroom::{Refusal, Refused, Stats, Ticket};

use super::LIMIT;
use super::queue::{ModelBudget, Numbers, State, Tier};
use super::steps::{OVERFLOW_TTL_TICKS, Settings, TTL_TICKS, ticks};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Live,
    Claimed,
    /// Everything was cleared while it was claimed.
    Doomed,
}

struct ModelEntry {
    ticket: Ticket,
    owner: u8,
    serial: usize,
    charge: u64,
    deadline: u64,
    phase: Phase,
    tier: Tier,
}

/// What is on its way into an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct PutContext {
    pub(super) owner: u8,
    pub(super) serial: usize,
    pub(super) ttl: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    Put(PutContext),
    /// For an owner, if for one.
    Reserve(Option<u8>),
    /// The budget's, past the stash.
    Permit,
}

impl Request {
    /// Whose account it is charged to.
    fn account(self) -> Option<u8> {
        match self {
            Request::Put(context) => Some(context.owner),
            Request::Reserve(owner) => owner,
            Request::Permit => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ModelReservation {
    pub(super) charge: u64,
    tier: Tier,
    account: Option<u8>,
}

pub(super) struct ModelStash {
    pub(super) budget: ModelBudget,
    settings: Settings,
    pub(super) now: u64,
    entries: Vec<ModelEntry>,
    pub(super) reservations: Vec<ModelReservation>,
    /// What each of the budget's waiters asks for, and when it joined the queue.
    pub(super) requests: Vec<(Request, u64)>,
    /// Only the totals of it.
    totals: Stats,
}

/// The time to live that an entry gets.
fn capped(ttl: u64, tier: Tier) -> u64 {
    if tier == Tier::Overflow { ttl.min(OVERFLOW_TTL_TICKS) } else { ttl }
}

impl ModelStash {
    pub(super) fn new(settings: Settings) -> Self {
        let overflow = settings.overflow.unwrap_or(0);
        let mut budget = ModelBudget::new(LIMIT + overflow);
        budget.overflow = overflow;
        budget.max_waiting = settings.max_waiting.map_or(usize::MAX, |n| n as usize);
        budget.max_waiting_bytes = settings.max_waiting_bytes.unwrap_or(u64::MAX);
        Self {
            budget,
            settings,
            now: 0,
            entries: Vec::new(),
            reservations: Vec::new(),
            requests: Vec::new(),
            totals: Stats::default(),
        }
    }

    pub(super) fn charge_for(&self, size: u64) -> u64 {
        (size + self.settings.overhead).max(1)
    }

    pub(super) fn charge_of(&self, owner: u8, size: u64) -> u64 {
        let weight = if self.settings.weighs_owners { u64::from(owner) } else { 0 };
        self.charge_for(size + weight)
    }

    /// Removes the live entries that are chosen, and then gives their bytes back all at once.
    fn remove(&mut self, choose: impl Fn(&ModelEntry) -> bool) -> usize {
        let chosen = |entry: &ModelEntry| entry.phase == Phase::Live && choose(entry);
        let (gone, kept) = self.entries.drain(..).partition(chosen);
        self.entries = kept;
        let gone: Vec<ModelEntry> = gone;
        self.budget.release(gone.iter().map(|entry| entry.charge).sum());
        gone.len()
    }

    pub(super) fn gc(&mut self) -> usize {
        let now = self.now;
        let gone = self.remove(|entry| entry.deadline <= now);
        self.totals.expired += gone as u64;
        gone
    }

    pub(super) fn clear(&mut self) -> usize {
        let claimed = self.entries.iter_mut().filter(|entry| entry.phase == Phase::Claimed);
        claimed.for_each(|entry| entry.phase = Phase::Doomed);
        let gone = self.remove(|_| true);
        self.totals.cleared += gone as u64;
        gone
    }

    // ---- In --------------------------------------------------------------------------------------------

    pub(super) fn owner_used(&self, owner: u8) -> u64 {
        if self.settings.per_owner.is_none() {
            return 0;
        }
        let entries = self.entries.iter().filter(|entry| entry.owner == owner);
        let reservations = self.reservations.iter().filter(|room| room.account == Some(owner));
        let queue = self.budget.waiters.iter().zip(&self.requests).filter(|(waiter, request)| {
            request.0.account() == Some(owner)
                && matches!(waiter.state, State::InLine | State::Ended(_))
        });
        entries.map(|entry| entry.charge).sum::<u64>()
            + reservations.map(|room| room.charge).sum::<u64>()
            + queue.map(|(waiter, _)| waiter.need).sum::<u64>()
    }

    /// Whether the account has room for so much; what has expired is no reason to refuse. `good_for_all`:
    /// whether the budget would refuse it in any case is another's business.
    fn account_admits(
        &mut self,
        account: Option<u8>,
        charge: u64,
        good_for_all: bool,
    ) -> Result<(), Numbers> {
        let (Some(owner), Some(limit)) = (account, self.settings.per_owner) else { return Ok(()) };
        loop {
            let used = self.owner_used(owner);
            if used + charge <= limit {
                return Ok(());
            }
            match self.budget.admits(charge) {
                Err(never @ (Refusal::Closed | Refusal::TooLarge)) if !good_for_all => {
                    return Err(self.budget.numbers(never, charge));
                }
                _ => {}
            }
            if self.gc() == 0 {
                let waiting = self.budget.queue.len();
                return Err((Refusal::OwnerFull, charge, used, limit, waiting));
            }
        }
    }

    fn make_room(&mut self, charge: u64) {
        while self.budget.admits(charge) == Err(Refusal::Full) && self.gc() > 0 {}
    }

    fn refuse(&mut self, numbers: Numbers) -> Numbers {
        let Refused {
            full, too_large, timed_out, cancelled, closed, owner_full, queue_full, ..
        } = &mut self.totals.refused;
        *match numbers.0 {
            Refusal::Full => full,
            Refusal::TooLarge => too_large,
            Refusal::TimedOut => timed_out,
            Refusal::Cancelled => cancelled,
            Refusal::Closed => closed,
            Refusal::OwnerFull => owner_full,
            Refusal::QueueFull => queue_full,
            other => unreachable!("{other}"),
        } += 1;
        numbers
    }

    /// Without waiting.
    pub(super) fn admit(&mut self, request: Request, charge: u64) -> Result<Tier, Numbers> {
        if let Request::Permit = request {
            // Not counted as refused by the stash, but expired entries refuse it as little.
            self.make_room(charge);
            let decided = self.budget.try_charge(charge);
            return decided.map_err(|reason| self.budget.numbers(reason, charge));
        }
        let admitted = self.account_admits(request.account(), charge, false).and_then(|()| {
            self.make_room(charge);
            let decided = self.budget.try_charge(charge);
            decided.map_err(|reason| self.budget.numbers(reason, charge))
        });
        admitted.map_err(|numbers| self.refuse(numbers))
    }

    pub(super) fn new_request(&mut self, request: Request, charge: u64) {
        self.budget.new_waiter(charge);
        self.requests.push((request, 0));
    }

    /// As the budget's `poll`.
    pub(super) fn poll(&mut self, at: usize, new_waker: bool) -> Option<Result<Tier, Numbers>> {
        let ((request, _), charge) = (self.requests[at], self.budget.waiters[at].need);
        let of_stash = !matches!(request, Request::Permit);
        let fresh = self.budget.waiters[at].state == State::Fresh;
        if fresh {
            self.requests[at].1 = self.now;
            if let Err(numbers) = self.account_admits(request.account(), charge, false) {
                self.budget.waiters[at].state = State::Gone;
                return Some(Err(self.refuse(numbers)));
            }
            self.make_room(charge);
        }
        // Expired entries are no reason to give up.
        while self.budget.gives_up(at) && self.gc() > 0 {}
        let decided = self.budget.poll(at, new_waker)?;
        self.totals.waited += u64::from(of_stash && !fresh && decided.is_ok());
        Some(decided.map_err(|reason| {
            let numbers = self.budget.numbers(reason, charge);
            if of_stash { self.refuse(numbers) } else { numbers }
        }))
    }

    pub(super) fn store(&mut self, ticket: Ticket, context: PutContext, charge: u64, tier: Tier) {
        let PutContext { owner, serial, ttl } = context;
        let ttl = capped(ttl.unwrap_or(TTL_TICKS), tier);
        let (deadline, phase) = (self.now + ttl, Phase::Live);
        self.entries.push(ModelEntry { ticket, owner, serial, charge, deadline, phase, tier });
        self.totals.stored += 1;
    }

    pub(super) fn reserve(&mut self, request: Request, charge: u64, tier: Tier) {
        self.reservations.push(ModelReservation { charge, tier, account: request.account() });
    }

    pub(super) fn shrink(&mut self, at: usize, charge: u64) {
        let room = &mut self.reservations[at];
        let excess = room.charge.saturating_sub(charge);
        room.charge -= excess;
        self.budget.release(excess);
    }

    pub(super) fn drop_reservation(&mut self, at: usize) {
        let room = self.reservations.swap_remove(at);
        self.budget.release(room.charge);
    }

    /// A put into what is reserved. If it goes well the reservation becomes the entry, and the caller stores
    /// it.
    pub(super) fn put_reserved(
        &mut self,
        at: usize,
        owner: u8,
        charge: u64,
    ) -> Result<Tier, Numbers> {
        let room = self.reservations[at];
        let fits = if charge > room.charge {
            let (reason, requested, _, _, waiting) = self.budget.numbers(Refusal::TooLarge, charge);
            Err((reason, requested, 0, room.charge, waiting))
        } else if room.account == Some(owner) {
            Ok(())
        } else {
            // It has room already, whatever the budget says now.
            self.account_admits(Some(owner), charge, true)
        };
        fits.map_err(|numbers| self.refuse(numbers))?;
        self.shrink(at, charge);
        self.reservations.swap_remove(at);
        Ok(room.tier)
    }

    // ---- Out -------------------------------------------------------------------------------------------

    fn find(&self, ticket: Ticket) -> Option<usize> {
        self.entries.iter().position(|entry| entry.ticket == ticket)
    }

    pub(super) fn has(&self, ticket: Ticket) -> bool {
        self.find(ticket).is_some()
    }

    /// Serial number and charge of the claimed payload.
    pub(super) fn claimed(&self, ticket: Ticket) -> (usize, u64) {
        let entry = &self.entries[self.find(ticket).expect("claimed")];
        (entry.serial, entry.charge)
    }

    fn end(&mut self, at: usize) -> usize {
        let entry = self.entries.remove(at);
        self.budget.release(entry.charge);
        entry.serial
    }

    /// Where the entry is, if the ticket is good. It goes if its time is up.
    fn find_for(&mut self, ticket: Ticket, owner: u8) -> Option<usize> {
        let at = self.find(ticket)?;
        let entry = &self.entries[at];
        if entry.owner != owner || entry.phase != Phase::Live {
            None
        } else if entry.deadline <= self.now {
            self.totals.expired += 1;
            self.end(at);
            None
        } else {
            Some(at)
        }
    }

    /// The serial number of the delivered payload, if one is delivered.
    pub(super) fn take(&mut self, ticket: Ticket, owner: u8) -> Option<usize> {
        let at = self.find_for(ticket, owner)?;
        self.totals.delivered += 1;
        Some(self.end(at))
    }

    pub(super) fn claim(&mut self, ticket: Ticket, owner: u8) -> bool {
        let Some(at) = self.find_for(ticket, owner) else { return false };
        self.entries[at].phase = Phase::Claimed;
        self.totals.claimed += 1;
        true
    }

    /// Whether the claimed entry has another time to live now.
    pub(super) fn renew(&mut self, ticket: Ticket, ttl: u64) -> bool {
        let at = self.find(ticket).expect("claimed");
        let entry = &mut self.entries[at];
        if entry.deadline <= self.now {
            return false;
        }
        entry.deadline = self.now + capped(ttl, entry.tier);
        true
    }

    /// The entry goes, its time up or not, unless it is claimed.
    pub(super) fn drop_unsent(&mut self, ticket: Ticket, owner: u8) {
        let Some(at) = self.find(ticket) else { return };
        if self.entries[at].owner == owner && self.entries[at].phase == Phase::Live {
            self.totals.unsent += 1;
            self.end(at);
        }
    }

    /// Whether it is there again.
    pub(super) fn put_back(&mut self, ticket: Ticket) -> bool {
        let at = self.find(ticket).expect("claimed");
        let entry = &mut self.entries[at];
        if entry.deadline <= self.now {
            self.totals.expired += 1;
        } else if entry.phase == Phase::Doomed {
            self.totals.cleared += 1;
        } else {
            entry.phase = Phase::Live;
            self.totals.put_back += 1;
            return true;
        }
        self.end(at);
        false
    }

    /// The claim is delivered.
    pub(super) fn finish(&mut self, ticket: Ticket) -> usize {
        self.totals.delivered += 1;
        self.end(self.find(ticket).expect("claimed"))
    }

    // ---- What can be seen ------------------------------------------------------------------------------

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Payloads that are alive: of entries and of puts that are not over.
    pub(super) fn payloads(&self) -> usize {
        let under_way = self.requests.iter().enumerate().filter(|(at, (request, _))| {
            matches!(request, Request::Put(_)) && !self.budget.is_gone(*at)
        });
        self.entries.len() + under_way.count()
    }

    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.totals;
        let queue = &self.budget;
        stats.used_bytes = queue.used;
        stats.peak_bytes = queue.peak;
        stats.max_bytes = queue.limit - queue.overflow;
        stats.overflow_bytes = queue.overflow;
        stats.abandoned = queue.abandoned;
        stats.entries = self.entries.len() as u64;
        stats.claims =
            self.entries.iter().filter(|entry| entry.phase != Phase::Live).count() as u64;
        stats.waiting = queue.queue.len();
        stats.waiting_bytes = queue.waiting_bytes();
        stats.head_bytes = queue.queue.front().map(|&head| queue.waiters[head].need);
        stats.oldest_wait = queue.queue.front().and_then(|&head| match self.requests[head] {
            (Request::Permit, _) => None,
            (_, since) => Some(ticks(self.now - since)),
        });
        stats
    }
}
