//! Reading the view: `GET /inventory`, `/inventory/{storeId}`, `/inventory/{storeId}/{productId}`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::ids::{ProductId, StoreId};
use protocol::wire::Position;
use runtime::http::openapi::schema;
use runtime::http::{
    Code, Counted, Etags, ItemPath, Page, PageNumber, PageSize, Prefer, Problem, Query, Result, StorePath, Written,
    encode_cursor, not_modified, words,
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{ItemView, LAG, slice};
use super::{App, Shared};
use crate::links::presence::Unavailable;
use crate::storage::queries::items as listed;
use crate::storage::queries::offers::{self, Shown};
use crate::storage::stores::{self, Standing};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(all)).routes(routes!(of_store)).routes(routes!(one))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    #[param(value_type = Option<schema::StoreId>)]
    store_id: Option<StoreId>,
    #[param(value_type = Option<schema::ProductId>)]
    product_id: Option<ProductId>,
    q: Option<String>,
    page: Option<PageNumber>,
    size: Option<PageSize>,
    cursor: Option<String>,
    low: Option<bool>,
    discontinued: Option<bool>,
    retired: Option<bool>,
    #[param(value_type = Vec<schema::Position>)]
    min_position: Vec<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Positions {
    #[param(value_type = Vec<schema::Position>)]
    min_position: Vec<String>,
}

type Items = Counted<ItemView>;

/// List the chain's stock
#[utoipa::path(
    get, path = "/inventory", operation_id = "listInventory", tag = "Stock", params(Filter, Prefer),
    responses((status = 200, description = "Items in order of store and product", body = Items, headers(("X-Projection-Lag-ms" = String, description = "Age of the oldest entry that is known to exist and is not in this answer, 0 if there is none.")))),
    extensions(("x-problems" = json!(["not_caught_up"]))),
)]
async fn all(State(app): Shared, prefer: Prefer, Query(filter): Query<Filter>) -> Result<Response> {
    list(app, prefer, filter).await
}

/// List a store's stock
#[utoipa::path(
    get, path = "/inventory/{storeId}", operation_id = "listStoreInventory", tag = "Stock", params(StorePath, Filter, Prefer),
    responses((status = 200, description = "Items in order of store and product", body = Items, headers(("X-Projection-Lag-ms" = String, description = "Age of the oldest entry that is known to exist and is not in this answer, 0 if there is none.")))),
    extensions(("x-problems" = json!(["unknown_store", "store_unavailable", "not_caught_up"]))),
)]
async fn of_store(
    State(app): Shared,
    StorePath(store): StorePath,
    prefer: Prefer,
    Query(mut filter): Query<Filter>,
) -> Result<Response> {
    if filter.store_id.is_some() {
        return Err(Problem::invalid("?storeId", "must be left out: the path names the store"));
    }
    app.known(&store).await?;
    filter.store_id = Some(store);
    list(app, prefer, filter).await
}

async fn list(app: Arc<App>, prefer: Prefer, filter: Filter) -> Result<Response> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 2)?;
    let slice = slice(&page, |after| Ok((after[0].clone(), after[1].clone())))?;
    let wanted = listed::Filter {
        store: filter.store_id,
        product: filter.product_id,
        words: words(filter.q.as_deref())?,
        low: filter.low,
        discontinued: filter.discontinued == Some(true),
        retired: filter.retired == Some(true),
    };
    app.caught_up(&filter.min_position, &prefer).await?;
    let seen = app.clone();
    let list = app.db.scan(move |connection| {
        let stores: HashMap<StoreId, Standing> =
            stores::all(connection)?.iter().map(|store| (store.id.clone(), store.standing())).collect();
        let found = listed::list(connection, &wanted, &slice)?;
        let list = Counted::cut(found, &page, |row| encode_cursor(&[row.store.as_str(), row.product.as_str()]));
        let mut lag_ms = 0;
        let list = list.map(|row| {
            // Read in the same transaction.
            let store = &stores[&row.store];
            lag_ms = lag_ms.max(seen.presence.lag_ms(&store.id));
            ItemView::of(&seen, store, row.product, &row.item, row.pending)
        });
        Ok((lag_ms, Written::json(&list)))
    });
    let (lag_ms, list) = list.await?;
    Ok(([(LAG, HeaderValue::from(lag_ms))], list).into_response())
}

