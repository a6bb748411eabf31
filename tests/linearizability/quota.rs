//! Owners' quotas, while the limit moves and the stash is closed: each refusal's reason is the one that holds.

use std::collections::BTreeMap;
use std::sync::Mutex;

use cloakroom::{Refusal, Stash, Ticket};

use crate::recording::{Recorder, SlowClock, check_rounds};
use crate::search::{Call, Model};
use crate::stash::Sized;
use crate::support::random::Rng;

const QUOTA: u64 = 5;
const OWNERS: u64 = 2;
const LIMITS: [u64; 3] = [3, 6, 8];

#[derive(Clone, Debug)]
pub(crate) enum QuotaOp {
    /// Owner, charge, and why it was refused, if it was.
    Put(u64, u64, Option<Refusal>),
    /// Owner and charge of an entry that only this call takes.
    Take(u64, u64),
    SetLimit(u64),
    Close,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct QuotaModel {
    limit: u64,
    used: u64,
    closed: bool,
    /// By owner.
    held: BTreeMap<u64, u64>,
}

impl QuotaModel {
    /// A quota is asked before the budget, but never hides that the budget could not grant the request at all.
    fn refuses(&self, owner: u64, size: u64) -> Option<Refusal> {
        if self.closed {
            Some(Refusal::Closed)
        } else if size > self.limit {
            Some(Refusal::TooLarge)
        } else if self.held.get(&owner).unwrap_or(&0) + size > QUOTA {
            Some(Refusal::OwnerFull)
        } else {
            (self.used + size > self.limit).then_some(Refusal::Full)
        }
    }
}

impl Model for QuotaModel {
    type Op = QuotaOp;

    fn step(&self, _: usize, op: &QuotaOp, step: u8) -> Vec<(Self, bool)> {
        let mut next = self.clone();
        match (op, step) {
            (&QuotaOp::Put(owner, size, refused), _) => {
                if self.refuses(owner, size) != refused {
                    return Vec::new();
                }
                if refused.is_none() {
                    next.used += size;
                    *next.held.entry(owner).or_default() += size;
                }
            }
            // The owner's bytes first, then the budget's.
            (&QuotaOp::Take(owner, size), 0) => {
                *next.held.get_mut(&owner).unwrap() -= size;
                return vec![(next, false)];
            }
            (&QuotaOp::Take(_, size), _) => next.used -= size,
            (&QuotaOp::SetLimit(limit), _) => next.limit = limit,
            (QuotaOp::Close, _) => next.closed = true,
        }
        vec![(next, true)]
    }
}

/// A stash, and the tickets that nobody has taken yet: owner, charge, ticket.
type StashAndTickets = (Stash<Sized, u64>, Mutex<Vec<(u64, u64, Ticket)>>);

fn new_stash() -> (QuotaModel, StashAndTickets) {
    let limit = LIMITS[2];
    let builder = Stash::builder().max_bytes(limit).entry_overhead(0).max_bytes_per_owner(QUOTA);
    let stash = builder.clock(SlowClock).build().unwrap();
    let model = QuotaModel { limit, used: 0, closed: false, held: BTreeMap::new() };
    (model, (stash, Mutex::default()))
}

fn on_stash(
    (stash, tickets): &StashAndTickets,
    recorder: &Recorder<QuotaOp>,
    calls: &mut Vec<Call<QuotaOp>>,
    thread: usize,
    rng: &mut Rng,
) {
    for _ in 0..5 {
        match rng.below(12) {
            0..6 => {
                let (owner, size) = (rng.below(OWNERS), 1 + rng.below(5));
                let ticket = recorder.call(calls, thread, || {
                    let result = stash.try_put(owner, Sized(size));
                    let refused = result.as_ref().err().map(|refused| refused.reason());
                    (QuotaOp::Put(owner, size, refused), result.ok())
                });
                tickets.lock().unwrap().extend(ticket.map(|ticket| (owner, size, ticket)));
            }
            6..9 => {
                let Some((owner, size, ticket)) = tickets.lock().unwrap().pop() else { continue };
                recorder.call(calls, thread, || {
                    assert!(stash.take(&ticket, &owner).is_some());
                    (QuotaOp::Take(owner, size), ())
                });
            }
            9..11 => {
                let limit = LIMITS[rng.below(3) as usize];
                recorder.call(calls, thread, || {
                    stash.set_max_bytes(limit);
                    (QuotaOp::SetLimit(limit), ())
                });
            }
            _ if rng.once_in(4) => recorder.call(calls, thread, || {
                stash.close();
                (QuotaOp::Close, ())
            }),
            _ => {}
        }
    }
}

#[test]
fn w20_a_quota_refuses_while_the_limit_moves() {
    check_rounds("quotas", 3, 2_000, new_stash, on_stash);
}
