//! Units that go from one store to another: send, read, receive.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::Response;
use protocol::domain::transfer::{State as Sent, Transfer as Reported};
use protocol::ids::{OperationId, StoreId, TransferId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::requests::{MakeTransfer, ReceiveTransfer};
use runtime::http::{
    Body, Code, IdPath, List, OptionalBody, Page, PageSize, Prefer, Problem, Query, Result, TransferLine, Write,
    Written,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::write::{Done, Headers, Target, about, key_of};
use super::{App, Shared};
use crate::promises::transfers::{TransferRequest, begin, receive as ask_to_receive};
use crate::storage::idempotency::Effect;
use crate::storage::queries::transfers as listed;
use crate::storage::stores;
use crate::storage::transfers::{self, Status, Transfer};
use crate::storage::{Weight, commands};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, make)).routes(routes!(one)).routes(routes!(receive))
}

/// Units that go from one store to another
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Transfer, example = json!({
    "transferId": "0197a1b2-0000-7000-8000-000000000004", "fromStoreId": "store-1", "toStoreId": "store-2",
    "status": "shipped", "lines": [{"productId": "coffee", "name": "Coffee, 500 g", "quantity": 2, "received": null}],
    "discrepancy": false, "autoReceive": false, "createdAt": "2026-01-31T12:00:00.000Z", "settledAt": null,
    "reference": "refill 17", "code": null, "position": "store-1:1769860800000-18",
}))]
pub(super) struct TransferView {
    #[schema(value_type = schema::Id)]
    transfer_id: TransferId,
    #[schema(value_type = schema::StoreId)]
    from_store_id: StoreId,
    #[schema(value_type = schema::StoreId)]
    to_store_id: StoreId,
    /// `requested`, `shipped`, `received` or `rejected`.
    status: &'static str,
    lines: Vec<TransferLine>,
    /// Less has arrived than was shipped.
    discrepancy: bool,
    auto_receive: bool,
    #[schema(value_type = schema::Time)]
    created_at: Millis,
    #[schema(value_type = Option<schema::Time>)]
    settled_at: Option<Millis>,
    reference: Option<String>,
    /// Why it was rejected, or does not arrive.
    code: Option<String>,
    /// Of what was said last, by either store.
    position: Option<String>,
    /// A command about it that a store has not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::OperationId>)]
    pending_command_id: Option<OperationId>,
}

impl TransferView {
    fn of(transfer: &Transfer, pending_command_id: Option<OperationId>) -> Self {
        let said = &transfer.transfer;
        // Until its destination comes back, and books in what has arrived.
        let is_lost = transfer.status == Status::Shipped && transfer.is_destination_retired;
        Self {
            transfer_id: said.id,
            from_store_id: said.from.clone(),
            to_store_id: said.to.clone(),
            status: if is_lost { Status::Received.as_str() } else { transfer.status.as_str() },
            lines: TransferLine::all_of(said),
            discrepancy: is_lost || said.has_discrepancy(),
            auto_receive: said.auto_receive,
            created_at: said.created_at,
            settled_at: transfer.settled_at,
            reference: said.reference.clone(),
            code: if is_lost { Some("store_retired".to_owned()) } else { transfer.code.clone() },
            position: transfer.position.as_ref().map(ToString::to_string),
            pending_command_id,
        }
    }
}

fn unknown() -> Problem {
    Problem::new(Code::UnknownId)
}

