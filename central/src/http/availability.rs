//! `GET /availability/{productId}`, `/availability`: where a product can be had.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use protocol::ids::{ProductId, StoreId};
use runtime::http::openapi::schema;
use runtime::http::{Bounded, Code, List, Prefer, Problem, ProductPath, Query, Result, header_value};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{ItemView, LAG};
use super::{App, Shared};
use crate::storage::queries::{offers, products};
use crate::storage::transfers;

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
async fn gather(app: &App, product: &ProductId, filter: &Filter) -> Result<Option<Availability>> {
    let now = app.source.now();
    let found = app.db.read(|connection| {
        let name = products::name(connection, product)?.unwrap_or_default();
        Ok((offers::of_product(connection, product)?, name, transfers::in_transit(connection, product)?))
    });
    let (offers, name, in_transit) = found.await?;
    let mut all = Availability {
        product_id: product.clone(),
        name,
        quantity: 0,
        reserved: 0,
        allotted: 0,
        available: 0,
        online_available: 0,
        in_transit,
        stores: Vec::new(),
        left_out: Vec::new(),
    };
    for offer in offers {
        let store = &offer.store;
        if filter.store_id.as_ref().is_some_and(|wanted| *wanted != store.id) {
            continue;
        }
        let view = ItemView::of(app, store, product.clone(), &offer.item, offer.pending);
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
    let Some(found) = gather(&app, &product, &filter).await? else {
        return Err(match wanted {
            Some(store) if store.retired => Problem::new(Code::StoreRetired).with("storeId", store.id.as_str()),
            Some(store) => app.unknown_product(&store, &product).await,
            None => app.unknown_everywhere(&product).await?,
        });
    };
    if found.stores.is_empty() {
        return Err(Problem::new(Code::StoreUnavailable)
            .detail("What is known of every store that has it is older than maxStalenessMs")
            .with("reason", STALE)
            .with("leftOut", serde_json::to_value(found.left_out).map_err(Problem::internal)?));
    }
    let lag = found.stores.iter().map(|store| store.lag_ms).max().unwrap_or(0);
    Ok(([(LAG, header_value(lag))], Json(found)).into_response())
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
    let (mut items, mut unknown, mut lag) = (Vec::new(), Vec::new(), 0);
    for text in &wanted.product_id {
        let product = ProductId::parse(text).map_err(|error| Problem::invalid("?productId", error.to_string()))?;
        match gather(&app, &product, &Filter::default()).await? {
            Some(availability) => {
                lag = lag.max(availability.stores.iter().map(|store| store.lag_ms).max().unwrap_or(0));
                items.push(availability);
            }
            None if app.is_starting() => return Err(app.unknown_everywhere(&product).await?),
            None => unknown.push(product),
        }
    }
    let body = Availabilities { list: List { items, next_cursor: None }, unknown };
    Ok(([(LAG, header_value(lag))], Json(body)).into_response())
}
