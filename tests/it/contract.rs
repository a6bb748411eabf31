//! B11: a stash behind the trait that it shares with the one of several replicas.

use std::collections::HashMap;
use std::future::Future;
use std::io::Read;
use std::time::Duration;

use cloakroom::{
    Cloakroom, CloakroomClaim, CloakroomReservation, Event, Failure, OnDrop, PutOptions, Refusal,
    Stash, Ticket,
};
use futures_lite::future::block_on;

use crate::fixtures::{ALICE, EventLog, SECOND, TestStash, fill, payload, put, stash_with, state};

/// A server that knows the trait only.
async fn hand_in<P, C: Cloakroom<P, u8>>(stash: &C, payload: P) -> Result<Ticket, Failure> {
    stash.try_put(ALICE, payload).await.map_err(|rejected| rejected.failure())
}

#[test]
fn b11_payloads_that_a_weigher_weighs() {
    type Table = HashMap<u64, f64>;
    let table = |rows: u64| (0..rows).map(|row| (row, 0.5)).collect::<Table>();
    let stash: Stash<Table, u8> = Stash::builder()
        .max_bytes(100)
        .entry_overhead(0)
        .weigher(|_, table: &Table| 10 * table.len() as u64)
        .build()
        .unwrap();
    block_on(async {
        let ticket = hand_in(&stash, table(6)).await.unwrap();
        assert_eq!(hand_in(&stash, table(5)).await, Err(Failure::Refused(Refusal::Full)));
        let claim = Cloakroom::claim(&stash, &ticket, &ALICE).await.unwrap().unwrap();
        CloakroomClaim::put_back(claim).await;
        assert_eq!(Cloakroom::take(&stash, &ticket, &ALICE).await, Ok(Some(table(6))));
        let room = Cloakroom::try_reserve(&stash, Some(&ALICE), 100).await.unwrap();
        assert!(CloakroomReservation::put(room, ALICE, table(10)).await.is_ok());
    });
}

fn claim(stash: &TestStash, ticket: Ticket) -> impl CloakroomClaim<Vec<u8>> + use<> {
    block_on(Cloakroom::claim(stash, &ticket, &ALICE)).unwrap().unwrap()
}

/// Whatever the claim would do if it was dropped itself.
#[test]
fn b11_a_put_back_that_is_dropped_before_its_first_poll_loses_nothing() {
    let (stash, _) = stash_with(|builder| builder);
    let ticket = put(&stash, 10);
    let held = || claim(&stash, ticket).on_drop(OnDrop::Finish);
    drop(held().put_back());
    assert_eq!(state(&stash), (1, 10, 0));
    drop(held().put_back_with(PutOptions::new().ttl(SECOND)));
    assert_eq!(state(&stash), (1, 10, 0));
    block_on(held().put_back());
    assert_eq!(stash.take(&ticket, &ALICE), Some(payload(10)));
}

/// A claim whose renewal does not complete, as over a network.
#[derive(Debug)]
struct Slow<C>(C);

impl<C: std::ops::Deref> std::ops::Deref for Slow<C> {
    type Target = C::Target;

    fn deref(&self) -> &C::Target {
        &self.0
    }
}

impl<C> CloakroomClaim<Vec<u8>> for Slow<C>
where
    C: CloakroomClaim<Vec<u8>> + std::ops::Deref<Target = Vec<u8>>,
{
    fn into_inner(self) -> Vec<u8> {
        self.0.into_inner()
    }

    fn put_back(self) -> impl Future<Output = ()> + Send {
        self.0.put_back()
    }

    fn on_drop(self, what: OnDrop) -> Self {
        Self(self.0.on_drop(what))
    }

    async fn renew(&mut self, _: Duration) -> Result<bool, Failure> {
        std::future::pending().await
    }

    fn into_bytes(self) -> bytes::Bytes {
        self.0.into_bytes()
    }
}

#[test]
fn b11_a_put_back_that_is_dropped_while_it_renews_loses_nothing() {
    let (stash, _) = stash_with(|builder| builder);
    let ticket = put(&stash, 10);
    let slow = Slow(claim(&stash, ticket)).on_drop(OnDrop::Finish);
    let put_back = slow.put_back_with(PutOptions::new().ttl(SECOND));
    assert!(block_on(futures_lite::future::poll_once(put_back)).is_none());
    assert_eq!(stash.take(&ticket, &ALICE), Some(payload(10)));
}

#[test]
fn b11_every_conversion_does_what_was_said_about_its_drop() {
    let (stash, _) = stash_with(|builder| builder);
    type End = fn(&TestStash, Ticket, OnDrop);
    let ends: &[End] = &[
        |stash, ticket, what| drop(claim(stash, ticket).on_drop(what)),
        |stash, ticket, what| drop(claim(stash, ticket).on_drop(what).into_bytes()),
        |stash, ticket, what| {
            let mut reader = claim(stash, ticket).on_drop(what).into_reader();
            reader.read_exact(&mut [0; 9]).unwrap();
        },
        #[cfg(feature = "http-body")]
        |stash, ticket, what| drop(claim(stash, ticket).on_drop(what).into_body()),
        #[cfg(feature = "stream")]
        |stash, ticket, what| drop(claim(stash, ticket).on_drop(what).into_stream()),
        #[cfg(feature = "stream")]
        |stash, ticket, what| drop(claim(stash, ticket).on_drop(what).into_items::<u8>()),
    ];
    for end in ends {
        let ticket = put(&stash, 10);
        end(&stash, ticket, OnDrop::PutBack);
        assert_eq!(state(&stash), (1, 10, 0));
        end(&stash, ticket, OnDrop::Finish);
        assert_eq!(state(&stash), (0, 0, 0));
    }
    assert_eq!(stash.stats().delivered, ends.len() as u64);
}

#[test]
fn b11_a_refusal_has_the_numbers_of_the_stash_and_is_counted_once() {
    let log = EventLog::default();
    let (stash, _) = stash_with(|builder| builder.max_bytes_per_owner(60).observer(log.clone()));
    fill(&stash, 50);
    log.read();
    let rejected = block_on(Cloakroom::put(&stash, ALICE, payload(20))).unwrap_err();
    let numbers = rejected.numbers();
    assert_eq!((rejected.reason(), numbers.requested), (Some(Refusal::OwnerFull), 20));
    assert_eq!((numbers.used, numbers.limit, numbers.waiting), (50, 60, 0));
    let expected = "its owner holds too much: 20 bytes requested, 50 of 60 used, 0 waiting";
    assert_eq!(rejected.to_string(), expected);
    assert_eq!(rejected.into_inner(), payload(20));
    let room = block_on(Cloakroom::try_reserve(&stash, None, 20)).unwrap();
    let (back, room) =
        block_on(CloakroomReservation::put(room, ALICE, payload(20))).unwrap_err().into_inner();
    assert_eq!((back, room.unwrap().bytes()), (payload(20), 20));
    assert_eq!(stash.stats().refused.owner_full, 2);
    let refused = Event::Refused { reason: Refusal::OwnerFull, bytes: 20 };
    assert_eq!(log.read(), [refused, refused]);
}
