//! Dead letters: entries that were in their place but not understood (L11).

use std::collections::BTreeSet;
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
use crate::storage::{Abort, Connection, JobResult, Weight, stores};

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
}

/// Letters that one transaction takes out of the list, at most.
const BATCH: usize = 500;

/// Understand dead letters after an upgrade
///
/// What is understood now leaves the list, and its store is asked for its whole state.
#[utoipa::path(
    post, path = "/dead-letters/replay", operation_id = "replayDeadLetters", tag = "Operators",
    request_body = Option<Replay>,
    responses((status = 200, description = "What became of them", body = Replayed)),
)]
async fn replay(State(app): Shared, OptionalBody { value, .. }: OptionalBody<Replay>) -> Result<Json<Replayed>> {
    let ids: Option<Arc<BTreeSet<String>>> = value.ids.map(|ids| Arc::new(ids.into_iter().collect()));
    let last = app.db.read(dead_letters::last).await?;
    let now = app.source.now();
    let (mut done, mut asked, mut place) = (Replayed::default(), Arc::new(BTreeSet::new()), 0);
    while place < last {
        let ids = ids.clone();
        let read = app.db.scan(move |connection| read_batch(connection, ids.as_deref(), place, last)).await?;
        let (letters, before, wakes) = (read.understood, asked.clone(), app.wakes.clone());
        let job = move |connection: &Connection| {
            take_out(connection, &letters, &before, now).map_err(Abort::<Problem>::Database)
        };
        let taken =
            app.db.write_then(Weight::Light, job, move |taken| taken.asked.iter().for_each(|store| wakes.wake(store)));
        let taken = taken.await??;
        done.replayed.extend(taken.letters);
        done.not_understood.extend(read.not_understood);
        Arc::make_mut(&mut asked).extend(taken.asked);
        place = read.upto;
    }
    Ok(Json(done))
}

/// Letters that were looked at.
struct Batch {
    /// Their ids, and the stores that sent them.
    understood: Vec<(i64, String)>,
    not_understood: Vec<String>,
    /// Id of the last one.
    upto: i64,
}

/// Looks at the next letters that are wanted, behind an id up to another one.
fn read_batch(connection: &Connection, ids: Option<&BTreeSet<String>>, behind: i64, last: i64) -> JobResult<Batch> {
    let (mut understood, mut not_understood) = (Vec::new(), Vec::new());
    let upto = dead_letters::each_behind(connection, behind, last, BATCH, |letter| {
        let id = letter.id.to_string();
        if ids.is_some_and(|ids| !ids.contains(&id)) {
            return;
        }
        match Event::decode(&letter.kind, &letter.body) {
            Ok(_) => understood.push((letter.id, letter.store)),
            Err(_) => not_understood.push(id),
        }
    })?;
    Ok(Batch { understood, not_understood, upto })
}

/// What one transaction has done.
#[derive(Debug, Default)]
struct Taken {
    letters: Vec<String>,
    /// Stores whose whole state is wanted now.
    asked: BTreeSet<StoreId>,
}

