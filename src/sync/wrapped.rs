//! Wraps `std`'s atomics in a hook before each access.
//!
//! Under shuttle the hook is a scheduling point; under `--cfg cloakroom_count` it records what is written.
//! Shuttle's own atomics are not valid when all their bytes are zero, as those of a new slot are. Neither
//! explores weak orderings: memory is sequentially consistent under shuttle.

use std::sync::atomic;
pub(crate) use std::sync::atomic::Ordering;

/// Runs before each access. `address`: of the atomic that it changes, or 0.
fn before(address: usize) {
    #[cfg(cloakroom_count)]
    super::writes::record_at(address);
    #[cfg(cloakroom_shuttle)]
    {
        let _ = address;
        // Not `yield_now`, which tells the scheduler that this task cannot make progress.
        // ORDERING: SeqCst [shuttle.switch]: shuttle knows no other; nothing is read.
        shuttle::sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
    }
}

fn address<T>(of: &T) -> usize {
    std::ptr::from_ref(of).addr()
}

macro_rules! wrap {
    ($name:ident $(<$t:ident>)?, $value:ty) => {
        #[derive(Debug)]
        #[repr(transparent)]
        pub(crate) struct $name$(<$t>)?(atomic::$name$(<$t>)?);

        #[allow(dead_code, reason = "all of them have all of these")]
        impl$(<$t>)? $name$(<$t>)? {
            pub(crate) const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                before(0);
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                before(address(self));
                self.0.store(value, order);
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                before(address(self));
                self.0.swap(value, order)
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before(address(self));
                self.0.compare_exchange(current, new, success, failure)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
        }
    };
}

wrap!(AtomicBool, bool);
wrap!(AtomicU8, u8);
wrap!(AtomicU64, u64);
wrap!(AtomicPtr<T>, *mut T);

macro_rules! fetch {
    ($($method:ident),*) => {
        impl AtomicU64 {
            $(pub(crate) fn $method(&self, value: u64, order: Ordering) -> u64 {
                before(address(self));
                self.0.$method(value, order)
            })*
        }
    };
}

fetch!(fetch_add, fetch_sub, fetch_or, fetch_and, fetch_min);
