//! Abstracts over a stash in this process and a stash that several replicas share.

mod claim;

use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::hash::Hash;

pub use self::claim::CloakroomClaim;
use crate::error::{AcquireError, PutError, Refusal};
use crate::stash::{Claim, PutOptions, Reservation, Stash, Stats};
use crate::ticket::Ticket;

/// Stores payloads under tickets, in this process or on an engine that replicas share.
///
/// Write a server against this trait and choose the implementation by configuration: [`Stash`], or `SharedStash` of
/// the crate `cloakroom-redis`. The methods promise what those of [`Stash`] promise. Over a network they can also
/// fail: see [`Failure`].
///
/// # Cancel safety
///
/// Dropping a future of `put` or `reserve` leaves the wait queue or gives back what was granted. Dropping a future
/// of `take` or `claim` puts the payload back. A shared stash does so in the background.
///
/// # Examples
///
/// ```
/// use cloakroom::{Cloakroom, Stash, Ticket};
///
/// async fn hand_in<C: Cloakroom<Vec<u8>, u64>>(stash: &C, body: Vec<u8>) -> Option<Ticket> {
///     match stash.try_put(17, body).await {
///         Ok(ticket) => Some(ticket),
///         Err(rejected) => {
///             let _body = rejected.into_inner();
///             None
///         }
///     }
/// }
///
/// # futures_lite::future::block_on(async {
/// let stash: Stash<Vec<u8>, u64> = Stash::builder().max_bytes(1_000).build().unwrap();
/// let ticket = hand_in(&stash, vec![7; 100]).await.unwrap();
/// assert_eq!(Cloakroom::take(&stash, &ticket, &17).await, Ok(Some(vec![7; 100])));
/// # });
/// ```
pub trait Cloakroom<P, O>: Clone + Send + Sync + 'static {
    /// Holds a payload that is being delivered.
    type Claim: CloakroomClaim<P>;
    /// Holds room for a payload that is not produced yet.
    type Reservation: CloakroomReservation<P, O>;

    /// Stores the payload now, or hands it back. Never waits in the queue.
    ///
    /// # Errors
    ///
    /// As [`Stash::try_put`], or a [`Failure`] of the network; with the payload.
    fn try_put_with(
        &self,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> impl Future<Output = Result<Ticket, Rejected<P>>> + Send;

    /// Stores the payload, waiting in the queue until it fits or `until` completes.
    ///
    /// If the grant and `until` are ready together, the grant wins.
    ///
    /// # Errors
    ///
    /// As [`Stash::put`], with [`Refusal::Cancelled`] when `until` completes; or a [`Failure`] of the network; with
    /// the payload.
    ///
    /// # Fairness
    ///
    /// First come, first served, over all replicas.
    fn put_with<U: Future + Send>(
        &self,
        owner: O,
        payload: P,
        options: PutOptions,
        until: U,
    ) -> impl Future<Output = Result<Ticket, Rejected<P>>> + Send;

    /// Reserves room for `bytes`, waiting in the queue until there is room or `until` completes.
    ///
    /// With an owner, the bytes count against what one owner may hold.
    ///
    /// # Errors
    ///
    /// As [`Stash::reserve_for`], or a [`Failure`] of the network.
    fn reserve_until<U: Future + Send>(
        &self,
        owner: Option<&O>,
        bytes: u64,
        until: U,
    ) -> impl Future<Output = Result<Self::Reservation, Rejected<()>>> + Send;

    /// Reserves room for a payload of `bytes` now. Never waits in the queue.
    ///
    /// # Errors
    ///
    /// As [`Stash::try_reserve_for`], or a [`Failure`] of the network.
    fn try_reserve(
        &self,
        owner: Option<&O>,
        bytes: u64,
    ) -> impl Future<Output = Result<Self::Reservation, Rejected<()>>> + Send;

    /// Removes and returns the payload, if the ticket is good and `owner` is its owner.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network, which is not `None`: the payload may still be there.
    fn take(
        &self,
        ticket: &Ticket,
        owner: &O,
    ) -> impl Future<Output = Result<Option<P>, Failure>> + Send;

    /// Claims the payload for a delivery, if the ticket is good for this owner.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    fn claim(
        &self,
        ticket: &Ticket,
        owner: &O,
    ) -> impl Future<Output = Result<Option<Self::Claim>, Failure>> + Send;

    /// Removes every entry and returns their number.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network; entries may have been removed.
    fn clear(&self) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// Closes the stash for new payloads and returns the number of waiters that it ended.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network; the stash may be closed.
    fn close(&self) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// Completes when the stash is closed and nothing is charged any more.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    fn drained(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Reads the numbers of now and the totals.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network.
    fn stats(&self) -> impl Future<Output = Result<Stats, Failure>> + Send;

    /// Sets the limit in bytes, for all replicas.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network; the limit may be set.
    fn set_max_bytes(&self, bytes: u64) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Stores the payload now, with no options: see [`try_put_with`](Self::try_put_with).
    ///
    /// # Errors
    ///
    /// As [`try_put_with`](Self::try_put_with).
    fn try_put(
        &self,
        owner: O,
        payload: P,
    ) -> impl Future<Output = Result<Ticket, Rejected<P>>> + Send {
        self.try_put_with(owner, payload, PutOptions::new())
    }

    /// Stores the payload, waiting until it fits: see [`put_with`](Self::put_with).
    ///
    /// # Errors
    ///
    /// As [`put_with`](Self::put_with).
    fn put(
        &self,
        owner: O,
        payload: P,
    ) -> impl Future<Output = Result<Ticket, Rejected<P>>> + Send {
        self.put_with(owner, payload, PutOptions::new(), pending::<()>())
    }

    /// Stores the payload, waiting until it fits or `until` completes: see [`put_with`](Self::put_with).
    ///
    /// # Errors
    ///
    /// As [`put_with`](Self::put_with).
    fn put_until<U: Future + Send>(
        &self,
        owner: O,
        payload: P,
        until: U,
    ) -> impl Future<Output = Result<Ticket, Rejected<P>>> + Send {
        self.put_with(owner, payload, PutOptions::new(), until)
    }

    /// Stores the payload, waiting until it fits or `sleep`, a timer of any runtime, completes.
    ///
    /// # Errors
    ///
    /// As [`put_with`](Self::put_with), with [`Refusal::TimedOut`] when `sleep` completes.
    fn put_timeout<S: Future + Send>(
        &self,
        owner: O,
        payload: P,
        sleep: S,
    ) -> impl Future<Output = Result<Ticket, Rejected<P>>> + Send
    where
        O: Send,
        P: Send,
    {
        async move {
            self.put_until(owner, payload, sleep).await.map_err(|mut rejected| {
                if rejected.failure == Failure::Refused(Refusal::Cancelled) {
                    rejected.failure = Failure::Refused(Refusal::TimedOut);
                }
                rejected
            })
        }
    }

    /// Reserves room for a payload of `bytes`, waiting until there is room.
    ///
    /// # Errors
    ///
    /// As [`reserve_until`](Self::reserve_until).
    fn reserve(
        &self,
        owner: Option<&O>,
        bytes: u64,
    ) -> impl Future<Output = Result<Self::Reservation, Rejected<()>>> + Send {
        self.reserve_until(owner, bytes, pending::<()>())
    }
}