/// After an upgrade: what is understood now leaves the dead letters, and in the same transaction its store is asked for its
/// whole state, which has the effect of everything it ever sent. `before`: stores that were asked when all of these
/// letters had come already.
fn take_out(
    connection: &Connection,
    letters: &[(i64, String)],
    before: &BTreeSet<StoreId>,
    now: Millis,
) -> JobResult<Taken> {
    let mut taken = Taken::default();
    for (id, store) in letters {
        // Somebody else may have taken it out meanwhile.
        if !dead_letters::remove(connection, *id)? {
            continue;
        }
        taken.letters.push(id.to_string());
        let store: Option<StoreId> = store.parse().ok();
        let Some(store) = store.filter(|store| !before.contains(store) && !taken.asked.contains(store)) else {
            continue;
        };
        if let Some(mut store) = stores::find(connection, &store)? {
            // If a resync was asked for within the minute, the next sweep that may asks.
            stores::mark_different(connection, &mut store)?;
            view::ask_resync(connection, &mut store, now)?;
            taken.asked.insert(store.id);
        }
    }
    Ok(taken)
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
    use crate::http::tests::app;
    use crate::storage::{commands, ledger};
    use crate::testing::{Agent, NOW, database};

    /// The next letters that are understood leave the list.
    fn step(connection: &Connection, behind: i64) -> Taken {
        let last = dead_letters::last(connection).expect("reads");
        let read = read_batch(connection, None, behind, last).expect("reads");
        take_out(connection, &read.understood, &BTreeSet::new(), NOW).expect("replays")
    }

    fn is_different(connection: &Connection, agent: &Agent) -> bool {
        agent.store(connection).wants_resync()
    }

    #[test]
    fn a_store_is_asked_for_its_state_though_it_was_asked_a_moment_ago() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let sale = agent.sale().expect("an entry");
        ledger::park(&connection, &agent.id, &sale, "the version before did not know it", NOW).expect("writes");
        stores::set_resync_at(&connection, &mut agent.store(&connection), Some(NOW)).expect("writes");
        assert_eq!(step(&connection, 0).letters.len(), 1);
        let is_asked = || commands::is_resync_asked(&connection, &agent.id).expect("reads");
        assert!(!is_asked(), "the minute is not over");
        let later = NOW.plus(60_000);
        assert!(view::repeat_resync(&connection, &agent.id, later).expect("asks") && is_asked());
    }

    /// So many letters of each of two stores, in turn.
    fn park(connection: &Connection, many: usize) -> [Agent; 2] {
        let mut agents = ["s1", "s2"].map(|id| Agent::settled(id, connection));
        for number in 0..2 * many {
            let agent = &mut agents[number % 2];
            let command_epoch = agent.store(connection).command_head.epoch;
            let ready = agent.entry(&Event::Ready { command_epoch }).expect("an entry");
            ledger::park(connection, &agent.id, &ready, "the version before did not know it", NOW).expect("writes");
        }
        agents
    }

    #[test]
    fn whoever_dies_between_two_batches_leaves_what_the_next_replay_takes_out() {
        let connection = database();
        let agents = park(&connection, BATCH);
        let first = step(&connection, 0);
        assert_eq!((first.letters.len(), first.asked.len()), (BATCH, 2), "one transaction is no longer");
        assert!(agents.iter().all(|agent| is_different(&connection, agent)), "and none is without its mark");
        let settle = "update store set digest_state = 'equal', suspect = 0";
        connection.execute(settle, []).expect("writes");
        let rest = step(&connection, 0);
        assert_eq!((rest.letters.len(), rest.asked.len()), (BATCH, 2));
        assert!(agents.iter().all(|agent| is_different(&connection, agent)), "they are asked once more");
        assert_eq!(dead_letters::count(&connection).expect("reads"), 0);
    }

    #[tokio::test]
    async fn all_are_told_and_each_store_is_asked_once() {
        let (_dir, app) = app();
        let fill = |connection: &Connection| {
            park(connection, BATCH + 3);
            connection.execute("update dead_letter set type = 'teleported' where id in (2, 1004)", [])?;
            Ok::<_, Abort<()>>(())
        };
        app.db.write(fill).await.expect("writes").expect("is not refused");
        let app = Arc::new(app);
        let replay = |ids: Option<Vec<String>>| {
            replay(State(app.clone()), OptionalBody { value: Replay { ids }, json: serde_json::Value::Null })
        };
        let some = replay(Some(vec!["1".into(), "2".into(), "9999".into()])).await.expect("replays").0;
        assert_eq!((some.replayed, some.not_understood), (vec!["1".to_owned()], vec!["2".to_owned()]));
        let all = replay(None).await.expect("replays").0;
        assert_eq!((all.replayed.len(), all.not_understood.len()), (2 * BATCH + 3, 2));
        let asked = |connection: &Connection| {
            let sql = "select count(*) from request where type = 'resync'";
            connection.query_row(sql, [], |row| row.get::<_, i64>(0))
        };
        assert_eq!(app.db.read(asked).await.expect("reads"), 2);
    }
}
