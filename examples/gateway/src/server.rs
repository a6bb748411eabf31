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
    /// Results nobody fetched.
    pub unclaimed: usize,
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

    /// Stops accepting, answers those who wait for room, and lets what is in flight end for at most
    /// the grace period.
    pub async fn shutdown(self) -> anyhow::Result<Shutdown> {
        self.stop.cancel();
        self.app.close();
        let complete = match tokio::time::timeout(self.app.config().grace, self.serving).await {
            Ok(served) => {
                served??;
                true
            }
            Err(_elapsed) => false,
        };
        Ok(Shutdown { complete, unclaimed: self.app.inline().usage().entries })
    }
}
