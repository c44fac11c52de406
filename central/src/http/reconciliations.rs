//! `POST /reconciliations`: a list of what was counted in a store is compared with what central believes is there, and what
//! differs is counted at the store, if that is asked for.
//!
//! **Guarantees.** A list of any length holds up nobody: it is compared on a connection that reads. What is asked of the store
//! is one command, done as a whole or not at all. Nothing of the list's products that differ is counted twice.

use std::collections::BTreeMap;
use std::fmt;
use std::result::Result as Outcome;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::ids::{ProductId, StoreId};
use protocol::promise::request::Status;
use protocol::time::Millis;
use protocol::wire::{BATCH_MAX, Position, Results};
use runtime::http::openapi::schema;
use runtime::http::requests::Reference;
use runtime::http::{Code, CountQuantity, LargeBody, NoEffect, Prefer, Problem, Result, Write, Written};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{CommandView, LineView};
use super::write::{Headers, about, key_of};
use super::{App, Shared};
use crate::promises::reconciliations::{Compared, Comparison, Different, NotComparable, Refusal, compare};
use crate::storage::{Abort, Connection, commands, reconciliations};

/// Products in a list, at most.
const LINES_MAX: usize = 100_000;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(reconcile))
}

/// What was counted in a store
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Reconcile, example = json!({"storeId": "store-1", "lines": [{"productId": "coffee", "quantity": 23}, {"productId": "tea", "quantity": 40}], "source": "stocktaking 2026-01", "dryRun": true}))]
struct Reconcile {
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    /// Each product once.
    #[schema(value_type = Vec<CountedLine>, min_items = 1, max_items = 100000)]
    lines: List,
    /// The stocktaking, or whoever sent the list: the `reference` of what is counted.
    source: Reference,
    /// Where the store's ledger stood when the shelves were counted: what came or went since is added. Now, if it is left out.
    #[schema(value_type = Option<schema::Position>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    counted_at: Option<Position>,
    /// Only compare, if it is left out; `false`: count at the store what differs.
    dry_run: Option<bool>,
}

/// What was counted of a product, without units that wait to be picked
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CountedLine {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    quantity: CountQuantity,
}

/// What was counted, by product.
#[derive(Debug, Serialize)]
struct List(BTreeMap<ProductId, i64>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Outcome<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of 1 to 100,000 lines")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut lines: A) -> Outcome<List, A::Error> {
        let mut list = BTreeMap::new();
        while lines.next_element_seed(Next(&mut list))?.is_some() {
            if list.len() > LINES_MAX {
                return Err(A::Error::invalid_length(list.len(), &self));
            }
        }
        if list.is_empty() { Err(A::Error::invalid_length(0, &self)) } else { Ok(List(list)) }
    }
}

/// Takes a line up into a list. The error of a product that is there already is raised here, where the path names the line.
struct Next<'a>(&'a mut BTreeMap<ProductId, i64>);

impl<'de> DeserializeSeed<'de> for Next<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Outcome<(), D::Error> {
        let CountedLine { product_id, quantity } = CountedLine::deserialize(deserializer)?;
        match self.0.insert(product_id, quantity.0) {
            None => Ok(()),
            Some(_) => Err(D::Error::custom("must be of a product that no line before it is of")),
        }
    }
}

/// How the list and the store's stock differ
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reconciliation)]
struct ReconciliationView {
    /// By what the store was asked to count what differs; absent: it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    command_id: Option<String>,
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    /// Everything that the store did up to then is in what was compared.
    #[schema(value_type = schema::Time)]
    as_of: Millis,
    /// Products of which the list and the store say the same.
    equal: usize,
    /// In order of their ids, as all of these.
    different: Vec<DifferentView>,
    /// Products of the store that the list leaves out, at most 10,000. They stay as they are.
    missing: Vec<MissingView>,
    /// So many more than are named.
    missing_left_out: usize,
    /// Products of the list that the store does not have. They are not created.
    unknown: Vec<UnknownView>,
    /// What became of each in `different`, if the store refused some and yet did the others: a restore had brought these back.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<LineView>>,
}

/// A product of which the list says something else than the store
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DifferentLine)]
struct DifferentView {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    /// What should have been there when it was counted.
    expected: i64,
    /// What was counted.
    quantity: i64,
    /// `quantity - expected`: by so much the store's stock is off.
    difference: i64,
}

