//! The gateway's inline results: a store, with ids and counting around it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::downloads::Downloads;
use super::waiters::{First, Listed, Waiter, Waiters};
use super::{
    ID_PREFIX, InlineStore, Opened, Peeked, Reason, Refused, Reserved, Totals, Usage, Watch,
};
use crate::metrics::Metrics;
use crate::owner::Owner;
use crate::prometheus::Page;

/// How long a repeated download waits for the broken one to be noticed.
const NOTICE: Duration = Duration::from_secs(1);
/// How long a request for a head waits for another one.
const LOOK: Duration = Duration::from_millis(100);
/// A body is dropped a moment before the frames that were made of it.
const FRAMES_GO: Duration = Duration::from_millis(5);

/// A reservation that waits.
pub type Reserving = BoxFuture<'static, Result<Room, Reason>>;

/// The gateway's inline results.
#[derive(Debug)]
pub struct InlineResults {
    store: Box<dyn InlineStore>,
    wait: Duration,
    downloads: Arc<Downloads>,
    waiters: Arc<Waiters>,
    metrics: Arc<Metrics>,
}

/// A reservation for a result that is not produced yet.
#[derive(Debug)]
pub struct Room {
    reserved: Box<dyn Reserved>,
    owner: Owner,
    wait: Duration,
    waiters: Arc<Waiters>,
    metrics: Arc<Metrics>,
}

impl InlineResults {
    pub fn new(store: Box<dyn InlineStore>, wait: Duration, metrics: Arc<Metrics>) -> Self {
        InlineResults { store, wait, downloads: Arc::default(), waiters: Arc::default(), metrics }
    }

    /// Reserves `bytes` for a result, waiting in the queue when the store is full. Dropping the future leaves
    /// the queue.
    pub fn reserve(&self, owner: &Owner, bytes: u64) -> Reserving {
        let mut reserving = self.store.reserve(owner, bytes, self.wait);
        let (wait, owner) = (self.wait, owner.clone());
        let (waiters, metrics) = (Arc::clone(&self.waiters), Arc::clone(&self.metrics));
        let prompt = self.store.prompt();
        async move {
            let started = Instant::now();
            let first = match within(prompt, &mut reserving).await {
                Some(outcome) => First::Ready(outcome),
                None => waiters.begin(&owner, bytes, &mut reserving).await,
            };
            let outcome = match first {
                First::Ready(outcome) => {
                    metrics.room_at_once.add_if(outcome.is_ok());
                    outcome
                }
                First::Waits(listed) => {
                    let mut place = PlaceInLine::taken(&metrics, started, listed);
                    let outcome = reserving.await;
                    place.ended();
                    metrics.room_after_wait.add_if(outcome.is_ok());
                    outcome
                }
            };
            match outcome {
                Ok(reserved) => Ok(Room { reserved, owner, wait, waiters, metrics }),
                Err(reason) => {
                    metrics.note_no_room(reason);
                    Err(reason)
                }
            }
        }
        .boxed()
    }

    /// Begins the delivery of the result behind the part of a statement id that follows [`ID_PREFIX`].
    pub async fn open(&self, ticket: &str, owner: &Owner) -> Opened {
        let open = || self.downloads.open(&*self.store, ticket, owner);
        let mut opened = open().await;
        if matches!(opened, Opened::Busy) && self.downloads.ended(ticket, owner, NOTICE).await {
            opened = open().await;
            if matches!(opened, Opened::Gone) {
                tokio::time::sleep(FRAMES_GO).await;
                opened = open().await;
            }
        }
        self.metrics.downloads.add_if(matches!(opened, Opened::Delivery(_)));
        opened
    }

    /// Returns what [`open`](Self::open) would answer. Changes nothing.
    pub async fn peek(&self, ticket: &str, owner: &Owner) -> Peeked {
        let peek = || self.downloads.peek(&*self.store, ticket, owner);
        match peek().await {
            // Perhaps another request is only checking for it.
            Peeked::Busy if self.downloads.ended(ticket, owner, LOOK).await => peek().await,
            peeked => peeked,
        }
    }

    /// The longest time for an answer that does not wait in the queue. Zero: the first poll has it.
    pub fn prompt(&self) -> Duration {
        self.store.prompt()
    }

    /// A note about numbers that the store cannot read now.
    pub fn note(&self) -> Option<&'static str> {
        self.store.note()
    }

    /// The longest wait of a query, and so the time after which a retry makes sense.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    pub fn close(&self) {
        self.store.close();
    }

    pub fn is_closed(&self) -> bool {
        self.store.is_closed()
    }

    /// Waits until the store is closed and empty.
    pub async fn drained(&self) {
        self.store.drained().await;
    }

    /// Drops the results that no other gateway can deliver, and returns how many.
    pub async fn end(&self) -> usize {
        self.store.end().await
    }

    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    pub fn totals(&self) -> Option<Totals> {
        self.store.totals()
    }

    /// Returns the queries that wait in this gateway, in order, `most` of them at most.
    pub fn waiters(&self, most: usize) -> Vec<Waiter> {
        // Others wait elsewhere, and this gateway does not know which of its own were granted just now.
        let waiting = if self.is_alone() { self.store.usage().waiting } else { usize::MAX };
        self.waiters.last(waiting, most)
    }

    /// Returns whether all waiters wait in this gateway.
    pub fn is_alone(&self) -> bool {
        self.store.is_alone()
    }

    /// Returns the events of the store from now on, if it has events.
    pub fn watch(&self) -> Option<Watch> {
        self.store.watch()
    }

    pub fn describe(&self, page: &mut Page) {
        self.store.describe(page);
    }
}

impl Room {
    /// Stores `payload` and returns its statement id.
    pub async fn put(self, payload: Bytes) -> Result<String, Refused> {
        let Room { reserved, owner, wait, waiters, metrics } = self;
        let bytes = payload.len() as u64;
        metrics.outgrown.add_if(bytes > reserved.bytes());
        let mut put = reserved.put(payload, wait);
        let outcome = match waiters.begin(&owner, bytes, &mut put).await {
            First::Ready(outcome) => outcome,
            First::Waits(_listed) => put.await,
        };
        match outcome {
            Ok(ticket) => {
                metrics.stored.add_one();
                Ok(format!("{ID_PREFIX}{ticket}"))
            }
            Err(refused) => {
                metrics.note_no_room(refused.reason);
                Err(refused)
            }
        }
    }
}

/// Returns the output of `request` if it completes within `prompt`. If that is zero, polls it once.
async fn within<F: Future + Unpin>(prompt: Duration, request: &mut F) -> Option<F::Output> {
    if prompt.is_zero() {
        return None;
    }
    tokio::time::timeout(prompt, request).await.ok()
}

/// A query in the wait queue. When its client disconnects, it is dropped and records that.
struct PlaceInLine<'a> {
    metrics: &'a Metrics,
    since: Instant,
    left: bool,
    _listed: Listed,
}

impl<'a> PlaceInLine<'a> {
    fn taken(metrics: &'a Metrics, since: Instant, listed: Listed) -> Self {
        PlaceInLine { metrics, since, left: true, _listed: listed }
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
