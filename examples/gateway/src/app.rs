//! What all requests of one gateway share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::config::{Behaviour, Config, StashKind};
use crate::errors::{ApiError, Code};
use crate::external::ExternalResults;
use crate::inline::{CloakroomStore, GlueStore, InlineResults, InlineStore, SharedStore};
use crate::metrics::Metrics;
use crate::prometheus::Page;
use crate::routes;
use crate::sample;
use crate::warehouse::Warehouse;

/// One gateway: its warehouse, its results, its counters.
#[derive(Debug)]
pub struct App {
    config: Config,
    metrics: Arc<Metrics>,
    warehouse: Warehouse,
    inline: InlineResults,
    /// Only where the warehouse has external links.
    external: Option<Arc<ExternalResults>>,
    /// The script with which the page decodes Arrow streams, if there is one.
    apache_arrow: Option<Bytes>,
    /// Ends the accepting of connections, and event streams that have no end of their own.
    stop: CancellationToken,
    /// Database and result files. Last, so that they are deleted after their users are dropped.
    workspace: TempDir,
}

impl App {
    /// Fills the database and starts the tasks that expire results. Must be called inside a tokio
    /// runtime.
    pub async fn start(config: Config) -> anyhow::Result<Arc<Self>> {
        let apache_arrow =
            config.apache_arrow.as_deref().map(routes::read_apache_arrow).transpose()?;
        let workspace = tempfile::Builder::new().prefix("gateway-").tempdir()?;
        let database = database_in(workspace.path());
        let (rows, connections, audit) = (config.rows, config.connections, config.audit);
        let warehouse = tokio::task::spawn_blocking(move || {
            sample::fill(&mut Connection::open(&database)?, rows)?;
            Warehouse::open(&database, connections, audit)
        })
        .await?
        .context("the sample database could not be made")?;

        let metrics = Arc::new(Metrics::new());
        let inline = InlineResults::new(store(&config).await?, config.wait, Arc::clone(&metrics));
        let external = (config.behaviour == Behaviour::Classic)
            .then(|| ExternalResults::start(workspace.path(), config.link_ttl));
        let stop = CancellationToken::new();
        Ok(Arc::new(App {
            config,
            metrics,
            warehouse,
            inline,
            external,
            apache_arrow,
            stop,
            workspace,
        }))
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    pub fn inline(&self) -> &InlineResults {
        &self.inline
    }

    pub fn apache_arrow(&self) -> Option<&Bytes> {
        self.apache_arrow.as_ref()
    }

    /// Returns the database, to check the gateway's results against it.
    pub fn database(&self) -> PathBuf {
        database_in(self.workspace.path())
    }

    /// Returns the store for results that are sent as files, if the warehouse has external links.
    pub fn external(&self) -> Result<&Arc<ExternalResults>, ApiError> {
        self.external.as_ref().ok_or_else(|| {
            ApiError::new(Code::NotImplemented, "this warehouse does not implement EXTERNAL_LINKS")
        })
    }

    /// Writes the metrics for Prometheus.
    pub fn describe(&self) -> String {
        let mut page = Page::default();
        self.metrics.describe(&mut page);
        let executed = self.warehouse.executions().total;
        page.counter("gateway_executions_total", "Statements executed.", executed);
        self.inline.describe(&mut page);
        page.into_text()
    }

    /// Cancelled when the gateway stops accepting connections. Event streams without an end then end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Stops accepting queries, and refuses those that wait. Stored results can still be fetched, and running
    /// queries can store theirs.
    pub fn close(&self) {
        self.inline.close();
    }

    pub fn is_closing(&self) -> bool {
        self.inline.is_closed()
    }
}

async fn store(config: &Config) -> anyhow::Result<Box<dyn InlineStore>> {
    Ok(match config.stash {
        StashKind::Cloakroom => Box::new(CloakroomStore::start(config)?),
        StashKind::Glue => Box::new(GlueStore::start(config)?),
        StashKind::Shared => Box::new(SharedStore::open(config).await?),
    })
}

fn database_in(workspace: &Path) -> PathBuf {
    workspace.join("warehouse.sqlite")
}
