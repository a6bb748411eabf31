//! The Arrow Flight server, with the Flight clients of Rust and of Python.
#![cfg(feature = "flight")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_flight::{FlightClient, FlightDescriptor, Ticket, error::FlightError};
use futures_util::TryStreamExt;
use recipes::arrow_flight_server::{Results, results, serve};
use support::{LONG, ends, eventually};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Endpoint;

struct Server {
    address: SocketAddr,
    stash: Results,
    signal: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn start(patience: Duration) -> Server {
    let stash = results(60 << 20, LONG);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (signal, received) = oneshot::channel::<()>();
    let served = serve(listener, stash.clone(), async { drop(received.await) }, patience);
    let task = tokio::spawn(async { served.await.unwrap() });
    Server { address, stash, signal, task }
}

impl Server {
    async fn client(&self, user: &str) -> FlightClient {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        let mut client = FlightClient::new(ends(channel.connect()).await.unwrap());
        client.add_header("x-user", user).unwrap();
        client
    }

    async fn ends(self) {
        drop(self.signal);
        ends(self.task).await.unwrap();
    }
}

async fn run(client: &mut FlightClient, rows: i64) -> Result<Ticket, FlightError> {
    let info = ends(client.get_flight_info(FlightDescriptor::new_cmd(rows.to_string()))).await?;
    assert_eq!(info.total_records, rows);
    Ok(info.endpoint[0].ticket.clone().unwrap())
}

/// The sum of the rows that a ticket is for.
async fn fetch(client: &mut FlightClient, ticket: &Ticket) -> Result<i64, FlightError> {
    let batches: Vec<RecordBatch> =
        ends(ends(client.do_get(ticket.clone())).await?.try_collect()).await?;
    let sum =
        |it: &RecordBatch| it.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>();
    Ok(batches.iter().map(sum).sum())
}

fn code<T>(result: Result<T, FlightError>) -> Code {
    match result {
        Err(FlightError::Tonic(status)) => status.code(),
        Err(other) => panic!("{other}"),
        Ok(_) => Code::Ok,
    }
}

#[tokio::test]
async fn converses() {
    let server = start(LONG).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let ticket = run(&mut alice, 100_000).await.unwrap();
    assert!((800_000..810_000).contains(&server.stash.used_bytes()), "rows and messages");
    assert_eq!(code(fetch(&mut bob, &ticket).await), Code::NotFound, "another user's");
    assert_eq!(fetch(&mut alice, &ticket).await.unwrap(), 100_000 * 99_999 / 2);
    assert_eq!(code(fetch(&mut alice, &ticket).await), Code::NotFound, "once");
    assert_eq!(code(fetch(&mut alice, &Ticket::new("nonsense")).await), Code::NotFound);
    assert_eq!(code(run(&mut alice, 10_000_000).await), Code::OutOfRange);
    eventually("all is given back", || server.stash.used_bytes() == 0).await;
    drop((alice, bob));
    server.ends().await;
}

#[tokio::test]
async fn loses_nothing_at_shutdown() {
    let server = start(LONG).await;
    let mut alice = server.client("alice").await;
    let ticket = run(&mut alice, 1_000).await.unwrap();
    let Server { address, stash, signal, task } = server;
    signal.send(()).unwrap();
    eventually("the signal has arrived", || stash.is_closed()).await;
    let server = Server { address, stash: stash.clone(), signal: oneshot::channel().0, task };
    let mut late = server.client("alice").await;
    assert_eq!(code(run(&mut late, 10).await), Code::Unavailable, "nothing new");
    assert_eq!(fetch(&mut late, &ticket).await.unwrap(), 1_000 * 999 / 2);
    server.ends().await;
    let stats = stash.stats();
    assert_eq!((stats.delivered, stats.cleared, stats.entries), (1, 0, 0));
    assert!(std::net::TcpStream::connect(address).is_err(), "it is gone");
}

#[tokio::test]
async fn waits_no_longer_than_its_patience() {
    let server = start(Duration::from_millis(50)).await;
    run(&mut server.client("alice").await, 1_000).await.unwrap();
    let stash = server.stash.clone();
    server.ends().await;
    assert_eq!((stash.stats().cleared, stash.used_bytes()), (1, 0));
}

/// `PYTHON` is an interpreter with pyarrow: `.ci/recipes` installs one.
#[tokio::test]
#[ignore = "needs pyarrow: .ci/recipes runs it"]
async fn pyarrow_fetches_after_the_signal() {
    let python = std::env::var("PYTHON").expect("PYTHON: an interpreter with pyarrow");
    let server = start(LONG).await;
    let Server { address, stash, signal, task } = server;
    let mut client = tokio::process::Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/flight_client.py"))
        .arg(address.to_string())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It has its tickets when all three results are held; then the server is stopped.
    eventually("three results are held", || stash.len() == 3).await;
    signal.send(()).unwrap();
    eventually("the signal has arrived", || stash.is_closed()).await;
    drop(client.stdin.take());
    assert!(ends(client.wait()).await.unwrap().success());
    ends(task).await.unwrap();
    let stats = stash.stats();
    assert_eq!((stats.delivered, stats.cleared, stats.entries), (3, 0, 0));
}
