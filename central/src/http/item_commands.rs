//! Item commands: the store's item routes with the store in front. They travel to the store, which decides.

use std::result::Result as Outcome;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::Response;
use protocol::domain::{Action, Guard, Operation};
use protocol::ids::{OperationId, ProductId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::promise::request::Status;
use protocol::wire::{Became, Command};
use runtime::http::openapi::IfMatch;
use runtime::http::requests::{Adjust, Allot, Asked, Change, Count, Create, Receive};
use runtime::http::{Body, Code, ItemPath, ItemWrite, Prefer, Problem, Result, StorePath, Write};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{CommandView, ItemView};
use super::write::{Done, Headers, Target, Written, about, key_of};
use super::{App, Shared, operations};
use crate::links::presence::Reading;
use crate::promises::allotments::settled;
use crate::storage::idempotency::{Effect, Key};
use crate::storage::queries::events;
use crate::storage::queries::offers::{self, Shown};
use crate::storage::{Abort, Connection, Weight, commands, items};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(count, change))
        .routes(routes!(receive))
        .routes(routes!(adjust))
        .routes(routes!(allot))
}

/// Create an item
#[utoipa::path(
    post, path = "/inventory/{storeId}", operation_id = "createItem", tag = "Stock", params(StorePath, Write, Prefer),
    request_body = Create,
    responses((status = 201, description = "The new item", body = ItemView), (status = 202, description = "The store has not answered yet: the command", body = CommandView)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "already_exists"]))),
)]
async fn create(
    State(app): Shared,
    StorePath(store): StorePath,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Create>,
) -> Result<Response> {
    let (product, asked) = value.asked();
    app.command(store, product, asked, write.into(), prefer, json).await
}

/// Set what was counted
#[utoipa::path(
    put, path = "/inventory/{storeId}/{productId}", operation_id = "countItem", tag = "Stock", params(ItemPath, Write, IfMatch, Prefer),
    request_body = Count,
    responses((status = 200, description = "The item after it", body = Commanded), (status = 202, description = "The store has not answered yet: the command", body = CommandView)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "unknown_product", "version_conflict", "limit_exceeded"]))),
)]
async fn count(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: ItemWrite,
    prefer: Prefer,
    Body { value, json }: Body<Count>,
) -> Result<Response> {
    app.command(store_id, product_id, value.asked(), write, prefer, json).await
}

/// Change name, threshold, or whether it is carried
///
/// A JSON merge patch (RFC 7396). At least one of `name`, `discontinued` and `lowAt` is needed.
#[utoipa::path(
    patch, path = "/inventory/{storeId}/{productId}", operation_id = "changeItem", tag = "Stock", params(ItemPath, Write, IfMatch, Prefer),
    request_body = Change,
    responses((status = 200, description = "The item after it", body = Commanded), (status = 202, description = "The store has not answered yet: the command", body = CommandView)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "unknown_product", "version_conflict"]))),
)]
async fn change(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: ItemWrite,
    prefer: Prefer,
    Body { value, json }: Body<Change>,
) -> Result<Response> {
    app.command(store_id, product_id, value.asked()?, write, prefer, json).await
}

/// Book in a delivery
#[utoipa::path(
    post, path = "/inventory/{storeId}/{productId}/receive", operation_id = "receiveItem", tag = "Stock", params(ItemPath, Write, IfMatch, Prefer),
    request_body = Receive,
    responses((status = 200, description = "The item after it", body = Commanded), (status = 202, description = "The store has not answered yet: the command", body = CommandView)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "unknown_product", "discontinued", "limit_exceeded"]))),
)]
async fn receive(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: ItemWrite,
    prefer: Prefer,
    Body { value, json }: Body<Receive>,
) -> Result<Response> {
    app.command(store_id, product_id, value.asked(), write, prefer, json).await
}

