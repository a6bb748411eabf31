//! Calls steps, and repeats them until their outcome is known.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use redis::{RedisError, Value};
use tokio::time::{Instant, sleep};

use super::open::redirect;
use super::{After, BACKOFF, Engine, Step, StepError};
use crate::config::Durability;
use crate::library::Mode;
use crate::link::Link;
use crate::reply::Reply;
use crate::session::Session;

impl Engine {
    pub(super) fn mode(&self) -> Mode {
        self.mode.lock().unwrap().clone()
    }

    pub(super) async fn load(
        &self,
        connection: &mut redis::aio::MultiplexedConnection,
    ) -> Result<(), RedisError> {
        let library = &self.config.library;
        match self.mode() {
            Mode::Functions => {
                let source = library.functions();
                redis::cmd("FUNCTION")
                    .arg(&["LOAD", "REPLACE", &source])
                    .exec_async(connection)
                    .await
            }
            Mode::Scripts(mut shas) => {
                for (sha, source) in shas.iter_mut().zip(library.scripts()) {
                    let mut load = redis::cmd("SCRIPT");
                    *sha = load.arg(&["LOAD", &source]).query_async(connection).await?;
                }
                *self.mode.lock().unwrap() = Mode::Scripts(shas);
                Ok(())
            }
        }
    }

    async fn call(
        &self,
        connection: &mut redis::aio::MultiplexedConnection,
        step: &str,
        args: &[&[u8]],
    ) -> Result<Reply, RedisError> {
        let mut cmd = self.mode().command(&self.config.library, &self.prefix, step);
        for arg in args {
            cmd.arg(*arg);
        }
        cmd.query_async::<Value>(connection).await.map(Reply)
    }

    /// Calls a step, and loads the library if the engine does not have it: it was flushed, or this node of a
    /// cluster never had it.
    pub(super) async fn call_loaded(
        &self,
        connection: &mut redis::aio::MultiplexedConnection,
        step: &str,
        args: &[&[u8]],
    ) -> Result<Reply, RedisError> {
        match self.call(connection, step, args).await {
            Err(error) if is_missing_library(&error) => {
                self.load(connection).await?;
                self.call(connection, step, args).await
            }
            result => result,
        }
    }

    /// Runs a step until its outcome is known.
    pub(crate) async fn step(
        self: &Arc<Self>,
        mut step: Step<'_>,
        deadline: Instant,
    ) -> Result<(Reply, Arc<Link>), StepError> {
        let mut tried_in: Option<Arc<Session>> = step.session.cloned();
        loop {
            let link = self.link(deadline).await?;
            // What an earlier try did in a session that has ended is not known.
            let pinned = step.session.is_some() || step.again;
            if pinned && tried_in.as_ref().is_some_and(|was| !Arc::ptr_eq(was, &link.session)) {
                return Err(StepError::Lost);
            }
            tried_in = Some(Arc::clone(&link.session));
            // These write nothing, so they cannot act on notes.
            let notes = if matches!(step.name, "stats" | "owner") {
                Vec::new()
            } else {
                link.session.take_notes()
            };
            let result = self.try_once(&step, &link, &notes).await;
            let after = match result {
                Ok(reply) => match reply.status() {
                    b"GONE" | b"EMPTY" => {
                        link.session.return_notes(notes);
                        link.session.end();
                        After::Reconnect
                    }
                    b"STALE" => {
                        link.session.return_notes(notes);
                        After::Reconnect
                    }
                    b"AGAIN" => continue,
                    _ if reply.id() != step.id => {
                        self.note_error("the connection mixed up replies");
                        link.session.return_notes(notes);
                        After::Unsure
                    }
                    b"STORED" | b"OK"
                        if step.durable && !self.replicated(&link, deadline).await =>
                    {
                        if Instant::now() >= deadline {
                            return Err(StepError::Unreachable);
                        }
                        step.again = true;
                        continue;
                    }
                    _ => return Ok((reply, link)),
                },
                Err(error) => {
                    link.session.return_notes(notes);
                    self.after(&link, error).await
                }
            };
            match after {
                After::Again => sleep(BACKOFF).await,
                After::Reconnect => link.set_broken(),
                After::Unsure => {
                    link.set_broken();
                    step.again = true;
                }
                After::OutOfMemory => return Err(StepError::OutOfMemory),
            }
            if Instant::now() >= deadline {
                return Err(StepError::Unreachable);
            }
        }
    }

