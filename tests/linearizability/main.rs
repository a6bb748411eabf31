//! Checks what threads saw against a sequential model.
//!
//! Threads call the real thing and note when each call began and ended. A history is right if there is an
//! order of all the calls, each between its beginning and its end, in which the sequential model gives
//! the same results: the search is J. Wing and C. Gong's (*Testing and verifying concurrent objects*, 1993)
//! with the states that were seen before cut off (G. Lowe, *Testing for linearizability*, 2017).
//!
//! Some calls are not *one* step by design. The model takes them in the steps that are documented, in
//! their order, with other calls in between:
//!
//! - a put charges, then its entry is there: `clear` does not see what is between;
//! - a `take` removes the entry, then gives its bytes back: a caller that finds it gone may still be refused;
//! - `clear` removes entries one by one and gives their bytes back all at once afterwards. It removes
//!   everything that was there when it began, unless others did, and of what came meanwhile any part;
//! - a permit's drop, and a future's, gives bytes back, then grants waiters, as does every other call that
//!   is granting at that time;
//! - a request that finds no room at its first poll joins the queue in a second step, or is granted there if
//!   room has come meanwhile.
//!
//! Every refusal is recorded with its reason, and the model must give the same one. Left out are `len` and `waiting`, which are exact only while no other thread calls, and `gc`, which is
//! `clear` with a condition. `used` is one step while the limit stays.
#![cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]

mod budget;
mod quota;
mod recording;
mod search;
mod stash;
#[path = "../support/mod.rs"]
mod support;
