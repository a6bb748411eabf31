//! Counts how often this process was copied by `fork()`.
//!
//! A generator compares the count with its own state: a copy has its parent's states, but another count. A
//! handler that the C library runs in the child before `fork` returns there increments it, so reading it
//! costs one load, and no system call.
//!
//! A copy that is made without the handlers, by a raw `clone` system call or by a snapshot of a virtual
//! machine, is not counted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static COPIES: AtomicUsize = AtomicUsize::new(0);
static COUNTING: AtomicBool = AtomicBool::new(false);

/// Returns how many copies lie between the first process that counted and this one.
#[inline]
pub(crate) fn copies() -> usize {
    // ORDERING: Relaxed [copies.get]: a copy begins with one thread, and the count is written by that one.
    COPIES.load(Ordering::Relaxed)
}

/// Registers the count of copies from now on. Returns whether they are counted.
pub(crate) fn count_copies() -> bool {
    // Two threads may both register, and a copy then counts as two. A lock would prevent that, but a copy
    // that is made while it is held could never take it.
    // ORDERING: Relaxed [copies.counting.get]: nothing else is read.
    if !COUNTING.load(Ordering::Relaxed) {
        if !register() {
            return false;
        }
        // ORDERING: Relaxed [copies.counting.set]: as for the load.
        COUNTING.store(true, Ordering::Relaxed);
    }
    true
}

/// Returns whether copies are counted, or the system makes none, or reports none.
fn register() -> bool {
    #[cfg(all(
        any(
            target_vendor = "apple",
            target_os = "android",
            target_os = "dragonfly",
            target_os = "freebsd",
            target_os = "illumos",
            target_os = "linux",
            target_os = "netbsd",
            target_os = "openbsd",
            target_os = "solaris",
        ),
        not(miri)
    ))]
    {
        extern "C" fn in_the_child() {
            // ORDERING: Relaxed [copies.count]: the child has no other thread yet.
            COPIES.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the handler may run at any `fork`: it adds to an atomic, which is async-signal-safe.
        if unsafe { libc::pthread_atfork(None, None, Some(in_the_child)) } != 0 {
            return false;
        }
    }
    true
}
