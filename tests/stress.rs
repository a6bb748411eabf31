//! Threads on the real thing, for a moment: as part of `cargo test`, under sanitizers and under Miri.
//! `STRESS_SCALE` multiplies the rounds; under Miri they are few.
//!
//! What is asserted holds whatever the schedule was: at the end nothing is used, nobody waits, and every
//! payload went exactly one way. No test asserts a time.
#![cfg(not(any(loom, shuttle)))]

mod support;

use std::env;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use cloakroom::{Budget, ManualClock, Permit, PutError, Refusal, Stash, Ticket};

use self::support::ledger::{Dice, Fate, Ledger, Parcel, Record};
use self::support::{Count, Task, acquire_task, counting, must_come_back, poll, put_task};

const THREADS: u64 = 4;
const LIMIT: u64 = 100;

fn rounds(debug: u64) -> u64 {
    let scale = env::var("STRESS_SCALE").map_or(1, |scale| scale.parse().expect("a number"));
    if cfg!(miri) { (debug / 400).max(5) * scale } else { debug * scale }
}

/// Runs `body` on several threads, each with its number and dice.
fn on_threads(body: impl Fn(u64, &mut Dice) + Sync) {
    thread::scope(|scope| {
        for number in 0..THREADS {
            let body = &body;
            scope.spawn(move || body(number, &mut Dice::new(number)));
        }
    });
}

/// Zero, small, half, all, and too much.
fn size(dice: &mut Dice) -> u64 {
    match dice.below(20) {
        0 => 0,
        1 => LIMIT,
        2 => LIMIT + 1,
        3..6 => LIMIT / 2 + dice.below(3) - 1,
        _ => 1 + dice.below(LIMIT / 3),
    }
}

/// What is held by test threads must never pass the limit: the bytes are counted while they are held.
#[derive(Default)]
struct Held(AtomicU64);

impl Held {
    fn hold(&self, permit: Permit<'_>, limit: u64) {
        let bytes = permit.bytes();
        let held = self.0.fetch_add(bytes, Ordering::SeqCst) + bytes;
        assert!(held <= limit, "{held} bytes are held");
        thread::yield_now();
        self.0.fetch_sub(bytes, Ordering::SeqCst);
        drop(permit);
    }
}

/// Nothing is used, nobody waits, and all of it can be had, once.
fn settled(budget: &Budget) {
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
    let all = budget.try_acquire(budget.limit()).expect("all of it is free");
    assert_eq!(budget.try_acquire(1).unwrap_err().reason(), Refusal::Full);
    drop(all);
}

#[test]
fn trying_never_passes_the_limit_and_restores_all() {
    let (budget, held) = (Budget::new(LIMIT), Held::default());
    on_threads(|_, dice| {
        for _ in 0..rounds(20_000) {
            let bytes = size(dice);
            match budget.try_acquire(bytes) {
                Ok(mut permit) => {
                    if let Some(part) = permit.split(bytes / 3) {
                        held.hold(part, LIMIT);
                    }
                    permit.shrink(bytes / 2);
                    held.hold(permit, LIMIT);
                }
                Err(refused) if bytes > LIMIT => assert_eq!(refused.reason(), Refusal::TooLarge),
                Err(refused) => assert_eq!(refused.reason(), Refusal::Full),
            }
        }
    });
    settled(&budget);
}

