//! B3: a claim as an HTTP body, polled by hand and by hyper over real connections. Delivered at the end of
//! the stream, put back when the client goes away before.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{ClaimBody, ManualClock, OnDrop, Stash, Ticket};
use http_body::Body;
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::Incoming;
use hyper::header::CONTENT_LENGTH;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

type TestStash = Stash<Vec<u8>>;

const TTL: Duration = Duration::from_secs(600);
/// What the buffers of both ends of a loopback connection cannot hold.
const LARGE: usize = 40 << 20;

fn test_stash() -> (TestStash, ManualClock) {
    let clock = ManualClock::new();
    let builder = Stash::builder().max_bytes(64 << 20).entry_overhead(8).ttl(TTL);
    (builder.clock(clock.clone()).build().unwrap(), clock)
}

/// Of a period that no frame's or buffer's size divides.
fn payload(size: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..65_521_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    let mut payload = period.repeat(size.div_ceil(period.len()));
    payload.truncate(size);
    payload
}

fn put(stash: &TestStash, size: usize) -> Ticket {
    stash.try_put("alice".into(), payload(size)).unwrap()
}

fn body(stash: &TestStash, ticket: Ticket) -> ClaimBody {
    stash.claim(&ticket, "alice").expect("it is there").into_body()
}

/// The next frame's bytes; `None` at the end of the stream.
fn frame(body: &mut ClaimBody) -> Option<Bytes> {
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => Some(frame?.unwrap().into_data().unwrap()),
        Poll::Pending => panic!("all of it is there"),
    }
}

/// Claims open, delivered, put back.
fn counts(stash: &TestStash) -> (u64, u64, u64) {
    let stats = stash.stats();
    assert_eq!(stats.stored, stats.entries + stats.delivered + stats.expired + stats.cleared);
    (stats.claims, stats.delivered, stats.put_back)
}

// ---- By hand ---------------------------------------------------------------------------------------

#[test]
fn b3_frames_and_hints_are_exact_and_the_end_delivers() {
    let (stash, _) = test_stash();
    for size in [1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 300_000] {
        let ticket = put(&stash, size);
        let mut body = body(&stash, ticket);
        let mut read = Vec::new();
        loop {
            let hint = body.size_hint();
            assert_eq!(hint.exact(), Some((size - read.len()) as u64));
            assert_eq!(body.is_end_stream(), read.len() == size);
            let Some(frame) = frame(&mut body) else { break };
            assert!(!frame.is_empty());
            assert_eq!((stash.used_bytes(), counts(&stash).0), (size as u64 + 8, 1));
            read.extend_from_slice(&frame);
        }
        assert!(frame(&mut body).is_none(), "and again");
        assert!(read == payload(size));
        drop(body);
        assert_eq!((stash.used_bytes(), stash.len()), (0, 0));
        assert!(stash.claim(&ticket, "alice").is_none());
    }
    assert_eq!(counts(&stash), (0, 5, 0));
}

#[test]
fn b3_it_is_charged_until_the_last_frame_is_dropped() {
    let (stash, _) = test_stash();
    let mut body = body(&stash, put(&stash, 200_000));
    let frames: Vec<Bytes> = std::iter::from_fn(|| frame(&mut body)).collect();
    drop(body);
    let last = frames.into_iter().next_back().unwrap();
    assert_eq!((stash.used_bytes(), counts(&stash)), (200_008, (1, 0, 0)));
    std::thread::spawn(move || drop(last)).join().unwrap();
    assert_eq!((stash.used_bytes(), counts(&stash)), (0, (0, 1, 0)));
}

