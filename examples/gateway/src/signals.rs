//! When the process is asked to stop.

use std::io;

#[cfg(unix)]
mod platform {
    use super::io;
    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// Ctrl-C and SIGTERM.
    pub(crate) struct Stop {
        interrupt: Signal,
        terminate: Signal,
    }

    impl Stop {
        /// From here on the signals no longer end the process by themselves.
        pub(crate) fn listen() -> io::Result<Self> {
            Ok(Stop {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }

        pub(crate) async fn requested(mut self) {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        }
    }
}

#[cfg(not(unix))]
mod platform {
    use super::io;

    /// Ctrl-C.
    pub(crate) struct Stop(());

    impl Stop {
        pub(crate) fn listen() -> io::Result<Self> {
            Ok(Stop(()))
        }

        pub(crate) async fn requested(self) {
            if let Err(error) = tokio::signal::ctrl_c().await {
                tracing::error!(%error, "cannot listen for Ctrl-C");
                std::future::pending::<()>().await;
            }
        }
    }
}

pub(crate) use platform::Stop;
