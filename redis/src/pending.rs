//! Guards what the engine did and the caller has not received: it is undone unless it is settled.

use std::fmt;
use std::sync::Arc;

use crate::engine::Engine;
use crate::owner::Id;
use crate::session::{Note, Session};
use crate::stash::Shared;

/// Leaves a note when it is dropped. A handle of the stash, too: the session lives as long.
pub(crate) struct Pending {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
    pub(crate) id: Id,
    on_drop: Option<Note>,
}

impl Pending {
    pub(crate) fn new(shared: Arc<Shared>, session: Arc<Session>, id: Id, on_drop: Note) -> Self {
        Self { shared, session, id, on_drop: Some(on_drop) }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.shared.engine
    }

    /// Leaves no note: the caller has what the engine did.
    pub(crate) fn disarm(mut self) {
        self.on_drop = None;
    }

    /// Leaves another note.
    pub(crate) fn settle(mut self, note: Note) {
        self.on_drop = Some(note);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(note) = self.on_drop {
            self.shared.engine.note(&self.session, note, &self.id);
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
