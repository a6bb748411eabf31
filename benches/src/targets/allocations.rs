//! T10 and T11: the library's own test `allocations` measures them with an allocator that counts.

use std::process::Command;

use crate::results::{Data, Figure, root};
use crate::rounds::Effort;

/// A line of the test: `measured: what: number`.
const PREFIX: &str = "measured: ";

pub(super) fn measure(_: Effort) -> Data {
    eprintln!("  the test `allocations`");
    let output = Command::new("cargo")
        .args(["test", "--quiet", "--release", "-p", "cloakroom", "--test", "allocations"])
        .args(["--", "--nocapture", "--test-threads=1"])
        .current_dir(root())
        .output();
    let text = match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            eprintln!("  cargo cannot be run: {error}");
            String::new()
        }
    };
    let figures = text.lines().filter_map(|line| {
        // The harness may have printed something before it.
        let (what, value) = line.split_once(PREFIX)?.1.rsplit_once(": ")?;
        let value = value.parse().ok()?;
        let (what, peer) = (what.to_owned(), "cloakroom".to_owned());
        Some(Figure { what, peer, value, parts: Vec::new() })
    });
    Data { figures: figures.collect(), ..Data::default() }
}