#[test]
fn b3_handing_out_the_last_frame_is_enough_and_less_is_not() {
    let (stash, _) = test_stash();
    // The end of the stream need not be asked for.
    let mut body = body(&stash, put(&stash, 100_000));
    drop((frame(&mut body), frame(&mut body), body));
    assert_eq!(counts(&stash), (0, 1, 0));
    let ticket = put(&stash, 100_000);
    let mut body = self::body(&stash, ticket);
    let first = frame(&mut body).unwrap();
    drop(body);
    assert_eq!(counts(&stash), (1, 1, 0), "a frame is out");
    assert!(stash.claim(&ticket, "alice").is_none());
    drop(first);
    assert_eq!(counts(&stash), (0, 1, 1));
    assert!(stash.take(&ticket, "alice").unwrap() == payload(100_000));
}

#[test]
fn b3_never_polled_it_is_put_back_again_and_again() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 10);
    for _ in 0..3 {
        let body = body(&stash, ticket);
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(10), false));
        drop(body);
    }
    assert_eq!(counts(&stash), (0, 0, 3));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _body = body(&stash, ticket);
        panic!("on purpose");
    }));
    assert!(caught.is_err());
    assert_eq!(stash.take(&ticket, "alice"), Some(payload(10)));
}

#[test]
fn w6_a_body_that_ignores_what_was_said_about_its_drop() {
    let (stash, _) = test_stash();
    for size in [0, 10, 100_000] {
        let ticket = put(&stash, size);
        let claim = stash.claim(&ticket, "alice").unwrap().on_drop(OnDrop::PutBack);
        drop(claim.into_body());
        let claim = stash.claim(&ticket, "alice").expect("put back").on_drop(OnDrop::Finish);
        drop(claim.into_body());
        assert_eq!((stash.len(), stash.used_bytes()), (0, 0));
    }
    assert_eq!(counts(&stash), (0, 3, 3));
}

#[test]
fn w17_an_empty_body_is_delivered_when_it_was_polled_and_kept_when_not() {
    let (stash, _) = test_stash();
    let ticket = put(&stash, 0);
    for kept in 1..=3 {
        let empty = body(&stash, ticket);
        assert_eq!((empty.size_hint().lower(), empty.size_hint().exact()), (0, None));
        assert!(!empty.is_end_stream(), "a server must poll it");
        drop(empty);
        assert_eq!((stash.used_bytes(), counts(&stash)), (8, (0, 0, kept)));
    }
    let mut empty = body(&stash, ticket);
    assert!(frame(&mut empty).is_none());
    assert_eq!((empty.size_hint().exact(), empty.is_end_stream()), (Some(0), true));
    assert!(frame(&mut empty).is_none(), "and again");
    drop(empty);
    assert_eq!((stash.used_bytes(), counts(&stash)), (0, (0, 1, 3)));
}

#[test]
fn b3_cleared_or_expired_meanwhile_it_is_not_put_back_but_can_be_sent() {
    let (stash, clock) = test_stash();
    for cleared in [true, false] {
        let [sent, broken] = [put(&stash, 100_000), put(&stash, 100_000)];
        let (mut sent, mut broken) = (body(&stash, sent), body(&stash, broken));
        drop(frame(&mut broken));
        if cleared {
            assert_eq!(stash.clear(), 0);
        } else {
            clock.advance(TTL);
            assert_eq!(stash.gc(), 0);
        }
        while frame(&mut sent).is_some() {}
        drop((sent, broken));
        assert_eq!((stash.used_bytes(), stash.len()), (0, 0));
    }
    let stats = stash.stats();
    assert_eq!((stats.delivered, stats.cleared, stats.expired, stats.put_back), (2, 1, 1, 0));
}

// ---- Over real connections -------------------------------------------------------------------------

