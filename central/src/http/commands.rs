//! `GET /commands`, `/commands/{id}`: what stores were asked, and what they answered.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use runtime::http::{IdPath, List, Page, PageNumber, PageSize, Prefer, Query, Result, Written};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::CommandView;
use super::{App, Shared};
use crate::storage::queries::commands;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(one))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    store_id: Option<String>,
    status: Option<String>,
    page: Option<PageNumber>,
    size: Option<PageSize>,
    cursor: Option<String>,
}

type Commands = List<CommandView>;

/// List what stores were asked
#[utoipa::path(
    get, path = "/commands", operation_id = "listCommands", tag = "Commands", params(Filter),
    responses((status = 200, description = "Commands, the newest first", body = Commands)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let slice = page.by_number()?;
    let filter = commands::Filter { store: filter.store_id, status: filter.status };
    let list = app.db.scan(move |connection| {
        let list = List::from(commands::list(connection, &filter, &slice)?);
        Ok(Written::json(&list.map(|request| CommandView::in_list(&request))))
    });
    Ok(list.await?)
}

/// Read what a store was asked, and what it answered
#[utoipa::path(
    get, path = "/commands/{id}", operation_id = "getCommand", tag = "Commands", params(IdPath, Prefer),
    responses((status = 200, description = "The command", body = CommandView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn one(State(app): Shared, IdPath(id): IdPath, prefer: Prefer) -> Result<Json<CommandView>> {
    let request = app.await_command(&id, &prefer.only_if_asked()).await?;
    Ok(Json(CommandView::of(&request)))
}
