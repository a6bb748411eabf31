//! The plots and their contents.

use std::path::Path;
use std::{fs, io};

use super::All;
use crate::plots::{Dots, Lines, Series};
use crate::results::{Data, Group};
use crate::targets::{saturated, scaling};

pub(super) fn draw(directory: &Path, all: &All) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let data = |target| all.get(target).map(|results| &results.data);
    let plots = [
        ("s2.svg", data("S2").and_then(throughput)),
        (
            "t5.svg",
            data("T5").and_then(|data| {
                let group = data.group("put + take")?;
                Some(by_number(group, "put + take, 1 thread", "entries held"))
            }),
        ),
        (
            "t8.svg",
            data("T8").and_then(|data| {
                let group = data.group("join and leave")?;
                Some(by_number(group, "join and leave at the end of the queue", "waiters"))
            }),
        ),
        ("t12.svg", data("T12").map(waits)),
    ];
    for (name, plot) in plots {
        if let Some(plot) = plot {
            fs::write(directory.join(name), plot)?;
        }
    }
    Ok(())
}

fn throughput(data: &Data) -> Option<String> {
    let group = data.group(scaling::PUT_TAKE)?;
    let series = group.names().into_iter().map(|name| {
        let timings = group.timings.iter().filter(|timing| timing.name == name);
        let points = timings.map(|timing| {
            let threads = timing.x.unwrap_or(1) as f64;
            (threads, threads * 1e3 / timing.spread().median)
        });
        Series { name: name.to_owned(), points: points.collect() }
    });
    let lines = Lines {
        title: "put + take, nothing held",
        x: "threads, each on a core of its own",
        y: "put + take per microsecond, all threads, logarithmic",
        series: series.collect(),
    };
    Some(lines.to_svg())
}

fn by_number(group: &Group, title: &str, x: &str) -> String {
    let series = group.names().into_iter().map(|name| {
        let points = group.timings.iter().filter(|timing| timing.name == name);
        let point = |x: Option<u64>, y| (x.unwrap_or(0) as f64, y);
        let points = points.map(|timing| point(timing.x, timing.spread().median)).collect();
        Series { name: name.to_owned(), points }
    });
    Lines { title, x, y: "ns, logarithmic", series: series.collect() }.to_svg()
}

fn waits(data: &Data) -> String {
    let mut rows = Vec::new();
    for (kind, ..) in saturated::CLASSES {
        for peer in ["cloakroom", "glue", "first-fit"] {
            let wait = data.latency([saturated::SCENARIO, peer, kind], |l| l.p99 as f64 / 1e3);
            if let Some(wait) = wait {
                rows.push((format!("{kind}, {peer}"), wait.median));
            }
        }
    }
    let unit = "p99 wait in microseconds, logarithmic; at most as long as a round";
    Dots { title: "saturated: 64 producers wait", unit, rows }.to_svg()
}
