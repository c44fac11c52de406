//! `GET /products`: the chain's totals.

use std::sync::Arc;

use axum::extract::State;
use runtime::http::{Counted, Page, Query, Result, Written, encode_cursor, words};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::slice;
use super::{App, Shared};
use crate::storage::queries::products::{self, Total};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    q: Option<String>,
    page: Option<i64>,
    size: Option<i64>,
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
}

impl From<Total> for Product {
    fn from(total: Total) -> Self {
        let Total { product, name, quantity, reserved, allotted, stores } = total;
        let available = quantity - reserved - allotted;
        Self { product_id: product, name, quantity, reserved, allotted, available, stores }
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
