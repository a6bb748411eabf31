//! hyper on smol, without tokio: `POST /` runs a query and answers with a ticket, `GET /{ticket}` fetches the result.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{AcquireError, ClaimBody, Stash, Ticket};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1, service::service_fn};
use smol::future::{Future, or};
use smol::net::{TcpListener, TcpStream};
use smol::{Timer, channel};
use smol_hyper::rt::FuturesIo;

/// Results, of users. Make it with `Stash::builder().max_bytes(..).ttl(..).build()`.
pub type Results = Stash<Bytes, String>;
type Answer = Response<Either<Full<Bytes>, ClaimBody>>;

/// Serves until `signal` completes, then for at most `patience` until the results have been fetched.
pub async fn serve(
    listener: TcpListener,
    stash: Results,
    signal: impl Future<Output = ()>,
    patience: Duration,
) -> io::Result<()> {
    smol::spawn(stash.reaper().run(|nap| async move { _ = Timer::after(nap).await })).detach();
    let shutdown = async {
        signal.await;
        stash.close(); // no new results; those that are there can still be fetched
        or(stash.drained(), async { _ = Timer::after(patience).await }).await;
        stash.clear();
        io::Result::Ok(())
    };
    // Connections end when `running` is dropped, and are gone when all clones of `open` are.
    let (running, stop) = channel::bounded::<Infallible>(1);
    let (open, gone) = channel::bounded::<Infallible>(1);
    let accept = async {
        loop {
            let (socket, _) = listener.accept().await?;
            smol::spawn(connection(socket, stash.clone(), stop.clone(), open.clone())).detach();
        }
    };
    or(shutdown, accept).await?;
    drop((running, open));
    let _ = gone.recv().await;
    Ok(())
}

async fn connection(
    socket: TcpStream,
    stash: Results,
    stop: channel::Receiver<Infallible>,
    _open: channel::Sender<Infallible>,
) {
    let service =
        service_fn(|request| async { Ok::<_, Infallible>(answer(&stash, request).await) });
    let mut connection =
        pin!(http1::Builder::new().serve_connection(FuturesIo::new(socket), service));
    let stopped = async { stop.recv().await.is_err() };
    let ended = async {
        let _ = connection.as_mut().await;
        false
    };
    if or(stopped, ended).await {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

async fn answer(stash: &Results, request: Request<Incoming>) -> Answer {
    // In place of your authentication.
    let user = request.headers().get("x-user").and_then(|it| Some(it.to_str().ok()?.to_owned()));
    let Some(user) = user else { return text(StatusCode::UNAUTHORIZED, "who are you?") };
    if request.method() == Method::POST {
        let rows = Limited::new(request.into_body(), 100).collect().await.ok();
        let rows = rows.and_then(|it| String::from_utf8(it.to_bytes().into()).ok()?.parse().ok());
        let Some(rows) = rows else { return text(StatusCode::BAD_REQUEST, "how many rows?") };
        return match run_query(stash, user, rows).await {
            Ok(ticket) => text(StatusCode::CREATED, ticket.to_string()),
            Err(refused) => {
                text(StatusCode::from_u16(refused.http_status()).unwrap(), refused.to_string())
            }
        };
    }
    let claim = || stash.claim(&request.uri().path()[1..].parse::<Ticket>().ok()?, &user);
    // As a body the result stays charged until it has been sent, and goes back if the client disconnects.
    claim().map_or(text(StatusCode::NOT_FOUND, "none"), |it| {
        Response::new(Either::Right(it.into_body()))
    })
}

async fn run_query(stash: &Results, user: String, rows: u64) -> Result<Ticket, AcquireError> {
    // Room first: while it waits, a request holds no memory. A client that disconnects leaves the queue.
    let room = stash.reserve_for(&user, rows).timeout(Timer::after(Duration::from_secs(5))).await?;
    Ok(room.put(user, (0..rows).map(|row| row as u8).collect())?)
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(text.into())));
    *answer.status_mut() = status;
    answer
}
