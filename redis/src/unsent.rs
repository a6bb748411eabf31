//! Removes an entry unless its ticket was sent.

use std::fmt;
use std::sync::Arc;

use cloakroom::{Event, Ticket};

use crate::engine::Step;
use crate::owner::{Id, OwnerBytes, owner_id, ticket_id};
use crate::stash::{Shared, SharedStash};

impl<P, O: OwnerBytes> SharedStash<P, O> {
    /// Guards an entry until its ticket was sent, as [`cloakroom::Stash::unsent`] does.
    ///
    /// Dropping the guard removes the entry in the background. If the replica dies first, or cannot reach the engine
    /// within its patience, the entry stays until it expires.
    pub fn unsent(&self, ticket: Ticket, owner: O) -> Unsent {
        let owner = owner_id(&owner);
        Unsent { shared: Some(Arc::clone(&self.shared)), ticket, owner }
    }
}

/// Removes an entry when it is dropped, unless its ticket was sent. Made by [`SharedStash::unsent`].
///
/// What it removes counts as [`unsent`](cloakroom::Stats::unsent). An entry that is not there, or not the owner's, or
/// claimed in that moment, stays.
#[must_use = "the entry is removed when the guard is dropped"]
pub struct Unsent {
    /// `None` once the ticket was sent.
    shared: Option<Arc<Shared>>,
    ticket: Ticket,
    owner: Id,
}

impl Unsent {
    /// Keeps the entry: its ticket was sent.
    pub fn sent(mut self) {
        self.shared = None;
    }

    /// Returns the ticket, to send it.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        let (id, owner) = (ticket_id(&self.ticket), self.owner);
        let (engine, handle) = (Arc::clone(&shared.engine), shared.handle.clone());
        let removal = async move {
            let args: [&[u8]; 2] = [&id, &owner];
            let step = Step { id: &id, ..Step::new("unsent", &args) };
            let (reply, _) = engine.step(step, engine.deadline()).await?;
            if let Some(bytes @ 0..) = reply.number(4) {
                engine.observe(Event::Unsent { bytes: bytes as u64 });
            }
            // The session lives as long as the removal.
            drop(shared);
            Ok::<_, cloakroom::Failure>(())
        };
        handle.spawn(removal);
    }
}

impl fmt::Debug for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