/// Futures that are polled by hand, some dropped while they wait and some after the grant, next to
/// threads that block for short.
#[test]
fn waiting_blocking_and_cancelling() {
    must_come_back(|| {
        let (budget, held) = (Budget::new(LIMIT), Held::default());
        let granted = AtomicU64::new(0);
        on_threads(|number, dice| {
            let mut waiting = Vec::new();
            for _ in 0..rounds(4_000) {
                match dice.below(8) {
                    0..4 => {
                        let (count, waker) = counting();
                        let mut request = acquire_task(&budget, size(dice));
                        match poll(&mut request, &waker) {
                            Poll::Pending => waiting.push((request, count)),
                            Poll::Ready(Ok(permit)) => held.hold(permit, LIMIT),
                            Poll::Ready(Err(e)) => assert_eq!(e.reason(), Refusal::TooLarge),
                        }
                    }
                    4 => drop(dice.draw(&mut waiting)),
                    5 if number % 2 == 0 => {
                        let patience = Duration::from_micros(dice.below(200));
                        if let Ok(permit) = budget.acquire_timeout(size(dice), patience) {
                            held.hold(permit, LIMIT);
                        }
                    }
                    _ => {
                        // A grant that nobody takes note of would hold up everybody, this thread too.
                        waiting.retain_mut(|(request, count)| {
                            if count.get() == 0 {
                                return true;
                            }
                            assert_eq!(count.get(), 1, "woken once for the grant");
                            let (_, waker) = counting();
                            match poll(request, &waker) {
                                Poll::Ready(Ok(permit)) => held.hold(permit, LIMIT),
                                other => panic!("woken, but not granted: {other:?}"),
                            }
                            granted.fetch_add(1, Ordering::Relaxed);
                            false
                        });
                    }
                }
            }
        });
        settled(&budget);
        println!("{} granted after a wait", granted.into_inner());
    });
}

/// All who wait are granted in the end, with no call but the drop of permits.
#[test]
fn blocked_threads_are_all_granted_in_the_end() {
    must_come_back(|| {
        let (budget, held) = (Budget::new(LIMIT), Held::default());
        on_threads(|_, dice| {
            for _ in 0..rounds(4_000) {
                let bytes = 1 + dice.below(LIMIT);
                let forever = Duration::from_secs(100_000);
                held.hold(budget.acquire_timeout(bytes, forever).unwrap(), LIMIT);
            }
        });
        settled(&budget);
    });
}

#[test]
fn the_limit_moves_while_threads_wait() {
    must_come_back(|| {
        let (budget, held) = (Budget::new(LIMIT), Held::default());
        let running = AtomicUsize::new(THREADS as usize);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut dice = Dice::new(99);
                while running.load(Ordering::SeqCst) > 0 {
                    budget.set_limit(dice.below(LIMIT + 1));
                    thread::yield_now();
                }
                budget.set_limit(LIMIT);
            });
            on_threads(|_, dice| {
                for _ in 0..rounds(2_000) {
                    let bytes = dice.below(LIMIT);
                    let patience = Duration::from_millis(dice.below(3));
                    match budget.acquire_timeout(bytes, patience) {
                        // What the limit was when they were granted is not known here: the highest.
                        Ok(permit) => held.hold(permit, LIMIT),
                        Err(e) => assert!(matches!(
                            e.reason(),
                            Refusal::Full | Refusal::TooLarge | Refusal::TimedOut
                        )),
                    }
                }
                running.fetch_sub(1, Ordering::SeqCst);
            });
        });
        settled(&budget);
    });
}

/// After a burst of everything, all threads at rest and nobody about to call: nobody waits who could be
/// let in.
#[test]
fn at_rest_nobody_is_forgotten() {
    for round in 0..rounds(1_000) {
        let budget = Budget::new(LIMIT);
        let (waiting, permits) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        on_threads(|number, dice| {
            let mut dice = Dice::new(round * THREADS + number + dice.next());
            let (mut mine, mut held) = (Vec::new(), Vec::new());
            for _ in 0..8 {
                match dice.below(8) {
                    0..4 => {
                        let bytes = 1 + dice.below(LIMIT);
                        let (count, waker) = counting();
                        let mut request = acquire_task(&budget, bytes);
                        match poll(&mut request, &waker) {
                            Poll::Pending => mine.push((request, count)),
                            Poll::Ready(Ok(permit)) => held.push(permit),
                            Poll::Ready(Err(e)) => assert_eq!(e.reason(), Refusal::TooLarge),
                        }
                    }
                    4 | 5 => drop(dice.draw(&mut mine)),
                    6 => drop(dice.draw(&mut held)),
                    _ => budget.set_limit(LIMIT / 2 + dice.below(LIMIT / 2 + 1)),
                }
            }
            waiting.lock().unwrap().extend(mine);
            permits.lock().unwrap().extend(held);
        });
        let waiting = waiting.into_inner().unwrap();
        // Nothing is dropped here: that would give bytes back.
        let (mut waiting, granted): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, count)| count.get() == 0);
        assert_eq!(budget.waiting(), waiting.len(), "who is in line, and who was not woken");
        // This moves nothing and serves the line: whoever it lets in should have been in already.
        budget.set_limit(budget.limit());
        assert!(waiting.iter().all(|(_, count)| count.get() == 0), "forgotten: {budget:?}");
        // With all bytes back, nobody waits.
        budget.set_limit(LIMIT);
        permits.into_inner().unwrap().clear();
        drop(granted);
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|(_, count)| count.get() == 0);
            assert!(waiting.len() < before, "somebody waits for nobody: {budget:?}");
        }
        settled(&budget);
    }
}

