//! Stores: what is known of each, and what operators decide.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::domain::Item;
use protocol::ids::{ProductId, StoreId};
use protocol::number::{Epoch, Seq};
use protocol::time::Millis;
use protocol::wire::restore::Question;
use runtime::http::openapi::schema;
use runtime::http::{
    Body, Code, List, Page, PageNumber, PageSize, Problem, Query, Result, StorePath, Write, Written, encode_cursor,
    header_value,
};
use runtime::redis::Claim;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::slice;
use super::write::{Done, Headers, Target, key_of};
use super::{App, Shared};
use crate::links::presence::{Reading, Unavailable};
use crate::operators::restore::{AnswerWriter, question};
use crate::projection::view;
use crate::promises::stores as chain;
use crate::storage::idempotency::Effect;
use crate::storage::purchases;
use crate::storage::stores::{self, DigestState, Store};
use crate::storage::{Abort, Connection, JobResult, Weight, commands, items};

/// What an agent claims that has not heard central's first word yet.
const WAITING: &str = "waiting";
/// A cursor that stands still for so long under a fresh heartbeat is an alarm, ms (L11).
const STUCK_MS: i64 = 60_000;
/// How long a line of a restore's answer waits for its turn to be read: the asker hears nothing meanwhile, and gives up
/// after 30 s.
const RESTORE_PATIENCE: Duration = Duration::from_secs(25);

/// What a store's status may be.
pub(super) const STATUSES: [&str; 9] =
    ["online", "offline", "new", "catching_up", "paused", "suspect", "quarantined", "fenced", "retired"];

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one, add, change, forget))
        .routes(routes!(snapshot))
        .routes(routes!(adopt))
        .routes(routes!(resync))
        .routes(routes!(restore))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    status: Option<String>,
    page: Option<PageNumber>,
    size: Option<PageSize>,
    cursor: Option<String>,
}

type StoreList = List<StoreView>;

/// Stores in order of their ids, and what was found of ids that are none
#[derive(Debug, Serialize, ToSchema)]
struct Stores {
    #[serde(flatten)]
    list: StoreList,
    /// `null`: nobody looks for new stores.
    newcomers: Option<NewcomersView>,
}

/// Ids in Redis that are no stores yet
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Newcomers)]
struct NewcomersView {
    count: usize,
    #[schema(value_type = Vec<schema::StoreId>)]
    names: Vec<StoreId>,
    /// Why they are not taken for stores.
    held_back: Option<&'static str>,
}

/// A store as operators see it
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Store)]
pub(super) struct StoreView {
    #[schema(value_type = schema::StoreId)]
    pub(super) store_id: StoreId,
    /// `online`, `offline`, `new`, `catching_up`, `paused`, `suspect`, `quarantined`, `fenced` or `retired`.
    pub(super) status: &'static str,
    /// Whether it gets purchases.
    online_sale: bool,
    pub(super) last_beat_age_ms: Option<i64>,
    /// Age of the oldest entry that is known to exist and is not applied.
    pub(super) lag_ms: Option<i64>,
    /// Entries that it had not sent at its last heartbeat.
    pub(super) backlog: Option<u64>,
    pub(super) oldest_unsent_ms: Option<i64>,
    /// How long it takes to answer: the median of its last 20 commands; `null`: it has answered none of them.
    pub(super) round_trip_ms: Option<i64>,
    #[schema(value_type = schema::Epoch)]
    epoch: Epoch,
    /// The last entry that is known to exist.
    #[schema(value_type = Option<schema::Seq>)]
    head: Option<Seq>,
    /// The last one that the view has.
    #[schema(value_type = schema::Seq)]
    applied: Seq,
    /// `null`: it has never been heard of.
    #[schema(value_type = Option<schema::Time>)]
    as_of: Option<Millis>,
    /// `equal`, `different` or `unknown`: the view's stock and the store's.
    pub(super) digest: &'static str,
    digest_value: String,
    pub(super) open_purchases: i64,
    /// Pending ones that should have ended.
    pub(super) overdue_purchases: i64,
    agent_version: Option<String>,
    claims: Vec<ClaimView>,
    /// An agent that sells under this id and publishes nothing.
    stopped_agent: Option<StoppedView>,
    pub(super) warnings: Vec<String>,
}

