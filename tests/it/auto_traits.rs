//! Which auto traits the public types have and which they must not have, and how large they are: none of
//! it is written down in signatures, so nothing else would notice a change.

use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;
use std::sync::{Arc, MutexGuard};

use cloakroom::{
    Acquire, AcquireError, Budget, Builder, Claim, ConfigError, Drained, Event, ManualClock,
    OnDrop, ParseTicketError, Payload, Permit, Put, PutError, PutOptions, Reaper, Refusal, Refused,
    Reservation, ReservationError, Reserve, Stash, Stats, Ticket,
};

/// Asks whether `T` has a trait. An inherent constant, which exists only if it has, wins over the trait's.
struct Has<T>(PhantomData<T>);

trait HasNot {
    const SEND: bool = false;
    const SYNC: bool = false;
    const UNPIN: bool = false;
}
impl<T> HasNot for Has<T> {}
impl<T: Send> Has<T> {
    const SEND: bool = true;
}
impl<T: Sync> Has<T> {
    const SYNC: bool = true;
}
impl<T: Unpin> Has<T> {
    const UNPIN: bool = true;
}

/// A macro, for in a generic function it would always say no.
macro_rules! send_sync_unpin {
    ($type:ty) => {
        (Has::<$type>::SEND, Has::<$type>::SYNC, Has::<$type>::UNPIN)
    };
}

