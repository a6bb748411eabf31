//! Puts a payload: admits it, then stores it.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::Stash;
use super::admission::{Admit, InnerRef, Request};
use super::options::PutOptions;
use crate::error::{PutError, Refusal};
use crate::give_up::{GiveUp, Never, Until};
use crate::maybe_owned::MaybeOwned;
use crate::sync::Arc;
use crate::ticket::Ticket;

impl<P, O: Eq + Hash> Stash<P, O> {
    /// Stores the payload now, or hands it back. Never waits.
    ///
    /// # Errors
    ///
    /// [`Full`](Refusal::Full) if it does not fit, even after expired entries were removed, or if other
    /// requests wait; [`TooLarge`](Refusal::TooLarge) if it exceeds the limit;
    /// [`OwnerFull`](Refusal::OwnerFull) if it exceeds what one owner may hold; [`Closed`](Refusal::Closed).
    /// The error has the payload.
    ///
    /// # Fairness
    ///
    /// It never overtakes a waiter.
    ///
    /// # Complexity
    ///
    /// O(1), and lock-free while no request waits and owners have no quota. If the payload does not fit, it
    /// sweeps first.
    #[inline]
    pub fn try_put(&self, owner: O, payload: P) -> Result<Ticket, PutError<P>> {
        self.try_put_with(owner, payload, PutOptions::new())
    }

    /// Stores the payload as [`try_put`](Self::try_put) does, with options.
    ///
    /// # Errors
    ///
    /// As [`try_put`](Self::try_put).
    #[inline]
    pub fn try_put_with(
        &self,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> Result<Ticket, PutError<P>> {
        match self.put_request(&owner, &payload).attempt() {
            Ok(admitted) => self.inner.store(admitted, owner, payload, options),
            Err(refusal) => Err(self.inner.refuse_put(payload, refusal)),
        }
    }

    /// Stores the payload, waiting in the wait queue until it fits. Bound the wait with [`Put::until`].
    ///
    /// A waiting payload is in memory and not charged: to have room before the payload is produced, use
    /// [`reserve`](Self::reserve).
    ///
    /// # Errors
    ///
    /// The future returns the payload with [`TooLarge`](Refusal::TooLarge), immediately unless the limit is
    /// lowered meanwhile; with [`OwnerFull`](Refusal::OwnerFull) or [`QueueFull`](Refusal::QueueFull),
    /// immediately; or with [`Closed`](Refusal::Closed).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the wait queue, and the next waiter is granted; the payload is dropped with
    /// it. To get the payload back, end the wait with [`Put::until`] instead.
    ///
    /// # Fairness
    ///
    /// First come, first served, from the first poll on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::{PutError, Stash, Ticket};
    /// async fn hand_in(stash: &Stash<Vec<u8>>, body: Vec<u8>) -> Result<Ticket, PutError<Vec<u8>>> {
    ///     let patience = tokio::time::sleep(Duration::from_millis(500));
    ///     stash.put("alice".into(), body).until(patience).await
    /// }
    /// ```
    pub fn put(&self, owner: O, payload: P) -> Put<'_, P, O> {
        self.put_with(owner, payload, PutOptions::new())
    }

    /// Stores the payload as [`put`](Self::put) does, with options.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// As [`put`](Self::put).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::{PutOptions, Stash};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let stash: Stash<Vec<u8>> = Stash::builder().max_bytes(1_000).build().unwrap();
    /// let minute = PutOptions::new().ttl(Duration::from_secs(60));
    /// let ticket = stash.put_with("alice".into(), vec![7], minute).await.unwrap();
    /// # let _ = ticket;
    /// # }
    /// ```
    pub fn put_with(&self, owner: O, payload: P, options: PutOptions) -> Put<'_, P, O> {
        Put::new(Admit::new(self.put_request(&owner, &payload)), owner, payload, options)
    }

    /// Stores the payload as [`put`](Self::put) does, without borrowing the stash: the future is `'static`.
    ///
    /// For spawned tasks, struct fields and services. Clones the handle.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// As [`put`](Self::put).
    ///
    /// ```
    /// # use cloakroom::{Put, Stash};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let stash: Stash<Vec<u8>> = Stash::builder().max_bytes(1_000).build().unwrap();
    /// let put: Put<'static, Vec<u8>, _> = stash.put_owned("alice".into(), vec![7]);
    /// let ticket = tokio::spawn(put).await.unwrap().unwrap();
    /// # let _ = ticket;
    /// # }
    /// ```
    pub fn put_owned(&self, owner: O, payload: P) -> Put<'static, P, O> {
        self.put_owned_with(owner, payload, PutOptions::new())
    }

    /// Stores the payload as [`put_owned`](Self::put_owned) does, with options.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// As [`put`](Self::put).
    pub fn put_owned_with(&self, owner: O, payload: P, options: PutOptions) -> Put<'static, P, O> {
        let inner = MaybeOwned::Owned(Arc::clone(&self.inner));
        Put::new(Admit::new(put_request(inner, &owner, &payload)), owner, payload, options)
    }

    /// Stores the payload, blocking this thread in the wait queue for at most `timeout`.
    ///
    /// The timeout is real time. A timeout of zero never waits; one too long for the clock never ends the
    /// wait.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put), and [`TimedOut`](Refusal::TimedOut), or [`Full`](Refusal::Full) if the
    /// timeout is zero.
    ///
    /// # Fairness
    ///
    /// As [`put`](Self::put): in the same wait queue.
    ///
    /// # Examples
    ///
    /// Granted when the entry that is in its way expires, without a reaper:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::Stash;
    /// let ttl = Duration::from_millis(20);
    /// let stash: Stash<Vec<u8>, ()> = Stash::builder().max_bytes(1_000).ttl(ttl).build()?;
    /// let forgotten = stash.try_put((), vec![7; 800]).unwrap();
    /// assert!(stash.put_timeout((), vec![7; 800], Duration::from_secs(10)).is_ok());
    /// assert!(stash.take(&forgotten, &()).is_none());
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    #[cfg(not(target_family = "wasm"))]
    pub fn put_timeout(
        &self,
        owner: O,
        payload: P,
        timeout: Duration,
    ) -> Result<Ticket, PutError<P>> {
        self.put_timeout_with(owner, payload, timeout, PutOptions::new())
    }

    /// Stores the payload as [`put_timeout`](Self::put_timeout) does, with options.
    ///
    /// # Errors
    ///
    /// As [`put_timeout`](Self::put_timeout).
    #[cfg(not(target_family = "wasm"))]
    pub fn put_timeout_with(
        &self,
        owner: O,
        payload: P,
        timeout: Duration,
        options: PutOptions,
    ) -> Result<Ticket, PutError<P>> {
        let request = self.put_request(&owner, &payload);
        match request.attempt() {
            Ok(admitted) => self.inner.store(admitted, owner, payload, options),
            Err(refusal) if refusal.reason() == Refusal::Full && !timeout.is_zero() => {
                request.block_on(timeout, |admit| Put::new(admit, owner, payload, options))
            }
            Err(refusal) => Err(self.inner.refuse_put(payload, refusal)),
        }
    }

    #[inline]
    fn put_request(&self, owner: &O, payload: &P) -> Request<'_, P, O> {
        put_request(MaybeOwned::Borrowed(&self.inner), owner, payload)
    }
}

