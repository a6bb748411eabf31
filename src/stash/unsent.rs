//! Removes an entry unless its ticket was sent.

use std::fmt;
use std::hash::Hash;

use super::Stash;
use crate::observe::Event;
use crate::slots::{Nanos, Removed};
use crate::sync::contain_panic;
use crate::ticket::Ticket;

impl<P, O: Eq + Hash> Stash<P, O> {
    /// Guards an entry until its ticket was sent: dropping the guard before removes the entry.
    ///
    /// It covers the time between `put` and the response that carries the ticket. If the client goes away in
    /// it, no client knows the ticket, and without the guard the entry holds its bytes until it expires.
    ///
    /// # Examples
    ///
    /// ```
    /// use cloakroom::Stash;
    ///
    /// # async fn send(_: String) -> Result<(), std::io::Error> { Ok(()) }
    /// async fn answer(stash: &Stash<Vec<u8>, u64>, user: u64) -> Result<(), Box<dyn std::error::Error>> {
    ///     let ticket = stash.put(user, vec![7; 100]).await?;
    ///     let unsent = stash.unsent(ticket, user);
    ///     send(ticket.to_string()).await?; // fails, or this future is dropped: the entry is removed
    ///     unsent.sent();
    ///     Ok(())
    /// }
    /// # let stash = Stash::builder().max_bytes(1_000).build()?;
    /// # futures_lite::future::block_on(answer(&stash, 7))?;
    /// # assert_eq!(stash.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unsent(&self, ticket: Ticket, owner: O) -> Unsent<P, O> {
        Unsent { stash: self.clone(), ticket, owner, sent: false }
    }
}

/// Removes an entry when it is dropped, unless its ticket was sent. Made by [`Stash::unsent`].
///
/// What it removes counts as [`unsent`](crate::Stats::unsent): neither delivered, nor expired, nor cleared,
/// even if its deadline has passed. An entry that is not there, or not `owner`'s, or claimed in that moment,
/// stays: its claimer has received the ticket.
///
/// It is a handle of the stash.
///
/// # Re-entrancy and panics
///
/// Its drop runs the owner's `Eq` and `Hash`, and the drop of the payload. They may call the stash. A panic
/// in them does not reach the caller that drops the guard; if the owner's panics, the entry stays.
#[must_use = "the entry is removed when the guard is dropped"]
pub struct Unsent<P, O: Eq + Hash> {
    stash: Stash<P, O>,
    ticket: Ticket,
    owner: O,
    sent: bool,
}

impl<P, O: Eq + Hash> Unsent<P, O> {
    /// Keeps the entry: its ticket was sent.
    pub fn sent(mut self) {
        self.sent = true;
    }

    /// Returns the ticket, to send it.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    fn remove(&self) {
        let inner = &self.stash.inner;
        // No deadline is later: the entry is counted before its slot is free, whether it has expired or not.
        let count = || inner.counters.unsent.add(1);
        let removed = inner.slots.remove(self.ticket, &self.owner, Nanos::MAX, count);
        if let Some(Removed::Expired(entry) | Removed::Delivered(entry)) = removed {
            let bytes = entry.charge;
            inner.discard(entry);
            inner.observe(|| Event::Unsent { bytes });
        }
    }
}

impl<P, O: Eq + Hash> Drop for Unsent<P, O> {
    fn drop(&mut self) {
        if !self.sent {
            contain_panic(|| self.remove());
        }
    }
}

impl<P, O: Eq + Hash> fmt::Debug for Unsent<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