/// Correct the stock
#[utoipa::path(
    post, path = "/inventory/{storeId}/{productId}/adjust", operation_id = "adjustItem", tag = "Stock", params(ItemPath, Write, IfMatch, Prefer),
    request_body = Adjust,
    responses((status = 200, description = "The item after it", body = Commanded), (status = 202, description = "The store has not answered yet: the command", body = CommandView)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "unknown_product", "insufficient_stock", "limit_exceeded"]))),
)]
async fn adjust(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: ItemWrite,
    prefer: Prefer,
    Body { value, json }: Body<Adjust>,
) -> Result<Response> {
    app.command(store_id, product_id, value.asked(), write, prefer, json).await
}

/// Set units aside for online sale
///
/// Tills cannot sell them; central does, at once and without asking. The store sets more aside at once, at most what is
/// `available`. Fewer are once central has released them: until then the answer is 202, and `allotmentWanted` is shown.
#[utoipa::path(
    put, path = "/inventory/{storeId}/{productId}/allotment", operation_id = "allotItem", tag = "Stock", params(ItemPath, Write, IfMatch, Prefer),
    request_body = Allot,
    responses((status = 200, description = "The item after it", body = Commanded), (status = 202, description = "The store has not answered yet: the command; or it has not lowered it yet: the item", body = CommandOrItem)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "unknown_product", "insufficient_stock", "discontinued", "version_conflict"]))),
)]
async fn allot(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: ItemWrite,
    prefer: Prefer,
    Body { value, json }: Body<Allot>,
) -> Result<Response> {
    app.command(store_id, product_id, value.asked(), write, prefer, json).await
}

/// A command, or the item that it has not changed yet
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "what answers look like")]
enum CommandOrItem {
    Command(Box<CommandView>),
    Item(Box<ItemView>),
}

/// An item after a command that was done
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CommandedItem)]
struct Commanded {
    #[serde(flatten)]
    item: ItemView,
    /// By how much a count was off.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<i64>,
}

/// What asks a store for an operation.
pub(super) fn operate(product_id: ProductId, asked: Asked, ItemWrite { write, if_match }: ItemWrite) -> Command {
    Command::Operate {
        product_id,
        operation: asked.operation,
        guard: Guard { expected_version: asked.expected_version, if_match },
        about: about(write, asked.reference),
    }
}

impl App {
    /// Sends a command to a store and answers with its outcome.
    async fn command(
        self: Arc<Self>,
        store_id: StoreId,
        product_id: ProductId,
        asked: Asked,
        write: ItemWrite,
        prefer: Prefer,
        json: Value,
    ) -> Result<Response> {
        let key = key_of(&write.write, &json);
        if let Some(record) = self.replay(key.as_ref()).await? {
            return self.commanded(&record.target, &prefer, true).await;
        }
        let (store, reading) = self.reachable(&store_id).await?;
        let creates = matches!(asked.operation, Operation::Create { .. });
        if !creates && self.db.read(|connection| items::find(connection, &store_id, &product_id)).await?.is_none() {
            return Err(self.unknown_product(&store.standing(), &product_id).await);
        }
        let command = operate(product_id, asked, write);
        let written = self.ask(store_id, reading, command, key, |_| Ok(())).await?;
        self.commanded(&written.target, &prefer, written.value.is_none()).await
    }

    /// Asks a store for something by a command, unless its key has come before. `judge` has the last word, in the
    /// transaction.
    pub(super) async fn ask(
        self: &Arc<Self>,
        store_id: StoreId,
        reading: Reading,
        command: Command,
        key: Option<Key>,
        judge: impl Fn(&Connection) -> Outcome<(), Abort<Problem>> + Send + 'static,
    ) -> Result<Written<()>> {
        let id = OperationId::from_uuid(self.source.id());
        let weight = Weight::Light;
        let target = Target { effect: Effect::Command, id: id.to_string(), store: store_id, weight };
        let app = self.clone();
        self.write(key, target, move |connection, store, now| {
            app.still_reachable(store, &reading)?;
            judge(connection)?;
            if commands::is_full(connection, &store.id)? {
                return Err(Problem::new(Code::Overloaded).into());
            }
            commands::append(connection, store, &id, &command, now)?;
            Ok(Done::with(()))
        })
        .await
    }

