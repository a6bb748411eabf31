//! Binding, serving and stopping.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::Config;
use crate::routes;

/// A gateway that is serving.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
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
        let app = App::start(config).await?;
        let stop = CancellationToken::new();
        let listener = listener.tap_io(|connection| {
            // Events are small and must not wait for more of them.
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "a connection stays delayed");
            }
        });
        let serving = axum::serve(listener, routes::router(Arc::clone(&app)))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let serving = tokio::spawn(serving.into_future());
        Ok(Server { app, address, stop, serving })
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
        self.stop.cancel();
        let complete = match tokio::time::timeout(config.grace, self.serving).await {
            Ok(served) => {
                served??;
                true
            }
            Err(_elapsed) => false,
        };
        let bytes = inline.usage().used_bytes;
        let lost = inline.clear();
        if lost > 0 {
            tracing::warn!(lost, bytes, drained, "results were not fetched in time");
        }
        Ok(Shutdown { complete, lost })
    }
}
