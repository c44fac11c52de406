//! Recording an own entry again on top of central's state: by its difference, never refused.

use protocol::domain::{Change, Item, apply};
use protocol::ids::OperationId;
use protocol::time::Millis;
use protocol::wire::{Event, Fact, Kind, Outcome, PurchaseRef};
use rusqlite::Connection;

use super::fact;
use crate::ledger::{self, Head};
use crate::operations::commands;
use crate::operations::purchases;

/// Records it, unless it is none that can happen again: an affair of the link, a notice, a shortage of an earlier restore
/// (it is found anew, if it is still one), or a reply to a command that central has the outcome of. Says whether it was
/// recorded.
pub(super) fn record(
    connection: &Connection,
    head: &mut Head,
    operation: &str,
    kind: &str,
    body: &str,
    now: Millis,
) -> rusqlite::Result<bool> {
    let (Some((kind, mut original)), Ok(operation)) = (fact(kind, body), OperationId::parse(operation)) else {
        return Ok(false);
    };
    let is_found_anew = kind == Kind::Shortage && original.replayed;
    if kind == Kind::LowStock || is_found_anew || is_settled(connection, kind, &original)? {
        return Ok(false);
    }
    if let Some(units) = units_back(connection, kind, &original)? {
        original.delta = units;
    }
    let mut item = ledger::find_item(connection, &original.product_id)?;
    for change in changes(kind, &original, item.as_ref()) {
        let after = apply(item.as_ref(), &change, now);
        if let Change::ShortageFound(units) = change {
            let mut shortage = Fact::new(original.product_id.clone(), original.recorded_at);
            shortage.delta = units;
            shortage.item = Some(after.clone());
            shortage.about = original.about.clone();
            shortage.replayed = true;
            ledger::put_item(connection, head, &original.product_id, item.as_ref(), &after)?;
            ledger::append(connection, head, &of_shortage(&operation), &Event::Fact(Kind::Shortage, shortage), now)?;
        } else {
            ledger::put_item(connection, head, &original.product_id, item.as_ref(), &after)?;
        }
        item = Some(after);
    }
    let repeated = Fact { item: item.clone(), replayed: true, ..original.clone() };
    ledger::append(connection, head, &operation, &Event::Fact(kind, repeated), now)?;
    remember(connection, kind, &original, item, now)?;
    Ok(true)
}

/// Whether it answers a command whose outcome is known; a purchase confirmed before may still be cancelled.
fn is_settled(connection: &Connection, kind: Kind, fact: &Fact) -> rusqlite::Result<bool> {
    let Some(command) = &fact.command else { return Ok(false) };
    if commands::find_outcome(connection, command)?.is_some() {
        return Ok(true);
    }
    match (&fact.purchase, kind) {
        (Some(purchase), Kind::PurchaseCancelled) => {
            let attempt = commands::find_outcome(connection, &purchase.attempt)?;
            Ok(attempt.is_some_and(|attempt| attempt.kind != Kind::PurchaseConfirmed))
        }
        _ => Ok(false),
    }
}

/// A shortage is an entry of its own, so it has an id of its own: central may have heard of it and not yet of the operation
/// behind it. It follows from the operation's, so that the same one found twice is the same.
fn of_shortage(operation: &OperationId) -> OperationId {
    OperationId::from_key("shortage", operation.as_str())
}

/// Units that a cancel gives back although it found none taken when it was recorded first: central knows that they were.
fn units_back(connection: &Connection, kind: Kind, fact: &Fact) -> rusqlite::Result<Option<i64>> {
    let Some(purchase) = fact.purchase.as_ref().filter(|_| kind == Kind::PurchaseCancelled && fact.delta == 0) else {
        return Ok(None);
    };
    let attempt = commands::find_outcome(connection, &purchase.attempt)?;
    let is_taken = attempt.is_some_and(|attempt| attempt.kind == Kind::PurchaseConfirmed);
    Ok(is_taken.then_some(purchase.quantity))
}

/// What happens to the item as it is now. Its quantity moves by the difference of then; if there are fewer units in the
/// books than left the shelf, the shortage is entered first.
fn changes(kind: Kind, fact: &Fact, item: Option<&Item>) -> Vec<Change> {
    let Some(then) = fact.item.as_ref().or(item) else { return Vec::new() };
    let mut changes = Vec::new();
    let created = Change::Created {
        name: then.name.clone(),
        quantity: if kind == Kind::ItemCreated { fact.delta } else { 0 },
        low_at: then.low_at,
    };
    if item.is_none() {
        changes.push(created);
        if kind == Kind::ItemCreated {
            return changes;
        }
    }
    let short = -(item.map_or(0, Item::available) + fact.delta);
    if short > 0 && fact.delta < 0 {
        changes.push(Change::ShortageFound(short));
    }
    match kind {
        Kind::ItemChanged => changes.push(Change::Changed {
            name: Some(then.name.clone()),
            discontinued: Some(then.discontinued),
            low_at: then.low_at,
        }),
        _ if fact.delta == 0 => {}
        _ => changes.push(Change::Adjusted(fact.delta)),
    }
    changes
}

/// A reply's outcome is known from now on, and the purchase's list follows.
fn remember(connection: &Connection, kind: Kind, fact: &Fact, item: Option<Item>, now: Millis) -> rusqlite::Result<()> {
    if let Some(command) = &fact.command {
        let outcome = Outcome {
            command: command.clone(),
            kind,
            at: fact.recorded_at,
            product_id: fact.product_id.clone(),
            purchase: fact.purchase.clone(),
            rejection: fact.rejection.clone(),
            item: item.clone(),
            picked: false,
        };
        commands::keep(connection, &outcome)?;
    }
    let Some(purchase) = &fact.purchase else { return Ok(()) };
    match kind {
        Kind::PurchaseConfirmed => purchases::confirm(connection, purchase, fact.recorded_at),
        Kind::PurchaseCancelled => cancelled(connection, purchase, item, now),
        Kind::PurchasePicked => {
            purchases::set_picked(connection, purchase.purchase_id, fact.recorded_at)?;
            commands::mark_picked(connection, &purchase.attempt)
        }
        _ => Ok(()),
    }
}

fn cancelled(connection: &Connection, purchase: &PurchaseRef, item: Option<Item>, now: Millis) -> rusqlite::Result<()> {
    commands::keep_cancelled(connection, purchase, item, now)?;
    purchases::cancel(connection, purchase.purchase_id, now)
}
