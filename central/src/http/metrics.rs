//! `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use runtime::http::{Exposition, Result};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::stores::{Beside, STATUSES, StoreView};
use super::{App, Shared};
use crate::outbound::event::name_of;
use crate::storage::queries::{dead_letters, events};
use crate::storage::webhooks::{Status, Webhook};
use crate::storage::{JobResult, rebuild, stores, webhooks};

/// Events that one look counts: what is behind them is for the next.
const COUNTED: usize = 100_000;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Metrics for Prometheus
#[utoipa::path(
    get, path = "/metrics", operation_id = "getMetrics", tag = "Server",
    responses((status = 200, description = "Metrics in the text format 0.0.4", body = String, content_type = "text/plain")),
)]
async fn metrics(State(app): Shared) -> Result<Exposition> {
    let judge = app.clone();
    let now = app.source.now();
    let from = app.applied.place();
    let read = app.db.scan(move |connection| {
        let view = |store| JobResult::Ok(judge.store_view(store, &Beside::of(connection, &store.id, now)?));
        let stores = stores::all(connection)?.iter().map(view).collect::<JobResult<Vec<_>>>()?;
        let hooks = webhooks::all(connection)?;
        let counted = events::types_behind(connection, from, COUNTED)?;
        let (_, left_out) = rebuild::left_out(connection, 0)?;
        let end = events::last_place(connection)?;
        Ok((stores, dead_letters::count(connection)?, left_out, hooks, counted, end))
    });
    let (stores, letters, left_out, hooks, (to, types), end) = read.await?;
    app.applied.add(from, to, types.iter().map(|kind| name_of(kind).to_owned()));
    let told = Exposition::new(env!("CARGO_PKG_VERSION"), &app.requests);
    let is_up = app.presence.is_redis_reachable();
    told.gauge("shelfstream_redis_up", "1: Redis answers", f64::from(is_up));
    let applied = app.applied.counts();
    let applied = applied.iter().map(|(kind, many)| (kind.as_str(), *many));
    told.counters("shelfstream_events_total", "Events of all stores, applied since central started", "type", applied);
    told.gauge("shelfstream_dead_letters", "Events that were not understood; 10,000 if there are more", letters as f64);
    told.gauge(
        "shelfstream_rebuild_left_out_stores",
        "Stores whose view the last rebuild left as it was",
        left_out as f64,
    );
    of_webhooks(&told, &hooks, end);
    of_stores(&told, &stores);
    Ok(told)
}

fn of_webhooks(told: &Exposition, hooks: &[Webhook], end: i64) {
    let gauges = |name, help, value: fn(&Webhook, i64) -> f64| {
        told.gauges(name, help, &["webhook_id"], hooks.iter().map(|hook| ([hook.id.as_str()], value(hook, end))));
    };
    gauges("shelfstream_webhook_active", "1: it is sent what happens; 0: it is parked or disabled", |hook, _| {
        f64::from(hook.progress.status == Status::Active)
    });
    gauges(
        "shelfstream_webhook_undelivered",
        "Events of the chain behind what it has taken without a gap",
        |hook, end| end.saturating_sub(hook.progress.delivered_to()) as f64,
    );
    gauges("shelfstream_webhook_held_stores", "Stores whose events it does not take", |hook, _| {
        hook.progress.failing().count() as f64
    });
}

fn of_stores(told: &Exposition, stores: &[StoreView]) {
    let with = |status| stores.iter().filter(|store| store.status == status).count() as f64;
    let counts = STATUSES.map(|status| ([status], with(status)));
    told.gauges("shelfstream_stores", "Stores, by status", &["status"], counts);
    // What is not known of a store has no value.
    let gauges = |name, help, value: fn(&StoreView) -> Option<f64>| {
        let known = stores.iter().filter_map(|store| Some(([store.store_id.as_str()], value(store)?)));
        told.gauges(name, help, &["store_id"], known);
    };
    gauges("shelfstream_store_sells", "1: it gets online purchases", |store| {
        Some(f64::from(matches!(store.status, "online" | "suspect")))
    });
    gauges("shelfstream_store_heartbeat_age_seconds", "Age of its last heartbeat, by Redis's clock", |store| {
        store.last_beat_age_ms.map(seconds)
    });
    gauges(
        "shelfstream_store_lag_seconds",
        "Age of the oldest event that is known to exist and is not applied",
        |store| store.lag_ms.map(seconds),
    );
    gauges("shelfstream_store_backlog_entries", "Events that it has not sent, as of its last heartbeat", |store| {
        store.backlog.map(|entries| entries as f64)
    });
    gauges(
        "shelfstream_store_oldest_unsent_seconds",
        "Age of the oldest event that it has not sent, as of its last heartbeat",
        |store| store.oldest_unsent_ms.map(seconds),
    );
    gauges("shelfstream_store_round_trip_seconds", "Median of its last 20 answers to commands", |store| {
        store.round_trip_ms.map(seconds)
    });
    gauges("shelfstream_store_open_purchases", "Purchases that it has not answered", |store| {
        Some(store.open_purchases as f64)
    });
    gauges(
        "shelfstream_store_overdue_purchases",
        "Purchases that it has not answered and whose time is over",
        |store| Some(store.overdue_purchases as f64),
    );
    gauges("shelfstream_store_digest_different", "1: the view is not what the store says it has", |store| {
        Some(f64::from(store.digest == "different"))
    });
    gauges("shelfstream_store_warnings", "Warnings of the store", |store| Some(store.warnings.len() as f64));
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}
