//! B10: the statistics add up, and the observer receives every event, with no lock held.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cloakroom::{
    Builder, Clock, Event, ManualClock, Observer, OnDrop, Permit, PutOptions, Refusal, Reservation,
    Stash, Ticket,
};

use crate::fixtures::{
    ALICE, BOB, EventLog, SECOND, TestStash, checked_stats, fill, payload, put, stash_with, state,
    take, test_stash,
};
use crate::support::random::Rng;
use crate::support::{TTL, acquire_task, must_come_back, poll_once, put_task, queue, ready};

fn observed(
    set: impl FnOnce(Builder<Vec<u8>, u8>) -> Builder<Vec<u8>, u8>,
) -> (TestStash, ManualClock, EventLog) {
    let log = EventLog::default();
    let (stash, clock) = stash_with(|builder| set(builder.observer(log.clone())));
    (stash, clock, log)
}

/// The totals of recorded events.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    stored: u64,
    delivered: u64,
    expired: u64,
    cleared: u64,
    claimed: u64,
    put_back: u64,
    waited: u64,
    refused: u64,
    /// Stored less what is gone.
    bytes: u64,
}

impl Sums {
    fn add(&mut self, events: &[Event]) {
        for event in events {
            match *event {
                Event::Stored { bytes, .. } => {
                    (self.stored, self.bytes) = (self.stored + 1, self.bytes + bytes)
                }
                Event::Delivered { bytes } => {
                    (self.delivered, self.bytes) = (self.delivered + 1, self.bytes - bytes);
                }
                Event::Expired { entries, bytes } => {
                    (self.expired, self.bytes) =
                        (self.expired + entries as u64, self.bytes - bytes);
                }
                Event::Cleared { entries, bytes } => {
                    (self.cleared, self.bytes) =
                        (self.cleared + entries as u64, self.bytes - bytes);
                }
                Event::Claimed { .. } => self.claimed += 1,
                Event::PutBack { .. } => self.put_back += 1,
                Event::Waited { .. } => self.waited += 1,
                Event::Refused { .. } => self.refused += 1,
                _ => panic!("an event that is not counted: {event:?}"),
            }
        }
    }
}

