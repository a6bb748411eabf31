//! What threads saw, checked against a model that does one thing after the other.
//!
//! Threads call the real thing and note when each call began and ended. A history is right if there is an
//! order of all the calls, each between its beginning and its end, in which the sequential model gives
//! the same results: the search is J. Wing and C. Gong's (*Testing and verifying concurrent objects*, 1993)
//! with the states that were seen before cut off (G. Lowe, *Testing for linearizability*, 2017).
//!
//! Some calls are not *one* step by design. The model takes them in the steps that are documented, in
//! their order, with other calls in between:
//!
//! - a put charges, then its entry is there: `clear` does not see what is between;
//! - a `take` removes the entry, then gives its bytes back: who finds it gone may still be refused;
//! - `clear` removes entries one by one and gives their bytes back all at once afterwards. It removes
//!   everything that was there when it began, unless others did, and of what came meanwhile any part;
//! - a permit's drop, and a future's, gives bytes back, then serves the line, as everybody does who is
//!   serving at that time.
//!
//! Left out are `len` and `waiting`, which are exact only while nobody else calls, and `gc`, which is
//! `clear` with a condition. `used` is one step while the limit stays.
#![cfg(not(any(loom, shuttle)))]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::env;
use std::hash::Hash;
use std::hint;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use cloakroom::{Budget, Clock, Payload, Permit, Refusal, Stash, Ticket};

use self::support::ledger::Dice;
use self::support::{Hooks, Request, acquire_task, poll};

// ---- The search ------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
struct Call<Op> {
    thread: usize,
    began: u64,
    ended: u64,
    /// What was called, with what it returned.
    op: Op,
}

trait Model: Clone + Eq + Hash {
    type Op;

    /// What the state may be after step `step` of `op`, and whether that was its last step. Nothing: it
    /// cannot be that it returns what it returned.
    fn step(&self, call: usize, op: &Self::Op, step: u8) -> Vec<(Self, bool)>;
}

const ENDED: u8 = u8::MAX;

/// Whether there is an order of the calls' steps in which the model returns what they returned.
fn is_right<M: Model>(model: M, history: &[Call<M::Op>]) -> bool {
    let mut seen = HashSet::new();
    let mut todo = vec![(model, vec![0; history.len()])];
    while let Some((state, steps)) = todo.pop() {
        let open = || (0..history.len()).filter(|&at| steps[at] != ENDED);
        // What began after another call's end comes after it.
        let Some(first_end) = open().map(|at| history[at].ended).min() else { return true };
        for at in open().filter(|&at| history[at].began < first_end) {
            for (state, last) in state.step(at, &history[at].op, steps[at]) {
                let mut steps = steps.clone();
                steps[at] = if last { ENDED } else { steps[at] + 1 };
                let next = (state, steps);
                if seen.insert(next.clone()) {
                    todo.push(next);
                }
            }
        }
    }
    false
}

// ---- Recording -------------------------------------------------------------------------------------

struct Recorder<Op> {
    time: AtomicU64,
    calls: Mutex<Vec<Call<Op>>>,
    ready: AtomicUsize,
    threads: usize,
}

impl<Op> Recorder<Op> {
    fn new(threads: usize) -> Self {
        let (calls, time, ready) = (Mutex::default(), AtomicU64::new(0), AtomicUsize::new(0));
        Self { time, calls, ready, threads }
    }

    /// All threads leave together. They spin first: who yields comes back late.
    fn line_up(&self) {
        self.ready.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0;
        while self.ready.load(Ordering::SeqCst) < self.threads {
            spins += 1;
            if spins < 5_000 { hint::spin_loop() } else { thread::yield_now() }
        }
    }

    fn call<R>(&self, calls: &mut Vec<Call<Op>>, thread: usize, f: impl FnOnce() -> (Op, R)) -> R {
        let began = self.time.fetch_add(1, Ordering::SeqCst);
        let (op, result) = f();
        let ended = self.time.fetch_add(1, Ordering::SeqCst);
        calls.push(Call { thread, began, ended, op });
        result
    }

