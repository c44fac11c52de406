//! Dead letters: entries that were in their place but not understood (L11).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use protocol::ids::StoreId;
use protocol::time::Millis;
use protocol::wire::Event;
use runtime::http::openapi::schema;
use runtime::http::{Code, IdPath, List, OptionalBody, Problem, Query, Result, Written};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, Shared};
use crate::projection::view;
use crate::storage::queries::dead_letters::{self, Letter};
use crate::storage::{Abort, Connection, JobResult, stores};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(replay)).routes(routes!(discard))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    store_id: Option<String>,
}

/// An entry that was not understood
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetter)]
struct LetterView {
    id: String,
    store_id: String,
    entry_id: String,
    r#type: String,
    operation_id: String,
    reason: String,
    #[schema(value_type = schema::Time)]
    received_at: Millis,
    body: String,
}

impl From<Letter> for LetterView {
    fn from(letter: Letter) -> Self {
        Self {
            id: letter.id.to_string(),
            store_id: letter.store,
            entry_id: letter.entry,
            r#type: letter.kind,
            operation_id: letter.operation,
            reason: letter.reason,
            received_at: letter.received_at,
            body: letter.body,
        }
    }
}

/// List entries that were not understood
#[utoipa::path(
    get, path = "/dead-letters", operation_id = "listDeadLetters", tag = "Operators", params(Filter),
    responses((status = 200, description = "The newest 1,000", body = Letters)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let list = app.db.scan(move |connection| {
        let letters = dead_letters::list(connection, filter.store_id.as_deref())?;
        Ok(Written::json(&List { items: letters, next_cursor: None }.map(LetterView::from)))
    });
    Ok(list.await?)
}

type Letters = List<LetterView>;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ReplayDeadLetters, example = json!({}))]
struct Replay {
    /// All, if they are left out.
    ids: Option<Vec<String>>,
}

/// What became of dead letters
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Replayed {
    replayed: Vec<String>,
    not_understood: Vec<String>,
    /// Stores whose whole state is wanted.
    #[serde(skip)]
    asked: Vec<StoreId>,
}

/// Understand dead letters after an upgrade
///
/// What is understood now leaves the list, and its store is asked for its whole state.
#[utoipa::path(
    post, path = "/dead-letters/replay", operation_id = "replayDeadLetters", tag = "Operators",
    request_body = Option<Replay>,
    responses((status = 200, description = "What became of them", body = Replayed)),
)]
async fn replay(State(app): Shared, OptionalBody { value, .. }: OptionalBody<Replay>) -> Result<Json<Replayed>> {
    let wakes = app.wakes.clone();
    let now = app.source.now();
    let job = move |connection: &Connection| {
        understand(connection, value.ids.as_deref(), now).map_err(Abort::<Problem>::Database)
    };
    let replayed = app.db.write_then(job, move |replayed| replayed.asked.iter().for_each(|store| wakes.wake(store)));
    Ok(Json(replayed.await??))
}

/// After an upgrade: what is understood now leaves the dead letters, and its store is asked for its whole state, which
/// has the effect of everything it ever sent.
fn understand(connection: &Connection, ids: Option<&[String]>, now: Millis) -> JobResult<Replayed> {
    let mut done = Replayed::default();
    for letter in dead_letters::all(connection)? {
        let id = letter.id.to_string();
        if ids.is_some_and(|ids| !ids.contains(&id)) {
            continue;
        }
        if Event::decode(&letter.kind, &letter.body).is_err() {
            done.not_understood.push(id);
            continue;
        }
        dead_letters::remove(connection, letter.id)?;
        let known = letter.store.parse().ok().map(|store| stores::find(connection, &store)).transpose()?.flatten();
        if let Some(mut store) = known {
            // If a resync was asked for within the minute, the next sweep that may asks.
            stores::mark_different(connection, &mut store)?;
            view::ask_resync(connection, &mut store, now)?;
            done.asked.push(store.id);
        }
        done.replayed.push(id);
    }
    Ok(done)
}

/// A dead letter that is gone
#[derive(Debug, Serialize, ToSchema)]
struct Discarded {
    /// Its id.
    discarded: String,
}

/// Drop a dead letter
#[utoipa::path(
    post, path = "/dead-letters/{id}/discard", operation_id = "discardDeadLetter", tag = "Operators", params(IdPath),
    responses((status = 200, description = "It is gone", body = Discarded)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn discard(State(app): Shared, IdPath(id): IdPath) -> Result<Json<Discarded>> {
    let number: i64 = id.parse().map_err(|_| Problem::new(Code::UnknownId))?;
    app.db
        .write(move |connection| match dead_letters::remove(connection, number)? {
            true => Ok(()),
            false => Err(Abort::from(Problem::new(Code::UnknownId))),
        })
        .await??;
    Ok(Json(Discarded { discarded: id }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{commands, ledger};
    use crate::testing::{Agent, NOW, database};

    #[test]
    fn a_store_is_asked_for_its_state_though_it_was_asked_a_moment_ago() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let sale = agent.sale().expect("an entry");
        ledger::park(&connection, &agent.id, &sale, "the version before did not know it", NOW).expect("writes");
        stores::set_resync_at(&connection, &mut agent.store(&connection), Some(NOW)).expect("writes");
        assert_eq!(understand(&connection, None, NOW).expect("replays").replayed.len(), 1);
        let is_asked = || commands::is_resync_asked(&connection, &agent.id).expect("reads");
        assert!(!is_asked(), "the minute is not over");
        let later = NOW.plus(60_000);
        assert!(view::repeat_resync(&connection, &agent.id, later).expect("asks") && is_asked());
    }
}
