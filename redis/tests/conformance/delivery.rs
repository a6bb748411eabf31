//! Claims that are converted, renewed, or dropped: the trait's methods, on both implementations.

use std::io::Read;
use std::time::Duration;

use cloakroom::{Cloakroom, CloakroomClaim, OnDrop, PutOptions};
use futures_lite::StreamExt;
use http_body_util::BodyExt;

use crate::support::{eventually, payload};
use crate::world::{Setup, World};
use crate::{alice, on_both, put, take};

on_both! {
    a_conversion_that_is_read_to_its_end_delivers,
    a_conversion_that_is_dropped_before_its_end_puts_back,
    every_conversion_honours_on_drop,
    bytes_keep_the_charge_until_their_last_clone,
    an_empty_payload_is_delivered_when_its_end_was_asked_for,
    b3_a_renewed_claim_has_a_new_deadline,
    b3_a_renewal_is_cut_to_the_overflow_s_time,
    b3_a_put_back_with_options_renews,
    a_put_back_whose_future_is_dropped_puts_back,
}

/// Large enough for more than one part of a conversion, and for chunks on the engine.
const LARGE: usize = 200_000;

const LARGE_WORLD: fn() -> Setup = || Setup { limit: 1_000_000, ..Setup::default() };

async fn claim<W: World>(
    world: &W,
    size: usize,
) -> <W::Stash as Cloakroom<Vec<u8>, crate::world::Owner>>::Claim {
    let ticket = put(world, size).await;
    world.there().claim(&ticket, &alice()).await.unwrap().unwrap()
}

async fn a_conversion_that_is_read_to_its_end_delivers<W: World>() {
    let world = W::new(LARGE_WORLD()).await;
    for size in [40, LARGE] {
        let mut read = Vec::new();
        claim(&world, size).await.into_reader().read_to_end(&mut read).unwrap();
        assert!(read == payload(size));
        let body = claim(&world, size).await.into_body().collect().await.unwrap().to_bytes();
        assert!(body == payload(size));
        drop(body);
        let parts: Vec<_> = claim(&world, size).await.into_stream().collect().await;
        assert!(parts.concat() == payload(size));
        drop(parts);
        let items: Vec<u8> = claim(&world, size).await.into_items().collect().await;
        assert!(items == payload(size));
        assert!(claim(&world, size).await.into_inner() == payload(size));
        eventually("all are delivered", || world.state(), |state| *state == (0, 0, 0)).await;
    }
    assert_eq!(world.here().stats().await.unwrap().delivered, 10);
}

async fn a_conversion_that_is_dropped_before_its_end_puts_back<W: World>() {
    let world = W::new(LARGE_WORLD()).await;
    let ticket = put(&world, LARGE).await;
    let claim = || async {
        let look = || async { world.there().claim(&ticket, &alice()).await.unwrap() };
        eventually("it is back", look, |claim| claim.is_some()).await.unwrap()
    };
    let mut reader = claim().await.into_reader();
    reader.read_exact(&mut [0; 100]).unwrap();
    assert_eq!(reader.remaining(), LARGE as u64 - 100);
    drop(reader);
    let mut body = claim().await.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let mut stream = claim().await.into_stream();
    assert_eq!(stream.next().await.unwrap().len(), 64 << 10);
    drop(stream);
    let mut items = claim().await.into_items::<u8>();
    items.next().await.unwrap();
    drop(items);
    drop(claim().await);
    let look = || take(&world, ticket);
    assert!(
        eventually("it is back", look, |taken| taken.is_some()).await.unwrap() == payload(LARGE)
    );
    let stats = world.there().stats().await.unwrap();
    assert_eq!((stats.put_back, stats.delivered), (5, 1));
}

async fn every_conversion_honours_on_drop<W: World>() {
    let world = W::new(LARGE_WORLD()).await;
    let finish = || async { claim(&world, 40).await.on_drop(OnDrop::Finish) };
    drop(finish().await);
    drop(finish().await.into_reader());
    drop(finish().await.into_body());
    drop(finish().await.into_stream());
    drop(finish().await.into_items::<u8>());
    drop(finish().await.into_bytes());
    drop(claim(&world, 40).await.into_bytes());
    eventually("all are delivered", || world.state(), |state| *state == (0, 0, 0)).await;
    assert_eq!(world.there().stats().await.unwrap().delivered, 7);
    let bytes = claim(&world, 40).await.on_drop(OnDrop::PutBack).into_bytes();
    drop(bytes);
    let look = || async { world.there().stats().await.unwrap().put_back };
    eventually("it is back", look, |&count| count == 1).await;
    assert_eq!(world.state().await, (1, 40, 0));
}

