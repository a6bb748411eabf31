//! A layer that bounds the bytes of the requests in flight.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http_body::{Body, Frame, SizeHint};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::budget::{Acquire, Budget, Permit};
use crate::error::{AcquireError, Refusal};
use crate::give_up::{Never, Until};
// User code, which no model explores.
use std::sync::Arc;

type Charge = dyn Fn(&Parts) -> u64 + Send + Sync;
type BoxSleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Bounds the bytes of the requests in flight by a [`Budget`], first come first served.
///
/// A request is charged before its body is read: its `Content-Length`, or what [`charge`](Self::charge) says.
/// If it does not fit, it waits; [`timeout`](Self::timeout) bounds the wait, and
/// [`refuse_when_full`](Self::refuse_when_full) avoids it. The bytes are released when the body of its response
/// has ended or was dropped: see [`PermitBody`].
///
/// A refused request gets the response that the closure `F` makes of the refusal and the status that
/// [`AcquireError::http_status`] suggests: 413 for a request that can never fit, 503 for others. The service behind
/// the layer does not see it.
///
/// Requests of 0 bytes are not charged and pass even when the budget is closed, so that after a
/// [`Budget::close`] no upload begins, and results can still be fetched.
///
/// # What the charge does not bound
///
/// A body without a `Content-Length`, or with a `Transfer-Encoding`, which overrides it, is charged the whole limit,
/// and its length is not checked: bound it where it is read (axum's `DefaultBodyLimit`), and charge that bound. If the
/// limit is lowered while such a request waits, it is refused with 413. The layer counts what the client announced. It
/// does not count the copies that the service makes.
///
/// # Fairness
///
/// That of [`Budget::acquire`]: no request overtakes one that waits, however small it is. A waiting request holds
/// the service that was ready for it, so place this layer outside a limit on concurrency.
///
/// # Cancel safety
///
/// A server that drops the response future, because the client went away, leaves the queue or releases the bytes.
///
/// # Examples
///
/// As `Router::layer` of axum takes it:
///
/// ```
/// # use std::{convert::Infallible, time::Duration};
/// # use cloakroom::{Budget, RequestBytesLayer};
/// # use http::{Request, Response, StatusCode};
/// # use http_body_util::{Empty, Full};
/// # use bytes::Bytes;
/// # use tower_layer::Layer;
/// # use tower_service::Service;
/// # #[derive(Clone)] struct Upload;
/// # impl Service<Request<Empty<Bytes>>> for Upload {
/// #     type Response = Response<Full<Bytes>>;
/// #     type Error = Infallible;
/// #     type Future = std::future::Ready<Result<Self::Response, Infallible>>;
/// #     fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
/// #         Ok(()).into()
/// #     }
/// #     fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
/// #         std::future::ready(Ok(Response::default()))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let budget = Budget::new(64 << 20);
/// let layer = RequestBytesLayer::new(budget.clone(), |refused, status| {
///     let body = Full::from(refused.to_string());
///     Response::builder().status(status).body(body).unwrap()
/// })
/// .timeout(|| tokio::time::sleep(Duration::from_secs(5)));
///
/// let mut service = layer.layer(Upload);
/// let upload = Request::builder().header("content-length", 1 << 20).body(Empty::new()).unwrap();
/// let response = service.call(upload).await.unwrap();
/// assert_eq!(budget.used(), 1 << 20); // until the response has been sent
/// drop(response);
/// assert_eq!(budget.used(), 0);
///
/// let too_large = Request::builder().header("content-length", 65 << 20).body(Empty::new()).unwrap();
/// let response = service.call(too_large).await.unwrap();
/// assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
/// # }
/// ```
pub struct RequestBytesLayer<F> {
    budget: Budget,
    charge: Option<Arc<Charge>>,
    wait: Wait,
    answer: Arc<F>,
}

/// Selects how long a request that does not fit may wait.
#[derive(Clone)]
enum Wait {
    Unbounded,
    Bounded(Arc<dyn Fn() -> BoxSleep + Send + Sync>),
    Refuse,
}

impl<F> RequestBytesLayer<F> {
    /// Makes a layer on `budget`. `answer` makes the response to a request that is refused.
    ///
    /// A clone of the budget can be shared with other layers and other code, and closes or resizes it. The budget of
    /// a stash ([`Stash::budget`](crate::Stash::budget)) counts uploads and stored results against one limit.
    pub fn new<B>(budget: Budget, answer: F) -> Self
    where
        F: Fn(AcquireError, StatusCode) -> Response<B>,
    {
        Self { budget, charge: None, wait: Wait::Unbounded, answer: Arc::new(answer) }
    }