#[test]
fn closing_ends_every_wait() {
    must_come_back(|| {
        for round in 0..rounds(400) {
            let budget = Budget::new(LIMIT);
            let (joined, closed) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let full = budget.try_acquire(LIMIT).unwrap();
            on_threads(|number, dice| {
                if number == 0 {
                    (0..dice.below(round + 1) % 50).for_each(|_| thread::yield_now());
                    assert!(budget.close() <= joined.load(Ordering::SeqCst));
                    assert_eq!(budget.close(), 0);
                } else {
                    joined.fetch_add(1, Ordering::SeqCst);
                    let refused = budget.acquire_timeout(1, Duration::from_secs(100_000));
                    assert_eq!(refused.unwrap_err().reason(), Refusal::Closed);
                    closed.fetch_add(1, Ordering::SeqCst);
                }
            });
            drop(full);
            assert_eq!((closed.into_inner(), budget.used(), budget.waiting()), (3, 0, 0));
        }
    });
}

// ---- The stash -------------------------------------------------------------------------------------

type Hall = Stash<Parcel, u64>;
type PutResult = Result<Ticket, PutError<Parcel>>;

/// A ticket, its owner, and what became of its payload.
type Check = (Ticket, u64, Arc<Record>);

/// A put that is under way: the future, its waker's count, the owner and the record.
type Waiting = (Task<PutResult>, Arc<Count>, u64, Arc<Record>);

struct Desk {
    stash: Hall,
    clock: ManualClock,
    ledger: Arc<Ledger>,
    checks: Mutex<Vec<Check>>,
    /// What was not to be had any more. A sweep that has won an entry drops its payload a moment later,
    /// so this is looked at in the end.
    gone: Mutex<Vec<Arc<Record>>>,
}

impl Desk {
    fn new() -> Self {
        let clock = ManualClock::new();
        let stash = Stash::builder()
            .max_bytes(LIMIT)
            .entry_overhead(1)
            .ttl(Duration::from_millis(10))
            .clock(clock.clone())
            .build()
            .unwrap();
        let (checks, gone) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        Self { stash, clock, ledger: Ledger::new(), checks, gone }
    }

    fn put_was(&self, result: PutResult, owner: u64, record: Arc<Record>) {
        match result {
            Ok(ticket) => self.checks.lock().unwrap().push((ticket, owner, record)),
            Err(refused) => refused.into_payload().returned(),
        }
    }

    fn draw(&self, dice: &mut Dice) -> Option<Check> {
        dice.draw(&mut self.checks.lock().unwrap())
    }

    fn take(&self, (ticket, owner, record): Check) {
        assert!(self.stash.take(&ticket, &(owner + 1)).is_none(), "another's");
        match self.stash.take(&ticket, &owner) {
            Some(parcel) => parcel.delivered(),
            None => self.gone.lock().unwrap().push(record),
        }
        assert!(self.stash.take(&ticket, &owner).is_none(), "twice");
    }

