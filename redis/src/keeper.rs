//! Keeps the session alive on a thread of its own: beats, ticks and flushes.
//!
//! All operations of a stash run on this thread too. So an application that blocks its own event loop keeps its
//! session, and any executor can await the operations.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::engine::{Engine, Step};

/// The shortest time between two ticks of a replica in which no request waits.
const IDLE_TICK: Duration = Duration::from_millis(50);

pub(crate) async fn keep(engine: Arc<Engine>) {
    let mut beat_at = Instant::now() + engine.config.beat;
    loop {
        let (tick_at, flush_at) = engine.due();
        let due = [tick_at, flush_at].into_iter().flatten().fold(beat_at, Instant::min);
        tokio::select! {
            biased;
            () = engine.shutdown.notified() => break,
            () = engine.poke.notified() => {}
            () = sleep_until(due) => {}
        }
        // Replaces a broken link now, not at the next beat: until then the session has no listener.
        if engine.link(engine.deadline()).await.is_err() {
            continue;
        }
        let now = Instant::now();
        let (tick_at, flush_at) = engine.due();
        if flush_at.is_some_and(|at| at <= now) {
            engine.begin_flush();
            let _ = engine.flush().await;
        }
        if now >= beat_at {
            beat(&engine).await;
            beat_at = Instant::now() + engine.config.beat;
        } else if tick_at.is_some_and(|at| at <= now) {
            tick(&engine).await;
        }
    }
    // Without it the other replicas would wait for the end of the lease.
    let _ = engine.flush().await;
    let _ = engine.step(Step::new("bye", &[]), Instant::now() + Duration::from_secs(1)).await;
}

async fn beat(engine: &Arc<Engine>) {
    engine.begin_tick();
    let Ok((reply, link)) = engine.step(Step::new("beat", &[]), engine.deadline()).await else {
        return;
    };
    schedule(engine, reply.number(4), link.session.waiting());
    if reply.number(5).unwrap_or(0) < link.session.waiting() as i64 {
        // A notification was lost, or is under way: the requests ask.
        link.session.wake_all();
    }
}

async fn tick(engine: &Arc<Engine>) {
    engine.begin_tick();
    let Ok((reply, link)) = engine.step(Step::new("tick", &[]), engine.deadline()).await else {
        return;
    };
    schedule(engine, reply.number(4), link.session.waiting());
}

/// Schedules the next tick. While a request waits here: at the deadline, and often enough to find dead sessions.
pub(crate) fn schedule(engine: &Engine, next_in: Option<i64>, waiting: usize) {
    let next = next_in.filter(|&micros| micros >= 0).map(|micros| {
        // Rounded up: a tick before the deadline would find nothing.
        Duration::from_micros(micros as u64) + Duration::from_micros(500)
    });
    if waiting > 0 {
        let grace = engine.config.grace.max(Duration::from_millis(10));
        engine.tick_at(next.map_or(grace, |next| next.min(grace)));
    } else if let Some(next) = next {
        engine.tick_at(next.max(IDLE_TICK));
    }
}
