//! Events: what happened in a store. Never refused; each carries the item as it is after it.

use serde::{Deserialize, Serialize};

use super::{About, NotUnderstood, PurchaseRef, encode};
use crate::domain::{Change, Item, Reason, Rejection, TOTAL_MAX};
use crate::ids::{OperationId, ProductId};
use crate::link::{OPENED, Past};
use crate::number::CommandEpoch;
use crate::time::Millis;

/// What kind of fact it is. The name is `t` on the link and `type` over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An item exists.
    ItemCreated,
    /// Name, threshold or carriage changed.
    ItemChanged,
    /// Units came in.
    Received,
    /// Units left over the till.
    Sold,
    /// Stock was corrected.
    Adjusted,
    /// Stock was counted.
    Counted,
    /// The store took the units of an online purchase.
    PurchaseConfirmed,
    /// The store could not.
    PurchaseRejected,
    /// The store heard of the purchase too late.
    PurchaseExpired,
    /// The purchase is cancelled; units that were taken are back.
    PurchaseCancelled,
    /// Staff has picked it.
    PurchasePicked,
    /// An item command or a cancel was refused.
    CommandRefused,
    /// More had left the shelf than the books knew.
    Shortage,
    /// Sellable units fell to the item's threshold.
    LowStock,
}

const KINDS: [(Kind, &str); 14] = [
    (Kind::ItemCreated, "item_created"),
    (Kind::ItemChanged, "item_changed"),
    (Kind::Received, "received"),
    (Kind::Sold, "sold"),
    (Kind::Adjusted, "adjusted"),
    (Kind::Counted, "counted"),
    (Kind::PurchaseConfirmed, "purchase_confirmed"),
    (Kind::PurchaseRejected, "purchase_rejected"),
    (Kind::PurchaseExpired, "purchase_expired"),
    (Kind::PurchaseCancelled, "purchase_cancelled"),
    (Kind::PurchasePicked, "purchase_picked"),
    (Kind::CommandRefused, "command_refused"),
    (Kind::Shortage, "shortage"),
    (Kind::LowStock, "low_stock"),
];

impl Kind {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// Reads the stable name.
    pub fn from_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    /// The kind under which a change of an item is recorded.
    pub fn of(change: &Change) -> Self {
        match change {
            Change::Created { .. } => Self::ItemCreated,
            Change::Changed { .. } => Self::ItemChanged,
            Change::Received(_) => Self::Received,
            Change::Sold(_) => Self::Sold,
            Change::Adjusted(_) => Self::Adjusted,
            Change::Counted(_) => Self::Counted,
            Change::Purchased(_) => Self::PurchaseConfirmed,
            Change::GivenBack(_) => Self::PurchaseCancelled,
            Change::ShortageFound(_) => Self::Shortage,
            Change::FellLow => Self::LowStock,
        }
    }
}

/// One thing that happened, and the item after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fact {
    /// Of which product.
    pub product_id: ProductId,
    /// Change of `quantity`.
    #[serde(default)]
    pub delta: i64,
    /// The item after it; absent if the store has no such item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
    /// By the store's clock.
    pub recorded_at: Millis,
    /// Who asked, and what for.
    #[serde(default)]
    pub about: About,
    /// The command that caused it; absent: something in the store did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<OperationId>,
    /// Reason of an adjustment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Note of an adjustment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Count list of a count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count_ref: Option<String>,
    /// The purchase it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purchase: Option<PurchaseRef>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
    /// Recorded again by a restore (L10).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
}

impl Fact {
    /// A fact about a product, with nothing else known.
    pub fn new(product_id: ProductId, recorded_at: Millis) -> Self {
        Self {
            product_id,
            delta: 0,
            item: None,
            recorded_at,
            about: About::default(),
            command: None,
            reason: None,
            note: None,
            count_ref: None,
            purchase: None,
            rejection: None,
            replayed: false,
        }
    }
}

/// What the answer to a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A product.
    Product(ProductId),
    /// None: the command is about the whole store, or nothing can be read of it.
    Nothing,
}

impl Subject {
    /// What stands in the member `productId`, which an answer always has. A store may have a product of that name.
    pub fn product_id(&self) -> ProductId {
        match self {
            Self::Product(product) => product.clone(),
            Self::Nothing => ProductId::parse("unknown").expect("a valid id"),
        }
    }
}

/// The answer to a command, kept by its id for the retention: a command seen again gets it again and has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The command.
    pub command: OperationId,
    /// What became of it.
    pub kind: Kind,
    /// When, by the store's clock.
    pub at: Millis,
    /// Of which product.
    pub product_id: ProductId,
    /// The purchase it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purchase: Option<PurchaseRef>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
    /// The item after it, as it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
    /// For a confirmed purchase: picked by staff.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub picked: bool,
}

impl Outcome {
    /// The answer to a resync: the whole state was sent again. It is written as a change of nothing.
    pub fn of_resync(command: OperationId, at: Millis) -> Self {
        Self {
            command,
            kind: Kind::ItemChanged,
            at,
            product_id: Subject::Nothing.product_id(),
            purchase: None,
            rejection: None,
            item: None,
            picked: false,
        }
    }
}

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
}

/// The whole state has been said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotEnd {
    /// Number of pages before it.
    pub pages: u64,
    /// Number of items in them.
    pub count: u64,
}

