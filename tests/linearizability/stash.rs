//! The stash: puts, takes and clears.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::sync::Mutex;

use cloakroom::{Payload, Refusal, Stash, Ticket};

use crate::recording::{Recorder, SlowClock, check_rounds, yield_now};
use crate::search::{Call, Model};
use crate::support::random::Rng;

#[derive(Clone, Debug)]
pub(crate) enum StashOp {
    /// Entry number, charge, and why it was refused, if it was.
    Put(u64, u64, Option<Refusal>),
    /// Entry number, charge, whether by its owner, and whether the payload came.
    Take(u64, u64, bool, bool),
    Clear(usize),
    Used(u64),
    Close,
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Clearing {
    /// What was there when it began.
    all: BTreeSet<u64>,
    count: usize,
    bytes: u64,
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct StashModel {
    used: u64,
    closed: bool,
    /// Number and charge.
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

pub(crate) const ROOM: u64 = 8;

pub(crate) struct Sized(pub(crate) u64);

impl Hash for SlowOwner {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        yield_now();
        self.0.hash(state);
    }
}

/// An owner whose `Eq` is asked while its entry is won.
pub(crate) struct SlowOwner(u64);

impl PartialEq for SlowOwner {
    fn eq(&self, other: &Self) -> bool {
        yield_now();
        self.0 == other.0
    }
}

impl Eq for SlowOwner {}

/// Without an overhead, an empty payload is charged a byte.
fn charge(size: u64) -> u64 {
    size.max(1)
}

impl Payload for Sized {
    fn size(&self) -> usize {
        self.0 as usize
    }
}

/// A stash, and the tickets of what was put: number, size, ticket.
type StashAndTickets = (Stash<Sized, SlowOwner>, Mutex<Vec<(u64, u64, Ticket)>>);

pub(crate) fn new_stash() -> (StashModel, StashAndTickets) {
    let stash =
        Stash::builder().max_bytes(ROOM).entry_overhead(0).clock(SlowClock).build().unwrap();
    (StashModel::default(), (stash, Mutex::default()))
}

pub(crate) fn on_stash(
    (stash, tickets): &StashAndTickets,
    recorder: &Recorder<StashOp>,
    calls: &mut Vec<Call<StashOp>>,
    thread: usize,
    rng: &mut Rng,
) {
    for turn in 0..5 {
        let (entry, size) = ((thread as u64) << 8 | turn, rng.below(ROOM / 2 + 1));
        match rng.below(12) {
            0..5 => {
                let ticket = recorder.call(calls, thread, || {
                    let result = stash.try_put(SlowOwner(7), Sized(size));
                    let op = StashOp::Put(
                        entry,
                        charge(size),
                        result.as_ref().err().map(|e| e.reason()),
                    );
                    (op, result.ok())
                });
                tickets.lock().unwrap().extend(ticket.map(|ticket| (entry, size, ticket)));
            }
            5..9 => {
                // Stays in the list: another thread may take it at the same time.
                let chosen = {
                    let tickets = tickets.lock().unwrap();
                    let newest = tickets.len().saturating_sub(3);
                    let at = newest + rng.below(3) as usize;
                    tickets.get(at).copied()
                };
                let Some((entry, size, ticket)) = chosen else { continue };
                let owner = !rng.once_in(4);
                recorder.call(calls, thread, || {
                    let taken = stash.take(&ticket, &SlowOwner(if owner { 7 } else { 8 }));
                    assert!(taken.as_ref().is_none_or(|payload| payload.0 == size));
                    (StashOp::Take(entry, charge(size), owner, taken.is_some()), ())
                });
            }
            9 => recorder.call(calls, thread, || (StashOp::Clear(stash.clear()), ())),
            10 if rng.once_in(8) => recorder.call(calls, thread, || {
                stash.close();
                (StashOp::Close, ())
            }),
            _ => recorder.call(calls, thread, || (StashOp::Used(stash.used_bytes()), ())),
        }
    }
}

#[test]
pub(crate) fn putting_and_taking_and_clearing() {
    check_rounds("stash", 3, 1_000, new_stash, on_stash);
}
