//! The comparisons under criterion, for its statistics and its history of each. The page's ratios come
//! from `cargo run --release -p benches -- run`, where candidates take turns.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

fn targets(c: &mut Criterion) {
    benches::for_each_timed(|group, name, run| {
        let mut group = c.benchmark_group(group);
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        group.bench_function(name, |bencher| bencher.iter_custom(&mut *run));
    });
}

criterion_group!(benches, targets);
criterion_main!(benches);