    fn step(&self, dice: &mut Dice, waiting: &mut Vec<Waiting>) {
        let owner = dice.below(3);
        let parcel = self.ledger.parcel(size(dice));
        let record = parcel.record();
        match dice.below(16) {
            0..4 => self.put_was(self.stash.try_put(owner, parcel), owner, record),
            4..7 => {
                let (count, waker) = counting();
                let mut put = put_task(&self.stash, owner, parcel);
                match poll(&mut put, &waker) {
                    Poll::Ready(result) => self.put_was(result, owner, record),
                    Poll::Pending => waiting.push((put, count, owner, record)),
                }
            }
            7 => {
                let patience = Duration::from_micros(dice.below(200));
                self.put_was(self.stash.put_timeout(owner, parcel, patience), owner, record);
            }
            other => {
                parcel.returned();
                match other {
                    8..11 => {
                        if let Some(check) = self.draw(dice) {
                            self.take(check);
                        }
                    }
                    11 => {
                        if let Some((put, _, _, record)) = dice.draw(waiting) {
                            record.cancel();
                            drop(put);
                        }
                    }
                    12 => self.clock.advance(Duration::from_millis(dice.below(4))),
                    13 => drop(self.stash.gc()),
                    14 if dice.once_in(8) => drop(self.stash.clear()),
                    _ => self.poll_woken(waiting),
                }
            }
        }
    }

    fn poll_woken(&self, waiting: &mut Vec<Waiting>) {
        let (woken, rest) = waiting.drain(..).partition(|(_, count, ..)| count.get() > 0);
        *waiting = rest;
        let woken: Vec<Waiting> = woken;
        for (mut put, _, owner, record) in woken {
            match poll(&mut put, &counting().1) {
                Poll::Ready(result) => self.put_was(result, owner, record),
                Poll::Pending => panic!("woken, but it still waits"),
            }
        }
    }

    /// Everything expires. Some of it is found so when it is taken, and a sweep finds the rest.
    fn leave(self) {
        self.clock.advance(Duration::from_millis(10));
        let checks = std::mem::take(&mut *self.checks.lock().unwrap());
        let half = checks.len() / 2;
        for (at, check) in checks.into_iter().enumerate() {
            if at == half {
                self.stash.gc();
                assert!(self.stash.is_empty(), "missed by a sweep: {:?}", self.stash);
            }
            self.take(check);
        }
        for record in self.gone.lock().unwrap().drain(..) {
            assert_eq!(record.fate(), Fate::Swept, "nobody else had the ticket");
        }
        let stash = &self.stash;
        assert_eq!(stash.clear(), 0, "all entries had tickets");
        assert_eq!((stash.used_bytes(), stash.len(), stash.waiting()), (0, 0, 0));
        self.ledger.assert_settled();
        if !stash.is_closed() {
            let all = self.ledger.parcel(LIMIT - 1);
            let ticket = stash.try_put(0, all).expect("all of it is free");
            let refused = stash.try_put(0, self.ledger.parcel(0)).expect_err("and no more");
            refused.into_payload().returned();
            stash.take(&ticket, &0).unwrap().delivered();
        }
    }
}

#[test]
fn every_payload_goes_exactly_one_way() {
    must_come_back(|| {
        let desk = Desk::new();
        on_threads(|_, dice| {
            let mut waiting = Vec::new();
            for _ in 0..rounds(8_000) {
                desk.step(dice, &mut waiting);
            }
            for (put, _, _, record) in waiting {
                record.cancel();
                drop(put);
            }
        });
        for fate in [Fate::Delivered, Fate::Returned, Fate::Cancelled, Fate::Swept] {
            println!("{fate:?}: {}", desk.ledger.count(fate));
        }
        desk.leave();
    });
}

