//! The latest events of the stash, for the live page.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cloakroom::{Event, Observer, Refusal};

/// How many events are kept. A watcher that falls further behind learns how many it missed.
const KEPT: usize = 64;

/// An event of the stash.
#[derive(Debug, Clone, Copy)]
pub struct Happened {
    /// Counts the events that were kept, from 0.
    pub number: u64,
    pub at: Instant,
    pub what: &'static str,
    pub bytes: u64,
    pub entries: usize,
    /// How long a granted request had waited.
    pub wait: Option<Duration>,
}

/// The latest events. None is kept while no client watches.
#[derive(Debug, Default)]
pub struct Recent {
    watchers: AtomicUsize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    next: u64,
    events: VecDeque<Happened>,
}

/// Events are kept until the last watch is dropped.
#[derive(Debug)]
pub struct Watch {
    recent: Arc<Recent>,
    /// The number of the first event that it has not returned.
    next: u64,
}

/// The events of a watch since its last call.
#[derive(Debug)]
pub struct News {
    pub events: Vec<Happened>,
    /// How many events before these were forgotten.
    pub missed: u64,
}

impl Recent {
    /// Watches the events from now on.
    pub fn watch(self: &Arc<Self>) -> Watch {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watch { recent: Arc::clone(self), next: self.ring().next }
    }

    fn remember(&self, happened: Happened) {
        let mut ring = self.ring();
        let number = ring.next;
        ring.next += 1;
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(Happened { number, ..happened });
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Returns the events since the last call.
    pub fn news(&mut self) -> News {
        let ring = self.recent.ring();
        let first = ring.next - ring.events.len() as u64;
        let seen = self.next.saturating_sub(first);
        let missed = first.saturating_sub(self.next);
        let events = ring.events.iter().skip(usize::try_from(seen).unwrap_or(KEPT));
        let news = News { events: events.copied().collect(), missed };
        self.next = ring.next;
        news
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.recent.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Observer for Recent {
    fn event(&self, event: Event) {
        if self.watchers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let (what, bytes, entries, wait) = match event {
            Event::Stored { bytes, .. } => ("stored", bytes, 1, None),
            Event::Waited { bytes, wait } => ("granted", bytes, 0, Some(wait)),
            Event::Delivered { bytes } => ("delivered", bytes, 1, None),
            Event::Claimed { bytes } => ("claimed", bytes, 1, None),
            Event::PutBack { bytes } => ("put_back", bytes, 1, None),
            Event::Expired { entries, bytes } => ("expired", bytes, entries, None),
            Event::Cleared { entries, bytes } => ("cleared", bytes, entries, None),
            Event::Refused { reason, bytes } => (refusal(reason), bytes, 0, None),
            _ => return,
        };
        self.remember(Happened { number: 0, at: Instant::now(), what, bytes, entries, wait });
    }
}

fn refusal(reason: Refusal) -> &'static str {
    match reason {
        Refusal::TimedOut => "timed_out",
        Refusal::Closed => "closed",
        _ => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(news: &News) -> Vec<u64> {
        news.events.iter().map(|happened| happened.bytes).collect()
    }

    #[test]
    fn a_watch_tells_each_event_once_and_how_many_it_missed() {
        let recent = Arc::new(Recent::default());
        recent.event(Event::Delivered { bytes: 1 });
        let mut watch = recent.watch();
        recent.event(Event::Delivered { bytes: 2 });
        recent.event(Event::Delivered { bytes: 3 });
        assert_eq!(sizes(&watch.news()), [2, 3]);
        assert_eq!(sizes(&watch.news()), [0; 0]);
        let many = KEPT as u64 + 10;
        (0..many).for_each(|bytes| recent.event(Event::Delivered { bytes }));
        let news = watch.news();
        assert_eq!((news.missed, news.events.len()), (10, KEPT));
        assert_eq!(sizes(&news), (10..many).collect::<Vec<_>>());
        drop(watch);
        recent.event(Event::Delivered { bytes: 4 });
        assert_eq!(recent.ring().next, many + 2);
    }
}
