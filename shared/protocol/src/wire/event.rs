//! Events: what a store tells of itself, as it travels on the link.

use serde::{Deserialize, Serialize};

use super::body::{FactBody, Kind, check_item};
use super::{Fact, NotUnderstood, Outcome, encode};
use crate::domain::Item;
use crate::domain::reservation::Reservation;
use crate::domain::transfer::Transfer;
use crate::ids::{OperationId, ProductId};
use crate::link::{OPENED, Past};
use crate::number::CommandEpoch;
use crate::time::Millis;

/// An item and what it is an item of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    /// The product.
    pub product_id: ProductId,
    /// Its state.
    pub item: Item,
}

/// A part of the whole state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotPage {
    /// Items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Named>,
    /// Kept command outcomes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<Outcome>,
    /// Reservations that are open, or ended within the retention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reservation>,
    /// Transfers from or to this store: on their way to it, or shipped or received within the retention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transfers: Vec<Transfer>,
    /// Operations of the last days that are in this state and in no entry of its epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<OperationId>,
}

impl SnapshotPage {
    /// Records that it names beside items.
    pub fn records(&self) -> usize {
        self.outcomes.len() + self.reservations.len() + self.transfers.len() + self.operations.len()
    }
}

/// The whole state has been said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotEnd {
    /// Number of pages before it.
    pub pages: u64,
    /// Number of items in them.
    pub count: u64,
    /// The pages name every operation of earlier epochs that is in the state and was recorded then or later, by the clock
    /// that recorded it. `None`: nobody knows of which time that can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_since: Option<Millis>,
}

/// What happened in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something happened to items, a purchase or a command.
    Fact(Fact),
    /// A known command came again: its outcome is said again (B2).
    OutcomeRepeated(Outcome),
    /// An epoch opens (L9).
    Opened {
        /// Each earlier epoch.
        lineage: Vec<Past>,
    },
    /// A part of the whole state, after [`Event::Opened`] or in answer to a resync.
    SnapshotPage(SnapshotPage),
    /// The pages before it take effect.
    SnapshotEnd(SnapshotEnd),
    /// The store executes commands of this command epoch (L8).
    Ready {
        /// Which.
        command_epoch: CommandEpoch,
    },
}

#[derive(Serialize, Deserialize)]
struct OpenedBody {
    lineage: Vec<Past>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadyBody {
    command_epoch: CommandEpoch,
}

impl Event {
    /// Whether a fact about a product has this type.
    pub fn is_fact(kind: &str) -> bool {
        Kind::from_name(kind).is_some()
    }

    /// `t` of the entry.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Fact(fact) => fact.what.name(),
            Self::OutcomeRepeated(_) => "outcome_repeated",
            Self::Opened { .. } => OPENED,
            Self::SnapshotPage(_) => "snapshot_page",
            Self::SnapshotEnd(_) => "snapshot_end",
            Self::Ready { .. } => "ready",
        }
    }

    /// `b` of the entry.
    pub fn encode(&self) -> String {
        match self {
            Self::Fact(fact) => encode(&FactBody::from(fact)),
            Self::OutcomeRepeated(outcome) => encode(outcome),
            Self::Opened { lineage } => encode(&OpenedBody { lineage: lineage.clone() }),
            Self::SnapshotPage(page) => encode(page),
            Self::SnapshotEnd(end) => encode(end),
            Self::Ready { command_epoch } => encode(&ReadyBody { command_epoch: *command_epoch }),
        }
    }

    /// Reads an entry's type and body, and checks what the types cannot say: a view must never hold a number that
    /// the store's own tables would have refused.
    pub fn decode(kind: &str, body: &str) -> Result<Self, NotUnderstood> {
        if let Some(kind) = Kind::from_name(kind) {
            let body: FactBody = serde_json::from_str(body)?;
            return Ok(Self::Fact(body.read(kind)?));
        }
        Ok(match kind {
            OPENED => {
                let body: OpenedBody = serde_json::from_str(body)?;
                Self::Opened { lineage: body.lineage }
            }
            "outcome_repeated" => Self::OutcomeRepeated(serde_json::from_str(body)?),
            "snapshot_page" => {
                let page: SnapshotPage = serde_json::from_str(body)?;
                if page.items.len() + page.records() > PAGE_MAX {
                    return Err(NotUnderstood(format!("a page names more than {PAGE_MAX} records")));
                }
                page.items.iter().try_for_each(|named| check_item(&named.item))?;
                Self::SnapshotPage(page)
            }
            "snapshot_end" => Self::SnapshotEnd(serde_json::from_str(body)?),
            "ready" => {
                let body: ReadyBody = serde_json::from_str(body)?;
                Self::Ready { command_epoch: body.command_epoch }
            }
            other => return Err(NotUnderstood(format!("unknown event type {other:?}"))),
        })
    }
}

