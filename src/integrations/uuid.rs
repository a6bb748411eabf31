//! Converts between a ticket and a [`Uuid`].

use ::uuid::Uuid;

use crate::ticket::{ParseTicketError, Ticket};

/// Converts all of the ticket, the secret included.
///
/// Unlike the ticket's, a `Uuid`'s `Debug` writes all of it.
///
/// # Examples
///
/// ```
/// use cloakroom::Ticket;
/// use uuid::Uuid;
///
/// # let stash = cloakroom::Stash::<Vec<u8>, ()>::builder().max_bytes(1_000).build().unwrap();
/// let ticket = stash.try_put((), vec![7]).unwrap();
/// let id = Uuid::from(ticket);
/// assert_eq!(id.to_string(), ticket.to_string());
/// assert_eq!(Ticket::try_from(id)?, ticket);
/// # Ok::<(), cloakroom::ParseTicketError>(())
/// ```
impl From<Ticket> for Uuid {
    fn from(ticket: Ticket) -> Self {
        Uuid::from_u128(ticket.as_u128())
    }
}

/// Converts a `Uuid`. One of another version or variant is an error.
impl TryFrom<Uuid> for Ticket {
    type Error = ParseTicketError;

    fn try_from(id: Uuid) -> Result<Self, ParseTicketError> {
        id.as_u128().try_into()
    }
}
