//! What a decision is, and how it is recorded: in one transaction with its events.

use std::collections::BTreeMap;

use protocol::domain::reservation::Reservation;
use protocol::domain::transfer::Transfer;
use protocol::domain::{Change, Item, apply};
use protocol::ids::{OperationId, ProductId, PurchaseId};
use protocol::link::{Commands, Entry, EntryId, Epoch};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{Became, Event, Fact, Happened, ItemAfter, Outcome, PurchaseRef};
use runtime::sqlite::{Connection, JobResult};

use crate::ledger::state::Asked;
use crate::ledger::{self, Head};

/// Items as they were loaded.
pub type Items = BTreeMap<ProductId, Item>;

/// What an entry follows from that nobody has asked for.
#[derive(Debug, Clone, Copy)]
pub struct Cause<'a> {
    /// The operation.
    pub operation: &'a OperationId,
    /// The epoch in which it is done: a restore may have brought back what goes before an operation, and not that. Then it is
    /// done anew, and what goes before it now is something else.
    pub epoch: Epoch,
}

impl Cause<'_> {
    /// The name of what follows for this product or reservation.
    pub fn names(&self, what: &str, of: impl std::fmt::Display) -> OperationId {
        OperationId::from_key(what, &format!("{}:{}:{of}", self.epoch, self.operation))
    }
}

/// What is to be recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// What is recorded before it, in this order, under names of its own.
    pub before: Vec<(OperationId, Effect)>,
    /// What is recorded behind it, likewise.
    pub behind: Vec<(OperationId, Effect)>,
    /// What the ledger gets, in this order.
    pub appends: Vec<Append>,
    /// Answers that are kept by their commands' ids.
    pub outcomes: Vec<Outcome>,
    /// What becomes of a purchase whose units left the shelf.
    pub purchase: Option<PurchaseChange>,
    /// What a reservation is after it.
    pub reservation: Option<Reservation>,
    /// What a transfer is after it.
    pub transfer: Option<Transfer>,
    /// A command that asks for the whole state.
    pub asks: Option<Asked>,
    /// A command that is parked for people, and why.
    pub parked: Option<(Entry<Commands>, String)>,
}

/// An entry, or entries, to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Append {
    /// Something happened; the stock follows.
    Fact(Fact),
    /// The outcome of a command that came again, or of one that changes nothing.
    Repeated(Outcome),
}

impl Append {
    /// What happened, if it is a fact.
    pub fn fact(&self) -> Option<&Fact> {
        match self {
            Self::Fact(fact) => Some(fact),
            Self::Repeated(_) => None,
        }
    }
}

/// What becomes of a purchase in the list that staff works through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurchaseChange {
    /// Its units have left the shelf.
    Confirmed(PurchaseRef, Millis),
    /// Its units are back.
    Cancelled(PurchaseId, Millis),
    /// Staff has picked it.
    Picked(PurchaseId, Millis),
}

impl Effect {
    /// A fact, the outcome if it answers a command, and a notice of each item that has fallen low by it.
    pub fn of(fact: Fact, before: &Items) -> Self {
        let low = fact.what.items().iter().filter(|after| {
            after.item.has_fallen_low(before.get(&after.product_id).filter(|_| !planted(Bug::LowStockRepeated)))
        });
        let notices = low.map(|after| {
            let what = Happened::LowStock(ItemAfter::unchanged(after.product_id.clone(), after.item.clone()));
            Append::Fact(Fact { what, ..fact.clone() })
        });
        let notices: Vec<Append> = notices.collect();
        let outcomes = fact.outcome().into_iter().collect();
        Self { appends: [Append::Fact(fact)].into_iter().chain(notices).collect(), outcomes, ..Self::default() }
    }
}

/// The answer to a command whose effect, if it has one, is not its own entry.
pub(super) fn answered(id: &OperationId, became: Became, now: Millis) -> Effect {
    let outcome = Outcome { command: id.clone(), at: now, became };
    Effect { appends: vec![Append::Repeated(outcome.clone())], outcomes: vec![outcome], ..Effect::default() }
}

/// Items after changes of them, each product once.
pub(super) fn changed(
    changes: impl IntoIterator<Item = (ProductId, Change)>,
    before: &Items,
    now: Millis,
) -> Vec<ItemAfter> {
    let after = |(product, change): (ProductId, Change)| {
        let before = before.get(&product);
        ItemAfter::new(product, before, apply(before, &change, now))
    };
    changes.into_iter().map(after).collect()
}

/// Records an effect under an operation's id, in the caller's transaction. `items`: those that it is about, as they
/// were loaded; as they are after it when it returns. Returns where its first entry is; the caller saves the head.
pub fn record(
    connection: &Connection,
    head: &mut Head,
    operation: &OperationId,
    items: &mut Items,
    effect: Effect,
    now: Millis,
) -> JobResult<EntryId> {
    for (operation, effect) in effect.before {
        record(connection, head, &operation, items, effect, now)?;
    }
    let first = EntryId { seq: head.cursor.seq.next(), ..head.cursor.id() };
    for told in effect.appends {
        match told {
            Append::Fact(fact) => {
                for ItemAfter { product_id, item, .. } in fact.what.items() {
                    let before = items.insert(product_id.clone(), item.clone());
                    if before.as_ref() != Some(item) {
                        ledger::put_item(connection, head, product_id, before.as_ref(), item)?;
                    }
                }
                ledger::append(connection, head, operation, &Event::Fact(fact), now)?;
            }
            Append::Repeated(outcome) => {
                ledger::append(connection, head, operation, &Event::OutcomeRepeated(outcome), now)?;
            }
        }
    }
    match &effect.purchase {
        None => {}
        Some(PurchaseChange::Confirmed(..)) if planted(Bug::NotOnTheList) => {}
        Some(PurchaseChange::Cancelled(..)) if planted(Bug::CancelledStaysOnTheList) => {}
        Some(PurchaseChange::Confirmed(purchase, at)) => ledger::purchases::confirm(connection, purchase, *at)?,
        Some(PurchaseChange::Cancelled(id, at)) => ledger::purchases::cancel(connection, *id, *at)?,
        Some(PurchaseChange::Picked(id, at)) => ledger::purchases::pick(connection, *id, *at)?,
    }
    if let Some(reservation) = &effect.reservation {
        ledger::reservations::save(connection, reservation, now)?;
    }
    if let Some(transfer) = &effect.transfer {
        ledger::transfers::save(connection, transfer, now)?;
    }
    for outcome in &effect.outcomes {
        ledger::outcomes::keep(connection, outcome)?;
    }
    if let Some(asked) = &effect.asks {
        ledger::state::ask(connection, head, asked)?;
    }
    if let Some((entry, reason)) = &effect.parked {
        ledger::dead_letters::park(connection, entry, reason, now)?;
    }
    for (operation, effect) in effect.behind {
        record(connection, head, &operation, items, effect, now)?;
    }
    Ok(first)
}
