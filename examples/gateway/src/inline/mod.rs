//! Results that wait inside the gateway to be fetched.
//!
//! [`InlineStore`] is what the gateway needs of a stash, and no more; [`InlineResults`] puts ids and
//! counting around any of them.

mod cloakroom;
mod downloads;
mod glue;
mod recent;
mod results;
mod shared;
mod waiters;

use std::fmt::Debug;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use self::cloakroom::CloakroomStore;
pub use self::glue::GlueStore;
pub use self::recent::{Happened, News, Watch};
pub use self::results::{InlineResults, Reserving, Room};
pub use self::shared::SharedStore;
pub use self::waiters::Waiter;
use crate::owner::Owner;
use crate::prometheus::Page;

/// What an inline result's statement id begins with; its ticket follows.
pub const ID_PREFIX: &str = "inline-";

/// Why there is no room for a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No room, and the query may not wait.
    Full,
    /// No room came in time.
    TimedOut,
    /// It would not fit into an empty store either, or exceeds what one owner may hold.
    TooLarge,
    /// Its owner holds too much already.
    OwnerFull,
    /// It would have to wait, and too many wait.
    QueueFull,
    /// The store is closed.
    Closed,
    /// The engine of a shared store did not answer.
    Unreachable,
}

/// A result that was not stored, handed back.
#[derive(Debug)]
pub struct Refused {
    pub reason: Reason,
    pub payload: Bytes,
}

/// A result on its way to its owner.
#[derive(Debug)]
pub struct Delivery {
    pub bytes: u64,
    pub body: Body,
}

/// What a ticket leads to.
#[derive(Debug)]
pub enum Opened {
    Delivery(Delivery),
    /// It is on its way to this owner already.
    Busy,
    /// Nothing for this owner: fetched before, expired, someone else's, or never there.
    Gone,
    /// This was never a ticket.
    Malformed,
    /// The engine of a shared store did not answer: the result may still be there.
    Unreachable,
}

/// What a request for the head of a download is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeked {
    /// The result is there; so many bytes.
    There(u64),
    Busy,
    Gone,
    Malformed,
    Unreachable,
}

/// What became of results and waits since the store was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Totals {
    pub stored: u64,
    pub delivered: u64,
    pub expired: u64,
    pub granted_after_wait: u64,
    pub timed_out: u64,
}

/// How full a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub entries: usize,
    pub used_bytes: u64,
    pub peak_bytes: u64,
    pub max_bytes: u64,
    pub waiting: usize,
}

/// A place for results, bounded in bytes, that hands each out once and to its owner only.
pub trait InlineStore: Debug + Send + Sync {
    /// Takes room for a result of `bytes`, before there is one. Waits for it for at most `wait`; dropping
    /// the future gives up the place in line.
    fn reserve(
        &self,
        owner: &Owner,
        bytes: u64,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn Reserved>, Reason>>;

    /// Begins the delivery of what the ticket stands for, if it is there and belongs to `owner`. Its bytes
    /// count until the last of them has left.
    fn open<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Opened>;

    /// Says whether [`open`](Self::open) would begin a delivery, and of how many bytes. Changes nothing,
    /// but the result can be missing meanwhile.
    fn peek<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Peeked>;

    /// Takes no reservation any more, and refuses those who wait. What is reserved can still be used, what
    /// is stored be fetched.
    fn close(&self);

    fn is_closed(&self) -> bool;

    /// Completes when the store is closed and nothing in it depends on this gateway any more: all is fetched
    /// or expired, nothing is reserved. What other gateways can hand out does not depend on this one.
    fn drained(&self) -> BoxFuture<'_, ()>;

    /// Drops the results that no other gateway can hand out, and says how many that was. Comes last: what has
    /// been delivered is then known to be.
    fn end(&self) -> BoxFuture<'_, usize>;

    fn usage(&self) -> Usage;

    /// How long an answer takes at most that needs no wait in line. Zero: the first poll has it.
    fn prompt(&self) -> Duration {
        Duration::ZERO
    }

    /// What the store cannot tell of itself now, in one line.
    fn note(&self) -> Option<&'static str> {
        None
    }

    /// Whether all that wait in line wait in this gateway.
    fn is_alone(&self) -> bool {
        true
    }

    /// Totals, if the store keeps them.
    fn totals(&self) -> Option<Totals> {
        None
    }

    /// Tells what happens from now on, if the store can.
    fn watch(&self) -> Option<Watch> {
        None
    }

    /// Says on `page` how it is doing.
    fn describe(&self, page: &mut Page);
}

/// Room that is taken. Dropping it gives it back.
pub trait Reserved: Debug + Send {
    /// The largest result it is sure to take.
    fn bytes(&self) -> u64;

    /// Stores `payload` and answers with its ticket; room that it does not need goes to the next in line.
    ///
    /// A payload that is larger goes to the end of the line, for at most `wait`, and *without* the room it
    /// had: two who keep what they have and wait for more would wait for each other.
    fn put(
        self: Box<Self>,
        payload: Bytes,
        wait: Duration,
    ) -> BoxFuture<'static, Result<String, Refused>>;
}
