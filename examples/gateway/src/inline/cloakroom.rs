//! The inline store on a [`cloakroom::Stash`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use cloakroom::{AcquireError, ConfigError, PutError, Refusal, Reservation, Stash, Stats, Ticket};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::recent::{Recent, Watch};
use super::{Delivery, InlineStore, Opened, Peeked, Reason, Refused, Reserved, Totals, Usage};
use crate::config::Config;
use crate::owner::Owner;
use crate::prometheus::Page;

/// Results in a stash, with the stash's reaper running as a task.
#[derive(Debug)]
pub struct CloakroomStore {
    stash: Stash<Bytes, Arc<str>>,
    recent: Arc<Recent>,
}

impl CloakroomStore {
    /// Must be called inside a tokio runtime. The reaper's task ends with the store.
    pub fn start(config: &Config) -> Result<Self, ConfigError> {
        let recent = Arc::new(Recent::default());
        let builder = Stash::builder().max_bytes(config.max_bytes).ttl(config.ttl);
        let mut builder = builder.observer(Arc::clone(&recent));
        if let Some(bytes) = config.max_bytes_per_owner {
            builder = builder.max_bytes_per_owner(bytes);
        }
        if let Some(requests) = config.max_waiting {
            builder = builder.max_waiting(requests);
        }
        let stash = builder.build()?;
        tokio::spawn(stash.reaper().run(tokio::time::sleep));
        Ok(CloakroomStore { stash, recent })
    }
}

impl InlineStore for CloakroomStore {
    fn reserve(
        &self,
        owner: &Owner,
        bytes: u64,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn Reserved>, Reason>> {
        let (stash, owner) = (self.stash.clone(), owner.to_key());
        async move {
            let outcome = if wait.is_zero() {
                stash.try_reserve_for(&*owner, bytes)
            } else {
                stash.reserve_for(&*owner, bytes).timeout(tokio::time::sleep(wait)).await
            };
            match outcome {
                Ok(reservation) => Ok(Box::new(Held { reservation, owner }) as Box<dyn Reserved>),
                Err(refusal) => Err(reason(&refusal)),
            }
        }
        .boxed()
    }

    fn open<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Opened> {
        let Ok(ticket) = ticket.parse::<Ticket>() else {
            return ready(Opened::Malformed).boxed();
        };
        let opened = match self.stash.claim(&ticket, owner.name()) {
            Some(claim) => {
                // A body that is dropped before its end puts the result back, under the same ticket.
                let bytes = claim.len() as u64;
                Opened::Delivery(Delivery { bytes, body: Body::new(claim.into_body()) })
            }
            None => Opened::Gone,
        };
        ready(opened).boxed()
    }

    fn peek<'a>(&'a self, ticket: &'a str, owner: &'a Owner) -> BoxFuture<'a, Peeked> {
        let Ok(ticket) = ticket.parse::<Ticket>() else {
            return ready(Peeked::Malformed).boxed();
        };
        let peeked = match self.stash.claim(&ticket, owner.name()) {
            Some(claim) => {
                let bytes = claim.len() as u64;
                claim.put_back();
                Peeked::There(bytes)
            }
            None => Peeked::Gone,
        };
        ready(peeked).boxed()
    }

    fn close(&self) {
        self.stash.close();
    }

    fn is_closed(&self) -> bool {
        self.stash.is_closed()
    }

    fn drained(&self) -> BoxFuture<'_, ()> {
        self.stash.drained().boxed()
    }

    fn end(&self) -> BoxFuture<'_, usize> {
        ready(self.stash.clear()).boxed()
    }

    fn usage(&self) -> Usage {
        usage(&self.stash.stats())
    }

    fn totals(&self) -> Option<Totals> {
        Some(totals(&self.stash.stats()))
    }

    fn watch(&self) -> Option<Watch> {
        Some(self.recent.watch())
    }

    fn describe(&self, page: &mut Page) {
        describe(&self.stash.stats(), page);
    }
}

pub(super) fn usage(stats: &Stats) -> Usage {
    Usage {
        entries: stats.entries as usize,
        used_bytes: stats.used_bytes,
        peak_bytes: stats.peak_bytes,
        max_bytes: stats.max_bytes,
        waiting: stats.waiting,
        head_bytes: stats.head_bytes,
    }
}

