//! Random traces through the model and the real library: every reply compared, and everything that is stored.
//!
//! Faults are then seeded in the library, one at a time, and the traces must notice each.

use std::collections::BTreeMap;

use cloakroom_redis::Library;
use redis::{Connection, Value};

use crate::engine::{Engine, Op, Request};
use crate::support::audit::try_audit;
use crate::support::server::Server;

const LIMIT: u8 = 6;
// Longer than a lease: a dead session's claims can be put back.
const TTL: u8 = 15;
const LEASE: u8 = 6;
const SESSIONS: u8 = 3;

/// A small generator, so that a trace is its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u8) -> u8 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(sides)) as u8
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.roll(100) < percent
    }
}

fn id(number: u8) -> [u8; 16] {
    // With the bytes that have been delimiters elsewhere.
    let mut id = *b"|:{}*%s\0\r\n\xff\xfe 001";
    id[15] = number;
    id
}

fn sid(number: u8) -> String {
    format!("{number:016x}")
}

/// The real library, called as the client calls it.
struct Real<'a> {
    connection: Connection,
    name: &'a str,
    library: &'a str,
}

impl Real<'_> {
    fn call(&mut self, step: &str, args: &[Vec<u8>]) -> Result<(String, Value), String> {
        let mut cmd = redis::cmd("FCALL");
        cmd.arg(format!("{}_{step}", self.library)).arg(2);
        cmd.arg(format!("ck:{{{}}}:m", self.name)).arg(format!("ck:{{{}}}:never", self.name));
        for arg in args {
            cmd.arg(arg);
        }
        match cmd.query(&mut self.connection) {
            Ok(Value::Array(fields)) => match fields.first() {
                Some(Value::BulkString(status)) => {
                    Ok((String::from_utf8_lossy(status).into(), Value::Array(fields)))
                }
                other => Err(format!("{step}: {other:?}")),
            },
            other => Err(format!("{step}: {other:?}")),
        }
    }

    fn set_clock(&mut self, now: u8) {
        let key = format!("ck:{{{}}}:clock", self.name);
        redis::cmd("SET").arg(key).arg(now).exec(&mut self.connection).unwrap();
    }

    fn step(&mut self, request: &Request) -> Result<String, String> {
        let text = |text: &str| text.as_bytes().to_vec();
        let number = |number: u8| number.to_string().into_bytes();
        let flag = |flag: bool| if flag { b"1".to_vec() } else { b"0".to_vec() };
        let owner = |owner: u8| vec![owner + 1; 16];
        let mut notes = Vec::new();
        let (name, rest) = match &request.op {
            Op::Put { id: put, bytes, owner: of, wait } => {
                let payload = vec![b'x'; *bytes as usize];
                ("put", vec![id(*put).to_vec(), owner(*of), text(""), flag(*wait), payload])
            }
            Op::Admit { id: request, bytes, wait } => {
                let nobody = vec![0; 16];
                ("admit", vec![id(*request).to_vec(), nobody, number(*bytes), flag(*wait)])
            }
            Op::Store { id: request, bytes, owner: of } => {
                let payload = vec![b'x'; *bytes as usize];
                let size = number(*bytes);
                (
                    "store",
                    vec![id(*request).to_vec(), owner(*of), text(""), size, text("0"), payload],
                )
            }
            Op::GiveUp { id: request } => ("give_up", vec![id(*request).to_vec(), text("0")]),
            Op::Shrink { id: request, bytes } => {
                ("shrink", vec![id(*request).to_vec(), number(*bytes)])
            }
            Op::Claim { id: claim, ticket, owner: of, take } => {
                let mode = if *take { text("f") } else { text("b") };
                ("claim", vec![id(*claim).to_vec(), id(*ticket).to_vec(), owner(*of), mode])
            }
            Op::Finish { id: claim } => {
                notes = [b"F".as_slice(), &id(*claim)].concat();
                ("note", vec![])
            }
            Op::Back { id: claim } => {
                notes = [b"B".as_slice(), &id(*claim)].concat();
                ("note", vec![])
            }
            Op::Undo { id: request } => {
                notes = [b"U".as_slice(), &id(*request)].concat();
                ("note", vec![])
            }
            Op::Beat => ("beat", vec![]),
            Op::Clear => ("clear", vec![]),
            Op::Close => ("close", vec![]),
            Op::Limit { bytes } => ("limit", vec![number(*bytes)]),
            Op::Bye => ("bye", vec![]),
        };
        let head =
            [sid(request.sid).into_bytes(), number(request.generation), flag(request.again), notes];
        let args: Vec<Vec<u8>> = head.into_iter().chain(rest).collect();
        self.call(name, &args).map(|(status, _)| status)
    }
}