/// An epoch that may be adopted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Claim)]
struct ClaimView {
    #[schema(value_type = schema::Epoch)]
    epoch: Epoch,
    /// Absent: the agent that claims it does not say.
    #[serde(flatten)]
    brings: Option<BringsView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BringsView {
    items: u64,
    backlog: u64,
    for_ms: u64,
}

impl From<&Claim> for BringsView {
    fn from(claim: &Claim) -> Self {
        Self { items: claim.items, backlog: claim.backlog, for_ms: claim.for_ms }
    }
}

/// An agent that has stopped itself.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StoppedAgent)]
struct StoppedView {
    #[schema(value_type = schema::Epoch)]
    epoch: Epoch,
    why: String,
    #[serde(flatten)]
    brings: BringsView,
    agent_version: String,
}

/// What the database says besides a store's row.
pub(super) struct Beside {
    /// Purchases that are pending.
    open: i64,
    /// Of these, overdue.
    overdue: i64,
    /// Another store's id differs in case only.
    same_but_case: bool,
    /// How long it takes to answer.
    round_trip_ms: Option<i64>,
}

impl Beside {
    pub(super) fn of(connection: &Connection, store: &StoreId, now: Millis) -> JobResult<Self> {
        let (open, overdue) = purchases::open(connection, store, now)?;
        Ok(Self {
            open,
            overdue,
            same_but_case: stores::other_case(connection, store)?.is_some(),
            round_trip_ms: commands::round_trip_ms(connection, store)?,
        })
    }
}

/// List stores
#[utoipa::path(
    get, path = "/stores", operation_id = "listStores", tag = "Stores", params(Filter),
    responses((status = 200, description = "Stores in order of their ids", body = Stores)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let slice = slice(&page, |after| Ok(after[0].clone()))?;
    let judge = app.clone();
    let now = app.source.now();
    let list = app.db.scan(move |connection| {
        let wanted = |store: &Store| filter.status.as_ref().is_none_or(|wanted| judge.status(store) == wanted);
        let found = stores::after(connection, slice.after.as_deref(), slice.offset, slice.limit, wanted)?;
        let view = |store| JobResult::Ok(judge.store_view(store, &Beside::of(connection, &store.id, now)?));
        let views = found.iter().map(view).collect::<JobResult<_>>()?;
        let newcomers = judge.newcomers.as_ref().map(|newcomers| {
            let shown = newcomers.list();
            NewcomersView { count: shown.count, names: shown.names, held_back: shown.held_back }
        });
        let list = List::cut(views, &page, |view: &StoreView| encode_cursor(&[view.store_id.as_str()]));
        Ok(Written::json(&Stores { list, newcomers }))
    });
    Ok(list.await?)
}

/// Make a store known
///
/// An agent that starts makes its store known by itself.
#[utoipa::path(
    put, path = "/stores/{storeId}", operation_id = "addStore", tag = "Stores", params(StorePath),
    responses((status = 201, description = "The store, which is new", body = StoreView), (status = 200, description = "The store, which was known", body = StoreView)),
)]
async fn add(State(app): Shared, StorePath(id): StorePath) -> Result<Response> {
    let now = app.source.now();
    let store = id.clone();
    let job = move |connection: &Connection| {
        let is_new = stores::find(connection, &store)?.is_none();
        stores::discover(connection, &store, now)?;
        Ok::<_, Abort<Problem>>(is_new)
    };
    let is_new = app.db.write(job).await??;
    if is_new {
        tracing::info!(store = %id, "an operator adds a store");
    }
    let store = Json(app.view_of(&id).await?);
    if !is_new {
        return Ok(store.into_response());
    }
    let place = [(header::LOCATION, header_value(format!("/v1/stores/{id}")))];
    Ok((StatusCode::CREATED, place, store).into_response())
}

/// A store that is unknown again
#[derive(Debug, Serialize, ToSchema)]
struct Forgotten {
    /// Its id.
    #[schema(value_type = schema::StoreId)]
    forgotten: StoreId,
}

