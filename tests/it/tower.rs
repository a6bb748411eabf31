//! B20: a layer that bounds the bytes of requests in flight, and a body that holds a permit. Polled by hand, and
//! behind hyper over real connections.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{self, Future, Ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{AcquireError, Budget, PermitBody, RequestBytesFuture, RequestBytesLayer};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tower_layer::Layer;
use tower_service::Service;

use crate::fixtures::SECOND;

type Answer<B = Full<Bytes>> = fn(AcquireError, StatusCode) -> Response<B>;

/// The reason as the body.
fn answer<B: From<Bytes>>(refused: AcquireError, status: StatusCode) -> Response<B> {
    let reason = Bytes::from(refused.reason().as_str());
    Response::builder().status(status).body(reason.into()).unwrap()
}

fn layer<B: From<Bytes>>(budget: &Budget) -> RequestBytesLayer<Answer<B>> {
    RequestBytesLayer::new(budget.clone(), answer as Answer<B>)
}

/// Writes down the paths that it is called with, and answers them.
#[derive(Clone, Debug, Default)]
struct Echo {
    called: Arc<Mutex<Vec<String>>>,
}

impl<B> Service<Request<B>> for Echo {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        assert!(path != "/panic", "on purpose");
        self.called.lock().unwrap().push(path.clone());
        future::ready(Ok(Response::new(Full::from(path))))
    }
}

