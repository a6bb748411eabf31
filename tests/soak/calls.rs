//! The stash under test, the user code that misbehaves, and the calls that everything else is made of.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Clock, ManualClock, PutError, PutOptions, Stash, Ticket};

use crate::figures::{Figures, add};
use crate::random::{OnPurpose, below, local, once_in, size};
use crate::support::ledger::{Fate, Ledger, Parcel, Record};
use crate::support::{Count, Hooks, Task, poll};
use crate::{DEPTH, LONG_TTL, OVERFLOW_TTL, OVERHEAD, OWNERS, TTL};

/// An owner whose `Eq` may call the stash or panic.
pub(crate) struct Guest {
    pub(crate) id: u64,
    /// `None`: behaves.
    pub(crate) hall: Option<Arc<Hall>>,
}

impl Hash for Guest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialEq for Guest {
    fn eq(&self, other: &Self) -> bool {
        if let Some(hall) = self.hall.as_ref().or(other.hall.as_ref()) {
            if local(|local| local.moody) {
                hall.meddle();
                if once_in(3) {
                    add(&hall.figures.panics_passed_on);
                    panic_any(OnPurpose);
                }
            }
        }
        self.id == other.id
    }
}

impl Eq for Guest {}

pub(crate) type Cloakroom = Stash<Parcel, Guest>;
pub(crate) type PutResult = Result<Ticket, PutError<Parcel>>;

#[derive(Clone)]
pub(crate) struct Check {
    pub(crate) ticket: Ticket,
    pub(crate) owner: u64,
    pub(crate) record: Arc<Record>,
    /// What it is charged.
    pub(crate) charge: u64,
    /// The entry has expired at this time, if not before.
    pub(crate) dead_by: Duration,
    /// Its owner may hold it up while it is compared: then others find nothing.
    pub(crate) moody: bool,
}

/// A put that is under way.
pub(crate) struct Waiting {
    pub(crate) put: Task<PutResult>,
    pub(crate) count: Arc<Count>,
    pub(crate) luggage: Luggage,
}

/// What goes with a payload that is not stored yet.
pub(crate) struct Luggage {
    pub(crate) owner: u64,
    pub(crate) record: Arc<Record>,
    pub(crate) charge: u64,
    pub(crate) ttl: Option<Duration>,
    pub(crate) moody: bool,
}

impl Luggage {
    pub(crate) fn options(&self) -> PutOptions {
        self.ttl.map_or(PutOptions::new(), |ttl| PutOptions::new().ttl(ttl))
    }
}

pub(crate) struct Hall {
    /// Taken out at the end: wakers, payloads and owners have the hall.
    pub(crate) stash: RwLock<Option<Cloakroom>>,
    pub(crate) clock: ManualClock,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) figures: Figures,
    pub(crate) checks: Mutex<Vec<Check>>,
    /// Denied to their owners, so gone, or about to be.
    pub(crate) gone: Mutex<Vec<Arc<Record>>>,
    /// On their way out: charged until the last clone is dropped, by whatever thread.
    pub(crate) downloads: Mutex<Vec<Bytes>>,
    /// Held while the stash's limit moves: who looks meanwhile sees the old and the new.
    pub(crate) moving: Mutex<()>,
    pub(crate) clears_begun: AtomicU64,
    pub(crate) clears_done: AtomicU64,
    pub(crate) stop: AtomicBool,
    /// A failure inside of user code would be contained by the stash.
    pub(crate) violations: Mutex<Vec<String>>,
}

impl Hall {
    pub(crate) fn stash(&self) -> Option<Cloakroom> {
        self.stash.read().unwrap().clone()
    }

