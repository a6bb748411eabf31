//! Three gateways on one shared stash. One is killed under load, and nothing is lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::join_all;
use gateway::check::Totals;
use gateway::client::Client;
use gateway::engine::{Engine, HOW_TO_INSTALL};
use gateway::guarded::Guarded;
use gateway::metrics::Counter;
use rand::seq::IndexedRandom;
use reqwest::StatusCode;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::act::Act;
use super::actors::Order;

const GATEWAYS: usize = 3;
/// Enough for six results.
const STASH_BYTES: u64 = 1 << 20;
const ORDER: Order = Order { first: 0, rows: 2_000 };
const CLIENTS: u32 = 24;
/// How many results are fetched before one gateway is killed, and how many after.
const BEFORE: u64 = 150;
const AFTER: u64 = 150;
/// Results whose tickets were never sent, because the gateway died first, expire after this time.
const TTL: Duration = Duration::from_secs(6);
/// How long a client retries for a result whose download broke.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);
/// A delivery that ended shortly before the kill may be unknown to the engine, and be put back.
const UNHEARD: Duration = Duration::from_millis(100);

/// The gateways and the clients' records.
struct Scene {
    gateways: Vec<SocketAddr>,
    alive: [AtomicBool; GATEWAYS],
    expected: Totals,
    tickets: Counter,
    fetched: Counter,
    after_kill: Counter,
    lost: Counter,
    wrong: Counter,
    doubled: Counter,
    broken_queries: Counter,
    broken_downloads: Counter,
    /// Tickets that clients hold and have not used yet.
    held: AtomicU64,
    most_held: AtomicU64,
    delivered: Mutex<HashMap<String, Delivered>>,
    killed: Mutex<Option<Instant>>,
    enough: AtomicBool,
}

/// A result that a client has read to its end.
struct Delivered {
    user: String,
    by: usize,
    at: Instant,
    bytes: u64,
}

pub(super) async fn run() -> anyhow::Result<usize> {
    let mut act = Act::begin("three gateways on one stash, and one is killed");
    let Some(engine) = Engine::start().await? else {
        act.say("NOT SHOWN", format!("no engine is installed: {HOW_TO_INSTALL}"));
        return Ok(act.end());
    };
    let started = join_all((0..GATEWAYS).map(|_| start_gateway(&engine))).await;
    let mut processes = Vec::new();
    let mut gateways = Vec::new();
    for gateway in started {
        let (process, address) = gateway?;
        processes.push(process);
        gateways.push(address);
    }
    let scene = Arc::new(Scene::new(gateways).await?);
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(work(Arc::clone(&scene), number))).collect();
    scene.until("the load never got going", |scene| scene.fetched.get() >= BEFORE).await?;
    let victim = rand::random_range(0..GATEWAYS);
    // Clients avoid it only afterwards: they notice as clients do.
    *lock(&scene.killed) = Some(Instant::now());
    processes[victim].kill().await;
    scene.alive[victim].store(false, Ordering::Relaxed);
    let killed = Instant::now();
    let after = scene.until("nothing is fetched any more", |scene| scene.after_kill.get() > 0);
    after.await?;
    act.say("killed", format!("gateway {victim} with kill -9, after {BEFORE} results"));
    let next = killed.elapsed();
    let enough = scene.until("the others do not go on", |scene| scene.after_kill.get() >= AFTER);
    enough.await?;
    scene.enough.store(true, Ordering::Relaxed);
    for client in join_all(clients).await {
        if let Err(problem) = client.context("a client panicked")? {
            act.expect(false, format!("a client was not answered well: {problem:#}"));
        }
    }
    let survivor = (0..GATEWAYS).find(|number| *number != victim).context("three gateways")?;
    let monitor = Client::new(scene.gateways[survivor], "monitor");
    let put_back = fetch_again_from(&scene, survivor, victim).await?;
    act.expect(killed.elapsed() < TTL, "it took so long that results may have expired unnoticed");
    report(&mut act, &scene, victim, next, put_back);
    compare_books(&mut act, &scene, &monitor).await?;
    Ok(act.end())
}

fn report(act: &mut Act, scene: &Scene, victim: usize, next: Duration, put_back: u64) {
    let (tickets, fetched) = (scene.tickets.get(), scene.fetched.get());
    let (lost, wrong, doubled) = (scene.lost.get(), scene.wrong.get(), scene.doubled.get());
    act.say(
        "tickets",
        format!(
            "{tickets}, each fetched at another gateway than it was made; {fetched} fetched, of these \
             {} after the kill, the first {:.0} ms after it",
            scene.after_kill.get(),
            next.as_secs_f64() * 1e3
        ),
    );
    let (queries, downloads) = (scene.broken_queries.get(), scene.broken_downloads.get());
    act.say(
        "broken",
        format!(
            "{queries} queries asked again, {downloads} downloads fetched from another gateway"
        ),
    );
    let delivered = lock(&scene.delivered);
    let last = delivered.values().filter(|one| scene.is_unheard(one, victim)).count();
    act.say("lost", format!("{lost}; wrong {wrong}; doubled {doubled}"));
    act.say(
        "claims",
        format!(
            "{last} deliveries of gateway {victim} ended within {} ms before the kill; {put_back} of them were put back",
            UNHEARD.as_millis()
        ),
    );
    act.expect(lost == 0, format!("{lost} results were lost"));
    act.expect(wrong == 0, format!("{wrong} results were wrong"));
    act.expect(doubled == 0, format!("{doubled} results could be had twice"));
    act.expect(tickets == fetched, format!("{tickets} tickets, but {fetched} were fetched"));
    act.expect(delivered.len() as u64 == tickets, "a ticket was issued twice");
    let bytes = delivered.values().map(|one| one.bytes).max().unwrap_or(0);
    let held = scene.most_held.load(Ordering::Relaxed) * bytes;
    act.say("held", format!("{held} bytes at most by the clients' own books, of {STASH_BYTES}"));
    act.expect(held <= STASH_BYTES, format!("clients held tickets for {held} bytes"));
    act.expect(queries + downloads > 0, "the kill broke nothing, so it showed nothing");
}

