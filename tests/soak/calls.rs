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
use crate::support::ledger::{Fate, Ledger, Record, Tracked};
use crate::support::{Count, Hooks, Task, poll};
use crate::{DEPTH, LONG_TTL, OVERFLOW_TTL, OVERHEAD, OWNERS, TTL};

/// An owner whose `Eq` may call the stash or panic.
pub(crate) struct MoodyOwner {
    pub(crate) id: u64,
    /// `None`: behaves.
    pub(crate) soak: Option<Arc<Soak>>,
}

impl Hash for MoodyOwner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialEq for MoodyOwner {
    fn eq(&self, other: &Self) -> bool {
        if let Some(soak) = self.soak.as_ref().or(other.soak.as_ref()) {
            if local(|local| local.moody) {
                soak.meddle();
                if once_in(3) {
                    add(&soak.figures.panics_passed_on);
                    panic_any(OnPurpose);
                }
            }
        }
        self.id == other.id
    }
}

impl Eq for MoodyOwner {}

pub(crate) type SoakStash = Stash<Tracked, MoodyOwner>;
pub(crate) type PutResult = Result<Ticket, PutError<Tracked>>;

#[derive(Clone)]
pub(crate) struct Entry {
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
    pub(crate) context: PutContext,
}

/// What goes with a payload that is not stored yet.
pub(crate) struct PutContext {
    pub(crate) owner: u64,
    pub(crate) record: Arc<Record>,
    pub(crate) charge: u64,
    pub(crate) ttl: Option<Duration>,
    pub(crate) moody: bool,
}

impl PutContext {
    pub(crate) fn options(&self) -> PutOptions {
        self.ttl.map_or(PutOptions::new(), |ttl| PutOptions::new().ttl(ttl))
    }
}

pub(crate) struct Soak {
    /// Taken out at the end, because wakers, payloads and owners hold this struct.
    pub(crate) stash: RwLock<Option<SoakStash>>,
    pub(crate) clock: ManualClock,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) figures: Figures,
    pub(crate) entries: Mutex<Vec<Entry>>,
    /// Denied to their owners, so gone, or about to be.
    pub(crate) gone: Mutex<Vec<Arc<Record>>>,
    /// On their way out: charged until the last clone is dropped, by whatever thread.
    pub(crate) downloads: Mutex<Vec<Bytes>>,
    /// Held while the stash's limit moves: a reader in between would see the old or the new limit.
    pub(crate) moving: Mutex<()>,
    pub(crate) clears_begun: AtomicU64,
    pub(crate) clears_done: AtomicU64,
    pub(crate) stop: AtomicBool,
    /// A failure inside of user code would be contained by the stash.
    pub(crate) violations: Mutex<Vec<String>>,
}

