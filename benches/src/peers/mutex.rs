//! One lock around a map and a counter.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Entry, Owner, Peer, secret};

struct Table {
    entries: HashMap<u128, Entry>,
    used: u64,
}

impl Table {
    fn new() -> Self {
        Self { entries: HashMap::new(), used: 0 }
    }

    fn put(&mut self, limit: u64, ticket: u128, entry: Entry) -> bool {
        let charge = entry.charge();
        if self.used + charge > limit {
            return false;
        }
        self.used += charge;
        self.entries.insert(ticket, entry);
        true
    }

    fn take(&mut self, ticket: u128, owner: Owner) -> Option<Entry> {
        if self.entries.get(&ticket)?.owner != owner {
            return None;
        }
        let entry = self.entries.remove(&ticket)?;
        self.used -= entry.charge();
        Some(entry)
    }

    fn expire(&mut self, now: Instant) -> usize {
        let (before, mut freed) = (self.entries.len(), 0);
        self.entries.retain(|_, entry| {
            let live = entry.is_live(now);
            freed += if live { 0 } else { entry.charge() };
            live
        });
        self.used -= freed;
        before - self.entries.len()
    }
}

macro_rules! peer {
    ($peer:ident, $name:literal, $lock:ty, $guard:ident => $locked:expr) => {
        pub(crate) struct $peer {
            table: $lock,
            limit: u64,
            ttl: Duration,
        }

        /// The clock and the ticket before the lock: it is held for the map alone.
        impl Peer for $peer {
            const NAME: &'static str = $name;
            type Ticket = u128;

            fn new(max_bytes: u64, ttl: Duration) -> Self {
                Self { table: <$lock>::new(Table::new()), limit: max_bytes, ttl }
            }

            fn put(&self, owner: Owner, payload: Bytes) -> Option<u128> {
                let ticket = secret();
                let entry = Entry::new(owner, payload, self.ttl);
                let $guard = &self.table;
                $locked.put(self.limit, ticket, entry).then_some(ticket)
            }

            fn take(&self, ticket: u128, owner: Owner) -> Option<Bytes> {
                let now = Instant::now();
                let $guard = &self.table;
                let entry = $locked.take(ticket, owner)?;
                entry.is_live(now).then_some(entry.payload)
            }

            fn expire(&self) -> Option<usize> {
                let now = Instant::now();
                let $guard = &self.table;
                Some($locked.expire(now))
            }
        }
    };
}

peer!(StdMutex, "mutex (std)", std::sync::Mutex<Table>, table => table.lock().expect("nobody panics"));
peer!(ParkingLotMutex, "mutex (parking_lot)", parking_lot::Mutex<Table>, table => table.lock());
