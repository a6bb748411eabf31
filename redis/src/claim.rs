//! Takes payloads, and claims them for a delivery.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use cloakroom::{CloakroomClaim, Event, Failure, OnDrop, Ticket};
use tokio::time::timeout_at;

use crate::chunks::fetch_chunks;
use crate::engine::{Engine, Step, StepError};
use crate::library::ENTRY_HEADER;
use crate::owner::{Id, random, ticket_id};
use crate::pending::Pending;
use crate::reply::Reply;
use crate::session::Note;
use crate::stash::{Shared, ttl_arg};

/// Says how a claim ends when its session dies.
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
    // Never closed.
    let room = timeout_at(deadline, engine.claims.acquire()).await;
    let room = room.map_err(|_| StepError::Unreachable)?;
    let answer = engine.step(step, deadline).await;
    drop(room);
    let (reply, link) = match answer {
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
        0 => {
            let mut record = reply.into_payload(6).unwrap_or_default();
            record.advance(ENTRY_HEADER.min(record.len()));
            record
        }
        chunks => fetch_chunks(&engine, &session, &ticket, chunks).await?,
    };
    Ok(Some(Claimed { pending, payload, charge }))
}

/// Repeats ticks until a step reports no more work.
pub(crate) async fn collect(engine: &Arc<Engine>, first: &Reply) -> Result<(), StepError> {
    let mut more = first.number(2) == Some(1);
    while more {
        let (reply, _) = engine.step(Step::new("tick", &[]), engine.deadline()).await?;
        more = reply.number(2) == Some(1);
    }
    Ok(())
}

/// Holds a payload that is being delivered: it stays charged, and no other call can take it.
///
/// It is delivered with [`into_inner`](CloakroomClaim::into_inner) or at the end of a conversion, such as
/// [`into_reader`](CloakroomClaim::into_reader). Or it is put back under the same ticket and deadline: by
/// [`put_back`](Self::put_back), when it is dropped, or when the session of this replica ends. After the last,
/// another replica can deliver the payload again: a claim delivers at least once if a replica pauses for longer than
/// its lease. [`is_current`](Self::is_current) tells. `take` delivers at most once.
///
/// A claim is also a handle of the stash.
#[must_use = "a claim that is dropped puts its payload back"]
pub struct Claim<P> {
    /// `None` once it has ended.
    pending: Option<Pending>,
    payload: Option<P>,
    ticket: Ticket,
    charge: u64,
    /// `None` unless the caller set it.
    on_drop: Option<OnDrop>,
}

impl<P: From<Bytes>> Claim<P> {
    pub(crate) fn new(claimed: Claimed, ticket: Ticket) -> Self {
        let Claimed { pending, payload, charge } = claimed;
        let payload = Some(payload.into());
        Self { pending: Some(pending), payload, ticket, charge, on_drop: None }
    }
}

impl<P> Claim<P> {
    fn pending(&self) -> &Pending {
        self.pending.as_ref().expect("a claim that has not ended")
    }

    /// Returns whether the session that the claim belongs to is alive, as far as this replica knows.
    #[must_use]
    pub fn is_current(&self) -> bool {
        !self.pending().session.has_ended()
    }

    /// Returns the claim's ticket, which is good again once the claim is put back.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Returns the bytes charged: the payload's size and the entry overhead.
    #[must_use]
    pub fn charge(&self) -> u64 {
        self.charge
    }

    /// Puts the payload back, and returns whether the entry can be taken again.
    ///
    /// `false` if its deadline has passed or the stash was cleared meanwhile. If the connection broke during the call,
    /// also if the entry was put back and taken since.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network: the payload is put back later, or by the end of the session.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future puts the payload back, whatever [`on_drop`](CloakroomClaim::on_drop) said.
    pub fn put_back(mut self) -> impl Future<Output = Result<bool, Failure>> {
        self.on_drop = Some(OnDrop::PutBack);
        self.put_back_now()
    }

    async fn put_back_now(mut self) -> Result<bool, Failure> {
        let Some(pending) = self.pending.take() else { return Ok(false) };
        let (engine, id) = (Arc::clone(pending.engine()), pending.id);
        let (session, shared) = (Arc::clone(&pending.session), Arc::clone(&pending.shared));
        let (bytes, ticket) = (self.charge, ticket_id(&self.ticket));
        shared
            .on_keeper(async move {
                let args: [&[u8]; 2] = [&id, &ticket];
                let step =
                    Step { id: &id, session: Some(&session), ..Step::new("put_back", &args) };
                let (reply, _) = engine.step(step, engine.deadline()).await?;
                // The engine has ended the claim: its guard has nothing to say.
                pending.disarm();
                let is_back = reply.number(4) == Some(1);
                if is_back {
                    engine.observe(Event::PutBack { bytes });
                }
                Ok(is_back)
            })
            .await
    }

    /// Ends the claim on this replica's side; the engine hears of it with the next step.
    fn end(&mut self, what: OnDrop) {
        let Some(pending) = self.pending.take() else { return };
        let bytes = self.charge;
        let (note, event) = match what {
            OnDrop::Finish => (Note::Finished, Event::Delivered { bytes }),
            OnDrop::PutBack => (Note::Back, Event::PutBack { bytes }),
        };
        let engine = Arc::clone(pending.engine());
        pending.settle(note);
        engine.observe(event);
    }
}

impl<P> Deref for Claim<P> {
    type Target = P;

    fn deref(&self) -> &P {
        self.payload.as_ref().expect("a claim that has not ended")
    }
}

impl<P: AsRef<[u8]>> AsRef<[u8]> for Claim<P> {
    fn as_ref(&self) -> &[u8] {
        P::as_ref(self)
    }
}

impl<P> Drop for Claim<P> {
    fn drop(&mut self) {
        self.end(self.on_drop.unwrap_or_default());
    }
}

impl<P> fmt::Debug for Claim<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("charge", &self.charge).finish_non_exhaustive()
    }
}

impl<P: Send + Sync + 'static> CloakroomClaim<P> for Claim<P> {
    fn into_inner(mut self) -> P {
        self.end(OnDrop::Finish);
        self.payload.take().expect("a claim that has not ended")
    }

    fn put_back(self) -> impl Future<Output = ()> + Send {
        let put_back = Claim::put_back(self);
        async {
            // What cannot be said now is said later, or by the end of the session.
            let _ = put_back.await;
        }
    }

    fn on_drop(mut self, what: OnDrop) -> Self {
        self.on_drop = Some(what);
        self
    }

    async fn renew(&mut self, ttl: Duration) -> Result<bool, Failure> {
        let pending = self.pending();
        let (engine, id) = (Arc::clone(pending.engine()), pending.id);
        let session = Arc::clone(&pending.session);
        let shared = Arc::clone(&pending.shared);
        let ttl = ttl_arg(Some(ttl));
        shared
            .on_keeper(async move {
                let args: [&[u8]; 2] = [&id, ttl.as_bytes()];
                let step = Step { id: &id, session: Some(&session), ..Step::new("renew", &args) };
                let (reply, _) = engine.step(step, engine.deadline()).await?;
                // Not there: its session has ended.
                if reply.status() != b"OK" {
                    return Err(Failure::Lost);
                }
                Ok(reply.number(4) == Some(1))
            })
            .await
    }

    fn into_bytes(self) -> Bytes
    where
        P: AsRef<[u8]>,
    {
        // User code: if it panics, the claim is dropped as a claim.
        let _ = self.as_ref();
        let what = self.on_drop.unwrap_or(OnDrop::Finish);
        Bytes::from_owner(CloakroomClaim::on_drop(self, what))
    }
}
