//! T13, which the gateway measures: its load run leaves a file.

use std::{fs, io};

use serde_json::Value;

use super::line;
use crate::results::root;

/// The figures of the file that are shown, and their formats.
const FIGURES: [(&str, &str); 6] = [
    ("throughput", "results each second"),
    ("p50_ms", "latency p50, ms"),
    ("p99_ms", "latency p99, ms"),
    ("large_p99_ms", "large results p99, ms"),
    ("refused", "refused after a wait"),
    ("refused_early", "refused early"),
];

pub(super) fn write(page: &mut String) -> io::Result<()> {
    page.push_str("\n## T13, the gateway\n");
    let file = root().join("target/benchmarks/gateway.json");
    let Ok(text) = fs::read_to_string(file) else {
        page.push_str("\nNot measured.\n");
        return Ok(());
    };
    let load: Value = serde_json::from_str(&text)?;
    line(
        page,
        format_args!(
            "\n{} clients and the gateway in one process, rounds of {} ms that take turns; medians. `{}`",
            load["clients"],
            load["round_ms"],
            load["command"].as_str().unwrap_or_default()
        ),
    );
    for scenario in load["scenarios"].as_array().into_iter().flatten() {
        let text = |key: &str| scenario[key].as_str().unwrap_or_default();
        line(page, format_args!("\n{}: {}\n", text("name"), text("what")));
        page.push_str("| | cloakroom | glue | cloakroom / glue |\n|---|---|---|---|\n");
        for (key, name) in FIGURES {
            let medians = &scenario["medians"][key];
            let number = |of: &str, digits: usize| {
                medians[of].as_f64().map_or("-".to_owned(), |value| format!("{value:.digits$}"))
            };
            let (ours, glue) = (number("cloakroom", 1), number("glue", 1));
            line(page, format_args!("| {name} | {ours} | {glue} | {} |", number("ratio", 2)));
        }
    }
    Ok(())
}
