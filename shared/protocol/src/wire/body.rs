//! The bodies of facts and outcomes as they have been written since version 0.1.0: one flat object for all kinds, each of
//! which uses some of its members. Nothing else knows of them.
//!
//! Two things are told here in a roundabout way, which earlier versions read and wrote, and which hashes vouch for:
//!
//! * `productId` is always there. Of what is about no product it is [`NO_PRODUCT`], which a store may have a product of.
//! * A resync's outcome has no kind of its own: it is an `item_changed` of nothing.

use serde::{Deserialize, Serialize};

use super::{
    About, Became, Fact, Happened, ItemAfter, NotUnderstood, Outcome, PurchaseRef, ReservationStep, Results, Subject,
};
use crate::domain::reservation::{Reservation, State};
use crate::domain::transfer::{self, Transfer};
use crate::domain::{Action, Item, Line, Lines, Reason, Rejection, TOTAL_MAX};
use crate::ids::{OperationId, ProductId, ReservationId, TransferId};
use crate::time::Millis;

const NO_PRODUCT: &str = "unknown";

fn is_zero(units: &i64) -> bool {
    *units == 0
}

fn no_product() -> ProductId {
    ProductId::parse(NO_PRODUCT).expect("a valid id")
}

/// The name of what happened, `t` of its entry, or of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    ItemCreated,
    ItemChanged,
    Received,
    Sold,
    Adjusted,
    Counted,
    AllotmentChanged,
    PurchaseConfirmed,
    PurchaseRejected,
    PurchaseExpired,
    PurchaseCancelled,
    PurchasePicked,
    CommandRefused,
    Shortage,
    LowStock,
    Reserved,
    ReservationExtended,
    ReservationConfirmed,
    ReservationCancelled,
    ReservationExpired,
    TransferShipped,
    TransferReceived,
}

const KINDS: [(Kind, &str); 22] = [
    (Kind::ItemCreated, "item_created"),
    (Kind::ItemChanged, "item_changed"),
    (Kind::Received, "received"),
    (Kind::Sold, "sold"),
    (Kind::Adjusted, "adjusted"),
    (Kind::Counted, "counted"),
    (Kind::AllotmentChanged, "allotment_changed"),
    (Kind::PurchaseConfirmed, "purchase_confirmed"),
    (Kind::PurchaseRejected, "purchase_rejected"),
    (Kind::PurchaseExpired, "purchase_expired"),
    (Kind::PurchaseCancelled, "purchase_cancelled"),
    (Kind::PurchasePicked, "purchase_picked"),
    (Kind::CommandRefused, "command_refused"),
    (Kind::Shortage, "shortage"),
    (Kind::LowStock, "low_stock"),
    (Kind::Reserved, "reserved"),
    (Kind::ReservationExtended, "reservation_extended"),
    (Kind::ReservationConfirmed, "reservation_confirmed"),
    (Kind::ReservationCancelled, "reservation_cancelled"),
    (Kind::ReservationExpired, "reservation_expired"),
    (Kind::TransferShipped, "transfer_shipped"),
    (Kind::TransferReceived, "transfer_received"),
];

impl Kind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    fn of(what: &Happened) -> Self {
        match what {
            Happened::ItemCreated(_) => Self::ItemCreated,
            Happened::ItemChanged(_) => Self::ItemChanged,
            Happened::Received(_) => Self::Received,
            Happened::Sold(_) => Self::Sold,
            Happened::Adjusted { .. } => Self::Adjusted,
            Happened::Counted { .. } => Self::Counted,
            Happened::AllotmentChanged { .. } => Self::AllotmentChanged,
            Happened::PurchaseConfirmed { .. } => Self::PurchaseConfirmed,
            Happened::PurchaseRejected { .. } => Self::PurchaseRejected,
            Happened::PurchaseExpired { .. } => Self::PurchaseExpired,
            Happened::PurchaseCancelled { .. } => Self::PurchaseCancelled,
            Happened::PurchasePicked { .. } => Self::PurchasePicked,
            Happened::CommandRefused { .. } => Self::CommandRefused,
            Happened::Shortage { .. } => Self::Shortage,
            Happened::LowStock(_) => Self::LowStock,
            Happened::Reservation { step, .. } => Self::of_step(*step),
            Happened::Transfer { transfer, .. } => Self::of_transfer(&transfer.state),
        }
    }
}

impl Kind {
    fn of_step(step: ReservationStep) -> Self {
        match step {
            ReservationStep::Reserved => Self::Reserved,
            ReservationStep::Extended => Self::ReservationExtended,
            ReservationStep::Confirmed => Self::ReservationConfirmed,
            ReservationStep::Cancelled => Self::ReservationCancelled,
            ReservationStep::Expired => Self::ReservationExpired,
        }
    }

