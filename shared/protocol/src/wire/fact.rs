//! Facts: what happened in a store to items, purchases and commands. Never refused; each names the items that it is about
//! as they are after it.

use serde::{Deserialize, Serialize};

use super::{About, Became, Outcome, PurchaseRef};
use crate::domain::reservation::{Reservation, State};
use crate::domain::transfer::Transfer;
use crate::domain::{Action, Item, Lines, Reason, Rejection};
use crate::ids::{OperationId, ProductId, ReservationId, TransferId};
use crate::time::Millis;

/// One thing that happened, and the circumstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What happened.
    pub what: Happened,
    /// By the store's clock.
    pub recorded_at: Millis,
    /// Who asked, and what for.
    pub about: About,
    /// The command that it answers.
    pub command: Option<OperationId>,
    /// Recorded again by a restore (L10).
    pub replayed: bool,
}

/// An item that a fact is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemAfter {
    /// The product.
    pub product_id: ProductId,
    /// Change of `quantity`.
    pub delta: i64,
    /// The item after it.
    pub item: Item,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// An item exists.
    ItemCreated(ItemAfter),
    /// Name, threshold or carriage changed.
    ItemChanged(ItemAfter),
    /// Units came in.
    Received(ItemAfter),
    /// Units left over the till.
    Sold(ItemAfter),
    /// Stock was corrected.
    Adjusted {
        /// The item.
        item: ItemAfter,
        /// Why.
        reason: Reason,
        /// In words.
        note: Option<String>,
    },
    /// Stock was counted.
    Counted {
        /// The item.
        item: ItemAfter,
        /// The count list it belongs to.
        count_ref: Option<String>,
    },
    /// Another number of units is set aside for online sale, or is wanted to be.
    AllotmentChanged {
        /// The item.
        item: ItemAfter,
        /// So many more; negative: fewer.
        by: i64,
    },
    /// The store took the units of an online purchase.
    PurchaseConfirmed {
        /// The attempt.
        purchase: PurchaseRef,
        /// The items that the units were taken of.
        items: Vec<ItemAfter>,
    },
    /// The store could not.
    PurchaseRejected {
        /// The attempt.
        purchase: PurchaseRef,
        /// Why.
        rejection: Rejection,
        /// The items that the store has of it, unchanged.
        items: Vec<ItemAfter>,
    },
    /// The store heard of the purchase too late.
    PurchaseExpired {
        /// The attempt.
        purchase: PurchaseRef,
        /// As of [`Happened::PurchaseRejected`].
        items: Vec<ItemAfter>,
    },
    /// The purchase is cancelled; units that were taken are back.
    PurchaseCancelled {
        /// The attempt.
        purchase: PurchaseRef,
        /// The items that the store has of it.
        items: Vec<ItemAfter>,
    },
    /// Staff has picked the purchase.
    PurchasePicked {
        /// The attempt.
        purchase: PurchaseRef,
        /// As of [`Happened::PurchaseRejected`].
        items: Vec<ItemAfter>,
    },
    /// Something has become of a reservation, and of all the items that it holds units of.
    Reservation {
        /// What.
        step: ReservationStep,
        /// The reservation after it.
        reservation: Reservation,
        /// The items that have changed.
        items: Vec<ItemAfter>,
    },
    /// Units of a transfer have left this store, or arrived in it.
    Transfer {
        /// The transfer after it: which of both it is, its state says.
        transfer: Transfer,
        /// The items that have changed.
        items: Vec<ItemAfter>,
    },
    /// An item command or a cancel was refused.
    CommandRefused {
        /// What it was about.
        subject: Subject,
        /// Why.
        rejection: Rejection,
        /// The items that it was about, as far as the store has them, unchanged.
        items: Vec<ItemAfter>,
    },
    /// Units are missing (promise P4).
    Shortage {
        /// The item. Without a reservation more had left the shelf than the books knew: so many units are entered, so that
        /// what did happen can be recorded without a negative stock. With one it does not change.
        item: ItemAfter,
        /// It was ended, since fewer units are there than were promised.
        reservation: Option<ReservationId>,
        /// Central had confirmed it, and its units were not there.
        purchase: Option<PurchaseRef>,
    },
    /// Sellable units fell to the item's threshold. A notice: the item does not change.
    LowStock(ItemAfter),
}