fn request(path: &str, bytes: u64) -> Request<Empty<Bytes>> {
    Request::builder().uri(path).header("content-length", bytes).body(Empty::new()).unwrap()
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The output of a future that is ready.
fn now<F: Future>(future: F) -> F::Output {
    match poll(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// Status and body of a response that is ready.
fn read<B: Body<Error: std::fmt::Debug>>(response: Response<B>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = now(response.into_body().collect()).unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

// ---- By hand ---------------------------------------------------------------------------------------

#[test]
fn b20_bytes_are_charged_until_the_response_body_has_ended() {
    let budget = Budget::new(100);
    let mut service = layer(&budget).layer(Echo::default());
    let response = now(service.call(request("/a", 60))).unwrap();
    assert_eq!((response.status(), budget.used()), (StatusCode::OK, 60));
    let mut body = response.into_body();
    let frame = now(body.frame()).unwrap().unwrap();
    assert_eq!((frame.into_data().unwrap(), budget.used()), (Bytes::from("/a"), 60));
    assert!(now(body.frame()).is_none());
    assert_eq!(budget.used(), 0, "at its end, before it is dropped");

    let response = now(service.call(request("/b", 70))).unwrap();
    assert_eq!(budget.used(), 70);
    drop(response);
    assert_eq!(budget.used(), 0, "the client went away");
}

#[test]
fn b20_a_request_is_charged_what_it_announces() {
    let budget = Budget::new(100);
    let charged = |layer: &RequestBytesLayer<Answer>, request: Request<_>| {
        let response = now(layer.layer(Echo::default()).call(request)).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let used = budget.used();
        drop(response);
        used
    };
    let plain = layer(&budget);
    let sized = |bytes: usize| Request::new(Full::from(vec![0; bytes]).boxed());
    let chunked = || {
        let frames = futures_lite::stream::iter([Ok(Frame::data(Bytes::from("x")))]);
        Request::new(StreamBody::new(frames).boxed())
    };
    assert_eq!(charged(&plain, request("/", 7).map(BodyExt::boxed)), 7, "the header");
    assert_eq!(charged(&plain, sized(9)), 9, "else the body's own size");
    assert_eq!(charged(&plain, sized(0)), 0, "no body");
    assert_eq!(charged(&plain, chunked()), 100, "all of it if nobody knows");
    let mut request = sized(9);
    request.headers_mut().insert("content-length", "many".parse().unwrap());
    assert_eq!(charged(&plain, request), 9, "not a number");
    let mut request = chunked();
    request.headers_mut().insert("content-length", "0".parse().unwrap());
    request.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
    assert_eq!(charged(&plain, request), 100, "the framing overrides the length");

    let priced = layer(&budget).charge(|head| head.uri.path().len() as u64 * 10);
    assert_eq!(charged(&priced, sized(50)), 10, "the closure, whatever the size");
    assert_eq!(charged(&priced, chunked()), 10);
}

#[test]
fn b20_requests_wait_first_come_first_served() {
    let budget = Budget::new(100);
    let echo = Echo::default();
    let mut service = layer(&budget).layer(echo.clone());
    let first = now(service.call(request("/1", 60))).unwrap();
    let mut large = pin!(service.call(request("/2", 90)));
    assert!(poll(large.as_mut()).is_pending());
    let mut small = pin!(service.call(request("/3", 5)));
    assert!(poll(small.as_mut()).is_pending());
    assert_eq!((budget.used(), budget.waiting()), (60, 2), "the small one does not overtake");
    drop(first);
    let (Poll::Ready(large), Poll::Ready(small)) = (poll(large), poll(small)) else {
        panic!("both fit")
    };
    assert_eq!(budget.used(), 95);
    assert_eq!(
        (read(large.unwrap()), read(small.unwrap())),
        ((200, "/2".into()), (200, "/3".into()))
    );
    assert_eq!(*echo.called.lock().unwrap(), ["/1", "/2", "/3"]);
    assert_eq!(budget.used(), 0);
}

#[test]
fn b20_a_dropped_request_leaves_the_queue_and_a_granted_one_gives_back() {
    let budget = Budget::new(100);
    let echo = Echo::default();
    let mut service = layer(&budget).layer(echo.clone());
    let held = budget.try_acquire(60).unwrap();
    let mut head = Box::pin(service.call(request("/head", 90)));
    assert!(poll(head.as_mut()).is_pending());
    let mut next = Box::pin(service.call(request("/next", 40)));
    assert!(poll(next.as_mut()).is_pending());
    drop(head);
    assert_eq!((budget.used(), budget.waiting()), (100, 0), "the next one fits");
    drop(next);
    drop(held);
    assert_eq!((budget.used(), echo.called.lock().unwrap().len()), (0, 0));
}

#[test]
fn b20_what_can_never_fit_is_413_and_the_service_is_not_called() {
    let budget = Budget::new(100);
    let echo = Echo::default();
    for layer in [layer(&budget), layer(&budget).refuse_when_full()] {
        let response = now(layer.layer(echo.clone()).call(request("/", 101))).unwrap();
        assert_eq!(read(response), (413, "too_large".into()));
    }
    assert!(echo.called.lock().unwrap().is_empty());
    assert_eq!(budget.used(), 0);
}

/// The whole limit is then 0 bytes, which pass if a request is charged as much.
#[test]
fn b20_with_a_limit_of_zero_a_body_of_unknown_length_does_not_pass() {
    let budget = Budget::new(100);
    let echo = Echo::default();
    let mut service = layer(&budget).layer(echo.clone());
    budget.set_limit(0);
    let pieces =
        || StreamBody::new(futures_lite::stream::empty::<Result<Frame<Bytes>, Infallible>>());
    let response = now(service.call(Request::new(pieces()))).unwrap();
    assert_eq!(read(response), (413, "too_large".into()));
    budget.close();
    let response = now(service.call(Request::new(pieces()))).unwrap();
    assert_eq!(read(response), (503, "closed".into()));
    assert!(echo.called.lock().unwrap().is_empty());
}

#[test]
fn b20_no_timer_is_started_for_a_request_that_does_not_wait() {
    let budget = Budget::new(100);
    let sleeps = Arc::new(AtomicUsize::new(0));
    let layer = layer(&budget).timeout({
        let sleeps = sleeps.clone();
        move || {
            sleeps.fetch_add(1, SeqCst);
            future::pending::<()>()
        }
    });
    let mut service = layer.layer(Echo::default());
    assert_eq!(read(now(service.call(request("/", 101))).unwrap()), (413, "too_large".into()));
    budget.close();
    assert_eq!(read(now(service.call(request("/", 1))).unwrap()), (503, "closed".into()));
    assert_eq!(sleeps.load(SeqCst), 0);
}

#[test]
fn b20_refused_when_full_instead_of_waiting() {
    let budget = Budget::new(100);
    let echo = Echo::default();
    let mut service = layer(&budget).refuse_when_full().layer(echo.clone());
    let held = budget.try_acquire(60).unwrap();
    assert_eq!(read(now(service.call(request("/", 41))).unwrap()), (503, "full".into()));
    assert_eq!((budget.waiting(), echo.called.lock().unwrap().len()), (0, 0));
    assert_eq!(read(now(service.call(request("/fits", 40))).unwrap()), (200, "/fits".into()));
    drop(held);
}

#[test]
fn b20_a_wait_ends_at_its_timeout() {
    let budget = Budget::new(100);
    let over = Arc::new(AtomicBool::new(false));
    let sleeps = Arc::new(AtomicUsize::new(0));
    let layer = layer(&budget).refuse_when_full().timeout({
        let (over, sleeps) = (over.clone(), sleeps.clone());
        move || {
            sleeps.fetch_add(1, SeqCst);
            let over = over.clone();
            future::poll_fn(
                move |_| if over.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending },
            )
        }
    });
    let mut service = layer.layer(Echo::default());
    drop(now(service.call(request("/", 60))));
    assert_eq!(sleeps.load(SeqCst), 0, "it did not wait");
    let held = budget.try_acquire(60).unwrap();
    let mut waiting = pin!(service.call(request("/", 60)));
    assert!(poll(waiting.as_mut()).is_pending());
    assert_eq!(sleeps.load(SeqCst), 1);
    over.store(true, SeqCst);
    let Poll::Ready(response) = poll(waiting) else { panic!("its time is over") };
    assert_eq!(read(response.unwrap()), (503, "timed_out".into()));
    assert_eq!((budget.used(), budget.waiting()), (60, 0));
    drop(held);
}

#[test]
fn b20_a_closed_budget_refuses_uploads_and_lets_requests_without_a_body_pass() {
    let budget = Budget::new(100);
    let mut service = layer(&budget).layer(Echo::default());
    let held = now(service.call(request("/running", 100))).unwrap();
    let mut waiting = pin!(service.call(request("/waiting", 1)));
    assert!(poll(waiting.as_mut()).is_pending());
    let fetch = Request::builder().uri("/fetch").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(read(now(service.call(fetch.clone())).unwrap()), (200, "/fetch".into()), "full");
    assert_eq!(budget.close(), 1);
    let Poll::Ready(refused) = poll(waiting) else { panic!("closed") };
    assert_eq!(read(refused.unwrap()), (503, "closed".into()));
    assert_eq!(read(now(service.call(request("/late", 1))).unwrap()), (503, "closed".into()));
    assert_eq!(read(now(service.call(fetch)).unwrap()), (200, "/fetch".into()));
    assert_eq!(read(held), (200, "/running".into()));
    now(budget.drained());
}

#[test]
fn b20_a_service_that_fails_or_panics_gives_the_bytes_back() {
    #[derive(Clone)]
    struct Fails;
    impl Service<Request<Empty<Bytes>>> for Fails {
        type Response = Response<Full<Bytes>>;
        type Error = &'static str;
        type Future = Ready<Result<Self::Response, &'static str>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("not ready"))
        }
        fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
            future::ready(Err("failed"))
        }
    }
    let budget = Budget::new(100);
    let mut service = layer(&budget).layer(Fails);
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert_eq!(ready, Poll::Ready(Err("not ready")));
    assert_eq!(now(service.call(request("/", 60))).unwrap_err(), "failed");
    assert_eq!(budget.used(), 0);

    let mut service = layer(&budget).layer(Echo::default());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(service.call(request("/panic", 60))))).is_err());
    assert_eq!(budget.used(), 0, "at once");
    let held = budget.try_acquire(60).unwrap();
    let mut waiting = Box::pin(service.call(request("/panic", 60)));
    assert!(poll(waiting.as_mut()).is_pending());
    drop(held);
    assert!(catch_unwind(AssertUnwindSafe(|| poll(waiting.as_mut()))).is_err());
    drop(waiting);
    assert_eq!(budget.used(), 0, "after a wait");
}