/// A product of the store that the list leaves out
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MissingLine)]
struct MissingView {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    /// What should have been there.
    expected: i64,
}

/// A product of the list that the store does not have
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UnknownLine)]
struct UnknownView {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    /// What was counted.
    quantity: i64,
}

/// What is answered to a reconciliation
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ReconciliationAnswer)]
#[expect(dead_code, clippy::large_enum_variant, reason = "only describes")]
enum Answer {
    Compared(ReconciliationView),
    Replayed(CommandView),
}

/// Compare what was counted with what a store has
///
/// `dryRun` compares with central's view, also while the store is away. `dryRun: false` has what differs counted at the store,
/// by one command: all of it or nothing, at most 1,000 products. `missing` and `unknown` are told and change nothing. Again
/// under its key: the command as it is now.
#[utoipa::path(
    post, path = "/reconciliations", operation_id = "reconcile", tag = "Stock", params(Write, Prefer),
    request_body = Reconcile,
    responses((status = 200, description = "How they differ; again under its key: the command", body = Answer), (status = 202, description = "The store has not answered yet: the command", body = CommandView)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "not_caught_up", "unsupported_by_store", "batch_refused", "limit_exceeded"]))),
)]
async fn reconcile(
    State(app): Shared,
    write: Write,
    prefer: Prefer,
    LargeBody { value, json, place: _place }: LargeBody<Reconcile>,
) -> Result<Response> {
    let Reconcile { store_id, lines: List(list), source, counted_at, dry_run } = value;
    if counted_at.as_ref().is_some_and(|position| position.store != store_id) {
        return Err(not_a_position());
    }
    if dry_run != Some(false) {
        if app.known(&store_id).await?.retired {
            return Err(Problem::new(Code::StoreRetired).with("storeId", store_id.as_str()));
        }
        let compared = app.compare(store_id, list, counted_at, &prefer).await?;
        return app.answer_compared(compared, None).await;
    }

    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref()).await? {
        return app.reconciled(&record.target, &prefer, None).await;
    }
    let (_, reading) = app.reachable(&store_id).await?;
    let compared = app.compare(store_id, list, counted_at, &prefer).await?;
    if compared.found.comparison.different.is_empty() {
        // Perhaps because the same request, sent twice, has been done meanwhile.
        return match app.replay(key.as_ref()).await? {
            Some(record) => app.reconciled(&record.target, &prefer, None).await,
            None => app.answer_compared(compared, None).await,
        };
    }
    let command = compared.found.command(about(write, Some(source.0)));
    let command = command.map_err(|refusal| refused(&compared.found, &refusal))?;
    let asked_of = compared.found.position();
    let judge =
        move |connection: &Connection| match reconciliations::is_counting(connection, &asked_of.store, asked_of.at)? {
            true => {
                Err(Problem::new(Code::Overloaded).detail("the store is counting, or has a batch to answer").into())
            }
            false => Ok(()),
        };
    let written = app.ask(compared.found.store.id.clone(), reading, command, key, judge).await?;
    app.reconciled(&written.target, &prefer, written.value.map(|()| compared)).await
}

fn not_a_position() -> Problem {
    Problem::invalid("/countedAt", "must be a position of this store's ledger, in its present epoch")
}

/// What a comparison has found.
struct Dated {
    found: Compared,
    /// Everything that the store did up to then is in what was compared.
    as_of: Millis,
}

impl App {
    /// Compares a list with the view, in a read of one state.
    async fn compare(
        self: &Arc<Self>,
        store_id: StoreId,
        list: BTreeMap<ProductId, i64>,
        counted_at: Option<Position>,
        prefer: &Prefer,
    ) -> Result<Dated> {
        if let Some(position) = &counted_at {
            self.caught_up(&[position.to_string()], prefer).await?;
        }
        // Not when it is answered: the store may have waited for meanwhile, and what it has done since was not compared.
        let current_at = self.presence.current_at(&store_id);
        let compare = move |connection: &Connection| match compare(connection, &store_id, &list, counted_at.as_ref()) {
            Ok(found) => Ok(Ok(Dated { as_of: found.store.as_of.max(current_at), found })),
            Err(Abort::Refused(why)) => Ok(Err(not_comparable(why))),
            Err(Abort::Database(error)) => Err(error),
        };
        self.db.scan(compare).await?
    }