/// What happened in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something happened to an item, a purchase or a command.
    Fact(Kind, Fact),
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
    /// `t` of the entry.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Fact(kind, _) => kind.as_str(),
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
            Self::Fact(_, fact) => encode(fact),
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
            let fact: Fact = serde_json::from_str(body)?;
            check_fact(kind, &fact)?;
            return Ok(Self::Fact(kind, fact));
        }
        Ok(match kind {
            OPENED => {
                let body: OpenedBody = serde_json::from_str(body)?;
                Self::Opened { lineage: body.lineage }
            }
            "outcome_repeated" => {
                let outcome: Outcome = serde_json::from_str(body)?;
                check_outcome(&outcome)?;
                Self::OutcomeRepeated(outcome)
            }
            "snapshot_page" => {
                let page: SnapshotPage = serde_json::from_str(body)?;
                if page.items.len() + page.outcomes.len() > PAGE_MAX {
                    return Err(NotUnderstood(format!("a page names more than {PAGE_MAX} items and outcomes")));
                }
                page.items.iter().try_for_each(|named| check_item(&named.item))?;
                page.outcomes.iter().try_for_each(check_outcome)?;
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

/// Items and outcomes on one page, at most: whoever takes it in must not be held up by one entry.
const PAGE_MAX: usize = 1_000;
/// A cancelled purchase's units come back in any case, so a quantity may exceed the limit by one purchase.
const QUANTITY_LIMIT: i64 = 2 * TOTAL_MAX;

fn check_item(item: &Item) -> Result<(), NotUnderstood> {
    let whole = (0..=QUANTITY_LIMIT).contains(&item.quantity)
        && item.reserved >= 0
        && item.allotted >= 0
        && item.reserved <= item.quantity
        && item.allotted <= item.quantity - item.reserved
        && item.version >= 1
        && item.low_at.is_none_or(|at| (0..=TOTAL_MAX).contains(&at));
    if whole { Ok(()) } else { Err(NotUnderstood("an item's figures are out of range".into())) }
}

fn check_fact(kind: Kind, fact: &Fact) -> Result<(), NotUnderstood> {
    fact.item.as_ref().map_or(Ok(()), check_item)?;
    let about_purchase = matches!(
        kind,
        Kind::PurchaseConfirmed
            | Kind::PurchaseRejected
            | Kind::PurchaseExpired
            | Kind::PurchaseCancelled
            | Kind::PurchasePicked
    );
    if about_purchase && fact.purchase.is_none() {
        return Err(NotUnderstood("a purchase's event names no purchase".into()));
    }
    fact.purchase.as_ref().map_or(Ok(()), PurchaseRef::check)
}

fn check_outcome(outcome: &Outcome) -> Result<(), NotUnderstood> {
    outcome.item.as_ref().map_or(Ok(()), check_item)?;
    outcome.purchase.as_ref().map_or(Ok(()), PurchaseRef::check)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::Cursor;

    fn fact() -> Fact {
        let mut fact = Fact::new(ProductId::parse("tea").expect("valid"), Millis(1));
        fact.item = Some(Item { quantity: 3, version: 2, ..Item::default() });
        fact.delta = -1;
        fact
    }

    #[test]
    fn an_event_reads_what_it_writes() {
        let events = [
            Event::Fact(Kind::Sold, fact()),
            Event::Opened {
                lineage: vec![Past {
                    end: Cursor { epoch: 4.into(), seq: 2.into(), ..Cursor::default() },
                    kept: 1.into(),
                    proven: None,
                }],
            },
            Event::SnapshotPage(SnapshotPage::default()),
            Event::SnapshotEnd(SnapshotEnd { pages: 2, count: 300 }),
            Event::Ready { command_epoch: 5.into() },
        ];
        for event in events {
            assert_eq!(Event::decode(event.kind(), &event.encode()), Ok(event));
        }
    }

    #[test]
    fn what_earlier_versions_wrote_about_nothing_is_what_is_written_now() {
        let resync = r#"{"command":"c","kind":"item_changed","at":AT,"productId":"unknown"}"#;
        let refused = r#"{"productId":"unknown","delta":0,"recordedAt":AT,"about":{},"command":"c"}"#;
        let at = serde_json::to_string(&Millis(5)).expect("serialises");
        let (resync, refused) = (resync.replace("AT", &at), refused.replace("AT", &at));
        let command = OperationId::parse("c").expect("valid");
        let outcome = Outcome::of_resync(command.clone(), Millis(5));
        assert_eq!(Event::OutcomeRepeated(outcome.clone()).encode(), resync);
        assert_eq!(Event::decode("outcome_repeated", &resync), Ok(Event::OutcomeRepeated(outcome)));
        let fact = Fact { command: Some(command), ..Fact::new(Subject::Nothing.product_id(), Millis(5)) };
        assert_eq!(Event::Fact(Kind::CommandRefused, fact.clone()).encode(), refused);
        assert_eq!(Event::decode("command_refused", &refused), Ok(Event::Fact(Kind::CommandRefused, fact)));
    }

    #[test]
    fn every_kind_has_one_name() {
        for (kind, name) in KINDS {
            assert_eq!((kind.as_str(), Kind::from_name(name)), (name, Some(kind)));
            assert_eq!(serde_json::to_value(kind).expect("text"), name);
        }
    }

    #[test]
    fn what_breaks_the_rules_is_not_understood() {
        let negative = Fact { item: Some(Item { quantity: -1, version: 1, ..Item::default() }), ..fact() };
        assert!(Event::decode("sold", &Event::Fact(Kind::Sold, negative).encode()).is_err());
        assert!(Event::decode("purchase_confirmed", &Event::Fact(Kind::Sold, fact()).encode()).is_err());
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