#[test]
fn b20_the_service_that_was_made_ready_is_the_one_that_is_called() {
    /// Counts what was made ready and not called; a clone begins at none.
    struct Counts(u32);
    impl Clone for Counts {
        fn clone(&self) -> Self {
            Self(0)
        }
    }
    impl<B> Service<Request<B>> for Counts {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 += 1;
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<B>) -> Self::Future {
            self.0 = self.0.checked_sub(1).expect("called without being ready");
            future::ready(Ok(Response::default()))
        }
    }
    let budget = Budget::new(100);
    let mut service = layer(&budget).layer(Counts(0));
    let ready = |service: &mut _| {
        Service::<Request<Empty<Bytes>>>::poll_ready(
            service,
            &mut Context::from_waker(Waker::noop()),
        )
    };
    assert!(ready(&mut service).is_ready());
    let held = now(service.call(request("/", 60))).unwrap();
    assert!(ready(&mut service).is_ready());
    let mut waiting = pin!(service.call(request("/", 60)));
    assert!(poll(waiting.as_mut()).is_pending());
    drop(held);
    assert!(poll(waiting).is_ready());
}

#[test]
fn b20_its_future_can_be_named_sent_and_spawned() {
    fn is_send<T: Send + 'static>(future: T) -> T {
        future
    }
    struct Field {
        future: RequestBytesFuture<Echo, Empty<Bytes>, Answer>,
    }
    let budget = Budget::new(100);
    let mut service = is_send(layer(&budget).layer(Echo::default()));
    let field = Field { future: is_send(service.call(request("/", 1))) };
    assert_eq!(read(now(field.future).unwrap()), (200, "/".into()));
    let lists = (format!("{service:?}"), format!("{:?}", service.call(request("/", 1))));
    assert!(lists.0.contains("RequestBytesLayer") && lists.1.contains("RequestBytesFuture"));
}

