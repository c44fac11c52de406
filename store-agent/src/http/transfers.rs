//! Units that go to another store, or come from one: read, receive.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::domain::transfer::Transfer;
use protocol::ids::{StoreId, TransferId};
use protocol::wire::About;
use runtime::http::requests::ReceiveTransfer;
use runtime::http::{
    Code, IdPath, List, OptionalBody, Page, PageSize, Problem, Query, Result, StoreTransfer, Write, Written,
};
use runtime::sqlite::Weight;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Call, Done, is_replayed};
use super::{App, Shared};
use crate::ledger;
use crate::ledger::transfers;
use crate::operations::reservations::Asking;
use crate::operations::transfers::receive as book_in;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(one)).routes(routes!(receive))
}

type Transfers = List<StoreTransfer<'static>>;

fn view(here: &StoreId, transfer: &Transfer) -> Value {
    serde_json::to_value(StoreTransfer::of(here, transfer)).expect("a transfer serialises")
}

/// Book in a transfer that has arrived
///
/// With or without a connection. What is not named among the lines is missing for good: `discrepancy`.
#[utoipa::path(
    post, path = "/transfers/{id}/receive", operation_id = "receiveTransfer", tag = "Transfers", params(IdPath, Write),
    request_body = Option<ReceiveTransfer>,
    responses((status = 200, description = "The transfer", body = StoreTransfer)),
    extensions(("x-problems" = json!(["unknown_id", "transfer_closed", "limit_exceeded"]))),
)]
async fn receive(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    OptionalBody { value, json }: OptionalBody<ReceiveTransfer>,
) -> Result<Response> {
    let id: TransferId = id.parse().map_err(|_| Problem::new(Code::UnknownId))?;
    let (lines, reference) = value.asked()?;
    let about = About {
        reference,
        actor: write.actor.clone(),
        traceparent: Some(write.traceparent.clone()),
        ..About::default()
    };
    let store = app.store.clone();
    let announced = app.db.read(|connection| transfers::find_incoming(connection, id)).await?;
    let weight = Weight::of_lines(announced.map_or(0, |transfer| transfer.lines.iter().len()));
    let expiry = app.expiry.clone();
    let answer = app
        .write_then(
            weight,
            &write,
            &json,
            move |connection, Call { operation, is_known, now, .. }| {
                let done = |transfer: &Transfer, position| Done::new(StatusCode::OK, &view(&store, transfer), position);
                if is_known && let Some(known) = transfers::find_incoming(connection, id)? {
                    return Ok(done(&known, ledger::head(connection)?.cursor.id()));
                }
                let asking = Asking { operation, about: about.clone(), command: None };
                let booked = book_in(connection, id, lines.as_ref(), &asking, now)?;
                Ok(done(&booked.transfer, booked.position))
            },
            move || expiry.notify_one(),
        )
        .await?;
    app.transfer_at_present(id, answer).await
}

impl App {
    /// What a key stands for is what the transfer is now.
    async fn transfer_at_present(&self, id: TransferId, answer: Response) -> Result<Response> {
        if !is_replayed(&answer) {
            return Ok(answer);
        }
        let found = self.db.read(|connection| transfers::find_incoming(connection, id)).await?;
        let Some(present) = found else { return Ok(answer) };
        let (mut parts, _) = answer.into_parts();
        parts.headers.remove(axum::http::header::CONTENT_LENGTH);
        Ok((StatusCode::OK, parts.headers, Json(view(&self.store, &present))).into_response())
    }
}

/// Read a transfer
#[utoipa::path(
    get, path = "/transfers/{id}", operation_id = "getTransfer", tag = "Transfers", params(IdPath),
    responses((status = 200, description = "The transfer", body = StoreTransfer)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn one(State(app): Shared, IdPath(id): IdPath) -> Result<Json<Value>> {
    let unknown = || Problem::new(Code::UnknownId);
    let id: TransferId = id.parse().map_err(|_| unknown())?;
    let found = app.db.read(|connection| transfers::find(connection, id)).await?.ok_or_else(unknown)?;
    Ok(Json(view(&app.store, &found)))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    direction: Option<String>,
    status: Option<String>,
    reference: Option<String>,
    size: Option<PageSize>,
    cursor: Option<String>,
}

/// List transfers
#[utoipa::path(
    get, path = "/transfers", operation_id = "listTransfers", tag = "Transfers", params(Filter),
    responses((status = 200, description = "Transfers, the newest first", body = Transfers)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(None, filter.size, filter.cursor.as_deref(), 1)?;
    let filter = transfers::Filter { direction: filter.direction, status: filter.status, reference: filter.reference };
    let (slice, store) = (page.by_number()?, app.store.clone());
    let list = app.db.scan(move |connection| {
        let list = List::from(transfers::list(connection, &filter, &slice)?);
        Ok(Written::json(&list.map(|recorded| view(&store, &recorded.transfer))))
    });
    Ok(list.await?)
}
