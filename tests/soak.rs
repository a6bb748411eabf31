//! Everything at once, for minutes: threads and tasks over one stash and one budget, with cancels,
//! timeouts, wakers that panic or call back, payloads and owners that do, a clock that jumps, clears,
//! reservations, claims that are put back or delivered elsewhere and late, limits of all kinds that are hit
//! or moved, an observer that calls back.
//!
//!     SOAK_MINUTES=10 SOAK_SEED=7 cargo test --release --test soak -- --ignored --nocapture
//!
//! The seed repeats what the threads choose, not how they interleave. What is asserted holds whatever the
//! schedule was: the limit at every sample; at the end nothing is used, nobody waits, and every payload
//! went exactly one way. What was swept had expired or met a clear, and what had expired was not
//! delivered. A blocked thread that has all the patience in the world must come back, too.
#![cfg(not(any(loom, shuttle)))]

#[path = "soak/features.rs"]
mod features;
mod support;

use std::cell::RefCell;
use std::env;
use std::fmt::Debug;
use std::future::{Future, ready};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::pin::pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloakroom::{
    Budget, Clock, ManualClock, Permit, PutError, PutOptions, Refusal, Stash, Stats, Ticket,
};
use futures_lite::future::{or, yield_now};

use self::features::Diary;
use self::support::ledger::{Dice, Fate, Ledger, Parcel, Record};
use self::support::{Count, Hooks, Task, acquire_task, poll};

const LIMIT: u64 = 10_000;
const OVERHEAD: u64 = 8;
const TTL: Duration = Duration::from_millis(50);
/// Of an entry that asks for more than is usual.
const LONG_TTL: Duration = Duration::from_millis(100);
const OVERFLOW: u64 = 2_000;
const OVERFLOW_TTL: Duration = Duration::from_millis(20);
const PER_OWNER: u64 = LIMIT;
const MAX_WAITING: usize = 40;
const MAX_WAITING_BYTES: u64 = 4 * LIMIT;
/// The lowest that the stash's limit is moved to.
const LOWEST: u64 = LIMIT / 2;
const OWNERS: u64 = 5;
/// How deep user code that calls the stash may be in user code that the stash called.
const DEPTH: u32 = 3;
const FOREVER: Duration = Duration::from_secs(1_000_000);

// ---- Chance, and panics on purpose -----------------------------------------------------------------

struct OnPurpose;

struct Local {
    dice: Dice,
    depth: u32,
    /// Whether an owner that is compared may misbehave.
    moody: bool,
}

static SEED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local {
        dice: Dice::new(SEED.fetch_add(1 << 32, Ordering::Relaxed)),
        depth: 0,
        moody: false,
    });
}

fn local<R>(f: impl FnOnce(&mut Local) -> R) -> R {
    LOCAL.with_borrow_mut(f)
}

fn below(n: u64) -> u64 {
    local(|local| local.dice.below(n))
}

fn once_in(n: u64) -> bool {
    below(n) == 0
}

/// Zero, small, near the limit, too much.
fn size() -> u64 {
    match below(40) {
        0..4 => 0,
        4 => LIMIT + 1 + below(9),
        5..7 => LIMIT - OVERHEAD - below(2),
        7..12 => LIMIT / 4 + below(LIMIT / 2),
        _ => below(LIMIT / 10),
    }
}

fn silence_panics_on_purpose() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<OnPurpose>() {
            usual(info);
        }
    }));
}

// ---- Figures ---------------------------------------------------------------------------------------

macro_rules! figures {
    ($($name:ident),* $(,)?) => {
        #[derive(Default)]
        struct Figures { $($name: AtomicU64),* }

        impl Figures {
            fn print(&self, seconds: f64) {
                $(
                    let n = self.$name.load(Ordering::Relaxed);
                    println!("{:>20} {n:>12} {:>10.0}/s", stringify!($name), n as f64 / seconds);
                )*
            }
        }
    };
}

figures!(
    operations,
    puts,
    stored,
    takes,
    delivered,
    wrong_owner,
    waited,
    waits_granted,
    full,
    too_large,
    owner_full,
    line_full,
    refused,
    timed_out,
    cancelled_by_until,
    futures_dropped,
    tasks_aborted,
    expired,
    cleared,
    clears,
    reentrant_calls,
    panics_contained,
    panics_passed_on,
    claims,
    claims_put_back,
    claims_finished,
    downloads,
    reserved,
    reserved_and_put,
    reserved_too_little,
    samples,
    budget_acquired,
    budget_refused,
    limit_changes,
);