/// Compares the engine's counters, in the end, with the clients' records.
async fn compare_books(act: &mut Act, scene: &Scene, monitor: &Client) -> anyhow::Result<()> {
    let (left, leftovers) = wait_until_empty(monitor).await?;
    act.say("in the end", format!("{left} bytes, after {leftovers} results had expired unclaimed"));
    act.expect(left == 0.0, format!("{left} bytes are left over"));
    let peak = monitor.metric("cloakroom_peak_bytes").await?;
    act.say("peak bytes", format!("{peak} of {STASH_BYTES}, over all gateways"));
    act.expect(peak <= STASH_BYTES as f64, format!("the stash held {peak} bytes"));
    let waited = monitor.metric("cloakroom_waited_total").await?;
    act.expect(waited > 0.0, "the run showed no query that waited for room");
    let total = async |outcome| {
        monitor.metric(&format!("cloakroom_results_total{{outcome=\"{outcome}\"}}")).await
    };
    let (stored, delivered) = (total("stored").await?, total("delivered").await?);
    // The first was fetched, to compare all others with it.
    let fetched = (scene.fetched.get() + 1) as f64;
    act.say("engine", format!("{stored} stored, {delivered} delivered, {leftovers} expired"));
    act.expect(stored == delivered + leftovers, "the engine's books do not balance");
    // One that was put back and fetched again counts once for the engine, and once for the clients.
    act.expect(delivered == fetched, format!("the clients fetched {fetched}"));
    Ok(())
}

async fn start_gateway(engine: &Engine) -> anyhow::Result<(Guarded, SocketAddr)> {
    let program = std::env::current_exe()?;
    let mut command = Guarded::command(program);
    command.args(["serve", "--port", "0", "--warehouse", "inline-only", "--stash"]);
    command.arg(engine.url().as_str());
    command.args(["--max-bytes", &STASH_BYTES.to_string()]);
    command.args(["--max-bytes-per-owner", &STASH_BYTES.to_string()]);
    command.args(["--ttl-secs", &TTL.as_secs().to_string(), "--rows", &ORDER.rows.to_string()]);
    command.args(["--wait-ms", &PATIENCE.as_millis().to_string(), "--connections", "2"]);
    command.env("RUST_LOG", "error").stdout(Stdio::piped());
    let mut process = Guarded::spawn(command).context("a gateway does not start")?;
    let output = process.output().context("its output is piped")?;
    let mut lines = BufReader::new(output).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    let first = first.context("a gateway does not say where it is")??.context("it ended")?;
    let address = first.strip_prefix("serving on http://").and_then(|rest| rest.split(',').next());
    let address = address.with_context(|| format!("a gateway said: {first}"))?.parse()?;
    Ok((process, address))
}

impl Scene {
    async fn new(gateways: Vec<SocketAddr>) -> anyhow::Result<Self> {
        // All gateways have the same sample, so all answers to the one query are the same.
        let client = Client::new(gateways[0], "first");
        let asked = client.query_inline("orders", &ORDER.request("ARROW_STREAM")).await?;
        let id = asked.map_err(|refusal| anyhow::anyhow!("the first query: {refusal:?}"))?;
        let fetched = client.fetch(&id).await?;
        let expected = Totals::of_stream(&fetched.body)?;
        anyhow::ensure!(expected.rows == i64::from(ORDER.rows), "the sample is another one");
        Ok(Scene {
            gateways,
            alive: [(); GATEWAYS].map(|()| AtomicBool::new(true)),
            expected,
            tickets: Counter::default(),
            fetched: Counter::default(),
            after_kill: Counter::default(),
            lost: Counter::default(),
            wrong: Counter::default(),
            doubled: Counter::default(),
            broken_queries: Counter::default(),
            broken_downloads: Counter::default(),
            held: AtomicU64::new(0),
            most_held: AtomicU64::new(0),
            delivered: Mutex::default(),
            killed: Mutex::default(),
            enough: AtomicBool::new(false),
        })
    }