/// Holds room for a payload that is not produced yet, and releases it when dropped.
pub trait CloakroomReservation<P, O>: Send + Sized + 'static {
    /// Returns the size of the largest payload that fits, in bytes.
    fn bytes(&self) -> u64;

    /// Stores the payload in this room and releases the rest.
    ///
    /// # Errors
    ///
    /// As [`Reservation::put_with`], or a [`Failure`] of the network. The reservation comes back with the payload
    /// where it still exists.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases the room and drops the payload.
    fn put_with(
        self,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> impl Future<Output = Result<Ticket, Rejected<(P, Option<Self>)>>> + Send;

    /// Stores the payload with no options: see [`put_with`](Self::put_with).
    ///
    /// # Errors
    ///
    /// As [`put_with`](Self::put_with).
    fn put(
        self,
        owner: O,
        payload: P,
    ) -> impl Future<Output = Result<Ticket, Rejected<(P, Option<Self>)>>> + Send {
        self.put_with(owner, payload, PutOptions::new())
    }
}

/// Says why an operation of a [`Cloakroom`] failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The stash refused the request.
    Refused(Refusal),
    /// The replica's session ended meanwhile, and with it its wait, its grant or its claim.
    ///
    /// A replica loses its session when it is stopped for longer than its lease, or when the engine loses its state.
    Lost,
    /// The engine did not answer within the patience, or cannot keep the data that it received. The outcome is undone as
    /// soon as the engine can be reached.
    Unreachable,
    /// The engine has no memory left, although the stash has room.
    OutOfMemory,
}

