//! T15: more threads than cores. Whoever has to wait for a thread that is not running waits long.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::{DAY, ROOMY, payload};
use crate::peers::{Cloakroom, Glue, ParkingLotMutex, Peer, Scc, ShardedSlab, StdMutex};
use crate::results::{Data, Latency, histogram};
use crate::rounds::Effort;

pub(crate) const THREADS: [usize; 3] = [4, 16, 64];

pub(super) fn measure(effort: Effort) -> Data {
    let (rounds, time) = if effort.quick { (1, 200) } else { (7, 1_000) };
    let time = Duration::from_millis(time);
    let mut data = Data::default();
    for threads in THREADS {
        eprintln!("  put + take by {threads} threads");
        for round in 0..rounds {
            data.latencies.extend([
                crowd::<Cloakroom>(threads, round, time),
                crowd::<Glue>(threads, round, time),
                crowd::<StdMutex>(threads, round, time),
                crowd::<ParkingLotMutex>(threads, round, time),
                crowd::<Scc>(threads, round, time),
                crowd::<ShardedSlab>(threads, round, time),
            ]);
        }
    }
    data
}

/// What the page calls it.
pub(crate) fn scenario(threads: usize) -> String {
    format!("{threads} threads")
}

fn crowd<P: Peer>(threads: usize, round: usize, time: Duration) -> Latency {
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
            }
            latencies
        })
    };
    let crowd: Vec<_> = (0..threads).map(work).collect();
    start.wait();
    let begun = Instant::now();
    thread::sleep(time);
    done.store(true, Ordering::Relaxed);
    let mut latencies = histogram();
    for thread in crowd {
        latencies.add(thread.join().expect("it only puts and takes")).expect("the same bounds");
    }
    let seconds = begun.elapsed().as_secs_f64();
    Latency::new([&scenario(threads), P::NAME, "put + take"], round, seconds, &latencies)
}
