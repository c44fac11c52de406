//! Recording an own entry again on top of central's state: by its difference, never refused.

use protocol::domain::{Change, Item, apply};
use protocol::ids::OperationId;
use protocol::link::Entry;
use protocol::time::Millis;
use protocol::wire::{Event, Fact, Kind, Outcome};
use runtime::sqlite::{Connection, JobResult};

use crate::ledger::{self, Head};
use crate::operations::commands::cancelled;
use crate::operations::effect::{self, Effect, PurchaseChange};

/// What an entry tells that happened, if it is not about the link's own affairs.
pub(super) fn fact(entry: &Entry) -> Option<(Kind, Fact)> {
    match Event::decode(&entry.kind, &entry.body).ok()? {
        Event::Fact(kind, fact) => Some((kind, fact)),
        Event::OutcomeRepeated(_)
        | Event::Opened { .. }
        | Event::SnapshotPage(_)
        | Event::SnapshotEnd(_)
        | Event::Ready { .. } => None,
    }
}

/// What it depends on how an entry is recorded again.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The item as it is now.
    item: Option<Item>,
    /// The outcome of the command that it answered.
    outcome: Option<Outcome>,
    /// The outcome of the attempt of the purchase that it is about.
    attempt: Option<Outcome>,
}

/// Records it, unless it is none that can happen again. Says whether it was recorded.
pub(super) fn record(connection: &Connection, head: &mut Head, entry: &Entry, now: Millis) -> JobResult<bool> {
    let (Some((kind, original)), Ok(operation)) = (fact(entry), OperationId::parse(&entry.operation)) else {
        return Ok(false);
    };
    let find =
        |command: Option<&OperationId>| command.map_or(Ok(None), |command| ledger::outcomes::find(connection, command));
    let known = Known {
        item: ledger::find_item(connection, &original.product_id)?,
        outcome: find(original.command.as_ref())?,
        attempt: find(original.purchase.as_ref().map(|purchase| &purchase.attempt))?,
    };
    let Some(again) = decide(kind, original, known.clone(), now) else { return Ok(false) };
    let mut item = known.item;
    if let Some((shortage, after)) = again.shortage {
        effect::record(connection, head, &of_shortage(&operation), item.as_ref(), &shortage, now)?;
        item = Some(after);
    }
    effect::record(connection, head, &operation, item.as_ref(), &again.effect, now)?;
    Ok(true)
}

/// What is recorded.
#[derive(Debug)]
struct Again {
    /// Units that had left the shelf and were not in the books, entered first, and the item after that.
    shortage: Option<(Effect, Item)>,
    /// The entry itself.
    effect: Effect,
}

/// `None`: it cannot happen again. It is a notice, a shortage of an earlier restore (which is found anew, if it is still
/// one), or a reply to a command that central has the outcome of.
fn decide(kind: Kind, mut original: Fact, known: Known, now: Millis) -> Option<Again> {
    let is_found_anew = kind == Kind::Shortage && original.replayed;
    if kind == Kind::LowStock || is_found_anew || is_settled(kind, &original, &known) {
        return None;
    }
    if let Some(units) = units_back(kind, &original, &known) {
        original.delta = units;
    }
    let mut shortage = None;
    let mut item = known.item.clone();
    for change in changes(kind, &original, item.as_ref()) {
        let after = apply(item.as_ref(), &change, now);
        if let Change::ShortageFound(units) = change {
            let fact = Fact {
                delta: units,
                item: Some(after.clone()),
                about: original.about.clone(),
                replayed: true,
                ..Fact::new(original.product_id.clone(), original.recorded_at)
            };
            shortage = Some((Effect::of([(Kind::Shortage, fact)]), after.clone()));
        }
        item = Some(after);
    }
    let mut effect = Effect::of([(kind, Fact { item: item.clone(), replayed: true, ..original.clone() })]);
    remember(&mut effect, kind, &original, item, known.attempt, now);
    Some(Again { shortage, effect })
}

/// Whether it answers a command whose outcome is known; a purchase confirmed before may still be cancelled.
fn is_settled(kind: Kind, fact: &Fact, known: &Known) -> bool {
    if fact.command.is_none() {
        return false;
    }
    let is_ended = known.attempt.as_ref().is_some_and(|attempt| attempt.kind != Kind::PurchaseConfirmed);
    known.outcome.is_some() || (kind == Kind::PurchaseCancelled && is_ended)
}

/// A shortage is an entry of its own, so it has an id of its own: central may have heard of it and not yet of the operation
/// behind it. It follows from the operation's, so that the same one found twice is the same.
fn of_shortage(operation: &OperationId) -> OperationId {
    OperationId::from_key("shortage", operation.as_str())
}

