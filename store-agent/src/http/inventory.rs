//! The item's life: list, read, create, count, change, receive, adjust, sell.

use std::pin::pin;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::domain::{Action, Guard, Item, Lines};
use protocol::ids::ProductId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::About;
use runtime::http::openapi::IfMatch;
use runtime::http::requests::{Adjust, Allot, Asked, Change, Count, Create, Receive, Sell};
use runtime::http::{
    Body, Code, Counted, Etags, ItemWrite, Page, PageNumber, PageSize, Prefer, Problem, ProductPath, Query, Result,
    Write, Written, encode_cursor, header_value, not_modified, words,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Call, Done, ItemView, etag};
use super::{App, POSITION, Shared};
use crate::ledger::{self, ItemFilter};
use crate::operations::till::{Request, counted, perform};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(one, count, change))
        .routes(routes!(receive))
        .routes(routes!(adjust))
        .routes(routes!(allot))
        .routes(routes!(sell))
}

type Items = Counted<ItemView<'static>>;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    q: Option<String>,
    page: Option<PageNumber>,
    size: Option<PageSize>,
    cursor: Option<String>,
    low: Option<bool>,
    discontinued: Option<bool>,
}

/// List items
#[utoipa::path(
    get, path = "/inventory", operation_id = "listItems", tag = "Items", params(Filter),
    responses((status = 200, description = "Items in order of their ids", body = Items)),
)]
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
        Ok(Written::json(&list.map(|(product, item)| ItemView::of(&store, &product, &item).json())))
    });
    Ok(list.await?)
}

/// Read an item
#[utoipa::path(
    get, path = "/inventory/{productId}", operation_id = "getItem", tag = "Items", params(ProductPath, Etags),
    responses((status = 200, description = "The item", body = ItemView)),
    extensions(("x-problems" = json!(["unknown_product"]))),
)]
async fn one(State(app): Shared, ProductPath(product): ProductPath, etags: Etags) -> Result<Response> {
    let found = app.db.read(|connection| ledger::shown(connection, &product)).await?;
    let Some((item, at)) = found else { return Err(app.unknown(&product).await) };
    let tag = etag(at.epoch, item.version);
    let is_known = not_modified(&etags, &tag);
    let headers = [(header::ETAG, tag), (POSITION, header_value(format_args!("{}:{at}", app.store)))];
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    Ok((headers, Written::json(&ItemView::of(&app.store, &product, &item))).into_response())
}

/// Create an item
#[utoipa::path(
    post, path = "/inventory", operation_id = "createItem", tag = "Items", params(Write),
    request_body = Create,
    responses((status = 201, description = "The new item", body = ItemView)),
    extensions(("x-problems" = json!(["already_exists"]))),
)]
async fn create(State(app): Shared, write: Write, Body { value, json }: Body<Create>) -> Result<Response> {
    let (product, asked) = value.asked();
    app.act(product, asked, None, write.into(), json).await
}

/// Set what was counted
///
/// What is on the shelf is never refused because units are promised: if there are fewer than that, fewer are set aside for
/// online sale, then the youngest reservations end, and `endedReservations` names them. `quantity` leaves out units of purchases that wait to be picked.
#[utoipa::path(
    put, path = "/inventory/{productId}", operation_id = "countItem", tag = "Items", params(ProductPath, Write, IfMatch),
    request_body = Count,
    responses((status = 200, description = "The item after it", body = ItemView)),
    extensions(("x-problems" = json!(["unknown_product", "version_conflict", "limit_exceeded"]))),
)]
async fn count(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: ItemWrite,
    Body { value, json }: Body<Count>,
) -> Result<Response> {
    app.act(product, value.asked(), None, write, json).await
}

/// Change name, threshold, or whether it is carried
///
/// A JSON merge patch (RFC 7396). At least one of `name`, `discontinued` and `lowAt` is needed.
#[utoipa::path(
    patch, path = "/inventory/{productId}", operation_id = "changeItem", tag = "Items", params(ProductPath, Write, IfMatch),
    request_body = Change,
    responses((status = 200, description = "The item after it", body = ItemView)),
    extensions(("x-problems" = json!(["unknown_product", "version_conflict"]))),
)]
async fn change(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: ItemWrite,
    Body { value, json }: Body<Change>,
) -> Result<Response> {
    app.act(product, value.asked()?, None, write, json).await
}

/// Book in a delivery
#[utoipa::path(
    post, path = "/inventory/{productId}/receive", operation_id = "receiveItem", tag = "Items", params(ProductPath, Write, IfMatch),
    request_body = Receive,
    responses((status = 200, description = "The item after it", body = ItemView)),
    extensions(("x-problems" = json!(["unknown_product", "discontinued", "limit_exceeded"]))),
)]
async fn receive(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: ItemWrite,
    Body { value, json }: Body<Receive>,
) -> Result<Response> {
    app.act(product, value.asked(), None, write, json).await
}

/// Correct the stock
#[utoipa::path(
    post, path = "/inventory/{productId}/adjust", operation_id = "adjustItem", tag = "Items", params(ProductPath, Write, IfMatch),
    request_body = Adjust,
    responses((status = 200, description = "The item after it", body = ItemView)),
    extensions(("x-problems" = json!(["unknown_product", "insufficient_stock", "limit_exceeded"]))),
)]
async fn adjust(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: ItemWrite,
    Body { value, json }: Body<Adjust>,
) -> Result<Response> {
    app.act(product, value.asked(), None, write, json).await
}

