//! Results that wait inside the gateway to be fetched.
//!
//! [`InlineStore`] is what the gateway needs of a stash, and no more; [`InlineResults`] puts ids,
//! bounded waiting and counting around any of them.

mod cloakroom;

use std::fmt::Debug;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::poll;

pub use self::cloakroom::CloakroomStore;
use crate::metrics::{Counter, Metrics};
use crate::owner::Owner;

/// What an inline result's statement id begins with; its ticket follows.
pub const ID_PREFIX: &str = "inline-";

/// Why a result was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No room, and none came while it waited.
    Full,
    /// It would not fit into an empty store either.
    TooLarge,
    /// The store is closed.
    Closed,
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
pub enum Taken {
    Delivery(Delivery),
    /// Nothing for this owner: fetched before, expired, someone else's, or never there.
    Gone,
    /// This was never a ticket.
    Malformed,
}

/// How full a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub entries: usize,
    pub used_bytes: u64,
    pub max_bytes: u64,
    pub waiting: usize,
}

/// A place for results, bounded in bytes, that hands each out once and to its owner only.
pub trait InlineStore: Debug + Send + Sync {
    /// Stores `payload` and answers with its ticket. Waits for room for at most `wait`; dropping the
    /// future gives up the place in line.
    fn put<'a>(
        &'a self,
        owner: &'a Owner,
        payload: Bytes,
        wait: Duration,
    ) -> BoxFuture<'a, Result<String, Refused>>;

    /// Removes what the ticket stands for, if it is there and belongs to `owner`.
    fn take(&self, ticket: &str, owner: &Owner) -> Taken;

    /// Admits nothing any more, and refuses those who wait.
    fn close(&self);

    fn is_closed(&self) -> bool;

    fn usage(&self) -> Usage;
}

/// The gateway's inline results.
#[derive(Debug)]
pub struct InlineResults {
    store: Box<dyn InlineStore>,
    wait: Duration,
    metrics: Arc<Metrics>,
}

impl InlineResults {
    pub fn new(store: Box<dyn InlineStore>, wait: Duration, metrics: Arc<Metrics>) -> Self {
        InlineResults { store, wait, metrics }
    }

    /// Stores `payload` and answers with its statement id.
    pub async fn put(&self, owner: &Owner, payload: Bytes) -> Result<String, Refused> {
        let started = Instant::now();
        let mut put = self.store.put(owner, payload, self.wait);
        let outcome = match poll!(&mut put) {
            Poll::Ready(outcome) => {
                self.count(&outcome, &self.metrics.stored_at_once);
                outcome
            }
            Poll::Pending => {
                let mut place = PlaceInLine::taken(&self.metrics, started);
                let outcome = put.await;
                place.ended();
                self.count(&outcome, &self.metrics.stored_after_wait);
                outcome
            }
        };
        self.metrics.record_used(self.store.usage().used_bytes);
        outcome.map(|ticket| format!("{ID_PREFIX}{ticket}"))
    }

    fn count(&self, outcome: &Result<String, Refused>, stored: &Counter) {
        match outcome.as_ref().map_err(|refused| refused.reason) {
            Ok(_) => stored.add_one(),
            Err(Reason::Full) => self.metrics.gave_up.add_one(),
            Err(Reason::TooLarge) => self.metrics.too_large.add_one(),
            Err(Reason::Closed) => {}
        }
    }

    /// Takes the result behind the part of a statement id that follows [`ID_PREFIX`].
    pub fn take(&self, ticket: &str, owner: &Owner) -> Taken {
        let taken = self.store.take(ticket, owner);
        if let Taken::Delivery(_) = taken {
            self.metrics.taken.add_one();
        }
        taken
    }

    /// How long a put waits at most, and so when it makes sense to try again.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    pub fn close(&self) {
        self.store.close();
    }

    pub fn is_closed(&self) -> bool {
        self.store.is_closed()
    }

    pub fn usage(&self) -> Usage {
        self.store.usage()
    }
}

/// A result that stands in line. Notices when its client goes away: then nothing but a drop happens.
struct PlaceInLine<'a> {
    metrics: &'a Metrics,
    since: Instant,
    left: bool,
}

impl<'a> PlaceInLine<'a> {
    fn taken(metrics: &'a Metrics, since: Instant) -> Self {
        PlaceInLine { metrics, since, left: true }
    }

    fn ended(&mut self) {
        self.left = false;
        self.metrics.record_wait(self.since.elapsed());
    }
}

impl Drop for PlaceInLine<'_> {
    fn drop(&mut self) {
        if self.left {
            self.metrics.left_the_line.add_one();
        }
    }
}
