//! A shutdown while everybody is busy: every ticket is fetched or reported, every query answered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use gateway::app::App;
use gateway::client::{Answer, Client, Refusal};
use gateway::config::{Behaviour, Config};
use gateway::metrics::Counter;
use gateway::server::Server;
use reqwest::StatusCode;

use super::act::Act;
use super::actors::Order;

/// Enough for seven results.
const STASH_BYTES: u64 = 1 << 20;
const ORDER: Order = Order { first: 0, rows: 2_000 };
const CLIENTS: u32 = 24;
/// Clients that take a ticket and never fetch.
const NO_SHOWS: usize = 2;
/// How many results are fetched before the shutdown.
const WARM_UP: u64 = 60;
const PATIENCE: Duration = Duration::from_secs(20);

/// The clients' records.
#[derive(Default)]
struct Books {
    tickets: Counter,
    fetched: Counter,
    fetched_while_closing: Counter,
    refused_at_the_door: Counter,
    refused_in_line: Counter,
}

pub(super) async fn run() -> anyhow::Result<usize> {
    let mut act = Act::begin("a shutdown under load loses nothing");
    let config = Config {
        behaviour: Behaviour::InlineOnly,
        max_bytes: STASH_BYTES,
        rows: ORDER.rows,
        wait: PATIENCE,
        drain: Duration::from_secs(2),
        audit: true,
        ..Config::default()
    };
    let server = Server::start(config, 0).await?;
    let (app, address) = (Arc::clone(server.app()), server.address());
    let books = Arc::new(Books::default());
    for number in 0..NO_SHOWS {
        let client = Client::new(address, &format!("no-show-{number}"));
        let asked = ask(&client, &books).await?;
        act.expect(asked.is_ok(), format!("a client that never fetches received {asked:?}"));
    }
    let clients = (0..CLIENTS).map(|number| {
        let client = Client::new(address, &format!("client-{number}"));
        tokio::spawn(work(client, number, Arc::clone(&app), Arc::clone(&books)))
    });
    let clients: Vec<_> = clients.collect();

    // Under load: many have been served, and a query waits.
    let busy = || books.fetched.get() >= WARM_UP && app.inline().usage().waiting > 0;
    let warm = async {
        while !busy() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, warm).await.context("the load never got going")?;
    let usage = app.inline().usage();
    let in_line = usage.waiting;
    act.say("before", format!("{} results held, {in_line} queries waiting", usage.entries));
    let (shutdown, clients) = tokio::join!(server.shutdown(), join_all(clients));
    let shutdown = shutdown?;
    for client in clients {
        if let Err(problem) = client.context("a client panicked")? {
            act.expect(false, format!("a client was not answered well: {problem:#}"));
        }
    }

    let (tickets, fetched) = (books.tickets.get(), books.fetched.get());
    act.expect(
        tickets == fetched + shutdown.lost as u64 && shutdown.lost == NO_SHOWS,
        format!("{tickets} tickets, {fetched} fetched, {} reported as lost", shutdown.lost),
    );
    act.expect(shutdown.complete, "requests were still in flight in the end");
    act.expect(books.fetched_while_closing.get() > 0, "nothing was fetched during the shutdown");
    act.expect(books.refused_in_line.get() > 0, "no query waited when it began");
    let executions = app.warehouse().executions().total;
    act.expect(executions == tickets, format!("{executions} executions for {tickets} tickets"));
    let left = app.inline().usage();
    act.expect(left.used_bytes == 0, format!("{} bytes are left", left.used_bytes));
    act.say(
        "tickets",
        format!(
            "{tickets}; fetched {fetched}, of these {} during the shutdown",
            books.fetched_while_closing.get()
        ),
    );
    act.say("reported", format!("{} lost, of the {NO_SHOWS} that never came", shutdown.lost));
    act.say(
        "refused",
        format!(
            "503 SHUTTING_DOWN to {} waiting and {} new queries, none of them executed",
            books.refused_in_line.get(),
            books.refused_at_the_door.get()
        ),
    );
    Ok(act.end())
}

/// Asks and fetches until the gateway answers that it is shutting down. Any other refusal is a problem.
async fn work(client: Client, number: u32, app: Arc<App>, books: Arc<Books>) -> anyhow::Result<()> {
    let slowness = Duration::from_millis(5 + u64::from(number % 8) * 10);
    loop {
        let id = match ask(&client, &books).await? {
            Ok(id) => id,
            Err(refusal) => {
                let told = (refusal.status, refusal.code.as_str()) == (503, "SHUTTING_DOWN");
                anyhow::ensure!(told, "{refusal:?}");
                return Ok(());
            }
        };
        tokio::time::sleep(slowness).await;
        let closing = app.is_closing();
        let status = client.fetch(&id).await?.status;
        anyhow::ensure!(status == StatusCode::OK, "a good ticket was answered with {status}");
        books.fetched.add_one();
        books.fetched_while_closing.add_if(closing);
    }
}

async fn ask(client: &Client, books: &Books) -> anyhow::Result<Result<String, Refusal>> {
    let running = match client.query("orders", &ORDER.request("ARROW_STREAM")).await? {
        Ok(running) => running,
        Err(refusal) => {
            books.refused_at_the_door.add_one();
            return Ok(Err(refusal));
        }
    };
    match running.answer().await? {
        Answer::Inline { id } => {
            books.tickets.add_one();
            Ok(Ok(id))
        }
        Answer::Refused(refusal) => {
            books.refused_in_line.add_one();
            Ok(Err(refusal))
        }
        other => anyhow::bail!("expected an inline result, got {other:?}"),
    }
}
