//! Judges a run: the clients' records against the gateway's counters.

use gateway::config::Behaviour;
use gateway::server::Shutdown;

use super::stage::Stage;

/// Returns everything that is wrong with a run, in words.
pub(super) fn findings(stage: &Stage, behaviour: Behaviour, shutdown: Shutdown) -> Vec<String> {
    let mut findings = stage.tally.problems().clone();
    let mut expect = |holds: bool, otherwise: String| {
        if !holds {
            findings.push(otherwise);
        }
    };
    delivered(stage, &mut expect);
    ran_once(stage, &mut expect);
    bounded(stage, shutdown, &mut expect);
    shown(stage, behaviour, &mut expect);
    findings
}

type Expect<'a> = dyn FnMut(bool, String) + 'a;

/// Nothing lost, nothing wrong, and the clients' and the gateway's counts agree.
fn delivered(stage: &Stage, expect: &mut Expect<'_>) {
    let (tally, metrics) = (&stage.tally, stage.app.metrics());
    expect(tally.lost.get() == 0, format!("{} results were lost", tally.lost.get()));
    expect(tally.wrong.get() == 0, format!("{} results were wrong", tally.wrong.get()));
    let results = tally.inline.get() + tally.links.get() + tally.rows.get();
    expect(
        tally.checked.get() == results,
        format!("{} of {results} results were checked", tally.checked.get()),
    );
    let answered = results + tally.exhausted.get() + tally.too_large.get() + tally.hung_up.get();
    let requests = tally.requests.get();
    expect(answered == requests, format!("{requests} requests, but {answered} came to an end"));
    let taken = metrics.downloads.get();
    expect(
        taken == tally.inline.get(),
        format!("{} inline results, but {taken} were taken", tally.inline.get()),
    );
    // The query of a client that disconnected may have been sent as a file or refused.
    let spare = tally.hung_up.get();
    for (what, gateway, clients) in [
        ("fallbacks", metrics.fallbacks.get(), tally.links.get()),
        ("refusals", metrics.refusals.get(), tally.exhausted.get() + tally.too_large.get()),
    ] {
        let agree = (clients..=clients + spare).contains(&gateway);
        expect(agree, format!("the gateway counts {gateway} {what}, its clients {clients}"));
    }
}

/// No query ran twice, every query that was answered ran, and none ran in vain.
fn ran_once(stage: &Stage, expect: &mut Expect<'_>) {
    let (tally, executions) = (&stage.tally, stage.app.warehouse().executions());
    let (requests, accepted) = (tally.requests.get(), stage.app.metrics().queries.get());
    let submitted = requests - tally.at_the_door.get();
    expect(accepted == submitted, format!("{submitted} submitted, {accepted} queries accepted"));
    let statements = tally.statements();
    expect(statements == submitted, format!("{submitted} submitted, but {statements} statements"));
    expect(executions.most == 1, format!("a statement was executed {} times", executions.most));
    // The query of a client that leaves the queue does not run. If it leaves later, the query runs.
    let results = tally.inline.get() + tally.links.get() + tally.rows.get();
    let once = (results..=results + tally.hung_up.get()).contains(&executions.total)
        && executions.statements == executions.total;
    expect(once, format!("{results} results, but {} executions", executions.total));
}

/// Never over the limit, and nothing left in the end.
fn bounded(stage: &Stage, shutdown: Shutdown, expect: &mut Expect<'_>) {
    let (peak, limit) = (stage.peak_bytes(), stage.app.config().max_bytes);
    expect(peak <= limit, format!("the stash held {peak} bytes, the limit is {limit}"));
    let usage = stage.look();
    expect(usage.used_bytes == 0, format!("{} bytes are left over", usage.used_bytes));
    expect(usage.entries == 0, format!("{} results are left over", usage.entries));
    expect(usage.waiting == 0, format!("{} still wait", usage.waiting));
    let (orphans, hung_up) = (stage.orphans(), stage.tally.hung_up.get());
    expect(
        orphans as u64 <= hung_up,
        format!("{orphans} results were not claimed, but only {hung_up} clients hung up"),
    );
    expect(shutdown.complete, "the gateway did not shut down in time".to_owned());
}

/// A run that did not show its point proves nothing.
fn shown(stage: &Stage, behaviour: Behaviour, expect: &mut Expect<'_>) {
    let (tally, metrics) = (&stage.tally, stage.app.metrics());
    let wait = stage.app.config().wait;
    expect(
        u128::from(metrics.waits().max()) >= wait.as_micros(),
        format!("no query waited for {} ms, and yet some timed out", wait.as_millis()),
    );
    let mut show = |count: u64, what: &str| expect(count > 0, format!("the run showed no {what}"));
    show(metrics.room_after_wait.get(), "query that was granted after a wait");
    show(metrics.timed_out.get(), "query that waited in vain");
    show(metrics.left_the_line.get(), "client that left the queue");
    show(metrics.too_large.get(), "result that was too large");
    show(tally.intrusions.get(), "stranger being refused");
    match behaviour {
        Behaviour::Classic => show(tally.links.get(), "fallback"),
        Behaviour::InlineOnly => {
            show(tally.exhausted.get(), "refusal because the stash was full");
            show(tally.too_large.get(), "refusal for size");
        }
    }
}
