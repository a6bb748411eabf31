//! What the server library does, as a plain model: one state, one atomic step at a time.
//!
//! The exhaustive model explores clients and connections around it; the traces run it beside the real library and
//! compare every reply and the whole state.

use std::collections::{BTreeMap, BTreeSet};

/// A session, a request, a ticket, a claim: small numbers.
pub(crate) type Sid = u8;
pub(crate) type Id = u8;

/// What a payload of so many bytes is charged, without an overhead.
fn charge(bytes: u8) -> u8 {
    bytes.max(1)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) bytes: u8,
    pub(crate) deadline: u8,
    pub(crate) epoch: u8,
    pub(crate) owner: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Claim {
    /// Finished, not put back, if the session dies.
    pub(crate) take: bool,
    pub(crate) ticket: Id,
    pub(crate) entry: Entry,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Held {
    /// None: fenced off.
    pub(crate) generation: Option<u8>,
    pub(crate) lease: u8,
    pub(crate) grants: BTreeMap<Id, u8>,
    pub(crate) claims: BTreeMap<Id, Claim>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Engine {
    pub(crate) limit: u8,
    pub(crate) used: u8,
    pub(crate) now: u8,
    pub(crate) ttl: u8,
    pub(crate) lease: u8,
    pub(crate) epoch: u8,
    pub(crate) closed: bool,
    pub(crate) entries: BTreeMap<Id, Entry>,
    pub(crate) queue: Vec<(Sid, Id, u8)>,
    pub(crate) sessions: BTreeMap<Sid, Held>,
    /// Faults of the model itself, to see that its properties notice.
    pub(crate) faults: BTreeSet<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    NoFence,
    TakePutsBack,
    RetryIsNew,
    NoServiceAfterLeave,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Op {
    Put { id: Id, bytes: u8, owner: u8, wait: bool },
    Admit { id: Id, bytes: u8, wait: bool },
    Store { id: Id, bytes: u8, owner: u8 },
    GiveUp { id: Id },
    Shrink { id: Id, bytes: u8 },
    Claim { id: Id, ticket: Id, owner: u8, take: bool },
    Finish { id: Id },
    Back { id: Id },
    Undo { id: Id },
    Beat,
    Clear,
    Close,
    Limit { bytes: u8 },
    Bye,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) sid: Sid,
    pub(crate) generation: u8,
    pub(crate) again: bool,
    pub(crate) op: Op,
}

pub(crate) type Status = &'static str;

impl Engine {
    pub(crate) fn new(limit: u8, ttl: u8, lease: u8) -> Self {
        Self {
            limit,
            used: 0,
            now: 1,
            ttl,
            lease,
            epoch: 0,
            closed: false,
            entries: BTreeMap::new(),
            queue: Vec::new(),
            sessions: BTreeMap::new(),
            faults: BTreeSet::new(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    pub(crate) fn hello(&mut self, sid: Sid, generation: u8, fresh: bool) -> Status {
        match self.sessions.get(&sid).and_then(|held| held.generation) {
            None if !fresh => return "GONE",
            Some(newest) if newest > generation => return "STALE",
            _ => {}
        }
        let lease = self.now + self.lease;
        let held = self.sessions.entry(sid).or_default();
        held.generation = Some(generation);
        held.lease = lease;
        "OK"
    }

    pub(crate) fn step(&mut self, request: &Request) -> Status {
        let newest = self.sessions.get(&request.sid).and_then(|held| held.generation);
        match newest {
            None => return "GONE",
            Some(newest) if newest != request.generation && !self.has(Fault::NoFence) => {
                return "STALE";
            }
            _ => {}
        }
        let status = self.execute(request);
        self.serve();
        status
    }

    fn held(&mut self, sid: Sid) -> &mut Held {
        self.sessions.get_mut(&sid).expect("fenced")
    }

    fn execute(&mut self, request: &Request) -> Status {
        let sid = request.sid;
        let again = request.again && !self.has(Fault::RetryIsNew);
        match request.op {
            Op::Put { id, bytes, owner, wait } => {
                if again && let Some(status) = self.earlier(sid, id) {
                    return status;
                }
                let bytes = charge(bytes);
                if let Err(status) = self.admit(sid, id, bytes, wait) {
                    return status;
                }
                self.insert(id, bytes, owner);
                "STORED"
            }
            Op::Admit { id, bytes, wait } => {
                if again && let Some(status) = self.earlier(sid, id) {
                    return status;
                }
                let bytes = charge(bytes);
                if let Err(status) = self.admit(sid, id, bytes, wait) {
                    return status;
                }
                self.held(sid).grants.insert(id, bytes);
                "GRANTED"
            }
            Op::Store { id, bytes, owner } => match self.held(sid).grants.get(&id).copied() {
                None if self.entries.contains_key(&id) || request.again => "STORED",
                None => "NONE",
                Some(have) if charge(bytes) > have => "LARGE",
                Some(have) => {
                    let bytes = charge(bytes);
                    self.held(sid).grants.remove(&id);
                    self.used -= have - bytes;
                    self.insert(id, bytes, owner);
                    "STORED"
                }
            },
            Op::GiveUp { id } => {
                if self.held(sid).grants.contains_key(&id) {
                    return "GRANTED";
                }
                self.leave(sid, id);
                "LEFT"
            }
            Op::Shrink { id, bytes } => match self.held(sid).grants.get_mut(&id) {
                None => "NONE",
                Some(have) => {
                    let freed = have.saturating_sub(charge(bytes));
                    *have -= freed;
                    self.used -= freed;
                    "OK"
                }
            },
            Op::Claim { id, ticket, owner, take } => {
                if again && self.held(sid).claims.contains_key(&id) {
                    return "OK";
                }
                match self.entries.get(&ticket) {
                    None => return "NONE",
                    Some(entry) if entry.owner != owner => return "NONE",
                    Some(_) => {}
                }
                let entry = self.entries.remove(&ticket).expect("just seen");
                if entry.deadline <= self.now {
                    self.used -= entry.bytes;
                    return "NONE";
                }
                self.held(sid).claims.insert(id, Claim { take, ticket, entry });
                "OK"
            }
            Op::Finish { id } => {
                self.end_claim(sid, id, true);
                "OK"
            }
            Op::Back { id } => {
                self.end_claim(sid, id, false);
                "OK"
            }
            Op::Undo { id } => {
                self.leave(sid, id);
                "OK"
            }
            Op::Beat => {
                let lease = self.now + self.lease;
                self.held(sid).lease = lease;
                self.tidy_for(Some(sid));
                "OK"
            }
            Op::Clear => {
                self.used -= self.entries.values().map(|entry| entry.bytes).sum::<u8>();
                self.entries.clear();
                self.epoch += 1;
                self.tidy_for(Some(sid));
                "OK"
            }
            Op::Close => {
                self.closed = true;
                "OK"
            }
            Op::Limit { bytes } => {
                self.limit = bytes;
                "OK"
            }
            Op::Bye => {
                self.held(sid).lease = 0;
                self.tidy();
                "OK"
            }
        }
    }

    fn earlier(&mut self, sid: Sid, id: Id) -> Option<Status> {
        if self.entries.contains_key(&id) {
            Some("STORED")
        } else if self.held(sid).grants.contains_key(&id) {
            Some("GRANTED")
        } else if self.queue.iter().any(|&(of, waiter, _)| (of, waiter) == (sid, id)) {
            Some("WAIT")
        } else {
            None
        }
    }

    fn fits(&self, bytes: u8) -> bool {
        self.used + bytes <= self.limit
    }

    fn admit(&mut self, sid: Sid, id: Id, bytes: u8, wait: bool) -> Result<(), Status> {
        if self.closed {
            return Err("CLOSED");
        }
        if bytes > self.limit {
            return Err("LARGE");
        }
        if !self.queue.is_empty() || !self.fits(bytes) {
            self.tidy_for(Some(sid));
            if !self.queue.is_empty() || !self.fits(bytes) {
                if !wait {
                    return Err("FULL");
                }
                self.queue.push((sid, id, bytes));
                return Err("WAIT");
            }
        }
        self.used += bytes;
        Ok(())
    }

    fn insert(&mut self, id: Id, bytes: u8, owner: u8) {
        let entry = Entry { bytes, deadline: self.now + self.ttl, epoch: self.epoch, owner };
        self.entries.insert(id, entry);
    }

    fn end_claim(&mut self, sid: Sid, id: Id, finish: bool) {
        let Some(claim) = self.held(sid).claims.remove(&id) else { return };
        let Claim { ticket, entry, .. } = claim;
        if finish || entry.epoch != self.epoch || entry.deadline <= self.now {
            self.used -= entry.bytes;
        } else {
            self.entries.insert(ticket, entry);
        }
    }

    fn leave(&mut self, sid: Sid, id: Id) {
        let place = self.queue.iter().position(|&(of, waiter, _)| (of, waiter) == (sid, id));
        if let Some(place) = place {
            self.queue.remove(place);
        } else if let Some(bytes) = self.held(sid).grants.remove(&id) {
            self.used -= bytes;
        } else if let Some(entry) = self.entries.remove(&id) {
            self.used -= entry.bytes;
        }
    }

    pub(crate) fn tidy(&mut self) {
        self.tidy_for(None);
    }

    /// A session that is late and calls is alive.
    fn tidy_for(&mut self, me: Option<Sid>) {
        let now = self.now;
        let expired: u8 =
            self.entries.values().filter(|entry| entry.deadline <= now).map(|e| e.bytes).sum();
        self.entries.retain(|_, entry| entry.deadline > now);
        self.used -= expired;
        let dead: Vec<Sid> = self
            .sessions
            .iter()
            .filter(|(_, held)| held.lease <= now)
            .map(|(&sid, _)| sid)
            .collect();
        for sid in dead {
            if me == Some(sid) {
                self.held(sid).lease = now + self.lease;
            } else {
                self.reap(sid);
            }
        }
        self.serve();
    }

    pub(crate) fn reap(&mut self, sid: Sid) {
        let claims: Vec<(Id, bool)> =
            self.held(sid).claims.iter().map(|(&id, claim)| (id, claim.take)).collect();
        for (id, take) in claims {
            self.end_claim(sid, id, take && !self.has(Fault::TakePutsBack));
        }
        let grants: u8 = self.held(sid).grants.values().sum();
        self.used -= grants;
        self.queue.retain(|&(of, ..)| of != sid);
        self.sessions.remove(&sid);
    }

    fn serve(&mut self) {
        if self.has(Fault::NoServiceAfterLeave) {
            return;
        }
        while let Some(&(sid, id, bytes)) = self.queue.first() {
            if self.closed || bytes > self.limit {
                self.queue.remove(0);
            } else if self.fits(bytes) {
                self.queue.remove(0);
                self.used += bytes;
                self.held(sid).grants.insert(id, bytes);
            } else {
                return;
            }
        }
    }

    /// Everything that is charged.
    pub(crate) fn sum(&self) -> u8 {
        let entries: u8 = self.entries.values().map(|entry| entry.bytes).sum();
        let held: u8 = self
            .sessions
            .values()
            .map(|held| {
                held.grants.values().sum::<u8>()
                    + held.claims.values().map(|claim| claim.entry.bytes).sum::<u8>()
            })
            .sum();
        entries + held
    }
}
