//! B4, the overflow, and B5, a time to live for one entry: expiry stays exact. At a shutdown (B9), too.

use std::pin::Pin;
use std::sync::mpsc::channel;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use cloakroom::{Event, ManualClock, PutOptions, Refusal, Stash, Ticket};

use crate::executors::Executor;
use crate::fixtures::{
    ALICE, BOB, EventLog, SECOND, TestStash, checked_stats, fill, payload, put, stash_with, state,
    take, test_stash,
};
use crate::support::random::Rng;
use crate::support::{Count, TTL, Task, must_come_back, poll_once, put_task, queue, ready};

/// 100 and 50 above them, which live for a second.
fn overflowing() -> (TestStash, ManualClock) {
    stash_with(|builder| builder.overflow(50, SECOND))
}

fn ttl(ttl: Duration) -> PutOptions {
    PutOptions::new().ttl(ttl)
}

const TICK: Duration = Duration::from_nanos(1);

// ---- Overflow --------------------------------------------------------------------------------------

#[test]
fn b4_an_entry_that_ends_exactly_at_the_limit_is_not_overflow() {
    let (stash, clock) = overflowing();
    let (one, other) = (put(&stash, 60), put(&stash, 40));
    let above = put(&stash, 1);
    clock.advance(SECOND - TICK);
    assert_eq!(stash.gc(), 0);
    clock.advance(TICK);
    assert_eq!((stash.gc(), take(&stash, above)), (1, None));
    clock.advance(TTL - SECOND - TICK);
    assert_eq!(stash.gc(), 0);
    assert_eq!(take(&stash, one), Some(payload(60)));
    clock.advance(TICK);
    assert_eq!((take(&stash, other), state(&stash)), (None, (0, 0, 0)));
}

#[test]
fn b4_an_entry_with_its_last_byte_above_the_limit_is_overflow() {
    let (stash, clock) = overflowing();
    let (below, across) = (put(&stash, 60), put(&stash, 41));
    clock.advance(SECOND);
    assert_eq!((take(&stash, across), take(&stash, below)), (None, Some(payload(60))));
}

#[test]
fn b4_the_limit_is_both_together() {
    let (log, clock) = (EventLog::default(), ManualClock::new());
    let builder = Stash::builder().max_bytes(100).overflow(50, SECOND).observer(log.clone());
    let stash: TestStash = builder.entry_overhead(0).clock(clock).build().unwrap();
    fill(&stash, 100);
    fill(&stash, 50);
    assert_eq!(stash.try_put(ALICE, payload(1)).unwrap_err().reason(), Refusal::Full);
    let refused = stash.try_put(ALICE, payload(151)).unwrap_err();
    assert_eq!((refused.reason(), refused.limit()), (Refusal::TooLarge, 150));
    let stats = checked_stats(&stash);
    assert_eq!((stats.used_bytes, stats.max_bytes, stats.overflow_bytes), (150, 100, 50));
    assert_eq!((stash.max_bytes(), stash.budget().limit(), stats.peak_bytes), (100, 150, 150));
    let overflow: Vec<bool> = log
        .read()
        .iter()
        .filter_map(|event| match event {
            Event::Stored { overflow, .. } => Some(*overflow),
            _ => None,
        })
        .collect();
    assert_eq!(overflow, [false, true]);
    // Larger than the limit alone, and yet it fits.
    stash.clear();
    assert!(stash.try_put(ALICE, payload(150)).is_ok());
}

on_every_executor! {
    /// One waits until the overflow has room, too, and lives as its bytes say then.
    fn b4_a_waiters_tier_is_decided_when_it_is_granted(executor) {
        for (gone, overflow) in [(50, true), (100, false)] {
            let (stash, clock) = overflowing();
            let tickets = [put(&stash, 100), put(&stash, 50)];
            let handle = stash.clone();
            let waiter = executor.start(async move { handle.put(ALICE, payload(50)).await });
            assert!(waiter.is_pending());
            let taken = tickets[usize::from(gone == 50)];
            assert_eq!(take(&stash, taken).map(|payload| payload.len()), Some(gone));
            let ticket = waiter.output().unwrap();
            clock.advance(SECOND);
            assert_eq!(take(&stash, ticket).is_none(), overflow);
        }
    }
}

