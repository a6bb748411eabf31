//! Runs the comparisons and writes the page about them.

use std::process::ExitCode;

fn main() -> ExitCode {
    benches::cli(std::env::args().skip(1))
}