fn random_op(dice: &mut Dice, session: u8, model: &Engine) -> Op {
    // Requests belong to their session, as their ids are the client's; tickets are everybody's.
    let own = session * 10 + dice.roll(3);
    let any = match model.entries.len() {
        0 => own,
        // Mostly a ticket that is good.
        count if dice.chance(80) => {
            *model.entries.keys().nth(dice.roll(count as u8) as usize).unwrap()
        }
        _ => dice.roll(SESSIONS) * 10 + dice.roll(3),
    };
    let claim = 100 + session * 10 + dice.roll(3);
    let bytes = dice.roll(LIMIT + 2);
    let owner = u8::from(dice.chance(10));
    // A client does not use an id again while something has it.
    let free = |id: u8| {
        !model.entries.contains_key(&id)
            && !model.queue.iter().any(|&(_, waiter, _)| waiter == id)
            && model.sessions.values().all(|held| {
                !held.grants.contains_key(&id)
                    && held.claims.values().all(|claim| claim.ticket != id)
            })
    };
    let unclaimed = |id: u8| model.sessions.values().all(|held| !held.claims.contains_key(&id));
    match dice.roll(24) {
        0..=4 if free(own) => Op::Put { id: own, bytes, owner, wait: dice.chance(70) },
        5..=6 if free(own) => Op::Admit { id: own, bytes, wait: dice.chance(70) },
        7..=9 => Op::Store { id: own, bytes, owner },
        10 => Op::GiveUp { id: own },
        11 => Op::Shrink { id: own, bytes },
        12..=16 if unclaimed(claim) => {
            Op::Claim { id: claim, ticket: any, owner, take: dice.chance(50) }
        }
        17..=18 => Op::Finish { id: claim },
        19 => Op::Back { id: claim },
        20 => Op::Undo { id: own },
        21 if dice.chance(60) => Op::Clear,
        22 if dice.chance(4) => Op::Close,
        22 => Op::Limit { bytes: LIMIT - dice.roll(3) },
        23 if dice.chance(10) => Op::Bye,
        _ => Op::Beat,
    }
}

