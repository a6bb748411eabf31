//! The inline store on a [`cloakroom_redis::SharedStash`]: several gateways, one stash.
//!
//! Requests to the stash go over a network, so each of them can fail. Numbers for the page and the metrics
//! are read at intervals. The latest ones are shown.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use cloakroom::{
    Cloakroom, CloakroomClaim, CloakroomReservation, Failure, Numbers, Refusal, Rejected, Stats,
    Ticket,
};
use cloakroom_redis::{Claim, Reservation, SharedStash};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cloakroom::{describe, refused_for, totals, usage};
use super::recent::{Recent, Watch};
use super::{Delivery, InlineStore, Opened, Peeked, Reason, Refused, Reserved, Totals, Usage};
use crate::config::Config;
use crate::owner::Owner;
use crate::prometheus::Page;

/// The stash's name on the engine: gateways on the same engine share it.
const NAME: &str = "gateway";
/// How often the numbers are read.
const READ_INTERVAL: Duration = Duration::from_millis(200);
/// The usual bound on an answer of the engine.
const PROMPT: Duration = Duration::from_millis(50);
/// How much of a result is handed to the server at a time.
const FRAME: usize = 64 << 10;

const NOTE: &str = "Shared stash: the numbers count all gateways, the events and the listed queries are those \
                    of this one.";
const UNREACHABLE: &str =
    "Shared stash: the engine does not answer, so these are the last numbers it gave.";

type Shared = SharedStash<Bytes, Arc<str>>;

/// Results in a stash that other gateways share.
#[derive(Debug)]
pub struct SharedStore {
    stash: Shared,
    recent: Arc<Recent>,
    latest: Arc<Latest>,
    /// Cancelled when this gateway stops accepting. The stash stays open for the others.
    closed: CancellationToken,
    _reading: DropGuard,
}

/// The numbers that were read last.
#[derive(Debug)]
struct Latest {
    stats: Mutex<Stats>,
    reachable: AtomicBool,
}

impl SharedStore {
    /// Opens the stash, or creates it if this is the first gateway. Must be called inside a tokio runtime.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let engine = config.engine.as_ref().context("a shared stash needs an engine")?;
        let recent = Arc::new(Recent::default());
        let mut builder = Shared::builder().url(engine.as_str()).name(NAME);
        builder = builder.max_bytes(config.max_bytes).ttl(config.ttl);
        builder = builder.observer(Arc::clone(&recent));
        if let Some(bytes) = config.max_bytes_per_owner {
            builder = builder.max_bytes_per_owner(bytes);
        }
        if let Some(requests) = config.max_waiting {
            builder = builder.max_waiting(requests as u64);
        }
        let stash = builder.open().await.context("the shared stash cannot be opened")?;
        let stats = stash.stats().await.context("the shared stash does not answer")?;
        let latest = Arc::new(Latest { stats: Mutex::new(stats), reachable: true.into() });
        let end = CancellationToken::new();
        let reading = read_on(stash.clone(), Arc::clone(&latest));
        tokio::spawn(end.clone().run_until_cancelled_owned(reading));
        let closed = CancellationToken::new();
        Ok(SharedStore { stash, recent, latest, closed, _reading: end.drop_guard() })
    }
}

async fn read_on(stash: Shared, latest: Arc<Latest>) {
    loop {
        tokio::time::sleep(READ_INTERVAL).await;
        match stash.stats().await {
            Ok(stats) => {
                *latest.stats() = stats;
                latest.reachable.store(true, Ordering::Relaxed);
            }
            Err(failure) => {
                if latest.reachable.swap(false, Ordering::Relaxed) {
                    tracing::warn!(%failure, cause = stash.last_error(), "the engine does not answer");
                }
            }
        }
    }
}

impl Latest {
    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InlineStore for SharedStore {
    fn reserve(
        &self,
        owner: &Owner,
        bytes: u64,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn Reserved>, Reason>> {
        let (stash, owner, closed) = (self.stash.clone(), owner.to_key(), self.closed.clone());
        async move {
            if closed.is_cancelled() {
                return Err(Reason::Closed);
            }
            let outcome = if wait.is_zero() {
                stash.try_reserve(Some(&owner), bytes).await
            } else {
                let until = closed.run_until_cancelled(tokio::time::sleep(wait));
                stash.reserve_until(Some(&owner), bytes, until).await
            };
            match outcome {
                Ok(room) => Ok(Box::new(Held { room, owner, stash }) as Box<dyn Reserved>),
                Err(refused) => Err(match reason(refused.failure(), refused.numbers()) {
                    Reason::TimedOut if closed.is_cancelled() => Reason::Closed,
                    reason => reason,
                }),
            }
        }
        .boxed()
    }

    fn open<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Opened> {
        async {
            let Ok(ticket) = ticket.parse::<Ticket>() else { return Opened::Malformed };
            match self.stash.claim(&ticket, &owner.to_key()).await {
                Ok(Some(claim)) => {
                    let bytes = claim.payload().len() as u64;
                    Opened::Delivery(Delivery { bytes, body: Body::new(Sending::of(claim)) })
                }
                Ok(None) => Opened::Gone,
                Err(failure) => {
                    tracing::warn!(%failure, cause = self.stash.last_error(), "no download");
                    Opened::Unreachable
                }
            }
        }
        .boxed()
    }

    fn peek<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Peeked> {
        async {
            let Ok(ticket) = ticket.parse::<Ticket>() else { return Peeked::Malformed };
            match self.stash.claim(&ticket, &owner.to_key()).await {
                Ok(Some(claim)) => {
                    let bytes = claim.payload().len() as u64;
                    CloakroomClaim::put_back(claim).await;
                    Peeked::There(bytes)
                }
                Ok(None) => Peeked::Gone,
                Err(_) => Peeked::Unreachable,
            }
        }
        .boxed()
    }

    fn close(&self) {
        self.closed.cancel();
    }

    fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// The other gateways can deliver the stored results, so none depends on this gateway.
    fn drained(&self) -> BoxFuture<'_, ()> {
        self.closed.cancelled().boxed()
    }

    fn end(&self) -> BoxFuture<'_, usize> {
        async {
            // Reports deliveries to the engine. If that fails, the end of the session puts the results back.
            let _ = self.stash.stats().await;
            0
        }
        .boxed()
    }

