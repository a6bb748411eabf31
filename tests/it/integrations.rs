//! B10, for other crates: what the features `metrics`, `tracing` and `serde` emit, by name.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::{
    ManualClock, MetricsObserver, Observer, PutOptions, Stash, Ticket, TracingObserver,
};
use futures_lite::future::{block_on, poll_once};

type TestStash = Stash<Vec<u8>, u8>;

const SECOND: Duration = Duration::from_secs(1);

fn test_stash(observer: impl Observer) -> (TestStash, ManualClock) {
    let clock = ManualClock::new();
    let builder = Stash::builder().max_bytes(100).entry_overhead(0).ttl(10 * SECOND);
    let builder = builder.overflow(20, 5 * SECOND).max_waiting(1);
    (builder.clock(clock.clone()).observer(observer).build().unwrap(), clock)
}

/// Something of each kind happens.
fn everything_happens(stash: &TestStash, clock: &ManualClock) {
    let first = stash.try_put(1, vec![0; 70]).unwrap();
    drop(stash.claim(&first, &1));
    drop(stash.claim(&first, &1).unwrap().into_inner());
    let full = stash.try_put(1, vec![0; 110]).unwrap();
    assert!(stash.try_put(1, vec![0; 20]).is_err());
    assert!(stash.try_put(1, vec![0; 200]).is_err());
    let mut waiting = Box::pin(stash.put(1, vec![0; 30]));
    assert!(block_on(poll_once(&mut waiting)).is_none());
    assert!(block_on(stash.reserve(1)).is_err());
    clock.advance(Duration::from_millis(1_500));
    assert!(stash.take(&full, &1).is_some());
    let _ = block_on(waiting).unwrap();
    let brief = PutOptions::new().ttl(SECOND);
    let _ = stash.try_put_with(1, vec![0; 5], brief).unwrap();
    clock.advance(SECOND);
    assert_eq!((stash.gc(), stash.clear()), (1, 1));
    drop(stash.unsent(stash.try_put(1, vec![0; 3]).unwrap(), 1));
}

// ---- metrics ---------------------------------------------------------------------------------------