    /// Charges what `bytes` answers for the head of a request, instead of its `Content-Length`.
    ///
    /// # Examples
    ///
    /// A compressed upload takes more memory than it has bytes:
    ///
    /// ```
    /// # use cloakroom::{Budget, RequestBytesLayer};
    /// # use http::Response;
    /// # let layer = RequestBytesLayer::new(Budget::new(1), |_, _| Response::new(()));
    /// let layer = layer.charge(|request| {
    ///     let sent = request.headers.get("content-length").and_then(|it| it.to_str().ok()?.parse().ok());
    ///     10 * sent.unwrap_or(1 << 20)
    /// });
    /// ```
    #[must_use]
    pub fn charge(mut self, bytes: impl Fn(&Parts) -> u64 + Send + Sync + 'static) -> Self {
        self.charge = Some(Arc::new(bytes));
        self
    }

    /// Refuses a request with 503 when the future that `sleep` makes completes before the grant.
    ///
    /// `sleep` is called for requests that do not fit immediately: a timer of any runtime, or a signal to shut down.
    /// Requests that can never fit are refused without it. Replaces [`refuse_when_full`](Self::refuse_when_full).
    #[must_use]
    pub fn timeout<T>(mut self, sleep: impl Fn() -> T + Send + Sync + 'static) -> Self
    where
        T: Future + Send + 'static,
    {
        self.wait = Wait::Bounded(Arc::new(move || {
            let sleep = sleep();
            Box::pin(async {
                sleep.await;
            })
        }));
        self
    }

    /// Refuses a request that does not fit now with 503, instead of letting it wait.
    ///
    /// Replaces [`timeout`](Self::timeout).
    #[must_use]
    pub fn refuse_when_full(mut self) -> Self {
        self.wait = Wait::Refuse;
        self
    }

    fn bytes_of(&self, head: &Parts, body: &SizeHint) -> u64 {
        if let Some(charge) = &self.charge {
            return charge(head);
        }
        // The framing overrides the length (RFC 9112), and not every server removes it then.
        let framed = head.headers.contains_key(TRANSFER_ENCODING);
        let length = head.headers.get(CONTENT_LENGTH).filter(|_| !framed);
        let announced = || length?.to_str().ok()?.trim().parse().ok();
        // Servers know from the framing that a request has no body, and say so in the hint.
        // At least one byte: 0 bytes would pass uncharged when the limit is 0.
        announced().or_else(|| body.exact()).unwrap_or_else(|| self.budget.limit().max(1))
    }

    /// The request for bytes, to be polled. It makes no attempt before.
    fn acquire(&self, bytes: u64) -> BoundedAcquire {
        let sleep = match &self.wait {
            Wait::Bounded(sleep) => Some(sleep()),
            Wait::Unbounded | Wait::Refuse => None,
        };
        self.budget.acquire_owned(bytes).timeout(MaybeSleep { sleep })
    }

    fn answer(&self) -> Arc<F> {
        Arc::clone(&self.answer)
    }
}

impl<F> Clone for RequestBytesLayer<F> {
    fn clone(&self) -> Self {
        Self {
            budget: self.budget.clone(),
            charge: self.charge.clone(),
            wait: self.wait.clone(),
            answer: Arc::clone(&self.answer),
        }
    }
}

impl<F> fmt::Debug for RequestBytesLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBytesLayer").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl<S, F> Layer<S> for RequestBytesLayer<F> {
    type Service = RequestBytesService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestBytesService { inner, limit: self.clone() }
    }
}

/// Charges requests before it passes them to a service. Made by [`RequestBytesLayer`].
pub struct RequestBytesService<S, F> {
    inner: S,
    limit: RequestBytesLayer<F>,
}

impl<S: Clone, F> Clone for RequestBytesService<S, F> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), limit: self.limit.clone() }
    }
}

impl<S: fmt::Debug, F> fmt::Debug for RequestBytesService<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBytesService")
            .field("inner", &self.inner)
            .field("limit", &self.limit)
            .finish()
    }
}

impl<S, F, Q, B> Service<Request<Q>> for RequestBytesService<S, F>
where
    S: Service<Request<Q>, Response = Response<B>> + Clone,
    F: Fn(AcquireError, StatusCode) -> Response<B>,
    Q: Body,
{
    type Response = Response<PermitBody<B>>;
    type Error = S::Error;
    type Future = RequestBytesFuture<S, Q, F>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (head, body) = request.into_parts();
        let bytes = self.limit.bytes_of(&head, &body.size_hint());
        let request = Request::from_parts(head, body);
        if bytes == 0 {
            return RequestBytesFuture { state: State::called(&mut self.inner, request, None) };
        }
        let budget = &self.limit.budget;
        let permit = match self.limit.wait {
            Wait::Refuse => budget.try_acquire(bytes).map_err(Some),
            Wait::Bounded(_) | Wait::Unbounded => budget.acquire_fast(bytes).map_err(|reason| {
                // Without the numbers: a request that waits gets them later, if it is refused.
                (reason != Refusal::Full).then(|| budget.refusal(reason, bytes))
            }),
        };
        let state = match permit {
            Ok(permit) => State::called(&mut self.inner, request, Some(permit.into_owned())),
            Err(Some(refused)) => State::Refused { answer: Some((refused, self.limit.answer())) },
            Err(None) => {
                // The service that `poll_ready` made ready is the one that is called.
                let inner = self.inner.clone();
                let ready = mem::replace(&mut self.inner, inner);
                State::Waiting {
                    acquire: self.limit.acquire(bytes),
                    call: Some((ready, request, self.limit.answer())),
                }
            }
        };
        RequestBytesFuture { state }
    }
}

