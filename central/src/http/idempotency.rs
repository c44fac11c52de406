//! `GET /idempotency/{key}`: what a key stands for (API rule 3).

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use protocol::time::Millis;
use runtime::http::{Code, IdPath, Problem, Result};
use serde::Serialize;

use super::{App, Shared};
use crate::storage::idempotency::{self, Effect};
use crate::storage::{commands, purchases};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/idempotency/{id}", get(one))
}

#[derive(Debug, Serialize)]
struct KeyView {
    route: String,
    at: Millis,
    /// Of the effect now; `null`: it is past its retention.
    status: Option<&'static str>,
    effect: EffectView,
}

#[derive(Debug, Serialize)]
struct EffectView {
    kind: &'static str,
    id: String,
}

async fn one(State(app): Shared, IdPath(key): IdPath) -> Result<Json<KeyView>> {
    let found = app.db.read(|connection| {
        let Some(record) = idempotency::find(connection, &key)? else { return Ok(None) };
        let status = match record.effect {
            Effect::Purchase | Effect::Cancel => {
                let purchase = record.target.parse().ok().map(|id| purchases::find(connection, id)).transpose()?;
                purchase.flatten().map(|purchase| purchase.status.as_str())
            }
            Effect::Command => commands::find(connection, &record.target)?.map(|request| request.status.as_str()),
            Effect::Store | Effect::Webhook => Some("done"),
        };
        Ok(Some((record, status)))
    });
    let (record, status) = found.await?.ok_or_else(|| Problem::new(Code::UnknownId))?;
    let effect = EffectView { kind: record.effect.as_str(), id: record.target };
    Ok(Json(KeyView { route: record.route, at: record.at, status, effect }))
}
