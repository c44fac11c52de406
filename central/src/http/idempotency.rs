//! Idempotency keys (API rule 3), and `GET /idempotency/{key}`.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use runtime::http::{Code, IdPath, Problem, Result, Write, fingerprint};
use serde_json::{Value, json};

use super::{App, Shared};
use crate::promises::commands;
use crate::promises::purchases;
use crate::storage::idempotency::{self, Key, Record};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/idempotency/{id}", get(one))
}

/// The key of a write, if it has one.
pub(super) fn key_of(write: &Write, json: &Value) -> Option<Key> {
    let key = write.key.clone()?;
    let fingerprint = fingerprint(&write.method, &write.path, json);
    Some(Key { key, fingerprint, route: format!("{} {}", write.method, write.path) })
}

/// What the key stands for already. Another request under it is refused.
pub(super) fn known(
    connection: &rusqlite::Connection,
    key: Option<&Key>,
) -> std::result::Result<Option<Record>, runtime::sqlite::Abort<Problem>> {
    let Some(key) = key else { return Ok(None) };
    match idempotency::find(connection, &key.key)? {
        Some(record) if record.fingerprint != key.fingerprint => {
            Err(runtime::sqlite::Abort::Refused(Problem::new(Code::IdempotencyKeyReused)))
        }
        found => Ok(found),
    }
}

impl App {
    /// What the key stands for already, looked up before anything else is judged.
    pub(super) fn replay(&self, key: Option<&Key>) -> Result<Option<Record>> {
        if key.is_none() {
            return Ok(None);
        }
        match self.reader.point(|connection| Ok(known(connection, key)))? {
            Ok(found) => Ok(found),
            Err(runtime::sqlite::Abort::Refused(problem)) => Err(problem),
            Err(runtime::sqlite::Abort::Database(error)) => Err(error.into()),
        }
    }
}

async fn one(State(app): Shared, IdPath(key): IdPath) -> Result<Json<Value>> {
    let record = app.reader.point(|connection| idempotency::find(connection, &key))?;
    let record = record.ok_or_else(|| Problem::new(Code::UnknownId))?;
    let status = app.reader.point(|connection| {
        Ok(match record.effect {
            idempotency::Effect::Purchase | idempotency::Effect::Cancel => {
                let purchase = record.target.parse().ok().map(|id| purchases::find(connection, id)).transpose()?;
                purchase.flatten().map(|purchase| purchase.status.as_str())
            }
            idempotency::Effect::Command => {
                commands::find(connection, &record.target)?.map(|request| request.status.as_str())
            }
            idempotency::Effect::Store => Some("done"),
        })
    })?;
    Ok(Json(json!({
        "route": record.route,
        "at": record.at,
        "status": status,
        "effect": {"kind": record.effect.as_str(), "id": record.target},
    })))
}
