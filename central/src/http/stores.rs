//! Stores: what is known of each, and what operators decide.

use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::ids::StoreId;
use protocol::time::Millis;
use protocol::wire::restore::Question;
use runtime::http::{Body, Code, List, Page, Problem, Query, Result, StorePath, Write, encode_cursor};
use runtime::redis::Claim;
use runtime::sqlite::Abort;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::idempotency::{key_of, known};
use super::{App, Shared};
use crate::links::presence::{Presence, Unavailable};
use crate::operators::restore::{Telling, question};
use crate::projection::view;
use crate::promises::purchases;
use crate::storage::idempotency::{self, Effect};
use crate::storage::items;
use crate::storage::stores::{self, DigestState, Store};

/// What an agent claims that has not heard central's first word yet.
const WAITING: &str = "waiting";
/// A cursor that stands still for so long under a fresh heartbeat is an alarm, ms (L11).
const STUCK_MS: i64 = 60_000;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/stores", get(list))
        .route("/stores/{storeId}", get(one).put(add).patch(change).delete(forget))
        .route("/stores/{storeId}/snapshot", get(snapshot))
        .route("/stores/{storeId}/adopt", post(adopt))
        .route("/stores/{storeId}/resync", post(resync))
        .route("/stores/{storeId}/restore", post(restore))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    status: Option<String>,
    page: Option<i64>,
    size: Option<i64>,
    cursor: Option<String>,
}

/// Stores in order of their ids, and what was found of ids that are none.
#[derive(Debug, Serialize)]
struct Stores {
    #[serde(flatten)]
    list: List<Value>,
    newcomers: Value,
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<Stores>> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let after = page.after.as_ref().map(|after| after[0].clone());
    let (limit, offset) = (page.size + 1, page.offset);
    let judge = app.clone();
    let views = app
        .reader
        .scan(move |connection| {
            let now = runtime::clock::now();
            let wanted = |store: &Store| filter.status.as_ref().is_none_or(|wanted| judge.status(store) == wanted);
            let found = stores::after(connection, after.as_deref(), offset, limit, wanted)?;
            found
                .iter()
                .map(|store| {
                    let other = stores::other_case(connection, &store.id)?;
                    Ok(judge.store_view(store, open_purchases(connection, &store.id, now)?, other.is_some()))
                })
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .await?;
    let key = |view: &Value| encode_cursor(&[view["storeId"].as_str().unwrap_or_default()]);
    let newcomers = app.newcomers.as_ref().map(|newcomers| {
        let shown = newcomers.shown();
        json!({"count": shown.count, "names": shown.names, "heldBack": shown.held_back})
    });
    Ok(Json(Stores { list: List::cut(views, &page, key), newcomers: newcomers.unwrap_or(Value::Null) }))
}

/// Makes a store known, so that its agent gets central's word, whether it has entered itself or not.
async fn add(State(app): Shared, StorePath(id): StorePath) -> Result<Response> {
    let now = runtime::clock::now();
    let new = {
        let id = id.clone();
        app.writer.write(move |connection| {
            let new = stores::find(connection, &id)?.is_none();
            stores::discover(connection, &id, now)?;
            Ok::<_, Abort<Problem>>(new)
        })
    }
    .await??;
    if new {
        tracing::info!(store = %id, "an operator adds a store");
    }
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(app.said(&app.known(&id)?)?)).into_response())
}

/// Forgets a store that has never opened an epoch.
async fn forget(State(app): Shared, StorePath(id): StorePath) -> Result<Json<Value>> {
    app.known(&id)?;
    let store = id.clone();
    app.writer
        .write(move |connection| match stores::forget(connection, &store)? {
            true => Ok(()),
            false if stores::find(connection, &store)?.is_none() => {
                Err(Abort::Refused(Problem::new(Code::UnknownStore)))
            }
            false => Err(Abort::Refused(Problem::new(Code::StoreOpened).with("storeId", store.as_str()))),
        })
        .await??;
    tracing::info!(store = %id, "an operator forgets a store");
    Ok(Json(json!({"forgotten": id})))
}

async fn one(State(app): Shared, StorePath(id): StorePath) -> Result<Json<Value>> {
    let store = app.known(&id)?;
    app.said(&store).map(Json)
}

/// How many of a store's purchases are pending, and how many of these are overdue.
fn open_purchases(connection: &rusqlite::Connection, store: &StoreId, now: Millis) -> rusqlite::Result<(i64, i64)> {
    purchases::open(connection, store, now)
}