/// Forget a store that has never sent anything
#[utoipa::path(
    delete, path = "/stores/{storeId}", operation_id = "forgetStore", tag = "Stores", params(StorePath),
    responses((status = 200, description = "It is unknown", body = Forgotten)),
    extensions(("x-problems" = json!(["unknown_store", "store_unavailable", "store_opened"]))),
)]
async fn forget(State(app): Shared, StorePath(id): StorePath) -> Result<Json<Forgotten>> {
    app.known(&id).await?;
    let store = id.clone();
    let job = move |connection: &Connection| match stores::forget(connection, &store)? {
        true => Ok(()),
        false if stores::find(connection, &store)?.is_none() => Err(Abort::from(Problem::new(Code::UnknownStore))),
        false => Err(Problem::new(Code::StoreOpened).with("storeId", store.as_str()).into()),
    };
    app.db.write(job).await??;
    tracing::info!(store = %id, "an operator forgets a store");
    Ok(Json(Forgotten { forgotten: id }))
}

/// Read a store
#[utoipa::path(
    get, path = "/stores/{storeId}", operation_id = "getStore", tag = "Stores", params(StorePath),
    responses((status = 200, description = "The store", body = StoreView)),
    extensions(("x-problems" = json!(["unknown_store", "store_unavailable"]))),
)]
async fn one(State(app): Shared, StorePath(id): StorePath) -> Result<Json<StoreView>> {
    app.view_of(&id).await.map(Json)
}

impl App {
    async fn view_of(&self, id: &StoreId) -> Result<StoreView> {
        let store = self.known(id).await?;
        let now = self.source.now();
        let beside = self.db.read(|connection| Beside::of(connection, id, now)).await?;
        Ok(self.store_view(&store, &beside))
    }