    async fn try_once(
        &self,
        step: &Step<'_>,
        link: &Link,
        notes: &[u8],
    ) -> Result<Reply, RedisError> {
        let generation = link.generation.to_string();
        let again: &[u8] = if step.again { b"1" } else { b"0" };
        let head = [link.session.id.as_bytes(), generation.as_bytes(), again, notes];
        let args: Vec<&[u8]> = head.into_iter().chain(step.args.iter().copied()).collect();
        let mut connection = link.connection.clone();
        let reply = self.call_loaded(&mut connection, step.name, &args).await?;
        self.heard(&reply);
        Ok(reply)
    }

    /// What every reply says besides its answer.
    fn heard(&self, reply: &Reply) {
        if let Some(waiting) = reply.number(3) {
            // ORDERING: Relaxed. A hint for when to flush, nothing hangs on it.
            self.waiting.store(waiting as usize, Ordering::Relaxed);
        }
        if reply.number(2) == Some(1) {
            self.tick_soon();
        }
    }

    async fn after(&self, link: &Link, error: RedisError) -> After {
        self.note_error(&error);
        match error.code() {
            Some("OOM") => return After::OutOfMemory,
            Some("MOVED" | "ASK" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN") => {
                if error.code() == Some("MOVED")
                    && let Some(node) = redirect(&error)
                    && let Ok(mut slot) = self.slot.try_lock()
                {
                    slot.redirect = Some(node);
                }
                link.set_broken();
                return After::Again;
            }
            Some("TRYAGAIN" | "LOADING" | "NOREPLICAS" | "BUSY") => return After::Again,
            // An error of the engine's that the step began with, or died of: it is repeated until the patience ends.
            Some(_) => sleep(BACKOFF).await,
            None => {}
        }
        After::Unsure
    }

    /// Whether what the link has written has reached as many replicas as it must.
    async fn replicated(&self, link: &Link, deadline: Instant) -> bool {
        let Durability::Replicas(count) = self.config.durability else { return true };
        // Shorter than the response timeout, which would take the link for broken.
        let patience = (self.config.response_timeout / 2).as_millis().max(1) as u64;
        while Instant::now() < deadline {
            let mut connection = link.connection.clone();
            let acknowledged = redis::cmd("WAIT")
                .arg(count)
                .arg(patience)
                .query_async::<u32>(&mut connection)
                .await;
            match acknowledged {
                Ok(acknowledged) if acknowledged >= count => return true,
                Ok(_) => self.note_error("too few replicas acknowledged"),
                Err(error) => {
                    self.note_error(error);
                    link.set_broken();
                    return false;
                }
            }
        }
        false
    }

    /// A plain command, which may be executed twice, in this session.
    pub(crate) async fn plain<T: redis::FromRedisValue>(
        self: &Arc<Self>,
        session: &Arc<Session>,
        cmd: &redis::Cmd,
        deadline: Instant,
    ) -> Result<T, StepError> {
        loop {
            let link = self.link(deadline).await?;
            if !Arc::ptr_eq(session, &link.session) {
                return Err(StepError::Lost);
            }
            let mut connection = link.connection.clone();
            let error = match cmd.query_async(&mut connection).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match self.after(&link, error).await {
                After::OutOfMemory => return Err(StepError::OutOfMemory),
                After::Again => sleep(BACKOFF).await,
                After::Reconnect | After::Unsure => link.set_broken(),
            }
            if Instant::now() >= deadline {
                return Err(StepError::Unreachable);
            }
        }
    }
}

fn is_missing_library(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
        || error.detail().is_some_and(|detail| detail.contains("Function not found"))
}
