//! The heart: steps with retries, over links that break.
//!
//! A step is sent until its outcome is known. Three rules make that safe:
//!
//! - a new link announces its generation before anything is sent over it, so a try that an older link still
//!   delivers is refused (`STALE`), and so is never executed after its retry;
//! - a retry says that it is one, and the engine then looks for what the first try did;
//! - a step of a session that has ended is refused (`GONE`). If an earlier try of it may have been executed, the
//!   outcome is not known, and the operation ends as `Lost`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::{Event, Failure, Numbers, Refusal};
use redis::{RedisError, Value};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::{Config, Durability, Persistence};
use crate::error::OpenError;
use crate::library::Mode;
use crate::link::{Link, connect};
use crate::owner::Id;
use crate::reply::{Reply, text};
use crate::session::{Note, Session};

/// How long to leave an engine alone that cannot serve: it fails over, loads, moves a slot.
const BACKOFF: Duration = Duration::from_millis(20);

/// What a client's buffer on the engine must hold: a chunk, and the command around it.
const LEAST_QUERY_BUFFER: u64 = 2 << 20;

pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) prefix: String,
    mode: Mutex<Mode>,
    slot: tokio::sync::Mutex<Slot>,
    /// Wakes the keeper.
    pub(crate) poke: Notify,
    pub(crate) drained: Notify,
    pub(crate) shutdown: Notify,
    tick_at: Mutex<Option<Instant>>,
    flush_at: Mutex<Option<Instant>>,
    /// How many requests waited, of all replicas, when the engine answered last.
    waiting: AtomicUsize,
    overhead: AtomicU32,
    last_error: Mutex<Option<String>>,
    /// As the engine said when the stash was opened.
    persistence: Mutex<Persistence>,
}

/// What a new link is made of.
struct Slot {
    link: Option<Arc<Link>>,
    session: Arc<Session>,
    /// Whether the engine has heard of the session.
    greeted: bool,
    generation: u32,
    redirect: Option<(String, u16)>,
}

impl Slot {
    /// A new session, that the engine has not heard of.
    fn succeed(&mut self) {
        self.session = Arc::new(self.session.successor());
        (self.greeted, self.generation) = (false, 0);
    }
}

/// Why a step has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepError {
    /// The session ended; the step may have been executed before.
    Lost,
    /// No answer within the patience; the step may have been executed.
    Unreachable,
    /// The engine has no memory; the step was not executed.
    OutOfMemory,
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Lost => Self::Lost,
            StepError::Unreachable => Self::Unreachable,
            StepError::OutOfMemory => Self::OutOfMemory,
        }
    }
}

/// What to do after an error of one try.
enum After {
    /// The engine did not execute the step, and can on another try.
    Again,
    /// As `Again`, over another link.
    Reconnect,
    /// It may have executed the step.
    Unsure,
    OutOfMemory,
}

/// A step and what is known of it.
pub(crate) struct Step<'a> {
    pub(crate) name: &'static str,
    pub(crate) args: &'a [&'a [u8]],
    /// What the reply must name: the connection has not mixed up replies.
    pub(crate) id: &'a [u8],
    /// Only in this session.
    pub(crate) session: Option<&'a Arc<Session>>,
    /// Whether an earlier try may have been executed.
    pub(crate) again: bool,
    /// Whether the outcome must have reached the engine's replicas.
    pub(crate) durable: bool,
}

impl<'a> Step<'a> {
    pub(crate) fn new(name: &'static str, args: &'a [&'a [u8]]) -> Self {
        Self { name, args, id: name.as_bytes(), session: None, again: false, durable: false }
    }
}

impl Engine {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            prefix: config.prefix(),
            mode: Mutex::new(Mode::Functions),
            slot: tokio::sync::Mutex::new(Slot {
                link: None,
                session: Arc::new(Session::new()),
                greeted: false,
                generation: 0,
                redirect: None,
            }),
            poke: Notify::new(),
            drained: Notify::new(),
            shutdown: Notify::new(),
            tick_at: Mutex::new(None),
            flush_at: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            overhead: AtomicU32::new(0),
            last_error: Mutex::new(None),
            persistence: Mutex::default(),
            config,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.patience
    }

