//! The HTTP servers, with reqwest as the client: the same conversation with each.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::Budget;
use reqwest::{Body, Client, Response};
use support::{LONG, Results, ends, eventually, results, rows};
use tokio::sync::oneshot;

/// A server on a thread of its own, with whatever runtime it has.
struct Server {
    path: &'static str,
    address: SocketAddr,
    stash: Results,
    in_flight: Budget,
    signal: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Axum,
    HyperOnSmol,
    UploadLimit,
    #[cfg(feature = "actix")]
    Actix,
}

const IN_FLIGHT: u64 = 100_000;

fn start(kind: Kind, patience: Duration) -> Server {
    let (stash, in_flight) = (results(), Budget::new(IN_FLIGHT));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (signal, received) = oneshot::channel::<()>();
    let signalled = async { drop(received.await) };
    let handles = (stash.clone(), in_flight.clone());
    let tokio = |listener: TcpListener| {
        listener.set_nonblocking(true).unwrap();
        tokio::net::TcpListener::from_std(listener).unwrap()
    };
    let path = match kind {
        Kind::HyperOnSmol => "",
        Kind::UploadLimit => "uploads",
        _ => "results",
    };
    let thread = thread::spawn(move || {
        let (stash, in_flight) = handles;
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all();
        match kind {
            Kind::Axum => runtime.build().unwrap().block_on(async {
                recipes::axum_server::serve(tokio(listener), stash, signalled, patience).await
            }),
            Kind::UploadLimit => runtime.build().unwrap().block_on(async {
                let listener = tokio(listener);
                recipes::upload_limit::serve(listener, in_flight, stash, signalled, patience).await
            }),
            Kind::HyperOnSmol => smol::block_on(async {
                let listener = smol::Async::new(listener).unwrap().into();
                recipes::hyper_on_smol::serve(listener, stash, signalled, patience).await
            }),
            #[cfg(feature = "actix")]
            Kind::Actix => actix_web::rt::System::new()
                .block_on(recipes::actix_server::serve(listener, stash, signalled, patience)),
        }
        .unwrap();
    });
    Server { path, address, stash, in_flight, signal, thread }
}

impl Server {
    fn url(&self, ticket: &str) -> String {
        let path = [self.path, ticket].into_iter().filter(|it| !it.is_empty());
        format!("http://{}/{}", self.address, path.collect::<Vec<_>>().join("/"))
    }

    async fn post(&self, client: &Client, body: impl Into<Body>) -> Response {
        let request = client.post(self.url("")).header("x-user", "alice").body(body);
        ends(request.send()).await.unwrap()
    }

    async fn fetch(&self, client: &Client, user: &str, ticket: &str) -> (u16, Bytes) {
        let request = client.get(self.url(ticket)).header("x-user", user);
        let response = ends(request.send()).await.unwrap();
        (response.status().as_u16(), ends(response.bytes()).await.unwrap())
    }

    async fn ends(self) {
        drop(self.signal);
        let thread = self.thread;
        ends(tokio::task::spawn_blocking(move || thread.join().unwrap())).await.unwrap();
    }
}

/// Stores a result of so many rows, and returns its ticket.
async fn store(server: &Server, client: &Client, kind: Kind, count: u64) -> String {
    let body: Body = match kind {
        Kind::UploadLimit => rows(count).into(),
        _ => count.to_string().into(),
    };
    let response = server.post(client, body).await;
    assert_eq!(response.status(), 201);
    response.text().await.unwrap()
}

async fn converses(kind: Kind) {
    let (server, client) = (start(kind, LONG), Client::new());
    let ticket = store(&server, &client, kind, 70_000).await;
    assert_eq!(server.stash.used_bytes(), 70_000);
    assert_eq!(server.fetch(&client, "bob", &ticket).await.0, 404, "another user's");
    assert!(matches!(server.fetch(&client, "alice", "nonsense").await.0, 400 | 404));
    assert_eq!(server.fetch(&client, "alice", &ticket).await, (200, rows(70_000)));
    assert_eq!(server.fetch(&client, "alice", &ticket).await.0, 404, "once");
    eventually("all is given back", || server.stash.used_bytes() == 0).await;
    server.ends().await;
}

