//! Puts and reserves: admits a request, waits, stores.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Event, Failure, Numbers, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::chunks::{Sending, chunk_count, first_chunk};
use crate::engine::{Engine, Step, refusal};
use crate::keeper::schedule;
use crate::library::{CHUNK, INLINE, MAX_CHUNKS};
use crate::owner::Id;
use crate::pending::Pending;
use crate::reply::Reply;
use crate::session::{Hint, Note, Session};
use crate::stash::{Shared, Stored, ttl_arg};

pub(crate) struct Entry {
    pub(crate) id: Id,
    pub(crate) owner: Id,
    pub(crate) ttl: Option<Duration>,
    pub(crate) payload: Bytes,
}

/// Whether a request waits, and until when.
pub(crate) enum Wait {
    No,
    /// It does not, because its time is over before it begins, or its caller has given up.
    Over {
        timed: bool,
    },
    /// Completes with an error when the caller is gone.
    Until {
        cancelled: oneshot::Receiver<()>,
        timed: bool,
    },
}

impl Wait {
    /// The argument of the step.
    fn arg(&self) -> &'static [u8] {
        match self {
            Self::No => b"0",
            Self::Over { timed: true } => b"t",
            Self::Over { timed: false } => b"c",
            Self::Until { .. } => b"1",
        }
    }
}

type Failed = (Failure, Numbers);

/// What the first step of a request came to.
enum Admitted {
    /// Whether out of the overflow.
    Stored(Arc<Session>, bool),
    Granted(Arc<Session>),
}

/// Returns also whether the entry uses the overflow.
pub(crate) async fn put(
    shared: Arc<Shared>,
    entry: Entry,
    wait: Wait,
) -> Result<(Stored, bool), Failed> {
    let engine = Arc::clone(&shared.engine);
    let size = entry.payload.len();
    let request = Request { engine: &engine, id: entry.id, owner: entry.owner, bytes: size as u64 };
    if size > CHUNK * MAX_CHUNKS {
        return Err(request.too_large());
    }
    let wait_arg = wait.arg();
    let (ttl, bytes) = (ttl_arg(entry.ttl), size.to_string());
    // A large payload does not travel before there is room.
    let small: [&[u8]; 5] = [&entry.id, &entry.owner, ttl.as_bytes(), wait_arg, &entry.payload];
    let large: [&[u8]; 4] = [&entry.id, &entry.owner, bytes.as_bytes(), wait_arg];
    let first = if size <= INLINE {
        Step { id: &entry.id, durable: true, ..Step::new("put", &small) }
    } else {
        Step { id: &entry.id, ..Step::new("admit", &large) }
    };
    let (session, overflow) = match request.admit(first, wait).await? {
        Admitted::Stored(session, overflow) => (session, overflow),
        Admitted::Granted(session) => {
            let granted = Pending::new(Arc::clone(&shared), session, entry.id, Note::Undo);
            let overflow = store(&granted, entry.owner, entry.ttl, &entry.payload, true, 0).await?;
            let session = Arc::clone(&granted.session);
            granted.disarm();
            (session, overflow)
        }
    };
    Ok((Pending::new(shared, session, entry.id, Note::Undo), overflow))
}

/// What was granted, until it is stored or given back.
pub(crate) type Granted = Pending;

pub(crate) async fn reserve(
    shared: Arc<Shared>,
    id: Id,
    owner: Id,
    bytes: u64,
    wait: Wait,
) -> Result<Granted, Failed> {
    let engine = Arc::clone(&shared.engine);
    let request = Request { engine: &engine, id, owner, bytes };
    if bytes > (CHUNK * MAX_CHUNKS) as u64 {
        return Err(request.too_large());
    }
    let wait_arg = wait.arg();
    let size = bytes.to_string();
    let args: [&[u8]; 4] = [&id, &owner, size.as_bytes(), wait_arg];
    let first = Step { id: &id, ..Step::new("admit", &args) };
    match request.admit(first, wait).await? {
        Admitted::Stored(session, _) | Admitted::Granted(session) => {
            Ok(Pending::new(shared, session, id, Note::Undo))
        }
    }
}

struct Request<'a> {
    engine: &'a Arc<Engine>,
    id: Id,
    owner: Id,
    bytes: u64,
}

/// Forgets a waiter when its wait ends, however it ends.
struct Waiter<'a> {
    session: &'a Arc<Session>,
    id: Id,
    hints: mpsc::UnboundedReceiver<Hint>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.session.stop_waiting(&self.id);
    }
}