/// Send units from one store to another
///
/// All lines or none. The source has to be online, the destination has not. 200: the key came before, and this is what has
/// become of it.
#[utoipa::path(
    post, path = "/transfers", operation_id = "makeTransfer", tag = "Transfers", params(Write, Prefer),
    request_body = MakeTransfer,
    responses((status = 201, description = "The transfer: its units have left the source", body = TransferView), (status = 200, description = "The transfer", body = TransferView), (status = 202, description = "The source has not answered yet", body = TransferView)),
    extensions(("x-problems" = json!(["unknown_product", "insufficient_stock", "transfer_closed", "unknown_store", "store_retired", "store_unavailable", "unsupported_by_store"]))),
)]
async fn make(
    State(app): Shared,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<MakeTransfer>,
) -> Result<Response> {
    let asked = value.asked()?;
    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref()).await? {
        return app.sent(&record.target, &prefer, true).await;
    }
    app.known(&asked.from).await?;
    if app.known(&asked.to).await?.retired {
        return Err(Problem::new(Code::StoreRetired).with("storeId", asked.to.as_str()));
    }
    let (_, reading) = app.reachable(&asked.from).await?;
    let ask = TransferRequest {
        transfer: Reported {
            id: TransferId::new(app.source.id()),
            from: asked.from.clone(),
            to: asked.to.clone(),
            lines: asked.lines,
            names: Default::default(),
            auto_receive: asked.auto_receive && !planted(Bug::AutoReceiveForgotten),
            reference: asked.reference.clone(),
            created_at: app.source.now(),
            state: Sent::Shipped,
        },
        about: about(write, asked.reference),
        redis_now: reading.redis_now,
    };
    let (of, lines) = (asked.from.clone(), ask.transfer.lines.clone());
    let weight = Weight::of_lines(lines.iter().len());
    let target = Target { effect: Effect::Command, id: ask.command().to_string(), store: asked.from, weight };
    let judge = app.clone();
    let written = app
        .write(key, target, move |connection, source, now| {
            judge.still_reachable(source, &reading)?;
            let destination = stores::find(connection, &ask.transfer.to)?;
            if destination.is_none_or(|store| store.retired) {
                return Err(Problem::new(Code::StoreRetired).with("storeId", ask.transfer.to.as_str()).into());
            }
            if commands::is_full(connection, &source.id)? || commands::is_full(connection, &ask.transfer.to)? {
                return Err(Problem::new(Code::Overloaded).into());
            }
            begin(connection, source, &ask, now)?;
            Ok(Done::with(()))
        })
        .await;
    let written = match written {
        Ok(written) => written,
        Err(problem) => return Err(app.with_line(problem, &of, &lines).await?),
    };
    app.sent(&written.target, &prefer, written.value.is_none()).await
}

/// Book in a transfer that has arrived
///
/// Its destination is asked to. What is not named among the lines is missing for good: `discrepancy`.
#[utoipa::path(
    post, path = "/transfers/{id}/receive", operation_id = "receiveTransfer", tag = "Transfers", params(IdPath, Write, Prefer),
    request_body = Option<ReceiveTransfer>,
    responses((status = 200, description = "The transfer", body = TransferView), (status = 202, description = "The destination has not answered yet", body = TransferView)),
    extensions(("x-problems" = json!(["unknown_id", "store_retired", "store_unavailable", "unsupported_by_store", "transfer_closed", "limit_exceeded"]))),
)]
async fn receive(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    prefer: Prefer,
    OptionalBody { value, json }: OptionalBody<ReceiveTransfer>,
) -> Result<Response> {
    let id: TransferId = id.parse().map_err(|_| unknown())?;
    let (lines, reference) = value.asked()?;
    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref()).await? {
        return app.booked_in(id, &record.target, &prefer, true).await;
    }
    let transfer = app.transfer(id).await?;
    let destination = transfer.transfer.to.clone();
    // What has ended is answered by what is known, wherever its destination is.
    let reading = match transfer.status {
        Status::Shipped => Some(app.reachable(&destination).await?.1),
        Status::Requested | Status::Received | Status::Rejected => None,
    };
    let about = about(write, reference);
    let command = OperationId::from_uuid(app.source.id());
    let weight = Weight::of_lines(transfer.transfer.lines.iter().len());
    let target = Target { effect: Effect::Command, id: command.to_string(), store: destination, weight };
    let judge = app.clone();
    let written = app
        .write(key, target, move |connection, destination, now| {
            let transfer = transfers::find(connection, id)?.ok_or_else(unknown)?;
            if let Some(reading) = &reading {
                judge.still_reachable(destination, reading)?;
            }
            if commands::is_full(connection, &destination.id)? {
                return Err(Problem::new(Code::Overloaded).into());
            }
            ask_to_receive(connection, destination, &transfer, (&command, lines.as_ref(), &about), now)
                .map_err(|abort| abort.map(|refused| Problem::from(refused).with("transferId", id.to_string())))?;
            Ok(Done::with(()))
        })
        .await?;
    app.booked_in(id, &written.target, &prefer, written.value.is_none()).await
}

impl App {
    async fn transfer(&self, id: TransferId) -> Result<Transfer> {
        let found = self.db.read(|connection| transfers::find(connection, id)).await?;
        found.ok_or_else(unknown)
    }

