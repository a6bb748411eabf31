//! Takes and claims.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom::{CloakroomClaim, Event, Failure, Payload};

use crate::chunks::fetch_chunks;
use crate::engine::{Engine, Step, StepError};
use crate::owner::{Id, random};
use crate::pending::Pending;
use crate::reply::Reply;
use crate::session::Note;
use crate::stash::Shared;

/// What becomes of a claim whose session dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Finished: its payload may have been handed over, and is delivered at most once.
    Take,
    /// Put back.
    Claim,
}

/// A claimed payload. Put back when it is dropped.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) pending: Pending,
    pub(crate) payload: Bytes,
    pub(crate) charge: u64,
}

pub(crate) async fn claim(
    shared: Arc<Shared>,
    ticket: Id,
    owner: Id,
    mode: Mode,
) -> Result<Option<Claimed>, Failure> {
    let engine = Arc::clone(&shared.engine);
    let deadline = engine.deadline();
    let session = Arc::clone(&engine.link(deadline).await?.session);
    let id = random();
    let letter: &[u8] = if mode == Mode::Take { b"f" } else { b"b" };
    let args: [&[u8]; 4] = [&id, &ticket, &owner, letter];
    let step = Step { id: &id, durable: true, ..Step::new("claim", &args) };
    let (reply, link) = match engine.step(step, deadline).await {
        Ok(answer) => answer,
        Err(error) => {
            if error == StepError::Unreachable {
                engine.note(&session, Note::Back, &id);
            }
            return Err(error.into());
        }
    };
    if reply.status() != b"OK" {
        return Ok(None);
    }
    let session = Arc::clone(&link.session);
    let pending = Pending::new(shared, Arc::clone(&session), id, Note::Back);
    let charge = reply.number(4).unwrap_or(0) as u64;
    let payload = match reply.number(5).unwrap_or(0) as usize {
        0 => reply.into_payload(6).unwrap_or_default(),
        chunks => fetch_chunks(&engine, &session, &ticket, chunks).await?,
    };
    Ok(Some(Claimed { pending, payload, charge }))
}

/// Goes on until a step that did a batch has nothing left to do.
pub(crate) async fn collect(engine: &Arc<Engine>, first: &Reply) -> Result<(), StepError> {
    let mut more = first.number(2) == Some(1);
    while more {
        let (reply, _) = engine.step(Step::new("tick", &[]), engine.deadline()).await?;
        more = reply.number(2) == Some(1);
    }
    Ok(())
}

/// A payload that is being delivered: still charged, and nobody else can take it.
///
/// It is delivered with [`into_inner`](CloakroomClaim::into_inner), or put back under the same ticket and deadline:
/// by [`put_back`](CloakroomClaim::put_back), when it is dropped, or when the session of this replica ends. After
/// the last, another replica can deliver the payload again: a claim delivers at least once if a replica pauses for
/// longer than its lease. [`is_current`](Self::is_current) tells. `take` delivers at most once.
#[must_use = "a claim that is dropped puts its payload back"]
pub struct Claim<P> {
    pending: Pending,
    payload: P,
    charge: u64,
}

impl<P: Payload + From<Bytes> + Into<Bytes>> Claim<P> {
    pub(crate) fn new(claimed: Claimed) -> Self {
        let Claimed { pending, payload, charge } = claimed;
        Self { pending, payload: payload.into(), charge }
    }

    /// Whether the session that the claim belongs to is alive, as far as this replica knows.
    #[must_use]
    pub fn is_current(&self) -> bool {
        !self.pending.session.has_ended()
    }

    /// Returns the bytes charged: the payload's size and the entry overhead.
    #[must_use]
    pub fn charge(&self) -> u64 {
        self.charge
    }
}

impl<P> Deref for Claim<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.payload
    }
}

impl<P> fmt::Debug for Claim<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("charge", &self.charge).finish_non_exhaustive()
    }
}

impl<P: Payload + From<Bytes> + Into<Bytes> + Send + Sync + 'static> CloakroomClaim<P>
    for Claim<P>
{
    fn payload(&self) -> &P {
        &self.payload
    }

    fn into_inner(self) -> P {
        self.pending.engine().observe(Event::Delivered { bytes: self.charge });
        self.pending.settle(Note::Finished);
        self.payload
    }

    async fn put_back(self) {
        let shared = Arc::clone(&self.pending.shared);
        self.pending.engine().observe(Event::PutBack { bytes: self.charge });
        self.pending.settle(Note::Back);
        let engine = Arc::clone(&shared.engine);
        // What cannot be said now is said later, or by the end of the session.
        let _ = shared.on_keeper(async move { Ok(engine.flush().await?) }).await;
    }
}