/// What has become of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationStep {
    /// Its units are held.
    Reserved,
    /// It ends at another time.
    Extended,
    /// Units of it, all or a part, have left the stock; the rest is free again.
    Confirmed,
    /// Its units are free again.
    Cancelled,
    /// Its time was over; its units are free again.
    Expired,
}

impl ReservationStep {
    /// Whether a reservation can be like this after it.
    pub(super) fn leads_to(self, state: &State) -> bool {
        match self {
            Self::Reserved | Self::Extended => *state == State::Open,
            Self::Confirmed => matches!(state, State::Confirmed { .. }),
            Self::Cancelled => *state == State::Cancelled,
            Self::Expired => *state == State::Expired,
        }
    }
}

/// What a command was about, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The whole store, or nothing that can be read.
    Store,
    /// A product.
    Product(ProductId),
    /// An attempt of a purchase.
    Purchase(PurchaseRef),
    /// A reservation.
    Reservation(ReservationId),
    /// A transfer.
    Transfer(TransferId),
}

impl Subject {
    /// The product, or the first that is bought.
    pub fn product(&self) -> Option<&ProductId> {
        self.products().next()
    }

    /// The product, or all that are bought.
    pub fn products(&self) -> impl Iterator<Item = &ProductId> {
        let (product, lines) = match self {
            Self::Store | Self::Reservation(_) | Self::Transfer(_) => (None, None),
            Self::Product(product) => (Some(product), None),
            Self::Purchase(purchase) => (None, Some(&purchase.lines)),
        };
        product.into_iter().chain(lines.into_iter().flat_map(Lines::iter).map(|line| &line.product_id))
    }

    /// The purchase, if it is one.
    pub fn purchase(&self) -> Option<&PurchaseRef> {
        match self {
            Self::Purchase(purchase) => Some(purchase),
            Self::Store | Self::Product(_) | Self::Reservation(_) | Self::Transfer(_) => None,
        }
    }

    /// The reservation, if it is one.
    pub fn reservation(&self) -> Option<ReservationId> {
        match self {
            Self::Reservation(id) => Some(*id),
            Self::Store | Self::Product(_) | Self::Purchase(_) | Self::Transfer(_) => None,
        }
    }

    /// The transfer, if it is one.
    pub fn transfer(&self) -> Option<TransferId> {
        match self {
            Self::Transfer(id) => Some(*id),
            Self::Store | Self::Product(_) | Self::Purchase(_) | Self::Reservation(_) => None,
        }
    }
}

impl ItemAfter {
    /// An item after a change.
    pub fn new(product_id: ProductId, before: Option<&Item>, item: Item) -> Self {
        Self { product_id, delta: item.quantity - before.map_or(0, |before| before.quantity), item }
    }

    /// An item that did not change.
    pub fn unchanged(product_id: ProductId, item: Item) -> Self {
        Self { product_id, delta: 0, item }
    }
}

impl Happened {
    /// The items that it names, each as it is after it.
    pub fn items(&self) -> &[ItemAfter] {
        match self {
            Self::ItemCreated(item)
            | Self::ItemChanged(item)
            | Self::Received(item)
            | Self::Sold(item)
            | Self::Adjusted { item, .. }
            | Self::Counted { item, .. }
            | Self::AllotmentChanged { item, .. }
            | Self::Shortage { item, .. }
            | Self::LowStock(item) => std::slice::from_ref(item),
            Self::PurchaseConfirmed { items, .. }
            | Self::PurchaseRejected { items, .. }
            | Self::PurchaseExpired { items, .. }
            | Self::PurchaseCancelled { items, .. }
            | Self::PurchasePicked { items, .. }
            | Self::CommandRefused { items, .. }
            | Self::Reservation { items, .. }
            | Self::Transfer { items, .. } => items,
        }
    }