pub(super) fn totals(stats: &Stats) -> Totals {
    Totals {
        stored: stats.stored,
        delivered: stats.delivered,
        expired: stats.expired,
        granted_after_wait: stats.waited,
        timed_out: stats.refused.timed_out,
    }
}

pub(super) fn describe(stats: &Stats, page: &mut Page) {
    page.gauge("cloakroom_used_bytes", "Bytes charged now.", stats.used_bytes);
    page.gauge("cloakroom_peak_bytes", "The most bytes ever charged.", stats.peak_bytes);
    page.gauge("cloakroom_max_bytes", "The limit.", stats.max_bytes);
    page.gauge("cloakroom_entries", "Results held.", stats.entries);
    page.gauge("cloakroom_claims", "Results being delivered.", stats.claims);
    page.gauge("cloakroom_waiting", "Requests in the wait queue.", stats.waiting);
    page.gauge("cloakroom_waiting_bytes", "What they ask for.", stats.waiting_bytes);
    let oldest = stats.oldest_wait.unwrap_or_default().as_secs_f64();
    page.gauge("cloakroom_oldest_wait_seconds", "How long the head has waited.", oldest);
    page.counter("cloakroom_waited_total", "Granted after a wait.", stats.waited);
    page.counters(
        "cloakroom_results_total",
        "Results stored, and their outcomes.",
        "outcome",
        [
            ("stored", stats.stored),
            ("delivered", stats.delivered),
            ("expired", stats.expired),
            ("cleared", stats.cleared),
        ],
    );
    page.counters(
        "cloakroom_claims_total",
        "Results claimed for a download or its head, and claims put back.",
        "outcome",
        [("claimed", stats.claimed), ("put_back", stats.put_back)],
    );
    let refused = stats.refused;
    page.counters(
        "cloakroom_refused_total",
        "Requests that the stash refused.",
        "reason",
        [
            ("full", refused.full),
            ("too_large", refused.too_large),
            ("timed_out", refused.timed_out),
            ("cancelled", refused.cancelled),
            ("closed", refused.closed),
            ("owner_full", refused.owner_full),
            ("queue_full", refused.queue_full),
        ],
    );
}

/// Room in the stash, and whose it is.
#[derive(Debug)]
struct Held {
    reservation: Reservation<Bytes, Arc<str>>,
    owner: Arc<str>,
}

impl Reserved for Held {
    fn bytes(&self) -> u64 {
        self.reservation.bytes()
    }

    fn put(
        self: Box<Self>,
        payload: Bytes,
        wait: Duration,
    ) -> BoxFuture<'static, Result<String, Refused>> {
        let Held { reservation, owner } = *self;
        async move {
            let (payload, stash) = match reservation.put(Arc::clone(&owner), payload) {
                Ok(ticket) => return Ok(ticket.to_string()),
                Err(refused) => {
                    // The reservation ends here, before the wait for a larger one.
                    let (payload, reservation) = refused.into_parts();
                    (payload, reservation.stash().clone())
                }
            };
            let outcome = if wait.is_zero() {
                stash.try_put(owner, payload)
            } else {
                stash.put(owner, payload).timeout(tokio::time::sleep(wait)).await
            };
            outcome.map(|ticket| ticket.to_string()).map_err(refused)
        }
        .boxed()
    }
}

fn refused(error: PutError<Bytes>) -> Refused {
    Refused { reason: reason(error.details()), payload: error.into_payload() }
}

fn reason(refusal: &AcquireError) -> Reason {
    tracing::debug!(%refusal, "the stash refused a request");
    refused_for(refusal.reason(), refusal.requested(), refusal.limit())
}

