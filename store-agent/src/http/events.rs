//! `GET /events`: what happened in this store.

use std::sync::Arc;

use axum::extract::State;
use protocol::domain::{Lines, Reason};
use protocol::ids::{PurchaseId, ReservationId, StoreId, TransferId};
use protocol::link::{EntryId, OPENED};
use protocol::time::Millis;
use protocol::wire::{Event, Fact};
use runtime::http::openapi::schema;
use runtime::http::{Code, EventItem, EventUnits, List, Page, PageSize, Problem, Query, Result, Written};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, Shared};
use crate::ledger;
use crate::ledger::events::{self, Recorded, Start};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Behind this `position`, oldest first; `0`: from the first that is kept.
    after: Option<String>,
    cursor: Option<String>,
    product_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reference: Option<String>,
    actor: Option<String>,
    #[param(value_type = Option<schema::Time>)]
    since: Option<Millis>,
    #[param(value_type = Option<schema::Time>)]
    until: Option<Millis>,
    size: Option<PageSize>,
}

/// What an epoch's first entry is called here, and on the wire.
const EPOCH_OPENED: (&str, &str) = ("epoch_opened", OPENED);

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

type Events = List<EventView<'static>>;

/// List what happened
///
/// Without `after` the newest first; with it the oldest first, and `nextCursor` is what to send as `after` next.
#[utoipa::path(
    get, path = "/events", operation_id = "listEvents", tag = "Events", params(Filter),
    responses((status = 200, description = "Events; `nextCursor` is never `null` if `after` was sent", body = Events)),
    extensions(("x-problems" = json!(["cursor_expired"]))),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let size = Page::of(None, filter.size, None, 1)?.size;
    let start = filter.start(&app.store)?;
    let (shown, sent) = EPOCH_OPENED;
    let wanted = events::Filter {
        product_id: filter.product_id,
        kind: filter.kind.map(|kind| if kind == shown { sent.to_owned() } else { kind }),
        reference: filter.reference,
        actor: filter.actor,
        since: filter.since,
        until: filter.until,
    };
    let store = app.store.clone();
    let list = app.db.scan(move |connection| {
        if let Start::Behind(place) = start {
            if let Some(oldest) = events::lost_behind(connection, place)? {
                let oldest = format!("{store}:{oldest}");
                return Ok(Err(Problem::new(Code::CursorExpired).with("oldest", oldest)));
            }
            let last = ledger::head(connection)?.cursor.id();
            if place > last {
                let text = format!("must not be beyond the last event, which is {store}:{last}");
                return Ok(Err(Problem::invalid("?after", text)));
            }
        }
        let part = events::list(connection, &wanted, start, size)?;
        let next_cursor = part.next.map(|place| format!("{store}:{place}"));
        let list = List { items: part.entries, next_cursor };
        Ok(Ok(Written::json(&list.map(|recorded| EventView::of(&store, recorded)))))
    });
    list.await?
}

/// Something that happened
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event, example = json!({
    "eventId": "store-1:1769860800000-17", "storeId": "store-1", "position": "store-1:1769860800000-17",
    "type": "sold", "productId": "coffee", "delta": -1, "quantity": 23, "reserved": 2, "allotted": 0, "version": 5,
    "cause": "store", "reason": null, "reference": "receipt 20260131-017", "actor": "till-2",
    "operationId": "0197a1b2-0000-7000-8000-000000000003", "occurredAt": "2026-01-31T12:00:00.000Z",
    "recordedAt": "2026-01-31T12:00:00.004Z", "traceparent": null,
}))]
struct EventView<'a> {
    event_id: String,
    #[schema(value_type = schema::StoreId)]
    store_id: &'a StoreId,
    position: String,
    r#type: String,
    /// `null`: it is about no product. Of several the one that was asked for, else the first.
    product_id: Option<String>,
    /// By so many units more, or fewer.
    delta: i64,
    operation_id: String,
    #[schema(value_type = schema::Time)]
    recorded_at: Millis,
    /// Absent of what is none.
    #[serde(flatten)]
    fact: Option<FactView>,
}

/// What only facts say.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FactView {
    #[serde(flatten)]
    item: Option<EventUnits>,
    /// Of what is about several products: each of them, `productId` among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    items: Vec<EventItem>,
    /// `store`, or `command` if central asked for it.
    cause: &'static str,
    /// Of an adjustment.
    #[schema(value_type = Option<String>)]
    reason: Option<Reason>,
    reference: Option<String>,
    actor: Option<String>,
    #[schema(value_type = schema::Time)]
    occurred_at: Millis,
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Id>)]
    purchase_id: Option<PurchaseId>,
    /// All that the purchase is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Lines>)]
    lines: Option<Lines>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Id>)]
    reservation_id: Option<ReservationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Id>)]
    transfer_id: Option<TransferId>,
}

impl<'a> EventView<'a> {
    fn of(store: &'a StoreId, recorded: Recorded) -> Self {
        let fact = match Event::decode(&recorded.kind, &recorded.body) {
            Ok(Event::Fact(fact)) => Some(FactView::of(recorded.product_id.as_deref(), fact)),
            Ok(
                Event::OutcomeRepeated(_)
                | Event::Opened { .. }
                | Event::SnapshotPage(_)
                | Event::SnapshotEnd(_)
                | Event::Ready { .. },
            ) => None,
            // A version that knew it has written it.
            Err(_) => None,
        };
        let position = format!("{store}:{}", recorded.place);
        let (shown, sent) = EPOCH_OPENED;
        Self {
            event_id: position.clone(),
            store_id: store,
            position,
            r#type: if recorded.kind == sent { shown.to_owned() } else { recorded.kind },
            product_id: recorded.product_id,
            delta: recorded.delta,
            operation_id: recorded.operation,
            recorded_at: recorded.recorded_at,
            fact,
        }
    }
}

impl FactView {
    /// A fact as this product's entry tells it.
    fn of(product: Option<&str>, fact: Fact) -> Self {
        Self {
            item: fact.what.item_of(product).map(EventUnits::from),
            items: EventItem::several(&fact.what),
            cause: if fact.is_asked_by_central() { "command" } else { "store" },
            reason: fact.what.reason(),
            reference: fact.about.reference,
            actor: fact.about.actor,
            occurred_at: fact.about.occurred_at.unwrap_or(fact.recorded_at),
            traceparent: fact.about.traceparent,
            purchase_id: fact.what.purchase().map(|purchase| purchase.purchase_id),
            lines: fact.what.purchase().map(|purchase| purchase.lines.clone()),
            reservation_id: fact.what.reservation_id(),
            transfer_id: fact.what.transfer_id(),
        }
    }
}
