//! `GET /availability/{productId}`, `/availability`: where a product can be had.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use protocol::ids::{ProductId, StoreId};
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::{Bounded, Code, List, Prefer, Problem, ProductPath, Query, Result, Written};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{ItemView, LAG};
use super::{App, Shared};
use crate::storage::queries::{offers, products};
use crate::storage::{Connection, JobResult, transfers};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(many)).routes(routes!(one))
}

/// A product at a store
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StoreAvailability)]
struct StoreItem {
    #[serde(flatten)]
    item: ItemView,
    /// Age of the oldest entry that is known to exist and is not in this.
    lag_ms: i64,
}

/// Why a store is left out: what is known of it is older than the request allows.
const STALE: &str = "stale";
/// Who asks for more asks for all stores.
const STALENESS_MS_MAX: i64 = 1_000_000_000_000;

/// A store of which too little is known.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = LeftOutStore)]
struct LeftOut {
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    /// `stale`.
    reason: &'static str,
}

/// Where a product can be had; the figures are of all stores that are named
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Availability {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    name: String,
    quantity: i64,
    reserved: i64,
    allotted: i64,
    available: i64,
    online_available: i64,
    /// On its way from one store to another: in the chain, and in no store.
    in_transit: i64,
    stores: Vec<StoreItem>,
    /// Stores of which too little is known for `maxStalenessMs`.
    left_out: Vec<LeftOut>,
}

