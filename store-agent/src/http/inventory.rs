//! The item's life: list, read, create, count, change, receive, adjust, sell.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::domain::reservation::Reservation;
use protocol::domain::{Action, Guard};
use protocol::ids::{ProductId, StoreId};
use protocol::time::Millis;
use protocol::wire::About;
use runtime::http::requests::{Adjust, Asked, Change, Count, Create, Receive, Sell};
use runtime::http::{
    Body, Code, Counted, Etags, Page, Problem, ProductPath, Query, Result, Write, Written, encode_cursor, not_modified,
    words,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Call, Done, etag, item_view};
use super::{App, Shared};
use crate::ledger::{self, ItemFilter};
use crate::operations::till::{Performed, Request, perform};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/inventory", get(list).post(create))
        .route("/inventory/{productId}", get(one).put(count).patch(change))
        .route("/inventory/{productId}/receive", post(receive))
        .route("/inventory/{productId}/adjust", post(adjust))
        .route("/purchase/{productId}", post(sell))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    q: Option<String>,
    page: Option<i64>,
    size: Option<i64>,
    cursor: Option<String>,
    low: Option<bool>,
    discontinued: Option<bool>,
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let filter = ItemFilter {
        words: words(filter.q.as_deref())?,
        low: filter.low,
        with_discontinued: filter.discontinued == Some(true),
        after: page.after.as_ref().map(|after| after[0].clone()),
        limit: page.size + 1,
        offset: page.offset,
    };
    let store = app.store.clone();
    let list = app.db.scan(move |connection| {
        let found = ledger::list_items(connection, &filter)?;
        let list = Counted::cut(found, &page, |(product, _)| encode_cursor(&[product.as_str()]));
        Ok(Written::json(&list.map(|(product, item)| item_view(&store, &product, &item))))
    });
    Ok(list.await?)
}

async fn one(State(app): Shared, ProductPath(product): ProductPath, etags: Etags) -> Result<Response> {
    let found = app.db.read(|connection| Ok((ledger::find_item(connection, &product)?, ledger::head(connection)?)));
    let (Some(item), head) = found.await? else { return Err(app.unknown(&product).await) };
    let tag = etag(head.cursor.epoch, item.version);
    let header = [(header::ETAG, HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("")))];
    if not_modified(&etags, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, header).into_response());
    }
    Ok((header, Json(item_view(&app.store, &product, &item))).into_response())
}

async fn create(State(app): Shared, write: Write, Body { value, json }: Body<Create>) -> Result<Response> {
    let (product, asked) = value.asked();
    app.act(product, asked, None, write, json).await
}

async fn count(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: Write,
    Body { value, json }: Body<Count>,
) -> Result<Response> {
    app.act(product, value.asked(), None, write, json).await
}

async fn change(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: Write,
    Body { value, json }: Body<Change>,
) -> Result<Response> {
    app.act(product, value.asked()?, None, write, json).await
}

async fn receive(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: Write,
    Body { value, json }: Body<Receive>,
) -> Result<Response> {
    app.act(product, value.asked(), None, write, json).await
}

async fn adjust(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: Write,
    Body { value, json }: Body<Adjust>,
) -> Result<Response> {
    app.act(product, value.asked(), None, write, json).await
}

async fn sell(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: Write,
    Body { value, json }: Body<Sell>,
) -> Result<Response> {
    let (asked, occurred_at) = value.asked();
    app.act(product, asked, occurred_at, write, json).await
}

/// The item after an operation, and what else whoever did it has to know.
pub(super) fn performed_view(store: &StoreId, product: &ProductId, action: Action, performed: &Performed) -> Value {
    let mut view = item_view(store, product, &performed.item);
    if action == Action::Count {
        view["difference"] = json!(performed.delta);
    }
    if !performed.ended.is_empty() {
        view["endedReservations"] = performed.ended.iter().map(ended).collect();
    }
    view
}

/// What staff has to know of a reservation that fell short.
fn ended(reservation: &Reservation) -> Value {
    json!({"reservationId": reservation.id, "reference": reservation.reference})
}

impl App {
    /// 404 that names a product which differs in case only.
    async fn unknown(&self, product: &ProductId) -> Problem {
        let other = self.db.read(|connection| ledger::find_item_in_any_case(connection, product)).await;
        let problem = Problem::new(Code::UnknownProduct)
            .detail(format!("this store has no product {product}"))
            .with("productId", product.as_str());
        match other {
            Ok(Some(other)) => problem.with("didYouMean", other.as_str()),
            _ => problem,
        }
    }

    async fn act(
        &self,
        product: ProductId,
        asked: Asked,
        occurred_at: Option<Millis>,
        write: Write,
        json: Value,
    ) -> Result<Response> {
        let Asked { operation, expected_version, reference } = asked;
        let guard = Guard { expected_version, if_match: write.if_match.clone() };
        let about =
            About { reference, actor: write.actor.clone(), traceparent: Some(write.traceparent.clone()), occurred_at };
        let (store, of, action) = (self.store.clone(), product.clone(), operation.action());
        let done = self
            .write(&write, &json, move |connection, Call { operation: operation_id, is_known, now, .. }| {
                if is_known && let Some(item) = ledger::find_item(connection, &of)? {
                    return Ok(Done {
                        status: if action == Action::Create { StatusCode::CREATED } else { StatusCode::OK },
                        body: item_view(&store, &of, &item),
                        position: ledger::head(connection)?.cursor.id().to_string(),
                    });
                }
                let request = Request {
                    operation_id,
                    product: of.clone(),
                    operation: operation.clone(),
                    guard: guard.clone(),
                    about: about.clone(),
                    command: None,
                };
                let performed = perform(connection, &request, now)?;
                let body = performed_view(&store, &of, action, &performed);
                let status = if action == Action::Create { StatusCode::CREATED } else { StatusCode::OK };
                Ok(Done { status, body, position: performed.position.to_string() })
            })
            .await;
        match done {
            Err(problem) if problem.code() == Code::UnknownProduct => Err(self.unknown(&product).await),
            done => done,
        }
    }
}
