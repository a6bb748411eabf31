//! The jam: clients that ask and do not fetch, until the stash is full and others have given up.
//!
//! Nothing here depends on the clock alone. The jam lasts until it has shown its point, so that it shows the
//! same on a fast machine and on a slow one.

use std::time::Duration;

use futures_util::future::join_all;
use gateway::client::{Answer, Client};

use super::actors::{Order, ask, ask_and_hang_up, fetch, note};
use super::stage::Stage;

const HOARDERS: u32 = 4;
const LEAVERS: u32 = 6;

/// About a fifth of the stash.
const ORDER: Order = Order { first: 10_000, rows: 3_000 };

/// How many waits must have timed out before the jam may end.
const GIVE_UPS: u64 = 8;
/// How long the jam waits for that before the run counts as one that showed nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a leaver waits in the queue: longer with every try, shorter than the gateway's own limit.
const LEAVE_AFTER: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// A hoarder and the results it keeps.
struct Hoard {
    client: Client,
    ids: Vec<String>,
}

pub(super) async fn run(stage: &Stage) {
    // Let the burst run freely for a while first.
    stage.until(PATIENCE, |stage| stage.progress.done() * 4 >= stage.progress.total()).await;
    stage.progress.say("jam: some clients keep their tickets and do not fetch");
    let hoards = join_all((0..HOARDERS).map(|number| hoard(stage, number))).await;
    join_all((0..LEAVERS).map(|number| leave(stage, number))).await;
    stage.until(PATIENCE, |stage| stage.app.metrics().timed_out.get() >= GIVE_UPS).await;
    // Released while a query waits, which is then granted.
    stage.until(PATIENCE, |stage| stage.look().waiting > 0).await;
    stage.progress.say("jam over: they fetch");
    join_all(hoards.into_iter().map(|hoard| release(stage, hoard))).await;
}

/// Asks and keeps the results, until the stash is full.
async fn hoard(stage: &Stage, number: u32) -> Hoard {
    let client = Client::new(stage.address, &format!("hoarder-{number}"));
    let mut ids = Vec::new();
    loop {
        match ask(stage, &client, ORDER).await {
            Ok(Answer::Inline { id }) => ids.push(id),
            Ok(Answer::External { id, .. }) => {
                note(stage, fetch(stage, &client, &id, ORDER).await);
                break;
            }
            Ok(Answer::Refused(_) | Answer::Rows { .. }) => break,
            Err(problem) => {
                note(stage, Err(problem));
                break;
            }
        }
    }
    Hoard { client, ids }
}

async fn release(stage: &Stage, hoard: Hoard) {
    for id in &hoard.ids {
        note(stage, fetch(stage, &hoard.client, id, ORDER).await);
    }
}

/// Disconnects while it waits, again and later, until the gateway has noticed as many departures as there are
/// leavers. A client that disconnects before its query waits does not leave the queue.
async fn leave(stage: &Stage, number: u32) {
    let client = Client::new(stage.address, &format!("leaver-{number}"));
    for patience in LEAVE_AFTER {
        note(stage, ask_and_hang_up(stage, &client, ORDER, patience).await);
        let noticed = |stage: &Stage| stage.app.metrics().left_the_line.get() >= u64::from(LEAVERS);
        if stage.until(Duration::from_millis(200), noticed).await {
            break;
        }
    }
}
