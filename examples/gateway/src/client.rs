//! A client of the gateway, as small as the protocol: the demo and the tests talk through it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::owner::USER_HEADER;

/// One user of one gateway.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    gateway: SocketAddr,
    base: String,
    user: String,
}

/// A query that is being answered. Dropping it hangs up.
pub struct Running {
    /// The id of the statement that was submitted.
    pub statement: String,
    events: BoxStream<'static, anyhow::Result<Message>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("statement", &self.statement).finish_non_exhaustive()
    }
}

/// A refusal, in the response or in its event stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    pub code: String,
    pub status: u16,
    pub message: String,
    retry_after_ms: Option<u64>,
}

impl Refusal {
    /// When the gateway suggests to try again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(Duration::from_millis)
    }
}

/// An event, identified by its `type`.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
enum Message {
    WarehouseStatus { statement_id: String },
    Result { columns: Vec<String>, rows: Vec<Vec<Value>> },
    Arrow { statement_id: String, external_link: Option<String> },
    Error { error: Refusal },
}

/// How a query was answered.
#[derive(Debug, PartialEq)]
pub enum Answer {
    Rows { columns: Vec<String>, rows: Vec<Vec<Value>> },
    Inline { id: String },
    External { id: String, link: String },
    Refused(Refusal),
}

/// A response that has been read to its end.
#[derive(Debug)]
pub struct Fetched {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Bytes,
}

impl Fetched {
    /// The refusal in a JSON body.
    pub fn refusal(&self) -> anyhow::Result<Refusal> {
        match serde_json::from_slice(&self.body).context("the body is not an error")? {
            Message::Error { error } => Ok(error),
            other => bail!("expected an error, got {other:?}"),
        }
    }
}

impl Client {
    pub fn new(gateway: SocketAddr, user: &str) -> Self {
        Client {
            http: reqwest::Client::new(),
            gateway,
            base: format!("http://{gateway}"),
            user: user.to_owned(),
        }
    }

    /// Sends a query and waits for the first event of its answer.
    pub async fn query(
        &self,
        key: &str,
        request: &Value,
    ) -> anyhow::Result<Result<Running, Refusal>> {
        let url = format!("{}/api/analytics/query/{key}", self.base);
        let response =
            self.http.post(url).header(USER_HEADER, &self.user).json(request).send().await?;
        if !response.status().is_success() {
            return Ok(Err(read(response).await?.refusal()?));
        }
        let mut events = response
            .bytes_stream()
            .eventsource()
            .map(|event| Ok(serde_json::from_str(&event?.data)?))
            .boxed();
        match events.next().await {
            Some(Ok(Message::WarehouseStatus { statement_id })) => {
                Ok(Ok(Running { statement: statement_id, events }))
            }
            other => bail!("expected a warehouse status, got {other:?}"),
        }
    }

    /// Sends a query and waits until its result is stored. Returns its id, or the reason why it was refused.
    /// Any other answer is an error.
    pub async fn query_inline(
        &self,
        key: &str,
        request: &Value,
    ) -> anyhow::Result<Result<String, Refusal>> {
        let running = match self.query(key, request).await? {
            Ok(running) => running,
            Err(refusal) => return Ok(Err(refusal)),
        };
        match running.answer().await? {
            Answer::Inline { id } => Ok(Ok(id)),
            Answer::Refused(refusal) => Ok(Err(refusal)),
            other => bail!("expected an inline result, got {other:?}"),
        }
    }

    /// Fetches a result by its statement id, following the link if there is one.
    pub async fn fetch(&self, id: &str) -> anyhow::Result<Fetched> {
        self.get(&format!("/api/analytics/arrow-result/{id}")).await
    }

    /// Begins to fetch a result. The caller reads the rest of the response, or drops it.
    pub async fn begin_to_fetch(&self, id: &str) -> anyhow::Result<reqwest::Response> {
        let url = format!("{}/api/analytics/arrow-result/{id}", self.base);
        Ok(self.http.get(url).header(USER_HEADER, &self.user).send().await?.error_for_status()?)
    }

    /// Fetches a result until `bytes` of the response have arrived, then disconnects. Returns how many
    /// arrived.
    pub async fn break_off(&self, id: &str, bytes: usize) -> anyhow::Result<usize> {
        let socket = TcpSocket::new_v4()?;
        // A fixed buffer. Otherwise the system would receive far more than is read, and the server would
        // count it as sent.
        socket.set_recv_buffer_size(64 << 10)?;
        let mut connection = socket.connect(self.gateway).await?;
        let (gateway, user) = (self.gateway, &self.user);
        let request = format!(
            "GET /api/analytics/arrow-result/{id} HTTP/1.1\r\nhost: {gateway}\r\n\
             {USER_HEADER}: {user}\r\nconnection: close\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await?;
        let mut response = Vec::with_capacity(64 << 10);
        while response.len() <= bytes && connection.read_buf(&mut response).await? > 0 {}
        let status = response.split(|byte| *byte == b' ').nth(1);
        anyhow::ensure!(status == Some(b"200"), "the download did not begin well");
        Ok(response.len())
    }

    /// A number from the gateway's metrics, by its name and its labels as they stand there.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let page = self.get("/metrics").await?;
        let page = std::str::from_utf8(&page.body)?;
        let mut values = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = values.next().with_context(|| format!("there is no metric {name}"))?;
        Ok(value.parse()?)
    }

    /// Any path of the gateway, as this user.
    pub async fn get(&self, path: &str) -> anyhow::Result<Fetched> {
        let url = format!("{}{path}", self.base);
        read(self.http.get(url).header(USER_HEADER, &self.user).send().await?).await
    }
}

impl Running {
    /// Waits for the answer, and for the stream to end with it.
    pub async fn answer(mut self) -> anyhow::Result<Answer> {
        let answer =
            match self.events.next().await.context("the stream ended without an answer")?? {
                Message::Result { columns, rows } => Answer::Rows { columns, rows },
                Message::Arrow { statement_id, external_link: Some(link) } => {
                    Answer::External { id: statement_id, link }
                }
                Message::Arrow { statement_id, external_link: None } => {
                    Answer::Inline { id: statement_id }
                }
                Message::Error { error } => Answer::Refused(error),
                Message::WarehouseStatus { .. } => bail!("a second warehouse status"),
            };
        match self.events.next().await {
            None => Ok(answer),
            Some(event) => bail!("an event after the answer: {event:?}"),
        }
    }
}

async fn read(response: reqwest::Response) -> anyhow::Result<Fetched> {
    let (status, headers) = (response.status(), response.headers().clone());
    Ok(Fetched { status, headers, body: response.bytes().await? })
}
