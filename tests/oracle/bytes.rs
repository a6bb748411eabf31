//! Scripts as bytes, so that a fuzzer can write them: any bytes are a script.
//!
//! A step is a byte that says which, and a byte for each of its numbers, so that bytes that are changed,
//! inserted or removed change few steps. What is cut off at the end is no step.

use super::budget::{BudgetStep, run_budget};
use super::stash::{
    End, How, MAX_MAX_WAITING, MAX_MAX_WAITING_BYTES, MAX_OVERFLOW, MAX_SIZE, OVERHEADS, OWNERS,
    Settings, StashStep, TTL_TICKS, run_stash,
};
use super::{Disagreement, Index, LIMIT};

/// The most steps that are read of a script: each step compares everything that came before.
const MAX_STEPS: usize = 200;

#[derive(Clone, Debug, PartialEq)]
pub enum Script {
    Budget(Vec<BudgetStep>),
    Stash(Settings, Vec<StashStep>),
}

impl Script {
    pub fn decode(mut bytes: &[u8]) -> Self {
        let kind = byte(&mut bytes).map_or(0, |kind| u64::from(kind) % (OVERHEADS + 1));
        if kind == OVERHEADS {
            return Script::Budget(steps(bytes, budget_step));
        }
        let plain = Settings { overhead: kind, ..Settings::default() };
        let settings = settings(kind, &mut bytes).unwrap_or(plain);
        Script::Stash(settings, steps(bytes, stash_step))
    }

