//! Opening a stash.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use cloakroom::Observer;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::config::{Config, Durability, Endpoint, LARGEST, parse};
use crate::engine::Engine;
use crate::error::OpenError;
use crate::keeper::keep;
use crate::library::Library;
use crate::stash::{Shared, SharedStash};

/// Configures a [`SharedStash`], made by [`SharedStash::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `open`"]
pub struct Builder<P, O> {
    config: Config,
    problem: Option<OpenError>,
    stash: PhantomData<fn() -> (P, O)>,
}

impl<P, O> Builder<P, O> {
    pub(crate) fn new() -> Self {
        Self { config: Config::default(), problem: None, stash: PhantomData }
    }

    /// Sets where the engine is: `redis://user:password@host:port`, `unix:///path`.
    pub fn url(self, url: &str) -> Self {
        self.nodes([url])
    }

    /// Sets some nodes of the cluster that is the engine. The stash lives on the node that has its slot.
    pub fn nodes<'a>(mut self, urls: impl IntoIterator<Item = &'a str>) -> Self {
        self.problem = None;
        match urls.into_iter().map(parse).collect::<Result<Vec<_>, _>>() {
            Ok(nodes) if nodes.is_empty() => {
                self.problem = Some(OpenError::setting("nodes", "none is given"));
            }
            Ok(nodes) => self.config.endpoint = Some(Endpoint::Nodes(nodes)),
            Err(error) => self.problem = Some(error),
        }
        self
    }

    /// Sets the sentinels that know the engine, and the name they know it by.
    ///
    /// `node` is an URL of which only the credentials and the database count.
    pub fn sentinels<'a>(
        mut self,
        urls: impl IntoIterator<Item = &'a str>,
        master: &str,
        node: &str,
    ) -> Self {
        self.problem = None;
        let sentinels: Result<Vec<_>, _> = urls.into_iter().map(parse).collect();
        match (sentinels, parse(node)) {
            (Ok(sentinels), Ok(node)) => {
                let (master, node) = (master.to_owned(), Box::new(node));
                self.config.endpoint = Some(Endpoint::Sentinel { sentinels, master, node });
            }
            (Err(error), _) | (_, Err(error)) => self.problem = Some(error),
        }
        self
    }

    /// Sets the stash's name. Replicas that open the same name on the same engine share the stash.
    pub fn name(mut self, name: &str) -> Self {
        self.config.name = name.into();
        self
    }

    /// Sets the limit in bytes. The first replica fixes it; `set_max_bytes` changes it for all.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.config.max_bytes = bytes;
        self
    }

    /// Sets how long an entry can be taken. 10 minutes unless set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// Sets what is charged per entry beside its payload: 512 bytes unless set, about what an entry costs the engine.
    ///
    /// With zero, an empty payload and an empty reservation are charged 1 byte. It must be at most `max_bytes`.
    pub fn entry_overhead(mut self, bytes: u64) -> Self {
        self.config.entry_overhead = bytes;
        self
    }

    /// Allows `bytes` beyond `max_bytes`. An entry that uses any of them expires after `ttl` at most.
    ///
    /// `bytes` must be above zero; `ttl` must be above zero and no longer than the stash's.
    pub fn overflow(mut self, bytes: u64, ttl: Duration) -> Self {
        self.config.overflow = Some((bytes, ttl));
        self
    }

    /// Limits what one owner may hold or wait for. It must be above zero, and at least the entry overhead.
    pub fn max_bytes_per_owner(mut self, bytes: u64) -> Self {
        self.config.max_bytes_per_owner = Some(bytes.min(LARGEST));
        self
    }

    /// Limits how many requests may wait. With 0 no request waits.
    pub fn max_waiting(mut self, requests: u64) -> Self {
        self.config.max_waiting = requests.min(LARGEST);
        self
    }

    /// Limits what all requests that wait may ask for.
    pub fn max_waiting_bytes(mut self, bytes: u64) -> Self {
        self.config.max_waiting_bytes = bytes.min(LARGEST);
        self
    }

    /// Sets the observer, which receives the events of this replica.
    ///
    /// Some of them come on the thread that runs all operations. The observer must not wait there for the stash.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.config.observer = Some(Box::new(observer));
        self
    }

    /// Sets how long a replica that the engine does not hear of keeps its session. 10 seconds unless set.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// Sets how long a replica that has hung up keeps its session. 300 milliseconds unless set.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// Sets how often a replica renews its lease. 2 seconds unless set.
    pub fn beat(mut self, beat: Duration) -> Self {
        self.config.beat = beat;
        self
    }

    /// Sets how long an operation tries to reach the engine. 5 seconds unless set.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.config.patience = patience;
        self
    }

    /// Sets how long a connection may leave a step without a reply until it is taken for broken. 2 seconds unless set.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.config.response_timeout = timeout;
        self
    }

    /// Sets what must have happened until an operation counts.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// Calls the server library as a script, without functions. Chosen without being asked where they are not allowed.
    pub fn without_functions(mut self) -> Self {
        self.config.functions = false;
        self
    }

    /// Sets another server library, for tests.
    #[doc(hidden)]
    pub fn library(mut self, library: Library) -> Self {
        self.config.library = library;
        self
    }

    /// Connects, makes the stash or checks that it has these settings, and begins a session.
    ///
    /// Starts one thread, on which all operations run. The future can be awaited on any executor.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub async fn open(self) -> Result<SharedStash<P, O>, OpenError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        self.config.check()?;
        let kept = Arc::new(Engine::new(self.config));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| OpenError::Engine(error.to_string()))?;
        let (opened, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("cloakroom-redis".into())
            .spawn(move || {
                runtime.block_on(async {
                    let result = kept.open().await;
                    let is_open = result.is_ok();
                    // If the future was dropped, so is the handle, at any time: the keeper ends, and its session.
                    let shared = Shared { engine: Arc::clone(&kept), handle: Handle::current() };
                    let _ = opened.send(result.map(|()| Arc::new(shared)));
                    if is_open {
                        keep(kept).await;
                    }
                });
            })
            .map_err(|error| OpenError::Engine(error.to_string()))?;
        let ended = |_| OpenError::Engine("the keeper's thread ended".into());
        result.await.map_err(ended)?.map(SharedStash::of)
    }
}
