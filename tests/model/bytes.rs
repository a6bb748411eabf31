//! Scripts as bytes, so that a fuzzer can write them: any bytes are a script.
//!
//! A step is a byte that says which, and a byte for each of its numbers, so that bytes that are changed,
//! inserted or removed change few steps. What is cut off at the end is no step.

use super::{
    BudgetStep, Disagreement, Index, LIMIT, OVERHEADS, OWNERS, StashStep, TTL_TICKS, run_budget,
    run_stash,
};

/// Of a longer script only that many steps are read: each step looks at all that came before.
const MAX_STEPS: usize = 200;

#[derive(Clone, Debug, PartialEq)]
pub enum Script {
    Budget(Vec<BudgetStep>),
    /// With the entry overhead.
    Stash(u64, Vec<StashStep>),
}

impl Script {
    pub fn decode(mut bytes: &[u8]) -> Self {
        let kind = byte(&mut bytes).map_or(0, |kind| u64::from(kind) % (OVERHEADS + 1));
        if kind == OVERHEADS {
            Script::Budget(steps(bytes, budget_step))
        } else {
            Script::Stash(kind, steps(bytes, stash_step))
        }
    }

    /// The bytes that `decode` makes this script of.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Script::Budget(steps) => {
                let mut bytes = vec![OVERHEADS as u8];
                steps.iter().for_each(|step| encode_budget_step(step, &mut bytes));
                bytes
            }
            Script::Stash(overhead, steps) => {
                let mut bytes = vec![*overhead as u8];
                steps.iter().for_each(|step| encode_stash_step(step, &mut bytes));
                bytes
            }
        }
    }

    pub fn run(self) -> Result<(), Disagreement> {
        match self {
            Script::Budget(script) => run_budget(script),
            Script::Stash(overhead, script) => run_stash(overhead, script),
        }
    }
}

fn steps<T>(mut bytes: &[u8], step: fn(&mut &[u8]) -> Option<T>) -> Vec<T> {
    std::iter::from_fn(|| step(&mut bytes)).take(MAX_STEPS).collect()
}

fn byte(bytes: &mut &[u8]) -> Option<u8> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(first)
}

fn index(bytes: &mut &[u8]) -> Option<Index> {
    byte(bytes).map(Index)
}

/// At most `max`.
fn number(bytes: &mut &[u8], max: u64) -> Option<u64> {
    byte(bytes).map(|byte| u64::from(byte) % (max + 1))
}

/// At most one more than what can ever fit.
fn size(bytes: &mut &[u8]) -> Option<u64> {
    number(bytes, LIMIT + 1)
}

fn flag(bytes: &mut &[u8]) -> Option<bool> {
    byte(bytes).map(|byte| byte % 2 == 1)
}

fn owner(bytes: &mut &[u8]) -> Option<u8> {
    byte(bytes).map(|byte| byte % OWNERS)
}

fn bits(bytes: &mut &[u8]) -> Option<u128> {
    let (&first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u128::from_le_bytes(first))
}

fn budget_step(b: &mut &[u8]) -> Option<BudgetStep> {
    use BudgetStep::*;
    Some(match byte(b)? % 14 {
        0 => Try(size(b)?),
        1 => TimeoutZero(size(b)?),
        2 => Request(size(b)?),
        3 => Poll(index(b)?, flag(b)?),
        4 => Fire(index(b)?),
        5 => Cancel(index(b)?),
        6 => Release(index(b)?),
        7 => Split(index(b)?, size(b)?),
        8 => Merge(index(b)?, index(b)?),
        9 => Shrink(index(b)?, size(b)?),
        10 => IntoOwned(index(b)?),
        11 => Forget(index(b)?),
        12 => SetLimit(number(b, 2 * LIMIT)?),
        _ => Close,
    })
}

fn encode_budget_step(step: &BudgetStep, bytes: &mut Vec<u8>) {
    use BudgetStep::*;
    match *step {
        Try(size) => bytes.extend([0, size as u8]),
        TimeoutZero(size) => bytes.extend([1, size as u8]),
        Request(size) => bytes.extend([2, size as u8]),
        Poll(waiter, new_waker) => bytes.extend([3, waiter.0, new_waker.into()]),
        Fire(waiter) => bytes.extend([4, waiter.0]),
        Cancel(waiter) => bytes.extend([5, waiter.0]),
        Release(permit) => bytes.extend([6, permit.0]),
        Split(permit, size) => bytes.extend([7, permit.0, size as u8]),
        Merge(into, from) => bytes.extend([8, into.0, from.0]),
        Shrink(permit, to) => bytes.extend([9, permit.0, to as u8]),
        IntoOwned(permit) => bytes.extend([10, permit.0]),
        Forget(permit) => bytes.extend([11, permit.0]),
        SetLimit(limit) => bytes.extend([12, limit as u8]),
        Close => bytes.push(13),
    }
}

fn stash_step(b: &mut &[u8]) -> Option<StashStep> {
    use StashStep::*;
    Some(match byte(b)? % 12 {
        0 => TryPut(owner(b)?, size(b)?),
        1 => TimeoutZero(owner(b)?, size(b)?),
        2 => Put(owner(b)?, size(b)?),
        3 => Poll(index(b)?, flag(b)?),
        4 => Fire(index(b)?),
        5 => Cancel(index(b)?),
        6 => Take(index(b)?, owner(b)?),
        7 => TakeForged(bits(b)?, owner(b)?),
        8 => Gc,
        9 => Clear,
        10 => Advance(number(b, TTL_TICKS)?),
        _ => Close,
    })
}

fn encode_stash_step(step: &StashStep, bytes: &mut Vec<u8>) {
    use StashStep::*;
    match *step {
        TryPut(owner, size) => bytes.extend([0, owner, size as u8]),
        TimeoutZero(owner, size) => bytes.extend([1, owner, size as u8]),
        Put(owner, size) => bytes.extend([2, owner, size as u8]),
        Poll(waiter, new_waker) => bytes.extend([3, waiter.0, new_waker.into()]),
        Fire(waiter) => bytes.extend([4, waiter.0]),
        Cancel(waiter) => bytes.extend([5, waiter.0]),
        Take(ticket, off) => bytes.extend([6, ticket.0, off]),
        TakeForged(bits, owner) => {
            bytes.push(7);
            bytes.extend(bits.to_le_bytes());
            bytes.push(owner);
        }
        Gc => bytes.push(8),
        Clear => bytes.push(9),
        Advance(ticks) => bytes.extend([10, ticks as u8]),
        Close => bytes.push(11),
    }
}
