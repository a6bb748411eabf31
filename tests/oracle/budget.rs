//! A budget alone, against the model of it.

use std::task::Poll;
use std::time::Duration;

use cloakroom::{Acquire, AcquireError, Budget, Never, Permit, Refusal, Until};

use super::queue::{ModelBudget, Tier, numbers_of};
use super::{Disagreement, Fired, Index, LIMIT, Waiter, WakeLog, Who, agree};

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
    expected: Result<Tier, Refusal>,
    actual: Result<Permit<'a>, AcquireError>,
) -> Result<Option<Permit<'a>>, Disagreement> {
    match (expected, actual) {
        (Ok(_), Ok(permit)) => {
            agree!(permit.bytes(), bytes);
            Ok(Some(permit))
        }
        (Err(reason), Err(e)) => {
            agree!(numbers_of(&e), model.numbers(reason, bytes));
            Ok(None)
        }
        (expected, actual) => Err(format!("{bytes}: {expected:?}, not {actual:?}")),
    }
}

pub fn run_budget(script: Vec<BudgetStep>) -> Result<(), Disagreement> {
    let budget = Budget::new(LIMIT);
    let mut model = ModelBudget::new(LIMIT);
    let log = WakeLog::default();
    type Waiting<'a> = Waiter<Acquire<'a, Until<Never, Fired>>>;
    let mut waiters: Vec<Option<Waiting<'_>>> = Vec::new();
    let mut permits: Vec<Permit<'_>> = Vec::new();
    // What each permit must hold, and what was forgotten.
    let mut held: Vec<u64> = Vec::new();
    let mut forgotten = 0;

    for step in script {
        let permit_at = |index: Index| index.of(held.len());
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
                waiters
                    .push(Some(Waiter::new(|fired| Box::pin(budget.acquire(bytes).until(fired)))));
            }
            BudgetStep::Poll(index, new_waker) => {
                let Some(at) = model.pick(index) else { continue };
                let Some(waiter) = &mut waiters[at] else { continue };
                let bytes = model.waiters[at].need;
                let expected = model.poll(at, new_waker);
                match (expected, waiter.poll(&log, Who::Waiter(at), new_waker)) {
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
                model.set_limit(limit);
            }
            BudgetStep::Close => {
                agree!(budget.close(), model.close());
            }
        }
        agree!(*log.lock().unwrap(), model.woken);
        agree!((budget.used(), budget.is_closed()), (model.used, model.closed));
        agree!(budget.limit(), model.limit);
        agree!(budget.waiting(), model.queue.len());
        for (permit, bytes) in permits.iter().zip(&held) {
            agree!(permit.bytes(), *bytes);
        }
    }
    drop(waiters);
    drop(permits);
    agree!((budget.used(), budget.waiting()), (forgotten, 0));
    Ok(())
}