    /// Waits for the store's answer to a command and says it.
    pub(super) async fn commanded(&self, id: &str, prefer: &Prefer, is_replay: bool) -> Result<Response> {
        let request = self.await_command(id, prefer).await?;
        let headers = Headers::new(Some(prefer), is_replay, request.position.as_ref());
        let Some(outcome) = request.outcome.as_ref().filter(|_| request.status != Status::Pending) else {
            let headers = headers.with(header::LOCATION, &format!("/v1/commands/{id}"));
            return Ok(headers.on((StatusCode::ACCEPTED, Json(CommandView::of(&request)))));
        };
        if let Some(rejection) = outcome.became.rejection() {
            let problem = Problem::from(rejection);
            return Ok(headers.on(problem.with("storeId", request.store.as_str()).with("commandId", id)));
        }
        if let Some(results) = outcome.became.results() {
            return Ok(match operations::answer(results) {
                Ok(answer) => headers.on(answer),
                Err(problem) => headers.on(problem.with("storeId", request.store.as_str()).with("commandId", id)),
            });
        }
        let Became::Done { action, product_id, item } = &outcome.became else {
            return Ok(headers.on(Json(CommandView::of(&request))));
        };
        if *action == Action::Allot && item.allotment_wanted.is_some() {
            return self.released(&request.store, product_id, prefer, headers).await;
        }
        let found = self.db.read(|connection| {
            let shown = offers::one(connection, &request.store, product_id)?;
            let counted = request.position.as_ref().filter(|_| *action == Action::Count);
            let difference = counted.map(|at| events::delta(connection, at)).transpose()?.flatten();
            Ok(shown.map(|shown| (shown, difference)))
        });
        let (Shown { store, pending, .. }, difference) =
            found.await?.ok_or_else(|| Problem::new(Code::UnknownStore))?;
        let item = ItemView::of(self, &store, product_id.clone(), item, pending);
        // The version is one of the epoch in which the store answered.
        let epoch = request.position.as_ref().map_or(store.state_epoch, |position| position.at.epoch);
        let headers = headers.tagged(item.etag(epoch));
        if *action == Action::Create {
            let location = format!("/v1/inventory/{}/{}", item.store_id, item.product_id);
            return Ok(headers.with(header::LOCATION, &location).on((StatusCode::CREATED, Json(item))));
        }
        Ok(headers.on(Json(Commanded { item, difference })))
    }

    /// The store wants fewer units set aside: waits until it has heard of what is not sold, and says how it is then.
    async fn released(
        &self,
        store: &StoreId,
        product: &ProductId,
        prefer: &Prefer,
        headers: Headers,
    ) -> Result<Response> {
        let look = async || {
            let found = self.db.read(|connection| offers::one(connection, store, product)).await?;
            found.ok_or_else(|| Problem::new(Code::UnknownStore))
        };
        let is_done = |shown: &Shown| shown.item.as_ref().is_none_or(|item| item.allotment_wanted.is_none());
        let shown = self.waiting.until(&settled(store, product), || prefer.wait(), look, is_done).await?;
        let status = if is_done(&shown) { StatusCode::OK } else { StatusCode::ACCEPTED };
        let item = shown.item.as_ref().ok_or_else(|| Problem::new(Code::UnknownProduct))?;
        let item = ItemView::of(self, &shown.store, product.clone(), item, shown.pending);
        let mut headers = headers.tagged(item.etag(shown.store.state_epoch));
        if status == StatusCode::ACCEPTED {
            headers = headers.with(header::LOCATION, &format!("/v1/inventory/{store}/{product}"));
        }
        Ok(headers.on((status, Json(item))))
    }

    /// A command, once it is no longer pending or the wait is over.
    pub(super) async fn await_command(&self, id: &str, prefer: &Prefer) -> Result<commands::Request> {
        let look = async || {
            let request = self.db.read(|connection| commands::find(connection, id)).await?;
            request.ok_or_else(|| Problem::new(Code::UnknownId))
        };
        self.waiting
            .until(
                id,
                || prefer.wait().filter(|_| !planted(Bug::CommandNotWaitedFor)),
                look,
                |request| request.status != Status::Pending,
            )
            .await
    }
}