    /// What it is called that says so of a transfer.
    fn of_transfer(state: &transfer::State) -> Self {
        match state {
            transfer::State::Shipped => Self::TransferShipped,
            transfer::State::Received { .. } => Self::TransferReceived,
        }
    }

    /// What an outcome is called that says so of a reservation.
    fn of_state(state: &State) -> Self {
        match state {
            State::Open => Self::Reserved,
            State::Confirmed { .. } => Self::ReservationConfirmed,
            State::Cancelled => Self::ReservationCancelled,
            State::Expired => Self::ReservationExpired,
        }
    }
}

impl Happened {
    /// The stable name: `t` on the link, `type` over HTTP.
    pub fn name(&self) -> &'static str {
        Kind::of(self).name()
    }
}

impl Fact {
    /// `productId` of its body, which is also what an entry is filed under.
    pub fn filed_under(&self) -> ProductId {
        self.what.product().cloned().unwrap_or_else(no_product)
    }

    /// `delta` of its body: by how much it has moved stock.
    pub fn filed_delta(&self) -> i64 {
        self.what.items().first().map_or(0, |after| after.delta)
    }
}

/// Body of a fact.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FactBody {
    product_id: ProductId,
    #[serde(default)]
    delta: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item: Option<Item>,
    recorded_at: Millis,
    #[serde(default)]
    about: About,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<OperationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count_ref: Option<String>,
    /// By so many units what is set aside has changed.
    #[serde(default, skip_serializing_if = "is_zero")]
    allotted_by: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purchase: Option<PurchaseRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rejection: Option<Rejection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation: Option<Reservation>,
    /// What a refusal or a shortage is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation_id: Option<ReservationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transfer: Option<Transfer>,
    /// What a refusal is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transfer_id: Option<TransferId>,
    /// Items behind the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more: Vec<ItemAfter>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
}

impl From<&Fact> for FactBody {
    fn from(fact: &Fact) -> Self {
        let mut body = Self {
            product_id: fact.filed_under(),
            delta: fact.filed_delta(),
            item: fact.what.items().first().map(|after| after.item.clone()),
            recorded_at: fact.recorded_at,
            about: fact.about.clone(),
            command: fact.command.clone(),
            reason: None,
            note: None,
            count_ref: None,
            allotted_by: 0,
            purchase: fact.what.purchase().cloned(),
            rejection: None,
            reservation: None,
            reservation_id: None,
            transfer: fact.what.transfer().cloned(),
            transfer_id: None,
            more: fact.what.items().iter().skip(1).cloned().collect(),
            replayed: fact.replayed,
        };
        match &fact.what {
            Happened::Adjusted { reason, note, .. } => (body.reason, body.note) = (Some(*reason), note.clone()),
            Happened::Counted { count_ref, .. } => body.count_ref.clone_from(count_ref),
            Happened::AllotmentChanged { by, .. } => body.allotted_by = *by,
            Happened::PurchaseRejected { rejection, .. } => body.rejection = Some(rejection.clone()),
            Happened::CommandRefused { subject, rejection, .. } => {
                body.rejection = Some(rejection.clone());
                (body.reservation_id, body.transfer_id) = (subject.reservation(), subject.transfer());
            }
            Happened::Reservation { reservation, .. } => body.reservation = Some(reservation.clone()),
            Happened::Shortage { reservation, .. } => body.reservation_id = *reservation,
            Happened::PurchaseExpired { .. } => body.rejection = Some(Rejection::PurchaseExpired),
            Happened::ItemCreated(_)
            | Happened::ItemChanged(_)
            | Happened::Received(_)
            | Happened::Sold(_)
            | Happened::PurchaseConfirmed { .. }
            | Happened::PurchaseCancelled { .. }
            | Happened::PurchasePicked { .. }
            | Happened::Transfer { .. }
            | Happened::LowStock(_) => {}
        }
        body
    }
}

