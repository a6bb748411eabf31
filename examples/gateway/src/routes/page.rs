//! The page at `/`: its files, which are part of the program, and the settings that it begins with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::app::App;
use crate::catalog::Query;
use crate::errors::{ApiError, Code};
use crate::owner::{Owner, USER_HEADER};

/// The file of the npm package `apache-arrow` that has all of it in one script.
const ARROW_FILE: &str = "Arrow.es2015.min.js";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, content type and text of a file.
const FILES: [(&str, &str, &str); 9] = [
    ("page.css", "text/css; charset=utf-8", include_str!("../../page/page.css")),
    ("icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
    ("main.js", SCRIPT, include_str!("../../page/main.js")),
    ("dom.js", SCRIPT, include_str!("../../page/dom.js")),
    ("gateway.js", SCRIPT, include_str!("../../page/gateway.js")),
    ("ask.js", SCRIPT, include_str!("../../page/ask.js")),
    ("result.js", SCRIPT, include_str!("../../page/result.js")),
    ("stash.js", SCRIPT, include_str!("../../page/stash.js")),
    ("jam.js", SCRIPT, include_str!("../../page/jam.js")),
];

/// The page runs its own scripts and connects to its own gateway only.
const ONLY_ITSELF: (HeaderName, &str) = (
    header::CONTENT_SECURITY_POLICY,
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Headers that a proxy sets.
const OF_A_PROXY: [&str; 3] = ["forwarded", "x-forwarded-for", "via"];

pub(super) async fn index() -> Response {
    let html = file("text/html; charset=utf-8", include_str!("../../page/index.html"));
    ([ONLY_ITSELF], html).into_response()
}

pub(super) async fn asset(UrlPath(name): UrlPath<String>) -> Result<Response, ApiError> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    found
        .map(|(_, media_type, text)| file(media_type, *text))
        .ok_or_else(|| ApiError::new(Code::NotFound, "the page has no such file"))
}

pub(super) async fn apache_arrow(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let script = app.apache_arrow().cloned();
    script
        .map(|script| file(SCRIPT, script))
        .ok_or_else(|| ApiError::new(Code::NotFound, "this gateway was started without it"))
}

/// The user, the catalogue, and the limits.
pub(super) async fn session(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let user = Owner::of(&headers).ok();
    let config = app.config();
    let behind_a_proxy = headers.contains_key(USER_HEADER)
        || OF_A_PROXY.iter().any(|name| headers.contains_key(*name));
    let session = json!({
        "user": user.as_ref().map(Owner::name),
        // The gateway listens on loopback only, so without a proxy the user sits at this machine.
        "userCanBeChosen": !behind_a_proxy,
        "userHeader": USER_HEADER,
        "warehouse": config.behaviour.name(),
        "stash": config.stash.name(),
        "maxBytes": config.max_bytes,
        "maxBytesPerOwner": config.max_bytes_per_owner,
        "waitMs": u64::try_from(config.wait.as_millis()).unwrap_or(u64::MAX),
        "ttlMs": u64::try_from(config.ttl.as_millis()).unwrap_or(u64::MAX),
        "orders": config.rows,
        "apacheArrow": app.apache_arrow().map(|_| "/page/apache-arrow.js"),
        "queries": Query::all().iter().map(Query::describe).collect::<Vec<_>>(),
    });
    ([(header::CACHE_CONTROL, "no-store")], Json(session)).into_response()
}

fn file(media_type: &'static str, content: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        // Revalidated each time, so that a page never runs with the scripts of an older program.
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, content).into_response()
}

/// Reads the script of `apache-arrow`: `path` itself, or the file of that name in the folder `path`.
pub(crate) fn read_apache_arrow(path: &Path) -> anyhow::Result<Bytes> {
    let file = if path.is_dir() { path.join(ARROW_FILE) } else { PathBuf::from(path) };
    let script = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Bytes::from(script))
}