struct Server {
    address: std::net::SocketAddr,
    stash: TestStash,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start() -> Self {
        let (stash, _) = test_stash();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handle = stash.clone();
        let task = tokio::spawn(async move {
            // Dropped, and their connections with them, when this task is.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let stash = handle.clone();
                connections.spawn(async move {
                    let service = service_fn(|request| {
                        let answer = answer(&stash, &request);
                        async { Ok::<_, Infallible>(answer) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    // An error is a client that went away.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, stash, task }
    }

    async fn fetch(&self, method: Method, ticket: Ticket) -> (StatusCode, Option<u64>, Bytes) {
        self.fetch_as(method, ticket, StatusCode::OK).await
    }

    /// Fetches the ticket and asks for an answer with this status.
    async fn fetch_as(
        &self,
        method: Method,
        ticket: Ticket,
        status: StatusCode,
    ) -> (StatusCode, Option<u64>, Bytes) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(format!("/{ticket}?{}", status.as_str()));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (status, length) = (response.status(), response.headers().get(CONTENT_LENGTH));
        let length = length.map(|length| length.to_str().unwrap().parse().unwrap());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        drop(sender);
        connection.await.unwrap().unwrap();
        (status, length, body)
    }

    /// A connection that has asked for the ticket and has read that much of the answer.
    async fn begin(&self, ticket: Ticket, read: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET /{ticket} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_exact(&mut vec![0; read]).await.unwrap();
        stream
    }

    /// Waits until no delivery is under way. The server notices in its own time.
    async fn settle(&self) -> (u64, u64, u64) {
        let settled = async {
            while self.stash.stats().claims > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), settled).await.expect("it never ends");
        counts(&self.stash)
    }
}

/// Answers with the status that the query asks for, and with the claimed payload as the body.
fn answer(
    stash: &TestStash,
    request: &Request<Incoming>,
) -> Response<Either<ClaimBody, Empty<Bytes>>> {
    let status = request.uri().query().map_or("200", |query| query);
    let ticket = request.uri().path()[1..].parse::<Ticket>().ok();
    let response = Response::builder();
    let response = match ticket.and_then(|ticket| stash.claim(&ticket, "alice")) {
        Some(claim) => response.status(status).body(Either::Left(claim.into_body())),
        None => response.status(StatusCode::GONE).body(Either::Right(Empty::new())),
    };
    response.unwrap()
}

#[tokio::test]
async fn b3_a_client_gets_all_of_it_once() {
    let server = Server::start().await;
    for size in [1, 100, 1 << 20] {
        let ticket = put(&server.stash, size);
        let (status, length, body) = server.fetch(Method::GET, ticket).await;
        assert_eq!((status, length), (StatusCode::OK, Some(size as u64)));
        assert!(body == payload(size));
        server.settle().await;
        let (status, _, body) = server.fetch(Method::GET, ticket).await;
        assert_eq!((status, body.len()), (StatusCode::GONE, 0));
    }
    assert_eq!((server.stash.used_bytes(), server.settle().await), (0, (0, 3, 0)));
}

#[tokio::test]
async fn b3_a_client_that_disconnects_in_the_middle_can_fetch_all_of_it_later() {
    let server = Server::start().await;
    let ticket = put(&server.stash, LARGE);
    let charge = LARGE as u64 + 8;
    for broken in 1..=3 {
        let stream = server.begin(ticket, 1 << 20).await;
        assert_eq!(server.stash.used_bytes(), charge, "it is charged while it is sent");
        let (status, ..) = server.fetch(Method::GET, ticket).await;
        assert_eq!(status, StatusCode::GONE, "and nobody else's");
        drop(stream);
        assert_eq!(server.settle().await, (0, 0, broken));
        assert_eq!((server.stash.used_bytes(), server.stash.len()), (charge, 1));
    }
    let (status, length, body) = server.fetch(Method::GET, ticket).await;
    assert_eq!((status, length), (StatusCode::OK, Some(LARGE as u64)));
    assert!(body == payload(LARGE));
    assert_eq!(server.settle().await, (0, 1, 3));
    assert_eq!((server.stash.used_bytes(), server.stash.len()), (0, 0));
}

#[tokio::test]
async fn b3_a_server_that_is_torn_down_puts_back_what_it_was_sending() {
    let server = Server::start().await;
    let ticket = put(&server.stash, LARGE);
    let stream = server.begin(ticket, 1_000).await;
    server.task.abort();
    assert_eq!(server.settle().await, (0, 0, 1));
    drop(stream);
    assert!(server.stash.take(&ticket, "alice").unwrap() == payload(LARGE));
}

#[tokio::test]
async fn w17_an_empty_payload_is_consumed_by_a_get_and_by_no_answer_without_a_body() {
    let server = Server::start().await;
    let without_body = [
        (Method::HEAD, StatusCode::OK),
        (Method::GET, StatusCode::NO_CONTENT),
        (Method::GET, StatusCode::NOT_MODIFIED),
        (Method::HEAD, StatusCode::NOT_MODIFIED),
    ];
    let (mut delivered, mut put_back) = (0, 0);
    for size in [0, 1, 100_000] {
        let ticket = put(&server.stash, size);
        for (method, status) in &without_body {
            let (answered, _, body) = server.fetch_as(method.clone(), ticket, *status).await;
            put_back += 1;
            assert_eq!((answered, body.len()), (*status, 0));
            assert_eq!(server.settle().await, (0, delivered, put_back), "{size} {method} {status}");
        }
        let (status, length, body) = server.fetch(Method::GET, ticket).await;
        delivered += 1;
        assert_eq!((status, body.len()), (StatusCode::OK, size));
        assert_eq!(length, (size > 0).then_some(size as u64));
        assert_eq!(server.settle().await, (0, delivered, put_back), "{size}");
        assert_eq!(server.fetch(Method::GET, ticket).await.0, StatusCode::GONE);
    }
    assert_eq!((server.stash.used_bytes(), server.stash.len()), (0, 0));
}

#[tokio::test]
async fn b3_a_request_for_the_head_leaves_the_payload() {
    let server = Server::start().await;
    let ticket = put(&server.stash, 1_000);
    let (status, length, body) = server.fetch(Method::HEAD, ticket).await;
    assert_eq!((status, length, body.len()), (StatusCode::OK, Some(1_000), 0));
    assert_eq!(server.settle().await, (0, 0, 1));
    let (_, _, body) = server.fetch(Method::GET, ticket).await;
    assert!(body == payload(1_000));
    assert_eq!((server.settle().await, server.stash.used_bytes()), ((0, 1, 1), 0));
}

#[tokio::test]
async fn b3_waiters_are_granted_when_the_last_byte_has_left() {
    let server = Server::start().await;
    let ticket = put(&server.stash, LARGE);
    let stash = server.stash.clone();
    let waiting = tokio::spawn(async move { stash.put("bob".into(), payload(LARGE)).await });
    let mut stream = server.begin(ticket, 1 << 20).await;
    assert!(!waiting.is_finished());
    assert_eq!(server.stash.waiting(), 1);
    let mut rest = vec![0; 1 << 20];
    let mut read = 1 << 20;
    while read < LARGE {
        read += stream.read(&mut rest).await.unwrap();
    }
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    let ticket = waited.expect("never served").unwrap().unwrap();
    assert!(server.stash.take(&ticket, "bob").is_some());
}

/// What servers ask of a body.
#[test]
fn b3_a_body_may_be_boxed() {
    fn fits<B: Body<Data = Bytes, Error = Infallible> + Send + Sync + Unpin + 'static>(
        body: B,
    ) -> B {
        body
    }
    let stash: Stash<Arc<[u8]>, u64> = Stash::builder().max_bytes(1 << 10).build().unwrap();
    let ticket = stash.try_put(7, [7; 10].into()).unwrap();
    let body = fits(stash.claim(&ticket, &7).unwrap().into_body());
    assert_eq!(format!("{body:?}"), "ClaimBody { rest: 10, .. }");
    let boxed = body.boxed();
    assert_eq!(boxed.size_hint().exact(), Some(10));
    drop(boxed);
    assert_eq!(stash.len(), 1);
}
