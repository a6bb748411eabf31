//! T15: more threads than cores. Waiting for a thread that is not running takes long.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::{DAY, ROOMY, payload};
use crate::peers::{Cloakroom, Glue, ParkingLotMutex, Peer, Scc, ShardedSlab, StdMutex};
use crate::results::{Data, Latency, histogram};
use crate::rounds::Effort;

const THREADS: [usize; 3] = [4, 16, 64];
/// The work of a thread between two operations: none, or about two microseconds. Without it, most threads are
/// interrupted inside an operation, and the longest times show only that. With it, they show mostly the wait
/// for others.
const WORK: [(&str, u32); 2] = [("", 0), (", working in between", 1_500)];

pub(super) fn measure(effort: Effort) -> Data {
    let (rounds, time) = if effort.quick { (1, 200) } else { (7, 1_000) };
    let time = Duration::from_millis(time);
    let mut data = Data::default();
    for crowd in crowds() {
        eprintln!("  put + take by {}", crowd.scenario());
        for round in 0..rounds {
            data.latencies.extend([
                run::<Cloakroom>(&crowd, round, time),
                run::<Glue>(&crowd, round, time),
                run::<StdMutex>(&crowd, round, time),
                run::<ParkingLotMutex>(&crowd, round, time),
                run::<Scc>(&crowd, round, time),
                run::<ShardedSlab>(&crowd, round, time),
            ]);
        }
    }
    data
}

struct Crowd {
    threads: usize,
    work: (&'static str, u32),
}

impl Crowd {
    fn scenario(&self) -> String {
        format!("{} threads{}", self.threads, self.work.0)
    }
}

fn crowds() -> impl Iterator<Item = Crowd> {
    WORK.iter().flat_map(|work| THREADS.map(|threads| Crowd { threads, work: *work }))
}

/// The names on the page.
pub(crate) fn scenarios() -> impl Iterator<Item = String> {
    crowds().map(|crowd| crowd.scenario())
}

fn run<P: Peer>(crowd: &Crowd, round: usize, time: Duration) -> Latency {
    let Crowd { threads, work: (_, steps) } = *crowd;
    let peer = Arc::new(P::new(ROOMY, DAY));
    let start = Arc::new(Barrier::new(threads + 1));
    let done = Arc::new(AtomicBool::new(false));
    let work = |_| {
        let (peer, start, done) = (Arc::clone(&peer), Arc::clone(&start), Arc::clone(&done));
        thread::spawn(move || {
            let mut latencies = histogram();
            start.wait();
            while !done.load(Ordering::Relaxed) {
                let before = Instant::now();
                let ticket = peer.put(1, payload()).expect("there is room");
                black_box(peer.take(ticket, 1)).expect("it is there");
                latencies.saturating_record(before.elapsed().as_nanos() as u64);
                for step in 0..steps {
                    black_box(step);
                }
            }
            latencies
        })
    };
    let members: Vec<_> = (0..threads).map(work).collect();
    start.wait();
    let begun = Instant::now();
    thread::sleep(time);
    done.store(true, Ordering::Relaxed);
    let mut latencies = histogram();
    for thread in members {
        latencies.add(thread.join().expect("it only puts and takes")).expect("the same bounds");
    }
    let seconds = begun.elapsed().as_secs_f64();
    Latency::new([&crowd.scenario(), P::NAME, "put + take"], round, seconds, &latencies)
}
