//! The invariants I1 to I6 of `state.lua`, checked from outside against everything that the engine holds.

use std::collections::{BTreeMap, BTreeSet};

use redis::Connection;

type Bytes = Vec<u8>;

/// What there is, as the audit saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) used: u64,
    pub(crate) limit: u64,
    pub(crate) entries: usize,
    pub(crate) claims: usize,
    pub(crate) grants: usize,
    /// Bytes of each request, in the queue's order.
    pub(crate) queue: Vec<u64>,
    pub(crate) sessions: usize,
    pub(crate) keys: BTreeSet<String>,
}

struct Entry {
    charge: u64,
    deadline: u64,
    chunks: u32,
    owner: Bytes,
}

fn double(bytes: &[u8]) -> u64 {
    f64::from_be_bytes(bytes[..8].try_into().unwrap()) as u64
}

fn entry(record: &[u8]) -> Entry {
    Entry {
        charge: double(record),
        deadline: double(&record[8..]),
        // Above is a flag.
        chunks: u32::from_be_bytes(record[20..24].try_into().unwrap()) & 0x7fff_ffff,
        owner: record[24..40].to_vec(),
    }
}

fn hash(connection: &mut Connection, key: &str) -> BTreeMap<Bytes, Bytes> {
    redis::cmd("HGETALL").arg(key).query(connection).unwrap()
}

fn sorted(connection: &mut Connection, key: &str) -> Vec<(Bytes, u64)> {
    let flat: Vec<Bytes> =
        redis::cmd("ZRANGE").arg(key).arg(&["0", "-1", "WITHSCORES"]).query(connection).unwrap();
    let score = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse::<f64>().unwrap() as u64;
    flat.chunks(2).map(|pair| (pair[0].clone(), score(&pair[1]))).collect()
}

/// Panics with the invariant that does not hold. The stash must not be in use meanwhile.
pub(crate) fn audit(connection: &mut Connection, name: &str) -> Found {
    try_audit(connection, name).unwrap_or_else(|broken| panic!("the audit of {name}: {broken}"))
}

/// What there is, or which invariant does not hold. Looks again if a step came between.
pub(crate) fn try_audit(connection: &mut Connection, name: &str) -> Result<Found, String> {
    let key = format!("ck:{{{name}}}:m");
    loop {
        let before: Option<Bytes> = redis::cmd("GET").arg(&key).query(connection).unwrap();
        let found =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(connection, name)));
        // Every step writes the time into it.
        let after: Option<Bytes> = redis::cmd("GET").arg(&key).query(connection).unwrap();
        if before == after {
            return found.unwrap_or_else(|_| Err("a record is missing or malformed".into()));
        }
    }
}

