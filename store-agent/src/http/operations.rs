//! `POST /operations`: several operations on items, in one transaction.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::domain::Action;
use protocol::planted::{Bug, planted};
use protocol::wire::{About, BatchLine};
use runtime::http::requests::Batch;
use runtime::http::{Body, Caller, Code, Problem, Result, Scopes, Write};
use runtime::sqlite::{Abort, Weight};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Call, Done, ItemView};
use super::{App, Shared};
use crate::ledger;
use crate::ledger::idempotency;
use crate::operations::batch::{self, Judged, Line};
use crate::operations::till::counted;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(run))
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
async fn run(State(app): Shared, caller: Caller, write: Write, Body { value, json }: Body<Batch>) -> Result<Response> {
    let (lines, is_atomic) = value.asked()?;
    for line in &lines {
        let sells = line.operation.action() == Action::Sell;
        caller.must_have(if sells { Scopes::SELL } else { Scopes::STOCK })?;
    }
    let store = app.store.clone();
    let about = About { actor: write.actor.clone(), traceparent: Some(write.traceparent.clone()), ..About::default() };
    let counts = lines.iter().filter_map(|line| counted(&line.product_id, &line.operation)).collect();
    let moved = app.moved_since(counts).await?;
    let weight = Weight::of_lines(lines.len());
    app.write_as(weight, &write, &json, move |connection, Call { key, operation, now, .. }| {
        let is_known = |line| match key {
            Some(key) => idempotency::is_line_known(connection, key, line, now),
            None => Ok(false),
        };
        let asked = batch::Batch { id: &operation, lines: &lines, atomic: is_atomic, about: &about, moved: &moved };
        let Judged { lines: judged, undone } = batch::perform(connection, &asked, is_known, now)?;
        let of_line = |(index, (asked, judged)): (usize, (&BatchLine, Line))| match judged {
            Line::Done(_) | Line::Known(_) if undone => json!({"index": index, "status": "not_executed"}),
            Line::Done(performed) => {
                let view = ItemView::of(&store, &asked.product_id, &performed.item);
                done(index, view.after(asked.operation.action(), &performed).json())
            }
            Line::Known(item) => done(index, ItemView::of(&store, &asked.product_id, &item).json()),
            Line::Refused(_) if planted(Bug::RefusedLineDone) => json!({"index": index, "status": "done"}),
            Line::Refused(rejection) => {
                let problem = Problem::from(rejection).with("productId", asked.product_id.as_str());
                json!({"index": index, "status": "refused", "problem": problem.to_json()})
            }
        };
        let refused = judged.iter().filter(|line| matches!(line, Line::Refused(_))).count();
        let results: Vec<Value> = lines.iter().zip(judged).enumerate().map(of_line).collect();
        if undone && !planted(Bug::UndoneBatchDone) {
            return Err(Abort::Refused(Problem::new(Code::BatchRefused).with("results", results)));
        }
        let body = json!({"applied": results.len() - refused, "refused": refused, "results": results});
        Ok(Done::new(StatusCode::OK, &body, ledger::head(connection)?.cursor.id()))
    })
    .await
}

fn done(index: usize, item: Value) -> Value {
    json!({"index": index, "status": "done", "item": item})
}
