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
    /// Every request in flight came to its end within the grace period.
    pub complete: bool,
    /// Results that nobody fetched in time, and that are lost now.
    pub lost: usize,
}

impl Server {
    /// Serves on the loopback interface only: who the user is, is what the proxy in front says. Port 0
    /// picks a free one.
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

    /// Refuses queries and answers those who wait for room; lets what has been stored be fetched, for at
    /// most the drain period; then stops accepting, and lets what is in flight end for at most the grace
    /// period. What is still there then is lost, and said to be.
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