    /// The bytes that `decode` makes this script of.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Script::Budget(steps) => {
                let mut bytes = vec![OVERHEADS as u8];
                steps.iter().for_each(|step| encode_budget_step(step, &mut bytes));
                bytes
            }
            Script::Stash(settings, steps) => {
                let Settings {
                    overhead,
                    overflow,
                    per_owner,
                    max_waiting,
                    max_waiting_bytes,
                    weighs_owners,
                } = *settings;
                let mut bytes = vec![
                    overhead as u8,
                    encode_maybe(overflow, 1),
                    encode_maybe(per_owner, OVERHEADS),
                    encode_maybe(max_waiting, 0),
                    encode_maybe(max_waiting_bytes, 0),
                    u8::from(weighs_owners),
                ];
                steps.iter().for_each(|step| encode_stash_step(step, &mut bytes));
                bytes
            }
        }
    }

    pub fn run(self) -> Result<(), Disagreement> {
        match self {
            Script::Budget(script) => run_budget(script),
            Script::Stash(settings, script) => run_stash(settings, script),
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

/// As `size`, of an entry.
fn stash_size(bytes: &mut &[u8]) -> Option<u64> {
    number(bytes, MAX_SIZE)
}

/// Nothing, or from `min` to `max`.
fn maybe(bytes: &mut &[u8], min: u64, max: u64) -> Option<Option<u64>> {
    number(bytes, max - min + 1).map(|n| n.checked_sub(1).map(|n| n + min))
}

fn encode_maybe(n: Option<u64>, min: u64) -> u8 {
    n.map_or(0, |n| n - min + 1) as u8
}

fn settings(overhead: u64, bytes: &mut &[u8]) -> Option<Settings> {
    Some(Settings {
        overhead,
        overflow: maybe(bytes, 1, MAX_OVERFLOW)?,
        per_owner: maybe(bytes, OVERHEADS, LIMIT)?,
        max_waiting: maybe(bytes, 0, MAX_MAX_WAITING)?,
        max_waiting_bytes: maybe(bytes, 0, MAX_MAX_WAITING_BYTES)?,
        weighs_owners: flag(bytes)?,
    })
}

fn ttl(bytes: &mut &[u8]) -> Option<Option<u64>> {
    maybe(bytes, 0, 2 * TTL_TICKS)
}

fn how(bytes: &mut &[u8]) -> Option<How> {
    number(bytes, 3).map(|how| How::ALL[how as usize])
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
    Some(match byte(b)? % 28 {
        0 => Put(How::Try, owner(b)?, stash_size(b)?, ttl(b)?),
        1 => Put(how(b)?, owner(b)?, stash_size(b)?, ttl(b)?),
        2 => Reserve(how(b)?, maybe(b, 0, u64::from(OWNERS) - 1)?.map(|n| n as u8), stash_size(b)?),
        3 => Permit(how(b)?, stash_size(b)?),
        4 => Poll(index(b)?, flag(b)?),
        5 => Fire(index(b)?),
        6 => Cancel(index(b)?),
        7 => PutReserved(index(b)?, owner(b)?, stash_size(b)?, ttl(b)?),
        8 => ShrinkReservation(index(b)?, stash_size(b)?),
        9 => DropReservation(index(b)?),
        10 => ShrinkPermit(index(b)?, stash_size(b)?),
        11 => DropPermit(index(b)?),
        12 => Take(index(b)?, owner(b)?),
        13 => TakeForged(bits(b)?, owner(b)?),
        14 => Claim(index(b)?, owner(b)?),
        15 => EndClaim(index(b)?, End::ALL[number(b, 7)? as usize]),
        16 => CloneBytes(index(b)?),
        17 => DropBytes(index(b)?),
        18 => Gc,
        19 => Clear,
        20 => Advance(number(b, TTL_TICKS)?),
        21 => SetMaxBytes(number(b, 2 * LIMIT)?),
        22 => Close,
        23 => Drained,
        24 => PollDrained(index(b)?, flag(b)?),
        25 => DropDrained(index(b)?),
        26 => Renew(index(b)?, number(b, 2 * TTL_TICKS)?),
        _ => Unsent(index(b)?, owner(b)?),
    })
}

fn encode_stash_step(step: &StashStep, bytes: &mut Vec<u8>) {
    use StashStep::*;
    match *step {
        Put(How::Try, owner, size, ttl) => {
            bytes.extend([0, owner, size as u8, encode_maybe(ttl, 0)]);
        }
        Put(how, owner, size, ttl) => {
            bytes.extend([1, how as u8, owner, size as u8, encode_maybe(ttl, 0)]);
        }
        Reserve(how, owner, size) => {
            bytes.extend([2, how as u8, encode_maybe(owner.map(u64::from), 0), size as u8]);
        }
        Permit(how, size) => bytes.extend([3, how as u8, size as u8]),
        Poll(waiter, new_waker) => bytes.extend([4, waiter.0, new_waker.into()]),
        Fire(waiter) => bytes.extend([5, waiter.0]),
        Cancel(waiter) => bytes.extend([6, waiter.0]),
        PutReserved(room, owner, size, ttl) => {
            bytes.extend([7, room.0, owner, size as u8, encode_maybe(ttl, 0)]);
        }
        ShrinkReservation(room, to) => bytes.extend([8, room.0, to as u8]),
        DropReservation(room) => bytes.extend([9, room.0]),
        ShrinkPermit(permit, to) => bytes.extend([10, permit.0, to as u8]),
        DropPermit(permit) => bytes.extend([11, permit.0]),
        Take(ticket, off) => bytes.extend([12, ticket.0, off]),
        TakeForged(bits, owner) => {
            bytes.push(13);
            bytes.extend(bits.to_le_bytes());
            bytes.push(owner);
        }
        Claim(ticket, off) => bytes.extend([14, ticket.0, off]),
        EndClaim(claim, end) => bytes.extend([15, claim.0, end as u8]),
        CloneBytes(at) => bytes.extend([16, at.0]),
        DropBytes(at) => bytes.extend([17, at.0]),
        Gc => bytes.push(18),
        Clear => bytes.push(19),
        Advance(ticks) => bytes.extend([20, ticks as u8]),
        SetMaxBytes(limit) => bytes.extend([21, limit as u8]),
        Close => bytes.push(22),
        Drained => bytes.push(23),
        PollDrained(drain, new_waker) => bytes.extend([24, drain.0, new_waker.into()]),
        DropDrained(drain) => bytes.extend([25, drain.0]),
        Renew(claim, ttl) => bytes.extend([26, claim.0, ttl as u8]),
        Unsent(ticket, off) => bytes.extend([27, ticket.0, off]),
    }
}
