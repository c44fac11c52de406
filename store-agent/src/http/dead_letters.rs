//! Commands of central that were in their place but not understood (L11).

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::time::Millis;
use protocol::wire::Command;
use runtime::http::{Code, IdPath, OptionalBody, Problem, Result};
use runtime::sqlite::Abort;
use rusqlite::params;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, Shared};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/replay", post(replay))
        .route("/dead-letters/{id}/discard", post(discard))
}

async fn list(State(app): Shared) -> Result<Json<Value>> {
    let items: Vec<Value> = app
        .reader
        .scan(|connection| {
            connection
                .prepare_cached(
                    "select id, entry_id, type, operation_id, reason, received_at, substr(body, 1, 1000) \
                     from dead_letter order by id desc limit 1000",
                )?
                .query_map([], |row| {
                    Ok(json!({
                        "id": row.get::<_, i64>(0)?.to_string(),
                        "entryId": row.get::<_, String>(1)?,
                        "type": row.get::<_, String>(2)?,
                        "operationId": row.get::<_, String>(3)?,
                        "reason": row.get::<_, String>(4)?,
                        "receivedAt": Millis(row.get(5)?),
                        "body": row.get::<_, String>(6)?,
                    }))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .await?;
    Ok(Json(json!({"items": items, "nextCursor": null})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Replay {
    ids: Option<Vec<String>>,
}

/// After an upgrade: what is understood now leaves the dead letters. It is not executed: central was told that it was
/// refused, and whoever asked has acted on that.
async fn replay(State(app): Shared, OptionalBody { value, .. }: OptionalBody<Replay>) -> Result<Json<Value>> {
    let (replayed, left) = app
        .writer
        .write(move |connection| {
            let letters: Vec<(i64, String, String)> = connection
                .prepare_cached("select id, type, body from dead_letter order by id")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let (mut replayed, mut left) = (Vec::new(), Vec::new());
            for (id, kind, body) in letters {
                if value.ids.as_ref().is_some_and(|ids| !ids.contains(&id.to_string())) {
                    continue;
                }
                if Command::decode(&kind, &body).is_ok() {
                    connection.execute("delete from dead_letter where id = ?1", params![id])?;
                    replayed.push(id.to_string());
                } else {
                    left.push(id.to_string());
                }
            }
            Ok::<_, Abort<Problem>>((replayed, left))
        })
        .await??;
    Ok(Json(json!({"replayed": replayed, "notUnderstood": left})))
}

async fn discard(State(app): Shared, IdPath(id): IdPath) -> Result<Json<Value>> {
    let number: i64 = id.parse().map_err(|_| Problem::new(Code::UnknownId))?;
    app.writer
        .write(move |connection| {
            match connection.execute("delete from dead_letter where id = ?1", params![number])? {
                0 => Err(Abort::Refused(Problem::new(Code::UnknownId))),
                _ => Ok(()),
            }
        })
        .await??;
    Ok(Json(json!({"discarded": id})))
}
