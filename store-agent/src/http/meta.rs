//! `/`, `/health`, `/ready`, `/status`, `/problems/{code}`, `/connected`, `/disconnected`, `/idempotency/{key}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use protocol::ids::StoreId;
use protocol::number::{Epoch, Seq};
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::{Caller, Code, IdPath, OfCaller, OptionalBody, Problem, Query, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::imports::Running;
use super::{App, Shared};
use crate::ledger;
use crate::ledger::idempotency;

const PAGE: &str = include_str!("../pages/page.html");
const STYLE: &str = include_str!("../pages/page.css");
const SCRIPT: &str = include_str!("../pages/page.js");

/// What is at the root.
pub(super) fn pages() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(root))
        .route("/page.css", get(|| async { asset("text/css; charset=utf-8", STYLE.into()) }))
        .route("/page.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT.into()) }))
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(runtime::http::openapi::openapi))
}

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(runtime::http::describe))
        .routes(routes!(connect))
        .routes(routes!(disconnect))
        .routes(routes!(key))
}

fn asset(kind: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Who answers
#[utoipa::path(
    get, path = "/", operation_id = "getServer", tag = "Server",
    responses((status = 200, description = "A page for browsers (`Accept: text/html`), a line (`text/plain`), else JSON", content((About = "application/json"), (String = "text/html"), (String = "text/plain")))),
)]
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
    Json(About {
        service: "Store Server",
        store_id: &app.store,
        status: "OK",
        connected: app.connectivity.switch().connected,
        link: app.connectivity.name(),
        version: env!("CARGO_PKG_VERSION"),
    })
    .into_response()
}

/// Who answers
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct About<'a> {
    /// `Store Server`.
    service: &'static str,
    #[schema(value_type = schema::StoreId)]
    store_id: &'a StoreId,
    /// `OK`.
    status: &'static str,
    /// Whether it wants to be: see `POST /connected`.
    connected: bool,
    /// `up`, `down`, `off` or `fenced`.
    link: &'static str,
    version: &'static str,
}

/// Sign of life
#[derive(Serialize, ToSchema)]
struct Health {
    /// `OK`.
    status: &'static str,
}

/// Whether the process lives
#[utoipa::path(
    get, path = "/health", operation_id = "getHealth", tag = "Server",
    responses((status = 200, description = "It does", body = Health)),
)]
async fn health() -> Json<Health> {
    Json(Health { status: "OK" })
}

/// Whether the server can do its work
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// `ready`, `degraded` (its link is not up) or `broken`.
    status: &'static str,
    checks: Checks,
}

/// What was looked at
#[derive(Serialize, ToSchema)]
struct Checks {
    /// `up` or `down`.
    database: &'static str,
    /// `up`, `down`, `off` or `fenced`.
    link: &'static str,
}

/// Whether the server can do its work
///
/// Depends on the database only: tills go on while central or Redis is away.
#[utoipa::path(
    get, path = "/ready", operation_id = "getReadiness", tag = "Server",
    responses((status = 200, description = "It can", body = Readiness), (status = 503, description = "It cannot", body = Readiness)),
)]
async fn ready(State(app): Shared) -> Response {
    let readable = app.db.read(ledger::head).await.is_ok();
    let link = app.connectivity.name();
    let (code, database) = if readable { (StatusCode::OK, "up") } else { (StatusCode::SERVICE_UNAVAILABLE, "down") };
    let status = match (readable, link) {
        (false, _) => "broken",
        (true, "up") => "ready",
        (true, _) => "degraded",
    };
    (code, Json(Readiness { status, checks: Checks { database, link } })).into_response()
}

/// How the agent and its link are
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    connected: bool,
    /// Since then it is connected, or is not.
    #[schema(value_type = schema::Time)]
    since: Millis,
    /// `up`, `down`, `off` or `fenced`.
    link: &'static str,
    /// Why the link has stopped itself.
    stopped: Option<&'static str>,
    /// What to do about it.
    advice: Option<&'static str>,
    #[schema(value_type = schema::Epoch)]
    epoch: Epoch,
    /// The last entry of the ledger.
    #[schema(value_type = schema::Seq)]
    head: Seq,
    /// The last one that central has.
    #[schema(value_type = schema::Seq)]
    acked: Seq,
    /// Entries that central does not have.
    backlog: u64,
    oldest_unsent_ms: i64,
    /// The last command of central that is dealt with.
    commands: String,
    /// Of the whole stock: central's is the same when it has everything.
    digest: String,
    items: u64,
    /// Whether there are no items yet.
    new: bool,
    /// Online purchases that wait to be picked.
    to_pick: i64,
    dead_letters: i64,
    imports: Vec<Running>,
    #[schema(value_type = schema::Time)]
    started_at: Millis,
    agent_version: &'static str,
}

