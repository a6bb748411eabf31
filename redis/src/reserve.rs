//! Reserves room for a payload before the payload is produced.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom::{
    CloakroomReservation, Event, Failure, Numbers, Payload, PutOptions, Rejected, Ticket,
};

use crate::engine::Step;
use crate::owner::{OwnerBytes, owner_id};
use crate::put::{Granted, store};
use crate::stash::SharedStash;

/// Holds room for a payload that is not produced yet. Dropping it releases the room to the next waiter.
///
/// It stays good when the stash is closed. It is lost with the session of this replica.
#[must_use = "a reservation that is dropped gives its room back at once"]
pub struct Reservation<P, O> {
    granted: Granted,
    ticket: Ticket,
    bytes: u64,
    /// How many payloads were refused.
    tries: usize,
    stash: PhantomData<fn() -> (P, O)>,
}

impl<P, O> Reservation<P, O> {
    pub(crate) fn new(granted: Granted, ticket: Ticket, bytes: u64) -> Self {
        let bytes = granted.engine().room_of(bytes);
        Self { granted, ticket, bytes, tries: 0, stash: PhantomData }
    }

    /// Returns the stash whose room it is.
    #[must_use]
    pub fn stash(&self) -> SharedStash<P, O> {
        SharedStash::of(Arc::clone(&self.granted.shared))
    }

    /// Gives back the room for all but a payload of `to` bytes. Does nothing if it has no more than that.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the network. The room may have been given back.
    pub async fn shrink(&mut self, to: u64) -> Result<(), Failure> {
        if to >= self.bytes {
            return Ok(());
        }
        let (engine, session) =
            (Arc::clone(self.granted.engine()), Arc::clone(&self.granted.session));
        let id = self.granted.id;
        self.bytes = engine.room_of(to);
        self.granted
            .shared
            .on_keeper(async move {
                let size = to.to_string();
                let args: [&[u8]; 2] = [&id, size.as_bytes()];
                let step = Step { id: &id, session: Some(&session), ..Step::new("shrink", &args) };
                let (reply, _) = engine.step(step, engine.deadline()).await?;
                if reply.status() == b"OK" { Ok(()) } else { Err(Failure::Lost) }
            })
            .await
    }
}

impl<P, O> fmt::Debug for Reservation<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<P, O> CloakroomReservation<P, O> for Reservation<P, O>
where
    P: Payload + From<Bytes> + Into<Bytes> + Send + Sync + 'static,
    O: OwnerBytes + Send + Sync + 'static,
{
    fn bytes(&self) -> u64 {
        self.bytes
    }

    async fn put_with(
        self,
        owner: O,
        payload: P,
        options: PutOptions,
    ) -> Result<Ticket, Rejected<(P, Option<Self>)>> {
        let payload: Bytes = payload.into();
        let (size, ticket, bytes) = (payload.len() as u64, self.ticket, self.bytes);
        let tries = self.tries;
        let engine = Arc::clone(self.granted.engine());
        let (granted, owner, sent) = (self.granted, owner_id(&owner), payload.clone());
        let shared = Arc::clone(&granted.shared);
        // The grant travels with the operation, and undoes itself if its future was dropped.
        let outcome = shared
            .on_keeper(async move {
                let stored = store(&granted, owner, options.ttl, &sent, size <= bytes, tries).await;
                Ok((granted, stored))
            })
            .await;
        match outcome {
            Ok((granted, Ok(overflow))) => {
                granted.disarm();
                engine.observe(Event::Stored { bytes: engine.charge(size), overflow });
                Ok(ticket)
            }
            Ok((granted, Err((failure, numbers)))) => {
                let stays = matches!(failure, Failure::Refused(_) | Failure::OutOfMemory);
                let tries = tries + 1;
                let reservation =
                    stays.then(|| Self { tries, ..Self::new(granted, ticket, bytes) });
                Err(Rejected::new((payload.into(), reservation), failure, numbers))
            }
            Err(failure) => Err(Rejected::new((payload.into(), None), failure, Numbers::default())),
        }
    }
}
