//! The whole stash: models L15 and E1, the two sentences that the project stands on.
#![cfg(loom)]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use cloakroom::{Clock, PutError, Stash, Ticket};
use loom::thread;
use loom_tests::{Boxed, CountingWaker, Waiter, bounded_model, model, poll};

type Payload = Vec<u8>;
type Putting = Result<Ticket, PutError<Payload>>;

const TTL: u64 = 10;

/// Nanoseconds, set by the model.
#[derive(Clone, Default)]
struct Now(Arc<AtomicU64>);

impl Clock for Now {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(SeqCst))
    }
}

fn stash(limit: u64, now: &Now) -> Stash<Payload, ()> {
    let builder = Stash::builder().max_bytes(limit).entry_overhead(0).clock(now.clone());
    builder.ttl(Duration::from_nanos(TTL)).build().unwrap()
}

fn put(stash: &Stash<Payload, ()>, payload: Payload) -> Boxed<Putting> {
    let stash = stash.clone();
    Box::pin(async move { stash.put((), payload).await })
}

fn settled(stash: &Stash<Payload, ()>, entries: usize) {
    assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (entries, entries as u64, 0));
}

#[test]
fn l15_take_gc_and_clear_of_one_entry_remove_it_once() {
    model(|| {
        let now = Now::default();
        let stash = stash(1, &now);
        let ticket = stash.try_put((), vec![1]).unwrap();
        let waiter = Waiter::queued(put(&stash, vec![2]), CountingWaker::new());
        let taker = {
            let stash = stash.clone();
            thread::spawn(move || stash.take(&ticket, &()).is_some() as usize)
        };
        // Held while the three compete, so that none of them finds what the waiter puts.
        let expirer = {
            let (stash, now) = (stash.clone(), now.clone());
            thread::spawn(move || {
                now.0.store(TTL, SeqCst);
                stash.gc()
            })
        };
        let cleared = stash.clear();
        let (taken, expired) = (taker.join().unwrap(), expirer.join().unwrap());
        // A take that comes late removes it as expired, and says nothing of it.
        assert!(taken + expired + cleared <= 1, "removed more than once");
        assert!(waiter.woken_once().is_ok());
        settled(&stash, 1);
    });
}

/// An owner who hashes like every other: only the comparison tells them apart.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Alike(u8);

impl std::hash::Hash for Alike {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

const ALICE: Alike = Alike(1);
const MALLORY: Alike = Alike(2);

fn stash_of_alike(now: &Now) -> Stash<Payload, Alike> {
    let builder = Stash::builder().max_bytes(1).entry_overhead(0).clock(now.clone());
    builder.ttl(Duration::from_nanos(TTL)).build().unwrap()
}

/// The entry is won by another owner, and put back, while a sweep comes by: no later sweep misses it.
#[test]
fn s6_what_is_put_back_expires() {
    bounded_model(3, || {
        let now = Now::default();
        let stash = stash_of_alike(&now);
        let ticket = stash.try_put(ALICE, vec![1]).unwrap();
        let other = {
            let stash = stash.clone();
            thread::spawn(move || assert!(stash.take(&ticket, &MALLORY).is_none()))
        };
        now.0.store(TTL, SeqCst);
        let found = stash.gc();
        other.join().unwrap();
        assert_eq!(found + stash.gc(), 1, "expired entries must be found");
        assert_eq!((stash.len(), stash.used_bytes()), (0, 0));
    });
}

/// A third thread takes what was put back: whatever order there is, the slot makes.
#[test]
fn s6_what_is_put_back_is_whole() {
    model(|| {
        let now = Now::default();
        let stash = stash_of_alike(&now);
        let ticket = Arc::new(Mutex::new(None));
        let putter = {
            let (stash, ticket) = (stash.clone(), Arc::clone(&ticket));
            thread::spawn(move || {
                *ticket.lock().unwrap() = Some(stash.try_put(ALICE, vec![1]).unwrap());
            })
        };
        let other = {
            let (stash, ticket) = (stash.clone(), Arc::clone(&ticket));
            thread::spawn(move || {
                let seen = *ticket.lock().unwrap();
                seen.is_some_and(|ticket| stash.take(&ticket, &MALLORY).is_some())
            })
        };
        thread::yield_now();
        let seen = *ticket.lock().unwrap();
        if let Some(payload) = seen.and_then(|ticket| stash.take(&ticket, &ALICE)) {
            assert_eq!(payload, [1]);
        }
        putter.join().unwrap();
        assert!(!other.join().unwrap(), "delivered to another owner");
    });
}

/// A payload that looks, when it is dropped, whether there is room.
struct Looks(Stash<Self, ()>);

impl cloakroom::Payload for Looks {
    fn size(&self) -> usize {
        1
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        assert_eq!(self.0.used_bytes(), 0, "dropped before its bytes were free");
    }
}

#[test]
fn s7_bytes_are_free_before_payloads_are_dropped() {
    model(|| {
        let now = Now::default();
        let builder = Stash::builder().max_bytes(1).entry_overhead(0).clock(now.clone());
        let stash = builder.ttl(Duration::from_nanos(TTL)).build().unwrap();
        assert!(stash.try_put((), Looks(stash.clone())).is_ok());
        now.0.store(TTL, SeqCst);
        assert_eq!(stash.gc(), 1);
    });
}

/// A put that whoever comes by can poll.
#[derive(Clone)]
struct Shared(Arc<Mutex<Option<Boxed<Putting>>>>);

impl Shared {
    fn queued(future: Boxed<Putting>, waker: &Arc<CountingWaker>) -> Self {
        let shared = Self(Arc::new(Mutex::new(Some(future))));
        assert_eq!(shared.is_granted(waker), Some(false), "it should have had to wait");
        shared
    }

