//! R1 to R8: the shared stash beside the floor (SET + GETDEL) and the glue that people write (INCRBY, SETEX, GETDEL,
//! DECRBY), in one run, on an engine of its own. Writes the page docs/replicas-benchmarks.md.
//!
//! ```text
//! cargo run --release -p cloakroom-redis --example replicas_bench [seconds per measurement]
//! cargo run --release -p cloakroom-redis --example replicas_bench count
//! ```
//!
//! `ENTRIES` sets the number of entries of R6 and R7: a million unless set. `count` prints the processor time of a
//! round instead, which a busy machine changes less.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom::{Cloakroom, CloakroomClaim};
use cloakroom_redis::SharedStash;
use redis::aio::MultiplexedConnection;

type Stash = SharedStash<Vec<u8>, Arc<str>>;

struct Engine {
    child: Child,
    url: String,
}

impl Engine {
    fn start() -> Self {
        let program = std::env::var("CLOAKROOM_ENGINE").unwrap_or_else(|_| "redis-server".into());
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .stdout(Stdio::null())
            .spawn()
            .expect("an engine: `.ci/redis` installs it");
        let url = format!("redis://127.0.0.1:{port}");
        let client = redis::Client::open(url.as_str()).unwrap();
        while client.get_connection().is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, url }
    }

    async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    async fn stash(&self, name: &str) -> Stash {
        SharedStash::builder()
            .url(&self.url)
            .name(name)
            .max_bytes(8 << 30)
            .ttl(Duration::from_secs(600))
            .open()
            .await
            .unwrap()
    }

    async fn version(&self) -> String {
        let info: String = redis::cmd("INFO")
            .arg("server")
            .query_async(&mut self.connection().await)
            .await
            .unwrap();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
        match field("valkey_version:") {
            Some(version) => format!("Valkey {version}"),
            None => format!("Redis {}", field("redis_version:").unwrap_or("unknown")),
        }
    }

    async fn info(&self, section: &str, field: &str) -> u64 {
        let info: String = redis::cmd("INFO")
            .arg(section)
            .query_async(&mut self.connection().await)
            .await
            .unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
        line.trim_start_matches(':')
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone)]
enum Peer {
    Floor(MultiplexedConnection),
    Glue(MultiplexedConnection),
    Stash(Stash),
}

impl Peer {
    async fn round(&mut self, key: &str, payload: &[u8]) {
        match self {
            Self::Floor(connection) => {
                redis::cmd("SET").arg(key).arg(payload).exec_async(connection).await.unwrap();
                let back: Vec<u8> =
                    redis::cmd("GETDEL").arg(key).query_async(connection).await.unwrap();
                assert_eq!(back.len(), payload.len());
            }
            Self::Glue(connection) => {
                let size = payload.len();
                redis::cmd("INCRBY").arg("used").arg(size).exec_async(connection).await.unwrap();
                let mut set = redis::cmd("SETEX");
                set.arg(key).arg(600).arg(payload).exec_async(connection).await.unwrap();
                let back: Vec<u8> =
                    redis::cmd("GETDEL").arg(key).query_async(connection).await.unwrap();
                assert_eq!(back.len(), size);
                redis::cmd("DECRBY").arg("used").arg(size).exec_async(connection).await.unwrap();
            }
            Self::Stash(stash) => {
                let ticket = stash.try_put("owner".into(), payload.to_vec()).await.unwrap();
                let back = stash.take(&ticket, &"owner".into()).await.unwrap().unwrap();
                assert_eq!(back.len(), payload.len());
            }
        }
    }
}

