//! `POST /operations`: several operations at a store, which travel as one command and are done there in one transaction.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use protocol::wire::{Command, Results};
use runtime::http::requests::BatchAt;
use runtime::http::{Body, Code, Prefer, Problem, Result, Write};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{CommandView, LineView};
use super::write::{about, key_of};
use super::{App, Shared};
use crate::storage::{Connection, commands};

/// Bytes of a batch, without white space, at most: it is an entry of the store's command stream, and is sent again in each
/// new command epoch until the store has answered.
const BATCH_BYTES: usize = 256 << 10;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(run))
}

/// What became of a batch
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Results)]
struct ResultsView {
    /// Lines that were done.
    applied: usize,
    /// Lines that were not.
    refused: usize,
    /// One for each line, in their order.
    results: Vec<LineView>,
}

/// Do several operations at a store
///
/// The store does them in one transaction, in this order. If one is refused, none is done, unless `atomic` is `false`. At most
/// 256 KiB, and 16 of them that a store has not answered.
#[utoipa::path(
    post, path = "/operations", operation_id = "runOperations", tag = "Stock", params(Write, Prefer),
    request_body = BatchAt,
    responses((status = 200, description = "What became of each line", body = ResultsView), (status = 202, description = "The store has not answered yet: the command", body = CommandView)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "batch_refused"]))),
)]
async fn run(
    State(app): Shared,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<BatchAt>,
) -> Result<Response> {
    if json.to_string().len() > BATCH_BYTES {
        let detail = format!("the body is larger than {BATCH_BYTES} bytes, without white space");
        return Err(Problem::new(Code::BodyTooLarge).detail(detail).with("limitBytes", BATCH_BYTES));
    }
    let (store, lines, atomic) = value.asked()?;
    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref()).await? {
        return app.commanded(&record.target, &prefer, true).await;
    }
    let (_, reading) = app.reachable(&store).await?;
    let command = Command::Batch { lines, atomic, about: about(write, None) };
    let asked_of = store.clone();
    let judge = move |connection: &Connection| match commands::is_full_of_batches(connection, &asked_of)? {
        true => Err(Problem::new(Code::Overloaded).into()),
        false => Ok(()),
    };
    let written = app.ask(store, reading, command, key, judge).await?;
    app.commanded(&written.target, &prefer, written.value.is_none()).await
}

/// What is answered once the store has.
pub(super) fn answer(results: &Results) -> std::result::Result<Response, Problem> {
    if results.undone {
        let lines = serde_json::to_value(LineView::all_of(results)).map_err(Problem::internal)?;
        return Err(Problem::new(Code::BatchRefused).with("results", lines));
    }
    let (applied, refused) = (results.applied(), results.refused.len());
    Ok(Json(ResultsView { applied, refused, results: LineView::all_of(results) }).into_response())
}