impl Soak {
    pub(crate) fn stash(&self) -> Option<SoakStash> {
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

    pub(crate) fn owner(self: &Arc<Self>, context: &PutContext) -> MoodyOwner {
        MoodyOwner { id: context.owner, soak: context.moody.then(|| Arc::clone(self)) }
    }

    /// A payload that, when the stash drops it, checks that it may, and sometimes misbehaves.
    pub(crate) fn payload(self: &Arc<Self>) -> (Tracked, PutContext) {
        self.payload_of(size())
    }

    pub(crate) fn payload_of(self: &Arc<Self>, size: u64) -> (Tracked, PutContext) {
        let soak = Arc::clone(self);
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
        let payload = self.ledger.tracked(size).on_swept(move || {
            if soak.clock.now() >= alive_until {
                add(&soak.figures.expired);
            } else if soak.clears_begun.load(Ordering::SeqCst) > clears {
                add(&soak.figures.cleared);
            } else {
                soak.violation("swept, but neither expired nor cleared");
            }
            soak.misbehave(bad);
        });
        let (record, charge) = (payload.record(), size + OVERHEAD);
        let context = PutContext { owner: below(OWNERS), record, charge, ttl, moody: once_in(10) };
        (payload, context)
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

    pub(crate) fn put_was(&self, result: PutResult, context: PutContext) {
        let refused = match result {
            Ok(ticket) => {
                add(&self.figures.stored);
                let PutContext { owner, record, charge, ttl, moody } = context;
                record.stored();
                let dead_by = self.clock.now() + ttl.unwrap_or(TTL);
                let entry = Entry { ticket, owner, record, charge, dead_by, moody };
                let copies = if once_in(10) { 2 } else { 1 };
                let mut entries = self.entries.lock().unwrap();
                entries.extend(std::iter::repeat_n(entry, copies));
                return;
            }
            Err(refused) => refused,
        };
        self.refused(refused.details());
        refused.into_payload().returned();
    }

    pub(crate) fn try_put(self: &Arc<Self>, stash: &SoakStash) {
        add(&self.figures.puts);
        let (payload, context) = self.payload();
        let result = stash.try_put_with(self.owner(&context), payload, context.options());
        self.put_was(result, context);
    }

    pub(crate) fn put_timeout(self: &Arc<Self>, stash: &SoakStash, patience: Duration) {
        add(&self.figures.puts);
        let (payload, context) = self.payload();
        let (owner, options) = (self.owner(&context), context.options());
        self.put_was(stash.put_timeout_with(owner, payload, patience, options), context);
    }

    /// A waker that may panic or call back when it is woken, cloned or dropped.
    pub(crate) fn waker(self: &Arc<Self>) -> (Arc<Count>, Waker) {
        let mut hooks = Hooks::new();
        if once_in(4) {
            let (soak, how) = (Arc::clone(self), below(12));
            hooks = hooks.on_wake(move || soak.misbehave(how));
        }
        if once_in(8) {
            let (soak, panics) = (Arc::clone(self), once_in(8));
            hooks = hooks.on_clone(move || soak.misbehave_myself(panics));
        }
        if once_in(8) {
            let soak = Arc::clone(self);
            // One that panics after a grant would be dropped with the lost result of the poll.
            hooks = hooks.on_drop(move || soak.misbehave_myself(false));
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
    pub(crate) fn put_by_hand(self: &Arc<Self>, stash: &SoakStash, keep: impl FnOnce(Waiting)) {
        add(&self.figures.puts);
        let (payload, context) = self.payload();
        let (stash, owner, options) = (stash.clone(), self.owner(&context), context.options());
        let mut put: Task<PutResult> =
            Box::pin(async move { stash.put_with(owner, payload, options).await });
        let (count, waker) = self.waker();
        // It is in an `async` block, which is over when a poll of it has panicked.
        match self.guarded(|| poll(&mut put, &waker)) {
            Some(Poll::Ready(result)) => self.put_was(result, context),
            Some(Poll::Pending) => {
                add(&self.figures.waited);
                keep(Waiting { put, count, context });
            }
            // The payload went with the future that unwound.
            None => drop(put),
        }
    }

    pub(crate) fn drop_put(&self, Waiting { put, context, .. }: Waiting) {
        add(&self.figures.futures_dropped);
        context.record.cancel();
        self.guarded(|| drop(put));
    }

    /// Polls the puts that were woken, and sometimes others, with a new waker.
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
                    self.put_was(result, waiting.context);
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

    pub(crate) fn take_one(self: &Arc<Self>, stash: &SoakStash) {
        let entry = local(|local| local.rng.draw(&mut self.entries.lock().unwrap()));
        if let Some(entry) = entry {
            self.take(stash, entry);
        }
    }

    pub(crate) fn take(self: &Arc<Self>, stash: &SoakStash, entry: Entry) {
        add(&self.figures.takes);
        if once_in(4) {
            let wrong = MoodyOwner { id: entry.owner + 1, soak: None };
            if stash.take(&entry.ticket, &wrong).is_some() {
                self.violation("delivered to another");
            }
            add(&self.figures.wrong_owner);
        }
        let now = self.clock.now();
        let owner = MoodyOwner { id: entry.owner, soak: None };
        let moody = entry.moody && once_in(2);
        local(|local| local.moody = moody);
        let taken = self.guarded(|| stash.take(&entry.ticket, &owner));
        local(|local| local.moody = false);
        match taken {
            Some(Some(payload)) => {
                if now >= entry.dead_by {
                    self.violation("delivered after it had expired");
                }
                add(&self.figures.delivered);
                payload.delivered();
            }
            Some(None) => self.denied(entry),
            None => self.entries.lock().unwrap().push(entry),
        }
    }

    pub(crate) fn denied(&self, entry: Entry) {
        if entry.moody && entry.record.fate() == Fate::Alive {
            // Another take may have been comparing the owner. The entry is still there, or the next take
            // finds it gone.
            self.entries.lock().unwrap().push(entry);
            return;
        }
        let mut gone = self.gone.lock().unwrap();
        if gone.len() > 1_000 {
            gone.retain(|record| record.fate() == Fate::Alive);
        }
        gone.push(entry.record);
    }

    pub(crate) fn clear(&self, stash: &SoakStash) {
        add(&self.figures.clears);
        self.clears_begun.fetch_add(1, Ordering::SeqCst);
        stash.clear();
        self.clears_done.fetch_add(1, Ordering::SeqCst);
    }
}
