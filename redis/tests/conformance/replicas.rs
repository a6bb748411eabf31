//! B11: two replicas are one stash. The other scenarios spread over both as well; these fail if they do not share.

use cloakroom::{Cloakroom, Refusal};

use crate::support::payload;
use crate::world::{Setup, Shared, World};
use crate::{alice, mallory, refused, start_put, take};

#[tokio::test]
async fn b11_a_ticket_is_good_at_every_replica_once_and_for_its_owner() {
    let world = Shared::new(Setup::default()).await;
    let ticket = world.here().try_put(alice(), payload(60)).await.unwrap();
    assert!(world.there().take(&ticket, &mallory()).await.unwrap().is_none());
    assert_eq!(world.there().take(&ticket, &alice()).await.unwrap(), Some(payload(60)));
    assert!(world.here().take(&ticket, &alice()).await.unwrap().is_none());
    assert_eq!(world.state().await, (0, 0, 0));
}

#[tokio::test]
async fn b11_of_two_replicas_one_gets_the_payload() {
    let world = Shared::new(Setup::default()).await;
    for _ in 0..50 {
        let ticket = world.here().try_put(alice(), payload(10)).await.unwrap();
        let alice = alice();
        let (here, there) =
            tokio::join!(world.here().take(&ticket, &alice), world.there().take(&ticket, &alice));
        let found = [here.unwrap(), there.unwrap()].into_iter().flatten().count();
        assert_eq!(found, 1);
    }
    assert_eq!(world.state().await, (0, 0, 0));
}

#[tokio::test]
async fn b11_one_limit_and_one_queue_for_all_replicas() {
    let world = Shared::new(Setup::default()).await;
    let first = world.here().try_put(alice(), payload(60)).await.unwrap();
    refused(world.there().try_put(alice(), payload(50)).await, Refusal::Full, 50);
    // They wait at different replicas, in one queue.
    let head = start_put(&world, 90).await;
    let second = start_put(&world, 10).await;
    refused(world.here().try_put(alice(), payload(1)).await, Refusal::Full, 1);
    refused(world.there().try_put(alice(), payload(1)).await, Refusal::Full, 1);
    assert!(!head.is_finished() && !second.is_finished(), "the second does not pass the head");
    assert_eq!(take(&world, first).await, Some(payload(60)));
    let (head, second) = (head.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(world.state().await, (2, 100, 0));
    for (ticket, size) in [(head, 90), (second, 10)] {
        assert_eq!(world.here().take(&ticket, &alice()).await.unwrap(), Some(payload(size)));
    }
}