    pub(crate) fn observe(&self, event: Event) {
        if let Some(observer) = &self.config.observer {
            // As in the library: a panic of an observer does not reach anybody else.
            let _ =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.event(event)));
        }
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap().clone()
    }

    pub(crate) fn note_error(&self, error: impl ToString) {
        *self.last_error.lock().unwrap() = Some(error.to_string());
    }

    // ---- Links ----------------------------------------------------------------------------------------

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
            // First the ears, then the greeting: a session without a listener is taken for dead.
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
                    if let Some((host, port)) = error.redirect_node() {
                        slot.redirect = Some((host.to_owned(), port));
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
                    // What was granted while nobody listened.
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
        loop {
            let mut slot = self.slot.lock().await;
            let result = async {
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
            let result = result.await;
            let again = slot.redirect.is_some() || matches!(result, Err(OpenError::Unreachable(_)));
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
            *self.mode.lock().unwrap() = Mode::Script(String::new());
        }
        if let Err(error) = self.load(&mut connection).await {
            if error.code() != Some("NOPERM") {
                return Err(open_error(error));
            }
            *self.mode.lock().unwrap() = Mode::Script(String::new());
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

    // ---- Calls ----------------------------------------------------------------------------------------

    fn mode(&self) -> Mode {
        self.mode.lock().unwrap().clone()
    }

    async fn load(
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
            Mode::Script(_) => {
                let source = library.script();
                let sha: String =
                    redis::cmd("SCRIPT").arg(&["LOAD", &source]).query_async(connection).await?;
                *self.mode.lock().unwrap() = Mode::Script(sha);
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
    async fn call_loaded(
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
                    && let Some((host, port)) = error.redirect_node()
                    && let Ok(mut slot) = self.slot.try_lock()
                {
                    slot.redirect = Some((host.to_owned(), port));
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

    // ---- Notes and ticks --------------------------------------------------------------------------------

    /// Leaves a note, which goes out with the next step, or by itself a moment later.
    pub(crate) fn note(&self, session: &Arc<Session>, note: Note, id: &Id) {
        session.push_note(note, id);
        // ORDERING: Relaxed. A hint for when to flush.
        let waiting = self.waiting.load(Ordering::Relaxed) > 0 || note != Note::Finished;
        let at = Instant::now() + if waiting { Duration::ZERO } else { Duration::from_millis(1) };
        // The keeper sleeps until the flush that is due already.
        if earlier(&mut self.flush_at.lock().unwrap(), at) {
            self.poke.notify_one();
        }
    }

    /// Undoes a request of a session that may have ended.
    pub(crate) async fn undo(self: &Arc<Self>, session: &Arc<Session>, id: &Id) {
        if session.has_ended() {
            let current = Arc::clone(&self.slot.lock().await.session);
            self.note(&current, Note::Undo, id);
        } else {
            self.note(session, Note::Undo, id);
        }
    }

    /// Sends all notes, as far as the engine can be reached.
    pub(crate) async fn flush(self: &Arc<Self>) -> Result<(), StepError> {
        let deadline = self.deadline();
        loop {
            let link = self.link(deadline).await?;
            if !link.session.has_notes() {
                return Ok(());
            }
            self.step(Step::new("note", &[]), deadline).await?;
        }
    }

    pub(crate) fn tick_soon(&self) {
        self.tick_at(Duration::ZERO);
    }

    pub(crate) fn tick_at(&self, from_now: Duration) {
        if earlier(&mut self.tick_at.lock().unwrap(), Instant::now() + from_now) {
            self.poke.notify_one();
        }
    }

    /// The next tick that is due, and the next flush.
    pub(crate) fn due(&self) -> (Option<Instant>, Option<Instant>) {
        (*self.tick_at.lock().unwrap(), *self.flush_at.lock().unwrap())
    }

    pub(crate) fn begin_tick(&self) {
        *self.tick_at.lock().unwrap() = None;
    }

    pub(crate) fn begin_flush(&self) {
        *self.flush_at.lock().unwrap() = None;
    }

    /// What a payload of this size is charged.
    pub(crate) fn charge(&self, bytes: u64) -> u64 {
        bytes.saturating_add(self.config.entry_overhead)
    }

    /// Tells the observer of a refusal, and returns it.
    pub(crate) fn refuse(
        &self,
        failure: Failure,
        bytes: u64,
        numbers: Numbers,
    ) -> (Failure, Numbers) {
        if let Failure::Refused(reason) = failure {
            self.observe(Event::Refused { reason, bytes: self.charge(bytes) });
        }
        (failure, numbers)
    }
}

/// Whether it is earlier than what was due.
fn earlier(slot: &mut Option<Instant>, at: Instant) -> bool {
    let is_earlier = slot.is_none_or(|was| at < was);
    if is_earlier {
        *slot = Some(at);
    }
    is_earlier
}

fn is_missing_library(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
        || error.detail().is_some_and(|detail| detail.contains("Function not found"))
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

/// The stash's answer to a request that it refused.
pub(crate) fn refusal(status: &[u8]) -> Option<Refusal> {
    Some(match status {
        b"FULL" => Refusal::Full,
        b"LARGE" => Refusal::TooLarge,
        b"CLOSED" => Refusal::Closed,
        b"OWNER" => Refusal::OwnerFull,
        b"QUEUE" => Refusal::QueueFull,
        b"LEFT" => Refusal::Cancelled,
        _ => return None,
    })
}