impl App {
    fn said(&self, store: &Store) -> Result<Value> {
        let (open, other) = self.reader.point(|connection| {
            Ok((
                open_purchases(connection, &store.id, runtime::clock::now())?,
                stores::other_case(connection, &store.id)?,
            ))
        })?;
        Ok(self.store_view(store, open, other.is_some()))
    }

    /// Stable name of a store's status: the first that applies.
    fn status(&self, store: &Store) -> &'static str {
        let sight = self.presence.sight(&store.id);
        let judged = self.presence.judge_remembered(store);
        let has_stopped = sight.claim.is_some_and(|claim| claim.why != WAITING);
        match judged {
            _ if store.retired => "retired",
            _ if store.fenced != 0 && sight.beat.as_ref().is_none_or(|beat| beat.epoch == store.fenced) => "fenced",
            _ if sight.quarantined.is_some() || sight.commands_stopped => "quarantined",
            Err(Unavailable::Offline | Unavailable::NeverSeen) if has_stopped => "fenced",
            Err(Unavailable::NeverSeen) => "new",
            Err(Unavailable::Fenced) => "fenced",
            Err(Unavailable::Quarantined) => "quarantined",
            Err(Unavailable::CatchingUp) => "catching_up",
            Err(Unavailable::Offline | Unavailable::Redis | Unavailable::Starting) => "offline",
            Err(Unavailable::Paused) => "paused",
            Ok(()) if store.suspect => "suspect",
            Ok(()) => "online",
        }
    }

    fn store_view(&self, store: &Store, (open, overdue): (i64, i64), same_but_case: bool) -> Value {
        let sight = self.presence.sight(&store.id);
        let status = self.status(store);
        let stopped = sight.claim.as_ref().filter(|claim| claim.why != WAITING);
        let mut warnings = Vec::new();
        if let Some(Claim { why, epoch, .. }) = stopped {
            warnings.push(format!(
                "an agent has stopped itself ({why}) with epoch {epoch}; it goes on selling at the till"
            ));
        }
        if sight.two_agents {
            warnings.push("two agents run under this id: stop one".to_owned());
        }
        if same_but_case {
            warnings.push("another store's id differs in case only".to_owned());
        }
        if let Some((why, for_ms)) = &sight.stuck
            && *for_ms >= STUCK_MS
        {
            warnings.push(format!("its stream has stood still for {} s: {why}", for_ms / 1_000));
        }
        if let Some(why) = &sight.quarantined {
            warnings.push(why.clone());
        }
        for (access, why) in &sight.refused {
            warnings.push(format!("Redis refuses {}: {why}", access.as_str()));
        }
        if sight.commands_stopped {
            warnings.push(
                "it has executed commands that this database does not have: stop central and run `central restore`"
                    .into(),
            );
        }
        let claims: Vec<Value> = store
            .claims()
            .into_iter()
            .map(|epoch| match stopped.filter(|claim| claim.epoch == epoch) {
                Some(claim) => {
                    json!({"epoch": epoch, "items": claim.items, "backlog": claim.backlog, "forMs": claim.for_ms})
                }
                None => json!({"epoch": epoch}),
            })
            .collect();
        // What the beat of another epoch says is nothing about the one that the view is of.
        let beat = sight.beat.as_ref().filter(|beat| beat.epoch == store.cursor.epoch && status != "fenced");
        let head = match (&sight.beat, beat) {
            (_, Some(beat)) => Some(beat.head.max(store.cursor.seq)),
            (None, None) if status != "fenced" => Some(store.cursor.seq),
            _ => None,
        };
        let digest = if status == "fenced" { DigestState::Unknown } else { store.digest_state };
        json!({
            "storeId": store.id,
            "status": status,
            "onlineSale": store.online_sale,
            "lastBeatAgeMs": sight.beat_age_ms,
            "lagMs": (status != "fenced").then_some(sight.lag_ms),
            "backlog": beat.map(|beat| beat.backlog),
            "oldestUnsentMs": beat.map(|beat| beat.oldest_unsent_ms),
            "epoch": store.cursor.epoch,
            "head": head,
            "applied": store.cursor.seq,
            "asOf": super::views::as_of(self, store),
            "digest": digest.as_str(),
            "digestValue": store.digest.to_string(),
            "openPurchases": open,
            "overduePurchases": overdue,
            "agentVersion": sight.beat.as_ref().map(|beat| beat.version.clone()),
            "claims": claims,
            "stoppedAgent": stopped.map(|claim| json!({
                "epoch": claim.epoch,
                "why": claim.why,
                "items": claim.items,
                "backlog": claim.backlog,
                "forMs": claim.for_ms,
                "agentVersion": claim.version,
            })),
            "warnings": warnings,
        })
    }

    /// Whether its heartbeat is fresh, by Redis, now.
    async fn is_beating(&self, store: &Store) -> Result<bool> {
        let unavailable = || self.unavailable(&store.id, Unavailable::Redis, None);
        let (number, mut connection) = self.redis.get().await.map_err(|_| unavailable())?;
        match Presence::look(&mut connection, &self.keys, &store.id).await {
            Ok(look) => {
                self.presence.note(&store.id, &look);
                Ok(look.beat.is_some() && self.presence.judge(store, &look) != Err(Unavailable::Offline))
            }
            Err(_) => {
                self.redis.broken(number).await;
                Err(unavailable())
            }
        }
    }

    /// Changes a store in one transaction and answers with it.
    async fn operate(
        &self,
        id: &StoreId,
        write: Write,
        json: Value,
        status: StatusCode,
        change: impl FnOnce(&rusqlite::Connection, &mut Store) -> std::result::Result<Vec<String>, Abort<Problem>>
        + Send
        + 'static,
    ) -> Result<Response> {
        let key = key_of(&write, &json);
        let (wakes, store_id) = (self.wakes.clone(), id.clone());
        let now = runtime::clock::now();
        let (settled, replayed) = self
            .writer
            .write(move |connection| {
                if known(connection, key.as_ref())?.is_some() {
                    return Ok((Vec::new(), true));
                }
                let found = stores::find(connection, &store_id)?;
                let mut store = found.ok_or_else(|| Abort::Refused(Problem::new(Code::UnknownStore)))?;
                let settled = change(connection, &mut store)?;
                store.save(connection)?;
                if let Some(key) = &key {
                    idempotency::bind(connection, key, Effect::Store, store_id.as_str(), now)?;
                }
                wakes.mark(&store_id);
                Ok::<_, Abort<Problem>>((settled, false))
            })
            .await??;
        self.waiting.settled(&settled);
        let mut response = (status, Json(self.said(&self.known(id)?)?)).into_response();
        if replayed {
            response.headers_mut().insert("idempotency-replayed", super::views::value("true"));
        }
        Ok(response)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Change {
    online_sale: Option<bool>,
    retired: Option<bool>,
}

async fn change(
    State(app): Shared,
    StorePath(id): StorePath,
    write: Write,
    Body { value, json }: Body<Change>,
) -> Result<Response> {
    if value.online_sale.is_none() && value.retired.is_none() {
        return Err(Problem::invalid("", "one of onlineSale and retired is needed"));
    }
    if value.retired == Some(false) {
        return Err(Problem::invalid("/retired", "a retired store comes back by POST /stores/{storeId}/adopt"));
    }
    let store = app.known(&id)?;
    let is_new = app.replay(key_of(&write, &json).as_ref())?.is_none();
    if is_new && value.retired == Some(true) && !store.retired && app.is_beating(&store).await? {
        return Err(Problem::new(Code::StoreOnline).with("storeId", id.as_str()));
    }
    tracing::info!(store = %id, online_sale = value.online_sale, retired = value.retired, "an operator changes a store");
    let now = runtime::clock::now();
    app.operate(&id, write, json, StatusCode::OK, move |connection, store| {
        store.online_sale = value.online_sale.unwrap_or(store.online_sale);
        if value.retired == Some(true) { Ok(store.retire(connection, now)?) } else { Ok(Vec::new()) }
    })
    .await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adopt {
    epoch: u64,
    /// What the claimant is expected to bring; 0 says that it may empty the store.
    items: Option<u64>,
}

/// Takes back a retired store, or lets a refused epoch open after all.
async fn adopt(
    State(app): Shared,
    StorePath(id): StorePath,
    write: Write,
    Body { value, json }: Body<Adopt>,
) -> Result<Response> {
    app.known(&id)?;
    tracing::info!(store = %id, epoch = value.epoch, "an operator adopts an epoch");
    let claim = app.presence.sight(&id).claim.filter(|claim| claim.epoch == value.epoch);
    let brings = claim.map(|claim| claim.items);
    let now = runtime::clock::now();
    app.operate(&id, write, json, StatusCode::ACCEPTED, move |connection, store| {
        let refused = |code| Err(Abort::Refused(Problem::new(code).with("storeId", store.id.as_str())));
        if !store.claims().contains(&value.epoch) {
            return refused(Code::UnknownClaim);
        }
        // The own epoch's stock is the view's already.
        let replaces = value.epoch != store.cursor.epoch && items::any(connection, &store.id)?;
        if replaces && brings.unwrap_or(0) == 0 && value.items != Some(0) {
            return refused(Code::EmptyClaim);
        }
        store.adopt(connection, value.epoch, now)?;
        Ok(Vec::new())
    })
    .await
}

/// Asks the store for its whole state.
async fn resync(State(app): Shared, StorePath(id): StorePath, write: Write) -> Result<Response> {
    app.known(&id)?;
    let now = runtime::clock::now();
    app.operate(&id, write, Value::Null, StatusCode::ACCEPTED, move |connection, store| {
        if store.retired {
            return Err(Abort::Refused(Problem::new(Code::StoreRetired).with("storeId", store.id.as_str())));
        }
        // An operator need not wait for the minute to be over.
        store.resync_at = None;
        view::ask_resync(connection, store, now)?;
        Ok(Vec::new())
    })
    .await
}

/// The question of `store-agent restore` (L10): gives out an epoch and tells what is known of the store. A store that
/// central never heard of is known from then on.
async fn restore(State(app): Shared, StorePath(id): StorePath, Body { value, .. }: Body<Question>) -> Result<Response> {
    if value.epoch > protocol::link::NUMBER_MAX {
        return Err(Problem::invalid("/epoch", "no epoch is so great"));
    }
    let now = runtime::clock::now();
    let (store, asked) = (id.clone(), value.clone());
    let epoch = app
        .writer
        .write(move |connection| {
            if stores::find(connection, &store)?.is_some_and(|store| store.retired) {
                let problem = Problem::new(Code::StoreRetired).with("storeId", store.as_str());
                return Err(Abort::Refused(problem.detail("adopt the store first: POST /stores/{storeId}/adopt")));
            }
            question(connection, &store, &asked, now).map_err(|abort| match abort {
                Abort::Refused(refusal) => Abort::Refused(Problem::new(Code::NotCaughtUp).detail(refusal.to_string())),
                Abort::Database(error) => Abort::Database(error),
            })
        })
        .await??;
    tracing::warn!(store = %id, epoch, "a restore was begun: this epoch is expected");
    app.wakes.steps().notify_one();
    // Each line is read when the one before has been sent: however large the store, little of it is in memory at once.
    let lines = futures_util::stream::try_unfold(
        (app.reader.clone(), Telling::new(id, epoch, value, now)),
        |(reader, telling)| async move {
            if telling.is_over() {
                return Ok::<_, std::io::Error>(None);
            }
            let mut telling = telling;
            let (telling, line) = reader
                .scan(move |connection| Ok((telling.next(connection), telling)))
                .await
                .map(|(line, telling)| (telling, line))
                .map_err(std::io::Error::other)?;
            // What breaks off has no last line, and the asker sees that.
            let line = line.map_err(|abort| std::io::Error::other(abort.to_string()))?;
            let mut text = line.map_or(Vec::new(), |line| serde_json::to_vec(&line).unwrap_or_default());
            if !text.is_empty() {
                text.push(b'\n');
            }
            Ok(Some((bytes::Bytes::from(text), (reader, telling))))
        },
    );
    let body = HttpBody::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// The view's copy of a store, one JSON object a line.
async fn snapshot(State(app): Shared, StorePath(id): StorePath) -> Result<Response> {
    app.known(&id)?;
    let text = app
        .reader
        .scan(move |connection| {
            let store = stores::find(connection, &id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            let mut text = json!({
                "storeId": store.id,
                "position": format!("{}:{}", store.id, store.state.id()),
                "digest": store.digest.to_string(),
            })
            .to_string();
            for (product, item) in items::of_store(connection, &id)? {
                text.push('\n');
                text.push_str(&json!({"productId": product, "item": item}).to_string());
            }
            text.push('\n');
            Ok(text)
        })
        .await?;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], HttpBody::from(text)).into_response())
}
