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
use crate::support::ledger::{Dice, Fate, Ledger, Parcel, Record};

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
