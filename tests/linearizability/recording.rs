//! Threads that call the real thing and record when each call began and ended.

use std::env;
use std::hint;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use cloakroom::Clock;

use crate::search::{Call, Model, is_right};
use crate::support::Hooks;
use crate::support::random::Rng;

pub(crate) struct Recorder<Op> {
    pub(crate) time: AtomicU64,
    pub(crate) calls: Mutex<Vec<Call<Op>>>,
    ready: AtomicUsize,
    threads: usize,
}

impl<Op> Recorder<Op> {
    pub(crate) fn new(threads: usize) -> Self {
        let (calls, time, ready) = (Mutex::default(), AtomicU64::new(0), AtomicUsize::new(0));
        Self { time, calls, ready, threads }
    }

    /// Starts all threads together. They spin first: a thread that yields comes back late.
    pub(crate) fn start_together(&self) {
        self.ready.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0;
        while self.ready.load(Ordering::SeqCst) < self.threads {
            spins += 1;
            if spins < 5_000 { hint::spin_loop() } else { thread::yield_now() }
        }
    }

    pub(crate) fn call<R>(
        &self,
        calls: &mut Vec<Call<Op>>,
        thread: usize,
        f: impl FnOnce() -> (Op, R),
    ) -> R {
        let began = self.time.fetch_add(1, Ordering::SeqCst);
        let (op, result) = f();
        let ended = self.time.fetch_add(1, Ordering::SeqCst);
        calls.push(Call { thread, began, ended, op });
        result
    }

    pub(crate) fn hand_in(&self, calls: Vec<Call<Op>>) {
        self.calls.lock().unwrap().extend(calls);
    }
}

/// In user code that the calls run, so that they last and meet: before a request joins the queue, after
/// a grant, between a put's charge and its entry, between a removal and its bytes.
pub(crate) fn yield_now() {
    thread::yield_now();
}

/// A waker that dawdles when it is cloned and when it is woken.
pub(crate) fn slow_waker() -> Waker {
    Hooks::new().on_clone(yield_now).on_wake(yield_now).waker().1
}

pub(crate) struct SlowClock;

impl Clock for SlowClock {
    fn now(&self) -> Duration {
        yield_now();
        Duration::ZERO
    }
}

pub(crate) fn overlaps<Op>(history: &[Call<Op>]) -> bool {
    let meet = |a: &Call<Op>, b: &Call<Op>| a.began < b.ended && b.began < a.ended;
    history.iter().any(|a| history.iter().any(|b| a.thread != b.thread && meet(a, b)))
}

pub(crate) fn rounds(usual: u64) -> u64 {
    let scale = env::var("STRESS_SCALE").map_or(1, |scale| scale.parse().expect("a number"));
    if cfg!(miri) { 5 * scale } else { usual * scale }
}

/// Records a history in each round, with `body` on each of `threads`, and checks it. Prints how many
/// histories had calls that overlapped; how many do is up to the machine.
pub(crate) fn check_rounds<M, S>(
    name: &str,
    threads: usize,
    usual: u64,
    make: impl Fn() -> (M, S),
    body: impl Fn(&S, &Recorder<M::Op>, &mut Vec<Call<M::Op>>, usize, &mut Rng) + Sync,
) where
    M: Model,
    M::Op: Clone + std::fmt::Debug + Send,
    S: Sync,
{
    let (rounds, mut overlapping) = (rounds(usual), 0);
    for round in 0..rounds {
        let (model, subject) = make();
        let recorder = Recorder::new(threads);
        thread::scope(|scope| {
            for number in 0..threads {
                let (subject, recorder, body) = (&subject, &recorder, &body);
                scope.spawn(move || {
                    let mut rng = Rng::new(round << 8 | number as u64);
                    let mut calls = Vec::new();
                    recorder.start_together();
                    body(subject, recorder, &mut calls, number, &mut rng);
                    recorder.hand_in(calls);
                });
            }
        });
        let mut history = recorder.calls.into_inner().unwrap();
        history.sort_by_key(|call| call.began);
        overlapping += u64::from(overlaps(&history));
        if !is_right(model, &history) {
            let lines: Vec<_> = history.iter().map(|call| format!("{call:?}")).collect();
            panic!("{name}, round {round}: no order explains this\n{}", lines.join("\n"));
        }
    }
    println!("{name}: {overlapping} of {rounds} histories have calls that overlap");
}
