//! Defines the handle, and runs operations on the keeper's thread.

use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Cloakroom, Event, Failure, Numbers, Payload, PutOptions, Rejected, Stats, Ticket};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::builder::Builder;
use crate::claim::{Claim, Mode, claim, collect};
use crate::config::Persistence;
use crate::engine::{Engine, Step};
use crate::owner::{NOBODY, OwnerBytes, new_ticket, owner_id, ticket_id};
use crate::pending::Pending;
use crate::put::{Entry, Wait, put, reserve};
use crate::reserve::Reservation;
use crate::session::Note;
use crate::stats::stats;

/// Stores payloads for any number of replicas, on Redis 7 or Valkey.
///
/// It promises what [`cloakroom::Stash`] promises, over all replicas, while the engine's primary survives. Its
/// methods are those of [`Cloakroom`]. A `SharedStash` is a handle: cloning it is cheap. When the last one is
/// dropped, its session ends.
///
/// `clear` and `close` may be executed again after a connection broke. They return the number of the last try, which
/// can be too low.
///
/// # Cancel safety
///
/// Operations run on the keeper's thread. Dropping a future undoes its operation in the background: a put leaves the
/// queue or takes its entry back, a take puts the payload back.
pub struct SharedStash<P, O> {
    pub(crate) shared: Arc<Shared>,
    stash: PhantomData<fn() -> (P, O)>,
}

pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) handle: Handle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.engine.shutdown.notify_one();
    }
}

impl Shared {
    /// Runs an operation on the keeper's thread. What it returns is dropped if the future was dropped: everything
    /// that must not be lost undoes itself then.
    fn run<T: Send + 'static>(
        self: &Arc<Self>,
        operation: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.handle.spawn(async move {
            let _ = sender.send(operation.await);
        });
        receiver
    }

    pub(crate) async fn on_keeper<T: Send + 'static>(
        self: &Arc<Self>,
        operation: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.run(operation).await.unwrap_or(Err(Failure::Lost))
    }
}

/// What an operation that may wait came to.
type Outcome<T> = Result<T, (Failure, Numbers)>;

impl Shared {
    /// Runs an operation that may wait in the queue, until `until` completes. The operation then
    /// decides: a grant wins.
    async fn run_until<T, F>(
        self: &Arc<Self>,
        until: impl Future,
        timed: bool,
        operation: impl FnOnce(Wait) -> F,
    ) -> Outcome<T>
    where
        T: Send + 'static,
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let mut until = pin!(until);
        let gone = |failure| (failure, Numbers::default());
        // Complete already: refused without joining the queue, unless there is room.
        if poll_fn(|cx| Poll::Ready(until.as_mut().poll(cx).is_ready())).await {
            let outcome = self.run(operation(Wait::Over { timed })).await;
            return outcome.unwrap_or(Err(gone(Failure::Lost)));
        }
        let (cancel, cancelled) = oneshot::channel();
        let mut cancel = Some(cancel);
        let mut outcome = self.run(operation(Wait::Until { cancelled, timed }));
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = pin!(&mut outcome).poll(cx) {
                return Poll::Ready(outcome.unwrap_or(Err(gone(Failure::Lost))));
            }
            if cancel.is_some()
                && until.as_mut().poll(cx).is_ready()
                && let Some(cancel) = cancel.take()
            {
                // It has come to its end if it does not listen any more.
                let _ = cancel.send(());
            }
            Poll::Pending
        })
        .await
    }
}

