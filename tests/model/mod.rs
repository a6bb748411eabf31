//! Scripts of steps, run against the crate and against a model that is too simple to be wrong: a line that
//! is a `VecDeque`, entries that are a `Vec`. After every step the two must agree on everything that can
//! be seen: results and reasons, numbers in refusals, who was woken and in which order, what is used.
//!
//! Where scripts come from is left to others: random ones are in `properties.rs`, the fuzzer's in `fuzz`.
#![allow(dead_code, unreachable_pub)]

pub mod bytes;

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use cloakroom::{
    Acquire, AcquireError, Budget, ManualClock, Permit, PutError, Refusal, Stash, Ticket,
};

use super::support::{Coat, Live};

/// In what the crate and the model do not agree.
pub type Disagreement = String;

/// What the crate does, and what the model says.
macro_rules! agree {
    ($actual:expr, $expected:expr $(, $what:literal)?) => {
        match (&$actual, &$expected) {
            (actual, expected) if actual == expected => {}
            (actual, expected) => {
                let what = [$($what,)? stringify!($actual)][0];
                return Err(format!("{what}: {expected:?}, not {actual:?}"));
            }
        }
    };
}

/// Chooses among as many as there are then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Index(pub u8);

impl Index {
    fn index(self, len: usize) -> usize {
        usize::from(self.0) % len
    }
}

// ---- Wakers that tell in which order they were woken -----------------------------------------------

/// Which waker of which waiter was woken, in the order in which it happened.
type WakeLog = Arc<Mutex<Vec<(usize, usize)>>>;

struct Logging {
    log: WakeLog,
    waiter: usize,
    /// A waiter that is polled with a new waker counts on: the last one is to be woken.
    edition: usize,
}

impl Wake for Logging {
    fn wake(self: Arc<Self>) {
        self.log.lock().unwrap().push((self.waiter, self.edition));
    }
}

/// Completes once the script says so. Wakes nobody: the script polls.
struct Fired(Rc<Cell<bool>>);

impl Future for Fired {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0.get() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// What both futures, put and acquire, need besides themselves.
struct Waiter<F> {
    future: Pin<Box<F>>,
    fire: Rc<Cell<bool>>,
    edition: usize,
    waker: Option<Waker>,
}

impl<F: Future> Waiter<F> {
    fn new(make: impl FnOnce(Fired) -> F) -> Self {
        let fire = Rc::new(Cell::new(false));
        let future = Box::pin(make(Fired(Rc::clone(&fire))));
        Self { future, fire, edition: 0, waker: None }
    }

    fn poll(&mut self, log: &WakeLog, waiter: usize, new_waker: bool) -> Poll<F::Output> {
        if new_waker || self.waker.is_none() {
            self.edition += 1;
            let logging = Logging { log: Arc::clone(log), waiter, edition: self.edition };
            self.waker = Some(Waker::from(Arc::new(logging)));
        }
        let waker = self.waker.clone().unwrap();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

// ---- The model of the budget -----------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Never polled.
    Fresh,
    InLine,
    /// Ended while in line, and not polled since.
    Ended(Result<(), Refusal>),
    /// Completed or dropped.
    Gone,
}

#[derive(Debug)]
struct ModelWaiter {
    need: u64,
    state: State,
    fired: bool,
    edition: usize,
}

#[derive(Debug)]
struct ModelBudget {
    limit: u64,
    used: u64,
    closed: bool,
    line: VecDeque<usize>,
    waiters: Vec<ModelWaiter>,
    woken: Vec<(usize, usize)>,
}

impl ModelBudget {
    fn new(limit: u64) -> Self {
        let (line, waiters, woken) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { limit, used: 0, closed: false, line, waiters, woken }
    }

    fn fits(&self, need: u64) -> bool {
        self.used <= self.limit && need <= self.limit - self.used
    }

    /// Whether somebody who is not in the line may have the bytes now.
    fn admits(&self, need: u64) -> Result<(), Refusal> {
        if self.closed {
            Err(Refusal::Closed)
        } else if need > self.limit {
            Err(Refusal::TooLarge)
        } else if !self.line.is_empty() || !self.fits(need) {
            Err(Refusal::Full)
        } else {
            Ok(())
        }
    }

    fn try_charge(&mut self, need: u64) -> Result<(), Refusal> {
        self.admits(need).inspect(|()| self.used += need)
    }

