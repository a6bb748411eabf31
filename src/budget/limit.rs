//! Publishes the limit to threads that do not hold the queue's lock, to be read together with the state.
//!
//! A sequence lock: the version is odd while the limit is being changed. A reader that finds the same even
//! version before and after its reads has read a limit and a state that stood together:
//!
//! ```text
//!   writer, with the queue's lock        reader
//!   version = odd        (Relaxed)       version             (Acquire)
//!   value = new limit    (Release)       value               (Acquire)
//!   change of the state  (Release)       state               (Acquire)
//!   version = even       (Release)       version, again      (Relaxed)
//! ```
//!
//! If the reader saw a value or a state of a later change, that read synchronises with the writer's, and the
//! second look at the version sees the odd one or a later one. If it saw one of an earlier change only, the first
//! look was at an earlier version, and the second may not be the same: then it asks under the lock.

use crate::sync::atomic::{AtomicU64, Ordering};

pub(super) struct SharedLimit {
    version: AtomicU64,
    value: AtomicU64,
}

impl SharedLimit {
    pub(super) fn new(limit: u64) -> Self {
        Self { version: AtomicU64::new(0), value: AtomicU64::new(limit) }
    }

    /// What `read` reads with Acquire, and the limit at that moment; `None` if it was being changed.
    pub(super) fn read_with<T>(&self, read: impl FnOnce() -> T) -> (T, Option<u64>) {
        // ORDERING: Acquire [limit.version.load] pairs with [limit.version.end]: the reads see the last change.
        let version = self.version.load(Ordering::Acquire);
        // ORDERING: Acquire [limit.load] pairs with [limit.store]: a reader that sees it sees that the change has begun.
        let limit = self.value.load(Ordering::Acquire);
        let read = read();
        // ORDERING: Relaxed [limit.version.check]: after [limit.load] and the read, which have synchronised.
        let is_same = self.version.load(Ordering::Relaxed) == version;
        (read, Some(limit).filter(|_| is_same && version % 2 == 0))
    }

    /// With the queue's lock held. `change` changes the state, with Release.
    pub(super) fn set(&self, limit: u64, change: impl FnOnce()) {
        // ORDERING: Relaxed [limit.version.own]: the last writer's, by the lock.
        let version = self.version.load(Ordering::Relaxed);
        // ORDERING: Relaxed [limit.version.begin]: published by [limit.store] and by the change.
        self.version.store(version + 1, Ordering::Relaxed);
        // ORDERING: Release [limit.store] pairs with [limit.load].
        self.value.store(limit, Ordering::Release);
        change();
        // ORDERING: Release [limit.version.end] pairs with [limit.version.load].
        self.version.store(version + 2, Ordering::Release);
    }
}