    pub(crate) fn running(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    pub(crate) fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("violation: {what}");
        self.violations.lock().unwrap().push(what);
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(crate) fn owner(self: &Arc<Self>, luggage: &Luggage) -> Guest {
        Guest { id: luggage.owner, hall: luggage.moody.then(|| Arc::clone(self)) }
    }

    /// A payload that, when the stash drops it, checks that it may, and sometimes misbehaves.
    pub(crate) fn parcel(self: &Arc<Self>) -> (Parcel, Luggage) {
        self.parcel_of(size())
    }

    pub(crate) fn parcel_of(self: &Arc<Self>, size: u64) -> (Parcel, Luggage) {
        let hall = Arc::clone(self);
        let ttl = match below(16) {
            0 => Some(Duration::ZERO),
            1 | 2 => Some(Duration::from_micros(below(10_000))),
            3 => Some(LONG_TTL),
            _ => None,
        };
        // It may come into the overflow.
        let alive_until = self.clock.now() + ttl.unwrap_or(TTL).min(OVERFLOW_TTL);
        let clears = self.clears_done.load(Ordering::SeqCst);
        let bad = below(200);
        let parcel = self.ledger.parcel(size).on_swept(move || {
            if hall.clock.now() >= alive_until {
                add(&hall.figures.expired);
            } else if hall.clears_begun.load(Ordering::SeqCst) > clears {
                add(&hall.figures.cleared);
            } else {
                hall.violation("swept, but neither expired nor cleared");
            }
            hall.misbehave(bad);
        });
        let (record, charge) = (parcel.record(), size + OVERHEAD);
        let luggage = Luggage { owner: below(OWNERS), record, charge, ttl, moody: once_in(10) };
        (parcel, luggage)
    }

    /// In user code that the stash runs and whose panics it contains.
    pub(crate) fn misbehave(self: &Arc<Self>, how: u64) {
        if how < 8 {
            self.meddle();
        }
        if how < 2 && !thread::panicking() {
            add(&self.figures.panics_contained);
            panic_any(OnPurpose);
        }
    }

    /// A call from inside of user code.
    pub(crate) fn meddle(self: &Arc<Self>) {
        // What a panic drops while it unwinds is counted as cancelled: no sweeps then.
        if thread::panicking() {
            return;
        }
        let Some(stash) = self.stash() else { return };
        let moody = local(|local| {
            local.depth += 1;
            std::mem::replace(&mut local.moody, false)
        });
        if local(|local| local.depth) <= DEPTH {
            add(&self.figures.reentrant_calls);
            match below(12) {
                0 | 1 => drop(stash.gc()),
                2 => self.try_put(&stash),
                3 | 4 => self.take_one(&stash),
                5 => {
                    let mut waiting = None;
                    self.put_by_hand(&stash, |new| waiting = Some(new));
                    if let Some(waiting) = waiting {
                        self.drop_put(waiting);
                    }
                }
                6 => drop(format!("{stash:?}")),
                7 if once_in(200) => self.clear(&stash),
                8 => self.claim_for_a_moment(&stash),
                9 => drop(stash.try_reserve(size()).map_err(|refused| self.refused(&refused))),
                10 => self.check_stats(&stash.stats()),
                _ => self.clock.advance(Duration::from_micros(below(100))),
            }
        }
        local(|local| {
            local.depth -= 1;
            local.moody = moody;
        });
    }

    /// Runs what may panic in this caller's own user code, as its documentation says.
    pub(crate) fn guarded<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(result) => Some(result),
            Err(panic) if panic.is::<OnPurpose>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }

    pub(crate) fn put_was(&self, result: PutResult, luggage: Luggage) {
        let refused = match result {
            Ok(ticket) => {
                add(&self.figures.stored);
                let Luggage { owner, record, charge, ttl, moody } = luggage;
                record.stored();
                let dead_by = self.clock.now() + ttl.unwrap_or(TTL);
                let check = Check { ticket, owner, record, charge, dead_by, moody };
                let copies = if once_in(10) { 2 } else { 1 };
                let mut checks = self.checks.lock().unwrap();
                checks.extend(std::iter::repeat_n(check, copies));
                return;
            }
            Err(refused) => refused,
        };
        self.refused(refused.details());
        refused.into_payload().returned();
    }

    pub(crate) fn try_put(self: &Arc<Self>, stash: &Cloakroom) {
        add(&self.figures.puts);
        let (parcel, luggage) = self.parcel();
        let result = stash.try_put_with(self.owner(&luggage), parcel, luggage.options());
        self.put_was(result, luggage);
    }

    pub(crate) fn put_timeout(self: &Arc<Self>, stash: &Cloakroom, patience: Duration) {
        add(&self.figures.puts);
        let (parcel, luggage) = self.parcel();
        let (owner, options) = (self.owner(&luggage), luggage.options());
        self.put_was(stash.put_timeout_with(owner, parcel, patience, options), luggage);
    }

    /// A waker that may panic or call back when it is woken, cloned or dropped.
    pub(crate) fn waker(self: &Arc<Self>) -> (Arc<Count>, Waker) {
        let mut hooks = Hooks::new();
        if once_in(4) {
            let (hall, how) = (Arc::clone(self), below(12));
            hooks = hooks.on_wake(move || hall.misbehave(how));
        }
        if once_in(8) {
            let (hall, panics) = (Arc::clone(self), once_in(8));
            hooks = hooks.on_clone(move || hall.misbehave_myself(panics));
        }
        if once_in(8) {
            let hall = Arc::clone(self);
            // One that panics after a grant would be dropped with the lost result of the poll.
            hooks = hooks.on_drop(move || hall.misbehave_myself(false));
        }
        hooks.waker()
    }

