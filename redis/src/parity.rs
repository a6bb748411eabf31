//! Adds what [`cloakroom::Stash`] has beyond the trait, under the same names: calls that block, owned futures, single
//! numbers.

use std::future::{Future, Pending};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{Cloakroom, Failure, Payload, PutOptions, Refusal, Rejected, Ticket};
use tokio::task::JoinHandle;

use crate::engine::Step;
use crate::owner::{OwnerBytes, owner_id};
use crate::reserve::Reservation;
use crate::stash::{Shared, SharedStash};
use crate::stats::stats;

/// Blocks this thread until the future completes. Operations run on the keeper's thread, so it needs no runtime, and
/// is allowed inside one.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Completes after a time, on the keeper's runtime. Dropping it ends its task.
struct Timer(JoinHandle<()>);

impl Timer {
    fn new(shared: &Arc<Shared>, timeout: Duration) -> Self {
        Self(shared.handle.spawn(async move { tokio::time::sleep(timeout).await }))
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        pin!(&mut self.0).poll(cx).map(drop)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Puts and reservations that block, or that do not borrow the stash.
impl<P, O> SharedStash<P, O>
where
    P: Payload + From<Bytes> + Into<Bytes> + Send + Sync + 'static,
    O: OwnerBytes + Send + Sync + 'static,
{
    /// Stores the payload, blocking this thread in the wait queue for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Cloakroom::put`], and [`TimedOut`](Refusal::TimedOut), or [`Full`](Refusal::Full) if the timeout is zero.
    pub fn put_timeout(
        &self,
        owner: O,
        payload: P,
        timeout: Duration,
    ) -> Result<Ticket, Rejected<P>> {
        self.put_timeout_with(owner, payload, timeout, PutOptions::new())
    }

    /// Stores the payload as [`put_timeout`](Self::put_timeout) does, with options.
    ///
    /// # Errors
    ///
    /// As [`put_timeout`](Self::put_timeout).
    pub fn put_timeout_with(
        &self,
        owner: O,
        payload: P,
        timeout: Duration,
        options: PutOptions,
    ) -> Result<Ticket, Rejected<P>> {
        if timeout.is_zero() {
            return block_on(self.put_inner(owner, payload, options, None::<Pending<()>>, false));
        }
        let timer = Timer::new(&self.shared, timeout);
        block_on(self.put_inner(owner, payload, options, Some(timer), true))
    }

    /// Stores the payload as [`Cloakroom::put`] does, without borrowing the stash: the future is `'static`.
    pub fn put_owned(
        &self,
        owner: O,
        payload: P,
    ) -> impl Future<Output = Result<Ticket, Rejected<P>>> + Send + use<P, O> {
        self.put_owned_with(owner, payload, PutOptions::new())
    }

    /// Stores the payload as [`put_owned`](Self::put_owned) does, with options.
    pub fn put_owned_with(
        &self,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> impl Future<Output = Result<Ticket, Rejected<P>>> + Send + use<P, O> {
        let stash = self.clone();
        async move { stash.put_with(owner, payload, options, std::future::pending::<()>()).await }
    }

    /// Reserves room for a payload of `bytes`, blocking this thread for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Cloakroom::reserve`], and [`TimedOut`](Refusal::TimedOut), or [`Full`](Refusal::Full) if the timeout is
    /// zero.
    pub fn reserve_timeout(
        &self,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation<P, O>, Rejected<()>> {
        self.reserve_blocking(None, bytes, timeout)
    }

    /// Reserves room as [`reserve_timeout`](Self::reserve_timeout) does, for this owner.
    ///
    /// # Errors
    ///
    /// As [`reserve_timeout`](Self::reserve_timeout), and [`OwnerFull`](Refusal::OwnerFull), immediately.
    pub fn reserve_timeout_for(
        &self,
        owner: &O,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation<P, O>, Rejected<()>> {
        self.reserve_blocking(Some(owner), bytes, timeout)
    }

    fn reserve_blocking(
        &self,
        owner: Option<&O>,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation<P, O>, Rejected<()>> {
        if timeout.is_zero() {
            return block_on(self.reserve_inner(owner, bytes, None::<Pending<()>>, false));
        }
        let timer = Timer::new(&self.shared, timeout);
        block_on(self.reserve_inner(owner, bytes, Some(timer), true))
    }

    /// Reserves room as [`Cloakroom::reserve`] does, without borrowing the stash: the future is `'static`.
    pub fn reserve_owned(
        &self,
        bytes: u64,
    ) -> impl Future<Output = Result<Reservation<P, O>, Rejected<()>>> + Send + use<P, O> {
        let stash = self.clone();
        async move { stash.reserve(None, bytes).await }
    }

    /// Reserves room as [`reserve_owned`](Self::reserve_owned) does, for this owner.
    pub fn reserve_owned_for(
        &self,
        owner: O,
        bytes: u64,
    ) -> impl Future<Output = Result<Reservation<P, O>, Rejected<()>>> + Send + use<P, O> {
        let stash = self.clone();
        async move { stash.reserve(Some(&owner), bytes).await }
    }

    /// Waits as [`Cloakroom::drained`] does, blocking this thread for at most `timeout`.
    ///
    /// Then it removes what has expired, and looks once more: two round trips to the engine.
    ///
    /// Returns whether the stash was closed and nothing was charged within that time.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub fn drained_timeout(&self, timeout: Duration) -> Result<bool, Failure> {
        let mut timer = pin!(Timer::new(&self.shared, timeout));
        let mut drained = pin!(self.drained());
        let in_time = block_on(std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = drained.as_mut().poll(cx) {
                return Poll::Ready(result.map(|()| true));
            }
            timer.as_mut().poll(cx).map(|()| Ok(false))
        }))?;
        if in_time {
            return Ok(true);
        }
        // What has expired must not be the reason, nor that there was no time for an answer.
        block_on(async {
            self.gc().await?;
            self.number(|stats, is_closed| is_closed && stats.used_bytes == 0).await
        })
    }
}

/// Single numbers, each one round trip to the engine.
impl<P, O> SharedStash<P, O> {
    async fn number<T: Send + 'static>(
        &self,
        of: impl FnOnce(cloakroom::Stats, bool) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let engine = self.engine();
        let read = async move {
            let seen = stats(&engine).await?;
            Ok(of(seen.stats, seen.is_closed))
        };
        self.shared.on_keeper(read).await
    }

    /// Removes expired entries, and returns how many this call has removed.
    ///
    /// The keepers do so by themselves, when the next deadline has come.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network; entries may have been removed.
    pub async fn gc(&self) -> Result<u64, Failure> {
        let engine = self.engine();
        let sweep = async move {
            let mut removed = 0;
            loop {
                let (reply, _) = engine.step(Step::new("tick", &[]), engine.deadline()).await?;
                removed += reply.number(5).unwrap_or(0) as u64;
                if reply.number(2) != Some(1) {
                    return Ok(removed);
                }
            }
        };
        self.shared.on_keeper(sweep).await
    }

    /// Counts the entries: claimed ones included, and expired ones that no step has removed yet.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub async fn len(&self) -> Result<u64, Failure> {
        self.number(|stats, _| stats.entries).await
    }

    /// Returns whether there is no entry.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub async fn is_empty(&self) -> Result<bool, Failure> {
        self.number(|stats, _| stats.entries == 0).await
    }

