//! The page, and what it has to know to begin.

mod common;

use std::path::PathBuf;

use common::{client, gateway};
use gateway::owner::USER_HEADER;
use gateway::server::Server;
use reqwest::StatusCode;
use serde_json::Value;

async fn get(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> reqwest::Response {
    let mut request = reqwest::Client::new().get(format!("http://{}{path}", server.address()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn session(server: &Server, headers: &[(&'static str, &str)]) -> Value {
    get(server, "/page/session.json", headers).await.json().await.unwrap()
}

#[tokio::test]
async fn the_page_and_all_that_it_names_are_there() {
    let server = gateway(|_| {}).await;
    let page = get(&server, "/", &[]).await;
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    // Scripts of its own only, and none in the markup.
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    let page = page.text().await.unwrap();

    let mut files: Vec<String> = quoted(&page, "/page/");
    files.dedup();
    assert!(files.len() >= 3, "{files:?}");
    let mut seen = 0;
    while let Some(file) = files.get(seen).cloned() {
        seen += 1;
        let response = get(&server, &file, &[]).await;
        assert_eq!(response.status(), StatusCode::OK, "{file}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let media_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let expected = match file.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(media_type, expected, "{file}");
        let text = response.text().await.unwrap();
        for import in quoted(&text, "./") {
            let import = format!("/page/{}", &import[2..]);
            if !files.contains(&import) {
                files.push(import);
            }
        }
    }
    assert!(files.len() >= 8, "the scripts import each other: {files:?}");
    assert_eq!(get(&server, "/page/nothing.js", &[]).await.status(), StatusCode::NOT_FOUND);
}

/// The texts in double quotes that begin with `prefix`.
fn quoted(text: &str, prefix: &str) -> Vec<String> {
    let texts = text.split('"').filter(|text| text.starts_with(prefix));
    texts.filter(|text| !text.contains(char::is_whitespace)).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_user_can_be_chosen_only_where_no_proxy_is_in_front() {
    let server = gateway(|_| {}).await;
    let alone = session(&server, &[]).await;
    assert_eq!((&alone["user"], &alone["userCanBeChosen"]), (&Value::Null, &Value::Bool(true)));
    assert_eq!(alone["userHeader"], USER_HEADER);
    let signed_in = session(&server, &[(USER_HEADER, "ann")]).await;
    assert_eq!(signed_in["user"], "ann");
    assert_eq!(signed_in["userCanBeChosen"], false);
    for (name, value) in [
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("via", "1.1 proxy"),
        (USER_HEADER, " "),
    ] {
        let session = session(&server, &[(name, value)]).await;
        assert_eq!(session["user"], Value::Null, "{name}");
        assert_eq!(session["userCanBeChosen"], false, "{name}");
    }
}

#[tokio::test]
async fn the_page_is_told_every_query_and_a_client_can_ask_it() {
    let server = gateway(|_| {}).await;
    let session = session(&server, &[]).await;
    let queries = session["queries"].as_array().unwrap();
    assert_eq!(queries.len(), gateway::catalog::Query::all().len());
    for query in queries {
        // Built from what the page receives alone.
        let parameters = query["parameters"].as_array().unwrap().iter().map(|parameter| {
            let value = match parameter["type"].as_str().unwrap() {
                "integer" => parameter["min"].clone(),
                "text" => Value::from("europe"),
                other => panic!("no such type: {other}"),
            };
            (parameter["name"].as_str().unwrap().to_owned(), value)
        });
        let request = serde_json::json!({
            "format": "JSON_ARRAY",
            "parameters": parameters.collect::<serde_json::Map<_, _>>(),
        });
        let key = query["key"].as_str().unwrap();
        let running = client(&server, "ann").query(key, &request).await.unwrap().unwrap();
        let gateway::client::Answer::Rows { columns, .. } = running.answer().await.unwrap() else {
            panic!("expected rows")
        };
        let told = query["columns"].as_array().unwrap().iter().map(|column| &column["name"]);
        assert_eq!(told.collect::<Vec<_>>(), columns.iter().collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test]
async fn the_gateway_serves_apache_arrow_if_it_is_told_where() {
    let without = gateway(|_| {}).await;
    assert_eq!(session(&without, &[]).await["apacheArrow"], Value::Null);
    let missing = get(&without, "/page/apache-arrow.js", &[]).await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);

    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("Arrow.es2015.min.js");
    std::fs::write(&script, "globalThis.Arrow = 1;").unwrap();
    for path in [folder.path().to_owned(), script] {
        let server = gateway(|config| config.apache_arrow = Some(path)).await;
        let url = session(&server, &[]).await["apacheArrow"].as_str().unwrap().to_owned();
        let served = get(&server, &url, &[]).await;
        assert_eq!(served.headers()["content-type"], "text/javascript; charset=utf-8");
        assert_eq!(served.text().await.unwrap(), "globalThis.Arrow = 1;");
    }
    let nowhere = gateway::config::Config {
        apache_arrow: Some(PathBuf::from("/nonexistent/Arrow.js")),
        ..Default::default()
    };
    let error = Server::start(nowhere, 0).await.expect_err("there is none");
    assert!(error.to_string().contains("/nonexistent/Arrow.js"), "{error}");
}