/// May not leave its thread.
struct Local(#[expect(dead_code)] Rc<()>);
/// May leave its thread, but not be shared by two.
struct Unshared(#[expect(dead_code)] Cell<u8>);

impl Payload for Local {
    fn size(&self) -> usize {
        0
    }
}

#[test]
fn the_question_can_be_answered_both_ways() {
    assert_eq!(send_sync_unpin!(u8), (true, true, true));
    assert_eq!(send_sync_unpin!(Local), (false, false, true));
    assert_eq!(send_sync_unpin!(Unshared), (true, false, true));
    assert_eq!(send_sync_unpin!(MutexGuard<'static, u8>), (false, true, true));
    assert_eq!(send_sync_unpin!(std::marker::PhantomPinned), (true, true, false));
}

#[test]
fn a_stash_may_be_shared_if_what_is_in_it_may_be_sent() {
    assert_eq!(send_sync_unpin!(Stash<Vec<u8>, u64>), (true, true, true));
    assert_eq!(send_sync_unpin!(Stash<Vec<u8>>), (true, true, true));
    // A payload is only ever moved in and out, so it need not be `Sync`.
    assert_eq!(send_sync_unpin!(Stash<Unshared, Unshared>), (true, true, true));
}

#[test]
fn a_stash_of_types_that_must_stay_on_their_thread_stays_there_too() {
    assert_eq!(send_sync_unpin!(Stash<Local, u64>), (false, false, true), "payload");
    assert_eq!(send_sync_unpin!(Stash<Vec<u8>, Local>), (false, false, true), "owner");
}

#[test]
fn a_waiting_put_is_pinned_and_may_move_between_threads() {
    assert_eq!(send_sync_unpin!(Put<'static, Vec<u8>, u64>), (true, true, false));
    assert_eq!(send_sync_unpin!(Put<'static, Local, u64>), (false, false, false));
    assert_eq!(send_sync_unpin!(Put<'static, Vec<u8>, Local>), (false, false, false));
    // What it gives up for is part of it.
    assert_eq!(send_sync_unpin!(Put<'static, Vec<u8>, u64, Local>), (false, false, false));
}

#[test]
fn a_waiting_request_is_pinned_and_may_move_between_threads() {
    assert_eq!(send_sync_unpin!(Acquire<'static>), (true, true, false));
    assert_eq!(send_sync_unpin!(Acquire<'static, Local>), (false, false, false));
    assert_eq!(send_sync_unpin!(Acquire<'static, Unshared>), (true, false, false));
}

#[test]
fn a_reaper_may_be_sent_if_what_it_drops_may_be() {
    assert_eq!(send_sync_unpin!(Reaper<Vec<u8>, u64>), (true, true, true));
    assert_eq!(send_sync_unpin!(Reaper<Local, u64>), (false, false, true));
    assert_eq!(send_sync_unpin!(Reaper<Vec<u8>, Local>), (false, false, true));
}

#[test]
fn a_claim_gives_out_its_payload_and_so_is_as_free_as_that() {
    assert_eq!(send_sync_unpin!(Claim<Vec<u8>, u64>), (true, true, true));
    // It can be read on the claim's thread only.
    assert_eq!(send_sync_unpin!(Claim<Unshared, u64>), (true, false, true));
    assert_eq!(send_sync_unpin!(Claim<Local, u64>), (false, false, true));
    assert_eq!(send_sync_unpin!(Claim<MutexGuard<'static, u8>, u64>), (false, false, true));
    // The owner is dropped with it, but never shown.
    assert_eq!(send_sync_unpin!(Claim<Vec<u8>, Unshared>), (true, true, true));
    assert_eq!(send_sync_unpin!(Claim<Vec<u8>, Local>), (false, false, true));
    #[cfg(feature = "http-body")]
    assert_eq!(send_sync_unpin!(cloakroom::ClaimBody), (true, true, true));
}

#[test]
fn a_reservation_is_a_handle_and_as_free_as_the_stash() {
    assert_eq!(send_sync_unpin!(Reservation<Vec<u8>, u64>), (true, true, true));
    assert_eq!(send_sync_unpin!(Reservation<Unshared, Unshared>), (true, true, true));
    assert_eq!(send_sync_unpin!(Reservation<Local, u64>), (false, false, true));
    assert_eq!(send_sync_unpin!(Reservation<Vec<u8>, Local>), (false, false, true));
    // With the payload that it could not store.
    assert_eq!(send_sync_unpin!(ReservationError<Vec<u8>, u64>), (true, true, true));
    assert_eq!(send_sync_unpin!(ReservationError<Unshared, u64>), (true, false, true));
    assert_eq!(send_sync_unpin!(ReservationError<Local, u64>), (false, false, true));
}

#[test]
fn waiting_reservations_and_drains_are_pinned_and_may_move_between_threads() {
    assert_eq!(send_sync_unpin!(Reserve<'static, Vec<u8>, u64>), (true, true, false));
    // No payload is in it yet.
    assert_eq!(send_sync_unpin!(Reserve<'static, Unshared, Unshared>), (true, true, false));
    assert_eq!(send_sync_unpin!(Reserve<'static, Local, u64>), (false, false, false));
    assert_eq!(send_sync_unpin!(Reserve<'static, Vec<u8>, u64, Local>), (false, false, false));
    assert_eq!(send_sync_unpin!(Reserve<'static, Vec<u8>, u64, Unshared>), (true, false, false));
    assert_eq!(send_sync_unpin!(Drained<'static>), (true, true, false));
}

#[test]
fn types_without_a_user_type_are_send_and_sync() {
    assert_eq!(send_sync_unpin!(Budget), (true, true, true));
    assert_eq!(send_sync_unpin!(Permit<'static>), (true, true, true));
    assert_eq!(send_sync_unpin!(Ticket), (true, true, true));
    assert_eq!(send_sync_unpin!(ManualClock), (true, true, true));
    assert_eq!(send_sync_unpin!(Refusal), (true, true, true));
    assert_eq!(send_sync_unpin!(AcquireError), (true, true, true));
    assert_eq!(send_sync_unpin!(ConfigError), (true, true, true));
    assert_eq!(send_sync_unpin!(ParseTicketError), (true, true, true));
    assert_eq!(send_sync_unpin!(Stats), (true, true, true));
    assert_eq!(send_sync_unpin!(Refused), (true, true, true));
    assert_eq!(send_sync_unpin!(Event), (true, true, true));
    assert_eq!(send_sync_unpin!(PutOptions), (true, true, true));
    assert_eq!(send_sync_unpin!(OnDrop), (true, true, true));
}

#[test]
fn an_error_is_as_free_as_the_payload_in_it() {
    assert_eq!(send_sync_unpin!(PutError<Vec<u8>>), (true, true, true));
    assert_eq!(send_sync_unpin!(PutError<Local>), (false, false, true));
    assert_eq!(send_sync_unpin!(PutError<Unshared>), (true, false, true));
}

#[test]
fn a_builder_may_be_sent_whatever_will_be_stored() {
    fn sent<T: Send>() {}
    sent::<Builder<Vec<u8>, u64>>();
    // It holds nothing yet that would have to stay.
    sent::<Builder<Local, Local>>();
}

#[test]
fn budgets_and_tickets_may_cross_a_caught_panic() {
    // Promise 11: they are consistent after one.
    fn safe<T: UnwindSafe + RefUnwindSafe>() {}
    safe::<Ticket>();
    safe::<Refusal>();
    safe::<AcquireError>();
    safe::<ConfigError>();
}

#[test]
fn small_things_are_small() {
    assert_eq!(size_of::<Ticket>(), 16);
    assert_eq!(size_of::<Stash<Vec<u8>, Arc<str>>>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Stash<Vec<u8>, u64>>>(), size_of::<usize>());
    assert_eq!(size_of::<Budget>(), size_of::<usize>());
    // The budget, and the bytes with two flags.
    #[cfg(target_pointer_width = "64")]
    assert_eq!(size_of::<Permit<'static>>(), 16);
    assert_eq!(size_of::<Option<Permit<'static>>>(), size_of::<Permit<'static>>());
}