impl Availability {
    /// Of the store that is furthest behind.
    fn lag_ms(&self) -> i64 {
        self.stores.iter().map(|store| store.lag_ms).max().unwrap_or(0)
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    #[param(value_type = Option<schema::StoreId>)]
    store_id: Option<StoreId>,
    /// Leaves out stores of which nothing is known that is younger.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 1_000_000_000_000i64)]
    max_staleness_ms: Option<Bounded<0, STALENESS_MS_MAX>>,
    #[param(value_type = Vec<schema::Position>)]
    min_position: Vec<String>,
}

/// `None`: no store has the product.
fn gather(
    app: &App,
    connection: &Connection,
    product: &ProductId,
    filter: &Filter,
    now: Millis,
) -> JobResult<Option<Availability>> {
    let in_transit = transfers::in_transit(connection, product)?;
    let mut all = Availability {
        product_id: product.clone(),
        name: products::name(connection, product)?.unwrap_or_default(),
        quantity: 0,
        reserved: 0,
        allotted: 0,
        available: 0,
        online_available: 0,
        in_transit,
        stores: Vec::new(),
        left_out: Vec::new(),
    };
    for offer in offers::of_product(connection, product)? {
        let store = &offer.store;
        if filter.store_id.as_ref().is_some_and(|wanted| *wanted != store.id) {
            continue;
        }
        let view = ItemView::of(app, &store.standing(), product.clone(), &offer.item, offer.pending);
        let age_ms = now.since(view.as_of);
        if filter.max_staleness_ms.is_some_and(|most| age_ms > most.0) {
            all.left_out.push(LeftOut { store_id: store.id.clone(), reason: STALE });
            continue;
        }
        all.quantity += view.quantity;
        all.reserved += view.reserved;
        all.allotted += view.allotted;
        all.available += view.available;
        all.online_available += view.online_available;
        let lag_ms = app.presence.lag_ms(&store.id);
        all.stores.push(StoreItem { item: view, lag_ms });
    }
    Ok((!all.stores.is_empty() || !all.left_out.is_empty()).then_some(all))
}

/// Where a product can be had
#[utoipa::path(
    get, path = "/availability/{productId}", operation_id = "getAvailability", tag = "Stock", params(ProductPath, Prefer, Filter),
    responses((status = 200, description = "What each store has", body = Availability, headers(("X-Projection-Lag-ms" = String, description = "Age of the oldest entry that is known to exist and is not in this answer, 0 if there is none.")))),
    extensions(("x-problems" = json!(["unknown_product", "unknown_store", "store_retired", "store_unavailable", "not_caught_up"]))),
)]
async fn one(
    State(app): Shared,
    ProductPath(product): ProductPath,
    prefer: Prefer,
    Query(filter): Query<Filter>,
) -> Result<Response> {
    app.caught_up(&filter.min_position, &prefer).await?;
    let wanted = match &filter.store_id {
        Some(store) => Some(app.known(store).await?),
        None => None,
    };
    let (shown, sought, now) = (app.clone(), product.clone(), app.source.now());
    let found = app.db.scan(move |connection| {
        let found = gather(&shown, connection, &sought, &filter, now)?;
        let written = |found: Availability| match found.stores.is_empty() {
            true => Err(found.left_out),
            false => Ok((found.lag_ms(), Written::json(&found))),
        };
        Ok(found.map(written))
    });
    match found.await? {
        Some(Ok((lag_ms, body))) => Ok(([(LAG, HeaderValue::from(lag_ms))], body).into_response()),
        Some(Err(left_out)) => Err(Problem::new(Code::StoreUnavailable)
            .detail("What is known of every store that has it is older than maxStalenessMs")
            .with("reason", STALE)
            .with("leftOut", serde_json::to_value(left_out).map_err(Problem::internal)?)),
        None => Err(match wanted {
            Some(store) if store.retired => Problem::new(Code::StoreRetired).with("storeId", store.id.as_str()),
            Some(store) => app.unknown_product(&store.standing(), &product).await,
            None => app.unknown_everywhere(&product).await?,
        }),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// May be repeated, up to 100 times.
    #[param(value_type = Vec<schema::ProductId>, min_items = 1, max_items = 100, required = true, example = json!(["coffee"]))]
    product_id: Vec<String>,
}

type AvailabilityList = List<Availability>;

/// Where products can be had
#[derive(Debug, Serialize, ToSchema)]
struct Availabilities {
    #[serde(flatten)]
    list: AvailabilityList,
    /// Products that no store has.
    #[schema(value_type = Vec<schema::ProductId>)]
    unknown: Vec<ProductId>,
}

/// Where products can be had
#[utoipa::path(
    get, path = "/availability", operation_id = "listAvailability", tag = "Stock", params(Wanted),
    responses((status = 200, description = "In one piece", body = Availabilities, headers(("X-Projection-Lag-ms" = String, description = "Age of the oldest entry that is known to exist and is not in this answer, 0 if there is none.")))),
    extensions(("x-problems" = json!(["store_unavailable"]))),
)]
async fn many(State(app): Shared, Query(wanted): Query<Wanted>) -> Result<Response> {
    if !(1..=100).contains(&wanted.product_id.len()) {
        return Err(Problem::invalid("?productId", "must be sent 1 to 100 times"));
    }
    let parse =
        |text: &String| ProductId::parse(text).map_err(|error| Problem::invalid("?productId", error.to_string()));
    let products = wanted.product_id.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let (shown, now, is_starting) = (app.clone(), app.source.now(), app.is_starting());
    let found = app.db.scan(move |connection| {
        let (mut items, mut unknown, mut lag_ms) = (Vec::new(), Vec::new(), 0);
        for product in &products {
            match gather(&shown, connection, product, &Filter::default(), now)? {
                Some(availability) => {
                    lag_ms = lag_ms.max(availability.lag_ms());
                    items.push(availability);
                }
                None if is_starting => return Ok(Err(product.clone())),
                None => unknown.push(product.clone()),
            }
        }
        let body = Availabilities { list: List { items, next_cursor: None }, unknown };
        Ok(Ok((lag_ms, Written::json(&body))))
    });
    match found.await? {
        Ok((lag_ms, body)) => Ok(([(LAG, HeaderValue::from(lag_ms))], body).into_response()),
        Err(product) => Err(app.unknown_everywhere(&product).await?),
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts;

    use super::*;
    use crate::http::tests::app;
    use crate::testing::Busy;

    #[tokio::test]
    async fn what_all_stores_have_is_read_and_written_where_lists_are() {
        let (_dir, app) = app();
        let app = Arc::new(app);
        let busy = Busy::all_scans_of(&app.db).await;
        let of_many = many(State(app.clone()), Query(Wanted { product_id: vec!["tea".into()] }));
        let tea = ProductPath(ProductId::parse("tea").expect("valid"));
        let (mut parts, ()) = axum::http::Request::new(()).into_parts();
        let prefer = Prefer::from_request_parts(&mut parts, &()).await.expect("asks for nothing");
        let of_one = one(State(app.clone()), tea, prefer, Query(Filter::default()));
        let (mut of_many, mut of_one) = (Box::pin(of_many), Box::pin(of_one));
        assert!(futures_util::poll!(of_many.as_mut()).is_pending());
        assert!(futures_util::poll!(of_one.as_mut()).is_pending());
        drop(busy);
        assert!(of_many.await.is_ok());
        assert_eq!(of_one.await.err().map(|problem| problem.code()), Some(Code::UnknownProduct));
    }
}
