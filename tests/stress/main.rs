//! Real threads, for a moment: as part of `cargo test`, under sanitizers and under Miri.
//! `STRESS_SCALE` multiplies the rounds; under Miri they are few.
//!
//! What is asserted holds whatever the schedule was: at the end nothing is used, nothing waits, and every
//! payload went exactly one way. No test asserts a time.
#![cfg(not(any(cloakroom_loom, cloakroom_shuttle)))]

mod budget;
mod stash;
#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::thread;

use self::support::random::Rng;

const THREADS: u64 = 4;
const LIMIT: u64 = 100;

fn rounds(debug: u64) -> u64 {
    let scale = env::var("STRESS_SCALE").map_or(1, |scale| scale.parse().expect("a number"));
    if cfg!(miri) { (debug / 400).max(5) * scale } else { debug * scale }
}

/// Runs `body` on several threads, each with its number and random numbers.
fn on_threads(body: impl Fn(u64, &mut Rng) + Sync) {
    thread::scope(|scope| {
        for number in 0..THREADS {
            let body = &body;
            scope.spawn(move || body(number, &mut Rng::new(number)));
        }
    });
}

/// Zero, small, half, all, and too much.
fn size(rng: &mut Rng) -> u64 {
    match rng.below(20) {
        0 => 0,
        1 => LIMIT,
        2 => LIMIT + 1,
        3..6 => LIMIT / 2 + rng.below(3) - 1,
        _ => 1 + rng.below(LIMIT / 3),
    }
}
