//! Reports refusals, and hands the payload back with them.

use std::error::Error;
use std::fmt;

/// Names the reason for which a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// It does not fit now, or other requests wait and it may not wait. Can overlap with a call that has removed
    /// expired entries and not yet released their bytes.
    Full,
    /// It exceeds the limit and can never fit.
    TooLarge,
    /// It waited in the wait queue for as long as its timeout allows.
    TimedOut,
    /// The future given to `until` completed first.
    Cancelled,
    /// The stash or the budget is closed.
    Closed,
    /// Its owner holds as much as one owner may, waiting requests included. If
    /// [`requested`](AcquireError::requested) is above [`limit`](AcquireError::limit), it can never fit.
    OwnerFull,
    /// It would have to wait, and the wait queue is full.
    QueueFull,
}

impl Refusal {
    pub(crate) const ALL: [Refusal; 7] = [
        Self::Full,
        Self::TooLarge,
        Self::TimedOut,
        Self::Cancelled,
        Self::Closed,
        Self::OwnerFull,
        Self::QueueFull,
    ];

    /// Returns the name that metrics use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::TooLarge => "too_large",
            Refusal::TimedOut => "timed_out",
            Refusal::Cancelled => "cancelled",
            Refusal::Closed => "closed",
            Refusal::OwnerFull => "owner_full",
            Refusal::QueueFull => "queue_full",
        }
    }

    /// Returns whether the same request can succeed later.
    ///
    /// `false` for [`TooLarge`](Self::TooLarge) and [`Closed`](Self::Closed). An owner's request that exceeds what
    /// one owner may hold never fits either: [`AcquireError::is_transient`] knows.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::Refusal;
    /// assert!(Refusal::Full.is_transient());
    /// assert!(!Refusal::TooLarge.is_transient());
    /// ```
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Refusal::Full
            | Refusal::TimedOut
            | Refusal::Cancelled
            | Refusal::OwnerFull
            | Refusal::QueueFull => true,
            Refusal::TooLarge | Refusal::Closed => false,
        }
    }

    /// Suggests a status for an HTTP response.
    ///
    /// It is 413 for a request that is too large, 429 for an owner that holds too much, and 503 for
    /// everything else, which the client did not cause.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::Refusal;
    /// assert_eq!(Refusal::TooLarge.http_status(), 413);
    /// assert_eq!(Refusal::QueueFull.http_status(), 503);
    /// ```
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Refusal::TooLarge => 413,
            Refusal::OwnerFull => 429,
            Refusal::Full
            | Refusal::TimedOut
            | Refusal::Cancelled
            | Refusal::Closed
            | Refusal::QueueFull => 503,
        }
    }

    /// Suggests a status code for a gRPC response, as a number: tonic's `Code::from` takes it.
    ///
    /// It is `OUT_OF_RANGE` (11) for a request that is too large, `RESOURCE_EXHAUSTED` (8) for an owner that holds
    /// too much, and `UNAVAILABLE` (14) for everything else, which clients may retry.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::Refusal;
    /// assert_eq!(Refusal::TooLarge.grpc_code(), 11);
    /// assert_eq!(Refusal::QueueFull.grpc_code(), 14);
    /// ```
    #[must_use]
    pub const fn grpc_code(self) -> i32 {
        match self {
            Refusal::TooLarge => 11,
            Refusal::OwnerFull => 8,
            Refusal::Full
            | Refusal::TimedOut
            | Refusal::Cancelled
            | Refusal::Closed
            | Refusal::QueueFull => 14,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Full => "full",
            Refusal::TooLarge => "larger than the limit",
            Refusal::TimedOut => "timed out in the wait queue",
            Refusal::Cancelled => "cancelled in the wait queue",
            Refusal::Closed => "closed",
            Refusal::OwnerFull => "its owner holds too much",
            Refusal::QueueFull => "the wait queue is full",
        })
    }
}

/// Reports a refusal by a budget, with the numbers at that moment.
///
/// ```
/// # use cloakroom::Budget;
/// let budget = Budget::new(100);
/// let _held = budget.try_acquire(80).unwrap();
/// let refused = budget.try_acquire(30).unwrap_err();
/// assert_eq!(refused.to_string(), "full: 30 bytes requested, 80 of 100 used, 0 waiting");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcquireError {
    pub(crate) reason: Refusal,
    pub(crate) requested: u64,
    pub(crate) used: u64,
    pub(crate) limit: u64,
    pub(crate) waiting: usize,
}

impl AcquireError {
    /// Returns why the request was refused.
    #[must_use]
    pub fn reason(&self) -> Refusal {
        self.reason
    }

    /// Returns the bytes that were asked for.
    #[must_use]
    pub fn requested(&self) -> u64 {
        self.requested
    }

