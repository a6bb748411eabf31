//! The two worlds: a stash in this process, and a stash that two replicas share on a real engine.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cloakroom::{Cloakroom, ManualClock, Stash};
use cloakroom_redis::{Library, SharedStash};

use crate::support::audit::audit;
use crate::support::server::Server;

pub(crate) type Payload = Vec<u8>;
pub(crate) type Owner = Arc<str>;

/// What a scenario asks of its stash.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) limit: u64,
    pub(crate) ttl: Duration,
    pub(crate) overhead: u64,
    pub(crate) overflow: Option<(u64, Duration)>,
    pub(crate) per_owner: Option<u64>,
    pub(crate) max_waiting: Option<usize>,
    pub(crate) max_waiting_bytes: Option<u64>,
    /// Time goes by itself, and a reaper runs.
    pub(crate) real_time: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limit: 100,
            ttl: Duration::from_millis(1000),
            overhead: 0,
            overflow: None,
            per_owner: None,
            max_waiting: None,
            max_waiting_bytes: None,
            real_time: false,
        }
    }
}

/// Entries, claimed ones included; bytes; waiters.
pub(crate) type State = (u64, u64, usize);

pub(crate) trait World: Sized + Send + Sync + 'static {
    type Stash: Cloakroom<Payload, Owner>;

    fn new(setup: Setup) -> impl Future<Output = Self> + Send;
    /// A replica. Scenarios use both: what one does, the other must see.
    fn here(&self) -> &Self::Stash;
    fn there(&self) -> &Self::Stash;
    fn advance(&self, by: Duration) -> impl Future<Output = ()> + Send;
    fn state(&self) -> impl Future<Output = State> + Send;
}

pub(crate) struct InProcess {
    stash: Stash<Payload, Owner>,
    clock: ManualClock,
}

impl World for InProcess {
    type Stash = Stash<Payload, Owner>;

    async fn new(setup: Setup) -> Self {
        let clock = ManualClock::new();
        let mut builder =
            Stash::builder().max_bytes(setup.limit).ttl(setup.ttl).entry_overhead(setup.overhead);
        if !setup.real_time {
            builder = builder.clock(clock.clone());
        }
        if let Some((bytes, ttl)) = setup.overflow {
            builder = builder.overflow(bytes, ttl);
        }
        if let Some(bytes) = setup.per_owner {
            builder = builder.max_bytes_per_owner(bytes);
        }
        if let Some(requests) = setup.max_waiting {
            builder = builder.max_waiting(requests);
        }
        if let Some(bytes) = setup.max_waiting_bytes {
            builder = builder.max_waiting_bytes(bytes);
        }
        let stash: Stash<Payload, Owner> = builder.build().unwrap();
        if setup.real_time {
            stash.reaper().spawn().unwrap();
        }
        Self { stash, clock }
    }

    fn here(&self) -> &Self::Stash {
        &self.stash
    }

    fn there(&self) -> &Self::Stash {
        &self.stash
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        // As the reaper would.
        self.stash.gc();
    }

    async fn state(&self) -> State {
        (self.stash.len() as u64, self.stash.used_bytes(), self.stash.waiting())
    }
}

pub(crate) struct Shared {
    here: SharedStash<Payload, Owner>,
    there: SharedStash<Payload, Owner>,
    // Last: the replicas end their sessions on it.
    server: Server,
}

/// A name with what has broken others: spaces, colons, a glob, characters beyond ASCII.
const NAME: &str = "a stash: of *two* réplicas";

impl World for Shared {
    type Stash = SharedStash<Payload, Owner>;

    async fn new(setup: Setup) -> Self {
        let server = Server::start();
        let open = || {
            let mut builder = SharedStash::builder()
                .url(&server.url())
                .name(NAME)
                .max_bytes(setup.limit)
                .ttl(setup.ttl)
                .entry_overhead(setup.overhead)
                .lease(Duration::from_secs(3600));
            if let Some(bytes) = setup.per_owner {
                builder = builder.max_bytes_per_owner(bytes);
            }
            if let Some(requests) = setup.max_waiting {
                builder = builder.max_waiting(requests as u64);
            }
            if let Some(bytes) = setup.max_waiting_bytes {
                builder = builder.max_waiting_bytes(bytes);
            }
            if let Some((bytes, ttl)) = setup.overflow {
                builder = builder.overflow(bytes, ttl);
            }
            if !setup.real_time {
                builder = builder.library(Library::on_a_manual_clock());
            }
            builder.open()
        };
        let (here, there) = (open().await.unwrap(), open().await.unwrap());
        Self { here, there, server }
    }

    fn here(&self) -> &Self::Stash {
        &self.here
    }

    fn there(&self) -> &Self::Stash {
        &self.there
    }

    async fn advance(&self, by: Duration) {
        let mut connection = self.server.connection();
        let key = format!("ck:{{{NAME}}}:clock");
        let now: Option<u64> = redis::cmd("GET").arg(&key).query(&mut connection).unwrap();
        let now = now.unwrap_or(1_000_000) + by.as_micros() as u64;
        redis::cmd("SET").arg(&key).arg(now).exec(&mut connection).unwrap();
        // As the keepers would, at the next deadline.
        self.here.tick().await.unwrap();
    }

    async fn state(&self) -> State {
        // What each replica has delivered counts.
        Cloakroom::stats(&self.here).await.unwrap();
        let stats = Cloakroom::stats(&self.there).await.unwrap();
        (stats.entries, stats.used_bytes, stats.waiting)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // The replicas are at rest, but for a note that is under way: then the next look finds it said.
            std::thread::sleep(Duration::from_millis(10));
            audit(&mut self.server.connection(), NAME);
        }
    }
}