    /// Waits for the store's answer and says it. `compared`: what was found, unless that was said before.
    async fn reconciled(&self, id: &str, prefer: &Prefer, compared: Option<Dated>) -> Result<Response> {
        let request = self.await_command(id, prefer).await?;
        let headers = Headers::new(Some(prefer), compared.is_none(), request.position.as_ref());
        if request.status == Status::Pending {
            let headers = headers.with(header::LOCATION, &format!("/v1/commands/{id}"));
            return Ok(headers.on((StatusCode::ACCEPTED, Json(CommandView::of(&request)))));
        }
        match refusal(&request, compared.as_ref().map(|compared| &compared.found))? {
            Some(problem) => Ok(headers.on(problem.with("storeId", request.store.as_str()).with("commandId", id))),
            None => match compared {
                Some(compared) => Ok(headers.on(self.answer_compared(compared, Some(&request)).await?)),
                None => Ok(headers.on(Json(CommandView::of(&request)))),
            },
        }
    }

    /// Says how they differ; `done`: the command that the store has done. Written on a thread for such, since it may be long.
    async fn answer_compared(&self, compared: Dated, done: Option<&commands::Request>) -> Result<Response> {
        let refused = done.and_then(results).filter(|results| !results.refused.is_empty());
        let (command_id, results) = (done.map(|request| request.id.to_string()), refused.map(LineView::all_of));
        let written = tokio::task::spawn_blocking(move || {
            let Dated { found: Compared { comparison, store, .. }, as_of } = compared;
            let Comparison { equal, different, missing, missing_left_out, unknown } = comparison;
            Written::json(&ReconciliationView {
                command_id,
                store_id: store.id,
                as_of,
                equal,
                different: DifferentView::all_of(&different),
                missing: missing
                    .into_iter()
                    .map(|(product_id, expected)| MissingView { product_id, expected })
                    .collect(),
                missing_left_out,
                unknown: unknown
                    .into_iter()
                    .map(|(product_id, quantity)| UnknownView { product_id, quantity })
                    .collect(),
                results,
            })
        });
        let mut response = written.await.map_err(Problem::internal)?.into_response();
        if done.is_none() {
            response.extensions_mut().insert(NoEffect);
        }
        Ok(response)
    }
}

fn not_comparable(why: NotComparable) -> Problem {
    match why {
        NotComparable::UnknownStore => Problem::new(Code::UnknownStore),
        NotComparable::NotCaughtUp => {
            Problem::new(Code::NotCaughtUp).detail("the store's state has not arrived in full")
        }
        NotComparable::NotAPosition => not_a_position(),
        NotComparable::TooLongAgo => {
            Problem::invalid("/countedAt", "must be among the last 1,000,000 entries of the store's ledger")
        }
    }
}

/// Why the store did not count.
fn refusal(request: &commands::Request, compared: Option<&Compared>) -> Result<Option<Problem>> {
    if let Some(rejection) = request.rejection() {
        return Ok(Some(Problem::from(rejection)));
    }
    let Some(results) = results(request).filter(|results| results.undone) else { return Ok(None) };
    let lines = serde_json::to_value(LineView::all_of(results)).map_err(Problem::internal)?;
    let problem = Problem::new(Code::BatchRefused).with("results", lines);
    let Some(compared) = compared else { return Ok(Some(problem)) };
    let different = DifferentView::all_of(&compared.comparison.different);
    Ok(Some(problem.with("different", serde_json::to_value(different).map_err(Problem::internal)?)))
}

fn results(request: &commands::Request) -> Option<&Results> {
    request.outcome.as_ref()?.became.results()
}

/// Why one command cannot count what differs.
fn refused(compared: &Compared, refusal: &Refusal) -> Problem {
    let problem = Problem::new(Code::LimitExceeded).with("storeId", compared.store.id.as_str());
    match refusal {
        Refusal::TooManyDiffer => problem
            .detail("More products differ than are counted by one reconciliation: send the list in parts")
            .with("differing", compared.comparison.different.len())
            .with("limit", BATCH_MAX),
        Refusal::TooMuch(product) => problem.with("productId", product.as_str()),
    }
}

impl DifferentView {
    fn all_of(different: &[Different]) -> Vec<Self> {
        let view = |one: &Different| Self {
            product_id: one.product.clone(),
            expected: one.counted - one.difference,
            quantity: one.counted,
            difference: one.difference,
        };
        different.iter().map(view).collect()
    }
}
