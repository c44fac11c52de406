//! An event as clients see it: in lists, streams and webhooks alike.

use protocol::domain::{Lines, Reason};
use protocol::ids::{PurchaseId, ReservationId, TransferId};
use protocol::time::Millis;
use protocol::wire::{Event, Fact};
use runtime::http::openapi::schema;
use runtime::http::{EventItem, EventUnits};
use serde::Serialize;
use utoipa::ToSchema;

use crate::storage::queries::events::Recorded;

/// What an epoch's first entry is called here, and on the wire.
const OPENED: (&str, &str) = ("epoch_opened", "opened");

/// What a type that clients name is called on the wire.
pub fn sent_type(named: &str) -> &str {
    let (shown, sent) = OPENED;
    if named == shown { sent } else { named }
}

/// Types of what the link itself says, as clients see them.
const OF_THE_LINK: [&str; 5] = [OPENED.0, "snapshot_page", "snapshot_end", "ready", "outcome_repeated"];

/// Whether there are events of this type.
pub fn is_type(named: &str) -> bool {
    Event::is_fact(named) || OF_THE_LINK.contains(&named)
}

/// What a type is called where a store's own words have no place: an entry that was not understood may say anything.
pub fn name_of(shown: &str) -> &str {
    if is_type(shown) { shown } else { "unknown" }
}

/// Which events somebody follows; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub store: Option<String>,
    pub product: Option<String>,
    /// As clients name it.
    pub kind: Option<String>,
    pub reference: Option<String>,
    pub actor: Option<String>,
    /// Recorded at this time or later.
    pub since: Option<Millis>,
    /// Recorded before this time.
    pub until: Option<Millis>,
}

/// Something that happened in a store
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event, example = json!({
    "eventId": "store-1:1769860800000-17", "storeId": "store-1", "position": "store-1:1769860800000-17",
    "chainSeq": 4711, "type": "sold", "productId": "coffee", "delta": -1, "quantity": 23, "reserved": 2,
    "allotted": 0, "version": 5, "cause": "store", "reason": null, "reference": "receipt 20260131-017",
    "actor": "till-2", "operationId": "0197a1b2-0000-7000-8000-000000000003",
    "occurredAt": "2026-01-31T12:00:00.000Z", "recordedAt": "2026-01-31T12:00:00.004Z",
    "receivedAt": "2026-01-31T12:00:00.020Z", "traceparent": null,
}))]
pub struct EventView {
    event_id: String,
    store_id: String,
    position: String,
    /// Its place in the chain: what `after` takes.
    chain_seq: i64,
    r#type: String,
    /// `null`: it is about no product. Of several the one that was asked for, else the first.
    product_id: Option<String>,
    /// By so many units more, or fewer.
    delta: i64,
    operation_id: String,
    #[schema(value_type = schema::Time)]
    received_at: Millis,
    /// Absent of what is about no product.
    #[serde(flatten)]
    fact: Option<FactView>,
}

/// What only entries about a product say.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FactView {
    #[schema(value_type = schema::Time)]
    recorded_at: Millis,
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

impl EventView {
    /// Its place in the chain.
    pub fn chain_seq(&self) -> i64 {
        self.chain_seq
    }

    pub fn id(&self) -> &str {
        &self.event_id
    }

    pub fn store(&self) -> &str {
        &self.store_id
    }

    /// Its type as clients see it.
    pub fn kind(&self) -> &str {
        &self.r#type
    }

