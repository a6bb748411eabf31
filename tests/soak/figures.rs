//! How often each thing happened.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! figures {
    ($($name:ident),* $(,)?) => {
        #[derive(Default)]
        pub(crate) struct Figures { $(pub(crate) $name: AtomicU64),* }

        impl Figures {
            pub(crate) fn print(&self, seconds: f64) {
                $(
                    let n = self.$name.load(Ordering::Relaxed);
                    println!("{:>20} {n:>12} {:>10.0}/s", stringify!($name), n as f64 / seconds);
                )*
            }
        }
    };
}

figures!(
    operations,
    puts,
    stored,
    takes,
    delivered,
    wrong_owner,
    waited,
    waits_granted,
    full,
    too_large,
    owner_full,
    queue_full,
    refused,
    timed_out,
    cancelled_by_until,
    futures_dropped,
    tasks_aborted,
    expired,
    cleared,
    clears,
    reentrant_calls,
    panics_contained,
    panics_passed_on,
    claims,
    claims_put_back,
    claims_finished,
    downloads,
    reserved,
    reserved_and_put,
    reserved_too_little,
    samples,
    budget_acquired,
    budget_refused,
    limit_changes,
);

pub(crate) fn add(figure: &AtomicU64) {
    figure.fetch_add(1, Ordering::Relaxed);
}
