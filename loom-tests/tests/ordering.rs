//! The table *What is visible after what* in docs/ordering.md: models L18, and W3 for each row that no other file has.
//!
//! Each model touches a cell on both sides of one edge, and loom fails it if nothing orders the two. No thread is
//! joined before the second touch: the join would order what the edge must order.
#![cfg(cloakroom_loom)]

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use cloakroom::{Budget, Refusal, Stash};
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread::{self, JoinHandle};
use loom_tests::{
    Acquired, Boxed, CountingWaker, Exclusive, Now, Payload, Waiter, acquire, hold, model, put,
    settled,
};

type Cell = Arc<Exclusive>;

/// Touches the cell, then does something.
fn touch_then(cell: &Cell, then: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let cell = Arc::clone(cell);
    thread::spawn(move || {
        cell.touch();
        then();
    })
}

fn drained(budget: &Budget) -> Boxed<()> {
    let budget = budget.clone();
    Box::pin(async move { budget.drained().await })
}

fn queued(budget: &Budget, bytes: u64) -> Waiter<Acquired> {
    Waiter::queued(acquire(budget, bytes), CountingWaker::new())
}

fn stash(max_bytes: u64) -> (Stash<Payload, ()>, Now) {
    let clock = Now::default();
    let builder = Stash::builder().max_bytes(max_bytes).entry_overhead(0);
    let stash = builder.ttl(Duration::from_nanos(5)).clock(clock.clone()).build().unwrap();
    (stash, clock)
}

#[test]
fn w3_a_release_happens_before_drained_that_finds_all_released() {
    model(|| {
        let (budget, cell) = (Budget::new(1), Cell::default());
        let permit = hold(&budget, 1);
        let releaser = touch_then(&cell, move || drop(permit));
        budget.close();
        let outcome = Waiter::started(drained(&budget));
        if outcome.is_ok() {
            cell.touch();
        }
        releaser.join().unwrap();
        drop(outcome);
        settled(&budget);
    });
}

/// Both releases, whichever of them completes it.
#[test]
fn w3_all_releases_happen_before_drained_that_waited() {
    model(|| {
        let (budget, cell) = (Budget::new(2), Cell::default());
        let permits = [hold(&budget, 1), hold(&budget, 1)];
        budget.close();
        let mut waiter = Waiter::queued(drained(&budget), CountingWaker::new());
        let [first, second] = permits;
        let releaser = touch_then(&cell, move || drop(first));
        drop(second);
        if waiter.poll().is_ready() {
            cell.touch();
        }
        releaser.join().unwrap();
        drop(waiter);
        settled(&budget);
    });
}

#[test]
fn w3_a_release_happens_before_drained_that_blocked() {
    model(|| {
        let (budget, cell) = (Budget::new(1), Cell::default());
        let permit = hold(&budget, 1);
        let releaser = touch_then(&cell, move || drop(permit));
        budget.close();
        assert!(budget.drained_timeout(Duration::MAX));
        cell.touch();
        releaser.join().unwrap();
        settled(&budget);
    });
}

#[test]
fn w3_a_close_happens_before_drained() {
    model(|| {
        let (budget, cell) = (Budget::new(1), Cell::default());
        let handle = budget.clone();
        let closer = touch_then(&cell, move || _ = handle.close());
        let outcome = Waiter::started(drained(&budget));
        if outcome.is_ok() {
            cell.touch();
        }
        closer.join().unwrap();
        drop(outcome);
        settled(&budget);
    });
}

#[test]
fn w3_a_close_happens_before_a_refusal_because_of_it() {
    model(|| {
        let (budget, cell) = (Budget::new(1), Cell::default());
        let handle = budget.clone();
        let closer = touch_then(&cell, move || _ = handle.close());
        match budget.try_acquire(1) {
            Ok(permit) => drop(permit),
            Err(refusal) => {
                assert_eq!(refusal.reason(), Refusal::Closed);
                cell.touch();
            }
        }
        closer.join().unwrap();
        settled(&budget);
    });
}

/// The refusal is by a value that another thread has written since the close.
#[test]
fn w3_a_close_happens_before_a_refusal_that_reads_a_later_release() {
    model(|| {
        let (budget, cell) = (Budget::new(1), Cell::default());
        let permit = hold(&budget, 1);
        let handle = budget.clone();
        let closer = touch_then(&cell, move || _ = handle.close());
        let releaser = thread::spawn(move || drop(permit));
        match budget.try_acquire(1) {
            Err(refusal) if refusal.reason() == Refusal::Closed => cell.touch(),
            other => drop(other),
        }
        closer.join().unwrap();
        releaser.join().unwrap();
        settled(&budget);
    });
}

