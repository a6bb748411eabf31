//! Settings, and what is checked about them before anything is sent.

use std::fmt;
use std::time::Duration;

use cloakroom::Observer;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

use crate::error::OpenError;
use crate::library::Library;

/// What a charge adds to a payload's size, unless set: what an entry costs the engine beyond its payload.
pub(crate) const ENTRY_OVERHEAD: u64 = 512;

/// What must have happened on the engine before an operation counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The primary has executed it. An asynchronous failover can lose what was acknowledged last, and can bring
    /// back an entry that was delivered last.
    #[default]
    Primary,
    /// So many replicas of the engine have received it as well. Waited for after a store, and before a payload is
    /// handed over.
    Replicas(u32),
}

/// What the engine keeps if it crashes, as it said when the stash was opened: its append-only file.
///
/// A restart brings back what the file has: with `Always`, every step that was answered. With `Eventually`, too, if
/// only the engine's process dies; if the machine stops, a prefix of the steps. With `EverySecond`, a prefix: while the
/// disk is busy with a synchronization, the engine answers steps up to 2 s before it writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Persistence {
    /// The engine did not say: it does not allow `CONFIG`.
    #[default]
    Unknown,
    /// There is no append-only file: the stash is empty after a restart, or as its last snapshot was.
    NoFile,
    /// The operating system decides when to synchronize it: `appendfsync no`.
    Eventually,
    /// It is synchronized every second: `appendfsync everysec`.
    EverySecond,
    /// It is synchronized before a step is answered: `appendfsync always`.
    Always,
}

impl Persistence {
    /// Reads the settings `appendonly` and `appendfsync`.
    pub(crate) fn of(file: &str, sync: &str) -> Self {
        match (file, sync) {
            ("no", _) => Self::NoFile,
            ("yes", "no") => Self::Eventually,
            ("yes", "everysec") => Self::EverySecond,
            ("yes", "always") => Self::Always,
            _ => Self::Unknown,
        }
    }
}

/// Where the engine is.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    /// One server, or any nodes of a cluster: MOVED leads on from there.
    Nodes(Vec<ConnectionInfo>),
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master: String,
        node: Box<ConnectionInfo>,
    },
}

pub(crate) struct Config {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) name: String,
    pub(crate) max_bytes: u64,
    pub(crate) ttl: Duration,
    pub(crate) entry_overhead: u64,
    pub(crate) overflow: Option<(u64, Duration)>,
    pub(crate) max_bytes_per_owner: Option<u64>,
    /// `LARGEST` if they are not limited.
    pub(crate) max_waiting: u64,
    pub(crate) max_waiting_bytes: u64,
    pub(crate) lease: Duration,
    pub(crate) grace: Duration,
    pub(crate) beat: Duration,
    pub(crate) patience: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) durability: Durability,
    pub(crate) observer: Option<Box<dyn Observer>>,
    pub(crate) library: Library,
    pub(crate) functions: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the endpoint, which may have a password in it.
        f.debug_struct("Config").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            name: "default".into(),
            max_bytes: 0,
            ttl: Duration::from_secs(600),
            entry_overhead: ENTRY_OVERHEAD,
            overflow: None,
            max_bytes_per_owner: None,
            max_waiting: LARGEST,
            max_waiting_bytes: LARGEST,
            lease: Duration::from_secs(10),
            grace: Duration::from_millis(300),
            beat: Duration::from_secs(2),
            patience: Duration::from_secs(5),
            response_timeout: Duration::from_secs(2),
            durability: Durability::Primary,
            observer: None,
            library: Library::standard(),
            functions: true,
        }
    }
}

/// The largest number of bytes and microseconds: numbers are doubles on the engine, and sums stay exact.
pub(crate) const LARGEST: u64 = 1 << 51;

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}

impl Config {
    /// What every key and channel of the stash begins with.
    pub(crate) fn prefix(&self) -> String {
        format!("ck:{{{}}}:", self.name)
    }

