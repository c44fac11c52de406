//! What a decision is, and how it is recorded: in one transaction with its events.

use protocol::domain::Item;
use protocol::ids::{OperationId, PurchaseId};
use protocol::link::{Commands, Entry, EntryId};
use protocol::time::Millis;
use protocol::wire::{Event, Fact, Kind, Outcome, PurchaseRef};
use runtime::sqlite::{Connection, JobResult};

use super::fold;
use crate::ledger::{self, Head};

/// What is to be recorded. All of it is about one product at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// What the ledger tells, in this order.
    pub told: Vec<Told>,
    /// Answers that are kept by their commands' ids.
    pub outcomes: Vec<Outcome>,
    /// What becomes of a purchase whose units left the shelf.
    pub purchase: Option<PurchaseChange>,
    /// A command that is laid aside for people, and why.
    pub parked: Option<(Entry<Commands>, String)>,
}

/// An entry, or entries, to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Something happened; the stock follows.
    Fact(Kind, Fact),
    /// The outcome of a command that came again, or of one that changes nothing.
    Repeated(Outcome),
    /// The whole state.
    State,
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
    /// Nothing but facts.
    pub fn of(facts: impl IntoIterator<Item = (Kind, Fact)>) -> Self {
        Self { told: facts.into_iter().map(|(kind, fact)| Told::Fact(kind, fact)).collect(), ..Self::default() }
    }
}

/// Records an effect under an operation's id, in the caller's transaction. `item`: what it is about, as it was loaded.
/// Returns where the first entry is; the caller saves the head.
pub fn record(
    connection: &Connection,
    head: &mut Head,
    operation: &OperationId,
    item: Option<&Item>,
    effect: &Effect,
    now: Millis,
) -> JobResult<EntryId> {
    let first = EntryId { seq: head.cursor.seq.next(), ..head.cursor.id() };
    let mut item = item.cloned();
    for told in &effect.told {
        match told {
            Told::Fact(kind, fact) => {
                let after = fold::apply(item.as_ref(), fact);
                if let Some(after) = after.as_ref().filter(|after| item.as_ref() != Some(*after)) {
                    ledger::put_item(connection, head, &fact.product_id, item.as_ref(), after)?;
                }
                item = after;
                ledger::append(connection, head, operation, &Event::Fact(*kind, fact.clone()), now)?;
            }
            Told::Repeated(outcome) => {
                ledger::append(connection, head, operation, &Event::OutcomeRepeated(outcome.clone()), now)?;
            }
            Told::State => ledger::write_pages(connection, head, now)?,
        }
    }
    match &effect.purchase {
        None => {}
        Some(PurchaseChange::Confirmed(purchase, at)) => ledger::purchases::confirm(connection, purchase, *at)?,
        Some(PurchaseChange::Cancelled(id, at)) => ledger::purchases::cancel(connection, *id, *at)?,
        Some(PurchaseChange::Picked(id, at)) => ledger::purchases::pick(connection, *id, *at)?,
    }
    for outcome in &effect.outcomes {
        ledger::outcomes::keep(connection, outcome)?;
    }
    if let Some((entry, reason)) = &effect.parked {
        ledger::dead_letters::lay_aside(connection, entry, reason, now)?;
    }
    Ok(first)
}
