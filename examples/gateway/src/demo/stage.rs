//! The state that the actors of a run share, and their records.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway::app::App;
use gateway::inline::Usage;
use gateway::metrics::Counter;
use gateway::server::Server;

use super::progress::Progress;

/// How long the gateway may take to notice that all clients have left.
const SETTLE: Duration = Duration::from_secs(5);

/// The clients' records.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Queries sent.
    pub(super) requests: Counter,
    pub(super) inline: Counter,
    pub(super) links: Counter,
    pub(super) rows: Counter,
    pub(super) exhausted: Counter,
    pub(super) too_large: Counter,
    /// Queries that were refused before there was an event stream, and so a statement.
    pub(super) at_the_door: Counter,
    /// Queries whose client disconnected before the answer.
    pub(super) hung_up: Counter,
    /// Results that were fetched, decoded and compared with the database.
    pub(super) checked: Counter,
    /// Attempts to take another owner's result that were refused as they should be.
    pub(super) intrusions: Counter,
    pub(super) lost: Counter,
    pub(super) wrong: Counter,
    problems: Mutex<Vec<String>>,
    statements: Mutex<HashSet<String>>,
}

impl Tally {
    pub(super) fn note_statement(&self, id: &str) {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }

    /// How many different statement ids the clients received.
    pub(super) fn statements(&self) -> u64 {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    pub(super) fn note_problem(&self, problem: String) {
        self.problems().push(problem);
    }

    pub(super) fn problems(&self) -> MutexGuard<'_, Vec<String>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One run: the gateway, and the records of its clients.
pub(super) struct Stage {
    pub(super) app: Arc<App>,
    pub(super) address: SocketAddr,
    pub(super) database: PathBuf,
    pub(super) tally: Tally,
    pub(super) progress: Progress,
    longest_line: AtomicUsize,
    /// The entries that were left when the last actor ended, before they expired.
    orphans: AtomicUsize,
}

impl Stage {
    pub(super) fn new(server: &Server, name: &'static str, total: u32) -> Self {
        Stage {
            app: Arc::clone(server.app()),
            address: server.address(),
            database: server.app().database(),
            tally: Tally::default(),
            progress: Progress::new(name, total),
            longest_line: AtomicUsize::new(0),
            orphans: AtomicUsize::new(0),
        }
    }

    /// Reads the stash, and records the longest wait queue that was seen.
    pub(super) fn look(&self) -> Usage {
        let usage = self.app.inline().usage();
        self.longest_line.fetch_max(usage.waiting, Ordering::Relaxed);
        usage
    }

    /// Polls until `condition` holds, for at most `patience`.
    pub(super) async fn until(
        &self,
        patience: Duration,
        condition: impl Fn(&Stage) -> bool,
    ) -> bool {
        let holds = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(patience, holds).await.is_ok()
    }

    /// A client that disconnected at the wrong moment may have left a result whose ticket it never received.
    /// It must expire by itself.
    pub(super) async fn wait_until_empty(&self) {
        let left = self.look();
        self.orphans.store(left.entries, Ordering::Relaxed);
        if left.entries > 0 {
            self.progress.say("waiting for unclaimed results to expire");
        }
        let expiry = if left.entries > 0 { self.app.config().ttl * 2 } else { Duration::ZERO };
        self.until(expiry + SETTLE, |stage| {
            let usage = stage.look();
            (usage.entries, usage.used_bytes, usage.waiting) == (0, 0, 0)
        })
        .await;
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.app.inline().usage().peak_bytes
    }

    pub(super) fn longest_line(&self) -> usize {
        self.longest_line.load(Ordering::Relaxed)
    }

    pub(super) fn orphans(&self) -> usize {
        self.orphans.load(Ordering::Relaxed)
    }
}
