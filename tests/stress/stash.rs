//! Puts, takes, claims and reservations on a stash, and its shutdown.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use cloakroom::{ManualClock, PutError, Refusal, Stash, Ticket};

use super::{LIMIT, THREADS, on_threads, rounds, size};
use crate::support::{Count, counting, must_come_back, poll, put_task};

use crate::support::Task;
use crate::support::ledger::{Fate, Ledger, Record, Tracked};
use crate::support::random::Rng;

type TestStash = Stash<Tracked, u64>;
type PutResult = Result<Ticket, PutError<Tracked>>;

/// A ticket, its owner, and the fate of its payload.
type Entry = (Ticket, u64, Arc<Record>);

/// A put that is under way: the future, its waker's count, the owner and the record.
type Waiting = (Task<PutResult>, Arc<Count>, u64, Arc<Record>);

struct Harness {
    stash: TestStash,
    clock: ManualClock,
    ledger: Arc<Ledger>,
    entries: Mutex<Vec<Entry>>,
    /// Records of tickets that were denied. A sweep that removes an entry drops its payload a moment later,
    /// so this is checked at the end.
    gone: Mutex<Vec<Arc<Record>>>,
}

impl Harness {
    fn new() -> Self {
        let clock = ManualClock::new();
        let stash = Stash::builder()
            .max_bytes(LIMIT)
            .entry_overhead(1)
            .ttl(Duration::from_millis(10))
            .clock(clock.clone())
            .build()
            .unwrap();
        let (entries, gone) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        Self { stash, clock, ledger: Ledger::new(), entries, gone }
    }

    fn put_was(&self, result: PutResult, owner: u64, record: Arc<Record>) {
        match result {
            Ok(ticket) => self.entries.lock().unwrap().push((ticket, owner, record)),
            Err(refused) => refused.into_payload().returned(),
        }
    }

    fn draw(&self, rng: &mut Rng) -> Option<Entry> {
        rng.draw(&mut self.entries.lock().unwrap())
    }

    fn take(&self, (ticket, owner, record): Entry) {
        assert!(self.stash.take(&ticket, &(owner + 1)).is_none(), "another's");
        match self.stash.take(&ticket, &owner) {
            Some(tracked) => tracked.delivered(),
            None => self.gone.lock().unwrap().push(record),
        }
        assert!(self.stash.take(&ticket, &owner).is_none(), "twice");
    }

    fn step(&self, rng: &mut Rng, waiting: &mut Vec<Waiting>) {
        let owner = rng.below(3);
        let tracked = self.ledger.tracked(size(rng));
        let record = tracked.record();
        match rng.below(16) {
            0..4 => self.put_was(self.stash.try_put(owner, tracked), owner, record),
            4..7 => {
                let (count, waker) = counting();
                let mut put = put_task(&self.stash, owner, tracked);
                match poll(&mut put, &waker) {
                    Poll::Ready(result) => self.put_was(result, owner, record),
                    Poll::Pending => waiting.push((put, count, owner, record)),
                }
            }
            7 => {
                let patience = Duration::from_micros(rng.below(200));
                self.put_was(self.stash.put_timeout(owner, tracked, patience), owner, record);
            }
            other => {
                tracked.returned();
                match other {
                    8..11 => {
                        if let Some(entry) = self.draw(rng) {
                            self.take(entry);
                        }
                    }
                    11 => {
                        if let Some((put, _, _, record)) = rng.draw(waiting) {
                            record.cancel();
                            drop(put);
                        }
                    }
                    12 => self.clock.advance(Duration::from_millis(rng.below(4))),
                    13 => drop(self.stash.gc()),
                    14 if rng.once_in(8) => drop(self.stash.clear()),
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
        let entries = std::mem::take(&mut *self.entries.lock().unwrap());
        let half = entries.len() / 2;
        for (at, entry) in entries.into_iter().enumerate() {
            if at == half {
                self.stash.gc();
                assert!(self.stash.is_empty(), "missed by a sweep: {:?}", self.stash);
            }
            self.take(entry);
        }
        for record in self.gone.lock().unwrap().drain(..) {
            assert_eq!(record.fate(), Fate::Swept, "nobody else had the ticket");
        }
        let stash = &self.stash;
        assert_eq!(stash.clear(), 0, "all entries had tickets");
        assert_eq!((stash.used_bytes(), stash.len(), stash.waiting()), (0, 0, 0));
        self.ledger.assert_settled();
        if !stash.is_closed() {
            let all = self.ledger.tracked(LIMIT - 1);
            let ticket = stash.try_put(0, all).expect("all of it is free");
            let refused = stash.try_put(0, self.ledger.tracked(0)).expect_err("and no more");
            refused.into_payload().returned();
            stash.take(&ticket, &0).unwrap().delivered();
        }
    }
}

#[test]
fn every_payload_goes_exactly_one_way() {
    must_come_back(|| {
        let harness = Harness::new();
        on_threads(|_, rng| {
            let mut waiting = Vec::new();
            for _ in 0..rounds(8_000) {
                harness.step(rng, &mut waiting);
            }
            for (put, _, _, record) in waiting {
                record.cancel();
                drop(put);
            }
        });
        for fate in [Fate::Delivered, Fate::Returned, Fate::Cancelled, Fate::Swept] {
            println!("{fate:?}: {}", harness.ledger.count(fate));
        }
        harness.leave();
    });
}

/// Different threads put and take, and the tickets go from one to the other.
#[test]
fn tickets_from_hand_to_hand() {
    must_come_back(|| {
        let harness = Harness::new();
        let (send, receive) = mpsc::channel::<Ticket>();
        let receive = Mutex::new(receive);
        let each = rounds(5_000);
        thread::scope(|scope| {
            for producer in 0..2 {
                let (harness, send) = (&harness, send.clone());
                scope.spawn(move || {
                    let mut rng = Rng::new(producer);
                    for _ in 0..each {
                        let tracked = harness.ledger.tracked(rng.below(LIMIT));
                        let forever = Duration::from_secs(100_000);
                        send.send(harness.stash.put_timeout(7, tracked, forever).unwrap()).unwrap();
                    }
                });
            }
            drop(send);
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let next = receive.lock().unwrap().recv();
                        let Ok(ticket) = next else { return };
                        harness.stash.take(&ticket, &7).expect("a good ticket").delivered();
                    }
                });
            }
        });
        assert_eq!(harness.ledger.count(Fate::Delivered), 2 * each);
        harness.leave();
    });
}

