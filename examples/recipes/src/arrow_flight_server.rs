//! Arrow Flight on tonic: `GetFlightInfo` runs the query of its descriptor and answers with a ticket, `DoGet` fetches
//! the result.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use cloakroom::{AcquireError, Stash};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tonic::metadata::MetadataMap;
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Request, Response, Status, Streaming, async_trait};

/// Encoded results, of users.
pub type Results = Stash<Vec<FlightData>, String>;
type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = BoxStream<'static, Result<T, Status>>;
type Upload<T> = Request<Streaming<T>>;

/// Makes a stash for `max_bytes` of encoded results.
pub fn results(max_bytes: u64, ttl: Duration) -> Results {
    let weigh = |_: &String, messages: &Vec<FlightData>| messages.iter().map(bytes).sum();
    Stash::builder().max_bytes(max_bytes).ttl(ttl).weigher(weigh).build().expect("valid settings")
}

fn bytes(message: &FlightData) -> u64 {
    (size_of::<FlightData>() + message.data_header.len() + message.data_body.len()) as u64
}

/// Serves until `signal` completes, then for at most `patience` until the results have been fetched.
pub async fn serve(
    listener: TcpListener,
    stash: Results,
    signal: impl Future<Output = ()>,
    patience: Duration,
) -> Result<(), tonic::transport::Error> {
    tokio::spawn(stash.reaper().run(sleep)); // ends with the stash
    let service = FlightServiceServer::new(Flight(stash.clone()));
    let shutdown = async move {
        signal.await;
        stash.shut_down(sleep(patience)).await;
    };
    let incoming = TcpIncoming::from(listener);
    Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, shutdown).await
}

struct Flight(Results);

/// In place of your authentication.
fn user(metadata: &MetadataMap) -> Result<String, Status> {
    let user = metadata.get("x-user").and_then(|it| it.to_str().ok());
    Ok(user.ok_or_else(|| Status::unauthenticated("no x-user"))?.to_owned())
}

fn refusal(refused: impl Into<AcquireError>) -> Status {
    let refused = refused.into();
    Status::new(refused.grpc_code().into(), refused.to_string())
}

/// In place of your query.
async fn query(rows: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    RecordBatch::try_from_iter([("n", numbers)]).expect("one column")
}

#[async_trait]
impl FlightService for Flight {
    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        let user = user(request.metadata())?;
        let rows = str::from_utf8(&request.get_ref().cmd).ok().and_then(|it| it.parse().ok());
        let rows: u32 = rows.ok_or_else(|| Status::invalid_argument("not a number of rows"))?;
        // Room first: while it waits, a request holds no memory. What is not needed is given back.
        let estimate = 4_096 + 8 * u64::from(rows);
        let bound = sleep(Duration::from_secs(5));
        let room = self.0.reserve_for(&user, estimate).timeout(bound).await.map_err(refusal)?;
        let batch = query(rows.into()).await;
        let schema = batch.schema();
        let messages = batches_to_flight_data(&schema, [&batch]).map_err(FlightError::from)?;
        let ticket = room.put(user, messages).map_err(refusal)?;
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.to_bytes().to_vec()));
        let info = FlightInfo::new()
            .with_descriptor(request.into_inner()) // which C++ and Python clients insist on
            .with_endpoint(endpoint)
            .with_total_records(rows.into())
            .try_with_schema(&schema);
        Ok(Response::new(info.map_err(FlightError::from)?))
    }

    type DoGetStream = Messages<FlightData>;
    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        let user = user(request.metadata())?;
        let ticket = cloakroom::Ticket::try_from(&request.get_ref().ticket[..]);
        let claim = ticket.ok().and_then(|ticket| self.0.claim(&ticket, &user));
        let claim = claim.ok_or_else(|| Status::not_found("no such ticket"))?;
        // Stays charged until the last message was handed over, and goes back if the client disconnects before.
        Ok(Response::new(claim.into_items().map(Ok).boxed()))
    }

    // The rest of the trait, which this server does not offer.
    type HandshakeStream = Messages<HandshakeResponse>;
    async fn handshake(&self, _: Upload<HandshakeRequest>) -> Answer<Self::HandshakeStream> {
        Err(Status::unimplemented("handshake"))
    }
    type ListFlightsStream = Messages<FlightInfo>;
    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        Err(Status::unimplemented("list_flights"))
    }
    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        Err(Status::unimplemented("poll_flight_info"))
    }
    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        Err(Status::unimplemented("get_schema"))
    }
    type DoPutStream = Messages<PutResult>;
    async fn do_put(&self, _: Upload<FlightData>) -> Answer<Self::DoPutStream> {
        Err(Status::unimplemented("do_put"))
    }
    type DoActionStream = Messages<arrow_flight::Result>;
    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        Err(Status::unimplemented("do_action"))
    }
    type ListActionsStream = Messages<ActionType>;
    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        Err(Status::unimplemented("list_actions"))
    }
    type DoExchangeStream = Messages<FlightData>;
    async fn do_exchange(&self, _: Upload<FlightData>) -> Answer<Self::DoExchangeStream> {
        Err(Status::unimplemented("do_exchange"))
    }
}
