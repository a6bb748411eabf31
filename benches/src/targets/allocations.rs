//! T10 and T11: the library's own test `allocations` measures them with an allocator that counts.

use std::process::Command;

use super::printed;
use crate::results::Data;
use crate::rounds::Effort;

/// A line of the test: `measured: what: number`.
const PREFIX: &str = "measured: ";

pub(super) fn measure(_: Effort) -> Data {
    eprintln!("  the test `allocations`");
    let mut command = Command::new("cargo");
    command
        .args(["test", "--quiet", "--release", "-p", "cloakroom", "--test", "allocations"])
        .args(["--", "--nocapture", "--test-threads=1"]);
    printed(command, |line| {
        // The harness may have printed something before it.
        let (what, value) = line.split_once(PREFIX)?.1.rsplit_once(": ")?;
        Some((what.to_owned(), value.parse().ok()?))
    })
}