    fn hand_in(&self, calls: Vec<Call<Op>>) {
        self.calls.lock().unwrap().extend(calls);
    }
}

/// In user code that the calls run, so that they last and meet: before a request joins the line, after
/// a grant, between a put's charge and its entry, between a removal and its bytes.
fn dawdle() {
    thread::yield_now();
}

/// A waker that dawdles when it is cloned and when it is woken.
fn slow_waker() -> Waker {
    Hooks::new().on_clone(dawdle).on_wake(dawdle).waker().1
}

struct SlowClock;

impl Clock for SlowClock {
    fn now(&self) -> Duration {
        dawdle();
        Duration::ZERO
    }
}

fn overlaps<Op>(history: &[Call<Op>]) -> bool {
    let meet = |a: &Call<Op>, b: &Call<Op>| a.began < b.ended && b.began < a.ended;
    history.iter().any(|a| history.iter().any(|b| a.thread != b.thread && meet(a, b)))
}

fn rounds(usual: u64) -> u64 {
    let scale = env::var("STRESS_SCALE").map_or(1, |scale| scale.parse().expect("a number"));
    if cfg!(miri) { 5 * scale } else { usual * scale }
}

/// Records a history in each round, with `body` on each of `threads`, and checks it. Prints how many
/// histories had calls that overlapped; how many do is up to the machine.
fn check_rounds<M, S>(
    name: &str,
    threads: usize,
    usual: u64,
    make: impl Fn() -> (M, S),
    body: impl Fn(&S, &Recorder<M::Op>, &mut Vec<Call<M::Op>>, usize, &mut Dice) + Sync,
) where
    M: Model,
    M::Op: Clone + std::fmt::Debug + Send,
    S: Sync,
{
    let (rounds, mut overlapping) = (rounds(usual), 0);
    for round in 0..rounds {
        let (model, subject) = make();
        let recorder = Recorder::new(threads);
        thread::scope(|scope| {
            for number in 0..threads {
                let (subject, recorder, body) = (&subject, &recorder, &body);
                scope.spawn(move || {
                    let mut dice = Dice::new(round << 8 | number as u64);
                    let mut calls = Vec::new();
                    recorder.line_up();
                    body(subject, recorder, &mut calls, number, &mut dice);
                    recorder.hand_in(calls);
                });
            }
        });
        let mut history = recorder.calls.into_inner().unwrap();
        history.sort_by_key(|call| call.began);
        overlapping += u64::from(overlaps(&history));
        if !is_right(model, &history) {
            let lines: Vec<_> = history.iter().map(|call| format!("{call:?}")).collect();
            panic!("{name}, round {round}: no order explains this\n{}", lines.join("\n"));
        }
    }
    println!("{name}: {overlapping} of {rounds} histories have calls that overlap");
}

// ---- The budget and its line -----------------------------------------------------------------------

