//! `GET /availability/{productId}`, `/availability`: where a product can be had.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use protocol::ids::{ProductId, StoreId};
use runtime::http::{Code, List, Prefer, Problem, ProductPath, Query, Result};
use serde::{Deserialize, Serialize};

use super::views::{ItemView, LAG, value};
use super::{App, Shared};
use crate::storage::queries::{offers, products};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/availability", get(many)).route("/availability/{productId}", get(one))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StoreItem {
    #[serde(flatten)]
    item: ItemView,
    lag_ms: i64,
}

/// Why a store is left out: what is known of it is older than the request allows.
const STALE: &str = "stale";

/// A store of which too little is known.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LeftOut {
    store_id: StoreId,
    reason: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Availability {
    product_id: ProductId,
    name: String,
    quantity: i64,
    reserved: i64,
    allotted: i64,
    available: i64,
    online_available: i64,
    in_transit: i64,
    stores: Vec<StoreItem>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    store_id: Option<StoreId>,
    max_staleness_ms: Option<i64>,
    min_position: Vec<String>,
}

/// `None`: no store has the product.
async fn gather(app: &App, product: &ProductId, filter: &Filter) -> Result<Option<Availability>> {
    let now = runtime::clock::now();
    let found = app.db.read(|connection| {
        Ok((offers::of_product(connection, product)?, products::name(connection, product)?.unwrap_or_default()))
    });
    let (offers, name) = found.await?;
    let mut all = Availability {
        product_id: product.clone(),
        name,
        quantity: 0,
        reserved: 0,
        allotted: 0,
        available: 0,
        online_available: 0,
        in_transit: 0,
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
        if filter.max_staleness_ms.is_some_and(|most| age_ms > most) {
            all.left_out.push(LeftOut { store_id: store.id.clone(), reason: STALE });
            continue;
        }
        all.quantity += view.quantity;
        all.reserved += view.reserved;
        all.allotted += view.allotted;
        all.available += view.available;
        all.online_available += view.online_available;
        let lag_ms = app.presence.report(&store.id).lag_ms;
        all.stores.push(StoreItem { item: view, lag_ms });
    }
    Ok((!all.stores.is_empty() || !all.left_out.is_empty()).then_some(all))
}

fn checked(filter: &Filter) -> Result<()> {
    if filter.max_staleness_ms.is_some_and(|most| most < 0) {
        return Err(Problem::invalid("?maxStalenessMs", "must be a whole number of milliseconds, not below 0"));
    }
    Ok(())
}

async fn one(
    State(app): Shared,
    ProductPath(product): ProductPath,
    prefer: Prefer,
    Query(filter): Query<Filter>,
) -> Result<Response> {
    checked(&filter)?;
    app.caught_up(&filter.min_position, &prefer).await?;
    let Some(found) = gather(&app, &product, &filter).await? else {
        return Err(Problem::new(Code::UnknownProduct).with("productId", product.as_str()));
    };
    if found.stores.is_empty() {
        return Err(Problem::new(Code::StoreUnavailable)
            .detail("What is known of every store that has it is older than maxStalenessMs")
            .with("reason", STALE)
            .with("leftOut", serde_json::to_value(found.left_out).map_err(Problem::internal)?));
    }
    let lag = found.stores.iter().map(|store| store.lag_ms).max().unwrap_or(0);
    Ok(([(LAG, value(&lag.to_string()))], Json(found)).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Wanted {
    product_id: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Availabilities {
    #[serde(flatten)]
    list: List<Availability>,
    /// Products that no store has.
    unknown: Vec<ProductId>,
}

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
            None => unknown.push(product),
        }
    }
    let body = Availabilities { list: List { items, next_cursor: None }, unknown };
    Ok(([(LAG, value(&lag.to_string()))], Json(body)).into_response())
}
