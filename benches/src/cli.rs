//! The commands.

use std::process::ExitCode;

use crate::results::{Results, Run};
use crate::rounds::Effort;
use crate::{flames, page, targets};

const USAGE: &str = "\
usage: benches run [--only T1,T5] [--quick]    measures, and stores what it finds under target/benchmarks
       benches page                            writes docs/benchmarks.md and its plots from that
       benches flames                          profiles, and writes flame graphs into docs/flames";

/// Runs the command.
pub fn cli(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["run", ref options @ ..] => run(options),
        ["page"] => page::write().map_err(|error| error.to_string()),
        ["flames"] => flames::write(),
        ["repeat", title, name, operations] => repeat(title, name, operations),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: &[&str]) -> Result<(), String> {
    let mut effort = Effort::FULL;
    let mut only = targets::NAMES.to_vec();
    loop {
        options = match options {
            ["--quick", rest @ ..] => {
                effort = Effort::QUICK;
                rest
            }
            ["--only", names, rest @ ..] => {
                let asked: Vec<&str> = names.split(',').collect();
                if let Some(unknown) = asked.iter().find(|name| !targets::NAMES.contains(name)) {
                    return Err(format!("{unknown} is none of {}", targets::NAMES.join(", ")));
                }
                only.retain(|name| asked.contains(name));
                rest
            }
            [] => break,
            _ => return Err(USAGE.to_owned()),
        };
    }
    for target in only {
        eprintln!("{target}");
        let run = Run::here_and_now(effort.quick);
        let results = Results { run, data: targets::measure(target, effort) };
        results.store(target).map_err(|error| format!("{target}: {error}"))?;
        page::print(&results.data);
    }
    Ok(())
}

fn repeat(title: &str, name: &str, operations: &str) -> Result<(), String> {
    let operations = operations.parse().map_err(|_| format!("{operations} is no number"))?;
    targets::repeat(title, name, operations).ok_or_else(|| format!("no {name} in {title}"))
}
