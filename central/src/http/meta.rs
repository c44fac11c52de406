//! `/`, `/health`, `/ready`, `/problems/{code}`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use runtime::http::header_value;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, Shared};
use crate::storage::queries::events;

/// Without Redis, a view from before is served after this long.
const PATIENCE: Duration = Duration::from_secs(10);
const PAGE: &str = include_str!("../pages/page.html");
const STYLE: &str = include_str!("../pages/page.css");
const SCRIPT: &str = include_str!("../pages/page.js");

/// What is at the root.
pub(super) fn pages() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(root))
        .route("/page.css", get(|| async { asset("text/css; charset=utf-8", STYLE) }))
        .route("/page.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }))
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(runtime::http::openapi::openapi))
}

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(runtime::http::describe))
}

/// Sign of life
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `OK`.
    status: &'static str,
}

/// Who answers
#[derive(Debug, Serialize, ToSchema)]
struct About {
    /// `Central Server`.
    service: &'static str,
    /// `OK`.
    status: &'static str,
    /// `up` or `down`.
    redis: &'static str,
    version: &'static str,
}

/// Whether the server can do its work
#[derive(Debug, Serialize, ToSchema)]
struct Readiness {
    /// `ready`, `degraded` (Redis is away), `starting` or `broken`.
    status: &'static str,
    checks: Checks,
}

/// What was looked at
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Checks {
    /// `up` or `down`.
    database: &'static str,
    /// `up` or `down`.
    redis: &'static str,
    /// All known stores were read once.
    stores_read: bool,
}

/// Whether the process lives
#[utoipa::path(
    get, path = "/health", operation_id = "getHealth", tag = "Server",
    responses((status = 200, description = "It does", body = Health)),
)]
async fn health() -> Json<Health> {
    Json(Health { status: "OK" })
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Who answers
#[utoipa::path(
    get, path = "/", operation_id = "getServer", tag = "Server",
    responses((status = 200, description = "A page for browsers (`Accept: text/html`), a line (`text/plain`), else JSON", content((About = "application/json"), (String = "text/html"), (String = "text/plain")))),
)]
async fn root(app: Shared, headers: HeaderMap) -> Response {
    let mut response = root_as(app, &headers);
    response.headers_mut().append(header::VARY, header_value("accept"));
    response
}

fn root_as(State(app): Shared, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("text/html") {
        let policy = "default-src 'self'; frame-ancestors 'none'";
        let mut page = asset("text/html; charset=utf-8", PAGE);
        page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, header_value(policy));
        return page;
    }
    if accept.contains("text/plain") {
        return asset("text/plain; charset=utf-8", "Central Server: OK");
    }
    let redis = if app.presence.is_redis_reachable() { "up" } else { "down" };
    let version = env!("CARGO_PKG_VERSION");
    Json(About { service: "Central Server", status: "OK", redis, version }).into_response()
}

/// Whether the server can do its work
///
/// Once all known stores were read, or with a view from before when Redis stays away.
#[utoipa::path(
    get, path = "/ready", operation_id = "getReadiness", tag = "Server",
    responses((status = 200, description = "It can", body = Readiness), (status = 503, description = "It cannot", body = Readiness)),
)]
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
