//! `GET /products`: the chain's totals.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use runtime::http::{Counted, Page, Query, Result, Written, encode_cursor, words};
use serde::{Deserialize, Serialize};

use super::views::slice;
use super::{App, Shared};
use crate::storage::queries::products::{self, Total};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/products", get(list))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    q: Option<String>,
    page: Option<i64>,
    size: Option<i64>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Product {
    product_id: String,
    name: String,
    quantity: i64,
    reserved: i64,
    allotted: i64,
    available: i64,
    stores: i64,
}

impl From<Total> for Product {
    fn from(total: Total) -> Self {
        let Total { product, name, quantity, reserved, allotted, stores } = total;
        let available = quantity - reserved - allotted;
        Self { product_id: product, name, quantity, reserved, allotted, available, stores }
    }
}

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