/// How the agent and its link are
#[utoipa::path(
    get, path = "/status", operation_id = "getStatus", tag = "Server",
    responses((status = 200, description = "How they are", body = Status)),
)]
async fn status(State(app): Shared) -> Result<Json<Status>> {
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
    Ok(Json(Status {
        store_id: app.store.clone(),
        connected: switch.connected,
        since: switch.since,
        link: app.connectivity.name(),
        stopped: link.stopped.map(|why| why.as_str()),
        advice,
        epoch: head.cursor.epoch,
        head: head.cursor.seq,
        acked: backlog.acked,
        backlog: backlog.entries,
        oldest_unsent_ms: backlog.oldest.map_or(0, |oldest| runtime::clock::now().since(oldest)),
        commands: commands.id().to_string(),
        digest: head.digest.to_string(),
        items: head.items,
        new: head.items == 0,
        to_pick: waiting,
        dead_letters: letters,
        imports: app.imports.running(),
        started_at: app.started_at,
        agent_version: env!("CARGO_PKG_VERSION"),
    }))
}

/// Whether the agent is connected
#[derive(Serialize, ToSchema)]
struct Switched {
    connected: bool,
    #[schema(value_type = schema::Time)]
    since: Millis,
}

fn switched(switch: crate::links::connectivity::Switch) -> Json<Switched> {
    Json(Switched { connected: switch.connected, since: switch.since })
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Connect {}

/// Go online
#[utoipa::path(
    post, path = "/connected", operation_id = "connect", tag = "Link",
    request_body = Option<Connect>,
    responses((status = 200, description = "It is, or will be as soon as Redis is there", body = Switched)),
)]
async fn connect(State(app): Shared, _body: OptionalBody<Connect>) -> Json<Switched> {
    if !app.connectivity.switch().connected {
        tracing::info!("connected on request");
    }
    switched(app.connectivity.set(true, false, runtime::clock::now()))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"abrupt": true}))]
struct Disconnect {
    /// `true`: without a word, as if a cable were cut.
    abrupt: Option<bool>,
}

/// Go offline
///
/// The till goes on selling. Not remembered: an agent that is started again is online.
#[utoipa::path(
    post, path = "/disconnected", operation_id = "disconnect", tag = "Link",
    request_body = Option<Disconnect>,
    responses((status = 200, description = "It is", body = Switched)),
)]
async fn disconnect(State(app): Shared, body: OptionalBody<Disconnect>) -> Json<Switched> {
    let abrupt = body.value.abrupt.unwrap_or(false);
    if app.connectivity.switch().connected {
        tracing::info!(abrupt, "disconnected on request");
    }
    switched(app.connectivity.set(false, abrupt, runtime::clock::now()))
}

/// What a key stands for
#[derive(Serialize, ToSchema)]
struct KeyView {
    /// Method and path of the request that came with it.
    route: String,
    #[schema(value_type = schema::Time)]
    at: Millis,
    /// `done`.
    status: &'static str,
    /// What was answered.
    #[schema(value_type = Object)]
    effect: Value,
}

/// What an idempotency key stands for
#[utoipa::path(
    get, path = "/idempotency/{id}", operation_id = "getIdempotencyKey", tag = "Operators", params(IdPath, OfCaller),
    responses((status = 200, description = "The request that came with it, and what it was answered", body = KeyView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn key(
    State(app): Shared,
    caller: Caller,
    IdPath(key): IdPath,
    Query(of): Query<OfCaller>,
) -> Result<Json<KeyView>> {
    let key = of.key(&caller, &key);
    let record = app.db.read(|connection| idempotency::find(connection, &key)).await?;
    let record = record.ok_or_else(|| Problem::new(Code::UnknownId))?;
    let effect: Value = serde_json::from_str(&record.body).unwrap_or_default();
    // A store has done a write before it answers: what was refused binds no key.
    Ok(Json(KeyView { route: record.route, at: record.at, status: "done", effect }))
}
