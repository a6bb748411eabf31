//! Flame graphs: where the time of a comparison goes, by `perf`.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph::{self, Options};

use crate::results::root;
use crate::targets::{line, saturated, scaling};

/// The file, the comparison, the candidate, and how many operations.
const PROFILED: [(&str, &str, &str, u64); 4] = [
    ("s1", scaling::ACQUIRE, "cloakroom@2", 100_000_000),
    ("s2", scaling::PUT_TAKE, "cloakroom@2", 20_000_000),
    ("t7", line::HAND_OFF, "cloakroom", 20_000_000),
    ("t12", saturated::SCENARIO, "cloakroom", 2_000),
];

/// Profiles each comparison and draws it into `docs/flames`.
pub(crate) fn write() -> Result<(), String> {
    let directory = root().join("docs/flames");
    fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    for (name, title, candidate, operations) in PROFILED {
        eprintln!("{name}: {title}");
        let repeat = ["repeat", title, candidate, &operations.to_string()];
        let file = directory.join(name).with_extension("svg");
        draw(title, &repeat, &file).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

fn draw(title: &str, arguments: &[&str], svg: &Path) -> io::Result<()> {
    let recorded = std::env::temp_dir().join(format!("cloakroom-perf-{}", std::process::id()));
    let drawn = profile(title, arguments, &recorded, svg);
    let _ = fs::remove_file(&recorded);
    drawn
}

fn profile(title: &str, arguments: &[&str], recorded: &Path, svg: &Path) -> io::Result<()> {
    let status = Command::new("perf")
        .args(["record", "--quiet", "--call-graph", "fp", "--freq", "997", "--output"])
        .arg(recorded)
        .arg(std::env::current_exe()?)
        .args(arguments)
        .status()?;
    if !status.success() {
        return Err(io::Error::other("perf record failed"));
    }
    let stacks = Command::new("perf")
        .args(["script", "--force", "--input"])
        .arg(recorded)
        .stderr(Stdio::null())
        .output()?;
    let mut folded = Vec::new();
    Folder::default().collapse(&*stacks.stdout, &mut folded)?;
    let folded = String::from_utf8_lossy(&folded).into_owned();
    let mut options = Options::default();
    title.clone_into(&mut options.title);
    // Otherwise each run changes all colours.
    options.deterministic = true;
    let drawn = flamegraph::from_lines(&mut options, folded.lines(), File::create(svg)?);
    drawn.map_err(io::Error::other)
}