    /// With the command about it that is unanswered.
    async fn shown_transfer(&self, id: TransferId) -> Result<TransferView> {
        let found = self.db.read(|connection| {
            let found = transfers::find(connection, id)?;
            let asked = transfers::unanswered(connection, id)?;
            Ok(found.map(|found| TransferView::of(&found, asked)))
        });
        found.await?.ok_or_else(unknown)
    }

    /// Waits for the source's word on a new transfer and says it. `command`: the one that asked for it.
    async fn sent(&self, command: &str, prefer: &Prefer, is_replay: bool) -> Result<Response> {
        let id: TransferId = command.split(':').next().and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
        let request = self.await_command(command, prefer).await?;
        let transfer = self.transfer(id).await?;
        let headers = Headers::new(Some(prefer), is_replay, transfer.position.as_ref())
            .with(header::LOCATION, &format!("/v1/transfers/{id}"));
        let status = match transfer.status {
            Status::Requested => StatusCode::ACCEPTED,
            Status::Rejected => {
                let known = || transfer.code.as_deref().and_then(Code::from_name).unwrap_or(Code::TransferClosed);
                let problem = request.rejection().map_or_else(|| Problem::new(known()), Problem::from);
                let source = &transfer.transfer.from;
                let problem = problem.with("transferId", id.to_string()).with("storeId", source.as_str());
                return Ok(headers.on(self.with_line(problem, source, &transfer.transfer.lines).await?));
            }
            Status::Shipped | Status::Received if is_replay => StatusCode::OK,
            Status::Shipped | Status::Received => StatusCode::CREATED,
        };
        Ok(headers.on((status, Json(self.shown_transfer(id).await?))))
    }

    /// Waits for the destination's answer to the command that asks it to book in a transfer, and says what that is now.
    async fn booked_in(&self, id: TransferId, command: &str, prefer: &Prefer, is_replay: bool) -> Result<Response> {
        let request = self.await_command(command, prefer).await?;
        let headers = Headers::new(Some(prefer), is_replay, request.position.as_ref());
        if let Some(rejection) = request.rejection() {
            return Ok(headers.on(Problem::from(rejection).with("transferId", id.to_string())));
        }
        let view = Json(self.shown_transfer(id).await?);
        if request.settled_at.is_none() {
            let headers = headers.with(header::LOCATION, &format!("/v1/transfers/{id}"));
            return Ok(headers.on((StatusCode::ACCEPTED, view)));
        }
        Ok(headers.on(view))
    }
}

/// Read a transfer
#[utoipa::path(
    get, path = "/transfers/{id}", operation_id = "getTransfer", tag = "Transfers", params(IdPath, Prefer),
    responses((status = 200, description = "The transfer", body = TransferView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn one(State(app): Shared, IdPath(id): IdPath, prefer: Prefer) -> Result<Response> {
    let id: TransferId = id.parse().map_err(|_| unknown())?;
    let asked = prefer.only_if_asked();
    app.transfer(id).await?;
    // Whichever store is asked: the source to send it, the destination to book it in.
    if let Some(command) = app.db.read(|connection| transfers::unanswered(connection, id)).await? {
        app.await_command(command.as_str(), &asked).await?;
    }
    let headers = Headers::new(Some(&prefer), false, None);
    Ok(headers.on(Json(app.shown_transfer(id).await?)))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// From or to this store.
    store_id: Option<String>,
    status: Option<String>,
    reference: Option<String>,
    size: Option<PageSize>,
    cursor: Option<String>,
}

type Transfers = List<TransferView>;

/// List transfers
#[utoipa::path(
    get, path = "/transfers", operation_id = "listTransfers", tag = "Transfers", params(Filter),
    responses((status = 200, description = "Transfers, the newest first", body = Transfers)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(None, filter.size, filter.cursor.as_deref(), 1)?;
    let wanted = listed::Filter { store: filter.store_id, status: filter.status, reference: filter.reference };
    let slice = page.by_number()?;
    let list = app.db.scan(move |connection| {
        let list = List::from(listed::list(connection, &wanted, &slice)?);
        Ok(Written::json(&list.map(|transfer| TransferView::of(&transfer, None))))
    });
    Ok(list.await?)
}
