//! The demo: a burst of clients against a stash that is too small for them, and a check of all their results.

mod act;
mod actors;
mod broken_download;
mod graceful_shutdown;
mod jam;
mod noisy_owner;
mod progress;
mod report;
mod several_gateways;
mod stage;
mod verdict;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::join_all;
use gateway::client::Client;
use gateway::config::{Behaviour, Config};
use gateway::server::Server;

use self::stage::Stage;

/// Clients that fetch their results.
const READERS: u32 = 32;
/// Queries of each reader.
const QUERIES: u32 = 8;
/// Queries for a result that is larger than the whole stash.
const OVERSIZED: u32 = 2;

/// Enough for a handful of results.
const STASH_BYTES: u64 = 1 << 20;
const SAMPLE_ROWS: u32 = 100_000;

/// A run takes a few seconds. One that takes this long hangs.
const RUN_LIMIT: Duration = Duration::from_secs(120);

fn config(behaviour: Behaviour) -> Config {
    Config {
        behaviour,
        max_bytes: STASH_BYTES,
        // Only results that are never fetched may expire.
        ttl: Duration::from_secs(30),
        rows: SAMPLE_ROWS,
        audit: true,
        ..Config::default()
    }
}

/// Runs the burst on both behaviours, then the acts, which show one thing each. Fails if anything was lost,
/// wrong, run twice, left over or over the limit, or if a run did not show its point.
pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    let mut failures = 0;
    for behaviour in [Behaviour::Classic, Behaviour::InlineOnly] {
        failures += within_limit(behaviour.name(), run_on(behaviour)).await;
    }
    failures += within_limit("broken download", broken_download::run()).await;
    failures += within_limit("noisy owner", noisy_owner::run()).await;
    failures += within_limit("shutdown", graceful_shutdown::run()).await;
    failures += within_limit("several gateways", several_gateways::run()).await;
    if failures == 0 {
        println!(
            "The demo succeeded: nothing lost, wrong, run twice or for nothing, left over or over the \
             limit."
        );
        println!(
            "To watch a stash in a browser: cargo run --release -p gateway -- serve --small, and open \
             http://127.0.0.1:8080/"
        );
        Ok(ExitCode::SUCCESS)
    } else {
        println!("THE DEMO FAILED: see the {failures} findings above.");
        Ok(ExitCode::FAILURE)
    }
}

/// Collects the findings of one run. A run that did not end is a finding too, and hides no other.
async fn within_limit(name: &str, run: impl Future<Output = anyhow::Result<usize>>) -> usize {
    let problem = match tokio::time::timeout(RUN_LIMIT, run).await {
        Ok(Ok(findings)) => return findings,
        Ok(Err(problem)) => format!("{problem:#}"),
        Err(_elapsed) => "it hangs".to_owned(),
    };
    println!("{name} was broken off");
    report::line("FINDING", problem + "\n");
    1
}

/// One run; answers with the number of findings.
async fn run_on(behaviour: Behaviour) -> anyhow::Result<usize> {
    let server = Server::start(config(behaviour), 0).await?;
    let total = READERS * QUERIES + OVERSIZED;
    let stage = Arc::new(Stage::new(&server, behaviour.name(), total));
    let started = Instant::now();
    burst(&stage).await?;
    stage.wait_until_empty().await;
    let took = started.elapsed();
    stage.progress.finish();

    let shutdown = server.shutdown().await?;
    let findings = verdict::findings(&stage, behaviour, shutdown);
    report::print(&stage, behaviour, took, &findings);
    Ok(findings.len())
}

/// All actors at once, until the last one is done.
async fn burst(stage: &Arc<Stage>) -> anyhow::Result<()> {
    let mut actors = Vec::new();
    for number in 0..READERS {
        let (stage, client) =
            (Arc::clone(stage), Client::new(stage.address, &format!("reader-{number}")));
        actors.push(tokio::spawn(
            async move { actors::read(&stage, &client, number, QUERIES).await },
        ));
    }
    for number in 0..OVERSIZED {
        let (stage, client) =
            (Arc::clone(stage), Client::new(stage.address, &format!("glutton-{number}")));
        actors.push(tokio::spawn(async move { actors::ask_too_much(&stage, &client).await }));
    }
    let jam = Arc::clone(stage);
    actors.push(tokio::spawn(async move { jam::run(&jam).await }));
    for actor in join_all(actors).await {
        actor.context("an actor panicked")?;
    }
    Ok(())
}
