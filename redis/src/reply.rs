//! Reads a step's reply: status, id, more, waiting, then what the step answers.

use bytes::Bytes;
use cloakroom::Numbers;
use redis::Value;

#[derive(Debug)]
pub(crate) struct Reply(pub(crate) Value);

impl Reply {
    fn at(&self, index: usize) -> Option<&Value> {
        match &self.0 {
            Value::Array(fields) => fields.get(index),
            _ => None,
        }
    }

    pub(crate) fn bytes(&self, index: usize) -> &[u8] {
        match self.at(index) {
            Some(Value::BulkString(bytes)) => bytes,
            Some(Value::SimpleString(text)) => text.as_bytes(),
            _ => b"",
        }
    }

    pub(crate) fn status(&self) -> &[u8] {
        self.bytes(0)
    }

    pub(crate) fn id(&self) -> &[u8] {
        self.bytes(1)
    }

    pub(crate) fn number(&self, index: usize) -> Option<i64> {
        number(self.at(index)?)
    }

    /// A list of numbers that are never negative.
    pub(crate) fn numbers(&self, index: usize) -> Vec<u64> {
        match self.at(index) {
            Some(Value::Array(fields)) => {
                fields.iter().map(|field| number(field).unwrap_or(0).max(0) as u64).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The numbers of a refusal.
    pub(crate) fn refusal(&self) -> Numbers {
        let field = |index| self.number(index).unwrap_or(0).max(0) as u64;
        Numbers::new(field(4), field(5), field(6), field(3) as usize)
    }

    /// Takes the field out: a payload is not copied.
    pub(crate) fn into_payload(self, index: usize) -> Option<Bytes> {
        match self.0 {
            Value::Array(mut fields) if index < fields.len() => match fields.swap_remove(index) {
                Value::BulkString(bytes) => Some(bytes.into()),
                _ => None,
            },
            _ => None,
        }
    }
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
