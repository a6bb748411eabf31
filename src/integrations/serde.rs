//! Serializes tickets in messages and statistics in reports.

use std::fmt;

use ::serde::de::{Error, SeqAccess, Visitor};
use ::serde::ser::SerializeStruct;
use ::serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::budget::BudgetStats;
use crate::stash::{Refused, Stats};
use crate::ticket::Ticket;

/// Writes a string in human-readable formats, and 16 bytes in others.
///
/// JSON is human-readable, for example; postcard is not.
///
/// # Examples
///
/// ```
/// use cloakroom::Ticket;
///
/// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
/// let ticket = stash.try_put((), vec![7]).unwrap();
/// let json = serde_json::to_string(&ticket)?;
/// assert_eq!(json, format!("\"{ticket}\""));
/// assert_eq!(serde_json::from_str::<Ticket>(&json)?, ticket);
/// # Ok::<(), serde_json::Error>(())
/// ```
impl Serialize for Ticket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.to_bytes())
        }
    }
}

impl<'de> Deserialize<'de> for Ticket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(AnyForm { expected: "a ticket, 36 characters" })
        } else {
            deserializer.deserialize_bytes(AnyForm { expected: "a ticket, 16 bytes" })
        }
    }
}

/// Reads a ticket in either form, whatever was asked for.
///
/// The content of an untagged enum or a flattened struct is buffered first. The buffer reports that it is
/// human-readable, also when the format is not, and has the bytes of the format.
struct AnyForm {
    expected: &'static str,
}

impl<'de> Visitor<'de> for AnyForm {
    type Value = Ticket;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Ticket, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Ticket, E> {
        bytes.try_into().map_err(E::custom)
    }

    /// Reads a list of numbers, for formats that have no bytes.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ticket, A::Error> {
        let mut bytes = [0; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = list.next_element()?.ok_or_else(|| A::Error::invalid_length(at, &self))?;
        }
        if list.next_element::<u8>()?.is_some() {
            return Err(A::Error::invalid_length(17, &self));
        }
        bytes.try_into().map_err(A::Error::custom)
    }
}

/// Writes a struct by its fields, all of them: the pattern does not compile otherwise.
macro_rules! serialize_fields {
    ($type:ident { $($field:ident),* }) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let Self { $($field),* } = self;
                let fields = [$(stringify!($field)),*].len();
                let mut fields = serializer.serialize_struct(stringify!($type), fields)?;
                $(fields.serialize_field(stringify!($field), $field)?;)*
                fields.end()
            }
        }
    };
}

serialize_fields!(Stats {
    used_bytes,
    peak_bytes,
    max_bytes,
    overflow_bytes,
    entries,
    claims,
    waiting,
    waiting_bytes,
    head_bytes,
    oldest_wait,
    stored,
    delivered,
    expired,
    cleared,
    unsent,
    claimed,
    put_back,
    waited,
    abandoned,
    refused
});

serialize_fields!(Refused {
    full,
    too_large,
    timed_out,
    cancelled,
    closed,
    owner_full,
    queue_full
});

serialize_fields!(BudgetStats { used, limit, peak, waiting, waiting_bytes, head_bytes, abandoned });
