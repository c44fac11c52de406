//! `GET /commands`, `/commands/{id}`: what stores were asked, and what they answered.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use runtime::http::{IdPath, List, Page, Prefer, Query, Result, Written, encode_cursor};
use serde::Deserialize;

use super::views::{CommandView, behind_number};
use super::{App, Shared};
use crate::storage::commands::Request;
use crate::storage::queries::commands;

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

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let slice = behind_number(&page)?;
    let filter = commands::Filter { store: filter.store_id, status: filter.status };
    let list = app.db.scan(move |connection| {
        let rows = commands::list(connection, &filter, &slice)?;
        let list = List::cut(rows, &page, |request: &Request| encode_cursor(&[&request.number.to_string()]));
        Ok(Written::json(&list.map(|request| CommandView::of(&request))))
    });
    Ok(list.await?)
}

async fn one(State(app): Shared, IdPath(id): IdPath, prefer: Prefer) -> Result<Json<CommandView>> {
    let request = app.await_command(&id, &prefer.only_if_asked()).await?;
    Ok(Json(CommandView::of(&request)))
}
