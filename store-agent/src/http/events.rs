//! `GET /events`: what happened in this store.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use protocol::ids::StoreId;
use protocol::link::{EntryId, OPENED};
use protocol::time::Millis;
use protocol::wire::{Event, ItemAfter};
use runtime::http::{Code, Page, Problem, Query, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, Shared};
use crate::ledger::events::{self, Recorded, Start};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/events", get(list))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    after: Option<String>,
    cursor: Option<String>,
    product_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reference: Option<String>,
    actor: Option<String>,
    since: Option<Millis>,
    until: Option<Millis>,
    size: Option<i64>,
}

impl Filter {
    fn start(&self, store: &StoreId) -> Result<Start> {
        let place = |text: &str| {
            let own = format!("{store}:");
            text.strip_prefix(&own).unwrap_or(text).parse::<EntryId>()
        };
        match (&self.cursor, &self.after) {
            (Some(_), Some(_)) => Err(Problem::invalid("?cursor", "must not be sent together with after")),
            (Some(cursor), None) => match place(cursor) {
                Ok(place) => Ok(Start::Before(place)),
                Err(_) => Err(Problem::invalid("?cursor", "must be a nextCursor of this list")),
            },
            (None, Some(after)) if after == "0" => Ok(Start::Behind(EntryId::default())),
            (None, Some(after)) => match place(after) {
                Ok(place) => Ok(Start::Behind(place)),
                Err(_) => Err(Problem::invalid("?after", "must be 0 or a position of this store")),
            },
            (None, None) => Ok(Start::End),
        }
    }
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<Value>> {
    let size = Page::of(None, filter.size, None, 1)?.size;
    let start = filter.start(&app.store)?;
    let wanted = events::Filter {
        product_id: filter.product_id,
        kind: filter.kind.map(|kind| if kind == "epoch_opened" { OPENED.to_owned() } else { kind }),
        reference: filter.reference,
        actor: filter.actor,
        since: filter.since,
        until: filter.until,
    };
    let part = app.db.scan(move |connection| {
        if let Start::Behind(place) = start
            && let Some(oldest) = events::lost_behind(connection, place)?
        {
            return Ok(Err(oldest));
        }
        events::list(connection, &wanted, start, size).map(Ok)
    });
    let position = |place: EntryId| format!("{}:{place}", app.store);
    let part = part.await?.map_err(|oldest| Problem::new(Code::CursorExpired).with("oldest", position(oldest)))?;
    let items: Vec<Value> = part.entries.iter().map(|entry| view(&app.store, entry)).collect();
    Ok(Json(json!({"items": items, "nextCursor": part.next.map(position)})))
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
    if let Ok(Event::Fact(fact)) = Event::decode(&entry.kind, &entry.body) {
        if let Some(ItemAfter { item, .. }) = fact.what.item_of(entry.product_id.as_deref()) {
            event["quantity"] = item.quantity.into();
            event["reserved"] = item.reserved.into();
            event["allotted"] = item.allotted.into();
            event["version"] = item.version.into();
        }
        event["cause"] = json!(if fact.command.is_some() { "command" } else { "store" });
        event["reason"] = json!(fact.what.reason());
        event["reference"] = json!(fact.about.reference);
        event["actor"] = json!(fact.about.actor);
        event["occurredAt"] = json!(fact.about.occurred_at.unwrap_or(fact.recorded_at));
        event["traceparent"] = json!(fact.about.traceparent);
        if let Some(purchase) = fact.what.purchase() {
            event["purchaseId"] = json!(purchase.purchase_id);
        }
        if let Some(reservation) = fact.what.reservation() {
            event["reservationId"] = json!(reservation.id);
        }
    }
    event
}
