//! Rows to JSON, for clients that do not read Arrow.

use rusqlite::Rows;
use rusqlite::types::ValueRef;
use serde_json::Value;

use crate::catalog::Column;
use crate::warehouse::ExecutionError;

/// All `rows`, each an array with one value per column.
pub fn encode(
    columns: &'static [Column],
    mut rows: Rows<'_>,
) -> Result<Vec<Value>, ExecutionError> {
    let mut encoded = Vec::new();
    while let Some(row) = rows.next()? {
        let values = (0..columns.len()).map(|index| value(row.get_ref(index)?));
        encoded.push(Value::Array(values.collect::<Result<_, _>>()?));
    }
    Ok(encoded)
}

fn value(from: ValueRef<'_>) -> Result<Value, ExecutionError> {
    Ok(match from {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::from(number),
        ValueRef::Real(number) => Value::from(number),
        ValueRef::Text(_) => Value::from(from.as_str().map_err(rusqlite::Error::from)?),
        ValueRef::Blob(_) => return Err(ExecutionError::UnexpectedType),
    })
}