impl Failure {
    /// Returns whether the same request can succeed later.
    ///
    /// An owner's request that exceeds what one owner may hold never fits either: the [`Numbers`] of a [`Rejected`] tell,
    /// whose `requested` is then above their `limit`.
    #[must_use]
    pub fn is_transient(self) -> bool {
        !matches!(self, Self::Refused(Refusal::TooLarge | Refusal::Closed))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Lost => f.write_str("the session of this replica ended"),
            Self::Unreachable => f.write_str("the engine cannot be reached"),
            Self::OutOfMemory => f.write_str("the engine is out of memory"),
        }
    }
}

impl Error for Failure {}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Reports a request that failed, with what the caller had handed in.
#[must_use = "it has the payload"]
pub struct Rejected<T> {
    value: T,
    failure: Failure,
    numbers: Numbers,
}

/// Holds the numbers at the moment of a refusal, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Numbers {
    /// The charge of the refused request.
    pub requested: u64,
    /// The sum of all charges. As [`AcquireError::used`].
    pub used: u64,
    /// The limit, the overflow included. As [`AcquireError::limit`].
    pub limit: u64,
    /// How many requests waited.
    pub waiting: usize,
}

impl Numbers {
    /// Makes numbers: requested bytes, used bytes, the limit, and how many requests waited.
    #[must_use]
    pub const fn new(requested: u64, used: u64, limit: u64, waiting: usize) -> Self {
        Self { requested, used, limit, waiting }
    }
}

impl<T> Rejected<T> {
    /// Makes a rejection. For implementations of [`Cloakroom`].
    pub const fn new(value: T, failure: Failure, numbers: Numbers) -> Self {
        Self { value, failure, numbers }
    }

    /// Returns why the request failed.
    #[must_use]
    pub fn failure(&self) -> Failure {
        self.failure
    }

    /// Returns the reason of the stash, if the stash refused the request.
    #[must_use]
    pub fn reason(&self) -> Option<Refusal> {
        match self.failure {
            Failure::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Returns the numbers at that moment. All are 0 if the stash was not asked.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Returns the value that was handed in, such as the payload.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Replaces the value that was handed in.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Rejected<U> {
        Rejected { value: f(self.value), failure: self.failure, numbers: self.numbers }
    }
}

/// Writes the failure without the payload, so that `T` need not be `Debug`.
impl<T> fmt::Debug for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("failure", &self.failure)
            .field("numbers", &self.numbers)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)?;
        if self.reason().is_some() {
            let Numbers { requested, used, limit, waiting } = self.numbers;
            write!(f, ": {requested} bytes requested, {used} of {limit} used, {waiting} waiting")?;
        }
        Ok(())
    }
}