/// Releases its permit when it has been asked for the time often enough.
struct GivingClock(Arc<Mutex<(usize, Option<Permit<'static>>)>>);

impl Clock for GivingClock {
    fn now(&self) -> Duration {
        let mut guard = self.0.lock().unwrap();
        let (asked, held) = &mut *guard;
        let given = asked.checked_sub(1).map_or_else(
            || held.take(),
            |left| {
                *asked = left;
                None
            },
        );
        drop(guard);
        drop(given);
        Duration::ZERO
    }
}

/// The room may come anywhere between the first attempt and the queue: the request was not queued.
#[test]
fn b10_a_request_granted_at_its_first_poll_has_not_waited() {
    for asked in 0..5 {
        let held = Arc::new(Mutex::new((usize::MAX, None)));
        let log = EventLog::default();
        let stash = Stash::<Vec<u8>, u8>::builder()
            .max_bytes(100)
            .entry_overhead(0)
            .clock(GivingClock(Arc::clone(&held)))
            .observer(log.clone())
            .build()
            .unwrap();
        let all = stash.budget().try_acquire(100).unwrap().into_owned();
        *held.lock().unwrap() = (asked, Some(all));
        let mut put = put_task(&stash, 0, vec![0; 60]);
        let at_once = poll_once(&mut put).is_ready();
        let given = held.lock().unwrap().1.take().is_none();
        assert_eq!(at_once, given, "asked {asked} times before");
        assert!(given || asked > 1, "the clock is asked twice: for the sweep, and for the queue");
        assert_eq!(stash.stats().waited, 0);
        assert!(log.read().iter().all(|event| matches!(event, Event::Stored { .. })));
    }
}

/// Whatever one thread does, at every step: the statistics add up, the events come to the same, the bytes in
/// use are those of what is held, and each owner's account is what that owner holds.
#[test]
fn b10_everything_adds_up_after_every_step_of_any_script() {
    let seeds = 150;
    for seed in 0..seeds {
        script(seed);
    }
}

fn script(seed: u64) {
    let mut rng = Rng::new(seed);
    let (stash, clock, log) = observed(|builder| {
        let builder = builder.entry_overhead(3).max_bytes_per_owner(70).max_waiting(2);
        builder.overflow(20, SECOND)
    });
    let mut sums = Sums::default();
    let mut tickets: Vec<(u8, Ticket)> = Vec::new();
    let (mut claims, mut rooms, mut waiting, mut permits) =
        (Vec::new(), Vec::<(u8, Reservation<_, _>)>::new(), Vec::new(), Vec::new());
    for step in 0..150 {
        let owner = [ALICE, BOB, 3][rng.index(3)];
        let size = rng.index(60);
        let options = match rng.index(4) {
            0 => PutOptions::new().ttl(SECOND * rng.index(3) as u32),
            _ => PutOptions::new(),
        };
        let pick = |rng: &mut Rng, len: usize| (len > 0).then(|| rng.index(len));
        match rng.index(16) {
            0..3 => {
                if let Ok(ticket) = stash.try_put_with(owner, payload(size), options) {
                    tickets.push((owner, ticket));
                }
            }
            3 => {
                let mut put = put_task(&stash, owner, payload(size));
                match poll_once(&mut put) {
                    std::task::Poll::Ready(Ok(ticket)) => tickets.push((owner, ticket)),
                    std::task::Poll::Ready(Err(_)) => {}
                    std::task::Poll::Pending => waiting.push((owner, size as u64 + 3, put)),
                }
            }
            4 => {
                if let Some(at) = pick(&mut rng, waiting.len()) {
                    let (owner, charge, mut put) = waiting.swap_remove(at);
                    match poll_once(&mut put) {
                        std::task::Poll::Ready(Ok(ticket)) => tickets.push((owner, ticket)),
                        std::task::Poll::Ready(Err(_)) => {}
                        std::task::Poll::Pending if rng.index(2) == 0 => drop(put),
                        std::task::Poll::Pending => waiting.push((owner, charge, put)),
                    }
                }
            }
            5..7 => {
                if let Some(at) = pick(&mut rng, tickets.len()) {
                    let (owner, ticket) = tickets[at];
                    drop(stash.take(&ticket, &owner));
                }
            }
            7..9 => {
                if let Some(at) = pick(&mut rng, tickets.len()) {
                    let (owner, ticket) = tickets[at];
                    claims.extend(stash.claim(&ticket, &owner).map(|claim| (owner, claim)));
                }
            }
            9..11 => {
                if let Some(at) = pick(&mut rng, claims.len()) {
                    let (_, claim) = claims.swap_remove(at);
                    match rng.index(4) {
                        0 => drop(claim.into_inner()),
                        1 => drop(claim.into_bytes()),
                        2 => drop(claim.on_drop(OnDrop::Finish)),
                        _ => drop(claim.put_back()),
                    }
                }
            }
            11 => {
                if let Ok(room) = stash.try_reserve_for(&owner, size as u64) {
                    rooms.push((owner, room));
                }
            }
            12 => {
                if let Some(at) = pick(&mut rng, rooms.len()) {
                    let (reserved_for, mut room) = rooms.swap_remove(at);
                    room.shrink(rng.index(60) as u64);
                    match room.put_with(owner, payload(rng.index(60)), options) {
                        Ok(ticket) => tickets.push((owner, ticket)),
                        Err(refused) => rooms.push((reserved_for, refused.into_parts().1)),
                    }
                }
            }
            13 => {
                if let Some(at) = pick(&mut rng, rooms.len() + permits.len()) {
                    if at < rooms.len() { drop(rooms.swap_remove(at)) } else { permits.clear() }
                }
                permits.extend(stash.budget().try_acquire(rng.index(20) as u64));
            }
            14 => clock.advance(Duration::from_millis(rng.index(3_000) as u64)),
            _ => match rng.index(4) {
                0 => drop(stash.clear()),
                1 => stash.set_max_bytes(40 + rng.index(80) as u64),
                _ => drop(stash.gc()),
            },
        }
        sums.add(&log.read());
        let stats = checked_stats(&stash);
        let seen = Sums {
            stored: stats.stored,
            delivered: stats.delivered,
            expired: stats.expired,
            cleared: stats.cleared,
            claimed: stats.claimed,
            put_back: stats.put_back,
            waited: stats.waited,
            refused: stats.refused.total(),
            bytes: sums.bytes,
        };
        assert_eq!(sums, seen, "seed {seed}, step {step}");
        assert_eq!(stats.claims, claims.len() as u64, "seed {seed}, step {step}");
        let reserved = rooms.iter().map(|(_, room)| room.bytes() + 3).sum::<u64>();
        let others = reserved + permits.iter().map(|permit| permit.bytes()).sum::<u64>();
        // Granted, and not yet polled.
        let granted = stats.used_bytes.checked_sub(sums.bytes + others).expect("seed {seed}");
        let in_line: u64 = waiting.iter().map(|(_, charge, _)| charge).sum();
        assert!(granted + stats.waiting_bytes <= in_line, "seed {seed}, step {step}");
        let accounts: u64 = [ALICE, BOB, 3].iter().map(|owner| stash.owner_used_bytes(owner)).sum();
        assert!(accounts >= sums.bytes + reserved + stats.waiting_bytes + granted);
        assert!(accounts <= sums.bytes + reserved + in_line, "seed {seed}, step {step}");
    }
    drop((claims, rooms, waiting, permits));
    stash.clear();
    sums.add(&log.read());
    assert_eq!((state(&stash), sums.bytes), ((0, 0, 0), 0), "seed {seed}");
    for owner in [ALICE, BOB, 3] {
        assert_eq!(stash.owner_used_bytes(&owner), 0, "seed {seed}");
    }
    assert_eq!(checked_stats(&stash).claims, 0);
}

/// While others put, take too late, claim and put back too late, clear and sweep.
#[test]
fn b10_stored_entries_add_up_under_traffic() {
    must_come_back(|| {
        let (stash, _) = stash_with(|builder| builder.max_bytes(10_000));
        let now = PutOptions::new().ttl(Duration::ZERO);
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for way in 0..4 {
                let (stash, done) = (&stash, &done);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        match way {
                            0 => {
                                let dead = stash.try_put_with(ALICE, payload(1), now).unwrap();
                                assert!(take(stash, dead).is_none());
                            }
                            1 => {
                                let doomed = put(stash, 1);
                                let claim = stash.claim(&doomed, &ALICE);
                                stash.clear();
                                drop(claim);
                            }
                            2 => {
                                let _ = stash.try_put_with(BOB, payload(1), now).unwrap();
                                stash.gc();
                            }
                            _ => {
                                let ticket = put(stash, 1);
                                drop(take(stash, ticket));
                            }
                        }
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            let mut last = stash.stats();
            while done.load(Ordering::SeqCst) < 4 {
                let now = stash.stats();
                let gone = now.delivered + now.expired + now.cleared;
                assert_eq!(now.stored, now.entries + gone, "{now:?}");
                assert!(last.stored <= now.stored && last.delivered <= now.delivered);
                last = now;
            }
        });
        stash.clear();
        let stats = checked_stats(&stash);
        assert_eq!((stats.stored, stats.entries), (80_000, 0));
        assert!(stats.delivered <= 40_000 && stats.expired >= 40_000 - stats.cleared, "{stats:?}");
    });
}

#[test]
fn b10_refusals_are_counted_by_their_reason() {
    let (stash, clock, log) = observed(|builder| builder.max_bytes_per_owner(90).max_waiting(2));
    let _ = stash.try_put(BOB, payload(60)).unwrap();
    fill(&stash, 40);
    log.read();
    let mut expected = Vec::new();
    let mut note = |reason, bytes| expected.push(Event::Refused { reason, bytes });
    drop(stash.try_put(ALICE, payload(7)));
    note(Refusal::Full, 7);
    drop(stash.try_put(ALICE, payload(101)));
    note(Refusal::TooLarge, 101);
    drop(stash.put_timeout(ALICE, payload(8), Duration::from_nanos(1)));
    note(Refusal::TimedOut, 8);
    drop(ready(&mut Box::pin(stash.reserve(9).until(std::future::ready(())))));
    note(Refusal::Cancelled, 9);
    drop(stash.try_reserve_for(&ALICE, 51));
    note(Refusal::OwnerFull, 51);
    let mut waiters = [put_task(&stash, ALICE, payload(1)), put_task(&stash, ALICE, payload(2))];
    waiters.iter_mut().for_each(|put| drop(queue(put)));
    drop(ready(&mut put_task(&stash, ALICE, payload(3))));
    note(Refusal::QueueFull, 3);
    stash.close();
    waiters.iter_mut().for_each(|put| assert!(ready(put).is_err()));
    note(Refusal::Closed, 1);
    note(Refusal::Closed, 2);
    assert_eq!(log.read(), expected);
    let refused = checked_stats(&stash).refused;
    assert_eq!(
        (refused.full, refused.too_large, refused.timed_out, refused.cancelled),
        (1, 1, 1, 1)
    );
    assert_eq!((refused.owner_full, refused.queue_full, refused.closed), (1, 1, 2));
    assert_eq!(refused.total(), 8);
    drop(clock);
}

#[test]
fn b10_the_wait_queue_in_numbers() {
    let (stash, clock, log) = observed(|builder| builder);
    let full = put(&stash, 100);
    let idle = checked_stats(&stash);
    assert_eq!((idle.waiting, idle.head_bytes, idle.oldest_wait), (0, None, None));
    let mut head = put_task(&stash, ALICE, payload(70));
    queue(&mut head);
    clock.advance(SECOND);
    let mut next = Box::pin(stash.reserve(20));
    queue(&mut next);
    clock.advance(2 * SECOND);
    let busy = checked_stats(&stash);
    assert_eq!((busy.waiting, busy.waiting_bytes), (2, 90));
    assert_eq!((busy.head_bytes, busy.oldest_wait), (Some(70), Some(3 * SECOND)));
    drop(head);
    let left = checked_stats(&stash);
    assert_eq!((left.head_bytes, left.oldest_wait), (Some(20), Some(2 * SECOND)));
    let mut permit = acquire_task(stash.budget(), 80);
    queue(&mut permit);
    log.read();
    assert!(take(&stash, full).is_some());
    assert_eq!(checked_stats(&stash).waited, 0, "not polled yet");
    clock.advance(SECOND);
    let room = ready(&mut next).unwrap();
    assert_eq!(
        log.read(),
        [Event::Delivered { bytes: 100 }, Event::Waited { bytes: 20, wait: 3 * SECOND },]
    );
    assert_eq!(checked_stats(&stash).waited, 1);
    drop((room, permit));
    // A bare permit has no clock.
    let all = stash.try_reserve(100).unwrap();
    let mut permit = acquire_task(stash.budget(), 80);
    queue(&mut permit);
    assert_eq!(
        (checked_stats(&stash).head_bytes, checked_stats(&stash).oldest_wait),
        (Some(80), None)
    );
    drop(all);
}

#[test]
fn b10_the_peak_stays() {
    let (stash, _) = test_stash();
    assert_eq!(checked_stats(&stash).peak_bytes, 0);
    let room = stash.try_reserve(30).unwrap();
    fill(&stash, 40);
    drop(room);
    stash.clear();
    fill(&stash, 60);
    assert_eq!((checked_stats(&stash).peak_bytes, checked_stats(&stash).used_bytes), (70, 60));
    let mut waiter = put_task(&stash, ALICE, payload(90));
    queue(&mut waiter);
    stash.set_max_bytes(1_000);
    assert_eq!(checked_stats(&stash).peak_bytes, 150);
    stash.clear();
    stash.set_max_bytes(0);
    assert_eq!(checked_stats(&stash).peak_bytes, 150);
}

#[test]
fn b10_the_life_of_an_entry_as_it_is_told() {
    let (stash, clock, log) = observed(|builder| builder.entry_overhead(5));
    let one = put(&stash, 10);
    drop(stash.claim(&one, &ALICE).unwrap());
    drop(stash.claim(&one, &ALICE).unwrap().into_inner());
    let two = put(&stash, 20);
    drop(take(&stash, two));
    let three = put(&stash, 30);
    clock.advance(TTL);
    drop(take(&stash, three));
    fill(&stash, 1);
    fill(&stash, 2);
    clock.advance(TTL);
    assert_eq!((stash.gc(), stash.gc()), (2, 0));
    fill(&stash, 3);
    fill(&stash, 4);
    assert_eq!((stash.clear(), stash.clear()), (2, 0));
    let four = put(&stash, 40);
    drop(stash.claim(&four, &ALICE).unwrap().into_bytes());
    let stored = |bytes| Event::Stored { bytes, overflow: false };
    assert_eq!(
        log.read(),
        [
            stored(15),
            Event::Claimed { bytes: 15 },
            Event::PutBack { bytes: 15 },
            Event::Claimed { bytes: 15 },
            Event::Delivered { bytes: 15 },
            stored(25),
            Event::Delivered { bytes: 25 },
            stored(35),
            Event::Expired { entries: 1, bytes: 35 },
            stored(6),
            stored(7),
            Event::Expired { entries: 2, bytes: 13 },
            stored(8),
            stored(9),
            Event::Cleared { entries: 2, bytes: 17 },
            stored(45),
            Event::Claimed { bytes: 45 },
            Event::Delivered { bytes: 45 },
        ]
    );
}

#[test]
fn b10_two_observers_one_after_the_other() {
    let (one, other) = (EventLog::default(), std::sync::Arc::new(EventLog::default()));
    let (stash, _) =
        stash_with(|builder| builder.observer((one.clone(), std::sync::Arc::clone(&other))));
    fill(&stash, 10);
    assert_eq!(one.read(), [Event::Stored { bytes: 10, overflow: false }]);
    assert_eq!(other.read().len(), 1);
}

/// An observer that reads the statistics at every event.
#[test]
fn b10_an_observer_sees_numbers_that_add_up() {
    struct Looks(std::sync::Arc<OnceLock<TestStash>>);

    impl Observer for Looks {
        fn event(&self, event: Event) {
            let Some(stash) = self.0.get() else { return };
            let stats = checked_stats(stash);
            match event {
                Event::Stored { .. } => assert!(stats.stored > 0),
                Event::Delivered { .. } => assert!(stats.delivered > 0),
                Event::Claimed { .. } => assert_eq!(stats.claims, 1),
                Event::PutBack { .. } => assert_eq!((stats.claims, stats.put_back), (0, 1)),
                Event::Expired { .. } => assert_eq!((stats.expired, stats.entries), (1, 0)),
                Event::Cleared { .. } => assert_eq!((stats.cleared, stats.entries), (1, 0)),
                _ => {}
            }
            // A failed check is a panic that does not reach the caller, so it is counted.
            LOOKS.with(|looks| looks.set(looks.get() + 1));
        }
    }
    thread_local!(static LOOKS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });

    must_come_back(|| {
        let slot = std::sync::Arc::new(OnceLock::new());
        let (stash, clock) =
            stash_with(|builder| builder.observer(Looks(std::sync::Arc::clone(&slot))));
        assert!(slot.set(stash.clone()).is_ok());
        let ticket = put(&stash, 100);
        drop(stash.try_put(ALICE, payload(1)));
        drop(stash.claim(&ticket, &ALICE));
        assert!(take(&stash, ticket).is_some());
        fill(&stash, 10);
        clock.advance(TTL);
        assert_eq!(stash.gc(), 1);
        fill(&stash, 10);
        assert_eq!(stash.clear(), 1);
        assert_eq!(LOOKS.get(), 9);
    });
}
