//! Accepts connections, and bounds them.
//!
//! `axum::serve` has neither a bound on connections nor a limit on the time that a client takes to send a
//! request, so half-sent requests would stay open until the client ends them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What connections are limited to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How many may be open at the same time. More are left in the system's backlog.
    pub(crate) connections: usize,
    /// How long the head of a request may take, from its first byte or from the end of the request before
    /// it. A connection that exceeds it is closed.
    pub(crate) header_timeout: Duration,
}

/// The longest limit on a head: a moment much later is more than the system's clock can count.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Serves `router` until `stop` is cancelled, then waits until every request in flight has ended.
pub(crate) async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    // Detecting HTTP versions by the first bytes would be one more wait without a limit.
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    let header_timeout = limits.header_timeout.min(LONGEST);
    http.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    let free = Arc::new(Semaphore::new(limits.connections));
    let open = GracefulShutdown::new();
    let accept = async {
        loop {
            let free = Arc::clone(&free).acquire_owned().await.expect("it is never closed");
            let (stream, _) = Listener::accept(&mut listener).await;
            send_at_once(&stream);
            let service = TowerToHyperService::new(router.clone());
            let connection = http.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = open.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection broke");
                }
                drop(free);
            });
        }
    };
    stop.run_until_cancelled(accept).await;
    // New connections are refused from here on, instead of waiting in the backlog.
    drop(listener);
    open.shutdown().await;
}

/// Events are small, and are sent without waiting for more of them.
fn send_at_once(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection stays delayed");
    }
}