    /// The product that it is about; of several the first. None: it is about the whole store.
    pub fn product(&self) -> Option<&ProductId> {
        let named = self.items().first().map(|after| &after.product_id);
        let bought = self.purchase().map(|purchase| &purchase.lines.first().product_id);
        named.or(bought).or(match self {
            Self::CommandRefused { subject, .. } => subject.product(),
            Self::Reservation { reservation, .. } => reservation.lines.iter().map(|line| &line.product_id).next(),
            Self::Transfer { transfer, .. } => transfer.lines.iter().map(|line| &line.product_id).next(),
            Self::ItemCreated(_)
            | Self::ItemChanged(_)
            | Self::Received(_)
            | Self::Sold(_)
            | Self::Adjusted { .. }
            | Self::Counted { .. }
            | Self::AllotmentChanged { .. }
            | Self::PurchaseConfirmed { .. }
            | Self::PurchaseRejected { .. }
            | Self::PurchaseExpired { .. }
            | Self::PurchaseCancelled { .. }
            | Self::PurchasePicked { .. }
            | Self::Shortage { .. }
            | Self::LowStock(_) => None,
        })
    }

    /// The item of this product after it; of none, the first that it names.
    pub fn item_of(&self, product: Option<&str>) -> Option<&ItemAfter> {
        let items = self.items();
        items.iter().find(|after| Some(after.product_id.as_str()) == product).or(items.first())
    }

    /// The purchase that it is about.
    pub fn purchase(&self) -> Option<&PurchaseRef> {
        match self {
            Self::PurchaseConfirmed { purchase, .. }
            | Self::PurchaseRejected { purchase, .. }
            | Self::PurchaseExpired { purchase, .. }
            | Self::PurchaseCancelled { purchase, .. }
            | Self::PurchasePicked { purchase, .. } => Some(purchase),
            Self::CommandRefused { subject, .. } => subject.purchase(),
            Self::Shortage { purchase, .. } => purchase.as_ref(),
            Self::ItemCreated(_)
            | Self::ItemChanged(_)
            | Self::Received(_)
            | Self::Sold(_)
            | Self::Adjusted { .. }
            | Self::Counted { .. }
            | Self::AllotmentChanged { .. }
            | Self::Reservation { .. }
            | Self::Transfer { .. }
            | Self::LowStock(_) => None,
        }
    }

    /// Why stock was adjusted, if it was.
    pub fn reason(&self) -> Option<Reason> {
        if let Self::Adjusted { reason, .. } = self { Some(*reason) } else { None }
    }

    /// The reservation that it is about, as it is after it.
    pub fn reservation(&self) -> Option<&Reservation> {
        match self {
            Self::Reservation { reservation, .. } => Some(reservation),
            Self::ItemCreated(_)
            | Self::ItemChanged(_)
            | Self::Received(_)
            | Self::Sold(_)
            | Self::Adjusted { .. }
            | Self::Counted { .. }
            | Self::AllotmentChanged { .. }
            | Self::PurchaseConfirmed { .. }
            | Self::PurchaseRejected { .. }
            | Self::PurchaseExpired { .. }
            | Self::PurchaseCancelled { .. }
            | Self::PurchasePicked { .. }
            | Self::Transfer { .. }
            | Self::CommandRefused { .. }
            | Self::Shortage { .. }
            | Self::LowStock(_) => None,
        }
    }

    /// The transfer that it is about, as it is after it.
    pub fn transfer(&self) -> Option<&Transfer> {
        if let Self::Transfer { transfer, .. } = self { Some(transfer) } else { None }
    }

    /// The id of the transfer that it is about.
    pub fn transfer_id(&self) -> Option<TransferId> {
        if let Self::CommandRefused { subject, .. } = self {
            return subject.transfer();
        }
        self.transfer().map(|transfer| transfer.id)
    }

