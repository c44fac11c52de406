//! `GET /events`: everything that happened in the chain, in the order in which central applied it.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use protocol::domain::{Item, Reason};
use protocol::ids::PurchaseId;
use protocol::time::Millis;
use protocol::wire::{Event, Fact};
use runtime::http::{List, Page, Problem, Query, Result};
use serde::{Deserialize, Serialize};

use super::{App, Shared};
use crate::storage::queries::events::{self, Recorded};

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

/// What an epoch's first entry is called here, and on the wire.
const OPENED: (&str, &str) = ("epoch_opened", "opened");

/// An entry as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EventView {
    event_id: String,
    store_id: String,
    position: String,
    chain_seq: i64,
    r#type: String,
    product_id: Option<String>,
    delta: i64,
    operation_id: String,
    received_at: Millis,
    /// Absent of what is about no product.
    #[serde(flatten)]
    fact: Option<FactView>,
}

/// What only entries about a product say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FactView {
    #[serde(flatten)]
    item: Option<UnitsView>,
    cause: &'static str,
    reason: Option<Reason>,
    reference: Option<String>,
    actor: Option<String>,
    occurred_at: Millis,
    recorded_at: Millis,
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purchase_id: Option<PurchaseId>,
}

/// The item after it.
#[derive(Debug, Serialize)]
struct UnitsView {
    quantity: i64,
    reserved: i64,
    allotted: i64,
    version: i64,
}

impl From<Recorded> for EventView {
    fn from(recorded: Recorded) -> Self {
        let fact = match Event::decode(&recorded.kind, &recorded.body) {
            Ok(Event::Fact(_, fact)) => Some(FactView::from(fact)),
            Ok(
                Event::OutcomeRepeated(_)
                | Event::Opened { .. }
                | Event::SnapshotPage(_)
                | Event::SnapshotEnd(_)
                | Event::Ready { .. },
            ) => None,
            // It lies in the dead letters.
            Err(_) => None,
        };
        let position = format!("{}:{}", recorded.store, recorded.at);
        let (shown, sent) = OPENED;
        Self {
            event_id: position.clone(),
            store_id: recorded.store,
            position,
            chain_seq: recorded.chain_seq,
            r#type: if recorded.kind == sent { shown.to_owned() } else { recorded.kind },
            product_id: recorded.product,
            delta: recorded.delta,
            operation_id: recorded.operation,
            received_at: recorded.received_at,
            fact,
        }
    }
}

impl From<Fact> for FactView {
    fn from(fact: Fact) -> Self {
        let units = |item: Item| {
            let Item { quantity, reserved, allotted, version, .. } = item;
            UnitsView { quantity, reserved, allotted, version }
        };
        Self {
            item: fact.item.map(units),
            cause: if fact.command.is_some() { "command" } else { "store" },
            reason: fact.reason,
            reference: fact.about.reference,
            actor: fact.about.actor,
            occurred_at: fact.about.occurred_at.unwrap_or(fact.recorded_at),
            recorded_at: fact.recorded_at,
            traceparent: fact.about.traceparent,
            purchase_id: fact.purchase.map(|purchase| purchase.purchase_id),
        }
    }
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<List<EventView>>> {
    let size = Page::of(None, filter.size, None, 1)?.size;
    let time = |name: &str, bound: &Option<String>| match bound {
        Some(text) => Millis::parse(text).map(Some).ok_or_else(|| Problem::invalid(name, "a time is RFC 3339")),
        None => Ok(None),
    };
    let (shown, sent) = OPENED;
    let wanted = events::Filter {
        since: time("?since", &filter.since)?,
        until: time("?until", &filter.until)?,
        after: filter.after,
        store: filter.store_id,
        product: filter.product_id,
        kind: filter.kind.map(|kind| if kind == shown { sent.to_owned() } else { kind }),
        reference: filter.reference,
    };
    let recorded = app.db.scan(move |connection| events::list(connection, &wanted, size)).await?;
    // Forward a full page may be followed by what has yet to happen.
    let last = recorded.last().filter(|_| filter.after.is_some() && recorded.len() == size);
    let next_cursor = last.map(|last| last.chain_seq.to_string());
    Ok(Json(List { items: recorded.into_iter().map(EventView::from).collect(), next_cursor }))
}