/// Read an item
#[utoipa::path(
    get, path = "/inventory/{storeId}/{productId}", operation_id = "getItem", tag = "Stock", params(ItemPath, Positions, Prefer, Etags),
    responses((status = 200, description = "The item", body = ItemView, headers(("X-Projection-Lag-ms" = String, description = "Age of the oldest entry that is known to exist and is not in this answer, 0 if there is none.")))),
    extensions(("x-problems" = json!(["unknown_store", "unknown_product", "store_unavailable", "not_caught_up"]))),
)]
async fn one(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    prefer: Prefer,
    etags: Etags,
    Query(positions): Query<Positions>,
) -> Result<Response> {
    app.caught_up(&positions.min_position, &prefer).await?;
    let found = app.db.read(|connection| offers::one(connection, &store_id, &product_id)).await?;
    let Some(Shown { store, item, pending }) = found else {
        return Err(app.known(&store_id).await.err().unwrap_or_else(|| Problem::new(Code::UnknownStore)));
    };
    let Some(item) = item else { return Err(app.unknown_product(&store, &product_id).await) };
    let lag = (LAG, HeaderValue::from(app.presence.lag_ms(&store_id)));
    let view = ItemView::of(&app, &store, product_id, &item, pending);
    // While an epoch opens the view is still that of the one before.
    let etag = view.etag(store.state_epoch);
    let is_known = not_modified(&etags, &etag);
    let headers = [lag, (header::ETAG, etag)];
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    Ok((headers, Written::json(&view)).into_response())
}

impl App {
    /// 404, or 503 while what the store has is not known in full.
    pub(super) async fn unknown_product(&self, store: &Standing, product: &ProductId) -> Problem {
        if store.is_arriving {
            return Problem::new(Code::NotCaughtUp).detail("the store's state has not arrived in full");
        }
        self.naming(Problem::new(Code::UnknownProduct), &store.id, product).await
    }

    /// The problem of a product that the store does not have, with what there is to tell of that.
    pub(super) async fn naming(&self, problem: Problem, store: &StoreId, product: &ProductId) -> Problem {
        let other = self.db.read(|connection| listed::other_case(connection, store, product)).await;
        let problem = problem
            .detail(format!("{store} has no product {product}"))
            .with("storeId", store.as_str())
            .with("productId", product.as_str());
        match other {
            Ok(Some(other)) => problem.with("didYouMean", other),
            _ => problem,
        }
    }

    /// Why a product is at no store: 404, or 503 while it is not known which stores there are.
    pub(super) async fn unknown_everywhere(&self, product: &ProductId) -> Result<Problem> {
        if self.is_starting() {
            let why = Unavailable::Starting;
            return Ok(Problem::new(Code::StoreUnavailable).detail(why.words()).with("reason", why.as_str()));
        }
        let wanted = product.clone();
        let other = self.db.scan(move |connection| listed::other_case_anywhere(connection, &wanted)).await?;
        let problem = Problem::new(Code::UnknownProduct)
            .detail(format!("no store has a product {product}"))
            .with("productId", product.as_str());
        Ok(other.into_iter().fold(problem, |problem, other| problem.with("didYouMean", other)))
    }

    /// Waits until the view has reached all these positions.
    pub(super) async fn caught_up(&self, positions: &[String], prefer: &Prefer) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        let wanted = positions
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|_| Problem::invalid("?minPosition", "must be a store's position, such as store-1:5-17"))
            })
            .collect::<Result<Vec<Position>>>()?;
        let mut applied = self.waiting.watch_applied();
        let mut wait = None;
        loop {
            applied.borrow_and_update();
            let reached = self.db.read(|connection| {
                for position in &wanted {
                    if !stores::has_reached(connection, position)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            });
            if reached.await? {
                return Ok(());
            }
            let behind = || Problem::new(Code::NotCaughtUp);
            if wait.is_none() {
                wait = prefer.wait();
            }
            let moved = tokio::select! {
                moved = applied.changed() => moved.is_ok(),
                () = wait.as_ref().ok_or_else(behind)?.over() => false,
            };
            if !moved {
                return Err(behind());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::app;
    use crate::storage::{Abort, Connection};
    use crate::testing::{Agent, product};

    #[tokio::test]
    async fn that_no_store_has_a_product_is_known_once_the_stores_are() {
        let (_dir, mut app) = app();
        let settle = |connection: &Connection| {
            Agent::settled("s1", connection);
            Ok::<_, Abort<()>>(())
        };
        app.db.write(settle).await.expect("writes").expect("is not refused");
        let unknown = app.unknown_everywhere(&product("TEA")).await.expect("reads");
        assert_eq!((unknown.code(), &unknown.to_json()["didYouMean"]), (Code::UnknownProduct, &"tea".into()));
        app.had_view = false;
        let starting = app.unknown_everywhere(&product("TEA")).await.expect("reads");
        assert_eq!((starting.code(), &starting.to_json()["reason"]), (Code::StoreUnavailable, &"starting".into()));
        app.presence.note_swept();
        assert_eq!(app.unknown_everywhere(&product("x")).await.expect("reads").code(), Code::UnknownProduct);
    }
}