/// Units that a cancel gives back although it found none taken when it was recorded first: central knows that they were.
fn units_back(kind: Kind, fact: &Fact, known: &Known) -> Option<i64> {
    let purchase = fact.purchase.as_ref().filter(|_| kind == Kind::PurchaseCancelled && fact.delta == 0)?;
    let is_taken = known.attempt.as_ref().is_some_and(|attempt| attempt.kind == Kind::PurchaseConfirmed);
    is_taken.then_some(purchase.quantity)
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
        Kind::ItemCreated
        | Kind::Received
        | Kind::Sold
        | Kind::Adjusted
        | Kind::Counted
        | Kind::PurchaseConfirmed
        | Kind::PurchaseRejected
        | Kind::PurchaseExpired
        | Kind::PurchaseCancelled
        | Kind::PurchasePicked
        | Kind::CommandRefused
        | Kind::Shortage
        | Kind::LowStock => changes.extend((fact.delta != 0).then_some(Change::Adjusted(fact.delta))),
    }
    changes
}

/// A reply's outcome is known from now on, and the purchase's list follows.
fn remember(effect: &mut Effect, kind: Kind, fact: &Fact, item: Option<Item>, attempt: Option<Outcome>, now: Millis) {
    if let Some(command) = &fact.command {
        effect.outcomes.push(Outcome {
            command: command.clone(),
            kind,
            at: fact.recorded_at,
            product_id: fact.product_id.clone(),
            purchase: fact.purchase.clone(),
            rejection: fact.rejection.clone(),
            item: item.clone(),
            picked: false,
        });
    }
    let Some(purchase) = &fact.purchase else { return };
    match kind {
        Kind::PurchaseConfirmed => {
            effect.purchase = Some(PurchaseChange::Confirmed(purchase.clone(), fact.recorded_at));
        }
        Kind::PurchaseCancelled => {
            effect.outcomes.push(cancelled(purchase, item, now));
            effect.purchase = Some(PurchaseChange::Cancelled(purchase.purchase_id, now));
        }
        Kind::PurchasePicked => {
            effect.outcomes.extend(attempt.map(|attempt| Outcome { picked: true, ..attempt }));
            effect.purchase = Some(PurchaseChange::Picked(purchase.purchase_id, fact.recorded_at));
        }
        Kind::ItemCreated
        | Kind::ItemChanged
        | Kind::Received
        | Kind::Sold
        | Kind::Adjusted
        | Kind::Counted
        | Kind::PurchaseRejected
        | Kind::PurchaseExpired
        | Kind::CommandRefused
        | Kind::Shortage
        | Kind::LowStock => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::effect::Told;
    use crate::testing::{NOW, product};

    fn item(quantity: i64) -> Item {
        Item { quantity, version: 3, ..Item::default() }
    }

    /// Kinds and differences recorded for a sale or another fact when so many units are in the books.
    fn given(kind: Kind, delta: i64, units: Option<i64>) -> Option<Vec<(Kind, i64, i64)>> {
        let original = Fact { delta, item: Some(item(1)), ..Fact::new(product("ale"), NOW) };
        let again = decide(kind, original, Known { item: units.map(item), ..Known::default() }, NOW)?;
        let effects = again.shortage.map(|(shortage, _)| shortage).into_iter().chain([again.effect]);
        let told = effects.flat_map(|effect| effect.told).map(|told| match told {
            Told::Fact(kind, fact) => (kind, fact.delta, fact.item.map_or(0, |item| item.quantity)),
            Told::Repeated(_) | Told::State => panic!("facts only"),
        });
        Some(told.collect())
    }

    #[test]
    fn a_fact_moves_the_stock_of_today_by_its_difference_and_what_is_missing_is_entered_first() {
        use Kind::{ItemCreated, LowStock, Shortage, Sold};
        assert_eq!(given(Sold, -4, Some(5)), Some(vec![(Sold, -4, 1)]));
        assert_eq!(given(Sold, -4, Some(3)), Some(vec![(Shortage, 1, 4), (Sold, -4, 0)]));
        assert_eq!(given(Sold, -4, None), Some(vec![(Shortage, 4, 4), (Sold, -4, 0)]));
        assert_eq!(given(ItemCreated, 4, None), Some(vec![(ItemCreated, 4, 4)]));
        assert_eq!(given(ItemCreated, 4, Some(3)), Some(vec![(ItemCreated, 4, 7)]));
        assert_eq!(given(LowStock, 0, Some(3)), None);
    }
}
