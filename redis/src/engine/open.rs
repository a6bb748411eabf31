//! Connects, opens the stash, and begins or continues the session.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::RedisError;
use tokio::time::{Instant, sleep, timeout_at};

use super::{BACKOFF, Engine, LEAST_QUERY_BUFFER, Slot, StepError};
use crate::config::Persistence;
use crate::error::OpenError;
use crate::library::Mode;
use crate::link::{Link, connect};
use crate::reply::text;

impl Engine {
    /// The link, made anew if it is broken.
    pub(crate) async fn link(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Link>, StepError> {
        let attempt = async {
            let mut slot = self.slot.lock().await;
            loop {
                if let Some(link) = &slot.link
                    && !link.is_broken()
                {
                    return Arc::clone(link);
                }
                match self.connect(&mut slot).await {
                    Ok(link) => return link,
                    Err(error) => {
                        self.note_error(error);
                        sleep(BACKOFF).await;
                    }
                }
            }
        };
        timeout_at(deadline, attempt).await.map_err(|_| StepError::Unreachable)
    }

    /// Connects and greets. On an error nothing but the generation has changed.
    async fn connect(self: &Arc<Self>, slot: &mut Slot) -> Result<Arc<Link>, OpenError> {
        let endpoint = self.config.endpoint.as_ref().expect("checked when it was opened");
        let redirect = slot.redirect.take();
        let nodes = endpoint
            .resolve(redirect, self.config.response_timeout)
            .await
            .map_err(OpenError::Unreachable)?;
        let mut why = OpenError::Unreachable("no node is configured".into());
        for node in &nodes {
            match self.greet(slot, node).await {
                Ok(link) => return Ok(link),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    async fn greet(
        self: &Arc<Self>,
        slot: &mut Slot,
        node: &redis::ConnectionInfo,
    ) -> Result<Arc<Link>, OpenError> {
        let (mut connection, pushes) = connect(node, self).await.map_err(open_error)?;
        if slot.session.has_ended() {
            slot.succeed();
        }
        loop {
            let session = Arc::clone(&slot.session);
            // Subscribes before `hello`: a session without a listener is suspected of being dead.
            let channels =
                [format!("{}n:{}", self.prefix, session.id), format!("{}all", self.prefix)];
            let subscribed = connection.subscribe(&channels).await;
            subscribed.map_err(open_error)?;
            slot.generation += 1;
            let generation = slot.generation.to_string();
            let fresh = if slot.greeted { "0" } else { "1" };
            let args: [&[u8]; 3] = [session.id.as_bytes(), generation.as_bytes(), fresh.as_bytes()];
            let hello = self.call_loaded(&mut connection, "hello", &args).await;
            let reply = match hello {
                Ok(reply) => reply,
                Err(error) => {
                    if let Some(node) = redirect(&error) {
                        slot.redirect = Some(node);
                    }
                    return Err(open_error(error));
                }
            };
            match reply.status() {
                b"OK" => {
                    slot.greeted = true;
                    if let Some(overhead) = reply.number(4) {
                        // ORDERING: Relaxed. A number alone, the same from every link.
                        self.overhead.store(overhead as u32, Ordering::Relaxed);
                    }
                    let link = Arc::new(Link::new(connection, slot.generation, session));
                    slot.link = Some(Arc::clone(&link));
                    link.listen(self, pushes);
                    // Requests that were granted while the session had no listener.
                    link.session.wake_all();
                    self.tick_soon();
                    return Ok(link);
                }
                b"STALE" => {}
                b"GONE" => {
                    session.end();
                    slot.succeed();
                }
                // The engine has lost everything, or the stash was never there.
                b"EMPTY" => {
                    if slot.greeted {
                        session.end();
                        slot.succeed();
                    }
                    self.open_stash(&mut connection).await?;
                }
                other => return Err(OpenError::Engine(text(other))),
            }
        }
    }

    /// Makes the stash, or checks that the one that exists has the same settings.
    async fn open_stash(
        &self,
        connection: &mut redis::aio::MultiplexedConnection,
    ) -> Result<(), OpenError> {
        let shared = self.config.shared();
        let values: Vec<String> = shared.iter().map(|(_, value)| value.to_string()).collect();
        let args: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
        let reply = self.call_loaded(connection, "open", &args).await.map_err(open_error)?;
        let there = reply.numbers(1);
        for (&(setting, here), &there) in shared.iter().zip(&there) {
            if here != there {
                return Err(OpenError::Differs { setting, here, there });
            }
        }
        if there.len() == shared.len() {
            Ok(())
        } else {
            Err(OpenError::Engine("open: an unknown reply".into()))
        }
    }

    /// The first connection: everything that can be wrong with an engine is said here.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<(), OpenError> {
        let endpoint = self.config.endpoint.as_ref().expect("checked before");
        let deadline = self.deadline();
        let silent = || Err(OpenError::Unreachable("it does not answer".into()));
        loop {
            let mut slot = self.slot.lock().await;
            let attempt = async {
                let redirect = slot.redirect.take();
                let timeout = self.config.response_timeout;
                let nodes =
                    endpoint.resolve(redirect, timeout).await.map_err(OpenError::Unreachable)?;
                let mut why = OpenError::Unreachable("no node is configured".into());
                for node in &nodes {
                    match self.open_at(&mut slot, node).await {
                        Err(error @ OpenError::Unreachable(_)) => why = error,
                        other => return other,
                    }
                }
                Err(why)
            };
            // An attempt can last for as long as the response timeout.
            let result = timeout_at(deadline, attempt).await.unwrap_or_else(|_| silent());
            let result = match result {
                // Nothing was opened yet.
                Ok(()) if slot.redirect.is_some() => {
                    Err(OpenError::Unreachable("a node redirects to another".into()))
                }
                result => result,
            };
            let again = matches!(result, Err(OpenError::Unreachable(_)));
            drop(slot);
            if !again || Instant::now() > deadline {
                return result;
            }
            sleep(BACKOFF).await;
        }
    }

    async fn open_at(
        self: &Arc<Self>,
        slot: &mut Slot,
        node: &redis::ConnectionInfo,
    ) -> Result<(), OpenError> {
        let (mut connection, _) = connect(node, self).await.map_err(open_error)?;
        let info: String =
            redis::cmd("INFO").query_async(&mut connection).await.map_err(open_error)?;
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let version = field("redis_version").unwrap_or("unknown");
        let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
        if major.is_none_or(|major| major < 7) {
            return Err(OpenError::TooOld(version.into()));
        }
        if let Some(policy) = field("maxmemory_policy")
            && policy != "noeviction"
        {
            return Err(OpenError::Evicts(policy.into()));
        }
        self.read_settings(&mut connection).await?;
        if !self.config.functions {
            *self.mode.lock().unwrap() = Mode::Scripts(Default::default());
        }
        if let Err(error) = self.load(&mut connection).await {
            if error.code() != Some("NOPERM") {
                return Err(open_error(error));
            }
            *self.mode.lock().unwrap() = Mode::Scripts(Default::default());
            self.load(&mut connection).await.map_err(open_error)?;
        }
        match self.open_stash(&mut connection).await {
            Err(error @ OpenError::Engine(_)) => {
                // A cluster says where the stash is; `greet` goes there.
                match self.greet(slot, node).await {
                    Err(_) if slot.redirect.is_some() => Ok(()),
                    Err(_) => Err(error),
                    Ok(_) => Ok(()),
                }
            }
            Err(error) => Err(error),
            Ok(()) => self.greet(slot, node).await.map(drop),
        }
    }

    /// Reads what the engine keeps through a crash, and whether it takes a chunk. Managed engines may not say.
    async fn read_settings(
        &self,
        connection: &mut redis::aio::MultiplexedConnection,
    ) -> Result<(), OpenError> {
        let mut get = redis::cmd("CONFIG");
        get.arg(&["GET", "appendonly", "appendfsync", "client-query-buffer-limit"]);
        let Ok(settings) = get.query_async::<HashMap<String, String>>(connection).await else {
            return Ok(());
        };
        let setting = |name: &str| settings.get(name).map_or("", String::as_str);
        *self.persistence.lock().unwrap() =
            Persistence::of(setting("appendonly"), setting("appendfsync"));
        let limit = setting("client-query-buffer-limit").parse().unwrap_or(u64::MAX);
        if limit < LEAST_QUERY_BUFFER {
            return Err(OpenError::Engine(format!(
                "client-query-buffer-limit is {limit}; payloads need {LEAST_QUERY_BUFFER}"
            )));
        }
        Ok(())
    }

    pub(crate) fn persistence(&self) -> Persistence {
        *self.persistence.lock().unwrap()
    }
}

/// Returns the host and the port of the node that the engine redirects to.
pub(crate) fn redirect(error: &RedisError) -> Option<(String, u16)> {
    // The client's second value is the slot.
    let (address, _slot) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    // Without a host, the node does not know its own.
    (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
}

pub(crate) fn open_error(error: RedisError) -> OpenError {
    let why = error.to_string();
    match error.code() {
        Some("WRONGPASS" | "NOAUTH") => OpenError::NotAuthenticated(why),
        Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "READONLY") => {
            OpenError::Unreachable(why)
        }
        // Before Redis 6: no HELLO, and so no RESP3.
        _ if error.kind() == redis::ErrorKind::RESP3NotSupported => {
            OpenError::TooOld("below 6".into())
        }
        _ if error.kind() == redis::ErrorKind::AuthenticationFailed => {
            OpenError::NotAuthenticated(why)
        }
        Some(_) => OpenError::Engine(why),
        None => OpenError::Unreachable(why),
    }
}
