//! Identifies this replica to the engine: its requests that wait, and its notes that were not sent yet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::mpsc;

use crate::owner::{Id, random};

/// Wakes a waiting request. It is a hint: only the engine's state decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// It was granted.
    Granted,
    /// Something may have changed: ask.
    Ask,
}

/// Reports how an earlier step ended. It is sent with the next step; sending it twice changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Note {
    /// The claim was delivered.
    Finished = b'F',
    /// The claim's payload goes back.
    Back = b'B',
    /// The request, wherever it has come to, is undone.
    Undo = b'U',
    /// The request leaves the queue: its caller is gone.
    Cancelled = b'C',
}

impl Note {
    /// Whether it outlives the session: an entry whose ticket no caller received is not the session's, and a claim can
    /// have been made in a later one.
    fn outlives(kind: u8) -> bool {
        kind == Self::Undo as u8 || kind == Self::Back as u8
    }
}

const NOTE_LEN: usize = 17;
/// The most notes on one step.
const NOTES: usize = 64;

#[derive(Debug)]
pub(crate) struct Session {
    /// 16 hexadecimal digits.
    pub(crate) id: String,
    ended: AtomicBool,
    notes: Mutex<Vec<u8>>,
    /// Set under the lock of the notes.
    successor: OnceLock<Arc<Session>>,
    waiters: Mutex<HashMap<Id, mpsc::UnboundedSender<Hint>>>,
}

impl Session {
    pub(crate) fn new() -> Self {
        let id = random()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            id,
            ended: AtomicBool::new(false),
            notes: Mutex::default(),
            successor: OnceLock::new(),
            waiters: Mutex::default(),
        }
    }

    /// Returns the session that follows this one. It takes over the notes that undo, those of later as well.
    pub(crate) fn successor(&self) -> Arc<Self> {
        let mut notes = self.notes.lock().unwrap();
        let next = Arc::clone(self.successor.get_or_init(|| Arc::new(Self::new())));
        next.bequeath(std::mem::take(&mut notes));
        next
    }

    /// Takes over what outlives an earlier session.
    fn bequeath(&self, notes: Vec<u8>) {
        let notes = notes.chunks_exact(NOTE_LEN).filter(|note| Note::outlives(note[0]));
        self.add_notes(notes.collect::<Vec<_>>().concat(), false);
    }

    /// Adds notes, or passes them on if the session has a successor.
    fn add_notes(&self, mut added: Vec<u8>, before: bool) {
        if added.is_empty() {
            return;
        }
        let mut notes = self.notes.lock().unwrap();
        if let Some(next) = self.successor.get() {
            drop(notes);
            return next.bequeath(added);
        }
        if before {
            std::mem::swap(&mut *notes, &mut added);
        }
        notes.append(&mut added);
    }

    pub(crate) fn has_ended(&self) -> bool {
        // ORDERING: Relaxed. A flag alone: what a step may do is decided by the engine's fence.
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends the session: everything that waits in it asks, and learns so.
    pub(crate) fn end(&self) {
        // ORDERING: Relaxed, as above.
        self.ended.store(true, Ordering::Relaxed);
        self.wake_all();
    }

    pub(crate) fn push_note(&self, note: Note, id: &Id) {
        self.add_notes([&[note as u8], &id[..]].concat(), false);
    }

    pub(crate) fn has_notes(&self) -> bool {
        !self.notes.lock().unwrap().is_empty()
    }

    /// Takes the oldest notes, for one step.
    pub(crate) fn take_notes(&self) -> Vec<u8> {
        let mut notes = self.notes.lock().unwrap();
        let end = (NOTES * NOTE_LEN).min(notes.len());
        let rest = notes.split_off(end);
        std::mem::replace(&mut notes, rest)
    }

    /// Puts notes back whose step may not have been executed, before newer ones.
    pub(crate) fn return_notes(&self, taken: Vec<u8>) {
        self.add_notes(taken, true);
    }

    pub(crate) fn wait(&self, id: Id) -> mpsc::UnboundedReceiver<Hint> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.waiters.lock().unwrap().insert(id, sender);
        receiver
    }

    pub(crate) fn stop_waiting(&self, id: &Id) {
        self.waiters.lock().unwrap().remove(id);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiters.lock().unwrap().len()
    }

    pub(crate) fn wake(&self, id: &[u8], hint: Hint) {
        if let Ok(id) = <&Id>::try_from(id)
            && let Some(waiter) = self.waiters.lock().unwrap().get(id)
        {
            // The receiver is gone only when the wait has ended.
            let _ = waiter.send(hint);
        }
    }

    pub(crate) fn wake_all(&self) {
        for waiter in self.waiters.lock().unwrap().values() {
            let _ = waiter.send(Hint::Ask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_keep_their_order_when_a_step_fails() {
        let session = Session::new();
        for at in 0..100_u8 {
            session.push_note(Note::Finished, &[at; 16]);
        }
        let taken = session.take_notes();
        assert_eq!(taken.len(), NOTES * NOTE_LEN);
        session.push_note(Note::Back, &[200; 16]);
        session.return_notes(taken);
        let mut seen = Vec::new();
        loop {
            let notes = session.take_notes();
            if notes.is_empty() {
                break;
            }
            seen.extend(notes.chunks(NOTE_LEN).map(|note| note[1]));
        }
        let expected: Vec<u8> = (0..100).chain([200]).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_to_be_undone_outlives_its_session() {
        let session = Session::new();
        session.push_note(Note::Back, &[1; 16]);
        session.push_note(Note::Undo, &[2; 16]);
        session.push_note(Note::Finished, &[3; 16]);
        let next = session.successor();
        assert_ne!(next.id, session.id);
        assert_eq!(next.take_notes(), [&[b'B'][..], &[1; 16], b"U", &[2; 16]].concat());
    }

    #[test]
    fn what_is_said_of_an_ended_session_is_said_in_the_last_one() {
        let session = Session::new();
        session.push_note(Note::Undo, &[1; 16]);
        let taken = session.take_notes();
        let next = session.successor();
        let last = next.successor();
        session.return_notes(taken);
        session.push_note(Note::Undo, &[2; 16]);
        session.push_note(Note::Finished, &[3; 16]);
        assert!(!session.has_notes() && !next.has_notes());
        assert_eq!(last.take_notes(), [&[b'U'][..], &[1; 16], b"U", &[2; 16]].concat());
    }

    #[test]
    fn a_session_s_name_is_of_fixed_length() {
        assert_eq!(Session::new().id.len(), 16);
    }
}
