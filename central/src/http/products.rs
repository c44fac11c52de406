//! `GET /products`: the chain's totals.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use runtime::http::{List, Page, Problem, Query, Result, encode_cursor};
use rusqlite::ToSql;
use serde::{Deserialize, Serialize};

use super::{App, Shared};

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

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<List<Product>>> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    if filter.q.as_ref().is_some_and(|q| !(2..=100).contains(&q.chars().count())) {
        return Err(Problem::invalid("?q", "q is 2 to 100 characters"));
    }
    let mut sql =
        "select product_id, name, quantity, reserved, allotted, stores from product where stores > 0".to_owned();
    let mut values: Vec<Box<dyn ToSql + Send>> = Vec::new();
    if let Some(q) = filter.q {
        let pattern = format!("%{}%", q.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
        sql.push_str(" and (product_id like ? escape '\\' or name like ? escape '\\')");
        values.push(Box::new(pattern.clone()));
        values.push(Box::new(pattern));
    }
    if let Some(after) = &page.after {
        sql.push_str(" and product_id > ?");
        values.push(Box::new(after[0].clone()));
    }
    sql.push_str(&format!(" order by product_id limit {} offset {}", page.limit(), page.offset));
    let rows = app
        .reader
        .scan(move |connection| {
            connection
                .prepare_cached(&sql)?
                .query_map(rusqlite::params_from_iter(values), |row| {
                    let (quantity, reserved, allotted): (i64, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
                    Ok(Product {
                        product_id: row.get(0)?,
                        name: row.get(1)?,
                        quantity,
                        reserved,
                        allotted,
                        available: quantity - reserved - allotted,
                        stores: row.get(5)?,
                    })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .await?;
    Ok(Json(List::cut(rows, &page, |product: &Product| encode_cursor(&[&product.product_id]))))
}
