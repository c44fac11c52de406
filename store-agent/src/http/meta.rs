//! `/`, `/health`, `/ready`, `/status`, `/problems/{code}`, `/connected`, `/disconnected`, `/idempotency/{key}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use runtime::http::{Code, IdPath, OptionalBody, Problem, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, Shared};
use crate::ledger;
use crate::ledger::idempotency;

const PAGE: &str = include_str!("../pages/page.html");
const STYLE: &str = include_str!("../pages/page.css");
const SCRIPT: &str = include_str!("../pages/page.js");

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(root))
        .route("/page.css", get(|| async { asset("text/css; charset=utf-8", STYLE.into()) }))
        .route("/page.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT.into()) }))
        .route("/health", get(|| async { Json(json!({"status": "OK"})) }))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/problems/{id}", get(runtime::http::describe))
        .route("/connected", post(connect))
        .route("/disconnected", post(disconnect))
        .route("/idempotency/{id}", get(key))
}

fn asset(kind: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn root(State(app): Shared, headers: HeaderMap) -> Response {
    let mut response = root_as_asked(&app, &headers);
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn root_as_asked(app: &App, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("text/html") {
        let policy = HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'");
        let mut page = asset("text/html; charset=utf-8", PAGE.replace("{{store}}", app.store.as_str()));
        page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        return page;
    }
    if accept.contains("text/plain") {
        return asset("text/plain; charset=utf-8", format!("Store Server {}: OK", app.store));
    }
    Json(json!({
        "service": "Store Server",
        "storeId": app.store,
        "status": "OK",
        "connected": app.connectivity.switch().connected,
        "link": app.connectivity.name(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
    .into_response()
}

/// Depends on the database only, else an orchestrator would take tills out in an outage; that the link is down is said.
async fn ready(State(app): Shared) -> Response {
    let readable = app.db.read(ledger::head).await.is_ok();
    let link = app.connectivity.name();
    let (code, database) = if readable { (StatusCode::OK, "up") } else { (StatusCode::SERVICE_UNAVAILABLE, "down") };
    let status = match (readable, link) {
        (false, _) => "broken",
        (true, "up") => "ready",
        (true, _) => "degraded",
    };
    (code, Json(json!({"status": status, "checks": {"database": database, "link": link}}))).into_response()
}

async fn status(State(app): Shared) -> Result<Json<Value>> {
    let link = app.connectivity.link();
    let read = app.db.read(|connection| {
        Ok((
            ledger::head(connection)?,
            ledger::backlog(connection, link.acked)?,
            ledger::command_cursor(connection)?.0,
            ledger::purchases::count_to_pick(connection)?,
            ledger::dead_letters::count(connection)?,
        ))
    });
    let (head, backlog, commands, waiting, letters) = read.await?;
    let switch = app.connectivity.switch();
    let advice = link.stopped.map(|_| {
        "Another database of this store is the one that central follows. This one goes on selling but publishes \
         nothing. Stop the other agent, or restore this one: docs/OPERATIONS.md. If central shows this store as retired, \
         take it back there first."
    });
    Ok(Json(json!({
        "storeId": app.store,
        "connected": switch.connected,
        "since": switch.since,
        "link": app.connectivity.name(),
        "stopped": link.stopped.map(|why| why.as_str()),
        "advice": advice,
        "epoch": head.cursor.epoch,
        "head": head.cursor.seq,
        "acked": backlog.acked,
        "backlog": backlog.entries,
        "oldestUnsentMs": backlog.oldest.map_or(0, |oldest| runtime::clock::now().since(oldest)),
        "commands": commands.id().to_string(),
        "digest": head.digest.to_string(),
        "items": head.items,
        "new": head.items == 0,
        "toPick": waiting,
        "deadLetters": letters,
        "imports": app.imports.running(),
        "startedAt": app.started_at,
        "agentVersion": env!("CARGO_PKG_VERSION"),
    })))
}

fn switched(switch: crate::links::connectivity::Switch) -> Json<Value> {
    Json(json!({"connected": switch.connected, "since": switch.since}))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Connect {}

async fn connect(State(app): Shared, _body: OptionalBody<Connect>) -> Json<Value> {
    if !app.connectivity.switch().connected {
        tracing::info!("connected on request");
    }
    switched(app.connectivity.set(true, false, runtime::clock::now()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Disconnect {
    abrupt: Option<bool>,
}

async fn disconnect(State(app): Shared, body: OptionalBody<Disconnect>) -> Json<Value> {
    let abrupt = body.value.abrupt.unwrap_or(false);
    if app.connectivity.switch().connected {
        tracing::info!(abrupt, "disconnected on request");
    }
    switched(app.connectivity.set(false, abrupt, runtime::clock::now()))
}

async fn key(State(app): Shared, IdPath(key): IdPath) -> Result<Json<Value>> {
    let record = app.db.read(|connection| idempotency::find(connection, &key)).await?;
    let record = record.ok_or_else(|| Problem::new(Code::UnknownId))?;
    let effect: Value = serde_json::from_str(&record.body).unwrap_or_default();
    // A store has done a write before it answers: what was refused binds no key.
    Ok(Json(json!({"route": record.route, "at": record.at, "status": "done", "effect": effect})))
}