/// Runs one trace. What differs, if anything.
fn trace(server: &Server, library: &str, seed: u64, steps: usize) -> Result<(), String> {
    let name = format!("{library} {seed}");
    let mut real = Real { connection: server.connection(), name: &name, library };
    let mut model = Engine::new(LIMIT, TTL, LEASE);
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
    real.set_clock(model.now);
    // No grace: nobody listens to these sessions, and only their lease ends them.
    let unbounded = u8::MAX;
    let settings = [LIMIT, 0, TTL, 0, 0, unbounded, unbounded, 0, LEASE, LEASE];
    let settings: Vec<Vec<u8>> = settings.iter().map(|n| n.to_string().into_bytes()).collect();
    real.call("open", &settings)?;
    let mut generations: BTreeMap<u8, u8> = BTreeMap::new();
    let mut last: Option<Request> = None;
    for at in 0..steps {
        let differs = |what: String| format!("seed {seed}, step {at}: {what}");
        if dice.chance(25) && model.now < 200 {
            model.now += dice.roll(5);
            real.set_clock(model.now);
        }
        let session = dice.roll(SESSIONS);
        let known = model.sessions.get(&session).is_some_and(|held| held.generation.is_some());
        if !known || dice.chance(8) {
            let generation = generations.get(&session).copied().unwrap_or(0) + 1;
            let fresh = dice.chance(if known { 0 } else { 70 });
            let expected = model.hello(session, generation, fresh);
            let args = [
                sid(session).into_bytes(),
                generation.to_string().into_bytes(),
                u8::from(fresh).to_string().into_bytes(),
            ];
            let (status, _) = real.call("hello", &args)?;
            if status != expected {
                return Err(differs(format!("hello says {status}, not {expected}")));
            }
            generations.insert(session, generation);
            continue;
        }
        let request = match &last {
            // A retry, over the same connection or a newer one.
            Some(request) if dice.chance(20) => {
                Request { again: true, generation: generations[&request.sid], ..request.clone() }
            }
            // A first try that arrives late.
            Some(request) if dice.chance(10) => request.clone(),
            _ => Request {
                sid: session,
                generation: generations[&session],
                again: false,
                op: random_op(&mut dice, session, &model),
            },
        };
        // A first try comes twice only over an older connection, which is fenced off.
        let repeated = last.as_ref() == Some(&request)
            && generations[&request.sid] == request.generation
            && !request.again;
        if repeated {
            continue;
        }
        if std::env::var_os("CLOAKROOM_TRACE").is_some() {
            println!("{at} now {}: {request:?}", model.now);
        }
        let expected = model.step(&request);
        let status = real.step(&request).map_err(&differs)?;
        if status != expected {
            return Err(differs(format!("{request:?} says {status}, not {expected}")));
        }
        last = Some(request.clone());
        let found = try_audit(&mut real.connection, &name).map_err(&differs)?;
        let held = |count: fn(&crate::engine::Held) -> usize| {
            model.sessions.values().map(count).sum::<usize>()
        };
        let seen = (found.used, found.entries, found.claims, found.grants, found.queue.clone());
        let queue: Vec<u64> = model.queue.iter().map(|&(.., bytes)| u64::from(bytes)).collect();
        let should = (
            u64::from(model.used),
            model.entries.len(),
            held(|held| held.claims.len()),
            held(|held| held.grants.len()),
            queue,
        );
        if seen != should || found.sessions != model.sessions.len() {
            return Err(differs(format!(
                "after {request:?}: {seen:?} and {} sessions, not {should:?} and {}",
                found.sessions,
                model.sessions.len(),
            )));
        }
        assert_eq!(model.used, model.sum(), "the model itself");
    }
    Ok(())
}

fn load(server: &Server, library: &Library) -> String {
    let source = library.functions_source();
    let name: String = redis::cmd("FUNCTION")
        .arg(&["LOAD", "REPLACE", &source])
        .query(&mut server.connection())
        .unwrap();
    name
}

#[test]
fn the_library_does_what_the_model_does() {
    let server = Server::start();
    let library = load(&server, &Library::on_a_manual_clock());
    let traces = std::env::var("CLOAKROOM_TRACES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    for seed in 0..traces {
        trace(&server, &library, seed, 150).unwrap();
    }
}

