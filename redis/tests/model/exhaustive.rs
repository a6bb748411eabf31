//! Every interleaving of two replicas, their connections and the engine.
//!
//! Each replica puts one payload, waiting if it must, and then takes payloads whose tickets it was told. A
//! connection can break at any time: the request on its way may arrive at any later time or never, the reply is lost,
//! and the replica retries over a new generation. A replica can be killed; the engine can take a live one for
//! dead; entries expire; a clear runs; notifications are lost.
//!
//! Bounds: 2 replicas, limit 2, sizes 1 and 2, breaks, deaths and others as the test says. Not in the model: batches of more
//! than one step, owners, overflow, chunks.

use std::collections::BTreeMap;

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::engine::{Engine, Fault, Id, Op, Request, Sid, Status};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    /// A request is under way.
    Sent(Op),
    /// In the queue; a hint, a beat or a lost notification makes it ask.
    Waiting,
    Idle,
    /// Killed, or its session is lost.
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Replica {
    at: At,
    generation: u8,
    again: bool,
    reply: Option<Status>,
    takes: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    engine: Engine,
    replicas: Vec<Replica>,
    wire: Vec<Request>,
    /// Per ticket.
    told: Vec<bool>,
    delivered: Vec<u8>,
    /// Requests in the order in which they joined, and in which they were granted.
    joined: Vec<Id>,
    granted: Vec<Id>,
    breaks: u8,
    deaths: u8,
    cleared: bool,
    expired: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Arrives(usize),
    Breaks(usize),
    Dies(usize),
    LeaseEnds(usize),
    Hears(usize),
    Asks(usize),
    Takes(usize, Id),
    Expires,
    Clears,
}

pub(crate) struct Protocol {
    pub(crate) sizes: [u8; 2],
    pub(crate) limit: u8,
    pub(crate) breaks: u8,
    pub(crate) deaths: u8,
    pub(crate) time: bool,
    pub(crate) faults: Vec<Fault>,
}

const TICKETS: usize = 2;
/// Claims and requests have ids of their own: a claim of replica r, its n-th.
fn claim_id(replica: usize, take: u8) -> Id {
    10 + replica as u8 * 10 + take
}

impl Protocol {
    fn put(&self, replica: usize) -> Op {
        Op::Put { id: replica as u8, bytes: self.sizes[replica], owner: 0, wait: true }
    }

    fn send(state: &mut State, replica: usize, op: Op) {
        let this = &mut state.replicas[replica];
        let request = Request {
            sid: replica as Sid,
            generation: this.generation,
            again: this.again,
            op: op.clone(),
        };
        this.at = At::Sent(op);
        this.reply = None;
        state.wire.push(request);
    }

    /// Notes who joined and who was granted in a step.
    fn observe(before: &Engine, state: &mut State) {
        let waits =
            |engine: &Engine, id: Id| engine.queue.iter().any(|&(_, waiter, _)| waiter == id);
        for id in 0..TICKETS as u8 {
            if !waits(before, id) && waits(&state.engine, id) {
                state.joined.push(id);
            }
        }
        let mut granted: Vec<Id> = Vec::new();
        for &(sid, id, _) in &before.queue {
            if !waits(&state.engine, id)
                && state.engine.sessions.get(&sid).is_some_and(|held| held.grants.contains_key(&id))
            {
                granted.push(id);
            }
        }
        state.granted.extend(granted);
    }

