//! Real engines, on free ports and in folders of their own, that end with the test.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::{Client, Connection};

/// The engine's program: `CLOAKROOM_ENGINE`, or Redis as it is installed.
pub(crate) fn program() -> String {
    env::var("CLOAKROOM_ENGINE").unwrap_or_else(|_| "redis-server".into())
}

pub(crate) struct Server {
    /// A shell that kills the engine when its input ends: also when the test is killed.
    guard: Option<Child>,
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
    args: Vec<String>,
    password: Option<String>,
    config: Option<PathBuf>,
}

/// A port that was free a moment ago. Each is handed out once per process.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        // Below the range that connections take their own ports from; cluster nodes also use port + 10000.
        let step = NEXT.fetch_add(1, Ordering::Relaxed) + (std::process::id() as usize * 37);
        let port = 10_000 + (step % 10_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok()
            && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok()
        {
            return port;
        }
    }
}

/// Nothing is saved unless a test says so.
const ENGINE: &[&str] = &["--save", "", "--enable-debug-command", "yes"];

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(args: &[&str]) -> Self {
        Self::on(free_port(), args)
    }

    pub(crate) fn on(port: u16, args: &[&str]) -> Self {
        let dir = env::temp_dir().join(format!("cloakroom-redis-{}-{port}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let args: Vec<String> = args.iter().map(|&arg| arg.into()).collect();
        let password =
            args.iter().position(|arg| arg == "--requirepass").map(|at| args[at + 1].clone());
        let mut server = Self { guard: None, port, dir, args, password, config: None };
        server.boot();
        server
    }

    /// Starts the same program as a sentinel.
    pub(crate) fn sentinel(port: u16, config: &Path) -> Self {
        let dir = config.parent().unwrap().to_owned();
        let args = vec!["--sentinel".into()];
        let config = Some(config.to_owned());
        let mut server = Self { guard: None, port, dir, args, password: None, config };
        server.boot();
        server
    }

    /// Starts the engine's process, again after [`kill`](Self::kill).
    pub(crate) fn boot(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.dir.join("log")).unwrap();
        let guard = Command::new("sh")
            .args(["-c", r#""$0" "$@" </dev/null & pid=$!; read _; kill -9 $pid; wait"#])
            .arg(program())
            .args(&self.config)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(&self.dir)
            .args(if self.config.is_none() { ENGINE } else { &[] })
            .arg("--pidfile")
            .arg(self.dir.join("pid"))
            .args(["--daemonize", "no"])
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("sh runs");
        self.guard = Some(guard);
        let began = Instant::now();
        while self.try_connection().is_none() {
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "{} does not start (`.ci/redis` installs it): {}",
                program(),
                fs::read_to_string(self.dir.join("log")).unwrap_or_default(),
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn try_connection(&self) -> Option<Connection> {
        let client = Client::open(self.url()).unwrap();
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
        let pong: redis::RedisResult<String> = redis::cmd("PING").query(&mut connection);
        pong.is_ok().then_some(connection)
    }

    pub(crate) fn url(&self) -> String {
        match &self.password {
            None => format!("redis://127.0.0.1:{}", self.port),
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
        }
    }

    pub(crate) fn connection(&self) -> Connection {
        self.try_connection().expect("the engine runs")
    }

    /// Runs a command, for its effect or its answer.
    pub(crate) fn run<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        for word in words {
            cmd.arg(word);
        }
        cmd.query(&mut self.connection()).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        let info: String = self.run("INFO server");
        let line = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
        line.trim().parse().unwrap()
    }

    /// Kills the engine as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, pid: u32, signal: &str) {
        signal_process(pid, signal);
    }
}

pub(crate) fn signal_process(pid: u32, signal: &str) {
    let done = Command::new("kill").arg(signal).arg(pid.to_string()).status().unwrap();
    assert!(done.success(), "kill {signal} {pid}");
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