impl<P, O> SharedStash<P, O> {
    /// Starts configuring a stash.
    pub fn builder() -> Builder<P, O> {
        Builder::new()
    }

    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared, stash: PhantomData }
    }

    pub(crate) fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.shared.engine)
    }

    /// Returns the last error of the engine or of the connection, for a log.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.shared.engine.last_error()
    }

    /// Returns what the engine keeps if it crashes, as it said when the stash was opened.
    #[must_use]
    pub fn persistence(&self) -> Persistence {
        self.shared.engine.persistence()
    }

    /// Expires entries, ends dead sessions and grants waiters, now.
    ///
    /// The keeper does so by itself, when the next deadline has come.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub async fn tick(&self) -> Result<(), Failure> {
        self.gc().await.map(drop)
    }

    pub(crate) async fn put_inner<U: Future + Send>(
        &self,
        owner: O,
        payload: P,
        options: PutOptions,
        until: Option<U>,
        timed: bool,
    ) -> Result<Ticket, Rejected<P>>
    where
        P: Payload + From<Bytes> + Into<Bytes> + Send + Sync + 'static,
        O: OwnerBytes + Send + Sync + 'static,
    {
        let ticket = new_ticket();
        let payload: Bytes = payload.into();
        let bytes = self.shared.engine.charge(payload.len() as u64);
        let entry = Entry {
            id: ticket_id(&ticket),
            owner: owner_id(&owner),
            ttl: options.ttl,
            payload: payload.clone(),
        };
        let shared = Arc::clone(&self.shared);
        let operation = |wait| put(shared, entry, wait);
        let outcome = match until {
            Some(until) => self.shared.run_until(until, timed, operation).await,
            None => {
                let failed = Err((Failure::Lost, Numbers::default()));
                self.shared.run(operation(Wait::No)).await.unwrap_or(failed)
            }
        };
        match outcome {
            Ok((stored, overflow)) => {
                stored.disarm();
                // Not before: what is undone was never there.
                self.shared.engine.observe(Event::Stored { bytes, overflow });
                Ok(ticket)
            }
            Err((failure, numbers)) => Err(Rejected::new(payload.into(), failure, numbers)),
        }
    }

    pub(crate) async fn reserve_inner<U: Future + Send>(
        &self,
        owner: Option<&O>,
        bytes: u64,
        until: Option<U>,
        timed: bool,
    ) -> Result<Reservation<P, O>, Rejected<()>>
    where
        O: OwnerBytes,
    {
        let ticket = new_ticket();
        let owner = owner.map_or(NOBODY, owner_id);
        let (shared, id) = (Arc::clone(&self.shared), ticket_id(&ticket));
        let operation = |wait| reserve(shared, id, owner, bytes, wait);
        let outcome = match until {
            Some(until) => self.shared.run_until(until, timed, operation).await,
            None => {
                let failed = Err((Failure::Lost, Numbers::default()));
                self.shared.run(operation(Wait::No)).await.unwrap_or(failed)
            }
        };
        match outcome {
            Ok(granted) => Ok(Reservation::new(granted, ticket, bytes)),
            Err((failure, numbers)) => Err(Rejected::new((), failure, numbers)),
        }
    }
}

impl<P, O> Clone for SharedStash<P, O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), stash: PhantomData }
    }
}

impl<P, O> fmt::Debug for SharedStash<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStash")
            .field("name", &self.shared.engine.config.name)
            .finish_non_exhaustive()
    }
}

