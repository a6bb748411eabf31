//! The query route: events, formats, and requests that are refused.

mod common;

use common::{answer, client, gateway, inline_id, orders, refusal};
use gateway::check::Totals;
use gateway::client::Answer;
use gateway::owner::USER_HEADER;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn an_arrow_result_is_announced_fetched_and_right() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    let id = inline_id(answer(&ann, 100, 2_500).await);
    assert!(id.starts_with("inline-"), "{id}");
    assert_eq!(id.len(), "inline-".len() + 36);

    let fetched = ann.fetch(&id).await.unwrap();
    assert_eq!(fetched.status, StatusCode::OK);
    assert_eq!(fetched.headers["content-type"], "application/vnd.apache.arrow.stream");
    assert_eq!(fetched.headers["content-length"], fetched.body.len().to_string());
    assert_eq!(fetched.headers["cache-control"], "no-store");

    let expected = Totals::of_database(&server.app().database(), 100, 2_500).unwrap();
    assert_eq!(expected.rows, 2_500);
    assert_eq!(Totals::of_stream(&fetched.body).unwrap(), expected);
    assert_eq!(server.app().inline().usage().used_bytes, 0);
}

#[tokio::test]
async fn a_result_without_rows_is_a_stream_too() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    let id = inline_id(answer(&ann, 0, 0).await);
    let fetched = ann.fetch(&id).await.unwrap();
    assert_eq!(Totals::of_stream(&fetched.body).unwrap(), Totals::default());
}

#[tokio::test]
async fn a_json_result_comes_with_the_events_and_needs_no_stash() {
    let server = gateway(|_| {}).await;
    let request = json!({ "format": "JSON_ARRAY", "parameters": { "first": 5, "rows": 3 } });
    let running = client(&server, "ann").query("orders", &request).await.unwrap().unwrap();
    let Answer::Rows { columns, rows } = running.answer().await.unwrap() else {
        panic!("expected rows")
    };
    assert_eq!(columns, ["id", "day", "region", "product", "quantity", "amount_cents", "note"]);
    let column = |index: usize| rows.iter().map(move |row| row[index].clone()).collect::<Vec<_>>();
    assert_eq!(column(0), [5, 6, 7]);
    let amounts: i64 = column(5).iter().map(|amount| amount.as_i64().unwrap()).sum();
    let expected = Totals::of_database(&server.app().database(), 5, 3).unwrap();
    assert_eq!(amounts, expected.amount_cents);
    assert_eq!(server.app().metrics().stored.get(), 0);
}

#[tokio::test]
async fn every_type_of_column_survives_both_formats() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    let parameters = json!({ "from_day": 0, "to_day": 10 });
    let request = json!({ "format": "JSON_ARRAY", "parameters": parameters });
    let running = ann.query("revenue_by_region", &request).await.unwrap().unwrap();
    let Answer::Rows { rows, .. } = running.answer().await.unwrap() else {
        panic!("expected rows")
    };
    let first = &rows[0];
    assert_eq!(first[0], "africa");
    let average = first[2].as_f64().unwrap() / first[1].as_f64().unwrap();
    assert_eq!(first[3].as_f64(), Some(average));

    let request = json!({ "format": "ARROW_STREAM", "parameters": parameters });
    let running = ann.query("revenue_by_region", &request).await.unwrap().unwrap();
    let id = inline_id(running.answer().await.unwrap());
    let body = ann.fetch(&id).await.unwrap().body;
    let batch =
        arrow_ipc::reader::StreamReader::try_new(&body[..], None).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.num_rows(), rows.len());
    let averages = batch.column(3).as_any().downcast_ref::<arrow_array::Float64Array>().unwrap();
    assert_eq!(averages.value(0), average);
}

#[tokio::test]
async fn a_parameter_is_a_value_and_never_sql() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    for (region, found) in [("asia", true), ("asia' OR '1'='1", false)] {
        let request =
            json!({ "format": "JSON_ARRAY", "parameters": { "region": region, "rows": 5 } });
        let running = ann.query("orders_in_region", &request).await.unwrap().unwrap();
        let Answer::Rows { rows, .. } = running.answer().await.unwrap() else {
            panic!("expected rows")
        };
        assert_eq!(!rows.is_empty(), found, "{region}");
    }
}

#[tokio::test]
async fn the_stream_is_events_with_a_status_first() {
    let server = gateway(|_| {}).await;
    let response = reqwest::Client::new()
        .post(format!("http://{}/api/analytics/query/orders", server.address()))
        .header(USER_HEADER, "ann")
        .json(&orders(0, 1))
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-cache");
    let text = response.text().await.unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names, ["warehouse_status", "arrow"]);
    let data: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!((&data[0]["state"], &data[0]["warehouse"]), (&json!("RUNNING"), &json!("classic")));
    assert_eq!(data[1]["disposition"], "INLINE");
}