    /// The id of the reservation that it is about.
    pub fn reservation_id(&self) -> Option<ReservationId> {
        match self {
            Self::Shortage { reservation, .. } => *reservation,
            Self::CommandRefused { subject, .. } => subject.reservation(),
            Self::Reservation { .. }
            | Self::Transfer { .. }
            | Self::ItemCreated(_)
            | Self::ItemChanged(_)
            | Self::Received(_)
            | Self::Sold(_)
            | Self::Adjusted { .. }
            | Self::Counted { .. }
            | Self::AllotmentChanged { .. }
            | Self::PurchaseConfirmed { .. }
            | Self::PurchaseRejected { .. }
            | Self::PurchaseExpired { .. }
            | Self::PurchaseCancelled { .. }
            | Self::PurchasePicked { .. }
            | Self::LowStock(_) => self.reservation().map(|reservation| reservation.id),
        }
    }

    /// What became of the command that caused it. `None`: it is no answer to a command, but may follow from one.
    pub fn answer(&self) -> Option<Became> {
        let done = |action, ItemAfter { product_id, item, .. }: &ItemAfter| {
            Some(Became::Done { action, product_id: product_id.clone(), item: item.clone() })
        };
        let alone = |items: &[ItemAfter], purchase: &PurchaseRef| {
            purchase.lines.only().and(items.first()).map(|after| after.item.clone())
        };
        match self {
            Self::ItemCreated(item) => done(Action::Create, item),
            Self::ItemChanged(item) => done(Action::Change, item),
            Self::Received(item) => done(Action::Receive, item),
            Self::Sold(item) => done(Action::Sell, item),
            Self::Adjusted { item, .. } => done(Action::Adjust, item),
            Self::Counted { item, .. } => done(Action::Count, item),
            Self::AllotmentChanged { item, .. } => done(Action::Allot, item),
            Self::PurchaseConfirmed { purchase, items } => {
                let item = alone(items, purchase);
                Some(Became::Confirmed { purchase: purchase.clone(), item, picked: false })
            }
            Self::PurchaseRejected { purchase, rejection, items } => {
                let item = alone(items, purchase);
                Some(Became::Rejected { purchase: purchase.clone(), rejection: rejection.clone(), item })
            }
            Self::PurchaseExpired { purchase, items } => {
                Some(Became::Expired { purchase: purchase.clone(), item: alone(items, purchase) })
            }
            Self::PurchaseCancelled { purchase, items } => {
                Some(Became::Cancelled { purchase: purchase.clone(), item: alone(items, purchase) })
            }
            Self::CommandRefused { subject, rejection, items } => {
                let item = match subject {
                    Subject::Purchase(purchase) => alone(items, purchase),
                    Subject::Store | Subject::Product(_) | Subject::Reservation(_) | Subject::Transfer(_) => {
                        items.first().map(|after| after.item.clone())
                    }
                };
                Some(Became::Refused { subject: subject.clone(), rejection: rejection.clone(), item })
            }
            Self::Reservation { reservation, .. } => Some(Became::Reservation(reservation.clone())),
            Self::Transfer { transfer, .. } => Some(Became::Transfer(transfer.clone())),
            Self::PurchasePicked { .. } | Self::Shortage { .. } | Self::LowStock(_) => None,
        }
    }
}

impl Fact {
    /// Something that happened by itself, asked for by nobody.
    pub fn new(what: Happened, recorded_at: Millis) -> Self {
        Self { what, recorded_at, about: About::default(), command: None, replayed: false }
    }

    /// Whether central asked for it; else something in the store did.
    pub fn is_asked_by_central(&self) -> bool {
        self.command.is_some() || self.about.is_line
    }

    /// The outcome of the command that it answers, if it answers one.
    pub fn outcome(&self) -> Option<Outcome> {
        let command = self.command.clone()?;
        Some(Outcome { command, at: self.recorded_at, became: self.what.answer()? })
    }
}
