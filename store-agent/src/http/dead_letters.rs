//! Commands of central that were in their place but not understood (L11).

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use protocol::time::Millis;
use protocol::wire::Command;
use runtime::http::openapi::schema;
use runtime::http::{Code, IdPath, List, OptionalBody, Problem, Result, Written};
use runtime::sqlite::{Abort, Weight};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, Shared};
use crate::ledger::dead_letters::{self, DeadLetter};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(replay)).routes(routes!(discard))
}

/// A command that was not understood
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetter)]
struct View {
    id: String,
    /// Its place in central's log.
    entry_id: String,
    r#type: String,
    operation_id: String,
    /// Why it was not understood.
    reason: String,
    #[schema(value_type = schema::Time)]
    received_at: Millis,
    /// As it came.
    body: String,
}

type Letters = List<View>;

/// List commands that were not understood
#[utoipa::path(
    get, path = "/dead-letters", operation_id = "listDeadLetters", tag = "Operators",
    responses((status = 200, description = "The newest 1,000", body = Letters)),
)]
async fn list(State(app): Shared) -> Result<Written> {
    let list = app.db.scan(|connection| {
        let items = dead_letters::newest(connection)?;
        Ok(Written::json(&List { items, next_cursor: None }.map(View::from)))
    });
    Ok(list.await?)
}

impl From<DeadLetter> for View {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.id.to_string(),
            entry_id: letter.entry_id,
            r#type: letter.kind,
            operation_id: letter.operation,
            reason: letter.reason,
            received_at: letter.received_at,
            body: letter.body,
        }
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayDeadLetters, example = json!({}))]
struct Replay {
    /// All, if they are left out.
    ids: Option<Vec<String>>,
}

/// What became of dead letters
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Replayed {
    /// Understood now, and gone.
    replayed: Vec<String>,
    not_understood: Vec<String>,
}

/// A dead letter that is gone
#[derive(Debug, Serialize, ToSchema)]
struct Discarded {
    /// Its id.
    discarded: String,
}

/// Drop what is understood now
///
/// For after an upgrade. Nothing is executed: central was told that the command was refused, and whoever asked has acted on
/// that.
#[utoipa::path(
    post, path = "/dead-letters/replay", operation_id = "replayDeadLetters", tag = "Operators",
    request_body = Option<Replay>,
    responses((status = 200, description = "What became of them", body = Replayed)),
)]
async fn replay(State(app): Shared, OptionalBody { value, .. }: OptionalBody<Replay>) -> Result<Json<Replayed>> {
    let ids: Option<Arc<HashSet<String>>> = value.ids.map(|ids| Arc::new(ids.into_iter().collect()));
    let (mut replayed, mut not_understood, mut behind) = (Vec::new(), Vec::new(), 0);
    // They are read beside the writer, which drops a few at a time: tills wait for it.
    loop {
        let ids = ids.clone();
        let look = app.db.scan(move |connection| {
            let (mut understood, mut left) = (Vec::new(), Vec::new());
            let last = dead_letters::look_behind(connection, behind, |letter| {
                if ids.as_ref().is_some_and(|ids| !ids.contains(&letter.id.to_string())) {
                    return;
                }
                let is_understood = Command::decode(&letter.kind, &letter.body).is_ok();
                if is_understood { &mut understood } else { &mut left }.push(letter.id);
            })?;
            Ok((last, understood, left))
        });
        let (Some(last), understood, left) = look.await? else { break };
        behind = last;
        not_understood.extend(left.iter().map(i64::to_string));
        if !understood.is_empty() {
            let dropped = app.db.write_as(Weight::Background, move |connection| {
                let mut dropped = Vec::new();
                for id in &understood {
                    // Somebody else may have been faster.
                    if dead_letters::discard(connection, *id)? {
                        dropped.push(id.to_string());
                    }
                }
                Ok::<_, Abort<Problem>>(dropped)
            });
            replayed.extend(dropped.await??);
        }
    }
    Ok(Json(Replayed { replayed, not_understood }))
}

/// Drop a dead letter
#[utoipa::path(
    post, path = "/dead-letters/{id}/discard", operation_id = "discardDeadLetter", tag = "Operators", params(IdPath),
    responses((status = 200, description = "It is gone", body = Discarded)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn discard(State(app): Shared, IdPath(id): IdPath) -> Result<Json<Discarded>> {
    let number: i64 = id.parse().map_err(|_| Problem::new(Code::UnknownId))?;
    let discarded =
        app.db.write(move |connection| Ok::<_, Abort<Problem>>(dead_letters::discard(connection, number)?)).await??;
    if !discarded {
        return Err(Problem::new(Code::UnknownId));
    }
    Ok(Json(Discarded { discarded: id }))
}
