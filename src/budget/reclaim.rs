//! Reclaims bytes of no further use before a request is refused.
//!
//! A stash is the reclaimer of its budget: it sweeps expired entries. The budget knows only the trait. Its reference
//! is weak, so a clone of the budget does not keep a stash alive.

use std::sync::Weak;
use std::task::Waker;
use std::time::Duration;

use crate::error::Refusal;

/// Releases, on demand, bytes that are charged but of no further use.
///
/// All methods run user code (clocks, payload drops, observers), so no lock may be held.
pub(crate) trait Reclaim: Send + Sync {
    /// Releases one batch. Returns whether there was anything to release.
    fn reclaim(&self) -> bool;

    /// Registers one more sleeper, and returns its number.
    fn enter(&self) -> usize;

    /// Releases one batch, and plans the sleeper's next call.
    ///
    /// Returns how long it may sleep; zero if there may be more to release now. `waker` is woken if bytes can be
    /// released earlier than planned.
    fn reclaim_before_sleep(&self, sleeper: usize, waker: &Waker) -> Duration;

    /// Removes a sleeper. Another one takes over its plan.
    fn leave(&self, sleeper: usize);
}

/// Retries while a request is refused for lack of room and `reclaim` returns `true` (invariant 9).
///
/// Attempts once more after a `reclaim` that returned `false`: another thread may just have released the rest.
pub(crate) fn retry_after_expiry<T, E>(
    first: Result<T, E>,
    is_lack_of_room: impl Fn(&E) -> bool,
    mut reclaim: impl FnMut() -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let (mut decided, mut exhausted) = (first, false);
    loop {
        match &decided {
            Err(refusal) if is_lack_of_room(refusal) && !exhausted => {
                exhausted = !reclaim();
                decided = attempt();
            }
            _ => return decided,
        }
    }
}

/// Refers to a reclaimer that may be absent, or dropped.
pub(super) struct Reclaimer(Option<Weak<dyn Reclaim>>);

impl Reclaimer {
    pub(super) fn new(reclaimer: Option<Weak<dyn Reclaim>>) -> Self {
        Self(reclaimer)
    }

    /// Returns whether there never was a reclaimer.
    pub(super) fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// Retries a refused attempt as long as reclaiming helps.
    #[cold]
    pub(super) fn retry<T>(
        &self,
        first: Refusal,
        attempt: impl FnMut() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let Some(reclaimer) = self.0.as_ref().and_then(Weak::upgrade) else { return Err(first) };
        let is_lack_of_room = |refusal: &Refusal| *refusal == Refusal::Full;
        retry_after_expiry(Err(first), is_lack_of_room, || reclaimer.reclaim(), attempt)
    }

    /// Reclaims until `done` holds or no reclaimable bytes remain.
    pub(super) fn reclaim_until(&self, mut done: impl FnMut() -> bool) {
        if let Some(reclaimer) = self.0.as_ref().and_then(Weak::upgrade) {
            while !done() && reclaimer.reclaim() {}
        }
    }

    /// Makes a sleeper that reclaims while its thread blocks.
    pub(super) fn sleeper(&self) -> Sleeper<'_> {
        Sleeper { reclaimer: self.0.as_ref(), number: None }
    }
}

/// Represents a thread that blocks on the budget, and reclaims meanwhile.
pub(crate) struct Sleeper<'a> {
    reclaimer: Option<&'a Weak<dyn Reclaim>>,
    number: Option<usize>,
}

impl Sleeper<'_> {
    /// Reclaims, and returns how long the thread may sleep; `None` is no bound.
    pub(crate) fn reclaim(&mut self, waker: &Waker) -> Option<Duration> {
        let reclaimer = self.reclaimer?.upgrade()?;
        let number = *self.number.get_or_insert_with(|| reclaimer.enter());
        Some(reclaimer.reclaim_before_sleep(number, waker))
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        if let (Some(reclaimer), Some(number)) =
            (self.reclaimer.and_then(Weak::upgrade), self.number)
        {
            reclaimer.leave(number);
        }
    }
}
