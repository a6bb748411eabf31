//! A ticket as a string, whatever the format.

use std::fmt;

use ::serde::de::{Error, Visitor};
use ::serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ticket::Ticket;

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
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ticket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Ticket;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a ticket, 36 characters")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Ticket, E> {
        text.parse().map_err(E::custom)
    }
}
