//! An act: a small scene that shows one thing, and checks it.

use std::time::Instant;

use super::report::line;

/// The output and the findings of an act so far.
pub(super) struct Act {
    name: &'static str,
    started: Instant,
    said: Vec<(&'static str, String)>,
    findings: Vec<String>,
}

impl Act {
    pub(super) fn begin(name: &'static str) -> Self {
        Act { name, started: Instant::now(), said: Vec::new(), findings: Vec::new() }
    }

    pub(super) fn say(&mut self, what: &'static str, text: String) {
        self.said.push((what, text));
    }

    pub(super) fn expect(&mut self, holds: bool, otherwise: impl Into<String>) {
        if !holds {
            self.findings.push(otherwise.into());
        }
    }

    /// Prints it, and returns the number of findings.
    pub(super) fn end(self) -> usize {
        println!("act: {}, {:.1} s", self.name, self.started.elapsed().as_secs_f64());
        for (what, text) in self.said {
            line(what, text);
        }
        for finding in &self.findings {
            line("FINDING", finding.clone());
        }
        println!();
        self.findings.len()
    }
}