impl FactBody {
    /// What it says, if it says all that a fact of this kind has to.
    pub(super) fn read(self, kind: Kind) -> Result<Fact, NotUnderstood> {
        check(&self.product_id, self.item.as_ref(), self.purchase.as_ref())?;
        let (product_id, delta) = (&self.product_id, self.delta);
        let after = self.item.map(|item| ItemAfter { product_id: product_id.clone(), delta, item });
        let purchase = self.purchase;
        let what = match kind {
            Kind::ItemCreated => Happened::ItemCreated(needed(after, "item")?),
            Kind::ItemChanged => Happened::ItemChanged(needed(after, "item")?),
            Kind::Received => Happened::Received(needed(after, "item")?),
            Kind::Sold => Happened::Sold(needed(after, "item")?),
            Kind::Adjusted => Happened::Adjusted {
                item: needed(after, "item")?,
                reason: needed(self.reason, "reason")?,
                note: self.note,
            },
            Kind::Counted => Happened::Counted { item: needed(after, "item")?, count_ref: self.count_ref },
            Kind::AllotmentChanged => Happened::AllotmentChanged { item: needed(after, "item")?, by: self.allotted_by },
            Kind::PurchaseConfirmed => {
                let (purchase, items) = of_purchase(purchase, after, self.more)?;
                let has = |line: &Line| items.iter().any(|after| after.product_id == line.product_id);
                if !purchase.lines.iter().all(has) {
                    return Err(NotUnderstood("an item is missing of which units were taken".into()));
                }
                Happened::PurchaseConfirmed { purchase, items }
            }
            Kind::PurchaseRejected => {
                let (purchase, items) = of_purchase(purchase, after, self.more)?;
                Happened::PurchaseRejected { purchase, rejection: needed(self.rejection, "rejection")?, items }
            }
            Kind::PurchaseExpired => {
                let (purchase, items) = of_purchase(purchase, after, self.more)?;
                Happened::PurchaseExpired { purchase, items }
            }
            Kind::PurchaseCancelled => {
                let (purchase, items) = of_purchase(purchase, after, self.more)?;
                Happened::PurchaseCancelled { purchase, items }
            }
            Kind::PurchasePicked => {
                let (purchase, items) = of_purchase(purchase, after, self.more)?;
                Happened::PurchasePicked { purchase, items }
            }
            Kind::CommandRefused => {
                let has_item = after.is_some();
                let items = match &purchase {
                    Some(purchase) => of_lines(&purchase.lines, after, self.more)?,
                    None => after.into_iter().collect(),
                };
                Happened::CommandRefused {
                    subject: subject(product_id, purchase, (self.reservation_id, self.transfer_id), has_item),
                    rejection: needed(self.rejection, "rejection")?,
                    items,
                }
            }
            Kind::Shortage => {
                Happened::Shortage { item: needed(after, "item")?, reservation: self.reservation_id, purchase }
            }
            Kind::LowStock => Happened::LowStock(needed(after, "item")?),
            Kind::Reserved => of_reservation(ReservationStep::Reserved, self.reservation, after, self.more)?,
            Kind::ReservationExtended => of_reservation(ReservationStep::Extended, self.reservation, after, self.more)?,
            Kind::ReservationConfirmed => {
                of_reservation(ReservationStep::Confirmed, self.reservation, after, self.more)?
            }
            Kind::ReservationCancelled => {
                of_reservation(ReservationStep::Cancelled, self.reservation, after, self.more)?
            }
            Kind::ReservationExpired => of_reservation(ReservationStep::Expired, self.reservation, after, self.more)?,
            Kind::TransferShipped | Kind::TransferReceived => of_transfer(kind, self.transfer, after, self.more)?,
        };
        let Self { recorded_at, about, command, replayed, .. } = self;
        Ok(Fact { what, recorded_at, about, command, replayed })
    }
}

/// What an outcome is called: after the fact that says the same, or by a name of its own.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum OutcomeKind {
    Fact(Kind),
    Own(OwnKind),
}

/// Outcomes that are no facts.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OwnKind {
    Batch,
}

/// Body of an outcome, on a page of a state and in the databases.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OutcomeBody {
    command: OperationId,
    kind: OutcomeKind,
    at: Millis,
    product_id: ProductId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purchase: Option<PurchaseRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rejection: Option<Rejection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item: Option<Item>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation: Option<Reservation>,
    /// What a refusal is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation_id: Option<ReservationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transfer: Option<Transfer>,
    /// What a refusal is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transfer_id: Option<TransferId>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    picked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    results: Option<Results>,
}

impl From<Outcome> for OutcomeBody {
    fn from(Outcome { command, at, became }: Outcome) -> Self {
        let rejection = became.rejection().cloned();
        let of_purchase = |kind, purchase: PurchaseRef, item| {
            (OutcomeKind::Fact(kind), purchase.lines.first().product_id.clone(), Some(purchase), item)
        };
        let picked = matches!(became, Became::Confirmed { picked: true, .. });
        let (mut reservation, mut reservation_id, mut results) = (None, None, None);
        let (mut transfer, mut transfer_id) = (None, None);
        let (kind, product_id, purchase, item) = match became {
            Became::Done { action, product_id, item } => {
                (OutcomeKind::Fact(kind_of(action)), product_id, None, Some(item))
            }
            Became::Confirmed { purchase, item, .. } => of_purchase(Kind::PurchaseConfirmed, purchase, item),
            Became::Rejected { purchase, item, .. } => of_purchase(Kind::PurchaseRejected, purchase, item),
            Became::Expired { purchase, item } => of_purchase(Kind::PurchaseExpired, purchase, item),
            Became::Cancelled { purchase, item } => of_purchase(Kind::PurchaseCancelled, purchase, item),
            Became::Refused { subject, item, .. } => {
                let product_id = subject.product().cloned().unwrap_or_else(no_product);
                (reservation_id, transfer_id) = (subject.reservation(), subject.transfer());
                (OutcomeKind::Fact(Kind::CommandRefused), product_id, subject.purchase().cloned(), item)
            }
            Became::Resynced => (OutcomeKind::Fact(Kind::ItemChanged), no_product(), None, None),
            Became::Reservation(told) => {
                let kind = OutcomeKind::Fact(Kind::of_state(&told.state));
                reservation = Some(told);
                (kind, no_product(), None, None)
            }
            Became::Transfer(told) => {
                let kind = OutcomeKind::Fact(Kind::of_transfer(&told.state));
                transfer = Some(told);
                (kind, no_product(), None, None)
            }
            Became::Batch(told) => {
                results = Some(told);
                (OutcomeKind::Own(OwnKind::Batch), no_product(), None, None)
            }
        };
        Self {
            command,
            kind,
            at,
            product_id,
            purchase,
            rejection,
            item,
            reservation,
            reservation_id,
            transfer,
            transfer_id,
            picked,
            results,
        }
    }
}