#[inline]
fn put_request<'a, P, O: Hash>(
    inner: InnerRef<'a, P, O>,
    owner: &O,
    payload: &P,
) -> Request<'a, P, O> {
    let charge = inner.charge_of(owner, payload);
    let key = inner.slots.owner_key(owner);
    Request::new(inner, key, charge)
}

pin_project! {
    /// Waits for room and then stores a payload, made by [`Stash::put`](Stash::put).
    ///
    /// It joins the wait queue when it is first polled, unless the payload fits immediately. `U` is what ends
    /// the wait early: nothing, or the future given to [`until`](Self::until).
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the wait queue and drops the payload; the next waiter is granted.
    #[must_use = "a put does nothing until it is polled"]
    pub struct Put<'a, P, O, U = Never> {
        // Dropped first: the queue is left before the payload is dropped.
        #[pin]
        admit: Admit<'a, P, O, U>,
        entry: Option<(O, P)>,
        options: PutOptions,
    }
}

impl<'a, P, O, U> Put<'a, P, O, U> {
    fn new(admit: Admit<'a, P, O, U>, owner: O, payload: P, options: PutOptions) -> Self {
        Self { admit, entry: Some((owner, payload)), options }
    }

    /// Ends the wait when `until` completes, and returns the payload as [`Cancelled`](Refusal::Cancelled).
    ///
    /// `until` is any future: a cancellation token, a client that disconnected.
    ///
    /// If the grant and `until` are ready together, the grant wins. An `until` that is complete at the first
    /// poll refuses without joining the queue, unless the payload fits immediately. Expired entries are
    /// removed before the put is refused, so they are never the reason. Can be called more than once, and
    /// together with [`timeout`](Self::timeout): the first bound to complete ends the wait.
    ///
    /// # Examples
    ///
    /// A wait with two bounds, and the payload back:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use cloakroom::Refusal;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// # let _all = stash.try_reserve(900).unwrap();
    /// # let client_gone = std::future::pending::<()>();
    /// let patience = tokio::time::sleep(Duration::from_millis(10));
    /// let refused = stash.put((), vec![7; 500]).until(client_gone).timeout(patience).await.unwrap_err();
    /// assert_eq!(refused.reason(), Refusal::TimedOut); // `Cancelled` if the client had gone
    /// assert_eq!(refused.into_payload().len(), 500);
    /// # }
    /// ```
    pub fn until<F: Future>(self, until: F) -> Put<'a, P, O, Until<U, F>> {
        Put { admit: self.admit.until(until), entry: self.entry, options: self.options }
    }

    /// Ends the wait when `sleep` completes, and returns the payload as [`TimedOut`](Refusal::TimedOut).
    ///
    /// `sleep` is a timer of any runtime. Otherwise as [`until`](Self::until).
    pub fn timeout<F: Future>(self, sleep: F) -> Put<'a, P, O, Until<U, F>> {
        Put { admit: self.admit.timeout(sleep), entry: self.entry, options: self.options }
    }
}

impl<P, O: Eq + Hash, U: GiveUp> Future for Put<'_, P, O, U> {
    type Output = Result<Ticket, PutError<P>>;

    /// # Panics
    ///
    /// If it is polled again after it has completed.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        assert!(this.entry.is_some(), "polled after it had completed");
        let admitted = ready!(this.admit.as_mut().poll(cx));
        let (owner, payload) = this.entry.take().expect("checked above");
        let inner = this.admit.inner();
        Poll::Ready(match admitted {
            Ok(admitted) => inner.store(admitted, owner, payload, *this.options),
            Err(refusal) => Err(inner.refuse_put(payload, refusal)),
        })
    }
}

impl<P, O, U> fmt::Debug for Put<'_, P, O, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Put").field("admit", &self.admit).finish_non_exhaustive()
    }
}
