//! Rows to an Arrow IPC stream.
//!
//! Rows are read one by one and written batch by batch, so besides the encoded stream only one batch
//! is ever in memory.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use rusqlite::{Row, Rows};

use crate::catalog::{Column, Kind};
use crate::warehouse::ExecutionError;

/// The media type of an Arrow IPC stream.
pub const MEDIA_TYPE: &str = "application/vnd.apache.arrow.stream";

pub const ROWS_PER_BATCH: usize = 4_096;

/// Encodes all `rows` as one stream. Without rows it is a stream with a schema and no batch.
pub fn encode(columns: &'static [Column], mut rows: Rows<'_>) -> Result<Bytes, ExecutionError> {
    let schema = Arc::new(schema(columns));
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    let mut batch = Batch::new(columns);
    while let Some(row) = rows.next()? {
        batch.push(row)?;
        if batch.rows == ROWS_PER_BATCH {
            writer.write(&batch.finish(&schema)?)?;
        }
    }
    if batch.rows > 0 {
        writer.write(&batch.finish(&schema)?)?;
    }
    writer.finish()?;
    // The stash is charged for the length, so no spare capacity may hide behind it.
    let mut encoded = writer.into_inner()?;
    encoded.shrink_to_fit();
    Ok(Bytes::from(encoded))
}

fn schema(columns: &[Column]) -> Schema {
    let fields = columns.iter().map(|column| {
        let data_type = match column.kind {
            Kind::Integer => DataType::Int64,
            Kind::Real => DataType::Float64,
            Kind::Text => DataType::Utf8,
        };
        Field::new(column.name, data_type, column.nullable)
    });
    Schema::new(fields.collect::<Vec<_>>())
}

enum Builder {
    Integer(Int64Builder),
    Real(Float64Builder),
    Text(StringBuilder),
}

impl Builder {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Integer => Builder::Integer(Int64Builder::new()),
            Kind::Real => Builder::Real(Float64Builder::new()),
            Kind::Text => Builder::Text(StringBuilder::new()),
        }
    }

    fn push(&mut self, row: &Row<'_>, index: usize) -> Result<(), rusqlite::Error> {
        match self {
            Builder::Integer(builder) => builder.append_option(row.get(index)?),
            Builder::Real(builder) => builder.append_option(row.get(index)?),
            Builder::Text(builder) => match row.get_ref(index)?.as_str_or_null()? {
                Some(text) => builder.append_value(text),
                None => builder.append_null(),
            },
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Integer(builder) => Arc::new(builder.finish()),
            Builder::Real(builder) => Arc::new(builder.finish()),
            Builder::Text(builder) => Arc::new(builder.finish()),
        }
    }
}

/// The batch that is being filled.
struct Batch {
    builders: Vec<Builder>,
    rows: usize,
}

impl Batch {
    fn new(columns: &[Column]) -> Self {
        let builders = columns.iter().map(|column| Builder::new(column.kind)).collect();
        Batch { builders, rows: 0 }
    }

    fn push(&mut self, row: &Row<'_>) -> Result<(), rusqlite::Error> {
        for (index, builder) in self.builders.iter_mut().enumerate() {
            builder.push(row, index)?;
        }
        self.rows += 1;
        Ok(())
    }

    fn finish(&mut self, schema: &Arc<Schema>) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        let arrays = self.builders.iter_mut().map(Builder::finish).collect();
        RecordBatch::try_new(Arc::clone(schema), arrays)
    }
}
