//! The gateway's inline results: a store, with ids and counting around it.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, poll};

use super::downloads::Downloads;
use super::{Delivery, ID_PREFIX, InlineStore, Opened, Reason, Refused, Reserved, Usage};
use crate::metrics::Metrics;
use crate::owner::Owner;
use crate::prometheus::Page;

/// How long a repeated download waits for the broken one to be noticed.
const NOTICE: Duration = Duration::from_secs(1);
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
    metrics: Arc<Metrics>,
}

/// Room for a result that is yet to be made.
#[derive(Debug)]
pub struct Room {
    reserved: Box<dyn Reserved>,
    wait: Duration,
    metrics: Arc<Metrics>,
}

impl InlineResults {
    pub fn new(store: Box<dyn InlineStore>, wait: Duration, metrics: Arc<Metrics>) -> Self {
        InlineResults { store, wait, downloads: Arc::default(), metrics }
    }

    /// Takes room for a result of `bytes`, waiting in line if there is none. Dropping the future gives up
    /// the place.
    pub fn reserve(&self, owner: &Owner, bytes: u64) -> Reserving {
        let mut reserving = self.store.reserve(owner, bytes, self.wait);
        let (wait, metrics) = (self.wait, Arc::clone(&self.metrics));
        async move {
            let started = Instant::now();
            let outcome = match poll!(&mut reserving) {
                Poll::Ready(outcome) => {
                    metrics.room_at_once.add_if(outcome.is_ok());
                    outcome
                }
                Poll::Pending => {
                    let mut place = PlaceInLine::taken(&metrics, started);
                    let outcome = reserving.await;
                    place.ended();
                    metrics.room_after_wait.add_if(outcome.is_ok());
                    outcome
                }
            };
            match outcome {
                Ok(reserved) => Ok(Room { reserved, wait, metrics }),
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
        let mut opened = self.store.open(ticket, owner);
        if matches!(opened, Opened::Gone) && self.downloads.runs(ticket, owner) {
            if !self.downloads.ended(ticket, owner, NOTICE).await {
                return Opened::Busy;
            }
            opened = self.store.open(ticket, owner);
            if matches!(opened, Opened::Gone) {
                tokio::time::sleep(FRAMES_GO).await;
                opened = self.store.open(ticket, owner);
            }
        }
        if let Opened::Delivery(Delivery { bytes, body }) = opened {
            self.metrics.downloads.add_one();
            let body = self.downloads.follow(ticket, owner, body);
            return Opened::Delivery(Delivery { bytes, body });
        }
        opened
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

    pub fn clear(&self) -> usize {
        self.store.clear()
    }

    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    pub fn describe(&self, page: &mut Page) {
        self.store.describe(page);
    }
}

impl Room {
    /// Stores `payload` and answers with its statement id.
    pub async fn put(self, payload: Bytes) -> Result<String, Refused> {
        let Room { reserved, wait, metrics } = self;
        metrics.outgrown.add_if(payload.len() as u64 > reserved.bytes());
        match reserved.put(payload, wait).await {
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

/// A query that stands in line. Notices when its client goes away: then nothing but a drop happens.
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
