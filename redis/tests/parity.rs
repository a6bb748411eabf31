//! What `SharedStash` has beyond the trait, under the names of `Stash`.

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cloakroom::{Cloakroom, CloakroomClaim, CloakroomReservation, Event, Failure, Refusal};
use cloakroom_redis::Library;

use support::audit::audit;
use support::replica::{alice, builder, replica};
use support::server::Server;
use support::{eventually, payload};

/// Without a runtime, and inside one: `Timer` and the operations run on the keeper's thread.
#[test]
fn calls_that_block_wait_in_the_same_queue() {
    let server = Server::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stash = futures_lite::future::block_on(replica(&server.url()));
    let blocking = || {
        let ticket = stash.put_timeout(alice(), payload(80), Duration::from_secs(5)).unwrap();
        let full = stash.put_timeout(alice(), payload(30), Duration::ZERO).unwrap_err();
        assert_eq!(full.reason(), Some(Refusal::Full));
        assert_eq!(full.into_inner(), payload(30));
        let began = Instant::now();
        let late = stash.put_timeout(alice(), payload(30), Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.reason(), Some(Refusal::TimedOut));
        assert_eq!(late.into_inner(), payload(30));
        assert!(began.elapsed() >= Duration::from_millis(50));
        let late = stash.reserve_timeout(30, Duration::from_millis(10)).unwrap_err();
        assert_eq!(late.reason(), Some(Refusal::TimedOut));
        let late = stash.reserve_timeout_for(&alice(), 30, Duration::ZERO).unwrap_err();
        assert_eq!(late.reason(), Some(Refusal::Full));
        let waiter = stash.clone();
        let waiter = std::thread::spawn(move || {
            waiter.put_timeout(alice(), payload(30), Duration::MAX).unwrap()
        });
        let wait = async {
            let look = || async { stash.waiting().await.unwrap() };
            eventually("in the queue", look, |&waiting| waiting == 1).await;
            stash.take(&ticket, &alice()).await.unwrap().unwrap();
        };
        std::thread::scope(|scope| scope.spawn(|| runtime.block_on(wait)).join().unwrap());
        let waited = waiter.join().unwrap();
        let room = stash.reserve_timeout(70, Duration::from_secs(5)).unwrap();
        assert_eq!(room.bytes(), 70);
        drop(room);
        futures_lite::future::block_on(stash.take(&waited, &alice())).unwrap().unwrap();
    };
    blocking();
    runtime.block_on(async { blocking() });
    assert!(!stash.drained_timeout(Duration::from_millis(20)).unwrap());
    futures_lite::future::block_on(stash.close()).unwrap();
    assert!(stash.drained_timeout(Duration::from_secs(5)).unwrap());
    assert!(stash.drained_timeout(Duration::ZERO).unwrap(), "it is drained, without a wait");
}

#[tokio::test]
async fn owned_futures_are_static_and_start_when_polled() {
    fn is_static<F: Future + Send + 'static>(future: F) -> F {
        future
    }
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let put = is_static(stash.put_owned(alice(), payload(60)));
    let reserve = is_static(stash.reserve_owned(40));
    let for_owner = is_static(stash.reserve_owned_for(alice(), 10));
    assert_eq!(stash.used_bytes().await, Ok(0), "nothing begins before the first poll");
    let ticket = tokio::spawn(put).await.unwrap().unwrap();
    let room = tokio::spawn(reserve).await.unwrap().unwrap();
    assert_eq!(stash.used_bytes().await, Ok(100));
    let waiting = tokio::spawn(for_owner);
    let look = || async { stash.waiting().await.unwrap() };
    eventually("in the queue", look, |&waiting| waiting == 1).await;
    assert_eq!(room.stash().len().await, Ok(1));
    drop(room);
    drop(waiting.await.unwrap().unwrap());
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
}

