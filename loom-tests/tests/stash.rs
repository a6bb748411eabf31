//! The whole stash: models L15 and E1, re-entrancy and head-of-line order; claims (S6); reservations,
//! owners' quotas, the overflow and the peak (E2 to E5).
#![cfg(cloakroom_loom)]

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use cloakroom::{Refusal, Stash};
use loom::thread;
use loom_tests::{
    Boxed, CountingWaker, Now, Payload, Putting, Waiter, bounded_model, hold, model, poll, put,
};

const TTL: u64 = 10;

fn stash(limit: u64, now: &Now) -> Stash<Payload, ()> {
    let builder = Stash::builder().max_bytes(limit).entry_overhead(0).clock(now.clone());
    builder.ttl(Duration::from_nanos(TTL)).build().unwrap()
}

fn settled(stash: &Stash<Payload, ()>, entries: usize) {
    settled_bytes(stash, entries, entries as u64);
}

fn settled_bytes(stash: &Stash<Payload, ()>, entries: usize, bytes: u64) {
    assert_eq!((stash.len(), stash.used_bytes(), stash.waiting()), (entries, bytes, 0));
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
                now.set(TTL);
                stash.gc()
            })
        };
        let cleared = stash.clear();
        let (taken, expired) = (taker.join().unwrap(), expirer.join().unwrap());
        // A late take removes it as expired, and returns `None`.
        assert!(taken + expired + cleared <= 1, "removed more than once");
        assert!(waiter.woken_once().is_ok());
        settled(&stash, 1);
    });
}

/// An owner with the hash of every other: only the comparison tells them apart.
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

/// Another owner's take guards the entry, and puts it back, during a sweep: no later sweep misses it.
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
        now.set(TTL);
        let found = stash.gc();
        other.join().unwrap();
        assert_eq!(found + stash.gc(), 1, "expired entries must be found");
        assert_eq!((stash.len(), stash.used_bytes()), (0, 0));
    });
}

/// A third thread takes what was put back: only the slot orders the two.
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

/// A payload whose drop checks whether there is room.
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
        now.set(TTL);
        assert_eq!(stash.gc(), 1);
    });
}

/// Two late takes of one entry: it is removed undelivered, and its bytes go to the waiter.
#[test]
fn s7_a_late_take_frees_the_bytes() {
    model(|| {
        let now = Now::default();
        let stash = stash(1, &now);
        let ticket = stash.try_put((), vec![1]).unwrap();
        let waiter = Waiter::queued(put(&stash, vec![2]), CountingWaker::new());
        now.set(TTL);
        let other = {
            let stash = stash.clone();
            thread::spawn(move || stash.take(&ticket, &()).is_some())
        };
        assert!(stash.take(&ticket, &()).is_none(), "delivered after its time");
        assert!(!other.join().unwrap(), "delivered after its time");
        assert!(waiter.woken_once().is_ok());
        settled(&stash, 1);
    });
}

/// A put that any thread can poll.
#[derive(Clone)]
struct Shared(Arc<Mutex<Option<Boxed<Putting>>>>);

impl Shared {
    fn queued(future: Boxed<Putting>, waker: &Arc<CountingWaker>) -> Self {
        let shared = Self(Arc::new(Mutex::new(Some(future))));
        assert_eq!(shared.is_granted(waker), Some(false), "it should have had to wait");
        shared
    }