#[test]
fn w3_a_close_happens_before_is_closed() {
    model(|| {
        let (budget, cell) = (Budget::new(1), Cell::default());
        let handle = budget.clone();
        let closer = touch_then(&cell, move || _ = handle.close());
        // A single load would hide the close from loom.
        while !budget.is_closed() {
            thread::yield_now();
        }
        cell.touch();
        closer.join().unwrap();
        settled(&budget);
    });
}

/// One that joins it, and one that waits already.
#[test]
fn w3_a_close_happens_before_the_refusal_of_a_waiter() {
    model(|| {
        let (budget, cell) = (Budget::new(1), Cell::default());
        let permit = hold(&budget, 1);
        let mut early = queued(&budget, 1);
        let handle = budget.clone();
        let closer = touch_then(&cell, move || _ = handle.close());
        let mut late = Waiter::started(acquire(&budget, 1));
        let is_refused = match &mut late {
            Ok(outcome) => outcome.is_err(),
            Err(_) => early.poll().is_ready(),
        };
        if is_refused {
            cell.touch();
        }
        closer.join().unwrap();
        drop((early, late, permit));
        settled(&budget);
    });
}

#[test]
fn w3_a_raised_limit_happens_before_the_charge_that_needs_it() {
    model(|| {
        let (budget, cell) = (Budget::new(1), Cell::default());
        let handle = budget.clone();
        let resizer = touch_then(&cell, move || handle.set_limit(2));
        if let Ok(permit) = budget.try_acquire(2) {
            cell.touch();
            drop(permit);
        }
        resizer.join().unwrap();
        settled(&budget);
    });
}

#[test]
fn w3_a_raised_limit_happens_before_the_grant_that_needs_it() {
    model(|| {
        let (budget, cell) = (Budget::new(1), Cell::default());
        let permit = hold(&budget, 1);
        let mut waiter = queued(&budget, 1);
        let handle = budget.clone();
        let resizer = touch_then(&cell, move || handle.set_limit(2));
        if let Poll::Ready(granted) = waiter.poll() {
            cell.touch();
            drop(granted);
        }
        resizer.join().unwrap();
        drop((permit, waiter));
        settled(&budget);
    });
}

/// The next waiter is granted because the head gave up.
#[test]
fn w3_a_departure_happens_before_the_grant_that_it_makes_way_for() {
    model(|| {
        let (budget, cell) = (Budget::new(2), Cell::default());
        let permit = hold(&budget, 1);
        let head = queued(&budget, 2);
        let mut next = queued(&budget, 1);
        let leaver = touch_then(&cell, move || drop(head));
        if let Poll::Ready(granted) = next.poll() {
            cell.touch();
            drop(granted);
        }
        leaver.join().unwrap();
        drop((permit, next));
        settled(&budget);
    });
}

/// The ticket goes from thread to thread through what orders nothing, so only the slot orders the payload.
#[test]
fn w3_a_put_happens_before_the_take_and_the_claim() {
    model(|| {
        let ((stash, _), cell) = (stash(1), Cell::default());
        let (ticket, is_there) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let (handle, place, flag) = (stash.clone(), Arc::clone(&ticket), Arc::clone(&is_there));
        let putter = touch_then(&cell, move || {
            *place.lock().unwrap() = handle.try_put((), vec![7]).ok();
            flag.store(true, Relaxed);
        });
        if is_there.load(Relaxed) {
            let ticket = ticket.lock().unwrap().unwrap();
            // The ticket may be here before the entry is.
            if let Some(claim) = stash.claim(&ticket, &()) {
                cell.touch();
                drop(claim.into_inner());
            }
        }
        putter.join().unwrap();
        stash.clear();
        settled(stash.budget());
    });
}

#[test]
fn w3_a_put_happens_before_the_clear_that_removes_it() {
    model(|| {
        let ((stash, _), cell) = (stash(1), Cell::default());
        let handle = stash.clone();
        let putter = touch_then(&cell, move || _ = handle.try_put((), vec![7]).unwrap());
        if stash.clear() == 1 {
            cell.touch();
        }
        putter.join().unwrap();
        stash.clear();
        settled(stash.budget());
    });
}