// ---- PermitBody ------------------------------------------------------------------------------------

/// A body of given frames, of 3 to 77 bytes.
struct Frames {
    left: VecDeque<Result<Frame<Bytes>, &'static str>>,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(self.left.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(3);
        hint.set_upper(77);
        hint
    }
}

#[test]
fn b20_a_permit_body_is_its_body_and_holds_the_permit_to_its_end() {
    let budget = Budget::new(100);
    let trailers = HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]);
    let left = [Ok(Frame::data(Bytes::from("abc"))), Err("broken"), Ok(Frame::trailers(trailers))];
    let frames = Frames { left: left.into() };
    let mut body = PermitBody::new(frames, budget.try_acquire(60).unwrap().into_owned());
    assert_eq!((body.size_hint().lower(), body.size_hint().upper()), (3, Some(77)));
    assert_eq!((body.is_end_stream(), budget.used()), (false, 60));
    assert_eq!(now(body.frame()).unwrap().unwrap().into_data().unwrap(), "abc");
    assert_eq!(now(body.frame()).unwrap().unwrap_err(), "broken");
    assert_eq!((body.is_end_stream(), budget.used()), (false, 60));
    assert_eq!(now(body.frame()).unwrap().unwrap().into_trailers().unwrap()["etag"], "x");
    assert_eq!((body.is_end_stream(), budget.used()), (true, 60));
    assert!(now(body.frame()).is_none() && now(body.frame()).is_none());
    assert_eq!(budget.used(), 0);

    let body = PermitBody::new(Full::from("abc"), budget.try_acquire(50).unwrap().into_owned());
    assert_eq!((Body::size_hint(&body).exact(), budget.used()), (Some(3), 50));
    drop::<PermitBody<Full<Bytes>>>(body);
    assert_eq!(budget.used(), 0, "never polled");
}

// ---- hyper -----------------------------------------------------------------------------------------

/// A hyper service of a tower one.
#[derive(Clone)]
struct ToHyper<S>(S);

