//! The inline store on a [`cloakroom::Stash`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use cloakroom::{ConfigError, PutError, Refusal, Stash, Ticket};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Delivery, InlineStore, Reason, Refused, Taken, Usage};
use crate::owner::Owner;

/// Results in a stash, with the stash's reaper running as a task.
#[derive(Debug)]
pub struct CloakroomStore {
    stash: Stash<Bytes, Arc<str>>,
}

impl CloakroomStore {
    /// Must be called inside a tokio runtime. The reaper's task ends with the store.
    pub fn start(max_bytes: u64, ttl: Duration) -> Result<Self, ConfigError> {
        let stash = Stash::builder().max_bytes(max_bytes).ttl(ttl).build()?;
        tokio::spawn(stash.reaper().run(tokio::time::sleep));
        Ok(CloakroomStore { stash })
    }
}

impl InlineStore for CloakroomStore {
    fn put<'a>(
        &'a self,
        owner: &'a Owner,
        payload: Bytes,
        wait: Duration,
    ) -> BoxFuture<'a, Result<String, Refused>> {
        let owner = owner.to_key();
        async move {
            let outcome = if wait.is_zero() {
                self.stash.try_put(owner, payload)
            } else {
                self.stash.put(owner, payload).until(tokio::time::sleep(wait)).await
            };
            outcome.map(|ticket| ticket.to_string()).map_err(refused)
        }
        .boxed()
    }

    fn take(&self, ticket: &str, owner: &Owner) -> Taken {
        let Ok(ticket) = ticket.parse::<Ticket>() else {
            return Taken::Malformed;
        };
        match self.stash.take(&ticket, owner.name()) {
            Some(payload) => {
                Taken::Delivery(Delivery { bytes: payload.len() as u64, body: Body::from(payload) })
            }
            None => Taken::Gone,
        }
    }

    fn close(&self) {
        self.stash.close();
    }

    fn is_closed(&self) -> bool {
        self.stash.is_closed()
    }

    fn usage(&self) -> Usage {
        Usage {
            entries: self.stash.len(),
            used_bytes: self.stash.used_bytes(),
            max_bytes: self.stash.max_bytes(),
            waiting: self.stash.waiting(),
        }
    }
}

fn refused(error: PutError<Bytes>) -> Refused {
    tracing::debug!(%error, "the stash refused a result");
    let reason = match error.reason() {
        Refusal::TooLarge => Reason::TooLarge,
        Refusal::Closed => Reason::Closed,
        // Refused at once, or given up when the time in line was over: there was no room.
        _ => Reason::Full,
    };
    Refused { reason, payload: error.into_payload() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    fn owner(name: &str) -> Owner {
        Owner::new(name).expect("a name")
    }

    /// Every refusal must hand back the very bytes: they are what goes out another way.
    #[tokio::test]
    async fn a_refusal_hands_back_the_same_allocation() {
        let store = CloakroomStore::start(4_096, TTL).expect("a valid configuration");
        let ann = owner("ann");
        let short = Duration::from_millis(20);
        store.put(&ann, Bytes::from(vec![1; 3_000]), short).await.expect("there is room");

        for (bytes, wait, reason) in [
            (2_000, Duration::ZERO, Reason::Full),
            (2_000, short, Reason::Full),
            (9_000, short, Reason::TooLarge),
        ] {
            let payload = Bytes::from(vec![2; bytes]);
            let address = payload.as_ptr();
            let refused = store.put(&ann, payload, wait).await.expect_err("there is no room");
            assert_eq!((refused.reason, refused.payload.as_ptr()), (reason, address));
        }

        store.close();
        let payload = Bytes::from_static(b"late");
        let refused = store.put(&ann, payload.clone(), short).await.expect_err("it is closed");
        assert_eq!((refused.reason, refused.payload.as_ptr()), (Reason::Closed, payload.as_ptr()));
    }

    #[tokio::test]
    async fn an_empty_ttl_or_limit_is_a_configuration_error() {
        assert!(CloakroomStore::start(0, TTL).is_err());
        assert!(CloakroomStore::start(4_096, Duration::ZERO).is_err());
    }
}
