//! Provides atomics, cells, locks and parking to the rest of the crate.
//!
//! They are the real ones by default, loom's under `--cfg cloakroom_loom`, and under `--cfg
//! cloakroom_shuttle` atomics that switch tasks at every access. No other file of the crate names
//! `std::sync::atomic`, `parking_lot`, `loom` or `shuttle`, so a build with one of these flags explores the
//! code that users run.

mod copies;

pub(crate) use self::copies::{copies, count_copies};

// Reference counts are `std`'s under loom too: the models do not check them, and loom would multiply every
// model by the orders in which its threads drop their handles.
pub(crate) use std::sync::Arc;
// For values that are made once: models make them before they start threads.
pub(crate) use std::sync::OnceLock;

#[cfg(all(
    target_has_atomic = "64",
    not(any(cloakroom_loom, cloakroom_shuttle, cloakroom_count))
))]
pub(crate) use std::sync::atomic;

#[cfg(not(target_has_atomic = "64"))]
#[path = "without_atomic_u64.rs"]
pub(crate) mod atomic;

#[cfg(cloakroom_loom)]
pub(crate) use loom::sync::atomic;

#[cfg(any(cloakroom_shuttle, cloakroom_count))]
#[path = "wrapped.rs"]
pub(crate) mod atomic;

#[cfg(cloakroom_count)]
pub(crate) mod writes;

#[cfg(cloakroom_loom)]
pub(crate) use loom::cell::UnsafeCell;

#[cfg(not(cloakroom_loom))]
pub(crate) use cell::UnsafeCell;

#[cfg(not(cloakroom_loom))]
mod cell {
    /// Wraps `std`'s cell in loom's interface: loom can see when an access ends.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            #[cfg(cloakroom_count)]
            super::writes::record(self);
            f(self.0.get())
        }
    }
}

/// Loads the value that a compare-exchange loop starts from.
///
/// A stale value costs one more round.
///
/// Under loom it is an RMW. Loom skips interleavings that cannot differ, and for that records, for each
/// atomic, which thread accessed it *last*. A thread that loads and then changes a value hides the change
/// from another's earlier load, and the interleaving in which the change comes first is never explored. (A
/// put against a sweep, with one bound between them, was explored in a single execution.) An RMW hides
/// nothing.
#[inline(always)]
pub(crate) fn load_for_cas(atomic: &atomic::AtomicU64, order: atomic::Ordering) -> u64 {
    #[cfg(not(cloakroom_loom))]
    return atomic.load(order);
    #[cfg(cloakroom_loom)]
    return atomic.fetch_or(0, order);
}