    /// From the head on, everybody whose wait is over.
    fn serve(&mut self) {
        while let Some(&head) = self.line.front() {
            let need = self.waiters[head].need;
            let outcome = if self.closed {
                Err(Refusal::Closed)
            } else if need > self.limit {
                Err(Refusal::TooLarge)
            } else if self.fits(need) {
                self.used += need;
                Ok(())
            } else {
                return;
            };
            self.line.pop_front();
            self.waiters[head].state = State::Ended(outcome);
            self.woken.push((head, self.waiters[head].edition));
        }
    }

    fn release(&mut self, bytes: u64) {
        self.used -= bytes;
        self.serve();
    }

    fn new_waiter(&mut self, need: u64) {
        self.waiters.push(ModelWaiter { need, state: State::Fresh, fired: false, edition: 0 });
    }

    fn pick(&self, index: Index) -> Option<usize> {
        (!self.waiters.is_empty()).then(|| index.index(self.waiters.len()))
    }

    fn leave(&mut self, waiter: usize) {
        self.line.retain(|&other| other != waiter);
        self.serve();
    }

    /// A poll of a waiter that is not gone. `None`: pending.
    fn poll(&mut self, waiter: usize, new_waker: bool) -> Option<Result<(), Refusal>> {
        let ModelWaiter { need, state, fired, edition } = self.waiters[waiter];
        let outcome = match state {
            State::Fresh => match self.try_charge(need) {
                Err(Refusal::Full) if fired => Some(Err(Refusal::Cancelled)),
                Err(Refusal::Full) => {
                    self.line.push_back(waiter);
                    self.waiters[waiter].state = State::InLine;
                    None
                }
                decided => Some(decided),
            },
            State::InLine if fired => {
                self.leave(waiter);
                Some(Err(Refusal::Cancelled))
            }
            State::InLine => None,
            // The grant wins, even if `until` has fired too.
            State::Ended(outcome) => Some(outcome),
            State::Gone => unreachable!("not polled again"),
        };
        if outcome.is_some() {
            self.waiters[waiter].state = State::Gone;
        } else if new_waker || edition == 0 {
            self.waiters[waiter].edition += 1;
        }
        outcome
    }

    fn drop_waiter(&mut self, waiter: usize) {
        let ModelWaiter { need, state, .. } = self.waiters[waiter];
        self.waiters[waiter].state = State::Gone;
        match state {
            State::InLine => self.leave(waiter),
            State::Ended(Ok(())) => self.release(need),
            _ => {}
        }
    }

    fn is_gone(&self, waiter: usize) -> bool {
        self.waiters[waiter].state == State::Gone
    }

    fn close(&mut self) -> usize {
        self.closed = true;
        let sent_away = self.line.len();
        self.serve();
        sent_away
    }
}

/// The numbers that a refusal must have come with.
fn numbers(
    model: &ModelBudget,
    reason: Refusal,
    requested: u64,
) -> (Refusal, u64, u64, u64, usize) {
    (reason, requested, model.used, model.limit, model.line.len())
}

// ---- Budget ----------------------------------------------------------------------------------------

pub const LIMIT: u64 = 20;

#[derive(Clone, Debug, PartialEq)]
pub enum BudgetStep {
    Try(u64),
    TimeoutZero(u64),
    Request(u64),
    Poll(Index, bool),
    Fire(Index),
    Cancel(Index),
    Release(Index),
    Split(Index, u64),
    Merge(Index, Index),
    Shrink(Index, u64),
    IntoOwned(Index),
    Forget(Index),
    SetLimit(u64),
    Close,
}

fn acquired<'a>(
    model: &ModelBudget,
    bytes: u64,
    expected: Result<(), Refusal>,
    actual: Result<Permit<'a>, AcquireError>,
) -> Result<Option<Permit<'a>>, Disagreement> {
    match (expected, actual) {
        (Ok(()), Ok(permit)) => {
            agree!(permit.bytes(), bytes);
            Ok(Some(permit))
        }
        (Err(reason), Err(e)) => {
            let found = (e.reason(), e.requested(), e.used(), e.limit(), e.waiting());
            agree!(found, numbers(model, reason, bytes));
            Ok(None)
        }
        (expected, actual) => Err(format!("{bytes}: {expected:?}, not {actual:?}")),
    }
}

