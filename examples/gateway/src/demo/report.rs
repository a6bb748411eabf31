//! Reports the outcome of a run, for people to read.

use std::time::Duration;

use gateway::config::Behaviour;

use super::stage::Stage;

pub(super) fn print(stage: &Stage, behaviour: Behaviour, took: Duration, findings: &[String]) {
    let (tally, metrics) = (&stage.tally, stage.app.metrics());
    println!("\nwarehouse {}, {:.1} s", behaviour.name(), took.as_secs_f64());
    let executions = stage.app.warehouse().executions();
    line(
        "requests",
        format!(
            "{}; queries executed {}, most executions of one {}",
            tally.requests.get(),
            executions.total,
            executions.most
        ),
    );
    let (at_once, after_wait) = (metrics.room_at_once.get(), metrics.room_after_wait.get());
    line(
        "inline",
        format!("{}; granted at once {at_once}, after a wait {after_wait}", tally.inline.get()),
    );
    line("rows", format!("{} results with the events, past the stash", tally.rows.get()));
    line("waited", waits(stage));
    line("fallbacks", reasons(stage, metrics.fallbacks.get()));
    line("refusals", reasons(stage, metrics.refusals.get()));
    line(
        "hung up",
        format!(
            "{}; {} of them while they waited",
            tally.hung_up.get(),
            metrics.left_the_line.get()
        ),
    );
    line("strangers", format!("{} refused", tally.intrusions.get()));
    let (peak, limit) = (stage.peak_bytes(), stage.app.config().max_bytes);
    line("peak bytes", format!("{peak} of {limit}, {:.1} %", 100.0 * peak as f64 / limit as f64));
    let usage = stage.look();
    line(
        "in the end",
        format!(
            "{} bytes, {} results, {} waiting; {} expired unclaimed",
            usage.used_bytes,
            usage.entries,
            usage.waiting,
            stage.orphans()
        ),
    );
    line(
        "checked",
        format!("{} results against SQL, {} wrong", tally.checked.get(), tally.wrong.get()),
    );
    for finding in findings {
        line("FINDING", finding.clone());
    }
    println!();
}

/// A behaviour has one answer to all that are refused for lack of bytes, so the other count is zero.
fn reasons(stage: &Stage, count: u64) -> String {
    let too_large = stage.app.metrics().too_large.get();
    match count {
        0 => "0".to_owned(),
        _ => format!(
            "{count}; because the stash was full {}, for size {too_large}",
            count - too_large
        ),
    }
}

fn waits(stage: &Stage) -> String {
    let waits = stage.app.metrics().waits();
    let millis = |micros: u64| micros as f64 / 1_000.0;
    format!(
        "{}, in vain {}; p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, max {:.0} ms; longest line {}",
        waits.len(),
        // Queries that gave up before they queued were never recorded as waiting.
        waits.len() - stage.app.metrics().room_after_wait.get(),
        millis(waits.value_at_quantile(0.5)),
        millis(waits.value_at_quantile(0.9)),
        millis(waits.value_at_quantile(0.99)),
        millis(waits.max()),
        stage.longest_line()
    )
}

pub(super) fn line(name: &str, text: String) {
    println!("  {name:<11} {text}");
}
