//! Where every payload went: delivered, given back in a refusal, cancelled with its future, or swept
//! (expired or cleared). Each goes exactly one way, and accounting for a second one fails.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use cloakroom::Payload;

use super::Hook;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// In a caller's hands, or stored.
    Alive,
    Delivered,
    Returned,
    Cancelled,
    Swept,
}

const FATES: [Fate; 5] =
    [Fate::Alive, Fate::Delivered, Fate::Returned, Fate::Cancelled, Fate::Swept];

/// The totals.
#[derive(Default)]
pub struct Ledger {
    made: AtomicU64,
    dropped: AtomicU64,
    ended: [AtomicU64; FATES.len()],
}

impl Ledger {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn tracked(self: &Arc<Self>, size: u64) -> Tracked {
        self.made.fetch_add(1, Ordering::Relaxed);
        let (fate, stored) = (AtomicU8::new(Fate::Alive as u8), AtomicBool::new(false));
        let record = Record { ledger: Arc::clone(self), fate, stored };
        Tracked { size: size as usize, record: Arc::new(record), on_swept: None }
    }

    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    pub fn count(&self, fate: Fate) -> u64 {
        self.ended[fate as usize].load(Ordering::Relaxed)
    }

    /// Every payload that was made has been dropped, and went exactly one way. Call it when all threads
    /// are joined.
    pub fn assert_settled(&self) {
        let ends: Vec<_> = FATES.iter().map(|&fate| (fate, self.count(fate))).collect();
        let dropped = self.dropped.load(Ordering::Relaxed);
        assert_eq!(dropped, self.made(), "payloads dropped, of those made: {ends:?}");
        let ended: u64 = ends.iter().map(|(_, count)| count).sum();
        assert_eq!(ended, self.made(), "payloads accounted for, of those made: {ends:?}");
    }
}

/// The fate of one payload. Outlives it.
pub struct Record {
    ledger: Arc<Ledger>,
    fate: AtomicU8,
    stored: AtomicBool,
}

impl Record {
    pub fn fate(&self) -> Fate {
        FATES[usize::from(self.fate.load(Ordering::SeqCst))]
    }

    fn end(&self, fate: Fate) {
        let before = FATES[usize::from(self.fate.swap(fate as u8, Ordering::SeqCst))];
        // Not while a panic unwinds: that would abort, and hide the first.
        if !std::thread::panicking() {
            assert_eq!(before, Fate::Alive, "a payload that ends as {fate:?} had ended");
        }
        self.ledger.ended[fate as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a ticket exists: from now on the stash drops the payload, even if a panic unwinds.
    pub fn stored(&self) {
        self.stored.store(true, Ordering::SeqCst);
    }

    /// Records a delivery, just before a claim ends that does not hand out the payload.
    pub fn deliver(&self) {
        self.end(Fate::Delivered);
    }

    /// Records a cancellation, just before the future with the payload is dropped.
    pub fn cancel(&self) {
        self.end(Fate::Cancelled);
    }
}

/// A payload that knows its record.
pub struct Tracked {
    pub size: usize,
    record: Arc<Record>,
    on_swept: Option<Hook>,
}

impl Tracked {
    /// What to do when the stash drops it.
    pub fn on_swept(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_swept = Some(Box::new(hook));
        self
    }

    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record)
    }

    /// It was taken.
    pub fn delivered(self) {
        self.record.end(Fate::Delivered);
    }

    /// It was in an error.
    pub fn returned(self) {
        self.record.end(Fate::Returned);
    }
}

impl Payload for Tracked {
    fn size(&self) -> usize {
        self.size
    }
}

/// As many bytes as it says, up to some thousands.
impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        const ZEROS: &[u8] = &[0; 1 << 14];
        &ZEROS[..self.size.min(ZEROS.len())]
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.record.ledger.dropped.fetch_add(1, Ordering::Relaxed);
        if self.record.fate() != Fate::Alive {
            return;
        }
        // A caller that holds it records its fate. So it was in a future that a panic unwound, or
        // the stash drops it.
        if std::thread::panicking() && !self.record.stored.load(Ordering::SeqCst) {
            self.record.end(Fate::Cancelled);
        } else {
            self.record.end(Fate::Swept);
            if let Some(hook) = mem::take(&mut self.on_swept) {
                hook();
            }
        }
    }
}