#[test]
fn b4_every_way_in_caps_the_time_of_what_uses_the_overflow() {
    type Way = fn(TestStash, PutOptions) -> Task<Option<Ticket>>;
    let ways: [(&str, Way); 10] = [
        ("try_put", |stash, options| {
            Box::pin(async move { stash.try_put_with(ALICE, payload(50), options).ok() })
        }),
        ("put_timeout", |stash, options| {
            Box::pin(async move {
                stash.put_timeout_with(ALICE, payload(50), Duration::ZERO, options).ok()
            })
        }),
        ("put", |stash, options| {
            Box::pin(async move { stash.put_with(ALICE, payload(50), options).await.ok() })
        }),
        ("put_owned", |stash, options| {
            let put = stash.put_owned_with(ALICE, payload(50), options);
            Box::pin(async move { put.await.ok() })
        }),
        ("try_reserve", |stash, options| {
            Box::pin(async move {
                stash.try_reserve(50).ok()?.put_with(ALICE, payload(50), options).ok()
            })
        }),
        ("reserve_timeout", |stash, options| {
            Box::pin(async move {
                let room = stash.reserve_timeout(50, Duration::ZERO).ok()?;
                room.put_with(ALICE, payload(50), options).ok()
            })
        }),
        ("reserve", |stash, options| {
            Box::pin(async move {
                stash.reserve(50).await.ok()?.put_with(ALICE, payload(50), options).ok()
            })
        }),
        ("reserve_owned", |stash, options| {
            let room = stash.reserve_owned(50);
            Box::pin(async move { room.await.ok()?.put_with(ALICE, payload(50), options).ok() })
        }),
        ("reserve_for", |stash, options| {
            Box::pin(async move {
                stash.reserve_for(&ALICE, 50).await.ok()?.put_with(ALICE, payload(50), options).ok()
            })
        }),
        ("reserve_owned_for", |stash, options| {
            let room = stash.reserve_owned_for(&ALICE, 50);
            Box::pin(async move { room.await.ok()?.put_with(ALICE, payload(50), options).ok() })
        }),
    ];
    for (name, way) in ways {
        for (quota, waits) in [(false, false), (false, true), (true, false), (true, true)] {
            let log = EventLog::default();
            let (stash, clock) = stash_with(|builder| {
                let builder = builder.overflow(50, SECOND).observer(log.clone());
                if quota { builder.max_bytes_per_owner(100) } else { builder }
            });
            let _below = stash.try_put(BOB, payload(100)).unwrap();
            let over = waits.then(|| put(&stash, 50));
            let mut task = way(stash.clone(), ttl(TTL));
            let ticket = match poll_once(&mut task) {
                Poll::Ready(Some(ticket)) => ticket,
                // A way that does not wait.
                Poll::Ready(None) => continue,
                Poll::Pending => {
                    assert!(take(&stash, over.unwrap()).is_some());
                    ready(&mut task).unwrap()
                }
            };
            let stored = Event::Stored { bytes: 50, overflow: true };
            assert_eq!(
                log.read().iter().rfind(|e| matches!(e, Event::Stored { .. })),
                Some(&stored),
                "{name}"
            );
            clock.advance(SECOND);
            assert_eq!(take(&stash, ticket), None, "{name}, quota: {quota}, waits: {waits}");
        }
    }
}