mod metric {
    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata,
        Recorder, SharedString, Unit,
    };

    use super::*;

    type Values = Arc<Mutex<BTreeMap<String, Vec<f64>>>>;

    /// Writes down what is emitted: by kind, name and labels.
    #[derive(Default)]
    struct Writes(Values);

    struct Value(Values, String);

    impl Value {
        fn push(&self, value: f64) {
            self.0.lock().unwrap().entry(self.1.clone()).or_default().push(value);
        }
    }

    impl CounterFn for Value {
        fn increment(&self, value: u64) {
            self.push(value as f64);
        }
        fn absolute(&self, _: u64) {
            panic!("counters count");
        }
    }

    impl GaugeFn for Value {
        fn increment(&self, _: f64) {
            panic!("gauges are set");
        }
        fn decrement(&self, _: f64) {
            panic!("gauges are set");
        }
        fn set(&self, value: f64) {
            self.push(value);
        }
    }

    impl HistogramFn for Value {
        fn record(&self, value: f64) {
            self.push(value);
        }
    }

    impl Writes {
        fn value(&self, kind: &str, key: &Key) -> Arc<Value> {
            let labels: Vec<_> =
                key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            let name = format!("{kind} {}{{{}}}", key.name(), labels.join(","));
            Arc::new(Value(Arc::clone(&self.0), name))
        }
    }

    impl Recorder for Writes {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.value("counter", key))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.value("gauge", key))
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.value("histogram", key))
        }
    }

    fn emitted(what: impl FnOnce()) -> Vec<(String, f64)> {
        let recorder = Writes::default();
        metrics::with_local_recorder(&recorder, what);
        let values = recorder.0.lock().unwrap();
        values.iter().map(|(name, values)| (name.clone(), values.iter().sum())).collect()
    }

    fn named(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn b10_metrics_by_name() {
        let (stash, clock) = test_stash(MetricsObserver::new());
        let seen = emitted(|| everything_happens(&stash, &clock));
        assert_eq!(
            seen,
            named(&[
                ("counter cloakroom_claim_total{outcome=claimed}", 2.0),
                ("counter cloakroom_claim_total{outcome=put_back}", 1.0),
                ("counter cloakroom_cleared_total{}", 1.0),
                ("counter cloakroom_delivered_bytes_total{}", 180.0),
                ("counter cloakroom_delivered_total{}", 2.0),
                ("counter cloakroom_expired_total{}", 1.0),
                ("counter cloakroom_put_total{outcome=full}", 1.0),
                ("counter cloakroom_put_total{outcome=queue_full}", 1.0),
                ("counter cloakroom_put_total{outcome=stored}", 5.0),
                ("counter cloakroom_put_total{outcome=too_large}", 1.0),
                ("counter cloakroom_stored_bytes_total{}", 218.0),
                ("counter cloakroom_unsent_total{}", 1.0),
                ("histogram cloakroom_wait_seconds{}", 1.5),
            ])
        );
    }

    #[test]
    fn b10_gauges_by_name() {
        let (stash, clock) = test_stash(MetricsObserver::new());
        let full = stash.try_put(1, vec![0; 120]).unwrap();
        let claim = stash.claim(&full, &1);
        let mut waiting = Box::pin(stash.put(1, vec![0; 30]));
        assert!(block_on(poll_once(&mut waiting)).is_none());
        clock.advance(Duration::from_millis(2_500));
        let seen = emitted(|| MetricsObserver::new().record(&stash.stats()));
        assert_eq!(
            seen,
            named(&[
                ("gauge cloakroom_claims{}", 1.0),
                ("gauge cloakroom_entries{}", 1.0),
                ("gauge cloakroom_max_bytes{}", 100.0),
                ("gauge cloakroom_oldest_wait_seconds{}", 2.5),
                ("gauge cloakroom_peak_bytes{}", 120.0),
                ("gauge cloakroom_used_bytes{}", 120.0),
                ("gauge cloakroom_waiting_bytes{}", 30.0),
                ("gauge cloakroom_waiting{}", 1.0),
            ])
        );
        drop((waiting, claim));
        let idle = emitted(|| MetricsObserver::new().record(&stash.stats()));
        assert!(idle.contains(&("gauge cloakroom_oldest_wait_seconds{}".to_owned(), 0.0)));
    }

    #[test]
    fn w14_two_stashes_that_overwrite_each_others_metrics() {
        let observers = ["results", "uploads"].map(MetricsObserver::named);
        let [results, uploads] = observers.clone().map(|observer| test_stash(observer).0);
        let seen = emitted(|| {
            let _ = results.try_put(1, vec![0; 70]).unwrap();
            let _ = uploads.try_put(1, vec![0; 30]).unwrap();
            observers[0].record(&results.stats());
            observers[1].record(&uploads.stats());
        });
        let labelled = |name: &str| seen.iter().filter(|(key, _)| key.starts_with(name)).collect();
        let gauges: Vec<_> = labelled("gauge cloakroom_used_bytes");
        assert_eq!(gauges.len(), 2);
        assert_eq!(*gauges[0], ("gauge cloakroom_used_bytes{stash=results}".to_owned(), 70.0));
        assert_eq!(*gauges[1], ("gauge cloakroom_used_bytes{stash=uploads}".to_owned(), 30.0));
        let put = "counter cloakroom_put_total{stash=results,outcome=stored}".to_owned();
        assert_eq!(labelled("counter cloakroom_put_total")[0], &(put, 1.0));
        assert!(seen.iter().all(|(key, _)| key.contains("{stash=")), "{seen:?}");
        // Everything that can be emitted, with the label.
        let (stash, clock) = test_stash(MetricsObserver::named("all".to_owned()));
        let seen = emitted(|| everything_happens(&stash, &clock));
        assert_eq!(seen.len(), 13);
        assert!(seen.iter().all(|(key, _)| key.contains("{stash=all")), "{seen:?}");
    }
}

// ---- tracing ---------------------------------------------------------------------------------------

mod trace {
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;

