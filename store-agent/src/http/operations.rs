//! `POST /operations`: several operations on items, in one transaction.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::domain::{Guard, Rejection};
use protocol::ids::OperationId;
use protocol::wire::About;
use runtime::http::requests::{Asked, Batch, BatchLine};
use runtime::http::{Body, Code, Problem, Result, Write};
use runtime::sqlite::{Abort, attempt};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Call, Done, ItemView};
use super::{App, Shared};
use crate::ledger;
use crate::ledger::idempotency;
use crate::operations::till::{Request, perform};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(batch))
}

/// What became of a batch
#[derive(ToSchema)]
#[expect(dead_code, reason = "a batch is told line by line: this only describes it")]
struct Results {
    /// Lines that were done.
    applied: i64,
    /// Lines that were not.
    refused: i64,
    /// One for each line, in their order.
    results: Vec<LineResult>,
}

/// What became of a line
#[derive(ToSchema)]
#[schema(as = OperationResult)]
#[expect(dead_code, reason = "only describes")]
struct LineResult {
    /// Of the line in `operations`, from 0.
    index: i64,
    /// `done`, `refused`, or `not_executed` because another line was refused.
    status: String,
    /// The item after it, if it was done.
    item: Option<ItemView<'static>>,
    /// Why not, if it was refused.
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
}

/// Do several operations in one transaction
///
/// Each line is what a request of its own would be, judged after those before it. If one is refused, none is done, unless
/// `atomic` is `false`.
#[utoipa::path(
    post, path = "/operations", operation_id = "runOperations", tag = "Items", params(Write),
    request_body = Batch,
    responses((status = 200, description = "What became of each line", body = Results)),
    extensions(("x-problems" = json!(["batch_refused"]))),
)]
async fn batch(State(app): Shared, write: Write, Body { value, json }: Body<Batch>) -> Result<Response> {
    if write.if_match.is_some() {
        return Err(Problem::invalid("If-Match", "is of one item: a line of a batch has expectedVersion"));
    }
    let (lines, is_atomic) = value.asked()?;
    let (store, actor, traceparent) = (app.store.clone(), write.actor.clone(), write.traceparent.clone());
    app.write(&write, &json, move |connection, Call { key, operation, now, .. }| {
        let mut results = Vec::with_capacity(lines.len());
        let mut refused = 0;
        for (index, line) in lines.iter().enumerate() {
            let BatchLine { product, asked: Asked { operation: does, expected_version, reference }, occurred_at } =
                line;
            let is_known = match key {
                Some(key) => idempotency::is_line_known(connection, key, index, now)?,
                None => false,
            };
            if is_known && let Some(item) = ledger::find_item(connection, product)? {
                results.push(done(index, ItemView::of(&store, product, &item).json()));
                continue;
            }
            let request = Request {
                operation_id: OperationId::line(&operation, index),
                product: product.clone(),
                operation: does.clone(),
                guard: Guard { expected_version: *expected_version, if_match: None },
                about: About {
                    reference: reference.clone(),
                    actor: actor.clone(),
                    traceparent: Some(traceparent.clone()),
                    occurred_at: *occurred_at,
                },
                command: None,
            };
            // What it wrote before it was refused is taken back; the lines before it stay.
            let performed = attempt(connection, || perform(connection, &request, now))?;
            results.push(match performed {
                Ok(performed) => {
                    let view = ItemView::of(&store, product, &performed.item);
                    done(index, view.after(does.action(), &performed).json())
                }
                Err(Abort::Refused(rejection)) => {
                    refused += 1;
                    not_done(index, rejection)
                }
                Err(Abort::Database(error)) => return Err(error.into()),
            });
        }
        let applied = results.len() - refused;
        if is_atomic && refused > 0 {
            return Err(Abort::Refused(batch_refused(results)));
        }
        Ok(Done {
            status: StatusCode::OK,
            body: json!({"applied": applied, "refused": refused, "results": results}),
            position: ledger::head(connection)?.cursor.id().to_string(),
        })
    })
    .await
}

fn done(index: usize, item: Value) -> Value {
    json!({"index": index, "status": "done", "item": item})
}

fn not_done(index: usize, rejection: Rejection) -> Value {
    json!({"index": index, "status": "refused", "problem": Problem::from(rejection).to_json()})
}

/// All lines were judged, each after those before it that could have been done. None was done.
fn batch_refused(mut results: Vec<Value>) -> Problem {
    for result in &mut results {
        if result["status"] == "done" {
            *result = json!({"index": result["index"], "status": "not_executed"});
        }
    }
    Problem::new(Code::BatchRefused).with("results", results)
}