impl<P, O> Cloakroom<P, O> for SharedStash<P, O>
where
    P: Payload + From<Bytes> + Into<Bytes> + Send + Sync + 'static,
    O: OwnerBytes + Send + Sync + 'static,
{
    type Claim = Claim<P>;
    type Reservation = Reservation<P, O>;

    async fn try_put_with(
        &self,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> Result<Ticket, Rejected<P>> {
        let never = None::<std::future::Pending<()>>;
        self.put_inner(owner, payload, options, never, false).await
    }

    async fn put_with<U: Future + Send>(
        &self,
        owner: O,
        payload: P,
        options: PutOptions,
        until: U,
    ) -> Result<Ticket, Rejected<P>> {
        self.put_inner(owner, payload, options, Some(until), false).await
    }

    async fn put_timeout<S: Future + Send>(
        &self,
        owner: O,
        payload: P,
        sleep: S,
    ) -> Result<Ticket, Rejected<P>> {
        self.put_inner(owner, payload, PutOptions::new(), Some(sleep), true).await
    }

    async fn reserve_until<U: Future + Send>(
        &self,
        owner: Option<&O>,
        bytes: u64,
        until: U,
    ) -> Result<Reservation<P, O>, Rejected<()>> {
        self.reserve_inner(owner, bytes, Some(until), false).await
    }

    async fn try_reserve(
        &self,
        owner: Option<&O>,
        bytes: u64,
    ) -> Result<Reservation<P, O>, Rejected<()>> {
        self.reserve_inner(owner, bytes, None::<std::future::Pending<()>>, false).await
    }

    async fn take(&self, ticket: &Ticket, owner: &O) -> Result<Option<P>, Failure> {
        let (ticket, owner) = (ticket_id(ticket), owner_id(owner));
        let shared = Arc::clone(&self.shared);
        let taken = self.shared.on_keeper(claim(shared, ticket, owner, Mode::Take)).await?;
        Ok(taken.map(|claimed| {
            claimed.pending.settle(Note::Finished);
            self.shared.engine.observe(Event::Delivered { bytes: claimed.charge });
            claimed.payload.into()
        }))
    }

    async fn claim(&self, ticket: &Ticket, owner: &O) -> Result<Option<Claim<P>>, Failure> {
        let (id, owner) = (ticket_id(ticket), owner_id(owner));
        let shared = Arc::clone(&self.shared);
        let claimed = self.shared.on_keeper(claim(shared, id, owner, Mode::Claim)).await?;
        Ok(claimed.map(|claimed| {
            self.shared.engine.observe(Event::Claimed { bytes: claimed.charge });
            Claim::new(claimed, *ticket)
        }))
    }

    async fn clear(&self) -> Result<u64, Failure> {
        let engine = self.engine();
        self.shared
            .on_keeper(async move {
                let (reply, _) = engine.step(Step::new("clear", &[]), engine.deadline()).await?;
                let count = reply.number(4).unwrap_or(0) as u64;
                // Their tickets are dead. Their bytes are freed a batch at a time.
                collect(&engine, &reply).await?;
                Ok(count)
            })
            .await
    }

    async fn close(&self) -> Result<u64, Failure> {
        let engine = self.engine();
        self.shared
            .on_keeper(async move {
                let (reply, _) = engine.step(Step::new("close", &[]), engine.deadline()).await?;
                collect(&engine, &reply).await?;
                Ok(reply.number(4).unwrap_or(0) as u64)
            })
            .await
    }

    async fn drained(&self) -> Result<(), Failure> {
        let engine = self.engine();
        self.shared
            .on_keeper(async move {
                loop {
                    let notified = engine.drained.notified();
                    if stats(&engine).await?.is_drained {
                        return Ok(());
                    }
                    // The notification is a hint, and can be lost.
                    let _ = tokio::time::timeout(engine.config.beat, notified).await;
                }
            })
            .await
    }

    async fn stats(&self) -> Result<Stats, Failure> {
        let engine = self.engine();
        self.shared.on_keeper(async move { Ok(stats(&engine).await?.stats) }).await
    }

    async fn set_max_bytes(&self, bytes: u64) -> Result<(), Failure> {
        let engine = self.engine();
        let bytes = bytes.min(1 << 51).to_string();
        self.shared
            .on_keeper(async move {
                let args: [&[u8]; 1] = [bytes.as_bytes()];
                let (reply, _) = engine.step(Step::new("limit", &args), engine.deadline()).await?;
                collect(&engine, &reply).await?;
                Ok(())
            })
            .await
    }
}

/// The time to live of an entry, as the step takes it: empty for the stash's.
pub(crate) fn ttl_arg(ttl: Option<Duration>) -> String {
    // 71 years at most.
    ttl.map_or_else(String::new, |ttl| ttl.as_micros().min(1 << 51).to_string())
}

/// What was stored, until its ticket is handed out.
pub(crate) type Stored = Pending;