/// One ticket, several threads: one gets the payload.
#[test]
fn one_of_many_takers_gets_it() {
    let harness = Harness::new();
    let won = AtomicUsize::new(0);
    let tickets: Vec<Ticket> =
        (0..LIMIT).map(|_| harness.stash.try_put(7, harness.ledger.tracked(0)).unwrap()).collect();
    on_threads(|_, _| {
        for ticket in &tickets {
            if let Some(tracked) = harness.stash.take(ticket, &7) {
                tracked.delivered();
                won.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert_eq!(won.into_inner(), tickets.len());
    harness.leave();
}

/// `clear` and `close` in the middle of everything: waiting puts get their payloads back.
#[test]
fn closing_a_stash_gives_payloads_back() {
    must_come_back(|| {
        for round in 0..rounds(300) {
            let harness = Harness::new();
            on_threads(|number, rng| {
                let mut waiting = Vec::new();
                for step in 0..20 {
                    if number == 0 && step == round % 20 {
                        harness.stash.close();
                    }
                    harness.step(rng, &mut waiting);
                }
                while !harness.stash.is_closed() || waiting.iter().any(|(_, n, ..)| n.get() == 0) {
                    thread::yield_now();
                }
                harness.poll_woken(&mut waiting);
            });
            let refused = harness.stash.try_put(0, harness.ledger.tracked(0)).unwrap_err();
            assert_eq!(refused.reason(), Refusal::Closed);
            refused.into_payload().returned();
            harness.leave();
        }
    });
}

/// Claims that are put back, dropped or delivered, against takes of the same tickets and clears.
#[test]
fn claims_takes_and_clears_of_the_same_tickets() {
    must_come_back(|| {
        let harness = Harness::new();
        for round in 0..rounds(150) {
            let all_tracked = (0..40).map(|_| harness.ledger.tracked(1));
            let tickets: Vec<Ticket> =
                all_tracked.map(|tracked| harness.stash.try_put(7, tracked).unwrap()).collect();
            let together = Barrier::new(THREADS as usize);
            on_threads(|number, rng| {
                let rng = &mut Rng::new(round * THREADS + number + rng.next());
                together.wait();
                for ticket in &tickets {
                    match (number, harness.stash.claim(ticket, &7)) {
                        (0, claim) => {
                            drop(claim);
                            if rng.once_in(40) {
                                harness.stash.clear();
                            }
                        }
                        (1, claim) => {
                            drop(claim);
                            if let Some(tracked) = harness.stash.take(ticket, &7) {
                                tracked.delivered();
                            }
                        }
                        (2, Some(claim)) if rng.once_in(2) => claim.into_inner().delivered(),
                        (3, Some(claim)) if rng.once_in(2) => {
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
            let left = harness.stash.clear();
            assert!(left <= tickets.len());
            assert_eq!((harness.stash.len(), harness.stash.used_bytes()), (0, 0));
        }
        let stats = harness.stash.stats();
        assert_eq!((stats.claims, stats.delivered), (0, harness.ledger.count(Fate::Delivered)));
        assert_eq!(stats.cleared, harness.ledger.count(Fate::Swept));
        harness.leave();
    });
}

/// Room that is reserved, made smaller, used and dropped, while puts and reservations wait for it.
#[test]
fn reservations_against_waiters() {
    must_come_back(|| {
        let harness = Harness::new();
        let forever = Duration::from_secs(100_000);
        on_threads(|number, rng| {
            for _ in 0..rounds(500) {
                let bytes = rng.below(LIMIT);
                if number == 0 {
                    let tracked = harness.ledger.tracked(bytes);
                    let ticket = harness.stash.put_timeout(7, tracked, forever).unwrap();
                    harness.stash.take(&ticket, &7).unwrap().delivered();
                    continue;
                }
                let mut reservation = harness.stash.reserve_timeout(bytes, forever).unwrap();
                reservation.shrink(rng.below(LIMIT));
                let most = reservation.bytes();
                let reservation = match rng.below(3) {
                    0 => reservation,
                    1 => {
                        let refused =
                            reservation.put(7, harness.ledger.tracked(most + 1)).unwrap_err();
                        assert_eq!(refused.reason(), Refusal::TooLarge);
                        let (tracked, reservation) = refused.into_parts();
                        tracked.returned();
                        reservation
                    }
                    _ => continue,
                };
                let tracked = harness.ledger.tracked(rng.below(most + 1));
                let ticket = reservation.put(7, tracked).unwrap();
                harness.stash.take(&ticket, &7).unwrap().delivered();
            }
        });
        assert_eq!(harness.stash.used_bytes(), 0);
        harness.leave();
    });
}

/// Closes in the middle of everything: a thread that waits for it to drain is woken then, and not before.
#[test]
fn drained_at_the_end_of_a_shutdown() {
    must_come_back(|| {
        for round in 0..rounds(150) {
            let harness = Harness::new();
            // Held until all else is over.
            let last = Mutex::new(Some(harness.stash.try_reserve(LIMIT / 10).unwrap()));
            let is_dropped = AtomicBool::new(false);
            let together = Barrier::new(THREADS as usize);
            on_threads(|number, rng| {
                let rng = &mut Rng::new(round * THREADS + number + rng.next());
                together.wait();
                if number == 0 {
                    assert!(harness.stash.drained_timeout(Duration::from_secs(100_000)));
                    assert!(harness.stash.is_closed());
                    assert!(is_dropped.load(Ordering::SeqCst), "drained, but one is held");
                    assert_eq!(harness.stash.used_bytes(), 0);
                    return;
                }
                let (mut waiting, mut claims, mut reservations) =
                    (Vec::new(), Vec::new(), Vec::new());
                for step in 0..12 {
                    if number == 1 && step == round % 12 {
                        harness.stash.close();
                    }
                    harness.step(rng, &mut waiting);
                    reservations.extend(harness.stash.try_reserve(rng.below(LIMIT / 4)));
                    // No other thread has its ticket meanwhile.
                    let drawn = rng.draw(&mut claims);
                    if let Some(entry) = harness.draw(rng) {
                        let claim = harness.stash.claim(&entry.0, &entry.1);
                        claims.push((claim, entry));
                    }
                    if let Some((claim, entry)) = drawn {
                        drop(claim);
                        harness.entries.lock().unwrap().push(entry);
                    }
                    drop(rng.draw(&mut reservations));
                }
                for (put, _, _, record) in waiting {
                    record.cancel();
                    drop(put);
                }
                drop(reservations);
                for (claim, entry) in claims {
                    drop(claim);
                    harness.entries.lock().unwrap().push(entry);
                }
                // What others have put back since is left to them.
                harness.stash.clear();
                if number == 1 {
                    (0..5).for_each(|_| thread::yield_now());
                    is_dropped.store(true, Ordering::SeqCst);
                    drop(last.lock().unwrap().take());
                }
            });
            harness.leave();
        }
    });
}