#[test]
fn b4_time_counts_from_the_store_not_from_the_grant() {
    let (stash, clock) = overflowing();
    fill(&stash, 100);
    let over = put(&stash, 50);
    let mut waiter = put_task(&stash, ALICE, payload(50));
    queue(&mut waiter);
    assert!(take(&stash, over).is_some());
    clock.advance(5 * SECOND);
    let ticket = ready(&mut waiter).unwrap();
    clock.advance(SECOND - TICK);
    assert_eq!(take(&stash, ticket), Some(payload(50)));
}

#[test]
fn b4_an_option_shortens_the_overflows_time_and_does_not_lengthen_it() {
    let (stash, clock) = overflowing();
    fill(&stash, 100);
    let long = stash.try_put_with(ALICE, payload(10), ttl(2 * TTL)).unwrap();
    let short = stash.try_put_with(ALICE, payload(10), ttl(SECOND / 2)).unwrap();
    clock.advance(SECOND / 2);
    assert_eq!(take(&stash, short), None);
    clock.advance(SECOND / 2);
    assert_eq!((take(&stash, long), state(&stash)), (None, (1, 100, 0)));
}

#[test]
fn b4_a_reservation_keeps_what_it_was_granted_from() {
    let (stash, clock) = overflowing();
    let below = put(&stash, 100);
    let room = stash.try_reserve(50).unwrap();
    assert!(take(&stash, below).is_some());
    let over = room.put(ALICE, payload(10)).unwrap();
    let regular = stash.try_reserve(90).unwrap();
    fill(&stash, 20);
    let regular = regular.put(ALICE, payload(90)).unwrap();
    clock.advance(SECOND);
    assert_eq!((take(&stash, over), take(&stash, regular)), (None, Some(payload(90))));
}

#[test]
fn b4_expired_overflow_refuses_nobody() {
    let (stash, clock) = overflowing();
    fill(&stash, 100);
    fill(&stash, 50);
    clock.advance(SECOND);
    assert!(stash.try_put(ALICE, payload(50)).is_ok());
    clock.advance(SECOND);
    assert!(ready(&mut put_task(&stash, ALICE, payload(50))).is_ok());
}

#[test]
fn b4_the_overflow_stays_as_large_when_the_limit_moves() {
    let (stash, clock) = overflowing();
    stash.set_max_bytes(20);
    assert_eq!((stash.max_bytes(), stash.budget().limit()), (20, 70));
    let (below, above) = (put(&stash, 20), put(&stash, 50));
    assert!(stash.try_put(ALICE, payload(1)).is_err());
    stash.set_max_bytes(200);
    let now_below = put(&stash, 130);
    clock.advance(SECOND);
    assert_eq!(take(&stash, above), None, "judged when it was granted");
    assert_eq!(take(&stash, below), Some(payload(20)));
    assert_eq!(take(&stash, now_below), Some(payload(130)));
    // Below what is used, all that comes is above.
    stash.set_max_bytes(0);
    let over = put(&stash, 50);
    clock.advance(SECOND);
    assert_eq!((take(&stash, over), state(&stash)), (None, (0, 0, 0)));
}

// ---- A time to live of its own ---------------------------------------------------------------------

#[test]
fn b5_shorter_and_longer_than_others() {
    let (stash, clock) = test_stash();
    let short = stash.try_put_with(ALICE, payload(10), ttl(SECOND)).unwrap();
    let long = stash.put_timeout_with(ALICE, payload(20), TTL, ttl(2 * TTL)).unwrap();
    let usual =
        ready(&mut Box::pin(stash.put_with(ALICE, payload(30), PutOptions::new()))).unwrap();
    fill(&stash, 1);
    fill(&stash, 1);
    clock.advance(SECOND - TICK);
    assert_eq!(stash.gc(), 0);
    clock.advance(TICK);
    assert_eq!((take(&stash, short), state(&stash).1), (None, 52));
    clock.advance(TTL - SECOND);
    assert_eq!(take(&stash, usual), None);
    assert_eq!(stash.gc(), 2);
    clock.advance(TTL - TICK);
    assert_eq!(take(&stash, long), Some(payload(20)));
    assert_eq!(state(&stash), (0, 0, 0));
}

