//! The contract's scenarios, from one source, on the stash in this process and on the shared one.
//!
//! In process only, and so tested in the library: re-entrancy and panics of user code (promises 6 and 11), which
//! run on the engine's other side; progress without locks (12); executors that poll inside `wake`; D5, whose
//! counterpart is R6 of the benchmarks.

#[path = "../support/mod.rs"]
mod support;
mod world;

mod beyond;
mod delivery;
mod replicas;
mod scenarios;

use std::future::Future;

use cloakroom::{Cloakroom, Refusal, Rejected, Ticket};
use tokio::task::JoinHandle;

use support::{eventually, payload};
use world::{Owner, Payload, World};

type PutResult = Result<Ticket, Rejected<Payload>>;

fn alice() -> Owner {
    "alice".into()
}

fn mallory() -> Owner {
    "mallory".into()
}

fn refused(result: PutResult, reason: Refusal, size: usize) {
    let rejected = result.expect_err("it should have been refused");
    assert_eq!(rejected.reason(), Some(reason));
    assert_eq!(rejected.into_inner(), payload(size), "the payload comes back");
}

async fn put<W: World>(world: &W, size: usize) -> Ticket {
    world.here().try_put(alice(), payload(size)).await.unwrap()
}

async fn take<W: World>(world: &W, ticket: Ticket) -> Option<Payload> {
    world.there().take(&ticket, &alice()).await.unwrap()
}

/// A task that waits with its put, and is in the queue when this returns.
async fn start_put_until<W: World, F>(world: &W, size: usize, until: F) -> JoinHandle<PutResult>
where
    F: Future + Send + 'static,
{
    let (_, _, waiting) = world.state().await;
    let stash = if waiting % 2 == 0 { world.here() } else { world.there() }.clone();
    let task = tokio::spawn(async move { stash.put_until(alice(), payload(size), until).await });
    eventually("in the queue", || world.state(), |state| state.2 == waiting + 1).await;
    task
}

async fn start_put<W: World>(world: &W, size: usize) -> JoinHandle<PutResult> {
    start_put_until(world, size, std::future::pending::<()>()).await
}

/// Each scenario on both.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod in_process {
            $(#[tokio::test]
            async fn $name() {
                super::$name::<crate::world::InProcess>().await;
            })*
        }
        mod shared {
            $(#[tokio::test]
            async fn $name() {
                super::$name::<crate::world::Shared>().await;
            })*
        }
    };
}
pub(crate) use on_both;