fn look(connection: &mut Connection, name: &str) -> Result<Found, String> {
    let prefix = format!("ck:{{{name}}}:");
    let all: Vec<Bytes> = redis::cmd("KEYS").arg("ck:*").query(connection).unwrap();
    let mine: BTreeSet<Bytes> =
        all.into_iter().filter(|key| key.starts_with(prefix.as_bytes())).collect();
    let key = |tail: &str| format!("{prefix}{tail}");
    let state: Option<Bytes> = redis::cmd("GET").arg(key("m")).query(connection).unwrap();
    let Some(state) = state else {
        return if mine.is_empty() { Ok(Found::default()) } else { Err("keys without m".into()) };
    };
    let field = |index: usize| double(&state[(index - 1) * 8..]);
    let ensure = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };

    let mut expected: BTreeSet<Bytes> = [key("m").into_bytes()].into();
    let (mut used, mut items) = (0, 0);
    let mut owners: BTreeMap<Bytes, u64> = BTreeMap::new();
    let mut own = |owner: &[u8], charge: u64| {
        if owner != [0; 16] && charge > 0 {
            *owners.entry(owner.to_vec()).or_default() += charge;
        }
    };
    let chunks_of = |expected: &mut BTreeSet<Bytes>, ticket: &[u8], chunks: u32| {
        // How many, after the number of the first.
        let first = chunks / 1_024 * 1_024;
        for chunk in first..chunks {
            let mut name = key("p:").into_bytes();
            name.extend_from_slice(ticket);
            name.extend_from_slice(format!(":{chunk}").as_bytes());
            expected.insert(name);
        }
    };

    // I1, I2: entries, and those that were cleared and are not freed yet.
    let mut entries = 0;
    for (records, deadlines) in [("t", "d"), ("x", "y")] {
        let records_of = hash(connection, &key(records));
        let by_deadline: BTreeMap<Bytes, u64> =
            sorted(connection, &key(deadlines)).into_iter().collect();
        ensure(
            records_of.keys().eq(by_deadline.keys()),
            format!("I2: {records} and {deadlines} differ"),
        )?;
        for (ticket, record) in &records_of {
            let entry = entry(record);
            ensure(by_deadline[ticket] == entry.deadline, "I2: a deadline differs".into())?;
            used += entry.charge;
            items += 1;
            own(&entry.owner, entry.charge);
            chunks_of(&mut expected, ticket, entry.chunks);
            let inline = ((record.len() - 40) as u64 + field(9)).max(1);
            ensure(
                entry.chunks > 0 || inline == entry.charge,
                format!("I1: charged {} for {inline}", entry.charge),
            )?;
        }
        if !records_of.is_empty() {
            expected.extend([key(records).into_bytes(), key(deadlines).into_bytes()]);
        }
        if records == "t" {
            entries = records_of.len();
        }
    }

    // I4: sessions and what they hold.
    let sessions: BTreeSet<Bytes> =
        sorted(connection, &key("s")).into_iter().map(|(session, _)| session).collect();
    let generations = hash(connection, &key("f"));
    ensure(
        generations.keys().all(|session| sessions.contains(session)),
        "I4: a generation without a session".into(),
    )?;
    if !sessions.is_empty() {
        expected.insert(key("s").into_bytes());
    }
    if !generations.is_empty() {
        expected.insert(key("f").into_bytes());
    }
    let (mut claims, mut grants) = (0, 0);
    let mut waiting: BTreeMap<Bytes, u64> = BTreeMap::new();
    for session in &sessions {
        let session = String::from_utf8(session.clone()).unwrap();
        let mut inline: BTreeSet<Bytes> = BTreeSet::new();
        for kind in ["c", "g", "w", "k"] {
            let name = key(&format!("{kind}:{session}"));
            let held = hash(connection, &name);
            if !held.is_empty() {
                expected.insert(name.into_bytes());
            }
            for (id, record) in held {
                match kind {
                    "k" => ensure(inline.remove(&id), "I4: a record without its claim".into())?,
                    "c" => {
                        let entry = entry(&record[17..]);
                        if entry.chunks == 0 {
                            inline.insert(id);
                        }
                        (used, items, claims) = (used + entry.charge, items + 1, claims + 1);
                        own(&entry.owner, entry.charge);
                        chunks_of(&mut expected, &record[1..17], entry.chunks);
                    }
                    "g" => {
                        let charge = double(&record);
                        (used, items, grants) = (used + charge, items + 1, grants + 1);
                        own(&record[12..28], charge);
                    }
                    _ => {
                        let charge = double(&record);
                        own(&record[16..32], charge);
                        waiting.insert([session.as_bytes(), &id].concat(), charge);
                    }
                }
            }
        }
        ensure(inline.is_empty(), "I4: a claim without its record".into())?;
    }
    ensure(used == field(12), format!("I1: {used} bytes are there, {} are counted", field(12)))?;
    ensure(items == field(13), format!("I1: {items} items are there, {} counted", field(13)))?;
    ensure(claims as u64 == field(16), format!("I1: {claims} claims, {} counted", field(16)))?;

    // I3: the queue.
    let queue = sorted(connection, &key("q"));
    if !queue.is_empty() {
        expected.insert(key("q").into_bytes());
    }
    ensure(
        queue.iter().map(|(member, _)| member).collect::<BTreeSet<_>>()
            == waiting.keys().collect::<BTreeSet<_>>(),
        format!("I3: the queue and what waits differ: {queue:?}, {waiting:?}"),
    )?;
    let queue: Vec<u64> = queue.iter().map(|(member, _)| waiting[member]).collect();
    ensure(queue.len() as u64 == field(14), "I3: the number of waiters".into())?;
    ensure(queue.iter().sum::<u64>() == field(15), "I3: the bytes of the waiters".into())?;

    // I5: the owners' accounts.
    if field(6) > 0 {
        let accounts: BTreeMap<Bytes, u64> = hash(connection, &key("o"))
            .into_iter()
            .map(|(owner, bytes)| (owner, std::str::from_utf8(&bytes).unwrap().parse().unwrap()))
            .collect();
        ensure(accounts == owners, format!("I5: {accounts:?} are counted, {owners:?} are there"))?;
        if !accounts.is_empty() {
            expected.insert(key("o").into_bytes());
        }
    }

    // I6, and promise 1.
    let limit = field(1) + field(3);
    if let Some(head) = queue.first() {
        ensure(used + head > limit, format!("I6: {head} fit and wait ({used} of {limit})"))?;
    }

    // No orphan: what may be left is a chunk that goes by itself, and the clock of the tests.
    expected.insert(key("clock").into_bytes());
    for orphan in mine.difference(&expected) {
        let ttl: i64 = redis::cmd("PTTL").arg(orphan).query(connection).unwrap();
        let name = String::from_utf8_lossy(orphan);
        ensure(ttl > 0, format!("an orphan: {name}"))?;
        ensure(name.contains(":p:"), format!("an orphan that is no chunk: {name}"))?;
    }
    for key in expected.difference(&mine) {
        let name = String::from_utf8_lossy(key);
        ensure(name.ends_with(":clock"), format!("missing: {name}"))?;
    }
    Ok(Found {
        used,
        limit,
        entries,
        claims,
        grants,
        queue,
        sessions: sessions.len(),
        keys: mine.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect(),
    })
}