    /// In the caller's own user code, whose panics reach the caller.
    pub(crate) fn misbehave_myself(self: &Arc<Self>, panics: bool) {
        self.meddle();
        if panics && !thread::panicking() {
            add(&self.figures.panics_passed_on);
            panic_any(OnPurpose);
        }
    }

    /// First poll of a put; `keep` gets it if it has to wait.
    pub(crate) fn put_by_hand(self: &Arc<Self>, stash: &Cloakroom, keep: impl FnOnce(Waiting)) {
        add(&self.figures.puts);
        let (parcel, luggage) = self.parcel();
        let (stash, owner, options) = (stash.clone(), self.owner(&luggage), luggage.options());
        let mut put: Task<PutResult> =
            Box::pin(async move { stash.put_with(owner, parcel, options).await });
        let (count, waker) = self.waker();
        // It is in an `async` block, which is over when a poll of it has panicked.
        match self.guarded(|| poll(&mut put, &waker)) {
            Some(Poll::Ready(result)) => self.put_was(result, luggage),
            Some(Poll::Pending) => {
                add(&self.figures.waited);
                keep(Waiting { put, count, luggage });
            }
            // The payload went with the future that unwound.
            None => drop(put),
        }
    }

    pub(crate) fn drop_put(&self, Waiting { put, luggage, .. }: Waiting) {
        add(&self.figures.futures_dropped);
        luggage.record.cancel();
        self.guarded(|| drop(put));
    }

    /// Polls who was woken, and sometimes others, with another waker.
    pub(crate) fn poll_some(self: &Arc<Self>, list: &mut Vec<Waiting>) {
        for mut waiting in std::mem::take(list) {
            let woken = waiting.count.get();
            if woken > 1 {
                self.violation(format!("woken {woken} times"));
            }
            if woken == 0 && !once_in(8) {
                list.push(waiting);
                continue;
            }
            let (count, waker) = self.waker();
            match self.guarded(|| poll(&mut waiting.put, &waker)) {
                Some(Poll::Ready(result)) => {
                    if result.is_ok() {
                        add(&self.figures.waits_granted);
                    }
                    self.put_was(result, waiting.luggage);
                }
                Some(Poll::Pending) => {
                    if woken > 0 {
                        self.violation("woken, but it still waits");
                    }
                    waiting.count = count;
                    list.push(waiting);
                }
                None => drop(waiting.put),
            }
        }
    }

    pub(crate) fn take_one(self: &Arc<Self>, stash: &Cloakroom) {
        let check = local(|local| local.dice.draw(&mut self.checks.lock().unwrap()));
        if let Some(check) = check {
            self.take(stash, check);
        }
    }

    pub(crate) fn take(self: &Arc<Self>, stash: &Cloakroom, check: Check) {
        add(&self.figures.takes);
        if once_in(4) {
            let wrong = Guest { id: check.owner + 1, hall: None };
            if stash.take(&check.ticket, &wrong).is_some() {
                self.violation("delivered to another");
            }
            add(&self.figures.wrong_owner);
        }
        let now = self.clock.now();
        let owner = Guest { id: check.owner, hall: None };
        let moody = check.moody && once_in(2);
        local(|local| local.moody = moody);
        let taken = self.guarded(|| stash.take(&check.ticket, &owner));
        local(|local| local.moody = false);
        match taken {
            Some(Some(parcel)) => {
                if now >= check.dead_by {
                    self.violation("delivered after it had expired");
                }
                add(&self.figures.delivered);
                parcel.delivered();
            }
            Some(None) => self.denied(check),
            None => self.checks.lock().unwrap().push(check),
        }
    }

    pub(crate) fn denied(&self, check: Check) {
        if check.moody && check.record.fate() == Fate::Alive {
            // Perhaps another was comparing the owner. It is still to be had, or gone by then.
            self.checks.lock().unwrap().push(check);
            return;
        }
        let mut gone = self.gone.lock().unwrap();
        if gone.len() > 1_000 {
            gone.retain(|record| record.fate() == Fate::Alive);
        }
        gone.push(check.record);
    }

    pub(crate) fn clear(&self, stash: &Cloakroom) {
        add(&self.figures.clears);
        self.clears_begun.fetch_add(1, Ordering::SeqCst);
        stash.clear();
        self.clears_done.fetch_add(1, Ordering::SeqCst);
    }
}
