//! `GET /events`: everything that happened in the chain, in the order in which central applied it.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use protocol::time::Millis;
use runtime::http::{List, Page, Problem, Query, Result};
use serde::Deserialize;

use super::{App, Shared};
use crate::outbound::event::{EventView, sent_type};
use crate::storage::queries::events;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/events", get(list))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    after: Option<i64>,
    store_id: Option<String>,
    product_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reference: Option<String>,
    since: Option<String>,
    until: Option<String>,
    size: Option<i64>,
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<List<EventView>>> {
    let size = Page::of(None, filter.size, None, 1)?.size;
    let time = |name: &str, bound: &Option<String>| match bound {
        Some(text) => Millis::parse(text).map(Some).ok_or_else(|| Problem::invalid(name, "a time is RFC 3339")),
        None => Ok(None),
    };
    let wanted = events::Filter {
        since: time("?since", &filter.since)?,
        until: time("?until", &filter.until)?,
        after: filter.after,
        store: filter.store_id,
        product: filter.product_id,
        kind: filter.kind.map(|kind| sent_type(&kind).to_owned()),
        reference: filter.reference,
    };
    let recorded = app.db.scan(move |connection| events::list(connection, &wanted, size)).await?;
    // Forward a full page may be followed by what has yet to happen.
    let last = recorded.last().filter(|_| filter.after.is_some() && recorded.len() == size);
    let next_cursor = last.map(|last| last.chain_seq.to_string());
    Ok(Json(List { items: recorded.into_iter().map(EventView::from).collect(), next_cursor }))
}
