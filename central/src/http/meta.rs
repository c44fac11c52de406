//! `/`, `/health`, `/ready`, `/problems/{code}`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::{App, Shared};
use crate::storage::queries::events;

/// Without Redis, a view from before is served after this long.
const PATIENCE: Duration = Duration::from_secs(10);
const PAGE: &str = include_str!("../pages/page.html");
const STYLE: &str = include_str!("../pages/page.css");
const SCRIPT: &str = include_str!("../pages/page.js");

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(root))
        .route("/page.css", get(|| async { asset("text/css; charset=utf-8", STYLE) }))
        .route("/page.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/health", get(|| async { Json(Health { status: "OK" }) }))
        .route("/ready", get(ready))
        .route("/problems/{id}", get(runtime::http::describe))
}

#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
}

#[derive(Debug, Serialize)]
struct About {
    service: &'static str,
    status: &'static str,
    redis: &'static str,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct Readiness {
    status: &'static str,
    checks: Checks,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checks {
    database: &'static str,
    redis: &'static str,
    /// All known stores were read once.
    stores_read: bool,
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn root(app: Shared, headers: HeaderMap) -> Response {
    let mut response = root_as(app, &headers);
    response.headers_mut().append(header::VARY, super::views::value("accept"));
    response
}

fn root_as(State(app): Shared, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("text/html") {
        let policy = "default-src 'self'; frame-ancestors 'none'";
        let mut page = asset("text/html; charset=utf-8", PAGE);
        page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, super::views::value(policy));
        return page;
    }
    if accept.contains("text/plain") {
        return asset("text/plain; charset=utf-8", "Central Server: OK");
    }
    let redis = if app.presence.is_redis_reachable() { "up" } else { "down" };
    let version = env!("CARGO_PKG_VERSION");
    Json(About { service: "Central Server", status: "OK", redis, version }).into_response()
}

/// Ready once all known stores were read once, or with a view from before when Redis stays away.
async fn ready(State(app): Shared) -> Response {
    let redis = app.presence.is_redis_reachable();
    let swept = app.presence.has_swept();
    let readable = app.db.read(events::last_place).await.is_ok();
    let patient = app.started_at.elapsed() >= PATIENCE && !redis && app.had_view;
    let ready = readable && (swept || patient);
    let status = match (readable, ready, redis) {
        (false, _, _) => "broken",
        (true, false, _) => "starting",
        (true, true, true) => "ready",
        (true, true, false) => "degraded",
    };
    let checks = Checks {
        database: if readable { "up" } else { "down" },
        redis: if redis { "up" } else { "down" },
        stores_read: swept,
    };
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Readiness { status, checks })).into_response()
}