/// Re-exports `std`'s atomics, which no model explores.
mod plain {
    #[cfg(not(target_has_atomic = "64"))]
    pub(super) use super::atomic::{AtomicU64, Ordering};
    #[cfg(target_has_atomic = "64")]
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

/// Holds a number for people to read: an error's text, statistics.
///
/// No decision of the algorithms rests on one, so loom need not explore the values that it may have.
#[derive(Debug, Default)]
pub(crate) struct StatCounter(plain::AtomicU64);

impl StatCounter {
    pub(crate) const fn new(value: u64) -> Self {
        Self(plain::AtomicU64::new(value))
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        // ORDERING: Relaxed [stat.get]: a number for people.
        self.0.load(plain::Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set(&self, value: u64) {
        #[cfg(cloakroom_count)]
        writes::record(self);
        // ORDERING: Relaxed [stat.set]: a number for people.
        self.0.store(value, plain::Ordering::Relaxed);
    }

    /// Lowers the value to at most `value`.
    #[cold]
    pub(crate) fn lower(&self, value: u64) {
        #[cfg(cloakroom_count)]
        writes::record(self);
        // ORDERING: Relaxed [stat.lower]: a number for people.
        self.0.fetch_min(value, plain::Ordering::Relaxed);
    }

    /// Adds `more`, and wraps around on overflow.
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        #[cfg(cloakroom_count)]
        writes::record(self);
        // ORDERING: Relaxed [stat.add]: a number for people.
        self.0.fetch_add(more, plain::Ordering::Relaxed);
    }
}

/// Locks without an `unwrap`: no user code runs under it, so it is never poisoned.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(
    #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))] parking_lot::Mutex<T>,
    #[cfg(cloakroom_loom)] loom::sync::Mutex<T>,
    #[cfg(cloakroom_shuttle)] shuttle::sync::Mutex<T>,
);

#[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
pub(crate) type MutexGuard<'a, T> = parking_lot::MutexGuard<'a, T>;
#[cfg(cloakroom_loom)]
pub(crate) type MutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;
#[cfg(cloakroom_shuttle)]
pub(crate) type MutexGuard<'a, T> = shuttle::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
        return Self(parking_lot::Mutex::new(value));
        #[cfg(cloakroom_loom)]
        return Self(loom::sync::Mutex::new(value));
        #[cfg(cloakroom_shuttle)]
        return Self(shuttle::sync::Mutex::new(value));
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(cloakroom_count)]
        writes::record(self);
        #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
        return self.0.lock();
        #[cfg(any(cloakroom_loom, cloakroom_shuttle))]
        return self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    }

    /// Locks it unless somebody else holds it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        #[cfg(cloakroom_count)]
        writes::record(self);
        #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
        return self.0.try_lock();
        #[cfg(any(cloakroom_loom, cloakroom_shuttle))]
        return self.0.try_lock().ok();
    }
}

#[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
thread_local! {
    /// `usize::MAX`: none yet.
    static NUMBER: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}

/// Returns a small number that is mostly this thread's own, to spread threads over shards.
///
/// Under loom and shuttle every thread has the same number, so that they meet.
#[inline]
pub(crate) fn thread_number() -> usize {
    #[cfg(any(cloakroom_loom, cloakroom_shuttle))]
    return 0;
    #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
    match NUMBER.get() {
        usize::MAX => assign_thread_number(),
        number => number,
    }
}

#[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
#[cold]
fn assign_thread_number() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // ORDERING: Relaxed [thread.number]: only its own count matters.
    let assigned = NEXT.fetch_add(1, Ordering::Relaxed);
    NUMBER.set(assigned);
    assigned
}

/// Returns the number that selects the calling thread's share of a budget. Models choose it.
///
/// `None` for a thread that has no number yet: a caller on a hot path asks for [`thread_number`] on a cold one, since
/// a call here would make it save registers.
#[inline]
pub(crate) fn share_number() -> Option<usize> {
    #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
    return Some(NUMBER.get()).filter(|number| *number != usize::MAX);
    #[cfg(cloakroom_loom)]
    return Some(MODEL_SHARE.with(std::cell::Cell::get));
    #[cfg(cloakroom_shuttle)]
    return Some(usize::from(shuttle::current::me()));
}

#[cfg(cloakroom_loom)]
loom::thread_local! {
    pub(crate) static MODEL_SHARE: std::cell::Cell<usize> = std::cell::Cell::new(0);
}

/// Returns how many processors this program may use.
pub(crate) fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Runs `f`, which is *another caller's* code, and contains a panic in it.
///
/// It is another task's waker, or the drop of another caller's payload. This caller did not cause the panic,
/// so it must not see it; the panic hook has reported it already. Under loom and shuttle panics pass: a model
/// fails by panicking.
#[inline]
pub(crate) fn contain_panic(f: impl FnOnce()) {
    #[cfg(any(cloakroom_loom, cloakroom_shuttle))]
    f();
    #[cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]
    {
        use std::panic::{AssertUnwindSafe, catch_unwind};
        if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
            // The panic's own payload is user code too, and its drop may panic again.
            if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
                std::mem::forget(second);
            }
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod parking;
#[cfg(not(target_family = "wasm"))]
pub(crate) use self::parking::{Wait, with_thread_signal};