fn kind_of(action: Action) -> Kind {
    match action {
        Action::Create => Kind::ItemCreated,
        Action::Sell => Kind::Sold,
        Action::Receive => Kind::Received,
        Action::Adjust => Kind::Adjusted,
        Action::Count => Kind::Counted,
        Action::Change => Kind::ItemChanged,
        Action::Allot => Kind::AllotmentChanged,
    }
}

impl TryFrom<OutcomeBody> for Outcome {
    type Error = NotUnderstood;

    fn try_from(body: OutcomeBody) -> Result<Self, NotUnderstood> {
        let OutcomeBody {
            command,
            kind,
            at,
            product_id,
            purchase,
            rejection,
            item,
            reservation,
            reservation_id,
            transfer,
            transfer_id,
            picked,
            results,
        } = body;
        check(&product_id, item.as_ref(), purchase.as_ref())?;
        let kind = match kind {
            OutcomeKind::Fact(kind) => kind,
            OutcomeKind::Own(OwnKind::Batch) => {
                let results = needed(results, "results")?;
                results.check()?;
                return Ok(Self { command, at, became: Became::Batch(results) });
            }
        };
        let is_resync = item.is_none() && product_id.as_str() == NO_PRODUCT;
        let done = |action, product_id, item| {
            Ok::<_, NotUnderstood>(Became::Done { action, product_id, item: needed(item, "item")? })
        };
        let became = match kind {
            Kind::ItemCreated => done(Action::Create, product_id, item)?,
            Kind::ItemChanged if is_resync => Became::Resynced,
            Kind::ItemChanged => done(Action::Change, product_id, item)?,
            Kind::Received => done(Action::Receive, product_id, item)?,
            Kind::Sold => done(Action::Sell, product_id, item)?,
            Kind::Adjusted => done(Action::Adjust, product_id, item)?,
            Kind::Counted => done(Action::Count, product_id, item)?,
            Kind::AllotmentChanged => done(Action::Allot, product_id, item)?,
            Kind::PurchaseConfirmed => {
                let purchase = needed(purchase, "purchase")?;
                let item = if purchase.lines.only().is_some() { Some(needed(item, "item")?) } else { None };
                Became::Confirmed { purchase, item, picked }
            }
            Kind::PurchaseRejected => Became::Rejected {
                purchase: needed(purchase, "purchase")?,
                rejection: needed(rejection, "rejection")?,
                item,
            },
            Kind::PurchaseExpired => Became::Expired { purchase: needed(purchase, "purchase")?, item },
            // Central 0.1.0 wrote this of a purchase's request that ended because its store was retired.
            Kind::PurchaseCancelled if rejection == Some(Rejection::StoreRetired) => Became::Refused {
                subject: subject(&product_id, purchase, (None, None), item.is_some()),
                rejection: Rejection::StoreRetired,
                item,
            },
            Kind::PurchaseCancelled => Became::Cancelled { purchase: needed(purchase, "purchase")?, item },
            Kind::CommandRefused => Became::Refused {
                subject: subject(&product_id, purchase, (reservation_id, transfer_id), item.is_some()),
                rejection: needed(rejection, "rejection")?,
                item,
            },
            Kind::Reserved | Kind::ReservationConfirmed | Kind::ReservationCancelled | Kind::ReservationExpired => {
                Became::Reservation(needed(reservation, "reservation")?)
            }
            Kind::TransferShipped | Kind::TransferReceived => {
                Became::Transfer(needed(transfer, "transfer").and_then(|transfer| is_as(kind, transfer))?)
            }
            Kind::PurchasePicked | Kind::Shortage | Kind::LowStock | Kind::ReservationExtended => {
                return Err(NotUnderstood(format!("{} is no outcome of a command", kind.name())));
            }
        };
        Ok(Self { command, at, became })
    }
}

