//! This crate with one feature in use each, beside the same without: the cost of the feature.

use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Builder, Event, Observer, PutOptions, Stash, Ticket};

use super::{Owner, Peer};

/// A type of their own, so that the compiler makes `try_put` and `take` for them alone. The functions of the
/// other peers have one caller each, too.
#[derive(PartialEq, Eq, Hash)]
struct User(Owner);

type Hall = Stash<Bytes, User>;

/// A stash by its settings, its put and its take.
macro_rules! feature {
    ($type:ident, $name:literal, $set:expr, $put:expr, $take:expr) => {
        pub(crate) struct $type(Hall);

        impl Peer for $type {
            const NAME: &'static str = $name;
            type Ticket = Ticket;

            fn new(max_bytes: u64, ttl: Duration) -> Self {
                let builder = Hall::builder().max_bytes(max_bytes).ttl(ttl).entry_overhead(0);
                let set: fn(Builder<Bytes, User>) -> Builder<Bytes, User> = $set;
                Self(set(builder).build().expect("the settings are good"))
            }

            fn put(&self, owner: Owner, payload: Bytes) -> Option<Ticket> {
                $put(&self.0, User(owner), payload)
            }

            fn take(&self, ticket: Ticket, owner: Owner) -> Option<Bytes> {
                $take(&self.0, ticket, User(owner))
            }

            fn expire(&self) -> Option<usize> {
                Some(self.0.gc())
            }
        }
    };
}

struct Nothing;

impl Observer for Nothing {
    fn event(&self, event: Event) {
        std::hint::black_box(event);
    }
}

const MINUTE: PutOptions = PutOptions::new().ttl(Duration::from_secs(60));

fn put(stash: &Hall, owner: User, payload: Bytes) -> Option<Ticket> {
    stash.try_put(owner, payload).ok()
}

fn take(stash: &Hall, ticket: Ticket, owner: User) -> Option<Bytes> {
    stash.take(&ticket, &owner)
}

fn reserve(stash: &Hall, owner: User, payload: Bytes) -> Option<Ticket> {
    stash.try_reserve(payload.len() as u64).ok()?.put(owner, payload).ok()
}

fn put_for_a_minute(stash: &Hall, owner: User, payload: Bytes) -> Option<Ticket> {
    stash.try_put_with(owner, payload, MINUTE).ok()
}

fn claim(stash: &Hall, ticket: Ticket, owner: User) -> Option<Bytes> {
    Some(stash.claim(&ticket, &owner)?.into_inner())
}

// The base of the comparison.
feature!(Plain, "cloakroom", |b| b, put, take);
feature!(Observed, "cloakroom, observed", |b| b.observer(Nothing), put, take);
feature!(Limited, "cloakroom, a limit per owner", |b| b.max_bytes_per_owner(1 << 39), put, take);
feature!(
    Overflow,
    "cloakroom, an overflow",
    |b| b.overflow(1 << 20, Duration::from_secs(1)),
    put,
    take
);
feature!(OwnTtl, "cloakroom, a ttl for each", |b| b, put_for_a_minute, take);
feature!(Reserved, "cloakroom, reserved first", |b| b, reserve, take);
feature!(Claimed, "cloakroom, claimed", |b| b, put, claim);