    /// Stable name of a store's status: the first that applies.
    fn status(&self, store: &Store) -> &'static str {
        let report = self.presence.report(&store.id);
        let judged = self.presence.judge_remembered(store);
        let has_stopped = report.claim.is_some_and(|claim| claim.why != WAITING);
        match judged {
            _ if store.retired => "retired",
            _ if store.fenced != Epoch::NONE
                && report.heartbeat.as_ref().is_none_or(|heartbeat| heartbeat.epoch == store.fenced) =>
            {
                "fenced"
            }
            _ if report.quarantined.is_some() || report.commands_stopped => "quarantined",
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

    pub(super) fn store_view(&self, store: &Store, beside: &Beside) -> StoreView {
        let report = self.presence.report(&store.id);
        let status = self.status(store);
        let stopped = report.claim.as_ref().filter(|claim| claim.why != WAITING);
        let mut warnings = Vec::new();
        if let Some(Claim { why, epoch, .. }) = stopped {
            warnings.push(format!(
                "an agent has stopped itself ({why}) with epoch {epoch}; it goes on selling at the till"
            ));
        }
        if report.two_agents {
            warnings.push("two agents run under this id: stop one".to_owned());
        }
        if beside.same_but_case && !store.retired {
            warnings.push("another store's id differs in case only".to_owned());
        }
        if let Some((why, for_ms)) = &report.stuck
            && *for_ms >= STUCK_MS
        {
            warnings.push(format!("its stream has stood still for {} s: {why}", for_ms / 1_000));
        }
        if let Some(why) = &report.quarantined {
            warnings.push(why.clone());
        }
        for (access, why) in &report.refused {
            warnings.push(format!("Redis refuses {}: {why}", access.as_str()));
        }
        if report.commands_stopped {
            warnings.push(
                "it has executed commands that this database does not have: stop central and run `central restore`"
                    .into(),
            );
        }
        let claimed_by = |epoch| stopped.filter(|claim| claim.epoch == epoch);
        let claims = store.claims().into_iter();
        let claims = claims.map(|epoch| ClaimView { epoch, brings: claimed_by(epoch).map(BringsView::from) }).collect();
        // What the heartbeat of another epoch says is nothing about the one that the view is of.
        let heartbeat =
            report.heartbeat.as_ref().filter(|heartbeat| heartbeat.epoch == store.cursor.epoch && status != "fenced");
        let head = match (&report.heartbeat, heartbeat) {
            (_, Some(heartbeat)) => Some(heartbeat.head.max(store.cursor.seq)),
            (None, None) if status != "fenced" => Some(store.cursor.seq),
            _ => None,
        };
        let digest = if status == "fenced" { DigestState::Unknown } else { store.digest_state };
        StoreView {
            store_id: store.id.clone(),
            status,
            online_sale: store.online_sale,
            last_beat_age_ms: report.heartbeat_age_ms,
            lag_ms: (status != "fenced").then_some(report.lag_ms),
            backlog: heartbeat.map(|heartbeat| heartbeat.backlog),
            oldest_unsent_ms: heartbeat.map(|heartbeat| heartbeat.oldest_unsent_ms),
            round_trip_ms: beside.round_trip_ms,
            epoch: store.cursor.epoch,
            head,
            applied: store.cursor.seq,
            as_of: Some(super::views::as_of(self, &store.id, store.as_of)).filter(|at| at.0 > 0),
            digest: digest.as_str(),
            digest_value: store.digest.to_string(),
            open_purchases: beside.open,
            overdue_purchases: beside.overdue,
            agent_version: report.heartbeat.as_ref().map(|heartbeat| heartbeat.version.clone()),
            claims,
            stopped_agent: stopped.map(|claim| StoppedView {
                epoch: claim.epoch,
                why: claim.why.clone(),
                brings: claim.into(),
                agent_version: claim.version.clone(),
            }),
            warnings,
        }
    }

    /// Whether its heartbeat is fresh, by Redis, now.
    async fn has_fresh_heartbeat(&self, store: &Store) -> Result<bool> {
        let unavailable = || self.unavailable(&store.id, Unavailable::Redis, None);
        let (number, mut connection) = self.redis.get().await.map_err(|_| unavailable())?;
        match Reading::read(&mut connection, &self.keys, &store.id).await {
            Ok(reading) => {
                self.presence.note(&store.id, &reading);
                Ok(reading.heartbeat.is_some() && self.presence.judge(store, &reading) != Err(Unavailable::Offline))
            }
            Err(_) => {
                self.redis.broken(number).await;
                Err(unavailable())
            }
        }
    }

    /// Changes a store, and answers with it. `change` returns what it has ended.
    async fn operate(
        &self,
        id: &StoreId,
        write: Write,
        json: Value,
        status: StatusCode,
        change: impl Fn(&Connection, &mut Store, Millis) -> std::result::Result<Vec<String>, Abort<Problem>>
        + Send
        + 'static,
    ) -> Result<Response> {
        let target = Target { effect: Effect::Store, id: id.to_string(), store: id.clone(), weight: Weight::Light };
        let act = move |connection: &Connection, store: &mut Store, now| {
            Ok(Done { value: (), settled: change(connection, store, now)? })
        };
        let written = self.write(key_of(&write, &json), target, act).await?;
        let mut headers = Headers::new(None, written.value.is_none(), None);
        if status == StatusCode::ACCEPTED {
            headers = headers.with(header::LOCATION, &format!("/v1/stores/{id}"));
        }
        Ok(headers.on((status, Json(self.view_of(id).await?))))
    }
}

/// What an operator decides about a store
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ChangeStore, example = json!({"onlineSale": false}))]
struct Change {
    /// `false`: it gets no purchases.
    online_sale: Option<bool>,
    /// Only `true`: a retired store comes back by being adopted.
    #[schema(value_type = Option<bool>)]
    retired: Option<bool>,
}

/// Pause, resume or retire a store
///
/// At least one of the two members is needed.
#[utoipa::path(
    patch, path = "/stores/{storeId}", operation_id = "changeStore", tag = "Stores", params(StorePath, Write),
    request_body = Change,
    responses((status = 200, description = "The store", body = StoreView)),
    extensions(("x-problems" = json!(["unknown_store", "store_unavailable", "store_online"]))),
)]
async fn change(
    State(app): Shared,
    StorePath(id): StorePath,
    write: Write,
    Body { value, json }: Body<Change>,
) -> Result<Response> {
    if value.online_sale.is_none() && value.retired.is_none() {
        return Err(Problem::invalid("", "One of onlineSale and retired is needed"));
    }
    if value.retired == Some(false) {
        return Err(Problem::invalid(
            "/retired",
            "must be true: a retired store comes back by POST /stores/{storeId}/adopt",
        ));
    }
    let store = app.known(&id).await?;
    let is_new = app.replay(key_of(&write, &json).as_ref()).await?.is_none();
    if is_new && value.retired == Some(true) && !store.retired && app.has_fresh_heartbeat(&store).await? {
        return Err(Problem::new(Code::StoreOnline).with("storeId", id.as_str()));
    }
    tracing::info!(store = %id, online_sale = value.online_sale, retired = value.retired, "an operator changes a store");
    app.operate(&id, write, json, StatusCode::OK, move |connection, store, now| {
        if let Some(on) = value.online_sale {
            stores::set_online_sale(connection, store, on)?;
        }
        if value.retired == Some(true) { Ok(chain::retire(connection, store, now)?) } else { Ok(Vec::new()) }
    })
    .await
}

