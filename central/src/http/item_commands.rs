//! Item commands: the store's item routes with the store in front. They travel to the store, which decides.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{post, put};
use axum::{Json, Router};
use protocol::domain::{Guard, Operation, Reason};
use protocol::ids::{OperationId, ProductId, StoreId};
use protocol::wire::{About, Command, Kind, Position};
use runtime::http::{
    Body, Code, CountQuantity, Delta, ItemPath, Name, Prefer, Problem, Quantity, Result, StorePath, Text, Threshold,
    Write,
};
use runtime::sqlite::Abort;
use serde::Deserialize;
use serde_json::{Value, json};

use super::idempotency::{key_of, known};
use super::views::{CommandView, ItemView, POSITION, value};
use super::{App, Shared};
use crate::promises::commands::{self, Status};
use crate::storage::idempotency::{self, Effect};
use crate::storage::items;
use crate::storage::stores;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/inventory/{storeId}", post(create))
        .route("/inventory/{storeId}/{productId}", put(count).patch(change))
        .route("/inventory/{storeId}/{productId}/receive", post(receive))
        .route("/inventory/{storeId}/{productId}/adjust", post(adjust))
}

type Reference = Option<Text<0, 100>>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Create {
    product_id: ProductId,
    name: Option<Name>,
    quantity: Option<CountQuantity>,
    low_at: Option<Threshold>,
    reference: Reference,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Count {
    quantity: CountQuantity,
    counted_at: Option<Position>,
    expected_version: Option<i64>,
    count_ref: Option<Text<0, 100>>,
    reference: Reference,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Change {
    name: Option<Name>,
    discontinued: Option<bool>,
    low_at: Option<Threshold>,
    expected_version: Option<i64>,
    reference: Reference,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Receive {
    quantity: Quantity,
    reference: Reference,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Adjust {
    delta: Delta,
    reason: Reason,
    note: Option<Text<0, 100>>,
    reference: Reference,
}

async fn create(
    State(app): Shared,
    StorePath(store): StorePath,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Create>,
) -> Result<Response> {
    let operation = Operation::Create {
        name: value.name.map_or_else(|| value.product_id.to_string(), |name| name.0),
        quantity: value.quantity.map_or(0, |quantity| quantity.0),
        low_at: value.low_at.map(|at| at.0),
    };
    let ask = Ask { store, product: value.product_id, operation, expected: None, reference: value.reference };
    perform(app, ask, write, prefer, json).await
}

async fn count(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Count>,
) -> Result<Response> {
    let operation = Operation::Count {
        quantity: value.quantity.0,
        counted_at: value.counted_at,
        count_ref: value.count_ref.map(|text| text.0),
    };
    let expected = value.expected_version;
    let ask = Ask { store: store_id, product: product_id, operation, expected, reference: value.reference };
    perform(app, ask, write, prefer, json).await
}

async fn change(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Change>,
) -> Result<Response> {
    if value.name.is_none() && value.discontinued.is_none() && value.low_at.is_none() {
        return Err(Problem::invalid("", "one of name, discontinued and lowAt is needed"));
    }
    let operation = Operation::Change {
        name: value.name.map(|name| name.0),
        discontinued: value.discontinued,
        low_at: value.low_at.map(|at| at.0),
    };
    let expected = value.expected_version;
    let ask = Ask { store: store_id, product: product_id, operation, expected, reference: value.reference };
    perform(app, ask, write, prefer, json).await
}

async fn receive(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Receive>,
) -> Result<Response> {
    let operation = Operation::Receive { quantity: value.quantity.0 };
    let ask = Ask { store: store_id, product: product_id, operation, expected: None, reference: value.reference };
    perform(app, ask, write, prefer, json).await
}

async fn adjust(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Adjust>,
) -> Result<Response> {
    let note = value.note.map(|text| text.0);
    let operation = Operation::Adjust { delta: value.delta.0, reason: value.reason, note };
    let ask = Ask { store: store_id, product: product_id, operation, expected: None, reference: value.reference };
    perform(app, ask, write, prefer, json).await
}

struct Ask {
    store: StoreId,
    product: ProductId,
    operation: Operation,
    expected: Option<i64>,
    reference: Reference,
}

async fn perform(app: Arc<App>, ask: Ask, write: Write, prefer: Prefer, json: Value) -> Result<Response> {
    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref())? {
        return answer(&app, &record.target, &prefer, true).await;
    }
    let (store, look) = app.reachable(&ask.store).await?;
    let creates = matches!(ask.operation, Operation::Create { .. });
    if !creates && app.reader.point(|connection| items::find(connection, &ask.store, &ask.product))?.is_none() {
        return Err(app.unknown_product(&store, &ask.product));
    }
    let id = OperationId::from_uuid(uuid::Uuid::now_v7());
    let command = Command::Operate {
        product_id: ask.product,
        operation: ask.operation,
        guard: Guard { expected_version: ask.expected, if_match: write.if_match },
        about: About {
            reference: ask.reference.map(|text| text.0),
            actor: write.actor,
            traceparent: Some(write.traceparent),
            occurred_at: None,
        },
    };
    let judge = app.clone();
    let now = runtime::clock::now();
    let (target, replayed) = app
        .writer
        .write(move |connection| {
            if let Some(record) = known(connection, key.as_ref())? {
                return Ok((record.target, true));
            }
            let found = stores::find(connection, &ask.store)?;
            let mut store = found.ok_or_else(|| Abort::Refused(Problem::new(Code::UnknownStore)))?;
            judge.still_reachable(&store, &look).map_err(Abort::Refused)?;
            if commands::is_full(connection, &store.id)? {
                return Err(Abort::Refused(Problem::new(Code::Overloaded)));
            }
            commands::append(connection, &mut store, &id, &command, now)?;
            store.save(connection)?;
            if let Some(key) = &key {
                idempotency::bind(connection, key, Effect::Command, id.as_str(), now)?;
            }
            judge.wakes.mark(&ask.store);
            Ok::<_, Abort<Problem>>((id.to_string(), false))
        })
        .await??;
    answer(&app, &target, &prefer, replayed).await
}

/// Waits for the store's answer to a command and says it.
async fn answer(app: &App, id: &str, prefer: &Prefer, replayed: bool) -> Result<Response> {
    let request = app.await_command(id, prefer).await?;
    let mut headers: Vec<(HeaderName, HeaderValue)> = prefer.applied().into_iter().collect();
    if replayed {
        headers.push((HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true")));
    }
    if let Some(position) = &request.position {
        headers.push((POSITION, value(&position.to_string())));
    }
    let location = format!("/v1/commands/{id}");
    let mut response = match (request.status, &request.outcome) {
        (Status::Pending, _) | (_, None) => {
            headers.push((header::LOCATION, value(&location)));
            headers.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
            (StatusCode::ACCEPTED, Json(CommandView::of(&request))).into_response()
        }
        (_, Some(outcome)) => match (&outcome.rejection, &outcome.item) {
            (Some(rejection), _) => {
                Problem::from(rejection).with("storeId", request.store.as_str()).with("commandId", id).into_response()
            }
            (None, Some(item)) => {
                let found = app.reader.point(|connection| {
                    let store = stores::find(connection, &request.store)?;
                    let pending = items::pending(connection, &request.store, &outcome.product_id)?;
                    Ok(store.map(|store| (store, pending)))
                })?;
                let (store, pending) = found.ok_or_else(|| Problem::new(Code::UnknownStore))?;
                let view = ItemView::of(app, &store, outcome.product_id.clone(), item, pending);
                // The version is one of the epoch in which the store answered.
                let epoch = request.position.as_ref().map_or(store.state.epoch, |position| position.at.epoch);
                headers.push((header::ETAG, value(&view.etag(epoch))));
                if outcome.kind == Kind::ItemCreated {
                    let location = format!("/v1/inventory/{}/{}", view.store_id, view.product_id);
                    headers.push((header::LOCATION, value(&location)));
                    (StatusCode::CREATED, Json(view)).into_response()
                } else {
                    counted(app, &request, view)?.into_response()
                }
            }
            (None, None) => Json(CommandView::of(&request)).into_response(),
        },
    };
    response.headers_mut().extend(headers);
    Ok(response)
}

/// A count's answer also says by how much it was off.
fn counted(app: &App, request: &commands::Request, view: ItemView) -> Result<Json<Value>> {
    let mut json = serde_json::to_value(view).map_err(Problem::internal)?;
    if let (Some(Kind::Counted), Some(at)) = (request.outcome.as_ref().map(|outcome| outcome.kind), &request.position) {
        let delta: i64 = app.reader.point(|connection| {
            connection
                .prepare_cached("select delta from event where store_id = ?1 and epoch = ?2 and seq = ?3")?
                .query_row(rusqlite::params![at.store.as_str(), at.at.epoch, at.at.seq], |row| row.get(0))
        })?;
        json["difference"] = json!(delta);
    }
    Ok(Json(json))
}

impl App {
    /// A command, once it is no longer pending or the wait is over.
    pub(super) async fn await_command(&self, id: &str, prefer: &Prefer) -> Result<commands::Request> {
        let look = || {
            let request = self.reader.point(|connection| commands::find(connection, id))?;
            request.ok_or_else(|| Problem::new(Code::UnknownId))
        };
        self.waiting.until(id, || prefer.wait(), look, |request| request.status != Status::Pending).await
    }
}
