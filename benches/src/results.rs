//! The files of a run: one of JSON per target, under `target/benchmarks`, with the place and the time of the
//! measurement.

use std::path::PathBuf;
use std::process::Command;
use std::{fs, io};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::rounds::{Spread, Timing};

/// A target's results.
#[derive(Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) run: Run,
    pub(crate) data: Data,
}

/// Where, when and how.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) system: String,
    pub(crate) rustc: String,
    pub(crate) commit: String,
    /// Of the peers.
    pub(crate) versions: String,
    pub(crate) quick: bool,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Data {
    /// Times per operation, of candidates that took turns.
    pub(crate) groups: Vec<Group>,
    pub(crate) latencies: Vec<Latency>,
    pub(crate) figures: Vec<Figure>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) timings: Vec<Timing>,
}

/// The latencies of one kind of operation of one peer in one round, in nanoseconds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) scenario: String,
    pub(crate) peer: String,
    pub(crate) kind: String,
    pub(crate) round: usize,
    pub(crate) count: u64,
    /// Of these, operations that had not ended with the round. They count with the time that they had lasted.
    pub(crate) unfinished: u64,
    pub(crate) seconds: f64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

/// A figure that is not a time.
#[derive(Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) peer: String,
    pub(crate) value: f64,
    /// Its parts, the largest first.
    pub(crate) parts: Vec<(String, f64)>,
}

impl Data {
    pub(crate) fn append(&mut self, mut other: Data) {
        self.groups.append(&mut other.groups);
        self.latencies.append(&mut other.latencies);
        self.figures.append(&mut other.figures);
    }

    pub(crate) fn group(&self, title: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.title.starts_with(title))
    }

    /// A figure of one round each, in the order of the rounds.
    pub(crate) fn figures(&self, what: &str, peer: &str) -> Vec<f64> {
        let figures = self.figures.iter();
        let matching = figures.filter(|figure| figure.what == what && figure.peer == peer);
        matching.map(|figure| figure.value).collect()
    }

    /// The figures that `read` computes from the latencies of a scenario, peer and kind, over the rounds.
    pub(crate) fn latency(
        &self,
        [scenario, peer, kind]: [&str; 3],
        read: impl Fn(&Latency) -> f64,
    ) -> Option<Spread> {
        let matching = |l: &&Latency| l.scenario == scenario && l.peer == peer && l.kind == kind;
        let values: Vec<f64> = self.latencies.iter().filter(matching).map(read).collect();
        (!values.is_empty()).then(|| Spread::of(values))
    }
}

impl Group {
    /// The amounts at which candidates are compared. Empty if there is only one.
    pub(crate) fn xs(&self) -> Vec<u64> {
        let mut xs: Vec<u64> = self.timings.iter().filter_map(|timing| timing.x).collect();
        xs.sort_unstable();
        xs.dedup();
        xs
    }

    /// Each name once, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for timing in &self.timings {
            if !names.contains(&&*timing.name) {
                names.push(&timing.name);
            }
        }
        names
    }

    pub(crate) fn timing(&self, name: &str, x: Option<u64>) -> Option<&Timing> {
        self.timings.iter().find(|timing| timing.name == name && timing.x == x)
    }

    /// The ratio of one candidate to another, round by round.
    pub(crate) fn ratio(&self, name: &str, base: &str) -> Option<Spread> {
        Some(self.timing(name, None)?.ratio(self.timing(base, None)?))
    }
}

/// A histogram of nanoseconds, to two digits and up to ten minutes. Longer ones count as ten minutes.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(600_000_000_000, 2).expect("good bounds")
}

impl Latency {
    pub(crate) fn new(
        [scenario, peer, kind]: [&str; 3],
        round: usize,
        seconds: f64,
        histogram: &Histogram<u64>,
    ) -> Self {
        Self {
            scenario: scenario.to_owned(),
            peer: peer.to_owned(),
            kind: kind.to_owned(),
            round,
            count: histogram.len(),
            unfinished: 0,
            seconds,
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl Run {
    pub(crate) fn here_and_now(quick: bool) -> Self {
        let says = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            text.unwrap_or_default().trim().to_owned()
        };
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.and_then(|line| line.split_once(": "));
        Self {
            date: says("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            cpu: model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            system: says("uname", &["-sm"]),
            rustc: says("rustc", &["--version"]),
            commit: says("git", &["describe", "--always", "--dirty"]),
            versions: versions(),
            quick,
        }
    }
}

/// The peers' packages, as locked.
fn versions() -> String {
    const PACKAGES: [&str; 9] = [
        "async-lock",
        "dashmap",
        "futures-intrusive",
        "mea",
        "moka",
        "parking_lot",
        "scc",
        "sharded-slab",
        "tokio",
    ];
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap_or_default();
    let version = |name: &str| {
        let (_, package) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(format!("{name} {}", package.split_once('"')?.0))
    };
    PACKAGES.iter().filter_map(|name| version(name)).collect::<Vec<_>>().join(", ")
}

impl Results {
    pub(crate) fn load(target: &str) -> Option<Self> {
        let json = fs::read(file(target)).ok()?;
        let results = serde_json::from_slice(&json);
        results.inspect_err(|error| eprintln!("{target}: not readable: {error}")).ok()
    }

    pub(crate) fn store(&self, target: &str) -> io::Result<()> {
        fs::create_dir_all(directory())?;
        fs::write(file(target), serde_json::to_vec(self)?)
    }
}

fn file(target: &str) -> PathBuf {
    directory().join(format!("{target}.json"))
}

fn directory() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("benchmarks")
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