/// Those who put and those who take are different threads, and the tickets go from one to the other.
#[test]
fn tickets_from_hand_to_hand() {
    must_come_back(|| {
        let desk = Desk::new();
        let (send, receive) = mpsc::channel::<Ticket>();
        let receive = Mutex::new(receive);
        let each = rounds(5_000);
        thread::scope(|scope| {
            for producer in 0..2 {
                let (desk, send) = (&desk, send.clone());
                scope.spawn(move || {
                    let mut dice = Dice::new(producer);
                    for _ in 0..each {
                        let parcel = desk.ledger.parcel(dice.below(LIMIT));
                        let forever = Duration::from_secs(100_000);
                        send.send(desk.stash.put_timeout(7, parcel, forever).unwrap()).unwrap();
                    }
                });
            }
            drop(send);
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let next = receive.lock().unwrap().recv();
                        let Ok(ticket) = next else { return };
                        desk.stash.take(&ticket, &7).expect("a good ticket").delivered();
                    }
                });
            }
        });
        assert_eq!(desk.ledger.count(Fate::Delivered), 2 * each);
        desk.leave();
    });
}

/// One ticket, several threads: one gets the payload.
#[test]
fn one_of_many_takers_gets_it() {
    let desk = Desk::new();
    let won = AtomicUsize::new(0);
    let tickets: Vec<Ticket> =
        (0..LIMIT).map(|_| desk.stash.try_put(7, desk.ledger.parcel(0)).unwrap()).collect();
    on_threads(|_, _| {
        for ticket in &tickets {
            if let Some(parcel) = desk.stash.take(ticket, &7) {
                parcel.delivered();
                won.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert_eq!(won.into_inner(), tickets.len());
    desk.leave();
}

/// `clear` and `close` in the middle of everything: those in line get their payloads back.
#[test]
fn closing_a_stash_gives_payloads_back() {
    must_come_back(|| {
        for round in 0..rounds(300) {
            let desk = Desk::new();
            on_threads(|number, dice| {
                let mut waiting = Vec::new();
                for step in 0..20 {
                    if number == 0 && step == round % 20 {
                        desk.stash.close();
                    }
                    desk.step(dice, &mut waiting);
                }
                while !desk.stash.is_closed() || waiting.iter().any(|(_, n, ..)| n.get() == 0) {
                    thread::yield_now();
                }
                desk.poll_woken(&mut waiting);
            });
            let refused = desk.stash.try_put(0, desk.ledger.parcel(0)).unwrap_err();
            assert_eq!(refused.reason(), Refusal::Closed);
            refused.into_payload().returned();
            desk.leave();
        }
    });
}

// ---- What goes beyond ------------------------------------------------------------------------------

/// Claims that are put back, dropped or delivered, against takes of the same tickets and clears.
#[test]
fn claims_takes_and_clears_of_the_same_tickets() {
    must_come_back(|| {
        let desk = Desk::new();
        for round in 0..rounds(150) {
            let parcels = (0..40).map(|_| desk.ledger.parcel(1));
            let tickets: Vec<Ticket> =
                parcels.map(|parcel| desk.stash.try_put(7, parcel).unwrap()).collect();
            let together = Barrier::new(THREADS as usize);
            on_threads(|number, dice| {
                let dice = &mut Dice::new(round * THREADS + number + dice.next());
                together.wait();
                for ticket in &tickets {
                    match (number, desk.stash.claim(ticket, &7)) {
                        (0, claim) => {
                            drop(claim);
                            if dice.once_in(40) {
                                desk.stash.clear();
                            }
                        }
                        (1, claim) => {
                            drop(claim);
                            if let Some(parcel) = desk.stash.take(ticket, &7) {
                                parcel.delivered();
                            }
                        }
                        (2, Some(claim)) if dice.once_in(2) => claim.into_inner().delivered(),
                        (3, Some(claim)) if dice.once_in(2) => {
                            claim.record().deliver();
                            drop(claim.into_bytes());
                        }
                        (_, Some(claim)) => {
                            assert_eq!(claim.record().fate(), Fate::Alive);
                            claim.put_back();
                        }
                        (_, None) => {}
                    }
                }
            });
            let left = desk.stash.clear();
            assert!(left <= tickets.len());
            assert_eq!((desk.stash.len(), desk.stash.used_bytes()), (0, 0));
        }
        let stats = desk.stash.stats();
        assert_eq!((stats.claims, stats.delivered), (0, desk.ledger.count(Fate::Delivered)));
        assert_eq!(stats.cleared, desk.ledger.count(Fate::Swept));
        desk.leave();
    });
}

/// Room that is reserved, made smaller, used and dropped, while puts and reservations wait for it.
#[test]
fn reservations_against_those_who_wait() {
    must_come_back(|| {
        let desk = Desk::new();
        let forever = Duration::from_secs(100_000);
        on_threads(|number, dice| {
            for _ in 0..rounds(500) {
                let bytes = dice.below(LIMIT);
                if number == 0 {
                    let parcel = desk.ledger.parcel(bytes);
                    let ticket = desk.stash.put_timeout(7, parcel, forever).unwrap();
                    desk.stash.take(&ticket, &7).unwrap().delivered();
                    continue;
                }
                let mut room = desk.stash.reserve_timeout(bytes, forever).unwrap();
                room.shrink(dice.below(LIMIT));
                let most = room.bytes();
                let room = match dice.below(3) {
                    0 => room,
                    1 => {
                        let refused = room.put(7, desk.ledger.parcel(most + 1)).unwrap_err();
                        assert_eq!(refused.reason(), Refusal::TooLarge);
                        let (parcel, room) = refused.into_parts();
                        parcel.returned();
                        room
                    }
                    _ => continue,
                };
                let parcel = desk.ledger.parcel(dice.below(most + 1));
                let ticket = room.put(7, parcel).unwrap();
                desk.stash.take(&ticket, &7).unwrap().delivered();
            }
        });
        assert_eq!(desk.stash.used_bytes(), 0);
        desk.leave();
    });
}

/// Closed in the middle of everything: whoever waits for it to be empty is told when it is, and not before.
#[test]
fn drained_at_the_end_of_a_shutdown() {
    must_come_back(|| {
        for round in 0..rounds(150) {
            let desk = Desk::new();
            // Held until all else is over.
            let last = Mutex::new(Some(desk.stash.try_reserve(LIMIT / 10).unwrap()));
            let is_dropped = AtomicBool::new(false);
            let together = Barrier::new(THREADS as usize);
            on_threads(|number, dice| {
                let dice = &mut Dice::new(round * THREADS + number + dice.next());
                together.wait();
                if number == 0 {
                    assert!(desk.stash.drained_timeout(Duration::from_secs(100_000)));
                    assert!(desk.stash.is_closed());
                    assert!(is_dropped.load(Ordering::SeqCst), "drained, but one is held");
                    assert_eq!(desk.stash.used_bytes(), 0);
                    return;
                }
                let (mut waiting, mut claims, mut rooms) = (Vec::new(), Vec::new(), Vec::new());
                for step in 0..12 {
                    if number == 1 && step == round % 12 {
                        desk.stash.close();
                    }
                    desk.step(dice, &mut waiting);
                    rooms.extend(desk.stash.try_reserve(dice.below(LIMIT / 4)));
                    // Nobody else has its ticket meanwhile.
                    let drawn = dice.draw(&mut claims);
                    if let Some(check) = desk.draw(dice) {
                        let claim = desk.stash.claim(&check.0, &check.1);
                        claims.push((claim, check));
                    }
                    if let Some((claim, check)) = drawn {
                        drop(claim);
                        desk.checks.lock().unwrap().push(check);
                    }
                    drop(dice.draw(&mut rooms));
                }
                for (put, _, _, record) in waiting {
                    record.cancel();
                    drop(put);
                }
                drop(rooms);
                for (claim, check) in claims {
                    drop(claim);
                    desk.checks.lock().unwrap().push(check);
                }
                // What others have put back since is left to them.
                desk.stash.clear();
                if number == 1 {
                    (0..5).for_each(|_| thread::yield_now());
                    is_dropped.store(true, Ordering::SeqCst);
                    drop(last.lock().unwrap().take());
                }
            });
            desk.leave();
        }
    });
}
