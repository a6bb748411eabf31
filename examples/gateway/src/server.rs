//! Binding, serving and stopping.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::config::Config;
use crate::connections::{self, Limits};
use crate::routes;

/// A gateway that is serving.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// Whether every request in flight ended within the grace period.
    pub complete: bool,
    /// Results that no client fetched in time. They are lost.
    pub lost: usize,
}

impl Server {
    /// Serves on the loopback interface only: the proxy in front names the user. Port 0 picks a free one.
    pub async fn start(config: Config, port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("cannot listen on port {port}"))?;
        let address = listener.local_addr()?;
        let limits =
            Limits { connections: config.max_connections, header_timeout: config.header_timeout };
        let app = App::start(config).await?;
        let router = routes::router(Arc::clone(&app));
        let serving = connections::serve(listener, router, limits, app.stop().clone());
        let serving = tokio::spawn(serving);
        Ok(Server { app, address, serving })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Refuses new and waiting queries. Stored results can be fetched for at most the drain period. Then it
    /// stops accepting, and requests in flight may take the grace period to end. Results that are left are
    /// lost, and counted in the outcome.
    pub async fn shutdown(self) -> anyhow::Result<Shutdown> {
        let (inline, config) = (self.app.inline(), self.app.config());
        self.app.close();
        let usage = inline.usage();
        tracing::info!(results = usage.entries, bytes = usage.used_bytes, "draining");
        let drained = tokio::time::timeout(config.drain, inline.drained()).await.is_ok();
        self.app.stop().cancel();
        let complete = match tokio::time::timeout(config.grace, self.serving).await {
            Ok(served) => {
                served?;
                true
            }
            Err(_elapsed) => false,
        };
        let bytes = inline.usage().used_bytes;
        let lost = inline.end().await;
        if lost > 0 {
            tracing::warn!(lost, bytes, drained, "results were not fetched in time");
        }
        Ok(Shutdown { complete, lost })
    }
}
