//! A connection to the engine, of one generation of one session.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use cloakroom::Event;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, PushInfo, PushKind, RedisError, Value};
use tokio::sync::mpsc;

use crate::engine::Engine;
use crate::session::{Hint, Session};

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: MultiplexedConnection,
    /// Counted up with every connection of the session. The engine refuses older ones.
    pub(crate) generation: u32,
    pub(crate) session: Arc<Session>,
    /// Shared with its listener, which must not keep the connection open.
    broken: Arc<AtomicBool>,
}

impl Link {
    pub(crate) fn new(
        connection: MultiplexedConnection,
        generation: u32,
        session: Arc<Session>,
    ) -> Self {
        Self { connection, generation, session, broken: Arc::default() }
    }

    pub(crate) fn is_broken(&self) -> bool {
        // ORDERING: Relaxed. A flag alone; a link that is used although it is broken fails, or is fenced off.
        self.broken.load(Ordering::Relaxed) || self.session.has_ended()
    }

    pub(crate) fn set_broken(&self) {
        // ORDERING: Relaxed, as above.
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Forwards the notifications of the link until it ends.
    pub(crate) fn listen(&self, engine: &Arc<Engine>, pushes: Pushes) {
        let (session, broken) = (Arc::clone(&self.session), Arc::clone(&self.broken));
        tokio::spawn(listen(Arc::downgrade(engine), session, broken, pushes));
    }
}

pub(crate) type Pushes = mpsc::UnboundedReceiver<PushInfo>;

/// Connects. Notifications use the same connection, so its end is the end of the listener.
pub(crate) async fn connect(
    info: &ConnectionInfo,
    engine: &Engine,
) -> Result<(MultiplexedConnection, Pushes), RedisError> {
    let (sender, pushes) = mpsc::unbounded_channel();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(engine.config.response_timeout))
        .set_response_timeout(Some(engine.config.response_timeout))
        .set_push_sender(sender);
    let client = Client::open(info.clone())?;
    Ok((client.get_multiplexed_async_connection_with_config(&config).await?, pushes))
}

async fn listen(
    engine: Weak<Engine>,
    session: Arc<Session>,
    broken: Arc<AtomicBool>,
    mut pushes: Pushes,
) {
    while let Some(push) = pushes.recv().await {
        match push.kind {
            PushKind::Message => {
                let [_, Value::BulkString(message)] = &push.data[..] else { continue };
                match message.split_first() {
                    Some((b'g', id)) => session.wake(id, Hint::Granted),
                    Some((b'e', id)) => session.wake(id, Hint::Ask),
                    Some((kind @ (b'x' | b'c'), text)) => {
                        if let (Some(engine), Some(event)) =
                            (engine.upgrade(), removed(*kind, text))
                        {
                            engine.observe(event);
                        }
                    }
                    Some((b't', _)) => {
                        engine.upgrade().into_iter().for_each(|engine| engine.tick_soon())
                    }
                    Some((b'd', _)) => {
                        engine
                            .upgrade()
                            .into_iter()
                            .for_each(|engine| engine.drained.notify_waiters());
                    }
                    _ => {}
                }
            }
            PushKind::Disconnection => break,
            _ => {}
        }
    }
    // ORDERING: Relaxed, as in `is_broken`.
    broken.store(true, Ordering::Relaxed);
    if let Some(engine) = engine.upgrade() {
        engine.poke.notify_one();
    }
}

/// Reads what the engine says of the entries that a step has removed: their number and their bytes.
fn removed(kind: u8, text: &[u8]) -> Option<Event> {
    let (entries, bytes) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let (entries, bytes) = (entries.parse().ok()?, bytes.parse().ok()?);
    Some(match kind {
        b'x' => Event::Expired { entries, bytes },
        _ => Event::Cleared { entries, bytes },
    })
}
