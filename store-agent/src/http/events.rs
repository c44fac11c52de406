//! `GET /events`: what happened in this store.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use protocol::ids::StoreId;
use protocol::link::{EntryId, Epoch, OPENED};
use protocol::time::Millis;
use protocol::wire::Event;
use runtime::http::{Code, Page, Problem, Query, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, Shared};
use crate::ledger::events::{self, Recorded};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/events", get(list))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    after: Option<String>,
    product_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reference: Option<String>,
    actor: Option<String>,
    since: Option<String>,
    until: Option<String>,
    size: Option<i64>,
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<Value>> {
    let page = Page::of(None, filter.size, None, 1)?;
    let after = filter
        .after
        .map(|after| {
            let own = format!("{}:", app.store);
            let place = after.strip_prefix(&own).unwrap_or(&after).parse::<EntryId>();
            place.map_err(|_| Problem::invalid("?after", "not a position of this store"))
        })
        .transpose()?;
    if let Some(after) = after.filter(|after| after.epoch != Epoch::NONE)
        && let Some(oldest) = app.db.read(events::oldest).await?
        && (EntryId { seq: after.seq.next(), ..after }) < oldest
    {
        return Err(Problem::new(Code::CursorExpired).with("oldest", format!("{}:{oldest}", app.store)));
    }
    let time = |name: &str, text: Option<String>| {
        let read = |text: String| Millis::parse(&text).ok_or_else(|| Problem::invalid(name, "a time is RFC 3339"));
        text.map(read).transpose()
    };
    // Forward from `after`; without it the newest first, as records are.
    let forward = after.is_some();
    let filter = events::Filter {
        after,
        product_id: filter.product_id,
        kind: filter.kind.map(|kind| if kind == "epoch_opened" { OPENED.to_owned() } else { kind }),
        reference: filter.reference,
        actor: filter.actor,
        since: time("?since", filter.since)?,
        until: time("?until", filter.until)?,
        limit: page.size,
    };
    let recorded = app.db.scan(move |connection| events::list(connection, &filter)).await?;
    let items: Vec<Value> = recorded.iter().map(|entry| view(&app.store, entry)).collect();
    let next =
        if forward && items.len() == page.size { items.last().map(|event| event["position"].clone()) } else { None };
    Ok(Json(json!({"items": items, "nextCursor": next})))
}

fn view(store: &StoreId, entry: &Recorded) -> Value {
    let place = entry.place;
    let mut event = json!({
        "eventId": format!("{store}:{place}"),
        "storeId": store,
        "position": format!("{store}:{place}"),
        "type": if entry.kind == OPENED { "epoch_opened" } else { &entry.kind },
        "productId": entry.product_id,
        "delta": entry.delta,
        "operationId": entry.operation,
        "recordedAt": entry.recorded_at,
    });
    if let Ok(Event::Fact(_, fact)) = Event::decode(&entry.kind, &entry.body) {
        if let Some(item) = &fact.item {
            event["quantity"] = item.quantity.into();
            event["reserved"] = item.reserved.into();
            event["allotted"] = item.allotted.into();
            event["version"] = item.version.into();
        }
        event["cause"] = json!(if fact.command.is_some() { "command" } else { "store" });
        event["reason"] = json!(fact.reason);
        event["reference"] = json!(fact.about.reference);
        event["actor"] = json!(fact.about.actor);
        event["occurredAt"] = json!(fact.about.occurred_at.unwrap_or(fact.recorded_at));
        event["traceparent"] = json!(fact.about.traceparent);
        if let Some(purchase) = &fact.purchase {
            event["purchaseId"] = json!(purchase.purchase_id);
        }
    }
    event
}
