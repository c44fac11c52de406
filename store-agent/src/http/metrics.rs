//! `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use runtime::http::{Exposition, Result};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, Shared};
use crate::ledger;

/// Entries that one look counts: what is behind them is for the next.
const COUNTED: usize = 100_000;
/// What the link may be.
const LINKS: [&str; 4] = ["up", "down", "off", "fenced"];

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Metrics for Prometheus
#[utoipa::path(
    get, path = "/metrics", operation_id = "getMetrics", tag = "Server",
    responses((status = 200, description = "Metrics in the text format 0.0.4", body = String, content_type = "text/plain")),
)]
async fn metrics(State(app): Shared) -> Result<Exposition> {
    let link = app.connectivity.link();
    let from = app.recorded.place();
    let read = app.db.scan(move |connection| {
        Ok((
            ledger::head(connection)?,
            ledger::backlog(connection, link.acked)?,
            ledger::purchases::count_to_pick(connection)?,
            ledger::dead_letters::count(connection)?,
            ledger::types_behind(connection, from, COUNTED)?,
        ))
    });
    let (head, backlog, to_pick, letters, (to, types)) = read.await?;
    app.recorded.add(from, to, types);
    let told = Exposition::new(env!("CARGO_PKG_VERSION"), &app.requests);
    let state = app.connectivity.name();
    let states = LINKS.map(|name| ([name], f64::from(name == state)));
    told.gauges("shelfstream_link", "1 for what the link to the chain is, 0 for what it is not", &["state"], states);
    told.gauge("shelfstream_backlog_entries", "Entries that central does not have", backlog.entries as f64);
    let unsent = backlog.oldest.map_or(0, |oldest| runtime::clock::now().since(oldest));
    told.gauge(
        "shelfstream_oldest_unsent_seconds",
        "Age of the oldest entry that central does not have",
        unsent as f64 / 1_000.0,
    );
    told.gauge("shelfstream_items", "Items of the stock", head.items as f64);
    told.gauge("shelfstream_purchases_to_pick", "Online purchases that wait to be picked", to_pick as f64);
    told.gauge(
        "shelfstream_dead_letters",
        "Commands that were not understood; 10,000 if there are more",
        letters as f64,
    );
    let recorded = app.recorded.counts();
    let recorded = recorded.iter().map(|(kind, many)| (kind.as_str(), *many));
    told.counters("shelfstream_events_total", "Events recorded since the agent started", "type", recorded);
    Ok(told)
}
