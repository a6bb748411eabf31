//! Publishes the limit to threads without the queue's lock, which read it together with the state.
//!
//! A sequence lock: the version is odd while the limit is being changed. A reader that reads the same even version
//! before and after its reads has read a limit and a state of one moment:
//!
//! ```text
//!   writer, with the queue's lock        reader
//!   version = odd        (Relaxed)       version             (Acquire)
//!   value = new limit    (Release)       value               (Acquire)
//!   change of the state  (Release)       state               (Acquire)
//!   version = even       (Release)       version, again      (Relaxed)
//! ```
//!
//! A value or a state of one change and the other of a later change are never returned. The read of the later one
//! synchronises with the writer, so the second read of the version returns that change's odd version or a later one.
//! The read of the earlier one shows that the first read of the version returned a smaller one. The two versions
//! differ, and the caller decides under the lock.

use crate::sync::atomic::{AtomicU64, Ordering};

pub(super) struct SharedLimit {
    version: AtomicU64,
    value: AtomicU64,
}

impl SharedLimit {
    pub(super) fn new(limit: u64) -> Self {
        Self { version: AtomicU64::new(0), value: AtomicU64::new(limit) }
    }

    /// Returns the result of `read`, which reads with Acquire, and the limit of that moment.
    ///
    /// The limit is `None` if it was being changed.
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

    /// Stores the limit, and runs `change`, which changes the state with Release. Called under the queue's lock.
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