    fn hears(&self, state: &mut State, replica: usize) {
        let this = &mut state.replicas[replica];
        let Some(status) = this.reply.take() else { return };
        let At::Sent(op) = this.at.clone() else { return };
        this.again = false;
        match (op, status) {
            (_, "GONE") => this.at = At::Dead,
            (Op::Put { .. } | Op::Admit { .. }, "WAIT") => this.at = At::Waiting,
            (Op::Put { id, .. } | Op::Store { id, .. }, "STORED")
            | (Op::Admit { id, .. }, "STORED") => {
                state.told[id as usize] = true;
                this.at = At::Idle;
            }
            (Op::Put { id, bytes, owner, .. }, "GRANTED") => {
                Self::send(state, replica, Op::Store { id, bytes, owner });
            }
            (Op::Admit { id, bytes, .. }, "GRANTED") => {
                Self::send(state, replica, Op::Store { id, bytes, owner: 0 });
            }
            (Op::Claim { id, ticket, .. }, "OK") => {
                state.delivered[ticket as usize] += 1;
                Self::send(state, replica, Op::Finish { id });
            }
            _ => this.at = At::Idle,
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut engine = Engine::new(self.limit, 10, 100);
        engine.faults = self.faults.iter().copied().collect();
        let replica = Replica { at: At::Idle, generation: 1, again: false, reply: None, takes: 0 };
        let mut state = State {
            engine,
            replicas: vec![replica; 2],
            wire: Vec::new(),
            told: vec![false; TICKETS],
            delivered: vec![0; TICKETS],
            joined: Vec::new(),
            granted: Vec::new(),
            breaks: 0,
            deaths: 0,
            cleared: false,
            expired: false,
        };
        for replica in 0..2 {
            state.engine.hello(replica as Sid, 1, true);
            Self::send(&mut state, replica, self.put(replica));
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend((0..state.wire.len()).map(Action::Arrives));
        for (at, replica) in state.replicas.iter().enumerate() {
            let has_session = state.engine.sessions.contains_key(&(at as Sid));
            if replica.at == At::Dead {
                if has_session {
                    actions.push(Action::LeaseEnds(at));
                }
                continue;
            }
            if replica.reply.is_some() {
                actions.push(Action::Hears(at));
            }
            if state.breaks < self.breaks && matches!(replica.at, At::Sent(_)) {
                actions.push(Action::Breaks(at));
            }
            if state.deaths < self.deaths {
                actions.push(Action::Dies(at));
                if has_session {
                    actions.push(Action::LeaseEnds(at));
                }
            }
            if replica.at == At::Waiting {
                actions.push(Action::Asks(at));
            }
            if replica.at == At::Idle && replica.takes < 2 {
                actions.extend(
                    (0..TICKETS).filter(|&t| state.told[t]).map(|t| Action::Takes(at, t as Id)),
                );
            }
        }
        if self.time && !state.expired {
            actions.push(Action::Expires);
        }
        if self.time && !state.cleared {
            actions.push(Action::Clears);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Arrives(at) => {
                let request = state.wire.remove(at);
                let status = state.engine.step(&request);
                let replica = &mut state.replicas[request.sid as usize];
                // The reply goes to the connection that asked, if it still stands.
                if replica.generation == request.generation
                    && matches!(&replica.at, At::Sent(op) if *op == request.op)
                {
                    replica.reply = Some(status);
                }
            }
            Action::Breaks(at) => {
                state.breaks += 1;
                let replica = &mut state.replicas[at];
                let At::Sent(op) = replica.at.clone() else { return None };
                replica.generation += 1;
                replica.again = true;
                let generation = replica.generation;
                // The greeting comes before everything else of the new connection.
                if state.engine.hello(at as Sid, generation, false) == "GONE" {
                    state.replicas[at].at = At::Dead;
                } else {
                    Self::send(&mut state, at, op);
                }
            }
            Action::Dies(at) => {
                state.deaths += 1;
                state.replicas[at].at = At::Dead;
                state.replicas[at].reply = None;
            }
            Action::LeaseEnds(at) => {
                if state.replicas[at].at != At::Dead {
                    state.deaths += 1;
                }
                state.engine.reap(at as Sid);
                state.engine.tidy();
            }
            Action::Hears(at) => self.hears(&mut state, at),
            Action::Asks(at) => {
                state.replicas[at].again = true;
                let op = Op::Admit { id: at as Id, bytes: self.sizes[at], wait: true };
                Self::send(&mut state, at, op);
            }
            Action::Takes(at, ticket) => {
                state.replicas[at].takes += 1;
                let id = claim_id(at, state.replicas[at].takes);
                Self::send(&mut state, at, Op::Claim { id, ticket, owner: 0, take: true });
            }
            Action::Expires => {
                state.expired = true;
                state.engine.now += state.engine.ttl;
                state.engine.tidy();
            }
            Action::Clears => {
                state.cleared = true;
                let bytes: u8 = state.engine.entries.values().map(|entry| entry.bytes).sum();
                state.engine.used -= bytes;
                state.engine.entries.clear();
                state.engine.epoch += 1;
                state.engine.tidy();
            }
        }
        Self::observe(&last.engine, &mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "1: the limit holds, and used is what is charged",
                |model: &Protocol, state: &State| {
                    state.engine.used == state.engine.sum() && state.engine.used <= model.limit
                },
            ),
            Property::always("2: granted in the order of joining", |_, state: &State| {
                let mut places: BTreeMap<Id, usize> = BTreeMap::new();
                for (place, &id) in state.joined.iter().enumerate() {
                    places.entry(id).or_insert(place);
                }
                // Those that left are skipped; those that wait must not have been overtaken.
                let granted: Vec<usize> =
                    state.granted.iter().filter_map(|id| places.get(id).copied()).collect();
                let in_order = granted.windows(2).all(|pair| pair[0] < pair[1]);
                let overtaken = state.engine.queue.iter().any(|&(_, id, _)| {
                    granted.iter().any(|&place| places.get(&id).is_some_and(|&mine| place > mine))
                });
                in_order && !overtaken
            }),
            Property::always("4: granted and joined at most once", |_, state: &State| {
                let once = |ids: &[Id]| {
                    (0..TICKETS as u8)
                        .all(|id| ids.iter().filter(|&&other| other == id).count() <= 1)
                };
                once(&state.granted) && once(&state.joined)
            }),
            Property::always("5: no head that fits is left waiting", |_, state: &State| {
                state
                    .engine
                    .queue
                    .first()
                    .is_none_or(|&(_, _, bytes)| state.engine.used + bytes > state.engine.limit)
            }),
            Property::always("7: delivered at most once", |_, state: &State| {
                state.delivered.iter().all(|&times| times <= 1)
            }),
            Property::always(
                "8: what a ticket was told for is there until delivered, expired, cleared or finished",
                |_, state: &State| {
                    (0..TICKETS).all(|t| {
                        let id = t as Id;
                        !state.told[t]
                            || state.delivered[t] > 0
                            || state.engine.entries.contains_key(&id)
                            || state
                                .engine
                                .sessions
                                .values()
                                .any(|held| held.claims.values().any(|claim| claim.ticket == id))
                            || state.expired
                            || state.cleared
                            || state.deaths > 0
                    })
                },
            ),
            Property::sometimes("both are delivered", |_, state: &State| state.delivered == [1, 1]),
            Property::sometimes("a waiter is stored", |_, state: &State| {
                state.granted.first().is_some_and(|&id| state.told[id as usize])
            }),
            Property::sometimes(
                "a waiter is granted after a death",
                |model: &Protocol, state: &State| {
                    model.deaths == 0 || (state.deaths > 0 && !state.granted.is_empty())
                },
            ),
        ]
    }
}

/// The properties that fail.
fn broken(protocol: Protocol) -> (usize, Vec<&'static str>) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    let broken = checker
        .discoveries()
        .into_keys()
        .filter(|name| name.as_bytes()[0].is_ascii_digit())
        .collect();
    // What must be possible was seen, so the properties do not hold because nothing happens.
    let seen = checker
        .discoveries()
        .into_keys()
        .filter(|name| !name.as_bytes()[0].is_ascii_digit())
        .count();
    assert_eq!(seen, 3, "something that should happen never does");
    (checker.unique_state_count(), broken)
}

const SOUND: Protocol =
    Protocol { sizes: [1, 2], limit: 2, breaks: 1, deaths: 1, time: false, faults: Vec::new() };

#[test]
fn a_break_and_a_death_at_any_time() {
    let (states, broken) = broken(SOUND);
    println!("{states} states");
    assert!(broken.is_empty(), "{broken:?}");
    assert!(states > 1_000, "{states}");
}

#[test]
fn two_breaks_at_any_time() {
    let (states, broken) = broken(Protocol { breaks: 2, deaths: 0, sizes: [2, 2], ..SOUND });
    println!("{states} states");
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn expiry_and_a_clear_at_any_time() {
    let (states, broken) = broken(Protocol { breaks: 1, deaths: 0, time: true, ..SOUND });
    println!("{states} states");
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn each_fault_of_the_protocol_is_noticed() {
    for (fault, by) in [
        (Fault::NoFence, '4'),
        (Fault::TakePutsBack, '7'),
        (Fault::RetryIsNew, '7'),
        (Fault::NoServiceAfterLeave, '5'),
    ] {
        let protocol = Protocol { breaks: 1, faults: vec![fault], sizes: [2, 2], ..SOUND };
        let stop = HasDiscoveries::AnyFailures;
        let checker = protocol.checker().finish_when(stop).threads(2).spawn_bfs().join();
        let broken: Vec<_> = checker
            .discoveries()
            .into_keys()
            .filter(|name| name.as_bytes()[0].is_ascii_digit())
            .collect();
        println!("{fault:?}: {broken:?} (expected {by})");
        assert!(!broken.is_empty(), "{fault:?} is not noticed");
    }
}