    /// Polls it unless it is done. `None`: somebody else polls it right now.
    fn is_granted(&self, waker: &Arc<CountingWaker>) -> Option<bool> {
        // A real mutex that blocked would hang the model.
        let mut future = self.0.try_lock().ok()?;
        let Some(waiting) = future.as_mut() else { return Some(true) };
        match poll(waiting, waker) {
            Poll::Ready(stored) => {
                let _ = stored.expect("granted");
                *future = None;
                Some(true)
            }
            Poll::Pending => Some(false),
        }
    }
}

/// The stash is full; A and B wait with payloads. A take serves A, whose waker sweeps, which serves B,
/// while somebody else sweeps too.
#[test]
fn e1_a_reentrant_gc_inside_a_waker_wakes_nobody_twice() {
    model(|| {
        let now = Now::default();
        let stash = stash(2, &now);
        let expiring = stash.try_put((), vec![1]).unwrap();
        now.0.store(1, SeqCst);
        let taken = stash.try_put((), vec![2]).unwrap();
        let a_waker = {
            let (stash, now) = (stash.clone(), now.clone());
            CountingWaker::calling(move || {
                // What has not expired yet does now.
                now.0.store(TTL, SeqCst);
                stash.gc();
            })
        };
        let a = Shared::queued(put(&stash, vec![3]), &a_waker);
        let b_waker = {
            let (a, a_waker) = (a.clone(), Arc::clone(&a_waker));
            CountingWaker::calling(move || {
                assert_ne!(a.is_granted(&a_waker), Some(false), "B was granted before A");
            })
        };
        let b = Shared::queued(put(&stash, vec![4]), &b_waker);
        let taker = {
            let stash = stash.clone();
            thread::spawn(move || assert!(stash.take(&taken, &()).is_some()))
        };
        stash.gc();
        taker.join().unwrap();
        assert_eq!((a_waker.wakes(), b_waker.wakes()), (1, 1), "woken exactly once");
        assert_eq!((a.is_granted(&a_waker), b.is_granted(&b_waker)), (Some(true), Some(true)));
        assert!(stash.take(&expiring, &()).is_none());
        settled(&stash, 2);
        drop((a, b));
    });
}

/// A is first in line and needs all; B and a latecomer would fit before. Both entries are taken at once.
#[test]
fn e1_head_of_line_order_holds_under_every_interleaving() {
    model(|| {
        let now = Now::default();
        let stash = stash(2, &now);
        let [first, second] = [1, 2].map(|byte| stash.try_put((), vec![byte]).unwrap());
        let a = Waiter::queued(put(&stash, vec![3; 2]), CountingWaker::new());
        let b = Waiter::queued(put(&stash, vec![4]), CountingWaker::new());
        let take = |ticket| {
            let stash = stash.clone();
            thread::spawn(move || assert!(stash.take(&ticket, &()).is_some()))
        };
        let takers = [take(first), take(second)];
        assert!(stash.try_put((), vec![5]).is_err(), "overtook the line");
        for taker in takers {
            taker.join().unwrap();
        }
        let b = b.still_waits();
        let large = a.woken_once().unwrap();
        assert_eq!(stash.take(&large, &()), Some(vec![3; 2]));
        assert!(b.woken_once().is_ok());
        settled(&stash, 1);
    });
}