impl<S: Service<Request<Incoming>> + Clone> hyper::service::Service<Request<Incoming>>
    for ToHyper<S>
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.0.clone().call(request)
    }
}

/// A body of many frames: hyper drops one of a single frame as soon as it has taken that.
struct Pieces(Bytes);

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.len().min(64 << 10);
        let piece = self.0.split_to(next);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }
}

/// Reads the whole upload, and answers in many frames. Records the most bytes it held at once.
#[derive(Clone, Default)]
struct Upload {
    held: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Service<Request<Incoming>> for Upload {
    type Response = Response<Pieces>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let Self { held, most } = self.clone();
        Box::pin(async move {
            let upload = request.into_body().collect().await?.to_bytes();
            most.fetch_max(held.fetch_add(upload.len(), SeqCst) + upload.len(), SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
            held.fetch_sub(upload.len(), SeqCst);
            // Large answers to small uploads, so that a client can leave in the middle of one.
            let answer = if upload.len() == 1 { 40 << 20 } else { 3 };
            Ok(Response::new(Pieces(vec![7; answer].into())))
        })
    }
}

async fn serve(upload: Upload, layer: RequestBytesLayer<Answer<Pieces>>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = ToHyper(layer.layer(upload));
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service.clone());
            tokio::spawn(connection);
        }
    });
    address
}

/// Sends an upload on a connection of its own.
async fn post(
    address: std::net::SocketAddr,
    bytes: usize,
) -> Result<Response<Incoming>, hyper::Error> {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let body = Full::<Bytes>::from(vec![1; bytes]);
    sender.send_request(Request::post("/").header("host", "localhost").body(body).unwrap()).await
}

/// Waits until it holds, for ten seconds at most.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(10 * SECOND, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b20_uploads_over_real_connections_never_exceed_the_budget() {
    let budget = Budget::new(100_000);
    let upload = Upload::default();
    let address = serve(upload.clone(), layer(&budget)).await;
    let clients = (0..60).map(|at| {
        tokio::spawn(async move {
            let response = post(address, 10_000 + 1_000 * at).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 3);
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let most = upload.most.load(SeqCst);
    assert!((10_000..=100_000).contains(&most), "{most} bytes were held at once");
    assert!(budget.stats().peak <= 100_000 && budget.stats().peak >= most as u64);
    let refused = post(address, 100_001).await.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    eventually("all bytes are given back", || budget.used() == 0).await;
}

/// A client may announce a length and send chunks: the chunks count, and their length is not known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b20_a_length_beside_chunks_does_not_let_an_upload_pass() {
    let budget = Budget::new(1_000);
    let upload = Upload::default();
    let address = serve(upload.clone(), layer(&budget)).await;
    let part = budget.try_acquire(1).unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = "host: localhost\r\ncontent-length: 0\r\ntransfer-encoding: chunked";
    let text = format!("POST / HTTP/1.1\r\n{head}\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    socket.write_all(text.as_bytes()).await.unwrap();
    let most = || upload.most.load(SeqCst);
    eventually("it waits or is read", || budget.waiting() == 1 || most() > 0).await;
    assert_eq!((budget.waiting(), most()), (1, 0));
    drop(part);
    eventually("it is read", || most() == 3).await;
    drop(socket);
    eventually("all bytes are given back", || budget.used() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b20_clients_that_go_away_give_their_bytes_and_their_place_back() {
    let budget = Budget::new(100_000);
    let address = serve(Upload::default(), layer(&budget)).await;
    // In the middle of a response that no buffer can hold.
    let response = post(address, 1).await.unwrap();
    assert_eq!(budget.used(), 1, "charged until the last frame is written");
    drop(response);
    eventually("the response was dropped", || budget.used() == 0).await;
    // In the queue.
    let held = budget.try_acquire(99_999).unwrap();
    let waiting = tokio::spawn(async move { post(address, 5_000).await.map(drop) });
    eventually("it waits", || budget.waiting() == 1).await;
    waiting.abort();
    eventually("it has left", || budget.waiting() == 0).await;
    drop(held);
    assert_eq!(budget.used(), 0);
}