pub fn run_budget(script: Vec<BudgetStep>) -> Result<(), Disagreement> {
    let budget = Budget::new(LIMIT);
    let mut model = ModelBudget::new(LIMIT);
    let log = WakeLog::default();
    let mut waiters: Vec<Option<Waiter<Acquire<'_, Fired>>>> = Vec::new();
    let mut permits: Vec<Permit<'_>> = Vec::new();
    // What each permit must hold, and what was forgotten.
    let mut held: Vec<u64> = Vec::new();
    let mut forgotten = 0;

    for step in script {
        let permit_at = |index: Index| (!held.is_empty()).then(|| index.index(held.len()));
        match step {
            BudgetStep::Try(bytes) | BudgetStep::TimeoutZero(bytes) => {
                let expected = model.try_charge(bytes);
                let actual = match step {
                    BudgetStep::Try(_) => budget.try_acquire(bytes),
                    _ => budget.acquire_timeout(bytes, Duration::ZERO),
                };
                if let Some(permit) = acquired(&model, bytes, expected, actual)? {
                    permits.push(permit);
                    held.push(bytes);
                }
            }
            BudgetStep::Request(bytes) => {
                model.new_waiter(bytes);
                waiters.push(Some(Waiter::new(|fired| budget.acquire(bytes).until(fired))));
            }
            BudgetStep::Poll(index, new_waker) => {
                let Some(at) = model.pick(index) else { continue };
                let Some(waiter) = &mut waiters[at] else { continue };
                let bytes = model.waiters[at].need;
                let expected = model.poll(at, new_waker);
                match (expected, waiter.poll(&log, at, new_waker)) {
                    (None, Poll::Pending) => {}
                    (Some(expected), Poll::Ready(actual)) => {
                        waiters[at] = None;
                        if let Some(permit) = acquired(&model, bytes, expected, actual)? {
                            permits.push(permit);
                            held.push(bytes);
                        }
                    }
                    (expected, actual) => {
                        return Err(format!("waiter {at}: {expected:?}, not {actual:?}"));
                    }
                }
            }
            BudgetStep::Fire(index) => {
                let Some(at) = model.pick(index) else { continue };
                model.waiters[at].fired = true;
                if let Some(waiter) = &waiters[at] {
                    waiter.fire.set(true);
                }
            }
            BudgetStep::Cancel(index) => {
                let Some(at) = model.pick(index) else { continue };
                if waiters[at].take().is_some() {
                    model.drop_waiter(at);
                }
            }
            BudgetStep::Release(index) => {
                let Some(at) = permit_at(index) else { continue };
                drop(permits.swap_remove(at));
                let bytes = held.swap_remove(at);
                model.release(bytes);
            }
            BudgetStep::Split(index, bytes) => {
                let Some(at) = permit_at(index) else { continue };
                let split = permits[at].split(bytes);
                agree!(split.is_some(), bytes <= held[at]);
                if let Some(split) = split {
                    agree!(split.bytes(), bytes);
                    permits.push(split);
                    held[at] -= bytes;
                    held.push(bytes);
                }
            }
            BudgetStep::Merge(into, from) => {
                let (Some(into), Some(from)) = (permit_at(into), permit_at(from)) else { continue };
                if into == from {
                    continue;
                }
                // The last one moves to where `from` was; so does `into` if that is the last.
                let (other, bytes) = (permits.swap_remove(from), held.swap_remove(from));
                let into = if into == held.len() { from } else { into };
                permits[into].merge(other);
                held[into] += bytes;
            }
            BudgetStep::Shrink(index, to) => {
                let Some(at) = permit_at(index) else { continue };
                permits[at].shrink(to);
                let excess = held[at].saturating_sub(to);
                held[at] -= excess;
                model.release(excess);
            }
            BudgetStep::IntoOwned(index) => {
                let Some(at) = permit_at(index) else { continue };
                let owned: Permit<'static> = permits.swap_remove(at).into_owned();
                let bytes = held.swap_remove(at);
                permits.push(owned);
                held.push(bytes);
            }
            BudgetStep::Forget(index) => {
                let Some(at) = permit_at(index) else { continue };
                permits.swap_remove(at).forget();
                forgotten += held.swap_remove(at);
            }
            BudgetStep::SetLimit(limit) => {
                budget.set_limit(limit);
                model.limit = limit;
                model.serve();
            }
            BudgetStep::Close => {
                agree!(budget.close(), model.close());
            }
        }
        agree!(*log.lock().unwrap(), model.woken);
        agree!((budget.used(), budget.is_closed()), (model.used, model.closed));
        agree!(budget.limit(), model.limit);
        agree!(budget.waiting(), model.line.len());
        for (permit, bytes) in permits.iter().zip(&held) {
            agree!(permit.bytes(), *bytes);
        }
    }
    drop(waiters);
    drop(permits);
    agree!((budget.used(), budget.waiting()), (forgotten, 0));
    Ok(())
}

