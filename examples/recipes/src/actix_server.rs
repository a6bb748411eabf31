//! actix-web: `POST /results` runs a query and answers with a ticket, `GET /results/{ticket}` fetches the result once.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::body::SizedStream;
use actix_web::error::{ErrorBadRequest, ErrorNotFound, ErrorUnauthorized, InternalError};
use actix_web::http::StatusCode;
use actix_web::rt::{spawn, time};
use actix_web::web::{self, Data, Path};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer};
use bytes::Bytes;
use cloakroom::{AcquireError, Stash, Ticket};
use futures_util::StreamExt;

/// Results, of users. Make it with `Stash::builder().max_bytes(..).ttl(..).build()`.
pub type Results = Stash<Bytes, String>;
type Answer = Result<HttpResponse, Error>;

/// Serves until `signal` completes, then for at most `patience` until the results have been fetched.
pub async fn serve(
    listener: TcpListener,
    stash: Results,
    signal: impl Future<Output = ()> + 'static,
    patience: Duration,
) -> io::Result<()> {
    spawn(stash.reaper().run(time::sleep)); // ends with the stash
    let data = Data::new(stash.clone());
    let app = move || {
        App::new()
            .app_data(data.clone())
            .route("/results", web::post().to(run_query))
            .route("/results/{ticket}", web::get().to(fetch))
    };
    // Its own signal handlers would stop it before the results are fetched.
    let server = HttpServer::new(app).disable_signals().shutdown_timeout(5).listen(listener)?.run();
    let handle = server.handle();
    spawn(async move {
        signal.await;
        stash.shut_down(time::sleep(patience)).await;
        handle.stop(true).await;
    });
    server.await
}

async fn run_query(stash: Data<Results>, request: HttpRequest, rows: String) -> Answer {
    let (user, rows) = (user(&request)?, rows.parse().map_err(ErrorBadRequest)?);
    // Room first: while it waits, a request holds no memory. A client that disconnects leaves the queue.
    let bound = time::sleep(Duration::from_secs(5));
    let room = stash.reserve_for(&user, rows).timeout(bound).await.map_err(refusal)?;
    let ticket = room.put(user, query(rows).await).map_err(refusal)?;
    Ok(HttpResponse::Created().body(ticket.to_string()))
}

async fn fetch(stash: Data<Results>, request: HttpRequest, ticket: Path<Ticket>) -> Answer {
    let claim = stash.claim(&ticket, &user(&request)?).ok_or_else(|| ErrorNotFound("none"))?;
    // As a stream the result stays charged until it has been sent, and goes back if the client disconnects.
    let bytes = claim.len() as u64;
    let stream = claim.into_stream().map(Ok::<_, io::Error>);
    Ok(HttpResponse::Ok().body(SizedStream::new(bytes, stream)))
}

fn refusal(refused: impl Into<AcquireError>) -> Error {
    let refused = refused.into();
    let status = StatusCode::from_u16(refused.http_status()).expect("a status");
    InternalError::new(refused.reason(), status).into()
}

/// In place of your authentication.
fn user(request: &HttpRequest) -> Result<String, Error> {
    let user = request.headers().get("x-user").and_then(|it| it.to_str().ok());
    Ok(user.ok_or_else(|| ErrorUnauthorized("no x-user"))?.to_owned())
}

/// In place of your query.
async fn query(rows: u64) -> Bytes {
    (0..rows).map(|row| row as u8).collect()
}
