//! Compares cloakroom with its alternatives. Every number is measured with its peers in one run and read as a
//! ratio: see `rounds.rs`.

mod cli;
mod crew;
mod flames;
mod page;
mod peers;
mod plots;
mod results;
mod rounds;
mod semaphores;
mod targets;

use std::time::Duration;

pub use self::cli::cli;

/// Passes every comparison of times to criterion, or to another runner of so many operations that takes the
/// time: target and title, name of the candidate, and how to run it.
pub fn for_each_timed(mut visit: impl FnMut(&str, &str, &mut dyn FnMut(u64) -> Duration)) {
    for timed in targets::timed() {
        let group = format!("{}: {}", timed.target, timed.title);
        for mut candidate in (timed.candidates)(false) {
            let name = match candidate.x {
                Some(x) => format!("{}, {x}", candidate.name),
                None => candidate.name.clone(),
            };
            visit(&group, &name, &mut |operations| candidate.run(operations));
        }
    }
}