/// The fault, what it replaces, and by what.
const FAULTS: &[(&str, &str, &str)] = &[
    ("nofence", "if g ~= generation then return 'STALE' end", ""),
    ("reapopen", "  call('HDEL', S.p .. 'f', dead)\n", ""),
    (
        "takeback",
        "end_claim(S, dead, id, string.sub(c, 1, 1) == 'f')",
        "end_claim(S, dead, id, false)",
    ),
    (
        "finished",
        "end_claim(S, dead, id, string.sub(c, 1, 1) == 'f')",
        "end_claim(S, dead, id, true)",
    ),
    (
        "overtake",
        "over_quota(S, owner, n) or S[WAITING] > 0 or not tier(S, n)",
        "over_quota(S, owner, n) or not tier(S, n)",
    ),
    (
        "lifo",
        "local member = call('ZRANGE', S.p .. 'q', 0, 0)[1]\n    local sid, rid",
        "local member = call('ZRANGE', S.p .. 'q', -1, -1)[1]\n    local sid, rid",
    ),
    (
        "noserve",
        "local function done(S, status, id, ...)\n  serve(S)",
        "local function done(S, status, id, ...)",
    ),
    (
        "early",
        "'BYSCORE', 'LIMIT', 0, S.left)\n  if #due",
        "'BYSCORE', 'LIMIT', 1, S.left)\n  if #due",
    ),
    (
        "expiredtake",
        "  if deadline <= S[CLOCK] then\n    count_expired(S, free_entry(S, ticket, v))\n    return",
        "  if deadline < 0 then\n    count_expired(S, free_entry(S, ticket, v))\n    return",
    ),
    ("anyowner", "if of ~= owner then return done(S, 'NONE', cid) end", ""),
    ("doubleput", "    reply = earlier(S, sid, ticket)\n", ""),
    ("doubleadmit", "    reply = earlier(S, sid, rid)\n", ""),
    ("doubleclaim", "    local c = call('HGET', claims, cid)\n", "    local c = nil\n"),
    ("leak", "    free_chunks(S, rid, chunks_of(S, n))\n    refund(S, n, owner)\n", ""),
    ("leakqueue", "  S[WAITING_BYTES] = S[WAITING_BYTES] - n\n", ""),
    (
        "keepsplit",
        "  S[USED] = S[USED] - (have - n)\n  account(S, was, -have)",
        "  account(S, was, -have)",
    ),
    ("large", "if n > have or chunks", "if chunks"),
    ("epoch", "elseif epoch ~= S[EPOCH] then", "elseif false then"),
    (
        "deadback",
        "elseif deadline <= S[CLOCK] then\n    count_expired",
        "elseif false then\n    count_expired",
    ),
    (
        "noundo",
        "    call('HDEL', S.p .. 't', rid)\n    call('ZREM', S.p .. 'd', rid)\n    free_entry(S, rid, v)\n",
        "",
    ),
    (
        "grantlost",
        "  local g = call('HGET', S.p .. 'g:' .. a[1], a[5])\n  if g then return done",
        "  local g = nil\n  if g then return done",
    ),
    (
        "lease",
        "  call('ZADD', S.p .. 's', int(S[CLOCK] + S[LEASE]), a[1])\n  tidy(S)\n  probe(S)",
        "  tidy(S)\n  probe(S)",
    ),
    ("selfreap", "  if dead == S.me then\n", "  if false then\n"),
    ("staysdead", "  if not g and a[3] ~= '1' then return {'GONE', ''} end\n", ""),
    (
        "oldhello",
        "  if g and tonumber(g) > tonumber(a[2]) then return {'STALE', ''} end\n",
        "  if g then a[2] = g end\n",
    ),
    ("keepsrecord", "  if chunks == 0 then call('HDEL', S.p .. 'k:' .. sid, cid) end\n", ""),
    ("norecord", "  if chunks == 0 then call('HSET', S.p .. 'k:' .. sid, cid, v) end\n", ""),
    ("clearonly", "    call('RENAME', S.p .. 'd', S.p .. 'y')\n", ""),
];

#[test]
fn each_fault_in_the_library_is_noticed() {
    let server = Server::start();
    let sound = Library::on_a_manual_clock();
    let mut unnoticed = Vec::new();
    for (name, old, new) in FAULTS {
        let library = load(&server, &sound.patched(name, old, new));
        match (0..60).find_map(|seed| trace(&server, &library, seed, 150).err()) {
            Some(by) => println!("{name}: {by}"),
            None => unnoticed.push(name),
        }
        server.run::<()>("FLUSHALL");
    }
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}
