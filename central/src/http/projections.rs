//! `GET /projections`, `POST /projections/rebuild`: how the view is built anew from the ledger.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::Response;
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::{List, Result, Write};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::write::{Headers, key_of};
use super::{App, Shared};
use crate::projection::rebuild::begin;
use crate::storage::idempotency::Effect;
use crate::storage::rebuild;
use crate::storage::{Connection, JobResult};

/// The one projection: what the stores have.
const NAME: &str = "inventory";
/// Stores left out that are named.
const NAMED: usize = 100;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(start))
}

/// What is built from the ledger
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Projection)]
struct ProjectionView {
    name: &'static str,
    /// `live`, or `rebuilding`.
    status: &'static str,
    /// Entries that the rebuild has applied: the one that runs, or the last one.
    applied: u64,
    /// Entries that it had to apply when it began.
    total: u64,
    #[schema(value_type = Option<schema::Time>)]
    started_at: Option<Millis>,
    /// `null`: it runs, or there was none.
    #[schema(value_type = Option<schema::Time>)]
    finished_at: Option<Millis>,
    /// Of all that is shown: the sum of the stores' digests, modulo 2^128.
    digest: String,
    left_out: LeftOut,
}

/// Stores that the rebuild left as they were
#[derive(Debug, Serialize, ToSchema)]
struct LeftOut {
    count: usize,
    /// The first 100, by id.
    stores: Vec<LeftOutStore>,
}

/// A store that a rebuild left as it was
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LeftOutStore {
    store_id: String,
    /// `digest_differs`, `ledger_incomplete` or `restoring`.
    reason: String,
}

type Projections = List<ProjectionView>;

impl App {
    async fn projections(&self) -> Result<Json<Projections>> {
        let read = |connection: &Connection| -> JobResult<_> {
            let (first, count) = rebuild::left_out(connection, NAMED)?;
            Ok((rebuild::find(connection)?, first, count, rebuild::digest(connection)?))
        };
        let (last, first, count, digest) = self.db.scan(read).await?;
        let is_running = last.as_ref().is_some_and(|last| last.finished_at.is_none());
        let stores = first.into_iter().map(|(store_id, reason)| LeftOutStore { store_id, reason }).collect();
        let inventory = ProjectionView {
            name: NAME,
            status: if is_running { "rebuilding" } else { "live" },
            applied: last.as_ref().map_or(0, |last| last.applied),
            total: last.as_ref().map_or(0, |last| last.total),
            started_at: last.as_ref().map(|last| last.started_at),
            finished_at: last.and_then(|last| last.finished_at),
            digest: digest.to_string(),
            left_out: LeftOut { count, stores },
        };
        Ok(Json(List { items: vec![inventory], next_cursor: None }))
    }
}

/// How far a rebuild of the view is
#[utoipa::path(
    get, path = "/projections", operation_id = "listProjections", tag = "Operators",
    responses((status = 200, description = "The one projection, `inventory`", body = Projections)),
)]
async fn list(State(app): Shared) -> Result<Json<Projections>> {
    app.projections().await
}

/// Build the view anew from the ledger
///
/// Beside everything else, store by store. What was built is shown once its digest is the store's; until then, and of a
/// store that is left out, what was shown before stays. If a rebuild runs already, it goes on.
#[utoipa::path(
    post, path = "/projections/rebuild", operation_id = "rebuildProjections", tag = "Operators", params(Write),
    responses((status = 202, description = "It runs: look at `Location`", body = Projections)),
)]
async fn start(State(app): Shared, write: Write) -> Result<Response> {
    let key = key_of(&write, &Value::Null);
    app.replay(key.as_ref()).await?;
    tracing::info!("an operator asks for a rebuild of the view");
    let steps = app.wakes.steps();
    let act = |connection: &Connection, now: Millis| Ok(begin(connection, now)?);
    let written = app.write_chain(key, Effect::Projection, NAME.to_owned(), act, move || steps.notify_one()).await?;
    let headers = Headers::new(None, written.value.is_none(), None).with(header::LOCATION, "/v1/projections");
    Ok(headers.on((StatusCode::ACCEPTED, app.projections().await?)))
}
