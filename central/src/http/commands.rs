//! `GET /commands`, `/commands/{id}`: what stores were asked, and what they answered.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use runtime::http::{IdPath, List, Page, Prefer, Problem, Query, Result, encode_cursor};
use rusqlite::ToSql;
use serde::Deserialize;

use super::views::CommandView;
use super::{App, Shared};
use crate::promises::commands::{self, Request};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/commands", get(list)).route("/commands/{id}", get(one))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    store_id: Option<String>,
    status: Option<String>,
    page: Option<i64>,
    size: Option<i64>,
    cursor: Option<String>,
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<List<CommandView>>> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let mut sql = format!("select {} from request where true", commands::COLUMNS);
    let mut values: Vec<Box<dyn ToSql + Send>> = Vec::new();
    for (column, wanted) in [("store_id", filter.store_id), ("status", filter.status)] {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" and {column} = ?"));
            values.push(Box::new(wanted));
        }
    }
    if let Some(after) = &page.after {
        let number: i64 = after[0].parse().map_err(|_| Problem::invalid("?cursor", "not a cursor of this list"))?;
        sql.push_str(" and number < ?");
        values.push(Box::new(number));
    }
    sql.push_str(&format!(" order by number desc limit {} offset {}", page.limit(), page.offset));
    let rows = app
        .reader
        .scan(move |connection| {
            connection
                .prepare_cached(&sql)?
                .query_map(rusqlite::params_from_iter(values), Request::read)?
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .await?;
    let List { items, next_cursor } =
        List::cut(rows, &page, |request: &Request| encode_cursor(&[&request.number.to_string()]));
    Ok(Json(List { items: items.iter().map(CommandView::of).collect(), next_cursor }))
}

async fn one(State(app): Shared, IdPath(id): IdPath, prefer: Prefer) -> Result<Json<CommandView>> {
    let request = app.await_command(&id, &prefer.only_if_asked()).await?;
    Ok(Json(CommandView::of(&request)))
}