/// Rounds per second of `clients` tasks, and the median and the 99th percentile of one round.
async fn rounds(
    peer: &Peer,
    clients: usize,
    size: usize,
    time: Duration,
) -> (f64, Duration, Duration) {
    let until = Instant::now() + time;
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let mut peer = peer.clone();
            tokio::spawn(async move {
                let (payload, key) = (vec![7; size], format!("key{client}"));
                let mut took = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    peer.round(&key, &payload).await;
                    took.push(began.elapsed());
                }
                took
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort();
    let count = all.len();
    (count as f64 / time.as_secs_f64(), all[count / 2], all[count * 99 / 100])
}

/// Returns the stash's throughput and its median latency, both relative to the glue's.
async fn compare(
    page: &mut String,
    engine: &Engine,
    label: &str,
    clients: usize,
    size: usize,
    time: Duration,
) -> (f64, f64) {
    let peers = [
        ("floor", Peer::Floor(engine.connection().await)),
        ("glue", Peer::Glue(engine.connection().await)),
        ("shared stash", Peer::Stash(engine.stash(label).await)),
    ];
    // Interleaved, three times, and the best of each: what else the machine does is left out.
    let mut best = [(0.0, Duration::MAX, Duration::MAX); 3];
    for _ in 0..3 {
        for (at, (_, peer)) in peers.iter().enumerate() {
            let (rate, p50, p99) = rounds(peer, clients, size, time).await;
            if rate > best[at].0 {
                best[at] = (rate, p50, p99);
            }
        }
    }
    for ((name, _), (rate, p50, p99)) in peers.iter().zip(best) {
        let (to_glue, latency) = (rate / best[1].0, p50.as_secs_f64() / best[1].1.as_secs_f64());
        let numbers = format!("{rate:.0} | {p50:.0?} | {p99:.0?} | {to_glue:.2} | {latency:.2}");
        *page += &format!("| {label} | {name} | {clients} | {size} | {numbers} |\n");
    }
    (best[2].0 / best[1].0, best[2].1.as_secs_f64() / best[1].1.as_secs_f64())
}

/// The median and the 99th percentile.
struct Percentiles {
    p50: Duration,
    p99: Duration,
    of: usize,
}

fn percentiles(mut took: Vec<Duration>) -> Percentiles {
    took.sort();
    Percentiles { p50: took[took.len() / 2], p99: took[took.len() * 99 / 100], of: took.len() }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.2?}, p99 {:.2?}, of {}", self.p50, self.p99, self.of)
    }
}

async fn wake_up(engine: &Engine) -> Percentiles {
    let mut took = Vec::new();
    let (a, b) = (small(engine, "r4").await, small(engine, "r4").await);
    for _ in 0..200 {
        let ticket = a.try_put("o".into(), vec![0; 1000]).await.unwrap();
        let claim = a.claim(&ticket, &"o".into()).await.unwrap().unwrap();
        let waiter = b.clone();
        let waiter = tokio::spawn(async move {
            let ticket = waiter.put("o".into(), vec![0; 1000]).await.unwrap();
            (Instant::now(), ticket)
        });
        while a.stats().await.unwrap().waiting == 0 {}
        let began = Instant::now();
        drop(claim.into_inner());
        let (woken, ticket) = waiter.await.unwrap();
        took.push(woken - began);
        b.take(&ticket, &"o".into()).await.unwrap();
        b.stats().await.unwrap();
    }
    percentiles(took)
}

async fn small(engine: &Engine, name: &str) -> Stash {
    SharedStash::builder()
        .url(&engine.url)
        .name(name)
        .max_bytes(1000)
        .entry_overhead(0)
        .ttl(Duration::from_millis(if name == "r5" { 100 } else { 600_000 }))
        .open()
        .await
        .unwrap()
}

async fn expiry(engine: &Engine) -> Percentiles {
    let (a, b) = (small(engine, "r5").await, small(engine, "r5").await);
    let mut took = Vec::new();
    for _ in 0..50 {
        let _ticket = a.try_put("o".into(), vec![0; 1000]).await.unwrap();
        let stored = Instant::now();
        let ticket = b.put("o".into(), vec![0; 1000]).await.unwrap();
        // From the reply of the first put: its deadline was a little earlier than this.
        took.push(stored.elapsed().saturating_sub(Duration::from_millis(100)));
        b.take(&ticket, &"o".into()).await.unwrap();
        b.stats().await.unwrap();
    }
    percentiles(took)
}

