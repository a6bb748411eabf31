//! `GET /stash/events`: the state of the stash as an event stream, for the page. It names no user and no
//! ticket, so it needs no user. If a user is named, their waiters are marked.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::query::NO_BUFFERING;
use crate::app::App;
use crate::inline::{Totals, Watch};
use crate::owner::Owner;

/// How often the stash is read.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often an unchanged state is sent again, to show that the stream is alive.
const ALIVE: Duration = Duration::from_secs(5);
/// How many waiters are listed.
const MOST_WAITERS: usize = 32;

/// The stash at one moment. Times are milliseconds since the stream began.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot {
    used_bytes: u64,
    max_bytes: u64,
    peak_bytes: u64,
    entries: usize,
    waiting: usize,
    head_bytes: Option<u64>,
    /// The first of those that wait in this gateway, in order.
    queue: Vec<Waiting>,
    /// Whether queries wait in other gateways, too: then the first here need not be the head.
    shared: bool,
    totals: Option<Totals>,
    /// A note about numbers that cannot be read now.
    note: Option<&'static str>,
    closing: bool,
    /// The events since the snapshot before.
    events: Vec<Happening>,
    /// How many events were dropped, because this client is slow.
    missed: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    bytes: u64,
    since: i64,
    mine: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Happening {
    number: u64,
    at: i64,
    what: &'static str,
    bytes: u64,
    entries: usize,
    wait_ms: Option<u128>,
}

/// A client that watches.
struct Viewer {
    app: Arc<App>,
    user: Option<Owner>,
    watch: Option<Watch>,
    began: Instant,
    ticks: Interval,
    sent: Option<(Snapshot, Instant)>,
    stop: CancellationToken,
}

pub(super) async fn events(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let viewer = Viewer {
        user: Owner::of(&headers).ok(),
        watch: app.inline().watch(),
        began: Instant::now(),
        ticks,
        sent: None,
        stop: app.stop().clone(),
        app,
    };
    // The server asks for the next event when the last has been sent, and it is made only then. So a slow
    // client sees fewer and later states, never old ones, and no states are buffered for it.
    let events = stream::unfold(viewer, async |mut viewer| {
        let event = viewer.next().await?;
        Some((Ok::<_, Infallible>(event), viewer))
    });
    ([NO_BUFFERING], Sse::new(events)).into_response()
}

impl Viewer {
    /// Waits until there is something new. `None` when the gateway stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let stop = self.stop.clone();
            stop.run_until_cancelled(self.ticks.tick()).await?;
            let snapshot = self.snapshot();
            let now = Instant::now();
            let known = self.sent.as_ref().is_some_and(|(sent, at)| {
                snapshot.events.is_empty()
                    && now.duration_since(*at) < ALIVE
                    && (Snapshot { events: Vec::new(), missed: 0, ..sent.clone() }) == snapshot
            });
            if !known {
                let event = self.event(&snapshot, now);
                self.sent = Some((snapshot, now));
                return Some(event);
            }
        }
    }

    fn event(&self, snapshot: &Snapshot, now: Instant) -> Event {
        #[derive(Serialize)]
        struct Sent<'a> {
            now: i64,
            #[serde(flatten)]
            snapshot: &'a Snapshot,
        }
        let sent = Sent { now: self.millis(now), snapshot };
        let text = serde_json::to_string(&sent).expect("numbers and texts are JSON");
        Event::default().event("stash").data(text)
    }

    fn snapshot(&mut self) -> Snapshot {
        let news = self.watch.as_mut().map(Watch::news);
        let (happened, missed) = news.map_or((Vec::new(), 0), |news| (news.events, news.missed));
        let inline = self.app.inline();
        let usage = inline.usage();
        let queue = inline.waiters(MOST_WAITERS).into_iter().map(|waiter| Waiting {
            bytes: waiter.bytes,
            since: self.millis(waiter.since),
            mine: self.user.as_ref() == Some(&waiter.owner),
        });
        let events = happened.into_iter().map(|event| Happening {
            number: event.number,
            at: self.millis(event.at),
            what: event.what,
            bytes: event.bytes,
            entries: event.entries,
            wait_ms: event.wait.map(|wait| wait.as_millis()),
        });
        Snapshot {
            used_bytes: usage.used_bytes,
            max_bytes: usage.max_bytes,
            peak_bytes: usage.peak_bytes,
            entries: usage.entries,
            waiting: usage.waiting,
            head_bytes: usage.head_bytes,
            queue: queue.collect(),
            shared: !inline.is_alone(),
            totals: inline.totals(),
            note: inline.note(),
            closing: self.app.is_closing(),
            events: events.collect(),
            missed,
        }
    }

    /// Negative for times before the stream began.
    fn millis(&self, at: Instant) -> i64 {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        match at.checked_duration_since(self.began) {
            Some(after) => millis(after),
            None => -millis(self.began.duration_since(at)),
        }
    }
}