    /// Any gateway that is not known to be dead, but not `other_than`.
    fn any(&self, other_than: Option<usize>) -> usize {
        let alive = |number: &usize| self.alive[*number].load(Ordering::Relaxed);
        let all: Vec<_> =
            (0..GATEWAYS).filter(alive).filter(|number| Some(*number) != other_than).collect();
        *all.choose(&mut rand::rng()).expect("two are never killed")
    }

    async fn until(
        &self,
        otherwise: &'static str,
        holds: impl Fn(&Scene) -> bool,
    ) -> anyhow::Result<()> {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.context(otherwise)
    }

    /// Whether the engine may not have heard of a delivery when its gateway was killed.
    fn is_unheard(&self, delivered: &Delivered, victim: usize) -> bool {
        let killed = *lock(&self.killed);
        killed.is_some_and(|killed| delivered.by == victim && delivered.at + UNHEARD >= killed)
    }
}

/// Asks at one gateway and fetches at another, until there are enough.
async fn work(scene: Arc<Scene>, number: u32) -> anyhow::Result<()> {
    let user = format!("client-{number}");
    // One for each gateway, so that connections are kept.
    let clients: Vec<_> = scene.gateways.iter().map(|at| Client::new(*at, &user)).collect();
    while !scene.enough.load(Ordering::Relaxed) {
        let maker = scene.any(None);
        let asked = clients[maker].query_inline("orders", &ORDER.request("ARROW_STREAM")).await;
        let id = match asked {
            Ok(Ok(id)) => id,
            Ok(Err(refusal)) => anyhow::bail!("refused: {refusal:?}"),
            Err(problem) => {
                anyhow::ensure!(lock(&scene.killed).is_some(), "before the kill: {problem:#}");
                scene.broken_queries.add_one();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        scene.tickets.add_one();
        let held = scene.held.fetch_add(1, Ordering::Relaxed) + 1;
        scene.most_held.fetch_max(held, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(u64::from(number % 8) * 5)).await;
        scene.held.fetch_sub(1, Ordering::Relaxed);
        fetch(&scene, &clients, &user, &id, maker).await?;
        // Used now, and at every gateway.
        match clients[scene.any(None)].fetch(&id).await {
            Ok(again) => scene.doubled.add_if(again.status != StatusCode::GONE),
            Err(_) => anyhow::ensure!(lock(&scene.killed).is_some(), "before the kill"),
        }
    }
    Ok(())
}

/// Fetches at another gateway than `maker`. If the kill breaks the download, asks again: the engine puts the
/// result back as soon as it has noticed that its gateway is dead.
async fn fetch(
    scene: &Scene,
    clients: &[Client],
    user: &str,
    id: &str,
    maker: usize,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut broke = false;
    loop {
        // With one of three dead there may be only one other.
        let by = scene.any(Some(maker));
        match clients[by].fetch(id).await {
            Ok(fetched) if fetched.status == StatusCode::OK => {
                let at = Instant::now();
                scene.wrong.add_if(Totals::of_stream(&fetched.body)? != scene.expected);
                scene.fetched.add_one();
                scene.after_kill.add_if(lock(&scene.killed).is_some_and(|killed| began > killed));
                let bytes = fetched.body.len() as u64;
                let delivered = Delivered { user: user.to_owned(), by, at, bytes };
                lock(&scene.delivered).insert(id.to_owned(), delivered);
                return Ok(());
            }
            Ok(fetched) => {
                let comes_back = broke && fetched.status == StatusCode::GONE;
                if !comes_back || began.elapsed() > TTL {
                    scene.lost.add_one();
                    anyhow::bail!("a good ticket was answered with {}", fetched.status);
                }
            }
            Err(problem) => {
                anyhow::ensure!(lock(&scene.killed).is_some(), "before the kill: {problem:#}");
                scene.broken_downloads.add_if(!broke);
                broke = true;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks again for every result that the killed gateway delivered, now that its claims have been put back.
/// Returns how many were there, of those that it delivered too late for the engine to learn of it.
async fn fetch_again_from(scene: &Scene, survivor: usize, victim: usize) -> anyhow::Result<u64> {
    let delivered = std::mem::take(&mut *lock(&scene.delivered));
    let mut put_back = 0;
    for (id, one) in delivered.iter().filter(|(_, one)| one.by == victim) {
        let again = Client::new(scene.gateways[survivor], &one.user).fetch(id).await?;
        match again.status {
            StatusCode::GONE => {}
            StatusCode::OK if scene.is_unheard(one, victim) => put_back += 1,
            StatusCode::OK => scene.doubled.add_one(),
            other => anyhow::bail!("a spent ticket was answered with {other}"),
        }
    }
    *lock(&scene.delivered) = delivered;
    Ok(put_back)
}

/// Waits until nothing is charged. Returns the bytes left, and the results that expired.
async fn wait_until_empty(monitor: &Client) -> anyhow::Result<(f64, f64)> {
    let began = Instant::now();
    loop {
        let left = monitor.metric("cloakroom_used_bytes").await?;
        if left == 0.0 || began.elapsed() > TTL * 3 {
            let name = "cloakroom_results_total{outcome=\"expired\"}";
            return Ok((left, monitor.metric(name).await?));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn lock<T>(books: &Mutex<T>) -> MutexGuard<'_, T> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
