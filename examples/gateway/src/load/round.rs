//! One round: a fresh gateway, all clients at once, for so long.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use futures_util::future::try_join_all;
use gateway::client::{Client, Refusal};
use gateway::config::{Behaviour, Config, StashKind};
use gateway::server::Server;
use hdrhistogram::Histogram;
use reqwest::StatusCode;
use serde_json::json;

use super::Scenario;

const SAMPLE_ROWS: u32 = 20_000;
/// Most results are small, and one in so many is large.
const SMALL: u32 = 100;
const LARGE: u32 = 3_000;
const LARGE_EVERY: u32 = 10;
/// The time between ticket and fetch: a browser's round trip.
const WAY: Duration = Duration::from_millis(5);
/// Connections are made and caches filled before anything is measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// The end of every Arrow stream.
const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// The figures of a round.
#[derive(Debug)]
pub(super) struct Round {
    /// Results that were fetched, each second.
    pub(super) throughput: f64,
    /// Microseconds from the query to the last byte of its result, without the round trip between.
    pub(super) latency: Histogram<u64>,
    /// The same of the large results alone.
    pub(super) large: Histogram<u64>,
    /// Queries whose wait timed out.
    pub(super) refused: u64,
    /// Of these, queries that were refused before their own timeout.
    pub(super) refused_early: u64,
}

/// The records of one client.
struct Seen {
    latency: Histogram<u64>,
    large: Histogram<u64>,
    refused: u64,
    refused_early: u64,
}

struct Window {
    from: Instant,
    to: Instant,
}

impl Round {
    pub(super) async fn run(
        scenario: &Scenario,
        stash: StashKind,
        clients: u32,
        length: Duration,
    ) -> anyhow::Result<Self> {
        let config = Config {
            behaviour: Behaviour::InlineOnly,
            stash,
            max_bytes: scenario.max_bytes,
            // Glue has neither.
            max_bytes_per_owner: None,
            max_waiting: None,
            ttl: scenario.ttl,
            wait: scenario.wait,
            rows: SAMPLE_ROWS,
            connections: 2,
            drain: scenario.ttl.min(Duration::from_secs(2)),
            ..Config::default()
        };
        let server = Server::start(config, 0).await?;
        let from = Instant::now() + WARM_UP;
        let window = Window { from, to: from + length };
        let clients = (0..clients).map(|number| {
            let client = Client::new(server.address(), &format!("client-{number}"));
            work(client, number, scenario, &window)
        });
        let all = try_join_all(clients).await?;
        let peak = server.app().inline().usage().peak_bytes;
        ensure!(peak <= scenario.max_bytes, "the stash held {peak} bytes");
        server.shutdown().await?;

        let mut round = Round {
            throughput: 0.0,
            latency: histogram(),
            large: histogram(),
            refused: 0,
            refused_early: 0,
        };
        for seen in all {
            round.latency += seen.latency;
            round.large += seen.large;
            round.refused += seen.refused;
            round.refused_early += seen.refused_early;
        }
        round.throughput = round.latency.len() as f64 / length.as_secs_f64();
        Ok(round)
    }

    pub(super) fn millis(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }

    pub(super) fn large_millis(&self, quantile: f64) -> f64 {
        self.large.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Asks and fetches until the end. Results that end inside the window are counted.
async fn work(
    client: Client,
    number: u32,
    scenario: &Scenario,
    window: &Window,
) -> anyhow::Result<Seen> {
    let mut seen = Seen { latency: histogram(), large: histogram(), refused: 0, refused_early: 0 };
    // Each client begins at another step, so that large results do not arrive together.
    let mut turn = number * 7;
    while Instant::now() < window.to {
        turn += 1;
        let rows = if turn.is_multiple_of(LARGE_EVERY) { LARGE } else { SMALL };
        let started = Instant::now();
        let id = match ask(&client, turn, rows).await? {
            Ok(id) => id,
            Err(refusal) => {
                ensure!(refusal.status == 503, "{refusal:?}");
                let counts = started >= window.from;
                seen.refused += u64::from(counts);
                seen.refused_early += u64::from(counts && started.elapsed() < scenario.wait);
                continue;
            }
        };
        let mut took = started.elapsed();
        if scenario.abandon_every > 0 && turn % scenario.abandon_every == 3 {
            continue;
        }
        tokio::time::sleep(WAY).await;
        let started = Instant::now();
        let fetched = client.fetch(&id).await?;
        took += started.elapsed();
        // Half a second is ample for a round trip of five milliseconds; but a result may have expired
        // meanwhile.
        if fetched.status == StatusCode::GONE && started.elapsed() + WAY < scenario.ttl {
            bail!("a good ticket was answered with {}", fetched.status);
        }
        if fetched.status != StatusCode::OK {
            continue;
        }
        ensure!(fetched.body.ends_with(&END_OF_STREAM), "a result is not whole");
        let now = Instant::now();
        if window.from <= now && now < window.to {
            let micros = u64::try_from(took.as_micros())?;
            seen.latency.saturating_record(micros);
            if rows == LARGE {
                seen.large.saturating_record(micros);
            }
        }
    }
    Ok(seen)
}

async fn ask(client: &Client, turn: u32, rows: u32) -> anyhow::Result<Result<String, Refusal>> {
    let first = turn * 331 % (SAMPLE_ROWS - LARGE);
    let parameters = json!({ "first": first, "rows": rows });
    let request = json!({ "format": "ARROW_STREAM", "parameters": parameters });
    client.query_inline("orders", &request).await
}

/// From a microsecond to a minute, to three significant digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid")
}