#[test]
fn w3_a_put_back_happens_before_the_next_claim() {
    model(|| {
        let ((stash, _), cell) = (stash(1), Cell::default());
        let ticket = stash.try_put((), vec![7]).unwrap();
        let claim = stash.claim(&ticket, &()).unwrap();
        let claimer = touch_then(&cell, move || assert!(claim.put_back()));
        if let Some(claim) = stash.claim(&ticket, &()) {
            cell.touch();
            drop(claim.into_inner());
        }
        claimer.join().unwrap();
        stash.clear();
        settled(stash.budget());
    });
}

/// What was read through a claim has been read before its bytes are another's.
#[test]
fn w3_the_end_of_a_claim_happens_before_the_put_that_reuses_its_bytes() {
    model(|| {
        let ((stash, _), cell) = (stash(1), Cell::default());
        let ticket = stash.try_put((), vec![7]).unwrap();
        let claim = stash.claim(&ticket, &()).unwrap();
        let claimer = touch_then(&cell, move || drop(claim.into_inner()));
        if let Ok(_ticket) = stash.try_put((), vec![8]) {
            cell.touch();
        }
        claimer.join().unwrap();
        stash.clear();
        settled(stash.budget());
    });
}

#[test]
fn w3_a_clear_happens_before_the_grant_of_its_bytes() {
    model(|| {
        let ((stash, _), cell) = (stash(2), Cell::default());
        let _ticket = stash.try_put((), vec![1, 2]).unwrap();
        let mut waiter = Waiter::queued(put(&stash, vec![7]), CountingWaker::new());
        let handle = stash.clone();
        let clearer = touch_then(&cell, move || _ = handle.clear());
        if let Poll::Ready(ticket) = waiter.poll() {
            assert!(ticket.is_ok());
            cell.touch();
        }
        clearer.join().unwrap();
        drop(waiter);
        stash.clear();
        settled(stash.budget());
    });
}

/// The waiter does not sweep when it is polled, so the bytes come from the other thread's sweep.
#[test]
fn w3_a_sweep_happens_before_the_grant_of_its_bytes() {
    model(|| {
        let ((stash, clock), cell) = (stash(1), Cell::default());
        let _ticket = stash.try_put((), vec![1]).unwrap();
        let mut waiter = Waiter::queued(acquire(stash.budget(), 1), CountingWaker::new());
        clock.set(5);
        let handle = stash.clone();
        let sweeper = touch_then(&cell, move || assert_eq!(handle.gc(), 1));
        if let Poll::Ready(permit) = waiter.poll() {
            cell.touch();
            drop(permit.unwrap());
        }
        sweeper.join().unwrap();
        drop(waiter);
        settled(stash.budget());
    });
}

/// What is done under a permit happens before what is done under the same bytes later.
#[test]
fn l18_a_release_happens_before_the_charge_that_reuses_it() {
    model(|| {
        let budget = Budget::new(1);
        let cell = Arc::new(Exclusive::default());
        let write = |budget: &Budget, cell: &Exclusive| {
            if let Ok(_permit) = budget.try_acquire(1) {
                cell.touch();
            }
        };
        let other = {
            let (budget, cell) = (budget.clone(), Arc::clone(&cell));
            thread::spawn(move || write(&budget, &cell))
        };
        write(&budget, &cell);
        other.join().unwrap();
        settled(&budget);
    });
}

#[test]
fn l18_a_release_happens_before_the_join_that_reuses_it() {
    model(|| {
        let budget = Budget::new(1);
        let cell = Arc::new(Exclusive::default());
        let permit = hold(&budget, 1);
        let other = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                cell.touch();
                drop(permit);
            })
        };
        let outcome = Waiter::started(acquire(&budget, 1));
        if let Ok(permit) = &outcome {
            assert!(permit.is_ok());
            cell.touch();
        }
        other.join().unwrap();
        drop(outcome);
        settled(&budget);
    });
}

#[test]
fn l18_all_releases_happen_before_the_grant_that_needs_them() {
    model(|| {
        let budget = Budget::new(2);
        let cells: [Arc<Exclusive>; 2] = Default::default();
        let permits = [hold(&budget, 1), hold(&budget, 1)];
        let mut waiter = queued(&budget, 2);
        let mut threads = Vec::new();
        for (cell, permit) in cells.iter().zip(permits) {
            let cell = Arc::clone(cell);
            threads.push(thread::spawn(move || {
                cell.touch();
                drop(permit);
            }));
        }
        // Without joining the threads first: a join would order what the grant must order.
        if let Poll::Ready(permit) = waiter.poll() {
            cells.iter().for_each(|cell| cell.touch());
            drop(permit.unwrap());
        }
        for thread in threads {
            thread.join().unwrap();
        }
        drop(waiter);
        settled(&budget);
    });
}
