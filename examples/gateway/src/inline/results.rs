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

/// Room on its way.
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

/// Room for a result that is yet to be made.
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

    /// Takes room for a result of `bytes`, waiting in line if there is none. Dropping the future gives up
    /// the place.
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

    /// Says what [`open`](Self::open) would answer. Changes nothing.
    pub async fn peek(&self, ticket: &str, owner: &Owner) -> Peeked {
        let peek = || self.downloads.peek(&*self.store, ticket, owner);
        match peek().await {
            // Perhaps only looked at by another request.
            Peeked::Busy if self.downloads.ended(ticket, owner, LOOK).await => peek().await,
            peeked => peeked,
        }
    }

    /// How long an answer takes at most that needs no wait in line. Zero: the first poll has it.
    pub fn prompt(&self) -> Duration {
        self.store.prompt()
    }

    /// What the store cannot tell of itself now, in one line.
    pub fn note(&self) -> Option<&'static str> {
        self.store.note()
    }

    /// How long a query waits at most, and so when it makes sense to try again.
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

    /// Drops the results that no other gateway can hand out, and says how many that was.
    pub async fn end(&self) -> usize {
        self.store.end().await
    }

    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    pub fn totals(&self) -> Option<Totals> {
        self.store.totals()
    }

    /// The queries that wait, the head first, `most` of them at most. None if others wait elsewhere: this
    /// gateway does not know the order.
    pub fn waiters(&self, most: usize) -> Vec<Waiter> {
        if !self.store.is_alone() {
            return Vec::new();
        }
        self.waiters.last(self.store.usage().waiting, most)
    }

    /// Tells what happens in the store from now on, if the store can.
    pub fn watch(&self) -> Option<Watch> {
        self.store.watch()
    }

    pub fn describe(&self, page: &mut Page) {
        self.store.describe(page);
    }
}

impl Room {
    /// Stores `payload` and answers with its statement id.
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

/// What `request` comes to within `prompt`, which is not waited for if it is zero.
async fn within<F: Future + Unpin>(prompt: Duration, request: &mut F) -> Option<F::Output> {
    if prompt.is_zero() {
        return None;
    }
    tokio::time::timeout(prompt, request).await.ok()
}

/// A query that stands in line. Notices when its client goes away: then nothing but a drop happens.
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