    /// Returns the sum of all charges, in bytes.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub async fn used_bytes(&self) -> Result<u64, Failure> {
        self.number(|stats, _| stats.used_bytes).await
    }

    /// Returns the limit in bytes, without the overflow.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub async fn max_bytes(&self) -> Result<u64, Failure> {
        self.number(|stats, _| stats.max_bytes).await
    }

    /// Counts the puts and reservations in the wait queue, of all replicas.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub async fn waiting(&self) -> Result<usize, Failure> {
        self.number(|stats, _| stats.waiting).await
    }

    /// Returns whether a replica has closed the stash.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub async fn is_closed(&self) -> Result<bool, Failure> {
        self.number(|_, is_closed| is_closed).await
    }

    /// Suggests how long to wait before trying again: the time for which the head of the wait queue has waited.
    ///
    /// As [`cloakroom::Stash::retry_after`].
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub async fn retry_after<T>(
        &self,
        rejected: &Rejected<T>,
    ) -> Result<Option<Duration>, Failure> {
        match rejected.reason() {
            Some(reason) if reason.is_transient() && reason != Refusal::OwnerFull => {
                self.number(|stats, _| stats.oldest_wait).await
            }
            _ => Ok(None),
        }
    }
}

impl<P, O: OwnerBytes> SharedStash<P, O> {
    /// Returns the bytes that the owner's entries, reservations and waiting requests are charged.
    ///
    /// It is 0 unless [`max_bytes_per_owner`](crate::Builder::max_bytes_per_owner) is set: no count is kept otherwise.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    pub async fn owner_used_bytes(&self, owner: &O) -> Result<u64, Failure> {
        let (engine, id) = (self.engine(), owner_id(owner));
        let read = async move {
            // What this replica has delivered counts.
            engine.flush().await?;
            let args: [&[u8]; 1] = [&id];
            let step = Step { id: &id, ..Step::new("owner", &args) };
            let (reply, _) = engine.step(step, engine.deadline()).await?;
            Ok(reply.number(4).unwrap_or(0) as u64)
        };
        self.shared.on_keeper(read).await
    }
}