fn add(figure: &AtomicU64) {
    figure.fetch_add(1, Ordering::Relaxed);
}

// ---- The hall --------------------------------------------------------------------------------------

/// An owner whose `Eq` may call the stash or panic.
struct Guest {
    id: u64,
    /// `None`: behaves.
    hall: Option<Arc<Hall>>,
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

type Cloakroom = Stash<Parcel, Guest>;
type PutResult = Result<Ticket, PutError<Parcel>>;

#[derive(Clone)]
struct Check {
    ticket: Ticket,
    owner: u64,
    record: Arc<Record>,
    /// What it is charged.
    charge: u64,
    /// The entry has expired at this time, if not before.
    dead_by: Duration,
    /// Its owner may hold it up while it is compared: then others find nothing.
    moody: bool,
}

/// A put that is under way.
struct Waiting {
    put: Task<PutResult>,
    count: Arc<Count>,
    luggage: Luggage,
}

/// What goes with a payload that is not stored yet.
struct Luggage {
    owner: u64,
    record: Arc<Record>,
    charge: u64,
    ttl: Option<Duration>,
    moody: bool,
}

impl Luggage {
    fn options(&self) -> PutOptions {
        self.ttl.map_or(PutOptions::new(), |ttl| PutOptions::new().ttl(ttl))
    }
}

struct Hall {
    /// Taken out at the end: wakers, payloads and owners have the hall.
    stash: RwLock<Option<Cloakroom>>,
    clock: ManualClock,
    ledger: Arc<Ledger>,
    figures: Figures,
    checks: Mutex<Vec<Check>>,
    /// Denied to their owners, so gone, or about to be.
    gone: Mutex<Vec<Arc<Record>>>,
    /// On their way out: charged until the last clone is dropped, by whatever thread.
    downloads: Mutex<Vec<Bytes>>,
    /// Held while the stash's limit moves: who looks meanwhile sees the old and the new.
    moving: Mutex<()>,
    clears_begun: AtomicU64,
    clears_done: AtomicU64,
    stop: AtomicBool,
    /// A failure inside of user code would be contained by the stash.
    violations: Mutex<Vec<String>>,
}

impl Hall {
    fn stash(&self) -> Option<Cloakroom> {
        self.stash.read().unwrap().clone()
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("violation: {what}");
        self.violations.lock().unwrap().push(what);
        self.stop.store(true, Ordering::SeqCst);
    }

    fn owner(self: &Arc<Self>, luggage: &Luggage) -> Guest {
        Guest { id: luggage.owner, hall: luggage.moody.then(|| Arc::clone(self)) }
    }

    /// A payload that, when the stash drops it, checks that it may, and sometimes misbehaves.
    fn parcel(self: &Arc<Self>) -> (Parcel, Luggage) {
        self.parcel_of(size())
    }

