//! The rounds of a scenario as a table, and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::Scenario;
use super::round::Round;

/// All rounds of one scenario. The n-th of each ran one after the other.
pub(super) struct Summary {
    pub(super) scenario: Scenario,
    pub(super) cloakroom: Vec<Round>,
    pub(super) glue: Vec<Round>,
}

/// A figure of a round.
struct Figure {
    name: &'static str,
    key: &'static str,
    digits: usize,
    of: fn(&Round) -> f64,
}

const FIGURES: [Figure; 7] = [
    Figure {
        name: "results each second",
        key: "throughput",
        digits: 0,
        of: |round| round.throughput,
    },
    Figure { name: "latency p50, ms", key: "p50_ms", digits: 1, of: |round| round.millis(0.5) },
    Figure { name: "latency p99, ms", key: "p99_ms", digits: 1, of: |round| round.millis(0.99) },
    Figure {
        name: "latency p99.9, ms",
        key: "p999_ms",
        digits: 1,
        of: |round| round.millis(0.999),
    },
    Figure {
        name: "large results p99, ms",
        key: "large_p99_ms",
        digits: 1,
        of: |round| round.large_millis(0.99),
    },
    Figure { name: "waited in vain", key: "refused", digits: 0, of: |round| round.refused as f64 },
    Figure {
        name: "refused early",
        key: "refused_early",
        digits: 0,
        of: |round| round.refused_early as f64,
    },
];

impl Summary {
    pub(super) fn print(&self) {
        println!("\n{}: {}", self.scenario.name, self.scenario.what);
        println!("  {:<22} {:>10} {:>10} {:>16}", "", "cloakroom", "glue", "cloakroom / glue");
        for figure in &FIGURES {
            let (cloakroom, glue) = self.medians(figure);
            let ratio = self.ratio(figure).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let digits = figure.digits;
            println!(
                "  {:<22} {cloakroom:>10.digits$} {glue:>10.digits$} {ratio:>16}",
                figure.name
            );
        }
    }

    /// Refusals that could have been avoided, on either stash.
    pub(super) fn refused_early(&self) -> u64 {
        self.cloakroom.iter().chain(&self.glue).map(|round| round.refused_early).sum()
    }

    fn medians(&self, figure: &Figure) -> (f64, f64) {
        let of = |rounds: &[Round]| median(rounds.iter().map(figure.of).collect());
        (of(&self.cloakroom), of(&self.glue))
    }

    /// `None` where the divisor is zero.
    fn ratio(&self, figure: &Figure) -> Option<f64> {
        let pairs = self.cloakroom.iter().zip(&self.glue);
        let ratios: Vec<_> =
            pairs.map(|(ours, glue)| (figure.of)(ours) / (figure.of)(glue)).collect();
        ratios.iter().all(|ratio| ratio.is_finite()).then(|| median(ratios))
    }

    fn to_json(&self) -> Value {
        let rounds = |rounds: &[Round]| -> Vec<Value> {
            let figures = |round: &Round| {
                FIGURES
                    .iter()
                    .map(|figure| (figure.key.to_owned(), json!((figure.of)(round))))
                    .collect()
            };
            rounds.iter().map(|round| Value::Object(figures(round))).collect()
        };
        let medians = FIGURES.iter().map(|figure| {
            let (cloakroom, glue) = self.medians(figure);
            let figures =
                json!({ "cloakroom": cloakroom, "glue": glue, "ratio": self.ratio(figure) });
            (figure.key.to_owned(), figures)
        });
        json!({
            "name": self.scenario.name,
            "what": self.scenario.what,
            "max_bytes": self.scenario.max_bytes,
            "ttl_ms": self.scenario.ttl.as_millis() as u64,
            "wait_ms": self.scenario.wait.as_millis() as u64,
            "medians": Value::Object(medians.collect()),
            "rounds": { "cloakroom": rounds(&self.cloakroom), "glue": rounds(&self.glue) },
        })
    }
}

/// All scenarios as JSON, for a page that includes them.
pub(super) fn to_json(summaries: &[Summary], clients: u32, length: Duration) -> Value {
    json!({
        "command": "cargo run --release -p gateway -- load --json FILE",
        "clients": clients,
        "round_ms": length.as_millis() as u64,
        "scenarios": summaries.iter().map(Summary::to_json).collect::<Vec<_>>(),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
