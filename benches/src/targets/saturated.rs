//! T12: the limit is full all the time, 64 producers wait, consumers take. Large requests among small ones:
//! the order of grants decides whether the large ones are ever granted.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::DAY;
use crate::peers::{Cloakroom, FirstFit, Glue, Peer, WaitingPeer};
use crate::results::{Data, Figure, Latency, histogram};
use crate::rounds::Effort;

const LIMIT: u64 = 16 << 20;
/// The sizes of the puts, and the number of producers of each. A large one is half of the limit.
pub(crate) const CLASSES: [(&str, usize, usize); 3] =
    [("small", 16 << 10, 48), ("medium", 256 << 10, 12), ("large", 8 << 20, 4)];
const CONSUMERS: usize = 4;
pub(crate) const SCENARIO: &str = "saturated";
pub(crate) const BYTES: &str = "GiB per second";
pub(crate) const WAITED: &str = "share of puts that had to wait";

pub(super) fn measure(effort: Effort) -> Data {
    let (rounds, time) = if effort.quick { (1, 300) } else { (9, 1_000) };
    let time = Duration::from_millis(time);
    let mut data = Data::default();
    eprintln!("  saturated");
    for round in 0..rounds {
        saturate::<Cloakroom>(round, time, &mut data);
        saturate::<Glue>(round, time, &mut data);
        saturate::<FirstFit>(round, time, &mut data);
    }
    data
}

/// Nothing but ourselves, for a profiler.
pub(crate) fn repeat(name: &str, time: Duration) -> Option<()> {
    (name == Cloakroom::NAME).then(|| saturate::<Cloakroom>(0, time, &mut Data::default()))
}

static ZEROS: LazyLock<&'static [u8]> = LazyLock::new(|| {
    let largest = CLASSES.map(|(_, size, _)| size).into_iter().max();
    Box::leak(vec![0; largest.unwrap_or(0)].into_boxed_slice())
});

/// The records of a producer.
struct Log {
    class: usize,
    begun: Instant,
    /// Nanoseconds after `begun` at which it began to wait; 0: it does not.
    since: AtomicU64,
    waits: Mutex<Histogram<u64>>,
    waited: AtomicU64,
}

impl Log {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }
}

fn saturate<P: WaitingPeer>(round: usize, time: Duration, data: &mut Data) {
    let peer = Arc::new(P::new(LIMIT, DAY));
    let runtime = Builder::new_multi_thread().worker_threads(2).build().expect("threads");
    let begun = Instant::now();
    let logs = start(&runtime, &peer, begun);
    std::thread::sleep(time);
    let waiting: Vec<(usize, u64)> = logs
        .iter()
        .filter_map(|log| match log.since.load(Ordering::Relaxed) {
            0 => None,
            since => Some((log.class, log.now().saturating_sub(since))),
        })
        .collect();
    let seconds = begun.elapsed().as_secs_f64();
    runtime.shutdown_timeout(Duration::from_secs(10));

    let (mut bytes, mut puts, mut waited) = (0, 0, 0);
    for (class, (kind, size, _)) in CLASSES.iter().enumerate() {
        let mut waits = histogram();
        for log in logs.iter().filter(|log| log.class == class) {
            waits.add(&*log.waits.lock().expect("nobody panics")).expect("the same bounds");
            waited += log.waited.load(Ordering::Relaxed);
        }
        bytes += waits.len() * *size as u64;
        puts += waits.len();
        let count = waits.len();
        // A producer that still waits has waited for at least this long.
        let unfinished = waiting.iter().filter(|(of, _)| *of == class);
        let unfinished = unfinished.map(|(_, wait)| waits.saturating_record(*wait)).count() as u64;
        let latency = Latency::new([SCENARIO, P::NAME, kind], round, seconds, &waits);
        data.latencies.push(Latency { count, unfinished, ..latency });
    }
    let mut figure = |what: &str, value| {
        let (what, peer) = (what.to_owned(), P::NAME.to_owned());
        data.figures.push(Figure { what, peer, value, parts: Vec::new() });
    };
    figure(BYTES, bytes as f64 / seconds / f64::from(1 << 30));
    figure(WAITED, waited as f64 / puts as f64);
}

fn start<P: WaitingPeer>(runtime: &Runtime, peer: &Arc<P>, begun: Instant) -> Vec<Arc<Log>> {
    let senders: Vec<_> = (0..CONSUMERS)
        .map(|_| {
            let (sender, tickets) = unbounded_channel();
            runtime.spawn(consume(Arc::clone(peer), tickets));
            sender
        })
        .collect();
    let classes = CLASSES.iter().enumerate();
    let producers = classes.flat_map(|(class, (_, size, count))| vec![(class, *size); *count]);
    producers
        .enumerate()
        .map(|(number, (class, size))| {
            let log = Arc::new(Log {
                class,
                begun,
                since: AtomicU64::new(0),
                waits: Mutex::new(histogram()),
                waited: AtomicU64::new(0),
            });
            let to = senders[number % CONSUMERS].clone();
            runtime.spawn(produce(Arc::clone(peer), size, to, Arc::clone(&log)));
            log
        })
        .collect()
}

async fn produce<P: WaitingPeer>(
    peer: Arc<P>,
    size: usize,
    to: UnboundedSender<P::Ticket>,
    log: Arc<Log>,
) {
    loop {
        let since = log.now();
        log.since.store(since, Ordering::Relaxed);
        let mut put = pin!(peer.put_wait(1, Bytes::from_static(&ZEROS[..size])));
        let mut waited = false;
        let poll = poll_fn(|cx| {
            let polled = put.as_mut().poll(cx);
            waited |= polled.is_pending();
            polled
        });
        let ticket = poll.await;
        log.since.store(0, Ordering::Relaxed);
        log.waits.lock().expect("nobody panics").saturating_record(log.now() - since);
        log.waited.fetch_add(waited.into(), Ordering::Relaxed);
        if to.send(ticket).is_err() {
            return;
        }
    }
}

/// Takes one ticket in each turn, so that producers fill the stash faster than it is emptied.
async fn consume<P: WaitingPeer>(peer: Arc<P>, mut tickets: UnboundedReceiver<P::Ticket>) {
    while let Some(ticket) = tickets.recv().await {
        peer.take(ticket, 1).expect("it is there");
        tokio::task::yield_now().await;
    }
}