    /// The settings that all replicas must share, with their names, in the order of the step `open`.
    pub(crate) fn shared(&self) -> [(&'static str, u64); 10] {
        let (overflow, overflow_ttl) = self.overflow.unwrap_or_default();
        [
            ("max_bytes", self.max_bytes),
            ("overflow", overflow),
            ("ttl", micros(self.ttl)),
            ("overflow ttl", micros(overflow_ttl)),
            // 0 if it is not limited.
            ("max_bytes_per_owner", self.max_bytes_per_owner.unwrap_or(0)),
            ("max_waiting", self.max_waiting),
            ("max_waiting_bytes", self.max_waiting_bytes),
            ("entry_overhead", self.entry_overhead),
            ("lease", micros(self.lease)),
            ("grace", micros(self.grace)),
        ]
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        if self.endpoint.is_none() {
            return Err(OpenError::setting("url", "not set"));
        }
        if self.name.is_empty() || self.name.contains(['{', '}']) || self.name.len() > 200 {
            return Err(OpenError::setting(
                "name",
                "must have 1 to 200 bytes and no braces, which are the hash tag's",
            ));
        }
        let waits = [("patience", self.patience), ("response_timeout", self.response_timeout)];
        let waits = waits.map(|(setting, wait)| (setting, micros(wait)));
        for (setting, value) in self.shared().into_iter().chain(waits) {
            if value > LARGEST {
                let problem = match setting {
                    "max_bytes" | "overflow" | "entry_overhead" => {
                        format!("{value} is more than 2^51 bytes")
                    }
                    _ => "is more than 71 years".into(),
                };
                return Err(OpenError::setting(setting, problem));
            }
        }
        for (setting, is_zero) in [
            ("max_bytes", self.max_bytes == 0),
            ("ttl", self.ttl.as_micros() == 0),
            ("overflow", self.overflow.is_some_and(|(bytes, _)| bytes == 0)),
            ("overflow ttl", self.overflow.is_some_and(|(_, ttl)| micros(ttl) == 0)),
            ("max_bytes_per_owner", self.max_bytes_per_owner == Some(0)),
            ("lease", self.lease.as_micros() == 0),
            ("beat", self.beat.is_zero()),
            ("patience", self.patience.is_zero()),
            ("response_timeout", self.response_timeout.is_zero()),
        ] {
            if is_zero {
                return Err(OpenError::setting(setting, "must not be zero"));
            }
        }
        if let Some((_, ttl)) = self.overflow.filter(|&(_, ttl)| ttl > self.ttl) {
            let problem = format!("{ttl:?} is longer than the stash's ttl, {:?}", self.ttl);
            return Err(OpenError::setting("overflow ttl", problem));
        }
        let (overhead, limit) = (self.entry_overhead, self.max_bytes);
        if overhead > limit {
            let problem = format!("{overhead} is more than max_bytes, {limit}");
            return Err(OpenError::setting("entry_overhead", problem));
        }
        if let Some(bytes) = self.max_bytes_per_owner.filter(|&bytes| bytes < overhead) {
            let problem = format!("{bytes} is less than entry_overhead, {overhead}");
            return Err(OpenError::setting("max_bytes_per_owner", problem));
        }
        if self.beat > self.lease / 2 {
            return Err(OpenError::setting("beat", "must be at most half of the lease"));
        }
        if self.grace > self.lease {
            return Err(OpenError::setting("grace", "must be at most the lease"));
        }
        if self.durability == Durability::Replicas(0) {
            return Err(OpenError::setting("durability", "must be at least one replica"));
        }
        Ok(())
    }
}

/// Notifications need RESP3: they come over the connection that carries the steps.
fn resp3(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    info.set_redis_settings(settings)
}

pub(crate) fn parse(url: &str) -> Result<ConnectionInfo, OpenError> {
    url.into_connection_info()
        .map(resp3)
        // Without the URL, which may have a password in it.
        .map_err(|error| OpenError::setting("url", error.to_string()))
}

impl Endpoint {
    /// Where to connect, in the order to try. `redirect`: where a cluster said that the slot is.
    pub(crate) async fn resolve(
        &self,
        redirect: Option<(String, u16)>,
        timeout: Duration,
    ) -> Result<Vec<ConnectionInfo>, String> {
        match self {
            Self::Nodes(nodes) => {
                let mut found = Vec::new();
                if let Some((host, port)) = redirect {
                    found.push(nodes[0].clone().set_addr(ConnectionAddr::Tcp(host, port)));
                }
                found.extend(nodes.iter().cloned());
                Ok(found)
            }
            Self::Sentinel { sentinels, master, node } => {
                let mut why = String::from("no sentinel is configured");
                for sentinel in sentinels {
                    match ask_sentinel(sentinel, master, timeout).await {
                        Ok((host, port)) => {
                            return Ok(vec![
                                node.as_ref().clone().set_addr(ConnectionAddr::Tcp(host, port)),
                            ]);
                        }
                        Err(error) => why = error,
                    }
                }
                Err(why)
            }
        }
    }
}

async fn ask_sentinel(
    sentinel: &ConnectionInfo,
    master: &str,
    timeout: Duration,
) -> Result<(String, u16), String> {
    let ask = async {
        let client = Client::open(sentinel.clone())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(master)
            .query_async::<Option<(String, u16)>>(&mut connection)
            .await
    };
    match tokio::time::timeout(timeout, ask).await {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) => Err(format!("the sentinel does not know the master {master}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the sentinel did not answer".into()),
    }
}