/// The engine's own time per put and take, from `INFO commandstats`.
async fn server_time(engine: &Engine, stash: &Stash) -> f64 {
    redis::cmd("CONFIG").arg("RESETSTAT").exec_async(&mut engine.connection().await).await.unwrap();
    for _ in 0..5_000 {
        let ticket = stash.try_put("o".into(), vec![7; 1024]).await.unwrap();
        stash.take(&ticket, &"o".into()).await.unwrap();
    }
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut engine.connection().await)
        .await
        .unwrap();
    let line = info.lines().find(|line| line.starts_with("cmdstat_fcall:")).unwrap();
    let field = |name: &str| -> f64 {
        let at = line.find(name).unwrap() + name.len() + 1;
        line[at..].split(',').next().unwrap().parse().unwrap()
    };
    field("usec") / 10_000.0
}

/// Server time per step, empty and full; the number of entries; bytes per entry; the time of a `clear`.
async fn sizes(engine: &Engine) -> (f64, f64, u64, u64, Duration) {
    let stash = engine.stash("r6").await;
    let empty = server_time(engine, &stash).await;
    let before = engine.info("memory", "used_memory:").await;
    let filler = stash.clone();
    let count: u64 =
        std::env::var("ENTRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let stash = filler.clone();
            tokio::spawn(async move {
                for _ in 0..count / 64 {
                    let _ = stash.try_put("o".into(), vec![7; 1024]).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let entries = stash.stats().await.unwrap().entries;
    let used = engine.info("memory", "used_memory:").await - before;
    let full = server_time(engine, &stash).await;
    let began = Instant::now();
    stash.clear().await.unwrap();
    (empty, full, entries, used / entries - 1024, began.elapsed())
}

/// The processor time that a process has used, in user mode and in the kernel.
fn used(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat[stat.rfind(')').unwrap()..].split(' ');
    // In ticks of 10 ms, on every Linux.
    let ticks: u64 = fields.skip(12).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// The processor time of the engine and of this process per round: other work on the machine changes it little.
async fn count() {
    const ROUNDS: u32 = 40_000;
    let engine = Engine::start();
    let pids = [engine.child.id(), std::process::id()];
    for clients in [1, 32] {
        for (name, peer) in [
            ("floor", Peer::Floor(engine.connection().await)),
            ("glue", Peer::Glue(engine.connection().await)),
            ("shared stash", Peer::Stash(engine.stash("count").await)),
        ] {
            let before = pids.map(used);
            let tasks: Vec<_> = (0..clients)
                .map(|client| {
                    let mut peer = peer.clone();
                    tokio::spawn(async move {
                        for _ in 0..ROUNDS / clients {
                            peer.round(&format!("key{client}"), &[7; 1024]).await;
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            let [server, client] = [0, 1].map(|at| (used(pids[at]) - before[at]) / ROUNDS);
            println!("{name}, {clients} clients: engine {server:.1?}, client {client:.1?} a round");
        }
    }
}

/// A replica in a process of its own that holds everything is killed: until the next waiter has stored.
async fn killed(engine: &Engine) -> Percentiles {
    let mut took = Vec::new();
    let stash = small(engine, "r8").await;
    for _ in 0..15 {
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["hold", &engine.url])
            .spawn()
            .unwrap();
        while stash.stats().await.unwrap().used_bytes == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let waiter = stash.clone();
        let waiter = tokio::spawn(async move { waiter.put("o".into(), vec![0; 1000]).await });
        while stash.stats().await.unwrap().waiting == 0 {}
        let began = Instant::now();
        holder.kill().unwrap();
        holder.wait().unwrap();
        let ticket = waiter.await.unwrap().unwrap();
        took.push(began.elapsed());
        stash.take(&ticket, &"o".into()).await.unwrap();
        stash.stats().await.unwrap();
    }
    percentiles(took)
}

async fn hold(url: &str) {
    let stash: Stash = SharedStash::builder()
        .url(url)
        .name("r8")
        .max_bytes(1000)
        .entry_overhead(0)
        .ttl(Duration::from_secs(600))
        .open()
        .await
        .unwrap();
    let _room = stash.reserve(None, 1000).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::main]
async fn main() {
    if let [Some("hold"), Some(url)] =
        [1, 2].map(|at| std::env::args().nth(at)).each_ref().map(Option::as_deref)
    {
        return hold(url).await;
    }
    if std::env::args().nth(1).as_deref() == Some("count") {
        return count().await;
    }
    let seconds = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(2.0);
    let page = page(Duration::from_secs_f64(seconds)).await;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/replicas-benchmarks.md");
    std::fs::write(path, page).unwrap();
    println!("written: docs/replicas-benchmarks.md");
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_owned()
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

async fn page(time: Duration) -> String {
    let engine = Engine::start();
    let before = load();
    let mut rows = String::new();
    let (_, r1) = compare(&mut rows, &engine, "R1", 1, 1 << 10, time).await;
    let (r2, _) = compare(&mut rows, &engine, "R2", 32, 1 << 10, time).await;
    let (r3, _) = compare(&mut rows, &engine, "R3", 1, 1 << 20, time).await;
    let (r3_8, _) = compare(&mut rows, &engine, "R3", 8, 1 << 20, time).await;
    let (r4, r5, r8) = (wake_up(&engine).await, expiry(&engine).await, killed(&engine).await);
    let (empty, full, entries, r7, clear) = sizes(&engine).await;
    let millis = Duration::from_millis;
    let r4_met = r4.p50 <= Duration::from_micros(400) && r4.p99 <= millis(2);
    let r6_met = empty.max(full) <= 20.0 && full <= 1.2 * empty;
    let targets = [
        ("R1", "latency, 1 client", format!("{r1:.2} x glue"), "0.80 x", r1 <= 0.8),
        ("R2", "throughput, 32 clients", format!("{r2:.2} x glue"), "0.85 x", r2 >= 0.85),
        (
            "R3",
            "throughput, 1 MiB, 1 and 8 clients",
            format!("{r3:.2} and {r3_8:.2} x glue"),
            "0.95 x",
            r3.min(r3_8) >= 0.95,
        ),
        (
            "R4",
            "end of a claim until the waiter has stored",
            r4.to_string(),
            "0.4 and 2 ms",
            r4_met,
        ),
        (
            "R5",
            "granted and stored after the deadline, no traffic",
            r5.to_string(),
            "5 ms",
            r5.p99 <= millis(5),
        ),
        (
            "R6",
            "server time per step, acknowledgements included, empty and full",
            format!("{empty:.1} and {full:.1} µs with {entries} entries"),
            "20 µs, within 1.2 x",
            r6_met,
        ),
        ("R7", "memory per 1 KiB entry beyond its payload", format!("{r7} B"), "500 B", r7 <= 500),
        (
            "R8",
            "a holder is killed until the next has stored, grace 0.3 s",
            r8.to_string(),
            "800 ms",
            r8.p99 <= millis(800),
        ),
    ];
    let targets: String = targets
        .iter()
        .map(|(label, what, measured, target, met)| {
            format!("| {label} | {what} | {measured} | {target} | {} |\n", verdict(*met))
        })
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let version = engine.version().await;
    let (seconds, after) = (time.as_secs_f64(), load());
    let busy = if before.parse().is_ok_and(|load: f64| load < 0.5) {
        ""
    } else {
        "\n**The machine was not idle before the run**: its load was 0.5 or more.\n"
    };
    let why = include_str!("replicas_why.md");
    format!(
        "# How fast the shared stash is

Written by `cargo run --release -p cloakroom-redis --example replicas_bench {seconds}`, with the text of
`redis/examples/replicas_why.md` at the end. The floor (SET + GETDEL), the glue that people write (INCRBY, SETEX,
GETDEL, DECRBY) and the shared stash ran in one run on one engine, interleaved, three times each; the best of each is
shown. The glue promises nothing of what the stash promises: no queue, no order, no retry, no session, and every crash
leaks bytes.

{cores} cores, {version} on loopback. Load average {before} before the run and {after} after it; the run itself keeps
two cores busy.
{busy}
| # | what | clients | bytes | rounds/s | p50 | p99 | throughput / glue | latency (p50) / glue |
|---|---|---|---|---|---|---|---|---|
{rows}
| # | what | measured | target | |
|---|---|---|---|---|
{targets}
Clearing {entries} entries took {clear:.1?} until all bytes were free; tickets are dead in the first step. The longest
step was not measured.

{why}"
    )
}
