//! The server library: its source, its name, and how a step is called.

use redis::Cmd;

const CLOCK: &str = include_str!("library/clock.lua");
const MANUAL_CLOCK: &str = include_str!("library/manual_clock.lua");
const FUNCTIONS: &str = include_str!("library/functions.lua");
const SCRIPT: &str = include_str!("library/script.lua");
const BODY: &str = concat!(
    include_str!("library/state.lua"),
    include_str!("library/entries.lua"),
    include_str!("library/queue.lua"),
    include_str!("library/sessions.lua"),
    include_str!("library/steps.lua"),
);

/// Payloads up to this size travel inside their step and are stored inside their record.
pub(crate) const INLINE: usize = 65_536;
/// What an entry's record has before its payload.
pub(crate) const ENTRY_HEADER: usize = 40;
/// Larger payloads are stored in chunks of this size.
pub(crate) const CHUNK: usize = 1_048_576;
/// How far the numbers of the chunks of two payloads are apart that were tried under one ticket.
pub(crate) const SERIES: usize = 1_024;
/// The largest payload in chunks.
pub(crate) const MAX_CHUNKS: usize = 512;

/// The server library in one version. Tests make others: on a clock that they move, or with a fault.
#[derive(Clone, Debug)]
pub struct Library {
    name: String,
    source: String,
}

impl Library {
    /// Returns the library that is released.
    pub(crate) fn standard() -> Self {
        // The version is in the name: replicas of two versions can share an engine while they are exchanged.
        Self { name: "cloakroom1".into(), source: format!("{CLOCK}{BODY}") }
    }

    /// Returns the library on a clock that stands still until `ck:{name}:clock` is set, in microseconds.
    #[doc(hidden)]
    #[must_use]
    pub fn on_a_manual_clock() -> Self {
        Self { name: "cloakroom1m".into(), source: format!("{MANUAL_CLOCK}{BODY}") }
    }

    /// Returns the library with one passage of its source changed, under another name.
    ///
    /// # Panics
    ///
    /// If `old` is not there exactly once.
    #[doc(hidden)]
    #[must_use]
    pub fn patched(&self, name: &str, old: &str, new: &str) -> Self {
        assert_eq!(self.source.matches(old).count(), 1, "the fault does not apply: {old}");
        Self { name: format!("{}{name}", self.name), source: self.source.replace(old, new) }
    }

    /// Returns the released library, for tests that patch it.
    #[doc(hidden)]
    #[must_use]
    pub fn released() -> Self {
        Self::standard()
    }

    /// Returns the text that `FUNCTION LOAD` takes.
    #[doc(hidden)]
    #[must_use]
    pub fn functions_source(&self) -> String {
        self.functions()
    }

    pub(crate) fn functions(&self) -> String {
        let prefix = format!("{}_", self.name);
        format!(
            "#!lua name={}\n{}{}",
            self.name,
            self.source,
            FUNCTIONS.replace("@PREFIX@", &prefix)
        )
    }

    /// Returns the scripts: of the steps that need memory, and of the others, which run when it is short.
    pub(crate) fn scripts(&self) -> [String; 2] {
        ["#!lua", "#!lua flags=allow-oom"]
            .map(|shebang| format!("{shebang}\n{}{SCRIPT}", self.source))
    }
}

/// How the engine runs the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Functions,
    /// Functions are not allowed: the SHA-1 of each script.
    Scripts([String; 2]),
}

impl Mode {
    /// The beginning of a step's command; the arguments follow.
    pub(crate) fn command(&self, library: &Library, prefix: &str, step: &str) -> Cmd {
        // The second key never exists. While a cluster moves the slot, the engine answers TRYAGAIN to a command
        // with a key that it has and one that it has not: so no step begins on half of the keys.
        let keys = [format!("{prefix}m"), format!("{prefix}never")];
        let mut cmd = Cmd::new();
        match self {
            Self::Functions => {
                cmd.arg("FCALL").arg(format!("{}_{step}", library.name)).arg(2).arg(&keys);
            }
            Self::Scripts([storing, others]) => {
                let stores = matches!(step, "open" | "put" | "admit" | "store");
                let sha = if stores { storing } else { others };
                cmd.arg("EVALSHA").arg(sha).arg(2).arg(&keys).arg(step);
            }
        }
        cmd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_cut_payloads_alike() {
        assert!(BODY.contains(&format!("local CHUNK = {CHUNK}\n")));
        assert!(BODY.contains(&format!("local ENTRY_HEADER = {ENTRY_HEADER}\n")));
        assert!(BODY.contains(&format!("local INLINE = {INLINE}\n")));
        assert!(BODY.contains(&format!("local SERIES = {SERIES}\n")));
    }

    #[test]
    fn the_packed_format_has_every_field() {
        let line = BODY.lines().find(|line| line.starts_with("local FORMAT")).unwrap();
        assert_eq!(line.matches('d').count(), 38);
        assert!(BODY.contains("local FIELDS = 38\n"));
    }
}