#[tokio::test]
async fn single_numbers_are_those_of_the_statistics() {
    let server = Server::start();
    let open = || builder(&server.url(), "faults").max_bytes_per_owner(90).open();
    let (stash, other) = (open().await.unwrap(), open().await.unwrap());
    assert_eq!(stash.is_empty().await, Ok(true));
    let ticket = stash.try_put(alice(), payload(60)).await.unwrap();
    let room = other.try_reserve(Some(&alice()), 20).await.unwrap();
    assert_eq!((other.len().await, other.is_empty().await), (Ok(1), Ok(false)));
    assert_eq!((other.used_bytes().await, other.max_bytes().await), (Ok(80), Ok(100)));
    assert_eq!(other.owner_used_bytes(&alice()).await, Ok(80));
    assert_eq!(other.owner_used_bytes(&"bob".into()).await, Ok(0));
    let waiter = stash.clone();
    let waiter = tokio::spawn(async move { waiter.put("bob".into(), payload(50)).await });
    let look = || async { stash.waiting().await.unwrap() };
    eventually("in the queue", look, |&waiting| waiting == 1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let full = stash.try_put("carol".into(), payload(30)).await.unwrap_err();
    let wait = stash.retry_after(&full).await.unwrap().unwrap();
    assert!(wait >= Duration::from_millis(20), "{wait:?}");
    let large = stash.try_put(alice(), payload(300)).await.unwrap_err();
    assert_eq!(stash.retry_after(&large).await, Ok(None));
    waiter.abort();
    let look = || async { stash.stats().await.unwrap().abandoned };
    eventually("it left the queue", look, |&count| count == 1).await;
    drop(room);
    stash.take(&ticket, &alice()).await.unwrap().unwrap();
    let look = || async { stash.owner_used_bytes(&alice()).await };
    let _ = eventually("all is released", look, |used| *used == Ok(0)).await;
    assert_eq!(stash.is_closed().await, Ok(false));
    stash.close().await.unwrap();
    assert_eq!(other.is_closed().await, Ok(true));
}

#[tokio::test]
async fn an_entry_whose_ticket_was_not_sent_is_removed() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let kept = stash.try_put(alice(), payload(10)).await.unwrap();
    stash.unsent(kept, alice()).sent();
    let others = stash.try_put(alice(), payload(20)).await.unwrap();
    drop(stash.unsent(others, "bob".into()));
    let claimed = stash.try_put(alice(), payload(30)).await.unwrap();
    let claim = stash.claim(&claimed, &alice()).await.unwrap().unwrap();
    drop(stash.unsent(claimed, alice()));
    let removed = stash.try_put(alice(), payload(40)).await.unwrap();
    assert_eq!(stash.unsent(removed, alice()).ticket(), removed);
    let look = || async { stash.stats().await.unwrap() };
    let stats = eventually("it is removed", look, |stats| stats.unsent == 1).await;
    assert_eq!((stats.entries, stats.used_bytes, stats.delivered), (3, 60, 0));
    assert_eq!(stash.take(&removed, &alice()).await, Ok(None));
    assert_eq!(claim.put_back().await, Ok(true));
    audit(&mut server.connection(), "faults");
}

#[tokio::test]
async fn a_put_back_says_whether_the_entry_is_there() {
    let server = Server::start();
    let stash = replica(&server.url()).await;
    let ticket = stash.try_put(alice(), payload(10)).await.unwrap();
    let claim = stash.claim(&ticket, &alice()).await.unwrap().unwrap();
    assert_eq!((claim.ticket(), claim.charge()), (ticket, 10));
    assert_eq!(claim.put_back().await, Ok(true));
    let mut claim = stash.claim(&ticket, &alice()).await.unwrap().unwrap();
    stash.clear().await.unwrap();
    assert_eq!(claim.renew(Duration::from_secs(5)).await, Ok(true));
    assert_eq!(claim.put_back().await, Ok(false));
    let ticket = stash.try_put(alice(), payload(10)).await.unwrap();
    let mut claim = stash.claim(&ticket, &alice()).await.unwrap().unwrap();
    server.run::<()>("FLUSHALL");
    assert_eq!(claim.renew(Duration::from_secs(5)).await, Err(Failure::Lost));
    assert_eq!(claim.put_back().await, Err(Failure::Lost));
}

/// Keeps the events that it hears.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Event>>>);

impl cloakroom::Observer for Log {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Log {
    fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }
}

