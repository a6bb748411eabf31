//! The event stream of the stash that the page shows.

mod common;

use std::time::Duration;

use common::{
    BIG, BRIEF, PATIENCE, SMALL_STASH, answer, client, eventually, gateway, inline_id, run,
};
use eventsource_stream::Eventsource;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use gateway::config::{Config, StashKind};
use gateway::owner::USER_HEADER;
use gateway::server::Server;
use reqwest::StatusCode;
use serde_json::Value;

/// A viewer of one gateway's stash, and all events that it received.
struct Viewer {
    states: BoxStream<'static, Value>,
    happened: Vec<Value>,
}

impl Viewer {
    async fn open(server: &Server, user: Option<&str>) -> Self {
        let url = format!("http://{}/stash/events", server.address());
        let mut request = reqwest::Client::new().get(url);
        if let Some(user) = user {
            request = request.header(USER_HEADER, user);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let events = response.bytes_stream().eventsource();
        let states = events.map(|event| serde_json::from_str(&event.unwrap().data).unwrap());
        Viewer { states: states.boxed(), happened: Vec::new() }
    }

    /// The next state. `None` when the stream has ended.
    async fn next(&mut self) -> Option<Value> {
        let next = tokio::time::timeout(PATIENCE, self.states.next());
        let state = next.await.expect("the stream lives")?;
        self.happened.extend(state["events"].as_array().unwrap().iter().cloned());
        Some(state)
    }

    async fn until(&mut self, condition: impl Fn(&Value) -> bool) -> Value {
        loop {
            let state = self.next().await.expect("the stream goes on");
            if condition(&state) {
                return state;
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.happened.iter().map(|event| event["what"].as_str().unwrap()).collect()
    }
}

async fn small(adjust: impl FnOnce(&mut Config)) -> Server {
    gateway(|config| {
        config.max_bytes = SMALL_STASH;
        adjust(config);
    })
    .await
}

fn sizes(state: &Value) -> Vec<u64> {
    let queue = state["queue"].as_array().unwrap().iter();
    queue.map(|waiter| waiter["bytes"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_viewer_sees_the_queue_in_order_and_who_is_served_next() {
    for stash in [StashKind::Cloakroom, StashKind::Glue] {
        let server = small(|config| config.stash = stash).await;
        let mut viewer = Viewer::open(&server, Some("ann")).await;
        let first = viewer.next().await.unwrap();
        assert_eq!((&first["usedBytes"], &first["waiting"]), (&0.into(), &0.into()));
        assert_eq!(first["maxBytes"], SMALL_STASH);

        let (holder, ann, bob) =
            (client(&server, "holder"), client(&server, "ann"), client(&server, "bob"));
        let held = inline_id(answer(&holder, 0, BIG).await);
        let large = run(&ann, 0, BIG).await;
        eventually("the large one waits", || server.app().inline().usage().waiting == 1).await;
        let small = run(&bob, 0, 1).await;
        let jammed = viewer.until(|state| state["waiting"] == 2).await;
        let [first, second] = sizes(&jammed)[..] else { panic!("{jammed}") };
        assert!(first > 100_000 && second < 10_000, "{jammed}");
        if stash == StashKind::Cloakroom {
            // It would fit. (The semaphore of the other keeps what is free for the head.)
            assert!(SMALL_STASH - jammed["usedBytes"].as_u64().unwrap() > second);
        }
        let mine = [0, 1].map(|index: usize| jammed["queue"][index]["mine"] == true);
        assert_eq!(mine, [true, false]);

        holder.fetch(&held).await.unwrap();
        for (client, running) in [(&ann, large), (&bob, small)] {
            let id = inline_id(running.answer().await.unwrap());
            client.fetch(&id).await.unwrap();
        }
        viewer.until(|state| state["usedBytes"] == 0 && state["entries"] == 0).await;
        if stash == StashKind::Cloakroom {
            let granted: Vec<_> =
                viewer.happened.iter().filter(|event| event["what"] == "granted").collect();
            assert_eq!(granted.len(), 2, "{granted:?}");
            assert!(granted[0]["waitMs"].as_u64().is_some());
            let numbers: Vec<_> = viewer.happened.iter().map(|event| &event["number"]).collect();
            let expected = (0..numbers.len()).map(Value::from).collect::<Vec<_>>();
            assert_eq!(numbers, expected.iter().collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_viewer_is_told_what_expires_and_what_waits_in_vain() {
    let server = small(|config| {
        config.ttl = Duration::from_secs(2);
        config.wait = BRIEF;
        config.behaviour = gateway::config::Behaviour::InlineOnly;
    })
    .await;
    let mut viewer = Viewer::open(&server, None).await;
    viewer.next().await.unwrap();
    inline_id(answer(&client(&server, "holder"), 0, BIG).await);
    common::refused(answer(&client(&server, "ann"), 0, BIG).await);
    let state = viewer.until(|state| state["totals"]["expired"] == 1).await;
    assert_eq!(state["totals"]["timed_out"], 1);
    if !viewer.names().contains(&"expired") {
        viewer.next().await.unwrap();
    }
    assert_eq!(viewer.names(), ["stored", "timed_out", "expired"]);
}

#[tokio::test]
async fn names_and_tickets_are_not_shown() {
    let server = small(|_| {}).await;
    let mut viewer = Viewer::open(&server, Some("bob")).await;
    let held = inline_id(answer(&client(&server, "holder"), 0, BIG).await);
    let _running = run(&client(&server, "ann"), 0, BIG).await;
    let state = viewer.until(|state| state["waiting"] == 1).await.to_string();
    for name in ["holder", "ann", "bob", &held["inline-".len()..]] {
        assert!(!state.contains(name), "{state}");
    }
}

/// While a client does not read, no events are buffered for it, and it learns how many it missed.
#[tokio::test]
async fn a_slow_viewer_gets_the_latest_state_and_not_all_of_them() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    let mut watch = server.app().inline().watch().expect("this stash can be watched");
    for _ in 0..100 {
        let id = inline_id(answer(&ann, 0, 1).await);
        ann.fetch(&id).await.unwrap();
    }
    eventually("all has left", || server.app().inline().usage().used_bytes == 0).await;
    let news = watch.news();
    // Stored, claimed and delivered, each a hundred times.
    assert_eq!(news.missed + news.events.len() as u64, 300);
    assert!(news.events.len() <= 64);
    assert_eq!(
        news.events.last().map(|event| (event.number, event.what)),
        Some((299, "delivered"))
    );
}

#[tokio::test]
async fn an_idle_stash_is_not_told_again_and_again() {
    let server = gateway(|_| {}).await;
    let mut viewer = Viewer::open(&server, None).await;
    viewer.next().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(viewer.states.next().now_or_never().is_none());
}

#[tokio::test]
async fn viewers_do_not_hold_up_a_shutdown() {
    let server = gateway(|config| config.drain = common::FOREVER).await;
    let mut viewer = Viewer::open(&server, None).await;
    viewer.next().await.unwrap();
    let (shutdown, ()) = tokio::join!(server.shutdown(), async {
        let over = async { while viewer.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, over).await.expect("the stream ends");
    });
    assert!(shutdown.unwrap().complete);
}