// ---- Stash -----------------------------------------------------------------------------------------

/// Entry overheads are below that.
pub const OVERHEADS: u64 = 3;
pub const OWNERS: u8 = 3;
pub const TTL_TICKS: u64 = 10;

fn ticks(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[derive(Clone, Debug, PartialEq)]
pub enum StashStep {
    TryPut(u8, u64),
    TimeoutZero(u8, u64),
    Put(u8, u64),
    Poll(Index, bool),
    Fire(Index),
    Cancel(Index),
    /// With the owner it was put with, or one further.
    Take(Index, u8),
    TakeForged(u128, u8),
    Gc,
    Clear,
    Advance(u64),
    Close,
}

struct ModelEntry {
    ticket: Ticket,
    owner: u8,
    coat: usize,
    charge: u64,
    deadline: u64,
}

/// The stash's part of the model: entries, and a clock.
struct ModelStash {
    budget: ModelBudget,
    overhead: u64,
    now: u64,
    entries: Vec<ModelEntry>,
}

impl ModelStash {
    /// Removes the entries that are chosen, and then gives their bytes back all at once.
    fn remove(&mut self, choose: impl Fn(&ModelEntry) -> bool) -> usize {
        let (gone, kept) = self.entries.drain(..).partition(|entry| choose(entry));
        self.entries = kept;
        let gone: Vec<ModelEntry> = gone;
        self.budget.release(gone.iter().map(|entry| entry.charge).sum());
        gone.len()
    }

    fn gc(&mut self) -> usize {
        let now = self.now;
        self.remove(|entry| entry.deadline <= now)
    }

    /// What has expired is no reason to refuse.
    fn make_room(&mut self, charge: u64) {
        while self.budget.admits(charge) == Err(Refusal::Full) && self.gc() > 0 {}
    }

    fn try_charge(&mut self, charge: u64) -> Result<(), Refusal> {
        self.make_room(charge);
        self.budget.try_charge(charge)
    }

    fn store(&mut self, ticket: Ticket, owner: u8, coat: usize, charge: u64) {
        let deadline = self.now + TTL_TICKS;
        self.entries.push(ModelEntry { ticket, owner, coat, charge, deadline });
    }

    /// The coat that is given out, if one is.
    fn take(&mut self, ticket: Ticket, owner: u8) -> Option<usize> {
        let found = |entry: &ModelEntry| entry.ticket == ticket && entry.owner == owner;
        let entry = self.entries.iter().find(|entry| found(entry))?;
        let (coat, expired) = (entry.coat, entry.deadline <= self.now);
        self.remove(found);
        (!expired).then_some(coat)
    }
}

/// A coat that knows its number, so that it can be told apart from others of its size.
struct Numbered(usize, Coat);

impl cloakroom::Payload for Numbered {
    fn size(&self) -> usize {
        self.1.size
    }
}

type PutResult = Result<Ticket, PutError<Numbered>>;

fn stored(
    model: &mut ModelStash,
    (owner, coat, charge): (u8, usize, u64),
    expected: Result<(), Refusal>,
    actual: PutResult,
) -> Result<Option<Ticket>, Disagreement> {
    match (expected, actual) {
        (Ok(()), Ok(ticket)) => {
            agree!(model.entries.iter().any(|entry| entry.ticket == ticket), false, "issued twice");
            model.store(ticket, owner, coat, charge);
            Ok(Some(ticket))
        }
        (Err(reason), Err(e)) => {
            let found = (e.reason(), e.requested(), e.used(), e.limit(), e.waiting());
            agree!(found, numbers(&model.budget, reason, charge));
            agree!(e.into_payload().0, coat);
            Ok(None)
        }
        (expected, actual) => Err(format!("{charge}: {expected:?}, not {actual:?}")),
    }
}

pub fn run_stash(overhead: u64, script: Vec<StashStep>) -> Result<(), Disagreement> {
    let clock = ManualClock::new();
    let stash: Stash<Numbered, u8> = Stash::builder()
        .max_bytes(LIMIT)
        .entry_overhead(overhead)
        .ttl(ticks(TTL_TICKS))
        .clock(clock.clone())
        .build()
        .unwrap();
    let mut model =
        ModelStash { budget: ModelBudget::new(LIMIT), overhead, now: 0, entries: Vec::new() };
    let live = Live::new();
    let log = WakeLog::default();
    let mut coats = 0..;
    let mut coat = |size: u64| {
        let number = coats.next().unwrap();
        (number, Numbered(number, live.coat(size as usize)))
    };
    let mut waiters = Vec::new();
    // Owner and coat of each waiter.
    let mut luggage: Vec<(u8, usize)> = Vec::new();
    // Every ticket that was ever issued, with its owner.
    let mut tickets: Vec<(Ticket, u8)> = Vec::new();

    for step in script {
        match step {
            StashStep::TryPut(owner, size) | StashStep::TimeoutZero(owner, size) => {
                let charge = size + model.overhead;
                let (number, payload) = coat(size);
                let expected = model.try_charge(charge);
                let actual = match step {
                    StashStep::TryPut(..) => stash.try_put(owner, payload),
                    _ => stash.put_timeout(owner, payload, Duration::ZERO),
                };
                let ticket = stored(&mut model, (owner, number, charge), expected, actual)?;
                tickets.extend(ticket.map(|ticket| (ticket, owner)));
            }
            StashStep::Put(owner, size) => {
                let (number, payload) = coat(size);
                model.budget.new_waiter(size + model.overhead);
                luggage.push((owner, number));
                let waiter = Waiter::new(|fired| stash.put(owner, payload).until(fired));
                waiters.push(Some(waiter));
            }
            StashStep::Poll(index, new_waker) => {
                let Some(at) = model.budget.pick(index) else { continue };
                let Some(waiter) = &mut waiters[at] else { continue };
                let charge = model.budget.waiters[at].need;
                if model.budget.waiters[at].state == State::Fresh {
                    model.make_room(charge);
                }
                let expected = model.budget.poll(at, new_waker);
                match (expected, waiter.poll(&log, at, new_waker)) {
                    (None, Poll::Pending) => {}
                    (Some(expected), Poll::Ready(actual)) => {
                        waiters[at] = None;
                        let (owner, number) = luggage[at];
                        let ticket = stored(&mut model, (owner, number, charge), expected, actual)?;
                        tickets.extend(ticket.map(|ticket| (ticket, owner)));
                    }
                    (expected, actual) => {
                        return Err(format!("waiter {at}: {expected:?}, not {actual:?}"));
                    }
                }
            }
            StashStep::Fire(index) => {
                let Some(at) = model.budget.pick(index) else { continue };
                model.budget.waiters[at].fired = true;
                if let Some(waiter) = &waiters[at] {
                    waiter.fire.set(true);
                }
            }
            StashStep::Cancel(index) => {
                let Some(at) = model.budget.pick(index) else { continue };
                if waiters[at].take().is_some() {
                    model.budget.drop_waiter(at);
                }
            }
            StashStep::Take(index, off) => {
                if tickets.is_empty() {
                    continue;
                }
                let (ticket, owner) = tickets[index.index(tickets.len())];
                let owner = (owner + off) % OWNERS;
                let expected = model.take(ticket, owner);
                let actual = stash.take(&ticket, &owner).map(|payload| payload.0);
                agree!(actual, expected, "what was taken");
            }
            StashStep::TakeForged(bits, owner) => {
                agree!(stash.take(&forged(bits), &owner).is_none(), true);
            }
            StashStep::Gc => agree!(stash.gc(), model.gc()),
            StashStep::Clear => agree!(stash.clear(), model.remove(|_| true)),
            StashStep::Advance(step) => {
                clock.advance(ticks(step));
                model.now += step;
            }
            StashStep::Close => agree!(stash.close(), model.budget.close()),
        }
        agree!(*log.lock().unwrap(), model.budget.woken);
        agree!(stash.used_bytes(), model.budget.used);
        agree!(stash.is_closed(), model.budget.closed);
        agree!(stash.waiting(), model.budget.line.len());
        agree!((stash.len(), stash.is_empty()), (model.entries.len(), model.entries.is_empty()));
        let in_hand = (0..waiters.len()).filter(|&at| !model.budget.is_gone(at)).count();
        agree!(live.get() as usize, model.entries.len() + in_hand, "payloads alive");
    }
    drop(waiters);
    agree!(stash.clear(), model.entries.len());
    agree!((stash.used_bytes(), stash.waiting(), live.get()), (0, 0, 0));
    Ok(())
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
