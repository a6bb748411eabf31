//! T9: the cost of expiry, and how long it delays other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;

use super::{DAY, ROOMY, Timed, payload, small_payload};
use crate::peers::{Cloakroom, Glue, Peer, Scc, StdMutex};
use crate::results::{Data, Group, Latency, histogram};
use crate::rounds::{Candidate, Effort, Timing};

pub(super) const TIMED: &[Timed] = &[Timed {
    target: "T9",
    title: "a put that is refused: full, and nothing has expired; by number held",
    candidates: |quick| {
        let held = [0, 1_000, 100_000, 1_000_000];
        let held = &held[..if quick { 3 } else { held.len() }];
        held.iter().map(|held| refused(*held)).collect()
    },
}];

/// It sweeps before it refuses.
fn refused(held: usize) -> Candidate {
    let make = move || {
        let peer = Cloakroom::new(held as u64 + 1, DAY);
        for _ in 0..held {
            let _ticket = peer.put(1, small_payload()).expect("there is room");
        }
        move |operations| {
            let started = Instant::now();
            for _ in 0..operations {
                assert!(peer.put(1, Bytes::from_static(&[7; 2])).is_none(), "it is full");
            }
            started.elapsed()
        }
    };
    Candidate::new(Cloakroom::NAME, make).at(held as u64)
}

pub(crate) const EXPIRE: &str = "expire, ns per entry";
pub(crate) const MEANWHILE: &str = "put, while another thread expires";
pub(crate) const NOTHING: &str = "put, while another thread does nothing";
pub(crate) const FULL: &str = "put into a full stash of which all has expired";

pub(super) fn measure(effort: Effort) -> Data {
    let (rounds, entries) = if effort.quick { (2, 50_000) } else { (9, 1_000_000) };
    let mut data = Data::default();
    let mut timings: Vec<Timing> = Vec::new();
    eprintln!("  expire {entries} entries");
    for round in 0..rounds {
        expire::<Cloakroom>(round, entries, &mut timings, &mut data);
        expire::<Glue>(round, entries, &mut timings, &mut data);
        expire::<StdMutex>(round, entries, &mut timings, &mut data);
        expire::<Scc>(round, entries, &mut timings, &mut data);
        data.latencies.push(full_of_expired(round, entries));
    }
    data.groups.push(Group { title: EXPIRE.to_owned(), timings });
    data
}

/// So short that entries expire soon after their put.
const SHORT: Duration = Duration::from_millis(1);

fn full_of<P: Peer>(entries: usize, max_bytes: u64, ttl: Duration) -> P {
    let peer = P::new(max_bytes, ttl);
    for _ in 0..entries {
        let _ticket = peer.put(1, payload()).expect("there is room");
    }
    thread::sleep(2 * SHORT);
    peer
}

fn expire<P: Peer>(round: usize, entries: usize, timings: &mut Vec<Timing>, data: &mut Data) {
    // Alone, for its cost.
    let peer = full_of::<P>(entries, ROOMY, SHORT);
    let started = Instant::now();
    assert_eq!(peer.expire(), Some(entries), "all have expired");
    let took = started.elapsed();
    let cost = took.as_nanos() as f64 / entries as f64;
    match timings.iter_mut().find(|timing| timing.name == P::NAME) {
        Some(timing) => timing.rounds.push(cost),
        None => timings.push(Timing { name: P::NAME.to_owned(), x: None, rounds: vec![cost] }),
    }

    // With another thread that puts, for the delay; and the same time without, for the delays that the
    // machine causes anyway.
    let peer = Arc::new(full_of::<P>(entries, ROOMY, SHORT));
    let mut latency = |scenario, meanwhile: &dyn Fn()| {
        let (took, puts) = puts_during(&peer, meanwhile);
        let names = [scenario, P::NAME, "put"];
        data.latencies.push(Latency::new(names, round, took.as_secs_f64(), &puts));
    };
    latency(MEANWHILE, &|| {
        peer.expire();
    });
    latency(NOTHING, &|| thread::sleep(took));
}

fn puts_during<P: Peer>(peer: &Arc<P>, meanwhile: &dyn Fn()) -> (Duration, Histogram<u64>) {
    let (started, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let putting = thread::spawn({
        let (peer, started, done) = (Arc::clone(peer), Arc::clone(&started), Arc::clone(&done));
        move || {
            let mut puts = histogram();
            while !done.load(Ordering::Relaxed) {
                let before = Instant::now();
                let ticket = peer.put(2, payload()).expect("there is room");
                puts.saturating_record(before.elapsed().as_nanos() as u64);
                peer.take(ticket, 2);
                started.store(true, Ordering::Relaxed);
            }
            puts
        }
    });
    while !started.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    let begun = Instant::now();
    meanwhile();
    let took = begun.elapsed();
    done.store(true, Ordering::Relaxed);
    (took, putting.join().expect("it only puts"))
}

/// Every put is admitted, and some have to sweep first.
fn full_of_expired(round: usize, entries: usize) -> Latency {
    let limit = payload().len() as u64 * entries as u64;
    let peer = full_of::<Cloakroom>(entries, limit, SHORT);
    let mut puts = histogram();
    let begun = Instant::now();
    for _ in 0..entries / 2 {
        let before = Instant::now();
        let _ticket = peer.put(2, payload()).expect("what has expired makes room");
        puts.saturating_record(before.elapsed().as_nanos() as u64);
    }
    Latency::new([FULL, Cloakroom::NAME, "put"], round, begun.elapsed().as_secs_f64(), &puts)
}