#[test]
fn b5_a_short_one_among_many_long_ones_refuses_nobody() {
    let (stash, clock) = stash_with(|builder| builder.max_bytes(100_000));
    for n in 0..50_000 {
        let options = if n == 30_000 { ttl(SECOND) } else { PutOptions::new() };
        let _ = stash.try_put_with(ALICE, payload(2), options).unwrap();
    }
    clock.advance(SECOND - TICK);
    assert_eq!(stash.try_put(ALICE, payload(2)).unwrap_err().reason(), Refusal::Full);
    clock.advance(TICK);
    assert!(stash.try_put(ALICE, payload(2)).is_ok());
    assert_eq!((checked_stats(&stash).expired, stash.gc()), (1, 0));
}

#[test]
fn b5_extremes() {
    let (stash, clock) = test_stash();
    let none = stash.try_put_with(ALICE, payload(10), ttl(Duration::ZERO)).unwrap();
    assert_eq!(state(&stash), (1, 10, 0));
    assert_eq!((take(&stash, none), state(&stash)), (None, (0, 0, 0)));
    let _ = stash.try_put_with(ALICE, payload(100), ttl(Duration::ZERO)).unwrap();
    assert!(stash.try_put(ALICE, payload(100)).is_ok(), "its bytes refuse nobody");
    stash.clear();
    let forever = stash.try_put_with(ALICE, payload(10), ttl(Duration::MAX)).unwrap();
    clock.advance(Duration::from_secs(72 * 365 * 24 * 3_600));
    assert_eq!(stash.gc(), 0);
    assert_eq!(take(&stash, forever), Some(payload(10)));
    // As late as the clock can be.
    clock.advance(Duration::MAX);
    let last = stash.try_put_with(ALICE, payload(10), ttl(Duration::MAX)).unwrap();
    drop((take(&stash, last), stash.clear()));
    assert_eq!(state(&stash), (0, 0, 0));
}

on_every_executor! {
    /// The reaper sleeps until later when the entry comes.
    fn b5_a_shorter_entry_is_reaped_on_time(executor) {
        let (stash, clock) = stash_with(|builder| builder.overflow(50, 3 * SECOND));
        let (reaper, timer) = (stash.reaper(), clock.clone());
        let reaper = executor.start(reaper.run(move |duration| timer.sleep(duration)));
        let _ = stash.try_put_with(ALICE, payload(100), ttl(20 * SECOND)).unwrap();
        assert!(reaper.is_pending());
        let _ = stash.try_put_with(ALICE, payload(10), ttl(4 * SECOND)).unwrap();
        let _ = stash.try_put_with(ALICE, payload(10), ttl(2 * SECOND)).unwrap();
        fill(&stash, 30);
        let handle = stash.clone();
        let head = executor.start(async move { handle.put(BOB, payload(10)).await.map(drop) });
        let handle = stash.clone();
        let next = executor.start(async move { handle.reserve(40).await.map(drop) });
        clock.advance(2 * SECOND - TICK);
        assert!(reaper.is_pending() && head.is_pending());
        clock.advance(TICK);
        assert!(reaper.is_pending());
        assert!(head.output().is_ok());
        clock.advance(SECOND);
        assert!(reaper.is_pending());
        assert!(next.output().is_ok(), "the overflow went, and the waiter's bytes with it");
        clock.advance(17 * SECOND);
        assert!(reaper.is_pending());
        assert_eq!(state(&stash), (0, 0, 0), "later than others, and yet on time");
        drop(stash);
        reaper.output();
    }
}

