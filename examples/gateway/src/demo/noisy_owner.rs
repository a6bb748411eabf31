//! One owner asks and never fetches; the others are not affected.

use std::time::Duration;

use anyhow::bail;
use futures_util::future::try_join_all;
use gateway::client::{Client, Refusal};
use gateway::config::{Behaviour, Config};
use gateway::server::Server;
use reqwest::StatusCode;

use super::act::Act;
use super::actors::Order;

const STASH_BYTES: u64 = 2 << 20;
/// One owner can take a quarter. The results that the others hold at the same time fit into the rest.
const OWNER_BYTES: u64 = STASH_BYTES / 4;
const ORDER: Order = Order { first: 0, rows: 1_500 };

const OTHERS: u32 = 8;
const QUERIES: u32 = 10;
/// How often the noisy owner asks again after it was refused.
const INSISTS: u32 = 100;

pub(super) async fn run() -> anyhow::Result<usize> {
    let mut act = Act::begin("one noisy owner does not starve others");
    let config = Config {
        behaviour: Behaviour::InlineOnly,
        max_bytes: STASH_BYTES,
        max_bytes_per_owner: Some(OWNER_BYTES),
        rows: ORDER.rows,
        // The noisy one's results are never fetched: the test does not wait for them.
        drain: Duration::ZERO,
        audit: true,
        ..Config::default()
    };
    let server = Server::start(config, 0).await?;
    let noisy = Client::new(server.address(), "noisy");

    let mut hoard = Vec::new();
    let refusal = loop {
        match ask(&noisy).await? {
            Ok(id) => hoard.push(id),
            Err(refusal) => break refusal,
        }
    };
    let told = (refusal.status, refusal.code.as_str()) == (429, "INLINE_ARROW_OWNER_FULL");
    act.expect(told, format!("the noisy owner received {refusal:?}"));
    let (kept, held) = (hoard.len(), server.app().inline().usage().used_bytes);
    act.say(
        "noisy",
        format!("{kept} results kept, {held} of {OWNER_BYTES} bytes, then {}", refusal.status),
    );

    let insist = async {
        for _ in 0..INSISTS {
            if ask(&noisy).await?.is_ok() {
                bail!("the noisy one was given more than one owner may hold");
            }
        }
        Ok(())
    };
    let others = try_join_all((0..OTHERS).map(|number| {
        let other = Client::new(server.address(), &format!("other-{number}"));
        async move {
            for _ in 0..QUERIES {
                match ask(&other).await? {
                    Ok(id) if other.fetch(&id).await?.status == StatusCode::OK => {}
                    other => bail!("another was not served: {other:?}"),
                }
            }
            Ok(())
        }
    }));
    let outcome = tokio::try_join!(insist, others);
    if let Err(problem) = outcome {
        act.expect(false, format!("{problem:#}"));
    }
    let metrics = server.app().metrics();
    let waited = metrics.room_after_wait.get();
    act.expect(waited == 0, format!("{waited} had to wait"));
    let refused = metrics.owner_full.get();
    let all = refused == u64::from(INSISTS) + 1 && metrics.refusals.get() == refused;
    act.expect(
        all,
        format!("{refused} were refused for their owner, {} in all", metrics.refusals.get()),
    );
    act.say(
        "meanwhile",
        format!("{} results to {OTHERS} others, {waited} of them waited", metrics.downloads.get()),
    );

    // One more fits as soon as one is fetched.
    if let Some(id) = hoard.pop() {
        let fetched = noisy.fetch(&id).await?.status;
        act.expect(fetched == StatusCode::OK, format!("its own result: {fetched}"));
    }
    act.expect(ask(&noisy).await?.is_ok(), "it fetched one and was given none");
    let executions = server.app().warehouse().executions().total;
    let results = kept as u64 + u64::from(OTHERS * QUERIES) + 1;
    act.expect(executions == results, format!("{executions} executions for {results} results"));
    act.say(
        "refused",
        format!("{refused} times 429, none of them executed; {executions} executions"),
    );
    server.shutdown().await?;
    Ok(act.end())
}

/// The id of a result, or the reason of its refusal.
async fn ask(client: &Client) -> anyhow::Result<Result<String, Refusal>> {
    client.query_inline("orders", &ORDER.request("ARROW_STREAM")).await
}