    /// The same where a store's own words have no place: a type that is none here is `unknown`.
    pub fn name(&self) -> &str {
        name_of(&self.r#type)
    }

    /// What says no time of its own counts as recorded when it was received.
    pub fn recorded_at(&self) -> Millis {
        self.fact.as_ref().map_or(self.received_at, |fact| fact.recorded_at)
    }

    /// Whether somebody wants it.
    pub fn is(&self, wanted: &Wanted) -> bool {
        let fact = self.fact.as_ref();
        let is = |wanted: &Option<String>, said: Option<&str>| wanted.is_none() || wanted.as_deref() == said;
        is(&wanted.store, Some(&self.store_id))
            && wanted.product.as_deref().is_none_or(|product| self.is_about(product))
            && is(&wanted.kind, Some(&self.r#type))
            && is(&wanted.reference, fact.and_then(|fact| fact.reference.as_deref()))
            && is(&wanted.actor, fact.and_then(|fact| fact.actor.as_deref()))
            && wanted.since.is_none_or(|since| self.recorded_at() >= since)
            && wanted.until.is_none_or(|until| self.recorded_at() < until)
    }

    fn is_about(&self, product: &str) -> bool {
        self.product_id.as_deref() == Some(product) || self.item_of(product).is_some()
    }

    fn item_of(&self, product: &str) -> Option<&EventItem> {
        self.fact.iter().flat_map(|fact| &fact.items).find(|item| item.product() == product)
    }

    /// As whoever asks for a product sees it, if that is not how everybody does: with the figures of that one.
    pub fn as_of(&self, product: &str) -> Option<Self> {
        let item = self.item_of(product).filter(|_| self.product_id.as_deref() != Some(product))?;
        let fact = self.fact.clone().map(|fact| FactView { item: Some(item.units().clone()), ..fact });
        Some(Self { product_id: Some(product.to_owned()), delta: item.delta(), fact, ..self.clone() })
    }
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
        Self {
            item: fact.what.item_of(product).map(EventUnits::from),
            items: EventItem::several(&fact.what),
            cause: if fact.is_asked_by_central() { "command" } else { "store" },
            reason: fact.what.reason(),
            reference: fact.about.reference,
            actor: fact.about.actor,
            occurred_at: fact.about.occurred_at.unwrap_or(fact.recorded_at),
            recorded_at: fact.recorded_at,
            traceparent: fact.about.traceparent,
            purchase_id: fact.what.purchase().map(|purchase| purchase.purchase_id),
            lines: fact.what.purchase().map(|purchase| purchase.lines.clone()),
            reservation_id: fact.what.reservation_id(),
            transfer_id: fact.what.transfer_id(),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::domain::reservation::{Reservation, State};
    use protocol::domain::{Item, Line, Quantity};
    use protocol::link::EntryId;
    use protocol::wire::{Happened, ItemAfter, ReservationStep};
    use serde_json::json;

    use super::*;
    use crate::testing::{NOW, held, product};

    fn confirmed() -> EventView {
        let line = |name: &str| Line { product_id: product(name), quantity: Quantity::ONE };
        let lines = Lines::new([line("ale"), line("tea")]).expect("are lines");
        let state = State::Confirmed { confirmed_lines: Lines::one(product("tea"), Quantity::ONE) };
        let after = |name: &str, delta| ItemAfter {
            product_id: product(name),
            delta,
            item: Item { quantity: 10 + delta, version: 3, ..Item::default() },
        };
        let what = Happened::Reservation {
            step: ReservationStep::Confirmed,
            reservation: Reservation { lines, state, ..held().0 },
            items: vec![after("ale", 0), after("tea", -1)],
        };
        let event = Event::Fact(Fact::new(what, NOW));
        EventView::from(Recorded {
            chain_seq: 1,
            store: "s1".into(),
            at: EntryId::default(),
            kind: event.kind().into(),
            operation: "o".into(),
            product: Some("ale".into()),
            delta: 0,
            received_at: NOW,
            body: event.encode(),
        })
    }

    #[test]
    fn what_is_about_several_products_tells_of_each_and_is_shown_as_of_the_one_that_is_asked_for() {
        let (event, of) = (confirmed(), |event: &EventView| {
            let json = serde_json::to_value(event).expect("serialises");
            (json["productId"].clone(), json["delta"].clone(), json["quantity"].clone(), json["items"].clone())
        });
        let each = json!([
            {"productId": "ale", "delta": 0, "quantity": 10, "reserved": 0, "allotted": 0, "version": 3},
            {"productId": "tea", "delta": -1, "quantity": 9, "reserved": 0, "allotted": 0, "version": 3},
        ]);
        assert_eq!(of(&event), (json!("ale"), json!(0), json!(10), each.clone()));
        assert_eq!(of(&event.as_of("tea").expect("is another")), (json!("tea"), json!(-1), json!(9), each));
        assert!(event.as_of("ale").is_none() && event.as_of("milk").is_none());
        let wanted = |name: &str| Wanted { product: Some(name.into()), ..Wanted::default() };
        assert_eq!(["ale", "tea", "milk"].map(|name| event.is(&wanted(name))), [true, true, false]);
    }
}