    fn parcel_of(self: &Arc<Self>, size: u64) -> (Parcel, Luggage) {
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
    fn misbehave(self: &Arc<Self>, how: u64) {
        if how < 8 {
            self.meddle();
        }
        if how < 2 && !thread::panicking() {
            add(&self.figures.panics_contained);
            panic_any(OnPurpose);
        }
    }

    /// A call from inside of user code.
    fn meddle(self: &Arc<Self>) {
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
    fn guarded<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(result) => Some(result),
            Err(panic) if panic.is::<OnPurpose>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }

    fn put_was(&self, result: PutResult, luggage: Luggage) {
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
        self.refused(refused.refusal());
        refused.into_payload().returned();
    }

    fn try_put(self: &Arc<Self>, stash: &Cloakroom) {
        add(&self.figures.puts);
        let (parcel, luggage) = self.parcel();
        let result = stash.try_put_with(self.owner(&luggage), parcel, luggage.options());
        self.put_was(result, luggage);
    }

    fn put_timeout(self: &Arc<Self>, stash: &Cloakroom, patience: Duration) {
        add(&self.figures.puts);
        let (parcel, luggage) = self.parcel();
        let (owner, options) = (self.owner(&luggage), luggage.options());
        self.put_was(stash.put_timeout_with(owner, parcel, patience, options), luggage);
    }

    /// A waker that may panic or call back when it is woken, cloned or dropped.
    fn waker(self: &Arc<Self>) -> (Arc<Count>, Waker) {
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
    fn misbehave_myself(self: &Arc<Self>, panics: bool) {
        self.meddle();
        if panics && !thread::panicking() {
            add(&self.figures.panics_passed_on);
            panic_any(OnPurpose);
        }
    }

    /// First poll of a put; `keep` gets it if it has to wait.
    fn put_by_hand(self: &Arc<Self>, stash: &Cloakroom, keep: impl FnOnce(Waiting)) {
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

    fn drop_put(&self, Waiting { put, luggage, .. }: Waiting) {
        add(&self.figures.futures_dropped);
        luggage.record.cancel();
        self.guarded(|| drop(put));
    }

    /// Polls who was woken, and sometimes others, with another waker.
    fn poll_some(self: &Arc<Self>, list: &mut Vec<Waiting>) {
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

    fn take_one(self: &Arc<Self>, stash: &Cloakroom) {
        let check = local(|local| local.dice.draw(&mut self.checks.lock().unwrap()));
        if let Some(check) = check {
            self.take(stash, check);
        }
    }

    fn take(self: &Arc<Self>, stash: &Cloakroom, check: Check) {
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

    fn denied(&self, check: Check) {
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

    fn clear(&self, stash: &Cloakroom) {
        add(&self.figures.clears);
        self.clears_begun.fetch_add(1, Ordering::SeqCst);
        stash.clear();
        self.clears_done.fetch_add(1, Ordering::SeqCst);
    }

    // ---- Actors ------------------------------------------------------------------------------------

    fn visitor(self: &Arc<Self>) {
        let stash = self.stash().unwrap();
        let (mut waiting, mut rooms, mut claims) = (Vec::new(), Vec::new(), Vec::new());
        while self.running() {
            add(&self.figures.operations);
            match below(44) {
                0..6 => self.try_put(&stash),
                6..12 => self.put_by_hand(&stash, |new| waiting.push(new)),
                12..14 => self.put_timeout(&stash, Duration::from_micros(below(300))),
                14..21 => self.take_one(&stash),
                21..23 => {
                    if let Some(one) = local(|local| local.dice.draw(&mut waiting)) {
                        self.drop_put(one);
                    }
                }
                23 => drop(stash.gc()),
                24 if once_in(2_000) => self.clear(&stash),
                32..34 => self.reserve(&stash, &mut rooms),
                34..36 => self.use_room(&mut rooms),
                36..39 => self.claim_one(&stash, &mut claims),
                39..42 => {
                    if let Some(one) = local(|local| local.dice.draw(&mut claims)) {
                        self.end_claim(one);
                    }
                }
                42 | 43 => drop(self.drop_download()),
                _ => self.poll_some(&mut waiting),
            }
            if waiting.len() > 16 {
                let one = waiting.swap_remove(below(16) as usize);
                self.drop_put(one);
            }
            if claims.len() > 4 {
                let one = claims.swap_remove(below(4) as usize);
                self.end_claim(one);
            }
            rooms.truncate(3);
        }
        waiting.into_iter().for_each(|one| self.drop_put(one));
        claims.into_iter().for_each(|one| self.end_claim(one));
        drop(rooms);
        while self.drop_download() {}
    }

    /// Waits for as long as it takes: a lost wakeup would hold it up for good.
    fn patient(self: &Arc<Self>) {
        let stash = self.stash().unwrap();
        while self.running() {
            add(&self.figures.operations);
            self.put_timeout(&stash, FOREVER);
        }
    }

    /// Puts with all sorts of `until`. `timer` is the runtime's.
    async fn task<F>(self: Arc<Self>, timer: impl Fn(Duration) -> F)
    where
        F: Future,
    {
        while self.running() {
            let Some(stash) = self.stash() else { return };
            add(&self.figures.operations);
            if once_in(4) {
                let moment = timer(Duration::from_micros(below(2_000)));
                self.reserve_and_put(&stash, moment).await;
                continue;
            }
            add(&self.figures.puts);
            let (parcel, luggage) = self.parcel();
            let put = stash.put_with(self.owner(&luggage), parcel, luggage.options());
            let moment = Duration::from_micros(below(2_000));
            let (how, yields) = (below(5), below(20));
            let until = async {
                match how {
                    0 => drop(timer(moment).await),
                    1 => self.clock.sleep(moment).await,
                    2 => ready(()).await,
                    3 => {
                        for _ in 0..yields {
                            yield_now().await;
                        }
                    }
                    _ => std::future::pending().await,
                }
            };
            let mut put = pin!(put.until(until));
            // Dropped before the put, whoever drops this task.
            let mut cancel = CancelOnDrop(Some(luggage));
            let impatient = once_in(3);
            let impatience = async {
                if impatient {
                    timer(moment).await;
                } else {
                    std::future::pending::<()>().await;
                }
                None
            };
            let ended = or(async { Some(put.as_mut().await) }, impatience).await;
            if let Some(result) = ended {
                let luggage = cancel.0.take().unwrap();
                self.put_was(result, luggage);
            } else {
                add(&self.figures.futures_dropped);
            }
            drop(cancel);
            yield_now().await;
        }
    }

    /// Moves the clock: mostly a little, sometimes beyond every deadline.
    fn clockmaker(&self) {
        while self.running() {
            let step = if once_in(20) { LONG_TTL } else { Duration::from_micros(below(2_000)) };
            self.clock.advance(step);
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Used is never more than the highest limit, and of the other budget, whose limit stays, than that.
    fn sampler(&self, steady: &Budget) {
        let stash = self.stash().unwrap();
        let mut last = Stats::default();
        while self.running() {
            let used = {
                let _still = self.moving.lock().unwrap();
                stash.used_bytes()
            };
            let held = steady.used();
            if used > LIMIT + OVERFLOW || held > steady.limit() {
                self.violation(format!("used: {used}, held: {held}"));
            }
            let stats = stash.stats();
            self.check_stats(&stats);
            let totals = |s: &Stats| {
                [s.stored, s.delivered, s.expired, s.cleared, s.claimed, s.put_back, s.waited]
            };
            if totals(&last).iter().zip(totals(&stats)).any(|(&before, now)| now < before) {
                self.violation(format!("a total went down: {last:?}, {stats:?}"));
            }
            last = stats;
            add(&self.figures.samples);
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// A budget of its own, whose limit moves.
    fn acquirer(&self, budget: &Budget, held: &AtomicU64) {
        let hold = |permit: Permit<'_>| {
            add(&self.figures.budget_acquired);
            let bytes = permit.bytes();
            if held.fetch_add(bytes, Ordering::SeqCst) + bytes > LIMIT {
                self.violation("permits for more than the highest limit");
            }
            held.fetch_sub(bytes, Ordering::SeqCst);
            drop(permit);
        };
        let mut waiting = Vec::new();
        while self.running() {
            add(&self.figures.operations);
            // The stash has more to do in the same time.
            if once_in(64) {
                thread::sleep(Duration::from_micros(100));
            }
            match below(8) {
                0 => match budget.acquire_timeout(size(), Duration::from_micros(below(300))) {
                    Ok(permit) => hold(permit),
                    Err(_) => add(&self.figures.budget_refused),
                },
                1 | 2 => match budget.try_acquire(size()) {
                    Ok(permit) => hold(permit),
                    Err(_) => add(&self.figures.budget_refused),
                },
                3 | 4 => {
                    let mut request = acquire_task(budget, size());
                    let (count, waker) = support::counting();
                    match poll(&mut request, &waker) {
                        Poll::Ready(Ok(permit)) => hold(permit),
                        Poll::Ready(Err(_)) => add(&self.figures.budget_refused),
                        Poll::Pending => waiting.push((request, count)),
                    }
                }
                5 => drop(local(|local| local.dice.draw(&mut waiting))),
                _ => waiting.retain_mut(|(request, count)| {
                    match (count.get(), poll(request, &support::counting().1)) {
                        (_, Poll::Ready(Ok(permit))) => hold(permit),
                        (_, Poll::Ready(Err(_))) => add(&self.figures.budget_refused),
                        // It has another waker now: poll it again soon.
                        (_, Poll::Pending) => return true,
                    }
                    false
                }),
            }
        }
    }

    fn limit_mover(&self, budget: &Budget) {
        let stash = self.stash().unwrap();
        while self.running() {
            let limit = if once_in(3) { LIMIT } else { below(LIMIT + 1) };
            budget.set_limit(limit);
            let limit = if once_in(3) { LIMIT } else { LOWEST + below(LIMIT - LOWEST + 1) };
            {
                let _moves = self.moving.lock().unwrap();
                stash.set_max_bytes(limit);
            }
            add(&self.figures.limit_changes);
            thread::sleep(Duration::from_micros(200));
        }
        budget.set_limit(LIMIT);
        stash.set_max_bytes(LIMIT);
    }
}

/// The payload goes with the put.
struct CancelOnDrop(Option<Luggage>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(luggage) = self.0.take() {
            luggage.record.cancel();
        }
    }
}

fn setting<T: FromStr<Err: Debug>>(name: &str, otherwise: T) -> T {
    env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

const VISITORS: usize = 4;
const TASKS: usize = 8;

/// Has tasks run, aborts some, and starts others in their place.
async fn supervise(hall: Arc<Hall>) {
    let mut tasks: Vec<tokio::task::JoinHandle<()>> = Vec::new();
    while hall.running() {
        while tasks.len() < TASKS {
            tasks.push(tokio::spawn(Arc::clone(&hall).task(tokio::time::sleep)));
        }
        tokio::time::sleep(Duration::from_micros(below(3_000))).await;
        let task = tasks.swap_remove(below(TASKS as u64) as usize);
        task.abort();
        match task.await {
            Err(e) if e.is_cancelled() => add(&hall.figures.tasks_aborted),
            Err(e) => hall.violation(format!("a task panicked: {e}")),
            Ok(()) => {}
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
#[ignore = "runs for minutes"]
fn everything_at_once() {
    let minutes: f64 = setting("SOAK_MINUTES", 10.0);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed: u64 = setting("SOAK_SEED", u64::from(now.subsec_nanos()));
    println!("SOAK_SEED={seed} SOAK_MINUTES={minutes}");
    SEED.store(seed, Ordering::SeqCst);
    silence_panics_on_purpose();

    let clock = ManualClock::new();
    let diary = Arc::new(Diary::default());
    let stash: Cloakroom = Stash::builder()
        .max_bytes(LIMIT)
        .entry_overhead(OVERHEAD)
        .ttl(TTL)
        .overflow(OVERFLOW, OVERFLOW_TTL)
        .max_bytes_per_owner(PER_OWNER)
        .max_waiting(MAX_WAITING)
        .max_waiting_bytes(MAX_WAITING_BYTES)
        .clock(clock.clone())
        .observer(Arc::clone(&diary))
        .build()
        .unwrap();
    let hall = Arc::new(Hall {
        stash: RwLock::new(Some(stash.clone())),
        clock: clock.clone(),
        ledger: Ledger::new(),
        figures: Figures::default(),
        checks: Mutex::default(),
        gone: Mutex::default(),
        downloads: Mutex::default(),
        moving: Mutex::default(),
        clears_begun: AtomicU64::new(0),
        clears_done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        violations: Mutex::default(),
    });
    diary.watch(&hall);
    let (moved, steady) = (Budget::new(LIMIT), Budget::new(LIMIT));
    let (moved_held, steady_held) = (AtomicU64::new(0), AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let reaper = runtime.spawn(stash.reaper().run(move |pause| clock.sleep(pause)));
    let tasks = runtime.spawn(supervise(Arc::clone(&hall)));
    let smol: Vec<_> = (0..2)
        .map(|_| {
            let timer = |pause| async move { _ = smol::Timer::after(pause).await };
            smol::spawn(Arc::clone(&hall).task(timer))
        })
        .collect();

    let started = Instant::now();
    let end = Duration::from_secs_f64(minutes * 60.0);
    thread::scope(|scope| {
        let hall = &hall;
        let mut threads = Vec::new();
        for _ in 0..VISITORS {
            threads.push(scope.spawn(|| hall.visitor()));
        }
        for _ in 0..2 {
            threads.push(scope.spawn(|| hall.patient()));
            threads.push(scope.spawn(|| hall.acquirer(&moved, &moved_held)));
            threads.push(scope.spawn(|| hall.acquirer(&steady, &steady_held)));
        }
        threads.push(scope.spawn(|| hall.clockmaker()));
        threads.push(scope.spawn(|| hall.limit_mover(&moved)));
        threads.push(scope.spawn(|| hall.sampler(&steady)));

        while hall.running() && started.elapsed() < end {
            thread::sleep(Duration::from_millis(20));
            // A thread that panicked has said why.
            if threads.iter().any(|thread| thread.is_finished()) {
                break;
            }
        }
        hall.stop.store(true, Ordering::SeqCst);
        // Who waits with all the patience in the world gets room now.
        let stopped = Instant::now();
        let mut tasks_done = false;
        while !(tasks_done && threads.iter().all(|thread| thread.is_finished())) {
            tasks_done = tasks.is_finished() && smol.iter().all(|task| task.is_finished());
            hall.clear(&stash);
            thread::sleep(Duration::from_millis(1));
            if stopped.elapsed() > Duration::from_secs(60) {
                // Not a panic: the scope would wait for who waits for good.
                eprintln!("somebody waits for good: {stash:?}, {moved:?}, {steady:?}");
                std::process::abort();
            }
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    runtime.block_on(tasks).unwrap();
    smol.into_iter().for_each(smol::block_on);

    // What is in the list and not taken has expired or been cleared, which is checked where it is dropped.
    let checks = std::mem::take(&mut *hall.checks.lock().unwrap());
    let half = checks.len() / 2;
    let mut missed = 0;
    for (at, check) in checks.into_iter().enumerate() {
        if at == half {
            hall.clock.advance(LONG_TTL);
            stash.gc();
            missed = stash.len();
        }
        hall.take(&stash, check);
    }
    assert!(hall.checks.lock().unwrap().is_empty(), "with nobody about, every take decides");
    let swept_at_the_end = stash.clear();
    let gone = std::mem::take(&mut *hall.gone.lock().unwrap());
    let figures = &hall.figures;
    figures.print(seconds);
    println!("SOAK_SEED={seed}: {:.0} s, {stash:?}", seconds);

    assert_eq!(*hall.violations.lock().unwrap(), [""; 0]);
    assert!(gone.iter().all(|record| record.fate() != Fate::Alive), "denied, and still there");
    assert_eq!(missed, 0, "what a sweep missed");
    assert_eq!(swept_at_the_end, 0, "every entry had a ticket");
    assert_eq!((stash.used_bytes(), stash.len(), stash.waiting()), (0, 0, 0));
    hall.ledger.assert_settled();
    let swept = figures.expired.load(Ordering::Relaxed) + figures.cleared.load(Ordering::Relaxed);
    assert_eq!(swept, hall.ledger.count(Fate::Swept));
    assert_eq!(
        figures.stored.load(Ordering::Relaxed),
        figures.delivered.load(Ordering::Relaxed) + swept,
        "tickets issued, and what became of them"
    );
    for budget in [&moved, &steady] {
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
        drop(budget.try_acquire(LIMIT).expect("all of it is free"));
    }
    hall.check_in_the_end(&stash, &diary);

    // All of it can be had, and all that one may have, and no more.
    let all = stash.budget().try_acquire(LIMIT + OVERFLOW).expect("all of it is free");
    assert_eq!(stash.budget().try_acquire(1).unwrap_err().reason(), Refusal::Full);
    drop(all);
    let guest = || Guest { id: 0, hall: None };
    let most = hall.ledger.parcel(PER_OWNER - OVERHEAD);
    let ticket = stash.try_put(guest(), most).expect("the account is empty");
    let more = stash.try_put(guest(), hall.ledger.parcel(0)).expect_err("and no more");
    assert_eq!(more.reason(), Refusal::OwnerFull);
    more.into_payload().returned();
    stash.close();
    assert!(!stash.drained_timeout(Duration::ZERO), "there is an entry");
    stash.take(&ticket, &guest()).unwrap().delivered();
    assert!(stash.drained_timeout(Duration::from_secs(60)), "{stash:?}");

    // The reaper ends with the last handle.
    drop(hall.stash.write().unwrap().take());
    drop(stash);
    runtime.block_on(reaper).unwrap();
}
