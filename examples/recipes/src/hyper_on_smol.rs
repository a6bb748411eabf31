//! hyper on smol, without tokio: `POST /` runs a query and answers with a ticket, `GET /{ticket}` fetches the result.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use cloakroom::{ClaimBody, Stash, Ticket};
use http_body_util::{BodyExt, Either, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, server::conn::http1, service::service_fn};
use hyper_util::server::graceful::GracefulShutdown;
use smol::Timer;
use smol::future::{Future, or};
use smol::net::TcpListener;
use smol_hyper::rt::FuturesIo;

/// Results, of users. Make it with `Stash::builder().max_bytes(..).ttl(..).build()`.
pub type Results = Stash<Bytes, String>;
type Answer = Response<Either<String, ClaimBody>>;

/// Serves until `signal` completes, then for at most `patience` until the results have been fetched.
pub async fn serve(
    listener: TcpListener,
    stash: Results,
    signal: impl Future<Output = ()>,
    patience: Duration,
) -> io::Result<()> {
    smol::spawn(stash.reaper().run(Timer::after)).detach(); // ends with the stash
    let connections = GracefulShutdown::new();
    let accept = async {
        loop {
            let (socket, _) = listener.accept().await?;
            let stash = stash.clone();
            let service = service_fn(move |request| respond(stash.clone(), request));
            let connection =
                http1::Builder::new().serve_connection(FuturesIo::new(socket), service);
            smol::spawn(connections.watch(connection)).detach();
        }
    };
    // The server accepts connections until this completes: the clients need them to fetch their results.
    let shutdown = async {
        signal.await;
        stash.shut_down(Timer::after(patience)).await;
        io::Result::Ok(())
    };
    or(shutdown, accept).await?;
    connections.shutdown().await; // what is being sent is sent
    Ok(())
}

async fn respond(stash: Results, request: Request<Incoming>) -> Result<Answer, Infallible> {
    Ok(answer(stash, request).await.unwrap_or_else(|refused| refused.map(Either::Left)))
}

async fn answer(stash: Results, request: Request<Incoming>) -> Result<Answer, Response<String>> {
    // In place of your authentication.
    let user = request.headers().get("x-user").and_then(|it| it.to_str().ok());
    let user = user.ok_or_else(|| text(401, "who are you?"))?.to_owned();
    if request.method() == Method::POST {
        let body = Limited::new(request.into_body(), 100).collect().await.ok();
        let rows = body.and_then(|it| str::from_utf8(&it.to_bytes()).ok()?.parse::<u64>().ok());
        let rows = rows.ok_or_else(|| text(400, "how many rows?"))?;
        // Room first: while it waits, a request holds no memory. A client that disconnects leaves the queue.
        let patience = Timer::after(Duration::from_secs(5));
        let room = stash.reserve_for(&user, rows).timeout(patience).await?;
        let ticket = room.put(user, (0..rows).map(|row| row as u8).collect())?;
        return Ok(text(201, &ticket.to_string()).map(Either::Left));
    }
    let ticket = request.uri().path()[1..].parse::<Ticket>().ok();
    let claim = ticket.and_then(|ticket| stash.claim(&ticket, &user));
    // As a body the result stays charged until it has been sent, and goes back if the client disconnects.
    let body = claim.ok_or_else(|| text(404, "none"))?.into_body();
    Ok(Response::new(Either::Right(body)))
}

fn text(status: u16, text: &str) -> Response<String> {
    Response::builder().status(status).body(text.to_owned()).expect("a status")
}
