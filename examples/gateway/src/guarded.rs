//! A process that does not outlive its owner.

use std::ffi::OsStr;
use std::process::Stdio;

use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Starts the process and kills it, and no other, when its own input ends: also when the owner was killed.
const GUARD: &str = r#""$0" "$@" </dev/null & pid=$!; read _; kill -9 $pid; wait"#;

/// A process behind a shell that kills it when the owner asks for that, or is gone.
#[derive(Debug)]
pub struct Guarded {
    shell: Child,
    input: Option<ChildStdin>,
}

impl Guarded {
    /// A command that runs `program`, to be given arguments and to be spawned by [`spawn`](Self::spawn).
    pub fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", GUARD]).arg(program).stdin(Stdio::piped());
        command
    }

    pub fn spawn(mut command: Command) -> std::io::Result<Self> {
        let mut shell = command.spawn()?;
        let input = shell.stdin.take();
        Ok(Guarded { shell, input })
    }

    /// What the process writes, if its output is piped.
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.shell.stdout.take()
    }

    /// Kills the process with `kill -9`, and returns when it is gone.
    pub async fn kill(&mut self) {
        drop(self.input.take());
        let _ = self.shell.wait().await;
    }
}