pub(super) fn refused_for(refusal: Refusal, requested: u64, limit: u64) -> Reason {
    match refusal {
        Refusal::TooLarge => Reason::TooLarge,
        // It exceeds what the owner may ever hold, so a retry does not help.
        Refusal::OwnerFull if requested > limit => Reason::TooLarge,
        Refusal::OwnerFull => Reason::OwnerFull,
        Refusal::QueueFull => Reason::QueueFull,
        Refusal::Closed => Reason::Closed,
        Refusal::TimedOut => Reason::TimedOut,
        _ => Reason::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    fn store(adjust: impl FnOnce(&mut Config)) -> Result<CloakroomStore, ConfigError> {
        let mut config = Config { max_bytes: 4_096, ..Config::default() };
        adjust(&mut config);
        CloakroomStore::start(&config)
    }

    /// Every refusal must return the same bytes: they are then sent as a file.
    #[tokio::test]
    async fn a_result_that_outgrew_its_room_is_handed_back_as_the_same_allocation() {
        let store = store(|_| {}).expect("a valid configuration");
        let ann = Owner::new("ann").expect("a name");
        let _held = store.reserve(&ann, 2_000, SHORT).await.expect("it fits");
        for (bytes, wait, reason) in [
            (3_000, Duration::ZERO, Reason::Full),
            (3_000, SHORT, Reason::TimedOut),
            (9_000, SHORT, Reason::TooLarge),
        ] {
            let room = store.reserve(&ann, 100, SHORT).await.expect("it fits");
            let payload = Bytes::from(vec![2; bytes]);
            let address = payload.as_ptr();
            let refused = room.put(payload, wait).await.expect_err("it is full");
            assert_eq!((refused.reason, refused.payload.as_ptr()), (reason, address));
        }
    }

    #[tokio::test]
    async fn what_is_reserved_can_be_used_after_closing() {
        let store = store(|_| {}).expect("a valid configuration");
        let ann = Owner::new("ann").expect("a name");
        let room = store.reserve(&ann, 100, SHORT).await.expect("it fits");
        store.close();
        assert_eq!(store.reserve(&ann, 100, SHORT).await.expect_err("closed"), Reason::Closed);
        let ticket = room.put(Bytes::from_static(b"late"), SHORT).await.expect("it is reserved");
        assert!(store.drained().now_or_never().is_none());
        assert!(matches!(store.open(&ticket, &ann).await, Opened::Delivery(_)));
    }

    /// Two results exceed what they have reserved, and the store has room for one. If both kept their
    /// reservation while they wait for more, neither would end.
    #[tokio::test]
    async fn two_who_need_more_do_not_wait_for_each_other() {
        let store = store(|_| {}).expect("a valid configuration");
        let ann = Owner::new("ann").expect("a name");
        let hour = Duration::from_secs(3_600);
        let one = store.reserve(&ann, 1_800, hour).await.expect("it fits");
        let two = store.reserve(&ann, 1_800, hour).await.expect("it fits");
        let mut one = one.put(Bytes::from(vec![1; 3_000]), hour);
        assert!((&mut one).now_or_never().is_none());
        let mut two = two.put(Bytes::from(vec![2; 3_000]), hour);
        assert!((&mut two).now_or_never().is_none());
        let patience = Duration::from_secs(20);
        let one =
            tokio::time::timeout(patience, one).await.expect("the other has released its bytes");
        let ticket = one.expect("it is the head");
        assert!(matches!(store.open(&ticket, &ann).await, Opened::Delivery(_)));
        store.end().await;
        let two = tokio::time::timeout(patience, two).await.expect("it is its turn");
        two.expect("it fits");
    }

    #[tokio::test]
    async fn an_owner_is_told_what_can_never_be() {
        let store = store(|config| config.max_bytes_per_owner = Some(1_000)).expect("valid");
        let ann = Owner::new("ann").expect("a name");
        assert_eq!(store.reserve(&ann, 2_000, SHORT).await.expect_err("never"), Reason::TooLarge);
        let _held = store.reserve(&ann, 700, SHORT).await.expect("it fits");
        assert_eq!(store.reserve(&ann, 700, SHORT).await.expect_err("now"), Reason::OwnerFull);
    }

    #[tokio::test]
    async fn an_empty_ttl_or_limit_is_a_configuration_error() {
        assert!(store(|config| config.max_bytes = 0).is_err());
        assert!(store(|config| config.ttl = Duration::ZERO).is_err());
    }
}