    /// Writes down each event: its message, then its fields.
    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<String>>>);

    #[derive(Default)]
    struct Text(String, String);

    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            match field.name() {
                "message" => self.0 = format!("{value:?}"),
                name => self.1 += &format!(" {name}={value:?}"),
            }
        }
    }

    impl Subscriber for Writes {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "cloakroom" && *metadata.level() == Level::DEBUG
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut text = Text::default();
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0 + &text.1);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn b10_events_by_name() {
        let (stash, clock) = test_stash(TracingObserver::new());
        let writes = Writes::default();
        tracing::subscriber::with_default(writes.clone(), || everything_happens(&stash, &clock));
        assert_eq!(
            *writes.0.lock().unwrap(),
            [
                "stored bytes=70 overflow=false",
                "claimed bytes=70",
                "put back bytes=70",
                "claimed bytes=70",
                "delivered bytes=70",
                "stored bytes=110 overflow=true",
                "refused bytes=20 reason=\"full\"",
                "refused bytes=200 reason=\"too_large\"",
                "refused bytes=1 reason=\"queue_full\"",
                "delivered bytes=110",
                "waited bytes=30 seconds=1.5",
                "stored bytes=30 overflow=false",
                "stored bytes=5 overflow=false",
                "expired entries=1 bytes=5",
                "cleared entries=1 bytes=30",
                "stored bytes=3 overflow=false",
                "unsent bytes=3",
            ]
        );
    }

    #[test]
    fn w14_events_that_do_not_say_of_which_stash() {
        let (stash, clock) = test_stash(TracingObserver::named("results"));
        let writes = Writes::default();
        tracing::subscriber::with_default(writes.clone(), || everything_happens(&stash, &clock));
        let events = writes.0.lock().unwrap();
        assert_eq!(events[0], "stored stash=\"results\" bytes=70 overflow=false");
        assert_eq!(events.len(), 17);
        assert!(events.iter().all(|event| event.contains(" stash=\"results\" ")), "{events:?}");
    }
}

// ---- serde -----------------------------------------------------------------------------------------

#[test]
fn b10_a_ticket_is_a_string_both_ways() {
    let (stash, _) = test_stash(TracingObserver::new());
    let ticket = stash.try_put(1, vec![7]).unwrap();
    let json = serde_json::to_string(&ticket).unwrap();
    assert_eq!(json, format!("\"{ticket}\""));
    let read: Ticket = serde_json::from_str(&json).unwrap();
    assert_eq!(read, ticket);
    // From a reader and from a value, which give the text as owned.
    assert_eq!(serde_json::from_reader::<_, Ticket>(json.as_bytes()).unwrap(), ticket);
    let value = serde_json::to_value([ticket]).unwrap();
    assert_eq!(serde_json::from_value::<Vec<Ticket>>(value).unwrap(), [ticket]);
    // As a key, which must be a string.
    let keyed = serde_json::to_string(&std::collections::HashMap::from([(ticket, 1)])).unwrap();
    assert_eq!(keyed, format!("{{\"{ticket}\":1}}"));
    // Escaped text.
    let escaped = json.replacen('-', "\\u002d", 1);
    assert_eq!(serde_json::from_str::<Ticket>(&escaped).unwrap(), ticket);
    assert_eq!(stash.take(&read, &1), Some(vec![7]));
}

#[test]
fn b10_text_that_is_no_ticket_is_an_error_that_does_not_repeat_it() {
    for json in ["\"\"", "\"secret-secret\"", "7", "null", "[]", "{}", "true", "\"\\u0000\""] {
        let error = serde_json::from_str::<Ticket>(json).unwrap_err().to_string();
        assert!(error.contains("ticket") && !error.contains("secret"), "{error}");
    }
    let long = format!("\"{}\"", "0".repeat(1 << 20));
    let error = serde_json::from_str::<Ticket>(&long).unwrap_err().to_string();
    assert!(error.len() < 200, "{error}");
}

#[test]
fn b19_statistics_are_written_with_all_their_numbers() {
    let (stash, clock) = test_stash(TracingObserver::new());
    everything_happens(&stash, &clock);
    let _held = stash.try_put(1, vec![0; 120]).unwrap();
    let mut waiting = Box::pin(stash.put(1, vec![0; 30]));
    assert!(block_on(poll_once(&mut waiting)).is_none());
    clock.advance(Duration::from_millis(2_500));
    let expected = serde_json::json!({
        "used_bytes": 120, "peak_bytes": 120, "max_bytes": 100, "overflow_bytes": 20,
        "entries": 1, "claims": 0,
        "waiting": 1, "waiting_bytes": 30, "head_bytes": 30,
        "oldest_wait": { "secs": 2, "nanos": 500_000_000 },
        "stored": 6, "delivered": 2, "expired": 1, "cleared": 1, "unsent": 1, "claimed": 2, "put_back": 1,
        "waited": 1, "abandoned": 0,
        "refused": {
            "full": 1, "too_large": 1, "timed_out": 0, "cancelled": 0, "closed": 0,
            "owner_full": 0, "queue_full": 1
        },
    });
    assert_eq!(serde_json::to_value(stash.stats()).unwrap(), expected);
    let expected = serde_json::json!({
        "used": 120, "limit": 120, "peak": 120, "waiting": 1, "waiting_bytes": 30, "head_bytes": 30, "abandoned": 0,
    });
    assert_eq!(serde_json::to_value(stash.budget().stats()).unwrap(), expected);
    drop(waiting);
}
