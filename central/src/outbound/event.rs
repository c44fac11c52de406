//! An event as clients see it: in lists, streams and webhooks alike.

use protocol::domain::{Item, Reason};
use protocol::ids::{PurchaseId, ReservationId};
use protocol::time::Millis;
use protocol::wire::{Event, Fact, ItemAfter};
use serde::Serialize;

use crate::storage::queries::events::Recorded;

/// What an epoch's first entry is called here, and on the wire.
const OPENED: (&str, &str) = ("epoch_opened", "opened");

/// What a type that clients name is called on the wire.
pub fn sent_type(named: &str) -> &str {
    let (shown, sent) = OPENED;
    if named == shown { sent } else { named }
}

/// An entry as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation_id: Option<ReservationId>,
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
            Ok(Event::Fact(fact)) => Some(FactView::of(fact, recorded.product.as_deref())),
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

impl FactView {
    fn of(fact: Fact, product: Option<&str>) -> Self {
        let units = |ItemAfter { item, .. }: &ItemAfter| {
            let &Item { quantity, reserved, allotted, version, .. } = item;
            UnitsView { quantity, reserved, allotted, version }
        };
        Self {
            item: fact.what.item_of(product).map(units),
            cause: if fact.command.is_some() { "command" } else { "store" },
            reason: fact.what.reason(),
            reference: fact.about.reference,
            actor: fact.about.actor,
            occurred_at: fact.about.occurred_at.unwrap_or(fact.recorded_at),
            recorded_at: fact.recorded_at,
            traceparent: fact.about.traceparent,
            purchase_id: fact.what.purchase().map(|purchase| purchase.purchase_id),
            reservation_id: fact.what.reservation().map(|reservation| reservation.id),
        }
    }
}