/// Records on one page, at most: whoever takes it in must not be held up by one entry.
const PAGE_MAX: usize = 1_000;
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::reservation::State;
    use crate::domain::{Lines, Quantity, Reason};
    use crate::ids::{PurchaseId, ReservationId};
    use crate::link::Cursor;
    use crate::time::Millis;
    use crate::wire::{Became, Happened, ItemAfter, PurchaseRef};

    fn sold(quantity: i64) -> Event {
        let item = Item { quantity, version: 2, ..Item::default() };
        let after = ItemAfter { product_id: ProductId::parse("tea").expect("valid"), delta: -1, item };
        Event::Fact(Fact::new(Happened::Sold(after), Millis(1)))
    }

    #[test]
    fn what_is_a_fact_is_named_by_its_type_and_a_correction_alone_has_a_reason() {
        assert!(Event::is_fact("sold") && !Event::is_fact(OPENED) && !Event::is_fact("teleported"));
        let item = ItemAfter::unchanged(ProductId::parse("tea").expect("valid"), Item::default());
        let adjusted = Happened::Adjusted { item: item.clone(), reason: Reason::Damage, note: None };
        assert_eq!((Happened::Sold(item).reason(), adjusted.reason()), (None, Some(Reason::Damage)));
    }

    #[test]
    fn of_several_items_the_one_that_is_asked_for_is_told_and_else_the_first() {
        let after = |name| ItemAfter::unchanged(ProductId::parse(name).expect("valid"), Item::default());
        let purchase = PurchaseRef {
            purchase_id: PurchaseId::new(uuid::Uuid::nil()),
            attempt: OperationId::parse("a").expect("valid"),
            lines: Lines::one(ProductId::parse("ale").expect("valid"), Quantity::ONE),
            from_allotment: None,
            reference: None,
            created_at: Millis(1),
            expires_at: Millis(2),
        };
        let bought = Happened::PurchaseConfirmed { purchase, items: vec![after("ale"), after("tea")] };
        let of = |product| bought.item_of(product).map(|item| item.product_id.as_str());
        assert_eq!([of(Some("tea")), of(Some("bun")), of(None)], [Some("tea"), Some("ale"), Some("ale")]);
    }

    #[test]
    fn a_page_counts_its_records_beside_the_items() {
        let outcome =
            Outcome { command: OperationId::parse("a").expect("valid"), at: Millis(1), became: Became::Resynced };
        let reservation = Reservation {
            id: ReservationId::new(uuid::Uuid::nil()),
            lines: Lines::one(ProductId::parse("tea").expect("valid"), Quantity::ONE),
            expires_at: Millis(2),
            created_at: Millis(1),
            reference: None,
            state: State::Open,
        };
        let outcomes = vec![outcome.clone(), outcome];
        let operations = vec![OperationId::parse("b").expect("valid")];
        let page = SnapshotPage { outcomes, reservations: vec![reservation], operations, ..SnapshotPage::default() };
        assert_eq!((SnapshotPage::default().records(), page.records()), (0, 4));
    }

    #[test]
    fn a_page_of_too_many_items_is_not_understood() {
        let named =
            Named { product_id: ProductId::parse("tea").expect("valid"), item: Item { version: 1, ..Item::default() } };
        let read = |items| {
            let page =
                Event::SnapshotPage(SnapshotPage { items: vec![named.clone(); items], ..SnapshotPage::default() });
            Event::decode(page.kind(), &page.encode())
        };
        assert!(read(PAGE_MAX).is_ok() && read(PAGE_MAX + 1).is_err());
    }

    #[test]
    fn an_event_reads_what_it_writes() {
        let events = [
            sold(3),
            Event::Opened {
                lineage: vec![Past {
                    end: Cursor { epoch: 4.into(), seq: 2.into(), ..Cursor::default() },
                    kept: 1.into(),
                    proven: None,
                }],
            },
            Event::SnapshotPage(SnapshotPage::default()),
            Event::SnapshotEnd(SnapshotEnd { pages: 2, count: 300, named_since: Some(Millis(5)) }),
            Event::Ready { command_epoch: 5.into() },
        ];
        for event in events {
            assert_eq!(Event::decode(event.kind(), &event.encode()), Ok(event));
        }
    }

    #[test]
    fn what_breaks_the_rules_is_not_understood() {
        assert!(Event::decode("sold", &sold(-1).encode()).is_err());
        assert!(Event::decode("purchase_confirmed", &sold(3).encode()).is_err());
        assert!(Event::decode("sold", "[]").is_err());
        assert!(Event::decode("teleported", "{}").is_err());
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(kind in "[a-z_]{1,20}", body in ".{0,200}") {
            let _ = Event::decode(&kind, &body);
            let _ = Event::decode("sold", &body);
            let _ = crate::wire::Command::decode("purchase", &body);
        }
    }
}