    /// Returns the bytes in use.
    ///
    /// For [`OwnerFull`](Refusal::OwnerFull), it is the owner's, waiting requests included. For a payload that is too
    /// large for its reservation, it is 0: the reservation holds nothing yet.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Returns the limit in bytes, the overflow included.
    ///
    /// For [`OwnerFull`](Refusal::OwnerFull), it is the owner's. For a payload that is too large for its
    /// reservation, it is the reservation's size.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the number of requests that waited.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns the queue position that the request would have had (1 is the head).
    ///
    /// # Returns
    ///
    /// `None` unless the request was refused as [`Full`](Refusal::Full) or [`QueueFull`](Refusal::QueueFull).
    #[must_use]
    pub fn queue_position(&self) -> Option<usize> {
        matches!(self.reason, Refusal::Full | Refusal::QueueFull).then(|| self.waiting + 1)
    }

    /// Returns whether the same request can succeed later.
    ///
    /// It is [`Refusal::is_transient`], but `false` if the request is larger than what one owner may hold.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.reason.is_transient() && !self.is_too_large()
    }

    /// Suggests a status for an HTTP response.
    ///
    /// It is [`Refusal::http_status`], but 413 for a request that is larger than what one owner may hold.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        if self.is_too_large() {
            return Refusal::TooLarge.http_status();
        }
        self.reason.http_status()
    }

    /// Suggests a status code for a gRPC response.
    ///
    /// It is [`Refusal::grpc_code`], but `OUT_OF_RANGE` for a request that is larger than what one owner may hold.
    #[must_use]
    pub fn grpc_code(&self) -> i32 {
        if self.is_too_large() {
            return Refusal::TooLarge.grpc_code();
        }
        self.reason.grpc_code()
    }

    fn is_too_large(&self) -> bool {
        match self.reason {
            Refusal::TooLarge => true,
            Refusal::OwnerFull => self.requested > self.limit,
            _ => false,
        }
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, requested, used, limit, waiting } = self;
        write!(
            f,
            "{reason}: {requested} bytes requested, {used} of {limit} used, {waiting} waiting"
        )
    }
}

impl Error for AcquireError {}

/// Reports a refused put and holds the payload: [`into_payload`](Self::into_payload).
pub struct PutError<P> {
    payload: P,
    refusal: AcquireError,
}

impl<P> PutError<P> {
    pub(crate) fn new(payload: P, refusal: AcquireError) -> Self {
        Self { payload, refusal }
    }

    /// Returns why the put was refused.
    #[must_use]
    pub fn reason(&self) -> Refusal {
        self.refusal.reason
    }

    /// Returns the payload.
    #[must_use]
    pub fn into_payload(self) -> P {
        self.payload
    }

    /// Borrows the payload.
    #[must_use]
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// Returns the charge that was asked for: the payload's size and the entry overhead.
    #[must_use]
    pub fn requested(&self) -> u64 {
        self.refusal.requested
    }

    /// Returns the bytes in use, as [`AcquireError::used`] does.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.refusal.used
    }

    /// Returns the limit in bytes, as [`AcquireError::limit`] does.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.refusal.limit
    }

    /// Returns the number of requests that waited.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.refusal.waiting
    }

    /// Returns the queue position that the put would have had: see [`AcquireError::queue_position`].
    #[must_use]
    pub fn queue_position(&self) -> Option<usize> {
        self.refusal.queue_position()
    }

    /// Returns the payload, and why it was refused.
    ///
    /// # Examples
    ///
    /// ```
    /// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
    /// let (payload, refusal) = stash.try_put((), vec![7; 2_000]).unwrap_err().into_parts();
    /// assert_eq!((payload.len(), refusal.http_status()), (2_000, 413));
    /// ```
    #[must_use]
    pub fn into_parts(self) -> (P, AcquireError) {
        (self.payload, self.refusal)
    }

    /// Borrows the refusal: all of the above, without the payload.
    #[must_use]
    pub fn details(&self) -> &AcquireError {
        &self.refusal
    }
}

/// Writes the refusal without the payload, so that `P` need not be `Debug`.
impl<P> fmt::Debug for PutError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PutError").field(&self.refusal).finish()
    }
}

impl<P> fmt::Display for PutError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(f)
    }
}

impl<P> Error for PutError<P> {}

/// Drops the payload, and keeps why it was refused: for `?`.
///
/// # Examples
///
/// ```
/// use cloakroom::{AcquireError, Stash, Ticket};
///
/// fn hand_in(stash: &Stash<Vec<u8>, u64>, user: u64) -> Result<Ticket, AcquireError> {
///     let room = stash.try_reserve_for(&user, 100)?;
///     let first = room.put(user, vec![7; 60])?;
///     stash.take(&first, &user);
///     Ok(stash.try_put(user, vec![7; 2_000])?)
/// }
///
/// let stash = Stash::builder().max_bytes(1_000).build()?;
/// let refused = hand_in(&stash, 17).unwrap_err();
/// assert!(!refused.is_transient());
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
impl<P> From<PutError<P>> for AcquireError {
    fn from(error: PutError<P>) -> Self {
        error.refusal
    }
}

/// Names a setting that is wrong, and says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    setting: &'static str,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }

    /// Returns the name of the builder's method that was given the value.
    #[must_use]
    pub fn setting(&self) -> &str {
        self.setting
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.problem)
    }
}

impl Error for ConfigError {}
