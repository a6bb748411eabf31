//! The peers of a budget: semaphores that grant in order.

use std::future::Future;
use std::hint::black_box;

use cloakroom::{Acquire, AcquireError, Budget, Permit};

/// A semaphore that counts bytes, or units if it cannot.
pub(crate) trait Semaphore: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    /// The output of the future: a permit, released by dropping it, perhaps in a `Result`.
    type Granted<'a>;

    fn new(bytes: u64) -> Self;

    /// Acquires without waiting, and releases. Part of the trait, so that nothing is converted that a user
    /// would not convert.
    fn acquire_release(&self, bytes: u64);

    fn acquire(&self, bytes: u64) -> impl Future<Output = Self::Granted<'_>> + Send;
}

pub(crate) struct Cloakroom(Budget);

impl Semaphore for Cloakroom {
    const NAME: &'static str = "cloakroom";
    type Granted<'a> = Result<Permit<'a>, AcquireError>;

    fn new(bytes: u64) -> Self {
        Self(Budget::new(bytes))
    }

    fn acquire_release(&self, bytes: u64) {
        black_box(&self.0.try_acquire(bytes).expect("there is room"));
    }

    #[expect(refining_impl_trait, reason = "a future without a wrapper around it")]
    fn acquire(&self, bytes: u64) -> Acquire<'_> {
        self.0.acquire(bytes)
    }
}

/// Its requests are 32 bits.
pub(crate) struct Tokio(tokio::sync::Semaphore);

impl Semaphore for Tokio {
    const NAME: &'static str = "tokio";
    type Granted<'a> = Result<tokio::sync::SemaphorePermit<'a>, tokio::sync::AcquireError>;

    fn new(bytes: u64) -> Self {
        Self(tokio::sync::Semaphore::new(bytes as usize))
    }

    fn acquire_release(&self, bytes: u64) {
        black_box(&self.0.try_acquire_many(bytes as u32).expect("there is room"));
    }

    fn acquire(&self, bytes: u64) -> impl Future<Output = Self::Granted<'_>> + Send {
        self.0.acquire_many(bytes as u32)
    }
}

/// In its fair mode.
pub(crate) struct FuturesIntrusive(futures_intrusive::sync::Semaphore);

impl Semaphore for FuturesIntrusive {
    const NAME: &'static str = "futures-intrusive";
    type Granted<'a> = futures_intrusive::sync::SemaphoreReleaser<'a>;

    fn new(bytes: u64) -> Self {
        Self(futures_intrusive::sync::Semaphore::new(true, bytes as usize))
    }

    fn acquire_release(&self, bytes: u64) {
        black_box(&self.0.try_acquire(bytes as usize).expect("there is room"));
    }

    fn acquire(&self, bytes: u64) -> impl Future<Output = Self::Granted<'_>> + Send {
        self.0.acquire(bytes as usize)
    }
}

/// It has permits of one size only, so here a permit stands for [`UNIT`] bytes, and every request is for
/// that. It lets late requests pass waiting ones.
pub(crate) struct AsyncLock(async_lock::Semaphore);

/// The requests of the benchmarks of semaphores.
pub(crate) const UNIT: u64 = 1024;

impl Semaphore for AsyncLock {
    const NAME: &'static str = "async-lock";
    type Granted<'a> = async_lock::SemaphoreGuard<'a>;

    fn new(bytes: u64) -> Self {
        Self(async_lock::Semaphore::new((bytes / UNIT) as usize))
    }

    fn acquire_release(&self, bytes: u64) {
        debug_assert_eq!(bytes, UNIT);
        black_box(&self.0.try_acquire().expect("there is room"));
    }

    fn acquire(&self, bytes: u64) -> impl Future<Output = Self::Granted<'_>> + Send {
        debug_assert_eq!(bytes, UNIT);
        self.0.acquire()
    }
}

pub(crate) struct Mea(mea::semaphore::Semaphore);

impl Semaphore for Mea {
    const NAME: &'static str = "mea";
    type Granted<'a> = mea::semaphore::SemaphorePermit<'a>;

    fn new(bytes: u64) -> Self {
        Self(mea::semaphore::Semaphore::new(bytes as usize))
    }

    fn acquire_release(&self, bytes: u64) {
        black_box(&self.0.try_acquire(bytes as usize).expect("there is room"));
    }

    fn acquire(&self, bytes: u64) -> impl Future<Output = Self::Granted<'_>> + Send {
        self.0.acquire(bytes as usize)
    }
}