    /// Polls it unless it is done. `None`: another thread is polling it.
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

/// The stash is full; A and B wait with payloads. A take grants A, whose waker sweeps, which grants B,
/// while another thread sweeps too.
#[test]
fn e1_a_reentrant_gc_inside_a_waker_wakes_nobody_twice() {
    model(|| {
        let now = Now::default();
        let stash = stash(2, &now);
        let expiring = stash.try_put((), vec![1]).unwrap();
        now.set(1);
        let taken = stash.try_put((), vec![2]).unwrap();
        let a_waker = {
            let (stash, now) = (stash.clone(), now.clone());
            CountingWaker::calling(move || {
                // What has not expired yet does now.
                now.set(TTL);
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

/// A is the head and needs all; B and a late put would fit before. Both entries are taken concurrently.
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

/// A claim is made and put back while the entry expires: it is removed once, and its bytes are
/// released with it.
#[test]
fn s6_a_claimed_entry_expires_once() {
    bounded_model(3, || {
        let now = Now::default();
        let stash = stash(1, &now);
        let ticket = stash.try_put((), vec![1]).unwrap();
        let waiter = Waiter::queued(put(&stash, vec![2]), CountingWaker::new());
        let claimer = {
            let stash = stash.clone();
            thread::spawn(move || drop(stash.claim(&ticket, &())))
        };
        let expirer = {
            let (stash, now) = (stash.clone(), now.clone());
            thread::spawn(move || {
                now.set(TTL);
                stash.gc()
            })
        };
        claimer.join().unwrap();
        let swept = expirer.join().unwrap();
        // Swept now if it was put back behind the sweep; the waiter's is not there yet.
        assert!(swept + stash.gc() <= 1, "removed more than once");
        assert!(waiter.woken_once().is_ok());
        settled(&stash, 1);
    });
}

/// Delivered, or put back and then taken: its bytes go to the waiter once.
#[test]
fn s6_a_claim_keeps_its_bytes_until_it_is_delivered() {
    model(|| {
        let now = Now::default();
        let stash = stash(1, &now);
        let ticket = stash.try_put((), vec![1]).unwrap();
        let waiter = Waiter::queued(put(&stash, vec![2]), CountingWaker::new());
        let claimer = {
            let stash = stash.clone();
            thread::spawn(move || {
                let claim = stash.claim(&ticket, &())?;
                assert_eq!(stash.used_bytes(), 1, "freed before it was delivered");
                Some(claim.into_inner())
            })
        };
        let broken = stash.claim(&ticket, &()).map(|claim| claim.put_back());
        assert_ne!(broken, Some(false));
        let delivered = claimer.join().unwrap();
        let rest = stash.take(&ticket, &());
        assert!(delivered.is_some() != rest.is_some(), "delivered exactly once");
        assert!(waiter.woken_once().is_ok());
        settled(&stash, 1);
    });
}

/// A clear runs while a claim is made and dropped.
#[test]
fn s6_what_is_cleared_while_it_is_claimed_frees_its_bytes() {
    model(|| {
        let now = Now::default();
        let stash = stash(1, &now);
        let ticket = stash.try_put((), vec![1]).unwrap();
        let waiter = Waiter::queued(put(&stash, vec![2]), CountingWaker::new());
        let claimer = {
            let stash = stash.clone();
            thread::spawn(move || drop(stash.claim(&ticket, &())))
        };
        let cleared = stash.clear();
        claimer.join().unwrap();
        assert_eq!(stash.stats().cleared, 1, "cleared exactly once");
        assert!(cleared <= 1 && stash.take(&ticket, &()).is_none());
        assert!(waiter.woken_once().is_ok());
        settled(&stash, 1);
    });
}

/// A closed stash has drained when what was claimed has been delivered or taken, and no sooner.
#[test]
fn s6_a_stash_drains_when_its_last_claim_is_done() {
    model(|| {
        let now = Now::default();
        let stash = stash(1, &now);
        let ticket = stash.try_put((), vec![1]).unwrap();
        let claimer = {
            let stash = stash.clone();
            thread::spawn(move || {
                drop(stash.claim(&ticket, &()));
                stash.take(&ticket, &()).is_some()
            })
        };
        stash.close();
        let drained: Boxed<()> = {
            let stash = stash.clone();
            Box::pin(async move { stash.drained().await })
        };
        let outcome = Waiter::started(drained);
        assert!(outcome.is_err() || stash.used_bytes() == 0, "something is charged");
        assert!(claimer.join().unwrap());
        if let Err(waiter) = outcome {
            waiter.woken_once();
        }
        settled(&stash, 0);
    });
}

/// Two unused reservations are dropped: the waiter for the room of both is woken once.
#[test]
fn e2_a_dropped_reservation_grants_the_waiter() {
    model(|| {
        let now = Now::default();
        let stash = stash(2, &now);
        let [first, second] = [1, 1].map(|bytes| stash.try_reserve(bytes).unwrap());
        let large = Waiter::queued(put(&stash, vec![3; 2]), CountingWaker::new());
        let dropper = thread::spawn(move || drop(first));
        drop(second);
        dropper.join().unwrap();
        let large = large.woken_once().unwrap();
        settled_bytes(&stash, 1, 2);
        assert_eq!(stash.take(&large, &()), Some(vec![3; 2]));
        settled(&stash, 0);
    });
}

/// What a reservation does not need goes to the waiters: of three bytes, one is used, and two are released.
#[test]
fn e2_bytes_that_a_reservation_does_not_need_grant_waiters() {
    model(|| {
        let now = Now::default();
        let stash = stash(3, &now);
        // So that the slots are there.
        let _ = [1, 2].map(|byte| stash.try_put((), vec![byte]).unwrap());
        assert_eq!(stash.clear(), 2);
        let mut room = stash.try_reserve(3).unwrap();
        let mut waiter = Waiter::queued(put(&stash, vec![3; 2]), CountingWaker::new());
        let storer = thread::spawn(move || {
            room.shrink(2);
            room.put((), vec![1]).is_ok()
        });
        let polled = waiter.poll();
        assert!(storer.join().unwrap());
        match polled {
            Poll::Ready(stored) => assert!(stored.is_ok()),
            Poll::Pending => assert!(waiter.woken_once().is_ok()),
        }
        settled_bytes(&stash, 2, 3);
    });
}

fn stash_with_accounts(limit: u64, of_each: u64, now: &Now) -> Stash<Payload, u8> {
    let builder = Stash::builder().max_bytes(limit).max_bytes_per_owner(of_each);
    let builder = builder.entry_overhead(0).clock(now.clone());
    builder.ttl(Duration::from_nanos(TTL)).build().unwrap()
}

/// Room for both, but not for both of one owner.
#[test]
fn e3_an_owner_never_holds_more_than_its_share() {
    model(|| {
        let now = Now::default();
        let stash = stash_with_accounts(3, 2, &now);
        let first = stash.try_put(1, vec![0]).unwrap();
        let other = {
            let stash = stash.clone();
            thread::spawn(move || stash.try_put(1, vec![1]).ok())
        };
        let here = stash.try_put(1, vec![2]).ok();
        let there = other.join().unwrap();
        assert!(here.is_some() != there.is_some(), "one of them fits into the account");
        assert_eq!((stash.owner_used_bytes(&1), stash.used_bytes()), (2, 2));
        for ticket in [Some(first), here, there].into_iter().flatten() {
            assert!(stash.take(&ticket, &1).is_some());
        }
        assert_eq!((stash.owner_used_bytes(&1), stash.used_bytes()), (0, 0), "an account leaks");
    });
}

/// Beyond its owner's quota, and too large until after the close. So the quota is never the reason.
#[test]
fn w20_a_full_quota_is_no_reason_after_a_close() {
    model(|| {
        let now = Now::default();
        let stash = stash_with_accounts(1, 1, &now);
        let other = {
            let stash = stash.clone();
            thread::spawn(move || {
                stash.close();
                stash.set_max_bytes(2);
            })
        };
        let reason = stash.try_put(1, vec![0, 1]).unwrap_err().reason();
        assert!(matches!(reason, Refusal::TooLarge | Refusal::Closed), "{reason:?}");
        other.join().unwrap();
        assert_eq!(stash.try_put(1, vec![0, 1]).unwrap_err().reason(), Refusal::Closed);
    });
}

/// Room for one, of two owners; and one entry goes while they come.
#[test]
fn e3_a_refused_owner_is_charged_nothing() {
    model(|| {
        let now = Now::default();
        let stash = stash_with_accounts(1, 1, &now);
        let first = stash.try_put(1, vec![0]).unwrap();
        let other = {
            let stash = stash.clone();
            thread::spawn(move || stash.try_put(2, vec![1]).ok())
        };
        assert!(stash.take(&first, &1).is_some());
        let here = stash.try_put(1, vec![2]).ok();
        let there = other.join().unwrap();
        assert!(here.is_none() || there.is_none(), "there was room for one");
        assert_eq!(stash.owner_used_bytes(&1), here.map_or(0, |_| 1), "an account leaks");
        assert_eq!(stash.owner_used_bytes(&2), there.map_or(0, |_| 1), "an account leaks");
        // A put that waits counts against its owner's quota until it is dropped.
        let waiting = stash.clone();
        let put: Boxed<_> = Box::pin(async move { waiting.put(3, vec![3]).await.is_ok() });
        if let Err(waiter) = Waiter::started(put) {
            assert_eq!(stash.owner_used_bytes(&3), 1);
            drop(waiter);
            assert_eq!(stash.owner_used_bytes(&3), 0, "a quota leaks");
        }
        assert_eq!(stash.clear() as u64, stash.stats().cleared);
        assert_eq!((stash.owner_used_bytes(&1), stash.owner_used_bytes(&2)), (0, 0));
    });
}

/// A waiter is granted out of the overflow, and its entry lives no longer than that allows, though there is
/// room below when it comes to store it.
#[test]
fn e4_a_grant_knows_its_tier() {
    const SHORT: u64 = 2;
    model(|| {
        let now = Now::default();
        let builder = Stash::builder().max_bytes(1).overflow(1, Duration::from_nanos(SHORT));
        let builder = builder.entry_overhead(0).clock(now.clone());
        let stash = builder.ttl(Duration::from_nanos(TTL)).build().unwrap();
        let first = stash.try_put((), vec![1]).unwrap();
        let second = stash.try_put((), vec![2]).unwrap();
        let mut waiter = Waiter::queued(put(&stash, vec![3]), CountingWaker::new());
        let taker = {
            let stash = stash.clone();
            thread::spawn(move || assert!(stash.take(&first, &()).is_some()))
        };
        let polled = waiter.poll();
        taker.join().unwrap();
        assert!(stash.take(&second, &()).is_some());
        let ticket = match polled {
            Poll::Ready(stored) => stored.unwrap(),
            Poll::Pending => waiter.woken_once().unwrap(),
        };
        now.set(SHORT);
        assert!(stash.take(&ticket, &()).is_none(), "it outlives the overflow's time to live");
        settled(&stash, 0);
    });
}

/// What is charged while the limit is moved, either way, is in the peak when all is quiet.
#[test]
fn e5_the_peak_is_no_less_than_what_is_in_use_when_the_limit_has_moved() {
    for limit in [1, 4] {
        model(move || {
            let stash = stash(2, &Now::default());
            let charger = {
                let budget = stash.budget().clone();
                thread::spawn(move || hold(&budget, 1))
            };
            stash.set_max_bytes(limit);
            let held = charger.join().unwrap();
            let stats = stash.stats();
            assert_eq!((stats.used_bytes, stats.peak_bytes), (1, 1));
            drop(held);
            settled(&stash, 0);
        });
    }
}
