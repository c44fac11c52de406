//! Commands of central that were in their place but not understood (L11).

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::wire::Command;
use runtime::http::{Code, IdPath, List, OptionalBody, Problem, Result, Written};
use runtime::sqlite::Abort;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, Shared};
use crate::ledger::dead_letters::{self, DeadLetter};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/replay", post(replay))
        .route("/dead-letters/{id}/discard", post(discard))
}

async fn list(State(app): Shared) -> Result<Written> {
    let list = app.db.scan(|connection| {
        let items = dead_letters::newest(connection)?;
        Ok(Written::json(&List { items, next_cursor: None }.map(view)))
    });
    Ok(list.await?)
}

fn view(letter: DeadLetter) -> Value {
    json!({
        "id": letter.id.to_string(),
        "entryId": letter.entry_id,
        "type": letter.kind,
        "operationId": letter.operation,
        "reason": letter.reason,
        "receivedAt": letter.received_at,
        "body": letter.body,
    })
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
        .db
        .write(move |connection| {
            let (mut replayed, mut left) = (Vec::new(), Vec::new());
            for letter in dead_letters::all(connection)? {
                let id = letter.id.to_string();
                if value.ids.as_ref().is_some_and(|ids| !ids.contains(&id)) {
                    continue;
                }
                if Command::decode(&letter.kind, &letter.body).is_ok() {
                    dead_letters::discard(connection, letter.id)?;
                    replayed.push(id);
                } else {
                    left.push(id);
                }
            }
            Ok::<_, Abort<Problem>>((replayed, left))
        })
        .await??;
    Ok(Json(json!({"replayed": replayed, "notUnderstood": left})))
}

async fn discard(State(app): Shared, IdPath(id): IdPath) -> Result<Json<Value>> {
    let number: i64 = id.parse().map_err(|_| Problem::new(Code::UnknownId))?;
    let discarded =
        app.db.write(move |connection| Ok::<_, Abort<Problem>>(dead_letters::discard(connection, number)?)).await??;
    if !discarded {
        return Err(Problem::new(Code::UnknownId));
    }
    Ok(Json(json!({"discarded": id})))
}