/// Which epoch may be the store's
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdoptEpoch, example = json!({"epoch": 1_769_860_800_000u64}))]
struct Adopt {
    #[schema(value_type = schema::Epoch)]
    epoch: Epoch,
    /// What the claimant is expected to bring; 0 says that it may empty the store.
    #[schema(minimum = 0, maximum = 9_223_372_036_854_775_807u64)]
    items: Option<u64>,
}

/// Let a claimed epoch be the store's
///
/// Takes back a retired store, or lets an epoch open that was refused.
#[utoipa::path(
    post, path = "/stores/{storeId}/adopt", operation_id = "adoptEpoch", tag = "Stores", params(StorePath, Write),
    request_body = Adopt,
    responses((status = 202, description = "The store", body = StoreView)),
    extensions(("x-problems" = json!(["unknown_store", "store_unavailable", "unknown_claim", "empty_claim"]))),
)]
async fn adopt(
    State(app): Shared,
    StorePath(id): StorePath,
    write: Write,
    Body { value, json }: Body<Adopt>,
) -> Result<Response> {
    app.known(&id).await?;
    tracing::info!(store = %id, epoch = %value.epoch, "an operator adopts an epoch");
    let claim = app.presence.report(&id).claim.filter(|claim| claim.epoch == value.epoch);
    let brings = claim.map(|claim| claim.items);
    app.operate(&id, write, json, StatusCode::ACCEPTED, move |connection, store, now| {
        let refused = |code| Err(Problem::new(code).with("storeId", store.id.as_str()).into());
        if !store.claims().contains(&value.epoch) {
            return refused(Code::UnknownClaim);
        }
        // The own epoch's stock is the view's already.
        let replaces = value.epoch != store.cursor.epoch && items::any(connection, &store.id)?;
        if replaces && brings.unwrap_or(0) == 0 && value.items != Some(0) {
            return refused(Code::EmptyClaim);
        }
        chain::adopt(connection, store, value.epoch, now)?;
        Ok(Vec::new())
    })
    .await
}

/// Ask a store for its whole state
#[utoipa::path(
    post, path = "/stores/{storeId}/resync", operation_id = "resyncStore", tag = "Stores", params(StorePath, Write),
    responses((status = 202, description = "The store", body = StoreView)),
    extensions(("x-problems" = json!(["unknown_store", "store_unavailable", "store_retired"]))),
)]
async fn resync(State(app): Shared, StorePath(id): StorePath, write: Write) -> Result<Response> {
    app.known(&id).await?;
    app.operate(&id, write, Value::Null, StatusCode::ACCEPTED, move |connection, store, now| {
        if store.retired {
            return Err(Problem::new(Code::StoreRetired).with("storeId", store.id.as_str()).into());
        }
        // An operator need not wait for the minute to be over.
        stores::set_resync_at(connection, store, None)?;
        view::ask_resync(connection, store, now)?;
        Ok(Vec::new())
    })
    .await
}

