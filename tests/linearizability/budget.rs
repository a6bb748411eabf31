//! The budget and its wait queue.

use std::collections::{BTreeMap, VecDeque};
use std::task::Poll;

use cloakroom::{AcquireError, Budget, Permit, Refusal};

use crate::recording::{Recorder, check_rounds, slow_waker};
use crate::search::{Call, Model};
use crate::support::random::Rng;
use crate::support::{Request, acquire_task, poll};

#[derive(Clone, Debug)]
pub(crate) enum BudgetOp {
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
pub(crate) enum Polled {
    Granted,
    Pending,
    Refused(Refusal),
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct BudgetModel {
    limit: u64,
    used: u64,
    closed: bool,
    queue: VecDeque<(u64, u64)>,
    /// Requests that have left the queue and have not been polled since: the bytes, or why not.
    pub(crate) ended: BTreeMap<u64, Result<u64, Refusal>>,
    max_waiting: usize,
}

impl BudgetModel {
    pub(crate) fn new(limit: u64) -> Self {
        let (queue, ended) = (VecDeque::new(), BTreeMap::new());
        Self { limit, used: 0, closed: false, queue, ended, max_waiting: usize::MAX }
    }

    /// The second step of a request's first poll, whose first step found no room.
    fn join(&self, request: u64, bytes: u64, polled: Polled) -> Vec<(Self, bool)> {
        match (self.admits(bytes), polled) {
            (None, Polled::Granted) => {
                vec![(Self { used: self.used + bytes, ..self.clone() }, true)]
            }
            (Some(Refusal::Full), Polled::Refused(Refusal::QueueFull))
                if self.queue.len() >= self.max_waiting =>
            {
                vec![(self.clone(), true)]
            }
            (Some(Refusal::Full), Polled::Pending) if self.queue.len() < self.max_waiting => {
                let mut next = self.clone();
                next.queue.push_back((request, bytes));
                vec![(next, true)]
            }
            (Some(found), Polled::Refused(refused))
                if found == refused && found != Refusal::Full =>
            {
                vec![(self.clone(), true)]
            }
            _ => Vec::new(),
        }
    }

    fn admits(&self, bytes: u64) -> Option<Refusal> {
        if self.closed {
            Some(Refusal::Closed)
        } else if bytes > self.limit {
            Some(Refusal::TooLarge)
        } else if !self.queue.is_empty() || self.used + bytes > self.limit {
            Some(Refusal::Full)
        } else {
            None
        }
    }

    /// Ends the wait of the head, if it is over. Other calls may come before the next wait ends.
    fn serve(mut self) -> (Self, bool) {
        let Some(&(request, bytes)) = self.queue.front() else { return (self, true) };
        let outcome = if self.closed {
            Err(Refusal::Closed)
        } else if bytes > self.limit {
            Err(Refusal::TooLarge)
        } else if self.used + bytes > self.limit {
            return (self, true);
        } else {
            self.used += bytes;
            Ok(bytes)
        };
        self.queue.pop_front();
        self.ended.insert(request, outcome);
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
            (&BudgetOp::Join(_, bytes, polled), 0) => match next.admits(bytes) {
                None => {
                    next.used += bytes;
                    polled == Polled::Granted
                }
                Some(Refusal::Full) => return vec![(next, false)],
                Some(refused) => polled == Polled::Refused(refused),
            },
            (&BudgetOp::Join(request, bytes, polled), _) => {
                return self.join(request, bytes, polled);
            }
            (&BudgetOp::Poll(request, polled), _) => {
                let found = match next.ended.remove(&request) {
                    Some(Ok(_)) => Polled::Granted,
                    Some(Err(refused)) => Polled::Refused(refused),
                    None => Polled::Pending,
                };
                found == polled
            }
            (&BudgetOp::Leave(request), 0) => {
                let was_head = next.queue.front().is_some_and(|(head, _)| *head == request);
                next.queue.retain(|(other, _)| *other != request);
                let granted = next.ended.remove(&request).and_then(Result::ok);
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

pub(crate) const LIMIT: u64 = 4;

/// Requests are numbered by thread and by their turn in it.
pub(crate) fn on_budget(
    budget: &Budget,
    recorder: &Recorder<BudgetOp>,
    calls: &mut Vec<Call<BudgetOp>>,
    thread: usize,
    rng: &mut Rng,
    kinds: &[u64],
) {
    let mut permits: Vec<Permit<'static>> = Vec::new();
    let mut waiting: Vec<(u64, Request)> = Vec::new();
    for turn in 0..6 {
        let bytes = 1 + rng.below(LIMIT);
        let request = (thread as u64) << 8 | turn;
        let polled = |poll: Poll<Result<Permit<'static>, AcquireError>>| match poll {
            Poll::Pending => (Polled::Pending, None),
            Poll::Ready(Ok(permit)) => (Polled::Granted, Some(permit)),
            Poll::Ready(Err(refusal)) => (Polled::Refused(refusal.reason()), None),
        };
        match kinds[rng.below(kinds.len() as u64) as usize] {
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
                let Some((request, mut future)) = rng.draw(&mut waiting) else { continue };
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
                let Some((request, future)) = rng.draw(&mut waiting) else { continue };
                recorder.call(calls, thread, || (BudgetOp::Leave(request), drop(future)));
            }
            4 => {
                let Some(permit) = rng.draw(&mut permits) else { continue };
                let op = BudgetOp::Release(permit.bytes());
                recorder.call(calls, thread, || (op, drop(permit)));
            }
            5 => recorder.call(calls, thread, || (BudgetOp::Used(budget.used()), ())),
            6 if rng.once_in(4) => recorder.call(calls, thread, || {
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

pub(crate) fn new_budget() -> (BudgetModel, Budget) {
    (BudgetModel::new(LIMIT), Budget::new(LIMIT))
}

#[test]
pub(crate) fn trying_and_releasing_and_closing() {
    check_rounds("try", 3, 2_000, new_budget, |budget, recorder, calls, thread, rng| {
        on_budget(budget, recorder, calls, thread, rng, &[0, 0, 0, 4, 4, 5, 6]);
    });
}

/// Grants come in the order of joining, whatever is released, dropped and tried meanwhile.
#[test]
pub(crate) fn the_wait_queue() {
    check_rounds("queue", 3, 1_000, new_budget, |budget, recorder, calls, thread, rng| {
        on_budget(budget, recorder, calls, thread, rng, &[0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4]);
    });
}

#[test]
pub(crate) fn the_wait_queue_while_the_limit_moves_and_the_budget_closes() {
    check_rounds("limit", 3, 1_000, new_budget, |budget, recorder, calls, thread, rng| {
        on_budget(budget, recorder, calls, thread, rng, &[1, 1, 1, 2, 2, 3, 4, 6, 7, 7]);
    });
}

/// All refusals: of a queue for one, of a limit that moves, of a close.
#[test]
pub(crate) fn w20_every_refusal_is_one_that_an_order_explains() {
    let make = || {
        let (mut model, budget) = new_budget();
        model.max_waiting = 1;
        budget.set_max_waiting(1);
        (model, budget)
    };
    check_rounds("refusals", 3, 2_000, make, |budget, recorder, calls, thread, rng| {
        on_budget(budget, recorder, calls, thread, rng, &[0, 0, 1, 1, 1, 2, 3, 4, 4, 6, 7, 7]);
    });
}
