//! Shows how far a run is: a bar on a terminal, a few plain lines elsewhere.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, a line is printed for each such part of the run.
const LINES: u64 = 4;

pub(super) struct Progress {
    name: &'static str,
    bar: ProgressBar,
    plain: bool,
}

impl Progress {
    pub(super) fn new(name: &'static str, total: u32) -> Self {
        // On anything but a terminal the bar draws nothing, and only counts.
        let bar = ProgressBar::new(u64::from(total));
        if let Ok(style) = ProgressStyle::with_template("{prefix:>12} [{bar:40}] {pos}/{len} {msg}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(name);
        Progress { name, bar, plain: !stderr().is_terminal() }
    }

    pub(super) fn advance(&self) {
        self.bar.inc(1);
        let (done, total) = (self.done(), self.bar.length().unwrap_or(0));
        if self.plain && total > 0 && done * LINES / total > (done - 1) * LINES / total {
            eprintln!("{}: {done} of {total} queries answered and checked", self.name);
        }
    }

    pub(super) fn say(&self, message: &'static str) {
        self.bar.set_message(message);
        if self.plain {
            eprintln!("{}: {message}", self.name);
        }
    }

    /// Counts queries that have ended.
    pub(super) fn done(&self) -> u64 {
        self.bar.position()
    }

    pub(super) fn total(&self) -> u64 {
        self.bar.length().unwrap_or(0)
    }

    pub(super) fn finish(&self) {
        self.bar.finish_with_message("done");
    }
}