#[tokio::test]
async fn a_stream_that_waits_says_that_it_is_alive() {
    let server = gateway(|config| {
        config.max_bytes = common::SMALL_STASH;
        config.keep_alive = common::BRIEF;
    })
    .await;
    inline_id(answer(&client(&server, "holder"), 0, common::BIG).await);
    let mut response = reqwest::Client::new()
        .post(format!("http://{}/api/analytics/query/orders", server.address()))
        .header(USER_HEADER, "ann")
        .json(&orders(0, common::BIG))
        .send()
        .await
        .unwrap();
    // Comments are the only lines of an event stream that begin with a colon.
    let mut text = String::new();
    while !text.lines().any(|line| line.starts_with(':')) {
        let chunk = response.chunk().await.unwrap().expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

#[tokio::test]
async fn a_bad_request_is_refused_with_a_code_and_runs_nothing() {
    let server = gateway(|_| {}).await;
    let ann = client(&server, "ann");
    let good = orders(0, 1);
    for (key, request, status, code) in [
        ("nothing", good.clone(), 404, "QUERY_NOT_FOUND"),
        ("%ff", good.clone(), 404, "QUERY_NOT_FOUND"),
        ("orders", json!({ "format": "ARROW_STREAM" }), 400, "INVALID_PARAMETERS"),
        ("orders", orders(0, 1_000_000), 400, "INVALID_PARAMETERS"),
        ("orders", json!({ "format": "CSV" }), 400, "INVALID_REQUEST"),
        ("orders", json!([1, 2]), 400, "INVALID_REQUEST"),
        ("orders", json!({ "format": "JSON_ARRAY", "sql": "SELECT 1" }), 400, "INVALID_REQUEST"),
        (
            "orders",
            json!({ "format": "JSON_ARRAY", "disposition": "EXTERNAL_LINKS" }),
            400,
            "INVALID_REQUEST",
        ),
        ("orders", json!({ "format": "x".repeat(100_000) }), 413, "REQUEST_TOO_LARGE"),
    ] {
        let refusal = refusal(&ann, key, &request).await;
        assert_eq!((refusal.status, refusal.code.as_str()), (status, code));
    }
    assert_eq!(server.app().warehouse().executions().total, 0);
    assert_eq!(server.app().metrics().queries.get(), 0);
}

/// The same code for all of them, and a sentence that names the part that was bad.
#[tokio::test]
async fn a_bad_request_is_told_which_part_of_it_was_bad() {
    let server = gateway(|_| {}).await;
    let url = format!("http://{}/api/analytics/query/orders", server.address());
    for (media_type, body, status, code, part) in [
        (None, r#"{"format":"JSON_ARRAY"}"#, 415, "UNSUPPORTED_MEDIA_TYPE", "content-type"),
        (Some("text/plain"), "{}", 415, "UNSUPPORTED_MEDIA_TYPE", "content-type"),
        (Some("application/json"), "", 400, "INVALID_REQUEST", "not JSON"),
        (
            Some("application/json"),
            "{\"format\":\n oops}",
            400,
            "INVALID_REQUEST",
            "line 2 column 2",
        ),
        (Some("application/json; charset=utf-8"), "[]", 400, "INVALID_REQUEST", "JSON object"),
        (Some("application/json"), "{}", 400, "INVALID_REQUEST", "format is missing"),
        (Some("application/json"), r#"{"format":7}"#, 400, "INVALID_REQUEST", "format must be"),
        (
            Some("application/json"),
            r#"{"format":"JSON_ARRAY","disposition":"DISK"}"#,
            400,
            "INVALID_REQUEST",
            "disposition must be",
        ),
        (
            Some("application/json"),
            r#"{"format":"JSON_ARRAY","parameters":[]}"#,
            400,
            "INVALID_REQUEST",
            "parameters must be",
        ),
        (
            Some("application/json"),
            r#"{"format":"JSON_ARRAY","sql":"SELECT 1"}"#,
            400,
            "INVALID_REQUEST",
            "unknown field",
        ),
        (
            Some("application/json"),
            r#"{"format":"JSON_ARRAY","parameters":{"first":0,"rows":-1}}"#,
            400,
            "INVALID_PARAMETERS",
            "parameter rows",
        ),
    ] {
        let mut request = reqwest::Client::new().post(&url).header(USER_HEADER, "ann").body(body);
        if let Some(media_type) = media_type {
            request = request.header("content-type", media_type);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{body}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"]["code"], code, "{body}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{body}: {message}");
        assert!(!message.contains("SELECT"), "{message}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_in_json_too() {
    let server = gateway(|_| {}).await;
    let url = |path: &str| format!("http://{}{path}", server.address());
    for (method, path, status, code) in [
        (Method::GET, "/nothing", 404, "NOT_FOUND"),
        (Method::GET, "/api/analytics/query/orders", 405, "METHOD_NOT_ALLOWED"),
        (Method::POST, "/api/analytics/arrow-result/inline-1", 405, "METHOD_NOT_ALLOWED"),
    ] {
        let response = reqwest::Client::new().request(method, url(path)).send().await.unwrap();
        assert_eq!(response.status(), status);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], code);
    }
}

#[tokio::test]
async fn what_goes_wrong_inside_stays_inside() {
    let server = gateway(|_| {}).await;
    std::fs::write(server.app().database(), "no longer a database").unwrap();
    let refusal = common::refused(answer(&client(&server, "ann"), 0, 10).await);
    assert_eq!((refusal.status, refusal.code.as_str()), (500, "INTERNAL"));
    assert_eq!(refusal.message, "the request could not be completed");
    assert_eq!(refusal.retry_after(), None);
}