on_every_executor! {
    /// Less than a runtime's timers can tell apart: the manual clock can.
    fn b5_a_moment_is_a_moment(executor) {
        let (stash, clock) = stash_with(|builder| builder.ttl(Duration::from_micros(300)));
        let (reaper, timer) = (stash.reaper(), clock.clone());
        let reaper = executor.start(reaper.run(move |duration| timer.sleep(duration)));
        let _ = stash.try_put_with(ALICE, payload(10), ttl(Duration::from_micros(200))).unwrap();
        fill(&stash, 10);
        for left in [20, 10, 0] {
            assert!(reaper.is_pending());
            assert_eq!(stash.used_bytes(), left);
            clock.advance(Duration::from_micros(if left == 20 { 200 } else { 100 }));
        }
        assert!(reaper.is_pending());
    }
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A reaper that is polled by hand, and how often it was woken.
fn reap(stash: &TestStash, clock: &ManualClock) -> (Running, std::sync::Arc<Count>) {
    let (reaper, timer) = (stash.reaper(), clock.clone());
    let mut running: Running = Box::pin(reaper.run(move |duration| timer.sleep(duration)));
    let woken = queue(&mut running);
    (running, woken)
}

#[test]
fn b5_of_two_reapers_one_is_dropped() {
    for first in [false, true] {
        let (stash, clock) = test_stash();
        let (one, one_woken) = reap(&stash, &clock);
        let (other, other_woken) = reap(&stash, &clock);
        let (dropped, (mut stays, woken)) =
            if first { (one, (other, other_woken)) } else { (other, (one, one_woken)) };
        let _ = stash.try_put_with(ALICE, payload(10), ttl(SECOND)).unwrap();
        assert_eq!(woken.get(), 1, "both are told");
        let woken = queue(&mut stays);
        drop(dropped);
        assert_eq!(woken.get(), 1, "perhaps only the other had planned a sweep");
        let woken = queue(&mut stays);
        let _ = stash.try_put_with(ALICE, payload(10), ttl(2 * SECOND)).unwrap();
        assert_eq!(woken.get(), 0, "it sweeps before that anyway");
        clock.advance(SECOND);
        assert_eq!(woken.get(), 1);
        let woken = queue(&mut stays);
        assert_eq!(stash.used_bytes(), 10);
        clock.advance(SECOND);
        assert_eq!(woken.get(), 1);
        assert!(poll_once(&mut stays).is_pending());
        assert_eq!(state(&stash), (0, 0, 0));
    }
}

#[test]
fn b5_without_a_reaper_nobody_is_told() {
    let (stash, clock) = test_stash();
    drop(reap(&stash, &clock));
    for _ in 0..3 {
        let _ = stash.try_put_with(ALICE, payload(1), ttl(SECOND)).unwrap();
    }
    // One that comes later sees it all.
    let (mut late, _) = reap(&stash, &clock);
    clock.advance(SECOND);
    assert!(poll_once(&mut late).is_pending());
    assert_eq!(state(&stash), (0, 0, 0));
}

#[test]
fn b5_a_reaper_on_a_thread_is_called_and_is_on_time() {
    must_come_back(|| {
        let (stash, clock) = test_stash();
        let (tell, asleep) = channel();
        let (reaper, timer) = (stash.reaper(), clock.clone());
        let thread = thread::spawn(move || {
            futures_lite::future::block_on(reaper.run(move |duration| {
                let sleep = timer.sleep(duration);
                tell.send(duration).unwrap();
                sleep
            }));
        });
        assert_eq!(asleep.recv().unwrap(), TTL);
        let _ = stash.try_put_with(ALICE, payload(40), ttl(SECOND)).unwrap();
        assert_eq!(asleep.recv().unwrap(), SECOND);
        let mut head = put_task(&stash, BOB, payload(100));
        let woken = queue(&mut head);
        clock.advance(SECOND);
        assert_eq!(asleep.recv().unwrap(), TTL);
        assert_eq!(woken.get(), 1);
        drop((head, stash));
        thread.join().unwrap();
    });
}

#[test]
fn b5_a_spawned_reaper_is_called_too() {
    must_come_back(|| {
        let stash: TestStash = Stash::builder().max_bytes(100).entry_overhead(0).build().unwrap();
        let reaper = stash.reaper().spawn().unwrap();
        for wait in [0, 1, 30] {
            let _ = stash.try_put_with(ALICE, payload(100), ttl(Duration::from_millis(wait)));
            // Ten minutes is what it would sleep otherwise.
            while stash.used_bytes() > 0 {
                thread::yield_now();
            }
        }
        drop(stash);
        reaper.join().unwrap();
    });
}

/// Puts with all sorts of short times and claims that are put back, while reapers sweep, come and go. What is
/// forgotten would stay for ten minutes.
#[test]
fn b5_under_traffic_nothing_is_forgotten() {
    must_come_back(|| {
        let stash: TestStash =
            Stash::builder().max_bytes(1 << 20).entry_overhead(1).build().unwrap();
        let mut reapers = vec![stash.reaper().spawn().unwrap()];
        for round in 0..20 {
            thread::scope(|scope| {
                for seed in 0..3_u64 {
                    let stash = &stash;
                    scope.spawn(move || {
                        let mut rng = Rng::new(round * 3 + seed);
                        for _ in 0..100 {
                            let time = ttl(Duration::from_micros(rng.index(5_000) as u64));
                            let ticket = stash.try_put_with(ALICE, payload(1), time).unwrap();
                            match rng.index(3) {
                                0 => drop(stash.claim(&ticket, &ALICE)),
                                1 => drop(stash.reaper()),
                                _ => {}
                            }
                        }
                    });
                }
            });
            if round == 10 {
                reapers.push(stash.reaper().spawn().unwrap());
            }
            while stash.used_bytes() > 0 {
                thread::yield_now();
            }
        }
        assert_eq!((stash.len(), checked_stats(&stash).expired), (0, 6_000));
        drop(stash);
        reapers.into_iter().for_each(|reaper| reaper.join().unwrap());
    });
}

// ---- Shutdown ---------------------------------------------------------------------------------------

on_every_executor! {
    /// Without a reaper nobody else would remove it.
    fn b9_shut_down_does_not_wait_for_what_has_expired(executor) {
        let (stash, clock) = test_stash();
        fill(&stash, 60);
        clock.advance(TTL);
        let handle = stash.clone();
        let lost = executor.start(async move { handle.shut_down(std::future::pending::<()>()).await });
        assert_eq!(lost.output(), 0);
        let stats = stash.stats();
        assert_eq!((stats.expired, stats.cleared, stats.used_bytes), (1, 0, 0));
    }
}

on_every_executor! {
    /// As many as with a reaper.
    fn b9_shut_down_does_not_count_what_expired_meanwhile(executor) {
        let (stash, clock) = test_stash();
        fill(&stash, 30);
        clock.advance(TTL / 2);
        fill(&stash, 60);
        let (handle, patience) = (stash.clone(), clock.sleep(TTL / 2));
        let lost = executor.start(async move { handle.shut_down(patience).await });
        assert!(lost.is_pending());
        clock.advance(TTL / 2);
        assert_eq!(lost.output(), 1);
        assert_eq!((stash.stats().expired, stash.stats().cleared), (1, 1));
    }
}

#[test]
fn b9_with_no_time_to_wait_what_has_expired_is_no_reason() {
    let expired = || {
        let (stash, clock) = test_stash();
        fill(&stash, 60);
        clock.advance(TTL);
        stash
    };
    let stash = expired();
    stash.close();
    assert!(stash.drained_timeout(Duration::ZERO));
    let stash = expired();
    stash.close();
    assert!(stash.budget().drained_timeout(Duration::ZERO));
    let stash = expired();
    assert_eq!((stash.shut_down_timeout(Duration::ZERO), stash.stats().expired), (0, 1));
}