/// What a refusal is about. One of a product by the name of [`NO_PRODUCT`], which the store does not have, reads as one of
/// the store; it is written alike.
fn subject(
    product_id: &ProductId,
    purchase: Option<PurchaseRef>,
    (reservation, transfer): (Option<ReservationId>, Option<TransferId>),
    has_item: bool,
) -> Subject {
    if let Some(reservation) = reservation {
        return Subject::Reservation(reservation);
    }
    if let Some(transfer) = transfer {
        return Subject::Transfer(transfer);
    }
    match purchase {
        Some(purchase) => Subject::Purchase(purchase),
        None if product_id.as_str() == NO_PRODUCT && !has_item => Subject::Store,
        None => Subject::Product(product_id.clone()),
    }
}

fn of_reservation(
    step: ReservationStep,
    reservation: Option<Reservation>,
    first: Option<ItemAfter>,
    more: Vec<ItemAfter>,
) -> Result<Happened, NotUnderstood> {
    let reservation = needed(reservation, "reservation")?;
    if !step.leads_to(&reservation.state) {
        return Err(NotUnderstood("the reservation's status is not what its event leads to".into()));
    }
    let items = of_lines(&reservation.lines, first, more)?;
    Ok(Happened::Reservation { step, reservation, items })
}

fn of_purchase(
    purchase: Option<PurchaseRef>,
    first: Option<ItemAfter>,
    more: Vec<ItemAfter>,
) -> Result<(PurchaseRef, Vec<ItemAfter>), NotUnderstood> {
    let purchase = needed(purchase, "purchase")?;
    let items = of_lines(&purchase.lines, first, more)?;
    Ok((purchase, items))
}

/// The items of what is asked for together.
fn of_lines(lines: &Lines, first: Option<ItemAfter>, more: Vec<ItemAfter>) -> Result<Vec<ItemAfter>, NotUnderstood> {
    let items: Vec<ItemAfter> = first.into_iter().chain(more).collect();
    if items.iter().any(|after| lines.quantity_of(&after.product_id) == 0) {
        return Err(NotUnderstood("an item of which there is no line".into()));
    }
    items.iter().try_for_each(|after| check_item(&after.item))?;
    Ok(items)
}

fn is_as(kind: Kind, transfer: Transfer) -> Result<Transfer, NotUnderstood> {
    if Kind::of_transfer(&transfer.state) == kind {
        Ok(transfer)
    } else {
        Err(NotUnderstood("the transfer's status is not what its event leads to".into()))
    }
}

fn of_transfer(
    kind: Kind,
    transfer: Option<Transfer>,
    first: Option<ItemAfter>,
    more: Vec<ItemAfter>,
) -> Result<Happened, NotUnderstood> {
    let transfer = is_as(kind, needed(transfer, "transfer")?)?;
    let items = of_lines(&transfer.lines, first, more)?;
    Ok(Happened::Transfer { transfer, items })
}

fn needed<T>(member: Option<T>, name: &str) -> Result<T, NotUnderstood> {
    member.ok_or_else(|| NotUnderstood(format!("{name} is missing")))
}

/// A cancelled purchase's units come back in any case, so a quantity may exceed the limit by one purchase.
const QUANTITY_LIMIT: i64 = 2 * TOTAL_MAX;

/// What the types cannot say: a view must never hold a number that the store's own tables would have refused.
pub(super) fn check_item(item: &Item) -> Result<(), NotUnderstood> {
    let whole = (0..=QUANTITY_LIMIT).contains(&item.quantity)
        && item.reserved >= 0
        && item.allotted >= 0
        && item.reserved <= item.quantity
        && item.allotted <= item.quantity - item.reserved
        && item.version >= 1
        && item.low_at.is_none_or(|at| (0..=TOTAL_MAX).contains(&at));
    if whole { Ok(()) } else { Err(NotUnderstood("an item's figures are out of range".into())) }
}