/// Tell an agent what is known of its store
///
/// What `store-agent restore` asks. From then on the epoch that it is given supersedes whoever else runs under this id.
#[utoipa::path(
    post, path = "/stores/{storeId}/restore", operation_id = "restoreStore", tag = "Stores", params(StorePath),
    request_body = schema::RestoreQuestion,
    responses((status = 200, description = "The new epoch, then what is known, an object a line", body = String, content_type = "application/x-ndjson")),
    extensions(("x-problems" = json!(["store_retired", "not_caught_up"]))),
)]
async fn restore(State(app): Shared, StorePath(id): StorePath, Body { value, .. }: Body<Question>) -> Result<Response> {
    let now = app.source.now();
    let (store, asked) = (id.clone(), value.clone());
    let job = move |connection: &Connection| {
        if stores::find(connection, &store)?.is_some_and(|store| store.retired) {
            let problem = Problem::new(Code::StoreRetired).with("storeId", store.as_str());
            return Err(problem.detail("adopt the store first: POST /stores/{storeId}/adopt").into());
        }
        question(connection, &store, &asked, now).map_err(|abort| match abort {
            Abort::Refused(refusal) => Problem::new(Code::NotCaughtUp).detail(refusal.to_string()).into(),
            Abort::Database(error) => Abort::Database(error),
        })
    };
    let wakes = app.wakes.clone();
    let epoch: Epoch = app.db.write_then(Weight::Light, job, move |_| wakes.steps().notify_one()).await??;
    tracing::warn!(store = %id, %epoch, "a restore was begun: this epoch is expected");
    // Each line is read when the one before has been sent: however large the store, little of it is in memory at once.
    let lines = futures_util::stream::try_unfold(
        (app.restoring.clone(), AnswerWriter::new(id, epoch, value, now)),
        |(db, writer)| async move {
            if writer.is_over() {
                return Ok::<_, std::io::Error>(None);
            }
            let step = db.scan_within(RESTORE_PATIENCE, move |connection| {
                let mut writer = writer.clone();
                Ok((writer.next(connection), writer))
            });
            let (line, writer) = step.await.map_err(std::io::Error::other)?;
            // What breaks off has no last line, and the asker sees that.
            let line = line.map_err(|abort| std::io::Error::other(abort.to_string()))?;
            let mut text = line.map_or(Vec::new(), |line| serde_json::to_vec(&line).unwrap_or_default());
            if !text.is_empty() {
                text.push(b'\n');
            }
            Ok(Some((bytes::Bytes::from(text), (db, writer))))
        },
    );
    let body = HttpBody::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// First line of a view's copy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotHead {
    store_id: StoreId,
    position: String,
    digest: String,
}

/// Each further line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotItem {
    product_id: ProductId,
    item: Item,
}

/// The view's copy of a store's stock
#[utoipa::path(
    get, path = "/stores/{storeId}/snapshot", operation_id = "getSnapshot", tag = "Stores", params(StorePath),
    responses((status = 200, description = "Its position and digest on the first line, an item on each further one", body = String, content_type = "application/x-ndjson")),
    extensions(("x-problems" = json!(["unknown_store", "store_unavailable"]))),
)]
async fn snapshot(State(app): Shared, StorePath(id): StorePath) -> Result<Response> {
    app.known(&id).await?;
    let found = app.db.scan(move |connection| {
        let Some(store) = stores::find(connection, &id)? else { return Ok(None) };
        let items = items::of_store(connection, &id)?;
        Ok(Some(snapshot_of(store, items)))
    });
    let text = found.await?.ok_or_else(|| Problem::new(Code::UnknownStore))?;
    let text = text.map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], HttpBody::from(text)).into_response())
}

fn snapshot_of(store: Store, items: Vec<(ProductId, Item)>) -> serde_json::Result<String> {
    let position = format!("{}:{}", store.id, store.state.id());
    let head = SnapshotHead { store_id: store.id, position, digest: store.digest.to_string() };
    let mut text = serde_json::to_string(&head)?;
    for (product_id, item) in items {
        text.push('\n');
        text.push_str(&serde_json::to_string(&SnapshotItem { product_id, item })?);
    }
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use protocol::wire::restore::AnswerReader;

    use super::*;
    use crate::http::tests::app;
    use crate::testing::{Agent, Busy};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_restore_waits_for_no_list_of_clients() {
        let (_dir, app) = app();
        let job = |connection: &Connection| Ok::<_, Abort<()>>(Agent::settled("s1", connection).id);
        let store = app.db.write(job).await.expect("writes").expect("is not refused");
        let _busy = Busy::all_scans_of(&app.db).await;
        let asked = Body { value: Question { epoch: 7.into(), log: Vec::new() }, json: Value::Null };
        let answer = restore(State(Arc::new(app)), StorePath(store.clone()), asked).await.expect("answers");
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("does not break off");
        let mut reader = AnswerReader::default();
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            reader.read_line(line).expect("is a line");
        }
        let answer = reader.finish().expect("is whole");
        assert_eq!((answer.store_id.as_str(), answer.items.len()), (store.as_str(), 1));
    }
}