    fn usage(&self) -> Usage {
        usage(&self.latest.stats())
    }

    fn prompt(&self) -> Duration {
        PROMPT
    }

    fn note(&self) -> Option<&'static str> {
        let reachable = self.latest.reachable.load(Ordering::Relaxed);
        Some(if reachable { NOTE } else { UNREACHABLE })
    }

    fn is_alone(&self) -> bool {
        false
    }

    fn totals(&self) -> Option<Totals> {
        Some(totals(&self.latest.stats()))
    }

    fn watch(&self) -> Option<Watch> {
        Some(self.recent.watch())
    }

    fn describe(&self, page: &mut Page) {
        let reachable = self.latest.reachable.load(Ordering::Relaxed);
        page.gauge("cloakroom_engine_up", "Whether the engine answered last.", u8::from(reachable));
        describe(&self.latest.stats(), page);
    }
}

/// A reservation, and its owner.
#[derive(Debug)]
struct Held {
    room: Reservation<Bytes, Arc<str>>,
    owner: Arc<str>,
    stash: Shared,
}

impl Reserved for Held {
    fn bytes(&self) -> u64 {
        self.room.bytes()
    }

    fn put(
        self: Box<Self>,
        payload: Bytes,
        wait: Duration,
    ) -> BoxFuture<'static, Result<String, Refused>> {
        let Held { room, owner, stash } = *self;
        async move {
            let refusal = match room.put(Arc::clone(&owner), payload).await {
                Ok(ticket) => return Ok(ticket.to_string()),
                // The reservation ends here, before the wait for a larger one.
                Err(refusal) => refusal.map(|(payload, _room)| payload),
            };
            let again = [Failure::Refused(Refusal::TooLarge), Failure::Lost];
            if !again.contains(&refusal.failure()) {
                return Err(refused(refusal));
            }
            let payload = refusal.into_inner();
            let outcome = if wait.is_zero() {
                stash.try_put(owner, payload).await
            } else {
                Cloakroom::put_timeout(&stash, owner, payload, tokio::time::sleep(wait)).await
            };
            outcome.map(|ticket| ticket.to_string()).map_err(refused)
        }
        .boxed()
    }
}

fn refused(refusal: Rejected<Bytes>) -> Refused {
    Refused { reason: reason(refusal.failure(), refusal.numbers()), payload: refusal.into_inner() }
}

fn reason(failure: Failure, numbers: Numbers) -> Reason {
    tracing::debug!(%failure, "the shared stash refused a request");
    match failure {
        // A wait here ends only at its timeout or with this gateway.
        Failure::Refused(Refusal::Cancelled) => Reason::TimedOut,
        Failure::Refused(refusal) => refused_for(refusal, numbers.requested, numbers.limit),
        Failure::OutOfMemory => Reason::Full,
        _ => Reason::Unreachable,
    }
}

/// A claim as a body: delivered when the server has been handed all of it and has dropped it, otherwise put
/// back.
#[derive(Debug)]
struct Sending {
    claim: Arc<Sent>,
    at: usize,
}

/// A claim and its frames. The last of them to be dropped ends the claim.
#[derive(Debug)]
struct Sent {
    claim: Option<Claim<Bytes>>,
    all: AtomicBool,
}

/// A part of a result, which keeps the claim.
struct Part {
    bytes: Bytes,
    _of: Arc<Sent>,
}

impl Sending {
    fn of(claim: Claim<Bytes>) -> Self {
        Sending { claim: Arc::new(Sent { claim: Some(claim), all: false.into() }), at: 0 }
    }

    fn payload(&self) -> &[u8] {
        self.claim.claim.as_ref().map_or(&[], |claim| claim.payload())
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take()
            && *self.all.get_mut()
        {
            drop(claim.into_inner());
        }
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(claim) = &self.claim.claim else { return Poll::Ready(None) };
        if !claim.is_current() {
            // Another gateway can deliver it now. This client asks again, and gets it once.
            return Poll::Ready(Some(Err(io::Error::other("the session ended"))));
        }
        let payload = claim.payload();
        let end = payload.len().min(self.at + FRAME);
        let bytes = payload.slice(self.at..end);
        self.claim.all.store(end == payload.len(), Ordering::Relaxed);
        self.at = end;
        if bytes.is_empty() {
            return Poll::Ready(None);
        }
        let part = Part { bytes, _of: Arc::clone(&self.claim) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.claim.all.load(Ordering::Relaxed)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.payload().len() - self.at) as u64)
    }
}
