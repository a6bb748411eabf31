//! actix-web: `POST /results` runs a query and answers with a ticket, `GET /results/{ticket}` fetches the result once.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::rt::{spawn, time};
use actix_web::web::{self, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use bytes::Bytes;
use cloakroom::{AcquireError, Stash, Ticket};
use futures_util::StreamExt;

/// Results, of users. Make it with `Stash::builder().max_bytes(..).ttl(..).build()`.
pub type Results = Stash<Bytes, String>;

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
        stash.close(); // no new results; those that are there can still be fetched
        let _ = time::timeout(patience, stash.drained()).await;
        stash.clear();
        handle.stop(true).await;
    });
    server.await
}

async fn run_query(stash: Data<Results>, request: HttpRequest, rows: String) -> HttpResponse {
    let (Some(user), Ok(rows)) = (user(&request), rows.parse()) else {
        return HttpResponse::BadRequest().finish();
    };
    // Room first: while it waits, a request holds no memory. A client that disconnects leaves the queue.
    let patience = time::sleep(Duration::from_secs(5));
    let room = match stash.reserve_for(&user, rows).timeout(patience).await {
        Ok(room) => room,
        Err(refused) => return refusal(&refused),
    };
    match room.put(user, query(rows).await) {
        Ok(ticket) => HttpResponse::Created().body(ticket.to_string()),
        Err(refused) => refusal(refused.details()),
    }
}

async fn fetch(
    stash: Data<Results>,
    request: HttpRequest,
    ticket: web::Path<String>,
) -> HttpResponse {
    let claim = || stash.claim(&ticket.parse::<Ticket>().ok()?, &user(&request)?);
    let Some(claim) = claim() else { return HttpResponse::NotFound().finish() };
    // As a stream the result stays charged until it has been sent, and goes back if the client disconnects.
    let bytes = claim.len() as u64;
    let stream = claim.into_stream().map(Ok::<_, Infallible>);
    HttpResponse::Ok().body(SizedStream::new(bytes, stream))
}

/// In place of your authentication.
fn user(request: &HttpRequest) -> Option<String> {
    Some(request.headers().get("x-user")?.to_str().ok()?.to_owned())
}

fn refusal(refused: &AcquireError) -> HttpResponse {
    let status = StatusCode::from_u16(refused.http_status()).expect("a status");
    HttpResponse::build(status).body(refused.to_string())
}

/// In place of your query.
async fn query(rows: u64) -> Bytes {
    (0..rows).map(|row| row as u8).collect()
}
