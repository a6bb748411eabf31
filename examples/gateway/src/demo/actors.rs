//! The clients: how they ask, fetch, and check their results.

use std::time::Duration;

use anyhow::Context;
use gateway::check::Totals;
use gateway::client::{Answer, Client};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::stage::Stage;

/// Orders that a client asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) first: u32,
    pub(super) rows: u32,
}

impl Order {
    pub(super) fn request(self, format: &str) -> Value {
        json!({ "format": format, "parameters": { "first": self.first, "rows": self.rows } })
    }
}

/// The largest result that a reader asks for takes about a fifth of the stash.
const FEWEST_ROWS: u32 = 500;
const MOST_ROWS: u32 = 3_500;

/// One in so many queries of a reader asks for rows instead of Arrow.
const ROWS_EVERY: u32 = 8;
/// A stranger tries to take one in so many results first.
const STRANGER_EVERY: u32 = 5;
/// How often a reader retries after a refusal before it counts its result as lost.
const ATTEMPTS: u32 = 60;

/// A client that wants all its results, and is a little slow to fetch them.
pub(super) async fn read(stage: &Stage, client: &Client, reader: u32, queries: u32) {
    for query in 0..queries {
        let number = reader * queries + query;
        // Steps that share no factor with their range spread sizes evenly, the same in every run.
        let order = Order {
            first: number * 331 % 90_000,
            rows: FEWEST_ROWS + number * 1_237 % (MOST_ROWS - FEWEST_ROWS),
        };
        let outcome = if query % ROWS_EVERY == ROWS_EVERY - 1 {
            read_rows(stage, client, order).await
        } else {
            read_arrow(stage, client, order, number).await
        };
        note(stage, outcome.with_context(|| format!("reader {reader}, query {query}")));
        stage.progress.advance();
    }
}

/// A client whose result is larger than the whole stash.
pub(super) async fn ask_too_much(stage: &Stage, client: &Client) {
    let outcome = read_arrow(stage, client, Order { first: 0, rows: 30_000 }, 1).await;
    note(stage, outcome.context("an oversized query"));
    stage.progress.advance();
}

pub(super) fn note(stage: &Stage, outcome: anyhow::Result<()>) {
    if let Err(problem) = outcome {
        stage.tally.lost.add_one();
        stage.tally.note_problem(format!("{problem:#}"));
    }
}

/// Sends a query and waits for its answer.
pub(super) async fn ask(stage: &Stage, client: &Client, order: Order) -> anyhow::Result<Answer> {
    stage.tally.requests.add_one();
    let answer = match client.query("orders", &order.request("ARROW_STREAM")).await? {
        Ok(running) => {
            stage.tally.note_statement(&running.statement);
            running.answer().await?
        }
        Err(refusal) => {
            stage.tally.at_the_door.add_one();
            Answer::Refused(refusal)
        }
    };
    match &answer {
        Answer::Inline { .. } => stage.tally.inline.add_one(),
        Answer::External { .. } => stage.tally.links.add_one(),
        Answer::Rows { .. } => stage.tally.rows.add_one(),
        Answer::Refused(refusal) => match refusal.code.as_str() {
            "INLINE_ARROW_STASH_EXHAUSTED" => stage.tally.exhausted.add_one(),
            "INLINE_ARROW_RESULT_TOO_LARGE" => stage.tally.too_large.add_one(),
            _ => anyhow::bail!("refused: {refusal:?}"),
        },
    }
    stage.look();
    Ok(answer)
}

/// Sends a query and disconnects after `patience`, unless it was answered before.
pub(super) async fn ask_and_hang_up(
    stage: &Stage,
    client: &Client,
    order: Order,
    patience: Duration,
) -> anyhow::Result<()> {
    stage.tally.requests.add_one();
    let running = client.query("orders", &order.request("ARROW_STREAM")).await?;
    let running = running.map_err(|refusal| anyhow::anyhow!("refused at the door: {refusal:?}"))?;
    stage.tally.note_statement(&running.statement);
    tokio::time::sleep(patience).await;
    drop(running);
    stage.tally.hung_up.add_one();
    Ok(())
}

/// Asks until there is a result, retrying whenever the gateway suggests it.
async fn read_arrow(
    stage: &Stage,
    client: &Client,
    order: Order,
    number: u32,
) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS {
        match ask(stage, client, order).await? {
            Answer::Inline { id } => {
                tokio::time::sleep(Duration::from_millis(20 + u64::from(number % 5) * 10)).await;
                if number.is_multiple_of(STRANGER_EVERY) {
                    intrude(stage, &id).await?;
                }
                return fetch(stage, client, &id, order).await;
            }
            Answer::External { id, .. } => return fetch(stage, client, &id, order).await,
            Answer::Refused(refusal) => match refusal.retry_after() {
                Some(delay) => tokio::time::sleep(delay).await,
                // A refusal that says that it never fits is an answer.
                None => return Ok(()),
            },
            Answer::Rows { .. } => anyhow::bail!("rows where Arrow was asked for"),
        }
    }
    anyhow::bail!("refused {ATTEMPTS} times")
}

/// Takes the result and compares it with the database.
pub(super) async fn fetch(
    stage: &Stage,
    client: &Client,
    id: &str,
    order: Order,
) -> anyhow::Result<()> {
    let fetched = client.fetch(id).await?;
    anyhow::ensure!(fetched.status == StatusCode::OK, "{id} was answered with {}", fetched.status);
    compare(stage, Totals::of_stream(&fetched.body)?, order).await
}

async fn read_rows(stage: &Stage, client: &Client, order: Order) -> anyhow::Result<()> {
    stage.tally.requests.add_one();
    let running = client.query("orders", &order.request("JSON_ARRAY")).await?;
    let running = running.map_err(|refusal| anyhow::anyhow!("refused at the door: {refusal:?}"))?;
    stage.tally.note_statement(&running.statement);
    let Answer::Rows { rows, .. } = running.answer().await? else {
        anyhow::bail!("no rows where rows were asked for");
    };
    stage.tally.rows.add_one();
    let sum = |column: usize| rows.iter().filter_map(|row| row[column].as_i64()).sum();
    let totals = Totals {
        rows: rows.len() as i64,
        ids: sum(0),
        quantity: sum(4),
        amount_cents: sum(5),
        notes: rows.iter().filter(|row| !row[6].is_null()).count() as i64,
    };
    compare(stage, totals, order).await
}

async fn compare(stage: &Stage, totals: Totals, order: Order) -> anyhow::Result<()> {
    let database = stage.database.clone();
    let expected = tokio::task::spawn_blocking(move || {
        Totals::of_database(&database, order.first, order.rows)
    })
    .await??;
    stage.tally.checked.add_one();
    if totals != expected {
        stage.tally.wrong.add_one();
        stage
            .tally
            .note_problem(format!("{order:?}: got {totals:?}, the database says {expected:?}"));
    }
    Ok(())
}

/// Tries to take the result behind `id` as a stranger. The answer must not tell that it is there.
async fn intrude(stage: &Stage, id: &str) -> anyhow::Result<()> {
    let taken = Client::new(stage.address, "stranger").fetch(id).await?;
    anyhow::ensure!(
        taken.status == StatusCode::GONE,
        "a stranger was answered with {}",
        taken.status
    );
    stage.tally.intrusions.add_one();
    Ok(())
}