fn check(product: &ProductId, item: Option<&Item>, purchase: Option<&PurchaseRef>) -> Result<(), NotUnderstood> {
    item.map_or(Ok(()), check_item)?;
    if purchase.is_some_and(|purchase| purchase.lines.quantity_of(product) == 0) {
        return Err(NotUnderstood("the purchase is of another product".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Quantity;
    use crate::wire::Event;

    const ITEM: &str = r#""item":{"name":"Tea","quantity":3,"reserved":0,"allotted":0,"discontinued":false,"low":false,"version":2,"updatedAt":"1970-01-01T00:00:00.005Z"}"#;
    const PURCHASE: &str = r#""purchase":{"purchaseId":"00000000-0000-0000-0000-000000000007","attempt":"a:1","productId":"tea","quantity":2,"createdAt":"1970-01-01T00:00:00.005Z","expiresAt":"1970-01-01T00:00:00.005Z"}"#;
    const AT: &str = r#""1970-01-01T00:00:00.005Z""#;

    /// With what stands for an item, a purchase and a time in its place.
    fn written(text: &str) -> String {
        text.replace("ITEM", ITEM).replace("PURCHASE", PURCHASE).replace("AT", AT)
    }

    #[test]
    fn what_version_0_1_0_wrote_of_facts_is_what_is_written_now() {
        let insufficient = r#""rejection":{"code":"insufficient_stock","requested":9,"quantity":3,"reserved":0,"allotted":0,"available":3}"#;
        let simple = r#"{"productId":"tea","delta":-1,ITEM,"recordedAt":AT,"about":{"reference":"r","actor":"a"}}"#;
        let adjusted =
            r#"{"productId":"tea","delta":-1,ITEM,"recordedAt":AT,"about":{},"reason":"damage","note":"wet"}"#;
        let counted = r#"{"productId":"tea","delta":0,ITEM,"recordedAt":AT,"about":{},"command":"c","countRef":"w7","replayed":true}"#;
        let taken = r#"{"productId":"tea","delta":-2,ITEM,"recordedAt":AT,"about":{},"command":"a:1",PURCHASE}"#;
        let nothing_taken = r#"{"productId":"tea","delta":0,"recordedAt":AT,"about":{},"command":"c",PURCHASE}"#;
        let rejected =
            r#"{"productId":"tea","delta":0,ITEM,"recordedAt":AT,"about":{},"command":"a:1",PURCHASE,REJECTION}"#;
        let rejected = rejected.replace("REJECTION", insufficient);
        let expired = r#"{"productId":"tea","delta":0,ITEM,"recordedAt":AT,"about":{},"command":"a:1",PURCHASE,"rejection":{"code":"purchase_expired"}}"#;
        let kept = r#"{"productId":"tea","delta":0,ITEM,"recordedAt":AT,"about":{},"command":"c",PURCHASE,"rejection":{"code":"already_picked"}}"#;
        let refused = r#"{"productId":"tea","delta":0,"recordedAt":AT,"about":{},"command":"c","rejection":{"code":"unknown_product"}}"#;
        let of_nothing = r#"{"productId":"unknown","delta":0,"recordedAt":AT,"about":{},"command":"c","rejection":{"code":"unsupported_by_store","entry":"7-2"}}"#;
        for (kind, body) in [
            ("item_created", simple),
            ("item_changed", simple),
            ("received", simple),
            ("sold", simple),
            ("shortage", simple),
            ("low_stock", simple),
            ("adjusted", adjusted),
            ("counted", counted),
            ("purchase_confirmed", taken),
            ("purchase_cancelled", taken),
            ("purchase_cancelled", nothing_taken),
            ("purchase_picked", nothing_taken),
            ("purchase_rejected", &rejected),
            ("purchase_expired", expired),
            ("command_refused", kept),
            ("command_refused", refused),
            ("command_refused", of_nothing),
        ] {
            let body = written(body);
            let event = Event::decode(kind, &body).expect(&body);
            assert_eq!((event.kind(), event.encode()), (kind, body));
        }
    }

    #[test]
    fn a_shortage_may_name_the_reservation_that_goes_without() {
        let named = r#"{"productId":"tea","delta":0,ITEM,"recordedAt":AT,"about":{},"reservationId":"00000000-0000-0000-0000-000000000008"}"#;
        let event = Event::decode("shortage", &written(named)).expect("is understood");
        assert_eq!((event.kind(), event.encode()), ("shortage", written(named)));
        let Event::Fact(fact) = event else { panic!("is a fact") };
        assert_eq!(fact.what.reservation_id(), Some(ReservationId::new(uuid::Uuid::from_u128(8))));
        assert_eq!(fact.what.reservation(), None, "it does not say what the reservation is after it");
    }

    #[test]
    fn what_version_0_1_0_wrote_of_outcomes_is_what_is_written_now() {
        for kind in ["item_created", "item_changed", "received", "sold", "adjusted", "counted"] {
            is_kept(&format!(r#"{{"command":"c","kind":"{kind}","at":AT,"productId":"tea",ITEM}}"#));
        }
        is_kept(r#"{"command":"a:1","kind":"purchase_confirmed","at":AT,"productId":"tea",PURCHASE,ITEM}"#);
        is_kept(
            r#"{"command":"a:1","kind":"purchase_confirmed","at":AT,"productId":"tea",PURCHASE,ITEM,"picked":true}"#,
        );
        is_kept(r#"{"command":"c","kind":"purchase_cancelled","at":AT,"productId":"tea",PURCHASE}"#);
        for (kind, code) in [
            ("purchase_rejected", "discontinued"),
            ("purchase_expired", "purchase_expired"),
            ("command_refused", "already_picked"),
        ] {
            let head = format!(r#"{{"command":"c","kind":"{kind}","at":AT,"productId":"tea","#);
            is_kept(&format!(r#"{head}PURCHASE,"rejection":{{"code":"{code}"}},ITEM}}"#));
        }
        is_kept(
            r#"{"command":"c","kind":"command_refused","at":AT,"productId":"tea","rejection":{"code":"discontinued"}}"#,
        );
        let resync = r#"{"command":"c","kind":"item_changed","at":AT,"productId":"unknown"}"#;
        assert_eq!(is_kept(resync).became, Became::Resynced);
        let of_nothing = is_kept(
            r#"{"command":"c","kind":"command_refused","at":AT,"productId":"unknown","rejection":{"code":"store_retired"}}"#,
        );
        assert!(matches!(of_nothing.became, Became::Refused { subject: Subject::Store, .. }));
    }

    #[test]
    fn what_became_of_a_batch_names_the_lines_that_were_refused() {
        let done = is_kept(r#"{"command":"c","kind":"batch","at":AT,"productId":"unknown","results":{"lines":2}}"#);
        assert_eq!(done.became.results().map(Results::applied), Some(2));
        let undone = is_kept(concat!(
            r#"{"command":"c","kind":"batch","at":AT,"productId":"unknown","results":{"lines":2,"undone":true,"#,
            r#""refused":[{"index":1,"rejection":{"code":"version_conflict","currentVersion":3}}]}}"#,
        ));
        assert_eq!(undone.became.results().map(Results::applied), Some(0));
        for results in ["", r#","results":{"lines":0}"#, r#","results":{"lines":1001}"#] {
            let body = written(r#"{"command":"c","kind":"batch","at":AT,"productId":"unknown""#);
            assert!(serde_json::from_str::<Outcome>(&format!("{body}{results}}}")).is_err(), "{results}");
        }
    }

    fn is_kept(body: &str) -> Outcome {
        let body = written(body);
        let outcome: Outcome = serde_json::from_str(&body).expect(&body);
        assert_eq!(serde_json::to_string(&outcome).expect("serialises"), body);
        outcome
    }

    #[test]
    fn a_purchase_that_was_retired_by_version_0_1_0_reads_as_refused() {
        let retired = r#"{"command":"a:1","kind":"purchase_cancelled","at":AT,"productId":"tea","rejection":{"code":"store_retired"}}"#;
        let outcome: Outcome = serde_json::from_str(&written(retired)).expect("is understood");
        assert_eq!(outcome.became.rejection(), Some(&Rejection::StoreRetired));
    }

    #[test]
    fn what_says_less_than_its_kind_has_to_is_not_understood() {
        let bare = written(r#"{"productId":"tea","delta":0,"recordedAt":AT,"about":{}}"#);
        for (kind, _) in KINDS {
            assert!(Event::decode(kind.name(), &bare).is_err(), "{kind:?}");
        }
        let other = written(r#"{"productId":"jam","delta":0,"recordedAt":AT,"about":{},PURCHASE}"#);
        assert!(Event::decode("purchase_picked", &other).is_err(), "of another product");
    }

    fn of_two(step: ReservationStep, state: State) -> Event {
        let after = |name: &str| ItemAfter {
            product_id: ProductId::parse(name).expect("valid"),
            delta: -1,
            item: Item { quantity: 5, reserved: 2, version: 2, ..Item::default() },
        };
        let items = vec![after("ale"), after("tea")];
        let line = |item: &ItemAfter| Line {
            product_id: item.product_id.clone(),
            quantity: Quantity::try_from(2).expect("in range"),
        };
        let reservation = Reservation {
            id: ReservationId::new(uuid::Uuid::from_u128(1)),
            lines: Lines::new(items.iter().map(line)).expect("are lines"),
            expires_at: Millis(9),
            created_at: Millis(1),
            reference: None,
            state,
        };
        Event::Fact(Fact::new(Happened::Reservation { step, reservation, items }, Millis(1)))
    }

    #[test]
    fn what_becomes_of_a_reservation_is_one_entry_with_all_of_its_items() {
        let taken = Lines::one(ProductId::parse("ale").expect("valid"), Quantity::ONE);
        for (step, state) in [
            (ReservationStep::Reserved, State::Open),
            (ReservationStep::Extended, State::Open),
            (ReservationStep::Confirmed, State::Confirmed { confirmed_lines: taken }),
            (ReservationStep::Cancelled, State::Cancelled),
            (ReservationStep::Expired, State::Expired),
        ] {
            let event = of_two(step, state);
            assert_eq!(Event::decode(event.kind(), &event.encode()), Ok(event));
        }
        let open = of_two(ReservationStep::Reserved, State::Open).encode();
        assert!(Event::decode("reservation_expired", &open).is_err());
        let other = open.replace("{\"productId\":\"tea\",\"delta\"", "{\"productId\":\"bun\",\"delta\"");
        assert!(other != open && Event::decode("reserved", &other).is_err(), "{other}");
        let negative = open.replace("\"quantity\":5", "\"quantity\":-5");
        assert!(negative != open && Event::decode("reserved", &negative).is_err());
    }

    #[test]
    fn what_becomes_of_a_transfer_is_one_entry_with_all_of_its_items() {
        let of_two = of_two(ReservationStep::Reserved, State::Open);
        let Event::Fact(Fact { what: Happened::Reservation { items, reservation, .. }, .. }) = of_two else {
            panic!("is of a reservation")
        };
        let part = Lines::one(ProductId::parse("ale").expect("valid"), Quantity::ONE);
        for state in [transfer::State::Shipped, transfer::State::Received { received_lines: part.clone() }] {
            let transfer = Transfer {
                id: TransferId::new(uuid::Uuid::from_u128(1)),
                from: crate::ids::StoreId::parse("s1").expect("valid"),
                to: crate::ids::StoreId::parse("s2").expect("valid"),
                lines: reservation.lines.clone(),
                names: [(ProductId::parse("ale").expect("valid"), "Ale".to_owned())].into(),
                auto_receive: true,
                reference: None,
                created_at: Millis(1),
                state,
            };
            let became = Became::Transfer(transfer.clone());
            let outcome = Outcome { command: OperationId::parse("c").expect("valid"), at: Millis(1), became };
            let text = serde_json::to_string(&outcome).expect("serialises");
            assert_eq!(serde_json::from_str::<Outcome>(&text).expect(&text), outcome);
            let event = Event::Fact(Fact::new(Happened::Transfer { transfer, items: items.clone() }, Millis(1)));
            let (kind, body) = (event.kind(), event.encode());
            assert_eq!(Event::decode(kind, &body).as_ref(), Ok(&event));
            let other = if kind == "transfer_shipped" { "transfer_received" } else { "transfer_shipped" };
            assert!(Event::decode(other, &body).is_err());
            let another = body.replace("{\"productId\":\"tea\",\"delta\"", "{\"productId\":\"bun\",\"delta\"");
            assert!(another != body && Event::decode(kind, &another).is_err(), "{another}");
        }
        let refused = r#"{"productId":"unknown","delta":0,"recordedAt":AT,"about":{},"command":"c","rejection":{"code":"unknown_transfer"},"transferId":"00000000-0000-0000-0000-000000000008"}"#;
        let event = Event::decode("command_refused", &written(refused)).expect("is understood");
        assert_eq!(event.encode(), written(refused));
        let Event::Fact(fact) = event else { panic!("is a fact") };
        assert_eq!(fact.what.transfer_id(), Some(TransferId::new(uuid::Uuid::from_u128(8))));
    }

    #[test]
    fn what_becomes_of_a_purchase_of_two_products_is_one_entry_with_both_items() {
        let Event::Fact(Fact { what: Happened::Reservation { items, reservation, .. }, .. }) =
            of_two(ReservationStep::Reserved, State::Open)
        else {
            panic!("is of a reservation")
        };
        let one: PurchaseRef =
            serde_json::from_str(&written(PURCHASE).replacen("\"purchase\":", "", 1)).expect("reads");
        let purchase = PurchaseRef { lines: reservation.lines, ..one };
        let command = Some(purchase.attempt.clone());
        let second = vec![items[1].clone()];
        for what in [
            Happened::PurchaseConfirmed { purchase: purchase.clone(), items: items.clone() },
            Happened::PurchaseRejected {
                purchase: purchase.clone(),
                rejection: Rejection::UnknownProduct,
                items: second.clone(),
            },
            Happened::PurchaseExpired { purchase: purchase.clone(), items: Vec::new() },
            Happened::PurchaseCancelled { purchase: purchase.clone(), items: items.clone() },
            Happened::PurchasePicked { purchase: purchase.clone(), items: second.clone() },
            Happened::CommandRefused {
                subject: Subject::Purchase(purchase.clone()),
                rejection: Rejection::AlreadyPicked,
                items: items.clone(),
            },
        ] {
            let fact = Fact { command: command.clone(), ..Fact::new(what, Millis(1)) };
            if let Some(outcome) = fact.outcome() {
                assert_eq!(outcome.became.item(), None, "it is about two");
                let text = serde_json::to_string(&outcome).expect("serialises");
                assert_eq!(serde_json::from_str::<Outcome>(&text).expect(&text), outcome);
            }
            let event = Event::Fact(fact);
            assert_eq!(Event::decode(event.kind(), &event.encode()), Ok(event));
        }
        let in_part = Event::Fact(Fact::new(Happened::PurchaseConfirmed { purchase, items: second }, Millis(1)));
        assert!(Event::decode(in_part.kind(), &in_part.encode()).is_err());
    }

    #[test]
    fn every_kind_has_one_name() {
        for (kind, name) in KINDS {
            assert_eq!((kind.name(), Kind::from_name(name)), (name, Some(kind)));
            assert_eq!(serde_json::to_value(kind).expect("text"), name);
        }
    }
}