type BoundedAcquire = Acquire<'static, Until<Never, MaybeSleep>>;

/// A bound on a wait, if there is one.
struct MaybeSleep {
    sleep: Option<BoxSleep>,
}

impl Future for MaybeSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx))
    }
}

pin_project! {
    /// Waits for a request's bytes, then for its response. The future of [`RequestBytesService`].
    ///
    /// # Panics
    ///
    /// If it is polled again after it has completed.
    #[must_use = "futures do nothing unless they are polled"]
    pub struct RequestBytesFuture<S, Q, F>
    where
        S: Service<Request<Q>>,
    {
        #[pin]
        state: State<S, S::Future, Q, F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, R, Q, F> {
        Waiting {
            #[pin]
            acquire: BoundedAcquire,
            call: Option<(S, Request<Q>, Arc<F>)>,
        },
        Called {
            #[pin]
            response: R,
            permit: Option<Permit<'static>>,
        },
        Refused { answer: Option<(AcquireError, Arc<F>)> },
    }
}

impl<S, R, Q, F> State<S, R, Q, F>
where
    S: Service<Request<Q>, Future = R>,
{
    fn called(service: &mut S, request: Request<Q>, permit: Option<Permit<'static>>) -> Self {
        Self::Called { response: service.call(request), permit }
    }
}

impl<S, F, Q, B> Future for RequestBytesFuture<S, Q, F>
where
    S: Service<Request<Q>, Response = Response<B>>,
    F: Fn(AcquireError, StatusCode) -> Response<B>,
{
    type Output = Result<Response<PermitBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Waiting { acquire, call } => {
                    let acquired = ready!(acquire.poll(cx));
                    let (mut service, request, answer) = call.take().expect("waits once");
                    state.set(match acquired {
                        Ok(permit) => State::called(&mut service, request, Some(permit)),
                        Err(refused) => State::Refused { answer: Some((refused, answer)) },
                    });
                }
                StateProjection::Called { response, permit } => {
                    let response = ready!(response.poll(cx))?;
                    let permit = permit.take();
                    return Poll::Ready(Ok(response.map(|body| PermitBody { body, permit })));
                }
                StateProjection::Refused { answer } => {
                    let (refused, answer) = answer.take().expect("polled after it had completed");
                    let status = StatusCode::from_u16(refused.http_status()).expect("is a status");
                    let response = answer(refused, status);
                    return Poll::Ready(Ok(response.map(|body| PermitBody { body, permit: None })));
                }
            }
        }
    }
}

impl<S: Service<Request<Q>>, Q, F> fmt::Debug for RequestBytesFuture<S, Q, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBytesFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// Holds a permit until an HTTP body has ended.
    ///
    /// Frames, trailers, errors and the size hint are those of the body inside. The bytes are released when the body
    /// answers that it has ended, or when it is dropped, whichever comes first: a server drops it when the client
    /// goes away. Frames that the server has taken and not yet written are no longer counted.
    ///
    /// # Examples
    ///
    /// ```
    /// # use cloakroom::{Budget, PermitBody};
    /// # use http_body_util::{BodyExt, Full};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), cloakroom::AcquireError> {
    /// let budget = Budget::new(1 << 20);
    /// let permit = budget.acquire_owned(5).await?;
    /// let body = PermitBody::new(Full::<bytes::Bytes>::from("hello"), permit);
    /// assert_eq!(budget.used(), 5);
    /// let hello = body.collect().await.unwrap().to_bytes();
    /// assert_eq!((&hello[..], budget.used()), (&b"hello"[..], 0));
    /// # Ok(()) }
    /// ```
    #[derive(Debug)]
    #[must_use = "a body that is dropped releases its permit"]
    pub struct PermitBody<B> {
        #[pin]
        body: B,
        // `None` if nothing was charged, and when the body has ended. Dropped after the body.
        permit: Option<Permit<'static>>,
    }
}

impl<B> PermitBody<B> {
    /// Makes a body that holds `permit`: see [`Permit::into_owned`].
    pub fn new(body: B, permit: Permit<'static>) -> Self {
        Self { body, permit: Some(permit) }
    }
}

impl<B: Body> Body for PermitBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if frame.is_none() {
            *this.permit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
