//! Put + take of 1 KiB against the number of entries held: the cost should not depend on it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::{payload, stash_holding};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const HELD: [usize; 4] = [0, 1_000, 100_000, 1_000_000];

fn put_take(c: &mut Criterion) {
    let mut group = c.benchmark_group("put_take");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for held in HELD {
        let (stash, tickets) = stash_holding(held);
        group.bench_function(BenchmarkId::from_parameter(held), |b| {
            b.iter(|| {
                let ticket = stash.try_put(2, payload()).expect("there is room");
                black_box(stash.take(&ticket, &2))
            });
        });
        assert_eq!(stash.len(), tickets.len());
    }
    group.finish();
}

/// The same in one interleaved run, as a ratio to nothing held: times of different minutes do not
/// compare well on a machine that is shared.
fn ratios(_: &mut Criterion) {
    const ROUNDS: usize = 31;
    const OPERATIONS: u32 = 100_000;
    let stashes = HELD.map(|held| stash_holding(held).0);
    let mut times = HELD.map(|_| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for (stash, times) in stashes.iter().zip(&mut times) {
            let started = Instant::now();
            for _ in 0..OPERATIONS {
                let ticket = stash.try_put(2, payload()).expect("there is room");
                black_box(stash.take(&ticket, &2));
            }
            times.push(started.elapsed() / OPERATIONS);
        }
    }
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2]
    });
    println!("put + take, median of {ROUNDS} interleaved rounds:");
    for (held, median) in HELD.iter().zip(medians) {
        let ratio = median.as_secs_f64() / medians[0].as_secs_f64();
        println!("  {held:>9} held: {median:>6.1?}, {ratio:.2} x nothing held");
    }
}

criterion_group!(benches, put_take, ratios);
criterion_main!(benches);