async fn bytes_keep_the_charge_until_their_last_clone<W: World>() {
    let world = W::new(LARGE_WORLD()).await;
    let bytes = claim(&world, LARGE).await.into_bytes();
    let half = bytes.slice(..LARGE / 2);
    drop(bytes);
    assert_eq!(world.state().await, (1, LARGE as u64, 0));
    assert!(half == payload(LARGE)[..LARGE / 2]);
    drop(half);
    eventually("delivered", || world.state(), |state| *state == (0, 0, 0)).await;
}

async fn an_empty_payload_is_delivered_when_its_end_was_asked_for<W: World>() {
    let world = W::new(Setup::default()).await;
    drop(claim(&world, 0).await.into_reader());
    let look = || async { world.there().stats().await.unwrap().put_back };
    eventually("it is back", look, |&count| count == 1).await;
    assert_eq!(claim(&world, 0).await.into_reader().read(&mut [0; 1]).unwrap(), 0);
    let look = || async { world.there().stats().await.unwrap().delivered };
    eventually("delivered", look, |&count| count == 1).await;
}

async fn b3_a_renewed_claim_has_a_new_deadline<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 40).await;
    let mut claim = world.here().claim(&ticket, &alice()).await.unwrap().unwrap();
    world.advance(Duration::from_millis(900)).await;
    assert_eq!(claim.renew(Duration::from_millis(1_000)).await, Ok(true));
    world.advance(Duration::from_millis(999)).await;
    claim.put_back().await;
    // Put back at its new deadline, less one millisecond.
    let mut claim = world.there().claim(&ticket, &alice()).await.unwrap().unwrap();
    world.advance(Duration::from_millis(1)).await;
    assert_eq!(claim.renew(Duration::from_millis(1_000)).await, Ok(false), "too late");
    claim.put_back().await;
    assert_eq!(world.state().await, (0, 0, 0));
    // Shorter, too; and a clear is stronger.
    let ticket = put(&world, 40).await;
    let mut claim = world.here().claim(&ticket, &alice()).await.unwrap().unwrap();
    assert_eq!(claim.renew(Duration::from_millis(5)).await, Ok(true));
    claim.put_back().await;
    world.advance(Duration::from_millis(5)).await;
    assert_eq!(take(&world, ticket).await, None);
    let ticket = put(&world, 40).await;
    let mut claim = world.here().claim(&ticket, &alice()).await.unwrap().unwrap();
    world.there().clear().await.unwrap();
    assert_eq!(claim.renew(Duration::from_millis(500)).await, Ok(true));
    claim.put_back().await;
    assert_eq!(world.state().await, (0, 0, 0));
}

async fn b3_a_renewal_is_cut_to_the_overflow_s_time<W: World>() {
    let overflow = Some((50, Duration::from_millis(100)));
    let world = W::new(Setup { overflow, ..Setup::default() }).await;
    let regular = put(&world, 100).await;
    let burst = put(&world, 50).await;
    for (ticket, cut) in [(burst, true), (regular, false)] {
        let mut claim = world.here().claim(&ticket, &alice()).await.unwrap().unwrap();
        assert_eq!(claim.renew(Duration::from_millis(500)).await, Ok(true));
        claim.put_back().await;
        world.advance(Duration::from_millis(100)).await;
        assert_eq!(take(&world, ticket).await.is_none(), cut);
    }
}

async fn b3_a_put_back_with_options_renews<W: World>() {
    let world = W::new(Setup::default()).await;
    let ticket = put(&world, 40).await;
    let claim = world.here().claim(&ticket, &alice()).await.unwrap().unwrap();
    claim.put_back_with(PutOptions::new().ttl(Duration::from_millis(5_000))).await;
    world.advance(Duration::from_millis(4_999)).await;
    assert_eq!(take(&world, ticket).await, Some(payload(40)));
}

/// Whatever the claim would do if it was dropped itself.
async fn a_put_back_whose_future_is_dropped_puts_back<W: World>() {
    let world = W::new(Setup::default()).await;
    let held = claim(&world, 40).await.on_drop(OnDrop::Finish);
    drop(held.put_back());
    let ticket = put(&world, 40).await;
    let held = world.there().claim(&ticket, &alice()).await.unwrap().unwrap();
    let later = PutOptions::new().ttl(Duration::from_secs(5));
    drop(held.on_drop(OnDrop::Finish).put_back_with(later));
    let look = || async { world.here().stats().await.unwrap() };
    let stats = eventually("both are back", look, |stats| stats.claims == 0).await;
    assert_eq!((stats.entries, stats.put_back, stats.delivered), (2, 2, 0));
    assert_eq!(take(&world, ticket).await, Some(payload(40)));
}