/// Set units aside for online sale
///
/// Tills cannot sell them; central does, at once and without asking. More are set aside at once, at most what is `available`.
/// Fewer are once central has said that it has not sold them: until then `allotmentWanted` is shown.
#[utoipa::path(
    put, path = "/inventory/{productId}/allotment", operation_id = "allotItem", tag = "Items", params(ProductPath, Write, IfMatch, Prefer),
    request_body = Allot,
    responses((status = 200, description = "The item after it", body = ItemView), (status = 202, description = "Central has not answered yet: the item, with `allotmentWanted`", body = ItemView)),
    extensions(("x-problems" = json!(["unknown_product", "insufficient_stock", "discontinued", "version_conflict"]))),
)]
async fn allot(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: ItemWrite,
    prefer: Prefer,
    Body { value, json }: Body<Allot>,
) -> Result<Response> {
    let answer = app.act(product.clone(), value.asked(), None, write, json).await?;
    app.released(&product, &prefer, answer).await
}

/// Sell at the till
///
/// Needs neither central nor a network. At most `available` units are sold.
#[utoipa::path(
    post, path = "/purchase/{productId}", operation_id = "sellItem", tag = "Items", params(ProductPath, Write, IfMatch),
    request_body = Sell,
    responses((status = 200, description = "The item after it", body = ItemView)),
    extensions(("x-problems" = json!(["unknown_product", "insufficient_stock", "version_conflict"]))),
)]
async fn sell(
    State(app): Shared,
    ProductPath(product): ProductPath,
    write: ItemWrite,
    Body { value, json }: Body<Sell>,
) -> Result<Response> {
    let (asked, occurred_at) = value.asked();
    app.act(product, asked, occurred_at, write, json).await
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

    /// The same of the first of several that the store does not have.
    pub(super) async fn unknown_line(&self, problem: Problem, lines: &Lines) -> Result<Problem> {
        let unknown = self.db.read(|connection| {
            for line in lines.iter() {
                if ledger::find_item(connection, &line.product_id)?.is_none() {
                    return Ok(Some(line.product_id.clone()));
                }
            }
            Ok(None)
        });
        Ok(match unknown.await? {
            Some(product) => self.unknown(&product).await,
            // It has come in the meantime.
            None => problem,
        })
    }

    /// Fewer units are to be set aside: waits until central has agreed, and says how it is then. `asked`: the answer if
    /// nobody waits.
    async fn released(&self, product: &ProductId, prefer: &Prefer, asked: Response) -> Result<Response> {
        self.executed.notify_waiters();
        if asked.status() != StatusCode::ACCEPTED {
            return Ok(asked);
        }
        let look = || self.db.read(|connection| ledger::shown(connection, product));
        let mut executed = pin!(self.executed.notified());
        executed.as_mut().enable();
        let mut found = look().await?;
        if found.as_ref().is_some_and(|(item, _)| item.allotment_wanted.is_some())
            && let Some(wait) = prefer.wait()
        {
            let mut in_time = true;
            while in_time && found.as_ref().is_some_and(|(item, _)| item.allotment_wanted.is_some()) {
                in_time = tokio::select! {
                    () = executed.as_mut() => true,
                    () = wait.over() => false,
                };
                executed.set(self.executed.notified());
                executed.as_mut().enable();
                found = look().await?;
            }
        }
        let Some((item, at)) = found else { return Ok(asked) };
        let status = if item.allotment_wanted.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
        let (mut parts, _) = asked.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.insert(header::ETAG, etag(at.epoch, item.version));
        parts.headers.extend(prefer.applied());
        if status == StatusCode::ACCEPTED {
            parts.headers.insert(header::LOCATION, header_value(format_args!("/v1/inventory/{product}")));
            parts.headers.insert(header::RETRY_AFTER, header_value(1));
        }
        let view = ItemView::of(&self.store, product, &item).json();
        Ok((status, parts.headers, axum::Json(view)).into_response())
    }

    async fn act(
        &self,
        product: ProductId,
        asked: Asked,
        occurred_at: Option<Millis>,
        write: ItemWrite,
        json: Value,
    ) -> Result<Response> {
        let Asked { operation, expected_version, reference } = asked;
        let ItemWrite { write, if_match } = write;
        let guard = Guard { expected_version, if_match: if_match.filter(|_| !planted(Bug::TagIgnored)) };
        let about = About {
            reference,
            actor: write.actor.clone(),
            traceparent: Some(write.traceparent.clone()),
            occurred_at,
            ..About::default()
        };
        let moved = self.moved_since(counted(&product, &operation).into_iter().collect()).await?;
        let (store, of, action) = (self.store.clone(), product.clone(), operation.action());
        let done = self
            .write(&write, &json, move |connection, Call { operation: operation_id, is_known, now, .. }| {
                let status = |item: &Item| match action {
                    Action::Create => StatusCode::CREATED,
                    Action::Allot if item.allotment_wanted.is_some() => StatusCode::ACCEPTED,
                    _ => StatusCode::OK,
                };
                if is_known && let Some(item) = ledger::find_item(connection, &of)? {
                    let position = ledger::head(connection)?.cursor.id();
                    return Ok(Done::new(status(&item), &ItemView::of(&store, &of, &item), position));
                }
                let request = Request {
                    operation_id,
                    product: of.clone(),
                    operation: operation.clone(),
                    guard: guard.clone(),
                    about: about.clone(),
                    command: None,
                };
                let performed = perform(connection, &request, &moved, now)?;
                let view = ItemView::of(&store, &of, &performed.item).after(action, &performed);
                Ok(Done::new(status(&performed.item), &view, performed.position))
            })
            .await;
        match done {
            Err(problem) if problem.code() == Code::UnknownProduct => Err(self.unknown(&product).await),
            done => done,
        }
    }
}
