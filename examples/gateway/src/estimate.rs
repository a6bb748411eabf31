//! How large a result will probably be, before the query has run.
//!
//! It is computed as a planner would, from the number of rows and the usual length of a text. It is rounded
//! up, but it is not a bound: the store decides about a result that exceeds its estimate.

use rusqlite::types::Value as SqlValue;

use crate::arrow::ROWS_PER_BATCH;
use crate::catalog::{Bindings, Column, Kind, Query, Size};

/// Schema and end of a stream.
const STREAM_BYTES: u64 = 1_536;
/// The head of a batch, and what its buffers are padded with.
const BATCH_BYTES: u64 = 2_048;
/// Where a text ends.
const OFFSET_BYTES: u64 = 4;

/// The size of the Arrow stream that `query` will probably return, with that many orders in the database.
pub fn likely_bytes(query: &Query, bindings: &Bindings, orders: u64) -> u64 {
    let rows = likely_rows(query.size, bindings, orders);
    let row: u64 = query.columns.iter().map(width).sum();
    let batches = rows.div_ceil(ROWS_PER_BATCH as u64);
    // The bits that say which values are null.
    let nullable = query.columns.iter().filter(|column| column.nullable).count() as u64;
    STREAM_BYTES + batches * BATCH_BYTES + rows * row + nullable * rows.div_ceil(8)
}

fn likely_rows(size: Size, bindings: &Bindings, orders: u64) -> u64 {
    match size {
        Size::Range => {
            value(bindings, ":rows").min(orders.saturating_sub(value(bindings, ":first")))
        }
        Size::Share(groups) => value(bindings, ":rows").min(orders.div_ceil(groups)),
        Size::Rows(rows) => rows,
    }
}

fn value(bindings: &Bindings, placeholder: &str) -> u64 {
    let found = bindings.iter().find(|(name, _)| *name == placeholder);
    match found {
        Some((_, SqlValue::Integer(number))) => u64::try_from(*number).unwrap_or(0),
        _ => 0,
    }
}

fn width(column: &Column) -> u64 {
    match column.kind {
        Kind::Integer | Kind::Real => 8,
        Kind::Text => OFFSET_BYTES + column.usual_length,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, ToSql};
    use serde_json::{Value, json};

    use super::*;
    use crate::{arrow, sample};

    const ORDERS: u32 = 20_000;

    /// The estimate and the truth.
    fn sizes(key: &str, given: Value) -> (u64, u64) {
        let mut connection = Connection::open_in_memory().expect("a database");
        sample::fill(&mut connection, ORDERS).expect("it is filled");
        let query = Query::find(key).expect("a query of the catalog");
        let Value::Object(given) = given else { panic!("parameters are an object") };
        let bindings = query.bind(given).expect("good parameters");
        let likely = likely_bytes(query, &bindings, u64::from(ORDERS));
        let values: Vec<(&str, &dyn ToSql)> =
            bindings.iter().map(|(name, value)| (*name, value as &dyn ToSql)).collect();
        let mut prepared = connection.prepare(query.sql).expect("good SQL");
        let rows = prepared.query(values.as_slice()).expect("it runs");
        (likely, arrow::encode(query.columns, rows).expect("it encodes").len() as u64)
    }

    #[test]
    fn usual_results_fit_their_estimate_and_do_not_waste_it() {
        for (key, given) in [
            ("orders", json!({"first": 0, "rows": 0})),
            ("orders", json!({"first": 0, "rows": 10})),
            ("orders", json!({"first": 0, "rows": 500})),
            ("orders", json!({"first": 500, "rows": 5_000})),
            ("orders", json!({"first": 0, "rows": 100_000})),
            ("orders", json!({"first": 19_990, "rows": 100_000})),
            ("orders", json!({"first": 1u64 << 40, "rows": 100})),
            ("orders_in_region", json!({"region": "americas", "rows": 3_000})),
            ("order_labels", json!({"first": 0, "rows": 3_000, "width": 16})),
            ("revenue_by_region", json!({"from_day": 0, "to_day": 40})),
        ] {
            let (likely, truth) = sizes(key, given.clone());
            let most = truth + truth / 5 + 3_500;
            assert!((truth..=most).contains(&likely), "{key} {given}: {truth}, estimated {likely}");
        }
    }

    #[test]
    fn wide_labels_outgrow_theirs() {
        let (likely, truth) =
            sizes("order_labels", json!({"first": 0, "rows": 1_000, "width": 200}));
        assert!(truth > 5 * likely, "{truth}, estimated {likely}");
    }
}
