//! The event stream of a query: first that the warehouse is at work, then one answer.

use axum::response::sse::Event;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::catalog::Column;
use crate::config::Behaviour;
use crate::errors::ApiError;
use crate::external::ExternalLink;

/// The first event: the statement is running, or waits until there is room for its result.
pub fn warehouse_status(statement: Uuid, behaviour: Behaviour, waits: bool) -> Event {
    event(
        "warehouse_status",
        &json!({
            "type": "warehouse_status",
            "state": if waits { "PENDING" } else { "RUNNING" },
            "statementId": statement,
            "warehouse": behaviour.name(),
        }),
    )
}

/// Says how a query ended.
#[derive(Debug)]
pub enum Answer {
    /// The rows themselves.
    Rows { columns: &'static [Column], rows: Vec<Value> },
    /// An Arrow result that waits inside the gateway.
    Inline { id: String },
    /// An Arrow result that went to a file.
    External { statement: Uuid, link: ExternalLink },
    /// No result.
    Refused(ApiError),
}

impl Answer {
    /// The last event of the stream.
    pub fn to_event(&self) -> Event {
        match self {
            Answer::Rows { columns, rows } => {
                let names: Vec<_> = columns.iter().map(|column| column.name).collect();
                event("result", &json!({ "type": "result", "columns": names, "rows": rows }))
            }
            Answer::Inline { id } => event(
                "arrow",
                &json!({ "type": "arrow", "statementId": id, "disposition": "INLINE" }),
            ),
            Answer::External { statement, link } => event(
                "arrow",
                &json!({
                    "type": "arrow",
                    "statementId": statement,
                    "disposition": "EXTERNAL_LINKS",
                    "externalLink": link.url,
                    "expiresAt": link.expires,
                }),
            ),
            Answer::Refused(error) => event("error", &error.to_json()),
        }
    }
}

/// JSON text has no raw line breaks, so it always fits one `data` line.
fn event(name: &str, data: &Value) -> Event {
    Event::default().event(name).data(data.to_string())
}
