//! The warehouse: runs statements on SQLite, on threads that may block.
//!
//! It counts what it ran, so that a test can check that no query ran twice.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::ArrowError;
use rusqlite::{Connection, OpenFlags, Rows, ToSql};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::catalog::{Bindings, Column, Query};
use crate::estimate;

/// A query with its values, submitted under an id.
#[derive(Debug, Clone)]
pub struct Statement {
    pub id: Uuid,
    pub query: &'static Query,
    bindings: Bindings,
}

impl Statement {
    pub fn new(query: &'static Query, bindings: Bindings) -> Self {
        Statement { id: Uuid::new_v4(), query, bindings }
    }
}

/// Why a statement failed. It is logged, and not sent to clients.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("arrow: {0}")]
    Arrow(#[from] ArrowError),
    #[error("a column holds a value of a type its query does not declare")]
    UnexpectedType,
    #[error("the thread that ran the statement panicked")]
    Panicked,
}

/// What the warehouse ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Executions {
    /// Executions of any statement.
    pub total: u64,
    /// How many statements they belong to. Zero unless the warehouse audits.
    pub statements: u64,
    /// The executions of the statement that was executed most. Zero unless the warehouse audits.
    pub most: u64,
}

/// A handle on the database; clones share connections and counters.
#[derive(Debug, Clone)]
pub struct Warehouse {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    idle: Mutex<Vec<Connection>>,
    /// One permit for each connection.
    free: Arc<Semaphore>,
    /// How many orders there are. The database is read-only.
    orders: u64,
    executed: AtomicU64,
    audit: Option<Mutex<HashMap<Uuid, u64>>>,
}

impl Warehouse {
    /// Opens `connections` read-only connections to the database at `path`.
    pub fn open(path: &Path, connections: usize, audit: bool) -> rusqlite::Result<Self> {
        let idle = (0..connections).map(|_| open_read_only(path)).collect::<Result<_, _>>()?;
        let orders = open_read_only(path)?
            .query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, i64>(0))?
            .unsigned_abs();
        Ok(Warehouse {
            shared: Arc::new(Shared {
                idle: Mutex::new(idle),
                free: Arc::new(Semaphore::new(connections)),
                orders,
                executed: AtomicU64::new(0),
                audit: audit.then(Mutex::default),
            }),
        })
    }

    /// Runs `statement` on a thread that may block, and hands its rows to `encode` there. When the
    /// future is dropped while it waits for a connection, the statement is not run.
    pub async fn execute<T, F>(&self, statement: &Statement, encode: F) -> Result<T, ExecutionError>
    where
        T: Send + 'static,
        F: FnOnce(&'static [Column], Rows<'_>) -> Result<T, ExecutionError> + Send + 'static,
    {
        let lease = Lease::take(&self.shared).await;
        let statement = statement.clone();
        tokio::task::spawn_blocking(move || lease.run(&statement, encode))
            .await
            .map_err(|_| ExecutionError::Panicked)?
    }

    /// How large the result of `statement` will probably be.
    pub fn likely_bytes(&self, statement: &Statement) -> u64 {
        estimate::likely_bytes(statement.query, &statement.bindings, self.shared.orders)
    }

    pub fn executions(&self) -> Executions {
        let mut executions = Executions {
            total: self.shared.executed.load(Ordering::Relaxed),
            ..Executions::default()
        };
        if let Some(audit) = &self.shared.audit {
            let audit = audit.lock().unwrap_or_else(PoisonError::into_inner);
            executions.statements = audit.len() as u64;
            executions.most = audit.values().copied().max().unwrap_or(0);
        }
        executions
    }
}

/// Opens the database so that nothing can be written through the connection.
pub fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
}

/// Lends a connection. Returns it when dropped, also when the statement panics.
struct Lease {
    shared: Arc<Shared>,
    connection: Option<Connection>,
    /// Given up after the connection is back: fields are dropped after `drop` has run.
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    async fn take(shared: &Arc<Shared>) -> Self {
        let permit =
            Arc::clone(&shared.free).acquire_owned().await.expect("the semaphore is never closed");
        let connection = shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Lease { shared: Arc::clone(shared), connection, _permit: permit }
    }

    fn run<T>(
        &self,
        statement: &Statement,
        encode: impl FnOnce(&'static [Column], Rows<'_>) -> Result<T, ExecutionError>,
    ) -> Result<T, ExecutionError> {
        let connection = self.connection.as_ref().expect("a permit stands for a connection");
        self.shared.count(statement.id);
        let mut prepared = connection.prepare_cached(statement.query.sql)?;
        let bindings: Vec<(&str, &dyn ToSql)> =
            statement.bindings.iter().map(|(name, value)| (*name, value as &dyn ToSql)).collect();
        encode(statement.query.columns, prepared.query(bindings.as_slice())?)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = self.connection.take();
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(connection);
    }
}

impl Shared {
    fn count(&self, statement: Uuid) {
        self.executed.fetch_add(1, Ordering::Relaxed);
        if let Some(audit) = &self.audit {
            *audit.lock().unwrap_or_else(PoisonError::into_inner).entry(statement).or_default() +=
                1;
        }
    }
}
