//! A queue that grants the first request that fits: as fast as a lock allows, and unfair. It stores entries
//! as `glue` does.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use parking_lot::Mutex;

use super::{Entry, Owner, Peer, WaitingPeer, secret};

pub(crate) struct FirstFit {
    entries: DashMap<u128, Entry>,
    room: Mutex<Room>,
    ttl: Duration,
}

struct Room {
    free: u64,
    waiting: VecDeque<Arc<Waiter>>,
}

struct Waiter {
    need: u64,
    progress: Mutex<Progress>,
}

enum Progress {
    Joined,
    Polled(Waker),
    Granted,
}

impl Room {
    fn charge(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.free;
        self.free -= if fits { bytes } else { 0 };
        fits
    }
}

impl Waiter {
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut progress = self.progress.lock();
        if let Progress::Granted = *progress {
            return Poll::Ready(());
        }
        *progress = Progress::Polled(cx.waker().clone());
        Poll::Pending
    }

    fn grant(&self) {
        if let Progress::Polled(waker) = mem::replace(&mut *self.progress.lock(), Progress::Granted)
        {
            waker.wake();
        }
    }
}

impl FirstFit {
    /// `None`: acquired. No request leaves the queue: the benchmark does not need it.
    fn charge_or_join(&self, need: u64) -> Option<Arc<Waiter>> {
        let mut room = self.room.lock();
        if room.charge(need) {
            return None;
        }
        let waiter = Arc::new(Waiter { need, progress: Mutex::new(Progress::Joined) });
        room.waiting.push_back(Arc::clone(&waiter));
        Some(waiter)
    }

    fn release(&self, bytes: u64) {
        let mut granted = Vec::new();
        let mut room = self.room.lock();
        let Room { free, waiting } = &mut *room;
        *free += bytes;
        waiting.retain(|waiter| {
            let fits = waiter.need <= *free;
            if fits {
                *free -= waiter.need;
                granted.push(Arc::clone(waiter));
            }
            !fits
        });
        drop(room);
        for waiter in granted {
            waiter.grant();
        }
    }

    fn store(&self, owner: Owner, payload: Bytes) -> u128 {
        let ticket = secret();
        self.entries.insert(ticket, Entry::new(owner, payload, self.ttl));
        ticket
    }
}

impl Peer for FirstFit {
    const NAME: &'static str = "first-fit";
    type Ticket = u128;

    fn new(max_bytes: u64, ttl: Duration) -> Self {
        let room = Mutex::new(Room { free: max_bytes, waiting: VecDeque::new() });
        Self { entries: DashMap::new(), room, ttl }
    }

    fn put(&self, owner: Owner, payload: Bytes) -> Option<u128> {
        let charged = self.room.lock().charge(payload.len() as u64);
        charged.then(|| self.store(owner, payload))
    }

    fn take(&self, ticket: u128, owner: Owner) -> Option<Bytes> {
        let (_, entry) = self.entries.remove_if(&ticket, |_, entry| entry.owner == owner)?;
        self.release(entry.charge());
        entry.is_live(Instant::now()).then_some(entry.payload)
    }

    /// Not needed here.
    fn expire(&self) -> Option<usize> {
        None
    }
}

impl WaitingPeer for FirstFit {
    async fn put_wait(&self, owner: Owner, payload: Bytes) -> u128 {
        if let Some(waiter) = self.charge_or_join(payload.len() as u64) {
            poll_fn(|cx| waiter.poll(cx)).await;
        }
        self.store(owner, payload)
    }
}