/// Each removed entry is reported once: by the replica whose step removed it.
#[tokio::test]
async fn observers_hear_of_expiry_and_of_what_was_cleared() {
    let server = Server::start();
    let log = Log::default();
    let open = || {
        builder(&server.url(), "faults")
            .max_bytes(1_000)
            .overflow(50, Duration::from_secs(60))
            .observer(log.clone())
            .open()
    };
    let (stash, other) = (open().await.unwrap(), open().await.unwrap());
    let short = cloakroom::PutOptions::new().ttl(Duration::from_millis(20));
    for stash in [&stash, &other, &stash] {
        let _ = stash.try_put_with(alice(), payload(50), short).await.unwrap();
    }
    let sum = |wanted: fn(&Event) -> Option<(usize, u64)>| {
        log.all().iter().filter_map(wanted).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    };
    let expired = || async {
        sum(|event| match event {
            Event::Expired { entries, bytes } => Some((*entries, *bytes)),
            _ => None,
        })
    };
    eventually("expired, without traffic", expired, |seen| *seen == (3, 150)).await;
    assert_eq!(stash.gc().await, Ok(0), "the keepers have done it");
    for _ in 0..10 {
        let _ = stash.try_put(alice(), payload(100)).await.unwrap();
    }
    let burst = stash.try_put(alice(), payload(50)).await.unwrap();
    let overflow = Event::Stored { bytes: 50, overflow: true };
    assert!(log.all().contains(&overflow));
    let claim = stash.claim(&burst, &alice()).await.unwrap().unwrap();
    other.clear().await.unwrap();
    assert_eq!(claim.put_back().await, Ok(false));
    let cleared = || async {
        sum(|event| match event {
            Event::Cleared { entries, bytes } => Some((*entries, *bytes)),
            _ => None,
        })
    };
    eventually("cleared", cleared, |seen| *seen == (11, 1_050)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((expired().await, cleared().await), ((3, 150), (11, 1_050)), "once each");
    let stats = stash.stats().await.unwrap();
    assert_eq!((stats.expired, stats.cleared), (3, 11));
}

/// Otherwise the events would say that the entry is still there.
#[tokio::test]
async fn an_observer_does_not_hear_of_a_put_that_was_undone() {
    let server = Server::start();
    let log = Log::default();
    let stored = || {
        let sizes = |event: &Event| match event {
            Event::Stored { bytes, .. } => Some(*bytes),
            _ => None,
        };
        log.all().iter().filter_map(sizes).collect::<Vec<_>>()
    };
    let builder = builder(&server.url(), "faults").max_bytes(1_000_000);
    let stash = builder.observer(log.clone()).open().await.unwrap();
    let mut faster = 0;
    // The second is stored in two steps.
    for size in [10, 100_000] {
        let put = loop {
            let mut put = Box::pin(stash.try_put(alice(), payload(size)));
            match futures_lite::future::poll_once(&mut put).await {
                None => break put,
                // The keeper's thread was faster.
                Some(stored) => {
                    drop(stash.take(&stored.unwrap(), &alice()).await.unwrap().unwrap())
                }
            }
            faster += 1;
            log.0.lock().unwrap().clear();
        };
        let look = || async { stash.stats().await.unwrap().stored };
        eventually("it is stored", look, |&stored| stored == faster + 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(put);
        let look = || async { stash.stats().await.unwrap() };
        let stats = eventually("it is undone", look, |stats| stats.used_bytes == 0).await;
        assert_eq!((stats.stored, stats.entries), (faster, 0));
    }
    assert_eq!(stored(), []);
    let ticket = stash.try_put(alice(), payload(30)).await.unwrap();
    assert_eq!(stored(), [30]);
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(30))));
}

/// Nor without time to wait. As in `Stash`.
#[test]
fn a_stash_whose_entries_have_expired_is_drained() {
    let server = Server::start();
    let builder = builder(&server.url(), "parity").library(Library::on_a_manual_clock());
    let stash = builder.ttl(Duration::from_secs(1)).open();
    let stash = futures_lite::future::block_on(stash).unwrap();
    let put = || futures_lite::future::block_on(stash.try_put(alice(), payload(40)));
    let _ = put().unwrap();
    futures_lite::future::block_on(stash.close()).unwrap();
    assert!(!stash.drained_timeout(Duration::ZERO).unwrap(), "an entry is there");
    server.run::<()>("SET ck:{parity}:clock 1000000000");
    assert!(stash.drained_timeout(Duration::ZERO).unwrap());
}

/// Without a step in between that would have removed it.
#[tokio::test]
async fn a_put_into_a_reservation_is_not_refused_for_what_has_expired() {
    let server = Server::start();
    let builder = builder(&server.url(), "parity").library(Library::on_a_manual_clock());
    let stash = builder.ttl(Duration::from_secs(1)).max_bytes_per_owner(50).open().await.unwrap();
    let _ = stash.try_put(alice(), payload(50)).await.unwrap();
    let room = stash.try_reserve(None, 40).await.unwrap();
    let (_, room) = room.put(alice(), payload(40)).await.unwrap_err().into_inner();
    let clock = "ck:{parity}:clock";
    redis::cmd("SET").arg(clock).arg(1_000_000_000).exec(&mut server.connection()).unwrap();
    let ticket = room.unwrap().put(alice(), payload(40)).await.unwrap();
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(40))));
    assert_eq!(stash.stats().await.unwrap().expired, 1);
    audit(&mut server.connection(), "parity");
}
