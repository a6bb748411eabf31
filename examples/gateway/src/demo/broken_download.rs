//! A client whose downloads break off, and that receives every byte in the end.

use anyhow::bail;
use gateway::client::{Answer, Client};
use gateway::config::{Behaviour, Config};
use gateway::server::Server;
use reqwest::StatusCode;
use serde_json::json;

use super::act::Act;

const ROWS: u32 = 60_000;
/// Makes a result that is far larger than socket buffers. Otherwise the server would count it as sent before
/// the client disconnects.
const WIDTH: u32 = 400;
/// How much of the result the client reads before it disconnects, in percent, one attempt after the other.
const BREAKS: [usize; 3] = [0, 10, 30];

pub(super) async fn run() -> anyhow::Result<usize> {
    let mut act = Act::begin("a client that drops mid-download gets the rest");
    let config =
        Config { behaviour: Behaviour::InlineOnly, rows: ROWS, audit: true, ..Config::default() };
    let server = Server::start(config, 0).await?;
    let usage = || server.app().inline().usage();
    let (ann, twin) = (Client::new(server.address(), "ann"), Client::new(server.address(), "twin"));

    // The same query gives the same bytes: a client whose connection held knows them.
    let expected = twin.fetch(&ask(&twin).await?).await?.body;
    let id = ask(&ann).await?;
    for percent in BREAKS {
        let read = ann.break_off(&id, expected.len() / 100 * percent).await?;
        act.expect(read < expected.len(), "it was read to its end before it could break");
        act.say("broke off", format!("after {read} of {} bytes", expected.len()));
        let held = usage().used_bytes >= expected.len() as u64;
        act.expect(held, "the bytes of a broken download were given away");
    }
    let fetched = ann.fetch(&id).await?;
    let same = fetched.status == StatusCode::OK && fetched.body == expected;
    act.expect(same, format!("{} and {} bytes came", fetched.status, fetched.body.len()));
    act.say(
        "then",
        format!("{} with {} bytes, all as they should be", fetched.status, fetched.body.len()),
    );

    let again = ann.fetch(&id).await?.status;
    act.expect(again == StatusCode::GONE, format!("a fetched result was answered with {again}"));
    let put_back = ann.metric("cloakroom_claims_total{outcome=\"put_back\"}").await?;
    act.expect(put_back == BREAKS.len() as f64, format!("{put_back} downloads were put back"));
    let executions = server.app().warehouse().executions();
    act.expect(executions.total == 2, format!("{} executions for 2 results", executions.total));
    act.say(
        "in the end",
        format!(
            "{put_back} put back, {} executions of 2 queries, {} bytes held",
            executions.total,
            usage().used_bytes
        ),
    );
    let shutdown = server.shutdown().await?;
    act.expect(shutdown.complete && shutdown.lost == 0, format!("{shutdown:?}"));
    Ok(act.end())
}

async fn ask(client: &Client) -> anyhow::Result<String> {
    let request = json!({
        "format": "ARROW_STREAM",
        "parameters": { "first": 0, "rows": ROWS, "width": WIDTH },
    });
    match client.query("order_labels", &request).await? {
        Ok(running) => match running.answer().await? {
            Answer::Inline { id } => Ok(id),
            other => bail!("expected an inline result, got {other:?}"),
        },
        Err(refusal) => bail!("refused: {refusal:?}"),
    }
}
