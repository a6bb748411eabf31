//! Checks a fetched result against the database, by another query than the one that produced it.

use std::path::Path;

use anyhow::{Context, ensure};
use arrow_array::{Array, Int64Array, RecordBatch};
use arrow_ipc::reader::StreamReader;
use rusqlite::params;

use crate::warehouse::open_read_only;

/// The sums over some orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub rows: i64,
    pub ids: i64,
    pub quantity: i64,
    pub amount_cents: i64,
    pub notes: i64,
}

impl Totals {
    /// Decodes an Arrow IPC stream of orders and adds them up. Bytes after the stream are an error.
    pub fn of_stream(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut rest = bytes;
        let mut totals = Totals::default();
        for batch in StreamReader::try_new(&mut rest, None)? {
            totals.add(&batch?)?;
        }
        ensure!(rest.is_empty(), "{} bytes follow the stream", rest.len());
        Ok(totals)
    }

    fn add(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        self.rows += batch.num_rows() as i64;
        self.ids += sum(batch, "id")?;
        self.quantity += sum(batch, "quantity")?;
        self.amount_cents += sum(batch, "amount_cents")?;
        let notes = batch.column_by_name("note").context("no column note")?;
        self.notes += (notes.len() - notes.null_count()) as i64;
        Ok(())
    }

    /// Has the database add up the `rows` orders from `first` on.
    pub fn of_database(database: &Path, first: u32, rows: u32) -> anyhow::Result<Self> {
        let totals = open_read_only(database)?.query_row(
            "SELECT count(*), ifnull(sum(id), 0), ifnull(sum(quantity), 0), \
             ifnull(sum(amount_cents), 0), count(note) FROM orders WHERE id BETWEEN ?1 AND ?2 - 1",
            params![first, i64::from(first) + i64::from(rows)],
            |row| {
                Ok(Totals {
                    rows: row.get(0)?,
                    ids: row.get(1)?,
                    quantity: row.get(2)?,
                    amount_cents: row.get(3)?,
                    notes: row.get(4)?,
                })
            },
        )?;
        Ok(totals)
    }
}

fn sum(batch: &RecordBatch, column: &str) -> anyhow::Result<i64> {
    let values = batch.column_by_name(column).with_context(|| format!("no column {column}"))?;
    let values = values.as_any().downcast_ref::<Int64Array>();
    Ok(values
        .with_context(|| format!("{column} is not a column of integers"))?
        .iter()
        .flatten()
        .sum())
}
