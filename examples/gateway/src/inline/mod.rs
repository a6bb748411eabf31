//! Results that wait inside the gateway to be fetched.
//!
//! [`InlineStore`] is the part of a stash that the gateway needs. [`InlineResults`] adds ids and counters to
//! any store.

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

/// Why a result was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is full, and the query may not wait.
    Full,
    /// The wait timed out.
    TimedOut,
    /// It exceeds the limit of the store, or of its owner.
    TooLarge,
    /// Its owner holds too much already.
    OwnerFull,
    /// It would have to wait, and the wait queue is full.
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

/// A result that is being delivered.
#[derive(Debug)]
pub struct Delivery {
    pub bytes: u64,
    pub body: Body,
}

/// The answer to a ticket.
#[derive(Debug)]
pub enum Opened {
    Delivery(Delivery),
    /// A download by this owner has it now.
    Busy,
    /// Nothing for this owner: delivered, expired, another owner's, or unknown.
    Gone,
    /// Not a ticket.
    Malformed,
    /// The engine of a shared store did not answer: the result may still be there.
    Unreachable,
}

/// The answer to a request for the head of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeked {
    /// The result is there, and has this many bytes.
    There(u64),
    Busy,
    Gone,
    Malformed,
    Unreachable,
}

/// Counts the outcomes of results and waits since the store was built.
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
    /// The bytes that the head of the wait queue asks for, if the store knows.
    pub head_bytes: Option<u64>,
}

/// A store for results, bounded in bytes, that delivers each once and to its owner only.
pub trait InlineStore: Debug + Send + Sync {
    /// Reserves `bytes` for a result, waiting in the queue for at most `wait`. Dropping the future leaves the
    /// queue.
    fn reserve(
        &self,
        owner: &Owner,
        bytes: u64,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn Reserved>, Reason>>;

    /// Begins to deliver the result of the ticket, if it is there and belongs to `owner`. It stays charged
    /// until its last byte has been sent.
    fn open<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Opened>;

    /// Returns whether [`open`](Self::open) would begin a delivery, and of how many bytes. It changes
    /// nothing, but the result can be missing meanwhile.
    fn peek<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Peeked>;

    /// Refuses new and waiting reservations. Reservations that were granted can be used, and stored results
    /// be fetched.
    fn close(&self);

    fn is_closed(&self) -> bool;

    /// Completes when the store is closed and nothing in it depends on this gateway: all is fetched or
    /// expired, and nothing is reserved. Results that other gateways can deliver do not depend on this one.
    fn drained(&self) -> BoxFuture<'_, ()>;

    /// Drops the results that no other gateway can deliver, and returns how many. It is the last call:
    /// deliveries have been recorded by the time it returns.
    fn end(&self) -> BoxFuture<'_, usize>;

    fn usage(&self) -> Usage;

    /// The longest time for an answer that does not wait in the queue. Zero: the first poll has it.
    fn prompt(&self) -> Duration {
        Duration::ZERO
    }

    /// A note about numbers that the store cannot read now.
    fn note(&self) -> Option<&'static str> {
        None
    }

    /// Whether all waiters wait in this gateway.
    fn is_alone(&self) -> bool {
        true
    }

    /// Returns the totals, if the store keeps them.
    fn totals(&self) -> Option<Totals> {
        None
    }

    /// Returns the events from now on, if the store has events.
    fn watch(&self) -> Option<Watch> {
        None
    }

    /// Writes its metrics to `page`.
    fn describe(&self, page: &mut Page);
}

/// A reservation. Dropping it releases its bytes.
pub trait Reserved: Debug + Send {
    /// The largest result that is certain to fit.
    fn bytes(&self) -> u64;

    /// Stores `payload` and returns its ticket. Bytes that it does not need are released. A larger payload
    /// joins the end of the queue, for at most `wait`, and *without* its reservation: two that kept theirs
    /// while they wait for more would wait for each other.
    fn put(
        self: Box<Self>,
        payload: Bytes,
        wait: Duration,
    ) -> BoxFuture<'static, Result<String, Refused>>;
}