#[derive(Clone, Debug)]
enum BudgetOp {
    /// With why it was refused, if it was.
    Try(u64, Option<Refusal>),
    /// The first poll of request number `0`.
    Join(u64, u64, Polled),
    Poll(u64, Polled),
    /// A future is dropped. Its bytes go back if it had been granted.
    Leave(u64),
    Release(u64),
    Used(u64),
    Close,
    SetLimit(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Polled {
    Granted,
    Pending,
    Refused,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct BudgetModel {
    limit: u64,
    used: u64,
    closed: bool,
    line: VecDeque<(u64, u64)>,
    /// Requests that have left the line and do not know, and whether they have bytes.
    ended: BTreeMap<u64, Option<u64>>,
}

impl BudgetModel {
    fn new(limit: u64) -> Self {
        let (line, ended) = (VecDeque::new(), BTreeMap::new());
        Self { limit, used: 0, closed: false, line, ended }
    }

    fn admits(&self, bytes: u64) -> Option<Refusal> {
        if self.closed {
            Some(Refusal::Closed)
        } else if bytes > self.limit {
            Some(Refusal::TooLarge)
        } else if !self.line.is_empty() || self.used + bytes > self.limit {
            Some(Refusal::Full)
        } else {
            None
        }
    }

    /// Ends the wait of one at the head, if it is over. Others may look before the next one's is.
    fn serve(mut self) -> (Self, bool) {
        let Some(&(request, bytes)) = self.line.front() else { return (self, true) };
        let granted = !self.closed && bytes <= self.limit;
        if granted && self.used + bytes > self.limit {
            return (self, true);
        }
        if granted {
            self.used += bytes;
        }
        self.line.pop_front();
        self.ended.insert(request, granted.then_some(bytes));
        (self, false)
    }
}

impl Model for BudgetModel {
    type Op = BudgetOp;

    fn step(&self, _: usize, op: &BudgetOp, step: u8) -> Vec<(Self, bool)> {
        let mut next = self.clone();
        let possible = match (op, step) {
            (&BudgetOp::Try(bytes, refused), _) => {
                let found = next.admits(bytes);
                if found.is_none() {
                    next.used += bytes;
                }
                found == refused
            }
            (&BudgetOp::Join(request, bytes, polled), _) => {
                let found = match next.admits(bytes) {
                    None => {
                        next.used += bytes;
                        Polled::Granted
                    }
                    Some(Refusal::Full) => {
                        next.line.push_back((request, bytes));
                        Polled::Pending
                    }
                    Some(_) => Polled::Refused,
                };
                found == polled
            }
            (&BudgetOp::Poll(request, polled), _) => {
                let found = match next.ended.remove(&request) {
                    Some(Some(_)) => Polled::Granted,
                    Some(None) => Polled::Refused,
                    None => Polled::Pending,
                };
                found == polled
            }
            (&BudgetOp::Leave(request), 0) => {
                let was_head = next.line.front().is_some_and(|(head, _)| *head == request);
                next.line.retain(|(other, _)| *other != request);
                let granted = next.ended.remove(&request).flatten();
                next.used -= granted.unwrap_or(0);
                return vec![(next, !was_head && granted.is_none())];
            }
            (&BudgetOp::Used(used), _) => used == next.used,
            (&BudgetOp::Release(bytes), 0) => {
                next.used -= bytes;
                return vec![(next, false)];
            }
            (BudgetOp::Close, 0) => {
                next.closed = true;
                return vec![(next, false)];
            }
            (&BudgetOp::SetLimit(limit), 0) => {
                next.limit = limit;
                return vec![(next, false)];
            }
            (_, _) => return vec![next.serve()],
        };
        if possible { vec![(next, true)] } else { Vec::new() }
    }
}

const LIMIT: u64 = 4;

/// Requests are numbered by thread and by their turn in it.
fn on_budget(
    budget: &Budget,
    recorder: &Recorder<BudgetOp>,
    calls: &mut Vec<Call<BudgetOp>>,
    thread: usize,
    dice: &mut Dice,
    kinds: &[u64],
) {
    let mut permits: Vec<Permit<'static>> = Vec::new();
    let mut waiting: Vec<(u64, Request)> = Vec::new();
    for turn in 0..6 {
        let bytes = 1 + dice.below(LIMIT);
        let request = (thread as u64) << 8 | turn;
        let polled = |poll: Poll<Result<Permit<'static>, _>>| match poll {
            Poll::Pending => (Polled::Pending, None),
            Poll::Ready(Ok(permit)) => (Polled::Granted, Some(permit)),
            Poll::Ready(Err(_)) => (Polled::Refused, None),
        };
        match kinds[dice.below(kinds.len() as u64) as usize] {
            0 => permits.extend(recorder.call(calls, thread, || {
                let result = budget.try_acquire(bytes);
                let op = BudgetOp::Try(bytes, result.as_ref().err().map(|e| e.reason()));
                (op, result.ok().map(Permit::into_owned))
            })),
            1 => {
                let mut future = acquire_task(budget, bytes);
                let (polled, permit) = recorder.call(calls, thread, || {
                    let (polled, permit) = polled(poll(&mut future, &slow_waker()));
                    (BudgetOp::Join(request, bytes, polled), (polled, permit))
                });
                permits.extend(permit);
                if polled == Polled::Pending {
                    waiting.push((request, future));
                }
            }
            2 => {
                let Some((request, mut future)) = dice.draw(&mut waiting) else { continue };
                let (polled, permit) = recorder.call(calls, thread, || {
                    let (polled, permit) = polled(poll(&mut future, &slow_waker()));
                    (BudgetOp::Poll(request, polled), (polled, permit))
                });
                permits.extend(permit);
                if polled == Polled::Pending {
                    waiting.push((request, future));
                }
            }
            3 => {
                let Some((request, future)) = dice.draw(&mut waiting) else { continue };
                recorder.call(calls, thread, || (BudgetOp::Leave(request), drop(future)));
            }
            4 => {
                let Some(permit) = dice.draw(&mut permits) else { continue };
                let op = BudgetOp::Release(permit.bytes());
                recorder.call(calls, thread, || (op, drop(permit)));
            }
            5 => recorder.call(calls, thread, || (BudgetOp::Used(budget.used()), ())),
            6 if dice.once_in(4) => recorder.call(calls, thread, || {
                budget.close();
                (BudgetOp::Close, ())
            }),
            7 => recorder.call(calls, thread, || {
                budget.set_limit(bytes);
                (BudgetOp::SetLimit(bytes), ())
            }),
            _ => {}
        }
    }
    // What is still there goes, on the record.
    for permit in permits {
        let op = BudgetOp::Release(permit.bytes());
        recorder.call(calls, thread, || (op, drop(permit)));
    }
    for (request, future) in waiting {
        recorder.call(calls, thread, || (BudgetOp::Leave(request), drop(future)));
    }
}

fn new_budget() -> (BudgetModel, Budget) {
    (BudgetModel::new(LIMIT), Budget::new(LIMIT))
}

#[test]
fn trying_and_releasing_and_closing() {
    check_rounds("try", 3, 2_000, new_budget, |budget, recorder, calls, thread, dice| {
        on_budget(budget, recorder, calls, thread, dice, &[0, 0, 0, 4, 4, 5, 6]);
    });
}

/// Grants come in the order of joining, whatever is released, dropped and tried meanwhile.
#[test]
fn the_line() {
    check_rounds("line", 3, 1_000, new_budget, |budget, recorder, calls, thread, dice| {
        on_budget(budget, recorder, calls, thread, dice, &[0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4]);
    });
}

#[test]
fn the_line_of_a_limit_that_moves_and_of_a_budget_that_closes() {
    check_rounds("limit", 3, 1_000, new_budget, |budget, recorder, calls, thread, dice| {
        on_budget(budget, recorder, calls, thread, dice, &[1, 1, 1, 2, 2, 3, 4, 6, 7, 7]);
    });
}

// ---- The stash -------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum StashOp {
    /// Entry number, size, and why it was refused, if it was.
    Put(u64, u64, Option<Refusal>),
    /// Entry number, size, whether by its owner, and whether the payload came.
    Take(u64, u64, bool, bool),
    Clear(usize),
    Used(u64),
    Close,
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Clearing {
    /// What was there when it began.
    all: BTreeSet<u64>,
    count: usize,
    bytes: u64,
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct StashModel {
    used: u64,
    closed: bool,
    /// Number and size.
    entries: BTreeMap<u64, u64>,
    /// By call.
    clearing: BTreeMap<usize, Clearing>,
}

impl Model for StashModel {
    type Op = StashOp;

    fn step(&self, call: usize, op: &StashOp, step: u8) -> Vec<(Self, bool)> {
        let mut next = self.clone();
        let possible = match (op, step) {
            (&StashOp::Put(_, size, refused), 0) => {
                let found = if self.closed {
                    Some(Refusal::Closed)
                } else {
                    (self.used + size > ROOM).then_some(Refusal::Full)
                };
                if found == refused && refused.is_none() {
                    next.used += size;
                    return vec![(next, false)];
                }
                found == refused
            }
            (&StashOp::Put(entry, size, _), _) => next.entries.insert(entry, size).is_none(),
            (&StashOp::Take(entry, _, owner, true), 0) => {
                if owner && next.entries.remove(&entry).is_some() {
                    return vec![(next, false)];
                }
                false
            }
            (&StashOp::Take(entry, _, owner, false), _) => {
                !owner || !self.entries.contains_key(&entry)
            }
            (&StashOp::Take(_, size, _, true), _) => {
                next.used -= size;
                true
            }
            (StashOp::Clear(_), 0) => {
                let all = self.entries.keys().copied().collect();
                next.clearing.insert(call, Clearing { all, ..Clearing::default() });
                return vec![(next, false)];
            }
            (&StashOp::Clear(count), _) => return self.clear_on(call, count),
            (&StashOp::Used(used), _) => used == self.used,
            (StashOp::Close, _) => {
                next.closed = true;
                true
            }
        };
        if possible { vec![(next, true)] } else { Vec::new() }
    }
}

impl StashModel {
    /// Removes any one, or is done if it has removed as many as it says, and none of those remain that
    /// were there at the beginning.
    fn clear_on(&self, call: usize, count: usize) -> Vec<(Self, bool)> {
        let mut nexts = Vec::new();
        let clearing = &self.clearing[&call];
        if clearing.count < count {
            for (entry, size) in &self.entries {
                let mut next = self.clone();
                next.entries.remove(entry);
                let clearing = next.clearing.get_mut(&call).unwrap();
                clearing.count += 1;
                clearing.bytes += size;
                nexts.push((next, false));
            }
        } else if clearing.all.iter().all(|entry| !self.entries.contains_key(entry)) {
            let mut next = self.clone();
            next.used -= clearing.bytes;
            next.clearing.remove(&call);
            nexts.push((next, true));
        }
        nexts
    }
}

const ROOM: u64 = 8;

struct Sized(u64);

impl Hash for Guest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        dawdle();
        self.0.hash(state);
    }
}

/// An owner whose `Eq` is asked while its entry is won.
struct Guest(u64);

impl PartialEq for Guest {
    fn eq(&self, other: &Self) -> bool {
        dawdle();
        self.0 == other.0
    }
}

impl Eq for Guest {}

impl Payload for Sized {
    fn size(&self) -> usize {
        self.0 as usize
    }
}

/// A stash, and the tickets of what was put: number, size, ticket.
type Board = (Stash<Sized, Guest>, Mutex<Vec<(u64, u64, Ticket)>>);

fn new_stash() -> (StashModel, Board) {
    let stash =
        Stash::builder().max_bytes(ROOM).entry_overhead(0).clock(SlowClock).build().unwrap();
    (StashModel::default(), (stash, Mutex::default()))
}

fn on_stash(
    (stash, board): &Board,
    recorder: &Recorder<StashOp>,
    calls: &mut Vec<Call<StashOp>>,
    thread: usize,
    dice: &mut Dice,
) {
    for turn in 0..5 {
        let (entry, size) = ((thread as u64) << 8 | turn, dice.below(ROOM / 2 + 1));
        match dice.below(12) {
            0..5 => {
                let ticket = recorder.call(calls, thread, || {
                    let result = stash.try_put(Guest(7), Sized(size));
                    let op = StashOp::Put(entry, size, result.as_ref().err().map(|e| e.reason()));
                    (op, result.ok())
                });
                board.lock().unwrap().extend(ticket.map(|ticket| (entry, size, ticket)));
            }
            5..9 => {
                // Stays on the board: another may be at it too.
                let chosen = {
                    let board = board.lock().unwrap();
                    let newest = board.len().saturating_sub(3);
                    let at = newest + dice.below(3) as usize;
                    board.get(at).copied()
                };
                let Some((entry, size, ticket)) = chosen else { continue };
                let owner = !dice.once_in(4);
                recorder.call(calls, thread, || {
                    let taken = stash.take(&ticket, &Guest(if owner { 7 } else { 8 }));
                    assert!(taken.as_ref().is_none_or(|payload| payload.0 == size));
                    (StashOp::Take(entry, size, owner, taken.is_some()), ())
                });
            }
            9 => recorder.call(calls, thread, || (StashOp::Clear(stash.clear()), ())),
            10 if dice.once_in(8) => recorder.call(calls, thread, || {
                stash.close();
                (StashOp::Close, ())
            }),
            _ => recorder.call(calls, thread, || (StashOp::Used(stash.used_bytes()), ())),
        }
    }
}

#[test]
fn putting_and_taking_and_clearing() {
    check_rounds("stash", 3, 1_000, new_stash, on_stash);
}

// ---- The search itself -----------------------------------------------------------------------------

/// Calls that follow each other, each by a thread of its own.
fn in_turn<Op>(ops: impl IntoIterator<Item = Op>) -> Vec<Call<Op>> {
    let numbered = ops.into_iter().enumerate();
    numbered
        .map(|(at, op)| {
            let began = 2 * at as u64;
            Call { thread: at, began, ended: began + 1, op }
        })
        .collect()
}

#[test]
fn the_search_notices() {
    use BudgetOp::*;
    let right = |ops: Vec<BudgetOp>| is_right(BudgetModel::new(4), &in_turn(ops));
    let full = Some(Refusal::Full);
    assert!(right(vec![Try(4, None), Try(1, full), Release(4), Try(1, None)]));
    assert!(!right(vec![Try(4, None), Try(1, None)]), "above the limit");
    assert!(!right(vec![Try(4, None), Release(4), Try(1, full)]), "refused for nothing");
    let joined = |first| {
        let second = if first == 1 { 2 } else { 1 };
        let ops = [
            Try(4, None),
            Join(1, 3, Polled::Pending),
            Join(2, 3, Polled::Pending),
            Release(4),
            Poll(second, Polled::Pending),
            Poll(first, Polled::Granted),
        ];
        right(ops.to_vec())
    };
    assert!(joined(1));
    assert!(!joined(2), "overtaken");
    let lost = vec![
        Try(3, None),
        Join(1, 4, Polled::Pending),
        Join(2, 1, Polled::Pending),
        Leave(1),
        Poll(2, Polled::Pending),
    ];
    assert!(!right(lost), "the next was not served");

    let right = |ops: Vec<StashOp>| is_right(StashModel::default(), &in_turn(ops));
    let put = StashOp::Put(1, 5, None);
    let take = StashOp::Take(1, 5, true, true);
    assert!(right(vec![put.clone(), take.clone(), StashOp::Used(0)]));
    assert!(!right(vec![put.clone(), take.clone(), take.clone()]), "delivered twice");
    assert!(!right(vec![put.clone(), StashOp::Clear(0)]), "left by a clear");
    assert!(!right(vec![put, StashOp::Clear(1), take]), "delivered after a clear");

    // The same two calls, one after the other and at the same time.
    let mut two = in_turn([Try(1, full), Try(4, None)]);
    assert!(!is_right(BudgetModel::new(4), &two));
    assert!(!overlaps(&two));
    two[0].ended = 4;
    assert!(is_right(BudgetModel::new(4), &two));
    assert!(overlaps(&two));
}
