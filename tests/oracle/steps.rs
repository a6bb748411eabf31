//! What a script for a stash is made of.

use std::time::Duration;

use super::{Index, LIMIT};

/// Entry overheads are below that.
pub const OVERHEADS: u64 = 3;
pub const OWNERS: u8 = 3;
pub const TTL_TICKS: u64 = 10;
pub const OVERFLOW_TTL_TICKS: u64 = 4;
/// One more than can ever fit, unless the limit is raised.
pub const MAX_SIZE: u64 = LIMIT + MAX_OVERFLOW + 1;
pub const MAX_OVERFLOW: u64 = LIMIT / 2;
pub const MAX_MAX_WAITING: u64 = 4;
pub const MAX_MAX_WAITING_BYTES: u64 = 2 * LIMIT;

pub fn ticks(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What the stash is built with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    pub overhead: u64,
    pub overflow: Option<u64>,
    /// At least the overhead.
    pub per_owner: Option<u64>,
    pub max_waiting: Option<u64>,
    pub max_waiting_bytes: Option<u64>,
    /// With a weigher, by which an owner weighs as many bytes as its number.
    pub weighs_owners: bool,
}

/// In which way room is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    Try,
    TimeoutZero,
    Future,
    /// A future that owns its stash, and ends as timed out instead of cancelled.
    Owned,
}

impl How {
    pub const ALL: [How; 4] = [How::Try, How::TimeoutZero, How::Future, How::Owned];
}

/// How a claim ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    PutBack,
    Drop,
    DropFinish,
    IntoInner,
    IntoBytes,
    /// Put back with twice the time to live.
    PutBackLater,
    /// Read to its end.
    Read,
    /// Read, but for the last byte.
    ReadInPart,
}

impl End {
    pub const ALL: [End; 8] = [
        End::PutBack,
        End::Drop,
        End::DropFinish,
        End::IntoInner,
        End::IntoBytes,
        End::PutBackLater,
        End::Read,
        End::ReadInPart,
    ];
}

#[derive(Clone, Debug, PartialEq)]
pub enum StashStep {
    /// For an owner, of a size, with a time to live of its own perhaps.
    Put(How, u8, u64, Option<u64>),
    /// For an owner perhaps.
    Reserve(How, Option<u8>, u64),
    /// Of the budget itself.
    Permit(How, u64),
    Poll(Index, bool),
    Fire(Index),
    Cancel(Index),
    /// A put into a reservation, of at most one byte more than is reserved.
    PutReserved(Index, u8, u64, Option<u64>),
    ShrinkReservation(Index, u64),
    DropReservation(Index),
    ShrinkPermit(Index, u64),
    DropPermit(Index),
    /// With the owner it was put with, or so many further.
    Take(Index, u8),
    TakeForged(u128, u8),
    Claim(Index, u8),
    /// Another time to live for a claim's entry.
    Renew(Index, u64),
    EndClaim(Index, End),
    /// Drops a guard for a ticket that was not sent, with the owner as for `Take`.
    Unsent(Index, u8),
    CloneBytes(Index),
    DropBytes(Index),
    Gc,
    Clear,
    Advance(u64),
    SetMaxBytes(u64),
    Close,
    Drained,
    PollDrained(Index, bool),
    DropDrained(Index),
}