async fn refuses_what_never_fits(kind: Kind) {
    let (server, client) = (start(kind, LONG), Client::new());
    let body = if kind == Kind::UploadLimit {
        Body::from(rows(IN_FLIGHT + 1))
    } else {
        (61 << 20).to_string().into()
    };
    assert_eq!(server.post(&client, body).await.status(), 413);
    assert_eq!((server.stash.used_bytes(), server.in_flight.used()), (0, 0));
    server.ends().await;
}

/// A client that disconnects in the middle can fetch the whole result again.
async fn puts_back_what_was_not_delivered(kind: Kind) {
    let (server, client) = (start(kind, LONG), Client::new());
    // Larger than the buffers of a connection, and so than an upload may be here.
    let ticket = if kind == Kind::UploadLimit {
        server.stash.try_put("alice".into(), rows(40 << 20)).unwrap().to_string()
    } else {
        store(&server, &client, kind, 40 << 20).await
    };
    let request = client.get(server.url(&ticket)).header("x-user", "alice");
    let mut response = request.send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    drop(response);
    eventually("it is put back", || server.stash.stats().put_back == 1).await;
    assert!(server.fetch(&client, "alice", &ticket).await == (200, rows(40 << 20)));
    server.ends().await;
}

/// A ticket from before the signal is fetched after it, on a new connection.
async fn loses_nothing_at_shutdown(kind: Kind) {
    let (mut server, client) = (start(kind, LONG), Client::new());
    let ticket = store(&server, &client, kind, 70_000).await;
    let signal = std::mem::replace(&mut server.signal, oneshot::channel().0);
    signal.send(()).unwrap();
    eventually("the signal has arrived", || {
        server.stash.is_closed() || server.in_flight.is_closed()
    })
    .await;
    let late = Client::new();
    let refused = server.post(&late, "10").await;
    assert_eq!(refused.status(), 503, "nothing new");
    assert_eq!(server.fetch(&late, "alice", &ticket).await, (200, rows(70_000)));
    let (stash, address) = (server.stash.clone(), server.address);
    drop((client, late));
    server.ends().await;
    let stats = stash.stats();
    assert_eq!((stats.delivered, stats.cleared, stats.entries), (1, 0, 0));
    assert!(std::net::TcpStream::connect(address).is_err(), "it is gone");
}

async fn waits_no_longer_than_its_patience(kind: Kind) {
    let (server, client) = (start(kind, Duration::from_millis(50)), Client::new());
    store(&server, &client, kind, 1_000).await;
    drop(client);
    let stash = server.stash.clone();
    server.ends().await;
    assert_eq!((stash.stats().cleared, stash.used_bytes()), (1, 0));
}

macro_rules! with_each_server {
    ($($(#[$on:meta])* $name:ident: $kind:expr;)*) => {$($(#[$on])* mod $name {
        use super::*;

        #[tokio::test]
        async fn converses() {
            super::converses($kind).await;
        }

        #[tokio::test]
        async fn refuses_what_never_fits() {
            super::refuses_what_never_fits($kind).await;
        }

        #[tokio::test]
        async fn puts_back_what_was_not_delivered() {
            super::puts_back_what_was_not_delivered($kind).await;
        }

        #[tokio::test]
        async fn loses_nothing_at_shutdown() {
            super::loses_nothing_at_shutdown($kind).await;
        }

        #[tokio::test]
        async fn waits_no_longer_than_its_patience() {
            super::waits_no_longer_than_its_patience($kind).await;
        }
    })*};
}

with_each_server! {
    axum: Kind::Axum;
    hyper_on_smol: Kind::HyperOnSmol;
    upload_limit: Kind::UploadLimit;
    #[cfg(feature = "actix")]
    actix: Kind::Actix;
}

/// An upload that does not fit with those in flight waits, and is stored when they are.
#[tokio::test]
async fn uploads_wait_for_those_in_flight() {
    let (server, client) = (start(Kind::UploadLimit, LONG), Client::new());
    let held = server.in_flight.try_acquire(IN_FLIGHT - 10).unwrap();
    let upload = server.post(&client, rows(11));
    let release = async {
        eventually("it waits", || server.in_flight.waiting() == 1).await;
        assert_eq!(server.stash.len(), 0);
        drop(held);
    };
    let (response, ()) = tokio::join!(upload, release);
    assert_eq!(response.status(), 201);
    let ticket = response.text().await.unwrap();
    assert_eq!(server.fetch(&client, "alice", &ticket).await, (200, rows(11)));
    eventually("all is given back", || server.in_flight.used() == 0).await;
    server.ends().await;
}