impl<T> Error for Rejected<T> {}

fn rejected<T>(value: T, details: AcquireError) -> Rejected<T> {
    let numbers =
        Numbers::new(details.requested(), details.used(), details.limit(), details.waiting());
    Rejected::new(value, Failure::Refused(details.reason()), numbers)
}

impl<P> From<PutError<P>> for Rejected<P> {
    fn from(error: PutError<P>) -> Self {
        let details = *error.details();
        rejected(error.into_payload(), details)
    }
}

impl<P, O> Cloakroom<P, O> for Stash<P, O>
where
    P: Send + Sync + 'static,
    O: Eq + Hash + Send + Sync + 'static,
{
    type Claim = Claim<P, O>;
    type Reservation = Reservation<P, O>;

    async fn try_put_with(
        &self,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> Result<Ticket, Rejected<P>> {
        Ok(Stash::try_put_with(self, owner, payload, options)?)
    }

    async fn put_with<U: Future + Send>(
        &self,
        owner: O,
        payload: P,
        options: PutOptions,
        until: U,
    ) -> Result<Ticket, Rejected<P>> {
        Ok(Stash::put_with(self, owner, payload, options).until(until).await?)
    }

    /// Ends the wait itself as timed out, so that counters and observers agree with the error.
    async fn put_timeout<S: Future + Send>(
        &self,
        owner: O,
        payload: P,
        sleep: S,
    ) -> Result<Ticket, Rejected<P>> {
        Ok(Stash::put(self, owner, payload).timeout(sleep).await?)
    }

    async fn reserve_until<U: Future + Send>(
        &self,
        owner: Option<&O>,
        bytes: u64,
        until: U,
    ) -> Result<Reservation<P, O>, Rejected<()>> {
        let reserve = match owner {
            Some(owner) => self.reserve_for(owner, bytes),
            None => Stash::reserve(self, bytes),
        };
        reserve.until(until).await.map_err(|refusal| rejected((), refusal))
    }

    async fn try_reserve(
        &self,
        owner: Option<&O>,
        bytes: u64,
    ) -> Result<Reservation<P, O>, Rejected<()>> {
        match owner {
            Some(owner) => self.try_reserve_for(owner, bytes),
            None => Stash::try_reserve(self, bytes),
        }
        .map_err(|refusal| rejected((), refusal))
    }

    async fn take(&self, ticket: &Ticket, owner: &O) -> Result<Option<P>, Failure> {
        Ok(Stash::take(self, ticket, owner))
    }

    async fn claim(&self, ticket: &Ticket, owner: &O) -> Result<Option<Claim<P, O>>, Failure> {
        Ok(Stash::claim(self, ticket, owner))
    }

    async fn clear(&self) -> Result<u64, Failure> {
        Ok(Stash::clear(self) as u64)
    }

    async fn close(&self) -> Result<u64, Failure> {
        Ok(Stash::close(self) as u64)
    }

    async fn drained(&self) -> Result<(), Failure> {
        Stash::drained(self).await;
        Ok(())
    }

    async fn stats(&self) -> Result<Stats, Failure> {
        Ok(Stash::stats(self))
    }

    async fn set_max_bytes(&self, bytes: u64) -> Result<(), Failure> {
        Stash::set_max_bytes(self, bytes);
        Ok(())
    }
}

impl<P, O> CloakroomReservation<P, O> for Reservation<P, O>
where
    P: Send + Sync + 'static,
    O: Eq + Hash + Send + Sync + 'static,
{
    fn bytes(&self) -> u64 {
        Reservation::bytes(self)
    }

    async fn put_with(
        self,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> Result<Ticket, Rejected<(P, Option<Self>)>> {
        Reservation::put_with(self, owner, payload, options).map_err(|error| {
            let details = *error.details();
            let (payload, reservation) = error.into_parts();
            rejected((payload, Some(reservation)), details)
        })
    }
}
