//! Holds what all operations of a replica share: settings, session, link to the engine, and the times of due work.
//!
//! `open.rs` connects and opens the stash. `step.rs` calls steps until their outcome is known. Three rules make the
//! retries safe:
//!
//! - a new link announces its generation before it sends anything else, so a try that an older link still delivers is
//!   refused (`STALE`), and is never executed after its retry;
//! - a retry says that it is one, and the engine then searches for what the first try did;
//! - a step of a session that has ended is refused (`GONE`). If an earlier try of it may have been executed, the
//!   outcome is not known, and the operation ends as `Lost`.

mod open;
mod step;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::{Event, Failure, Numbers, Refusal};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::config::{Config, Persistence};
use crate::library::Mode;
use crate::link::Link;
use crate::owner::Id;
use crate::session::{Note, Session};

/// How long to leave an engine alone that cannot serve: it fails over, loads, moves a slot.
const BACKOFF: Duration = Duration::from_millis(20);

/// What a client's buffer on the engine must hold: a chunk, and the command around it.
const LEAST_QUERY_BUFFER: u64 = 2 << 20;

/// How many claims, of at most 64 KiB each, and how many chunks of 1 MiB may be on their way: 20 MiB. The engine hangs up
/// on a connection with notifications when 32 MiB of replies wait to be read; and what takes longer than the response
/// timeout breaks a link, for all steps behind it.
const CLAIMS: usize = 256;
const CHUNKS: usize = 4;

pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) prefix: String,
    mode: Mutex<Mode>,
    slot: tokio::sync::Mutex<Slot>,
    /// Wakes the keeper.
    pub(crate) poke: Notify,
    pub(crate) drained: Notify,
    pub(crate) shutdown: Notify,
    pub(crate) claims: Semaphore,
    pub(crate) chunks: Semaphore,
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
        self.session = self.session.successor();
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
            claims: Semaphore::new(CLAIMS),
            chunks: Semaphore::new(CHUNKS),
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
            // As in the library: a panic of an observer stays with the observer.
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
        bytes.saturating_add(self.config.entry_overhead).max(1)
    }

    /// The largest payload that fits in a reservation of so many bytes.
    pub(crate) fn room_of(&self, bytes: u64) -> u64 {
        self.charge(bytes) - self.config.entry_overhead
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

/// The stash's answer to a request that it refused.
pub(crate) fn refusal(status: &[u8]) -> Option<Refusal> {
    Some(match status {
        b"FULL" => Refusal::Full,
        b"LARGE" => Refusal::TooLarge,
        b"CLOSED" => Refusal::Closed,
        b"OWNER" => Refusal::OwnerFull,
        b"QUEUE" => Refusal::QueueFull,
        b"TIMEOUT" => Refusal::TimedOut,
        b"CANCELLED" | b"LEFT" => Refusal::Cancelled,
        _ => return None,
    })
}
