//! The settings and their defaults.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How the warehouse answers when a result cannot be returned inline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Behaviour {
    /// Results may also go out as files under a signed, expiring link.
    Classic,
    /// Results go out inline or not at all.
    InlineOnly,
}

impl Behaviour {
    /// The name used on the command line and in events.
    pub fn name(self) -> &'static str {
        match self {
            Behaviour::Classic => "classic",
            Behaviour::InlineOnly => "inline-only",
        }
    }
}

/// What keeps inline results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StashKind {
    /// A stash of the `cloakroom` crate.
    Cloakroom,
    /// A map and a semaphore, put together by hand, for comparison.
    Glue,
    /// A stash that several gateways share, on the engine of [`Config::engine`].
    Shared,
}

/// Where the engine of a shared stash is. Logs must not show it, as it can have a password in it.
#[derive(Clone, PartialEq, Eq)]
pub struct EngineUrl(String);

impl EngineUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EngineUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let schemes = ["redis://", "valkey://", "unix://"];
        let known = schemes.iter().any(|scheme| text.starts_with(scheme));
        if known {
            Ok(EngineUrl(text.to_owned()))
        } else {
            Err("an engine's URL is redis://HOST:PORT")
        }
    }
}

impl fmt::Debug for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineUrl(..)")
    }
}

impl StashKind {
    /// The name used on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            StashKind::Cloakroom => "cloakroom",
            StashKind::Glue => "glue",
            StashKind::Shared => "shared",
        }
    }
}

/// The settings of one gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the warehouse does with results that do not go out inline.
    pub behaviour: Behaviour,
    /// What keeps inline results.
    pub stash: StashKind,
    /// The engine of a shared stash.
    pub engine: Option<EngineUrl>,
    /// Hard limit of the stash, in bytes.
    pub max_bytes: u64,
    /// How many of them one owner may hold, if that is limited.
    pub max_bytes_per_owner: Option<u64>,
    /// How many queries may wait at the same time, if that is limited.
    pub max_waiting: Option<usize>,
    /// How long a stashed result may wait to be fetched.
    pub ttl: Duration,
    /// How long a query may wait for its bytes. Zero: it does not wait.
    pub wait: Duration,
    /// How long an external link is good for.
    pub link_ttl: Duration,
    /// Rows of sample data to fill the database with.
    pub rows: u32,
    /// Database connections, and so queries that run at the same time.
    pub connections: usize,
    /// How often an idle event stream sends a sign of life.
    pub keep_alive: Duration,
    /// How many connections may be open at the same time. More wait to be accepted.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request, also of the next one on a connection
    /// that it keeps.
    pub header_timeout: Duration,
    /// How long a client may take to send the body of a request.
    pub body_timeout: Duration,
    /// The script with which the page decodes Arrow streams, `Arrow.es2015.min.js` of the npm package
    /// `apache-arrow`, or the folder that it is in.
    pub apache_arrow: Option<PathBuf>,
    /// How long results may still be fetched once the gateway shuts down.
    pub drain: Duration,
    /// How long requests in flight may take after that.
    pub grace: Duration,
    /// Remember how often every single statement was executed. Memory grows with every statement, so
    /// this is for runs that end: demo and tests.
    pub audit: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            behaviour: Behaviour::Classic,
            stash: StashKind::Cloakroom,
            engine: None,
            max_bytes: 256 << 20,
            max_bytes_per_owner: Some(64 << 20),
            max_waiting: Some(1_000),
            ttl: Duration::from_secs(600),
            wait: Duration::from_millis(500),
            link_ttl: Duration::from_secs(900),
            rows: 100_000,
            connections: 4,
            keep_alive: Duration::from_secs(15),
            max_connections: 1_024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            apache_arrow: None,
            drain: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            audit: false,
        }
    }
}
