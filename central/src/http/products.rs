//! Products of the chain: its totals, and a new one.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use protocol::domain::Operation;
use protocol::ids::{ProductId, StoreId};
use protocol::promise::policy::ATTEMPTS_MAX;
use protocol::wire::Command;
use runtime::http::openapi::schema;
use runtime::http::requests::{Asked, Reference};
use runtime::http::{
    Body, Code, CountQuantity, Counted, Name, Page, PageNumber, PageSize, Prefer, Problem, Query, Result, Write,
    Written, encode_cursor, words,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::item_commands::operate;
use super::purchases::is_of_the_store;
use super::views::{CommandView, ItemView, slice};
use super::write::{Written as Asking, key_of};
use super::{App, Shared};
use crate::links::presence::{Presence, Unavailable};
use crate::storage::idempotency::Key;
use crate::storage::queries::offers;
use crate::storage::queries::products::{self, Total};
use crate::storage::{Connection, JobResult, commands, stores};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    q: Option<String>,
    page: Option<PageNumber>,
    size: Option<PageSize>,
    cursor: Option<String>,
}

/// A product in all stores together
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Product {
    product_id: String,
    name: String,
    quantity: i64,
    reserved: i64,
    allotted: i64,
    available: i64,
    /// How many stores have it.
    stores: i64,
    /// On its way from one store to another: in the chain, and in no store.
    in_transit: i64,
}

impl From<Total> for Product {
    fn from(total: Total) -> Self {
        let Total { product, name, quantity, reserved, allotted, stores, in_transit } = total;
        let available = quantity - reserved - allotted;
        Self { product_id: product, name, quantity, reserved, allotted, available, stores, in_transit }
    }
}

type Products = Counted<Product>;

/// List the chain's totals
#[utoipa::path(
    get, path = "/products", operation_id = "listProducts", tag = "Stock", params(Filter),
    responses((status = 200, description = "Products in order of their ids", body = Products)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let words = words(filter.q.as_deref())?;
    let slice = slice(&page, |after| Ok(after[0].clone()))?;
    let list = app.db.scan(move |connection| {
        let found = products::list(connection, words.as_ref(), &slice)?;
        let list = Counted::cut(found, &page, |total| encode_cursor(&[&total.product]));
        Ok(Written::json(&list.map(Product::from)))
    });
    Ok(list.await?)
}

/// A product that no store has yet
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CreateProduct, example = json!({"productId": "coffee", "name": "Coffee, 500 g", "quantity": 24}))]
struct Create {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    name: Name,
    /// What is on the shelf: 0, if it is left out.
    quantity: Option<CountQuantity>,
    /// Where: in the online store that has fewest units, if it is left out.
    #[schema(value_type = Option<schema::StoreId>)]
    store_id: Option<StoreId>,
    reference: Option<Reference>,
}

/// Create a product that no store has yet
///
/// In the store that is named, else in the online store with the smallest sum of `quantity`; of equals in the one with the
/// smallest id.
#[utoipa::path(
    post, path = "/products", operation_id = "createProduct", tag = "Stock", params(Write, Prefer),
    request_body = Create,
    responses((status = 201, description = "The new item", body = ItemView), (status = 202, description = "The store has not answered yet: the command", body = CommandView)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "already_exists"]))),
)]
async fn create(
    State(app): Shared,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Create>,
) -> Result<Response> {
    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref()).await? {
        return app.commanded(&record.target, &prefer, true).await;
    }
    let Create { product_id, name, quantity, store_id, reference } = value;
    let operation =
        Operation::Create { name: name.0, quantity: quantity.map_or(0, |quantity| quantity.0), low_at: None };
    let asked = Asked { operation, expected_version: None, reference: reference.map(|text| text.0) };
    let command = operate(product_id.clone(), asked, write.into());
    let asking = match store_id {
        Some(store) => app.create_at(store, &product_id, &command, key).await?,
        None => app.create_anywhere(&product_id, &command, key).await?,
    };
    app.commanded(&asking.target, &prefer, asking.value.is_none()).await
}

/// The stores that may be asked, as far as is known, those with fewest units first.
fn candidates(connection: &Connection, presence: &Presence) -> JobResult<Vec<StoreId>> {
    let mut found = Vec::new();
    for id in stores::by_units(connection)? {
        let Some(store) = stores::find(connection, &id)? else { continue };
        // A store that is paused is stocked as ever.
        if let Ok(()) | Err(Unavailable::Paused) = presence.judge_remembered(&store) {
            found.push(id);
        }
        if found.len() == ATTEMPTS_MAX {
            break;
        }
    }
    Ok(found)
}

/// Why a product is not new: a store has it, or was asked to create it and may have done so.
fn exists(connection: &Connection, product: &ProductId) -> JobResult<Option<Problem>> {
    let problem = || Problem::new(Code::AlreadyExists).with("productId", product.as_str());
    if let Some(store) = offers::a_store_with(connection, product)? {
        return Ok(Some(problem().detail(format!("{store} has it")).with("storeId", store.as_str())));
    }
    let Some((command, store)) = commands::creating(connection, product)? else { return Ok(None) };
    let problem = problem().detail(format!("{store} was asked to create it and has not answered yet"));
    Ok(Some(problem.with("storeId", store.as_str()).with("commandId", command.as_str())))
}

impl App {
    /// Asks this store to create a product.
    async fn create_at(
        self: &Arc<Self>,
        store_id: StoreId,
        product: &ProductId,
        command: &Command,
        key: Option<Key>,
    ) -> Result<Asking<()>> {
        let (_, reading) = self.reachable(&store_id).await?;
        let product = product.clone();
        let judge = move |connection: &Connection| match exists(connection, &product)? {
            Some(problem) => Err(problem.into()),
            None => Ok(()),
        };
        self.ask(store_id, reading, command.clone(), key, judge).await
    }

    /// Asks the first store that may be asked.
    async fn create_anywhere(
        self: &Arc<Self>,
        product: &ProductId,
        command: &Command,
        key: Option<Key>,
    ) -> Result<Asking<()>> {
        let presence = self.presence.clone();
        let mut last = None;
        for store in self.db.scan(move |connection| candidates(connection, &presence)).await? {
            match self.create_at(store, product, command, key.clone()).await {
                Err(problem) if is_of_the_store(&problem) => last = Some(problem),
                asking => return asking,
            }
        }
        Err(last.unwrap_or_else(|| self.nobody_is_online()))
    }

    fn nobody_is_online(&self) -> Problem {
        let (why, detail) = match (self.presence.is_redis_reachable(), self.presence.has_swept()) {
            (true, _) => (Unavailable::Offline, "no store is online"),
            (false, true) => (Unavailable::Redis, Unavailable::Redis.words()),
            (false, false) => (Unavailable::Starting, Unavailable::Starting.words()),
        };
        Problem::new(Code::StoreUnavailable).detail(detail).with("reason", why.as_str())
    }
}
