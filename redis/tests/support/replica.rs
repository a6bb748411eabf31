//! Replicas: in this process, or in a process of their own that can be killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cloakroom_redis::{Builder, SharedStash};

pub(crate) type Replica = SharedStash<Vec<u8>, Arc<str>>;

pub(crate) const LEASE: Duration = Duration::from_millis(1_500);
/// Longer than `eventually` and `soon` wait: nothing is there because a lease has ended.
pub(crate) const LONG_LEASE: Duration = Duration::from_secs(60);
pub(crate) const GRACE: Duration = Duration::from_millis(200);
pub(crate) const BEAT: Duration = Duration::from_millis(200);

/// A stash of 100 bytes without overhead, with a short lease.
pub(crate) fn builder(url: &str, name: &str) -> Builder<Vec<u8>, Arc<str>> {
    SharedStash::builder()
        .url(url)
        .name(name)
        .max_bytes(100)
        .entry_overhead(0)
        .lease(LEASE)
        .grace(GRACE)
        .beat(BEAT)
        .patience(Duration::from_secs(5))
        .response_timeout(Duration::from_millis(500))
}

pub(crate) async fn replica(url: &str) -> Replica {
    replica_with(url, LEASE).await
}

pub(crate) async fn replica_with(url: &str, lease: Duration) -> Replica {
    builder(url, "faults").lease(lease).open().await.unwrap()
}

pub(crate) fn alice() -> Arc<str> {
    "alice".into()
}

/// A replica in a process of its own: this test binary again, which runs the test `child` with a role.
pub(crate) struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

pub(crate) const ROLE: &str = "CLOAKROOM_TEST_ROLE";
pub(crate) const URL: &str = "CLOAKROOM_TEST_URL";
pub(crate) const LEASE_SECONDS: &str = "CLOAKROOM_TEST_LEASE";

impl Process {
    pub(crate) fn start(role: &str, url: &str, lease: Duration) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(URL, url)
            .env(LEASE_SECONDS, lease.as_secs_f64().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads on until the child says something that begins with `what`, and returns the rest of the line.
    pub(crate) fn expect(&mut self, what: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the child ended before {what}");
            // The test harness writes before it on the same line.
            if let Some(at) = line.find(what) {
                return line[at + what.len()..].trim().to_owned();
            }
        }
    }

    pub(crate) fn say(&mut self, what: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what}").unwrap();
    }

    /// With SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
