//! `GET /idempotency/{key}`: what a key stands for (API rule 3).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::{Caller, Code, IdPath, OfCaller, Problem, Query, Result};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, Shared};
use crate::storage::idempotency::{self, Effect};
use crate::storage::{commands, purchases};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(one))
}

/// What a key stands for
#[derive(Debug, Serialize, ToSchema)]
struct KeyView {
    /// Method and path of the request that came with it.
    route: String,
    #[schema(value_type = schema::Time)]
    at: Millis,
    /// Of the effect now; `null`: it is past its retention.
    status: Option<&'static str>,
    effect: EffectView,
}

/// What a request has done
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Effect)]
struct EffectView {
    /// Of which kind the record is that `id` names.
    kind: &'static str,
    id: String,
}

/// What an idempotency key stands for
#[utoipa::path(
    get, path = "/idempotency/{id}", operation_id = "getIdempotencyKey", tag = "Operators", params(IdPath, OfCaller),
    responses((status = 200, description = "The request that came with it, and its effect", body = KeyView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn one(
    State(app): Shared,
    caller: Caller,
    IdPath(key): IdPath,
    Query(of): Query<OfCaller>,
) -> Result<Json<KeyView>> {
    let key = of.key(&caller, &key);
    let found = app.db.read(|connection| {
        let Some(record) = idempotency::find(connection, &key)? else { return Ok(None) };
        let status = match record.effect {
            Effect::Purchase | Effect::Cancel => {
                let purchase = record.target.parse().ok().map(|id| purchases::find(connection, id)).transpose()?;
                purchase.flatten().map(|purchase| purchase.status.as_str())
            }
            Effect::Command => commands::find(connection, &record.target)?.map(|request| request.status.as_str()),
            Effect::Store | Effect::Webhook | Effect::Projection => Some("done"),
        };
        Ok(Some((record, status)))
    });
    let (record, status) = found.await?.ok_or_else(|| Problem::new(Code::UnknownId))?;
    let effect = EffectView { kind: record.effect.as_str(), id: record.target };
    Ok(Json(KeyView { route: record.route, at: record.at, status, effect }))
}