impl Request<'_> {
    fn too_large(&self) -> Failed {
        let largest = self.engine.charge((CHUNK * MAX_CHUNKS) as u64);
        let numbers = Numbers::new(self.engine.charge(self.bytes), 0, largest, 0);
        self.engine.refuse(Refusal::TooLarge.into(), self.bytes, numbers)
    }

    fn refused(&self, reply: &Reply) -> Failed {
        match refusal(reply.status()) {
            Some(reason) => self.engine.refuse(reason.into(), self.bytes, reply.refusal()),
            None => (Failure::Lost, Numbers::default()),
        }
    }

    /// Without an outcome. Whatever the engine did is undone when it can be.
    fn failed(&self, session: &Arc<Session>, failure: Failure) -> Failed {
        self.engine.note(session, Note::Undo, &self.id);
        (failure, Numbers::default())
    }

    async fn admit(&self, first: Step<'_>, wait: Wait) -> Result<Admitted, Failed> {
        let deadline = self.engine.deadline();
        let link = self.engine.link(deadline).await;
        let at_first = link.map_err(|error| (error.into(), Numbers::default()))?;
        let (reply, link) = match self.engine.step(first, deadline).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.failed(&at_first.session, error.into())),
        };
        let session = Arc::clone(&link.session);
        match reply.status() {
            b"STORED" => Ok(Admitted::Stored(session, reply.number(5) == Some(1))),
            b"GRANTED" => Ok(Admitted::Granted(session)),
            b"WAIT" => {
                let waiter =
                    Waiter { session: &session, id: self.id, hints: session.wait(self.id) };
                schedule(self.engine, reply.number(4), session.waiting());
                self.wait(waiter, wait).await
            }
            _ => Err(self.refused(&reply)),
        }
    }

    /// Waits in the queue. Begins by asking: the grant may have come before there was a waiter to wake.
    async fn wait(&self, mut waiter: Waiter<'_>, wait: Wait) -> Result<Admitted, Failed> {
        let Wait::Until { mut cancelled, timed } = wait else { unreachable!("it does not wait") };
        let session = Arc::clone(waiter.session);
        let since = Instant::now();
        let size = self.bytes.to_string();
        let args: [&[u8]; 4] = [&self.id, &self.owner, size.as_bytes(), b"1"];
        let ask = || Step {
            id: &self.id,
            session: Some(&session),
            again: true,
            ..Step::new("admit", &args)
        };
        let mut hint = Some(Hint::Ask);
        loop {
            match hint {
                Some(Hint::Granted) => break,
                Some(Hint::Ask) => {
                    let answer = self.engine.step(ask(), self.engine.deadline()).await;
                    let (reply, _) = match answer {
                        Ok(answer) => answer,
                        Err(error) => return Err(self.failed(&session, error.into())),
                    };
                    match reply.status() {
                        b"WAIT" => {}
                        b"GRANTED" => break,
                        b"STORED" => return Ok(Admitted::Stored(session, false)),
                        _ => return Err(self.refused(&reply)),
                    }
                }
                None => return self.give_up(&session, timed).await,
            }
            hint = tokio::select! {
                biased;
                hint = waiter.hints.recv() => hint,
                outcome = &mut cancelled => match outcome {
                    Ok(()) => None,
                    // The caller is gone.
                    Err(_) => {
                        self.engine.note(&session, Note::Cancelled, &self.id);
                        return Err((Failure::Refused(Refusal::Cancelled), Numbers::default()));
                    }
                },
            };
        }
        let (bytes, wait) = (self.engine.charge(self.bytes), since.elapsed());
        self.engine.observe(Event::Waited { bytes, wait });
        Ok(Admitted::Granted(session))
    }

    async fn give_up(&self, session: &Arc<Session>, timed: bool) -> Result<Admitted, Failed> {
        let timed_out: &[u8] = if timed { b"1" } else { b"0" };
        let args: [&[u8]; 2] = [&self.id, timed_out];
        let step = Step { id: &self.id, session: Some(session), ..Step::new("give_up", &args) };
        match self.engine.step(step, self.engine.deadline()).await {
            Ok((reply, _)) if reply.status() == b"GRANTED" => {
                Ok(Admitted::Granted(Arc::clone(session)))
            }
            Ok((reply, _)) => {
                let reason = if timed { Refusal::TimedOut } else { Refusal::Cancelled };
                let mut numbers = reply.refusal();
                numbers.requested = self.engine.charge(self.bytes);
                Err(self.engine.refuse(reason.into(), self.bytes, numbers))
            }
            Err(error) => Err(self.failed(session, error.into())),
        }
    }
}

/// Stores the payload in what was granted. Returns whether it uses the overflow.
///
/// A payload that does not fit is not sent: the engine refuses and counts it by its size. `tries` counts the payloads
/// that were tried before.
pub(crate) async fn store(
    granted: &Granted,
    owner: Id,
    ttl: Option<Duration>,
    payload: &Bytes,
    fits: bool,
    tries: usize,
) -> Result<bool, Failed> {
    let engine = granted.engine();
    let failed = |error| (Failure::from(error), Numbers::default());
    let (ttl, size) = (ttl_arg(ttl), payload.len().to_string());
    let chunks = if fits { chunk_count(payload.len()) } else { 0 };
    let first = if chunks > 0 { first_chunk(tries) } else { 0 };
    let count = (first + chunks).to_string();
    let inline: &[u8] = if chunks == 0 && fits { payload } else { b"" };
    let args: [&[u8]; 6] =
        [&granted.id, &owner, ttl.as_bytes(), size.as_bytes(), count.as_bytes(), inline];
    let (session, id) = (&granted.session, &granted.id);
    let sending = Sending { engine, session, id, first, payload };
    let mut from = 0;
    // A chunk can be missing when the engine has lost it since: it is sent again, a few times.
    for _ in 0..8 {
        // The last chunks and the step go out together: the engine reads them in this order.
        let last = from.max(chunks.saturating_sub(1) / 2 * 2).min(chunks);
        sending.send(from..last).await.map_err(failed)?;
        let room = sending.room(chunks - last).await;
        let step = Step { id, session: Some(session), durable: true, ..Step::new("store", &args) };
        let (sent, stored) = tokio::join!(
            sending.send_in(room, last..chunks),
            engine.step(step, engine.deadline()),
        );
        let (reply, _) = stored.map_err(failed)?;
        if reply.status() != b"STORED" {
            sent.map_err(failed)?;
        }
        match reply.status() {
            b"STORED" => return Ok(reply.number(5) == Some(1)),
            b"CHUNK" => from = reply.number(4).unwrap_or(0).max(0) as usize,
            status => {
                return Err(match refusal(status) {
                    Some(reason) => {
                        engine.refuse(reason.into(), payload.len() as u64, reply.refusal())
                    }
                    None => (Failure::Lost, Numbers::default()),
                });
            }
        }
    }
    Err((Failure::Unreachable, Numbers::default()))
}
