//! Units that are set aside for online sale. How many may be is [`protocol::domain::allotment`]'s to say.
//!
//! **Guarantees.** What is set aside changes by an entry of its own, in the transaction of what it follows from. The names of
//! those that nobody has asked for follow from the operation's and the epoch, so that one may be known without the other.

use std::collections::BTreeSet;

use protocol::domain::allotment::{Rule, cut, release};
use protocol::domain::reservation::Reservation;
use protocol::domain::{Change, Item, Line, apply, decide_sold, shortage};
use protocol::ids::{OperationId, ProductId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Became, Fact, Happened, ItemAfter, PurchaseRef};
use runtime::sqlite::{Connection, JobResult};

use super::effect::{Append, Cause, Effect, Items, answered};
use super::reservations::{self, Asking};
use crate::ledger;

/// The item's allotment changes. `None`: the store has no such item.
fn changed(product: &ProductId, change: &Change, items: &Items, asking: &Asking, now: Millis) -> Option<Effect> {
    let before = items.get(product)?;
    let item = ItemAfter::new(product.clone(), Some(before), apply(Some(before), change, now));
    let by = item.item.allotted - before.allotted;
    let what = Happened::AllotmentChanged { item, by };
    let fact = Fact { about: asking.about.clone(), command: asking.command.clone(), ..Fact::new(what, now) };
    Some(Effect::of(fact, items))
}

/// Central has not sold so many of a product's units. `None`: the store has no such item.
pub(super) fn decide_release(
    product: &ProductId,
    units: i64,
    items: &Items,
    command: &OperationId,
    now: Millis,
) -> Option<Effect> {
    let item = items.get(product)?;
    let asking = Asking { operation: command.clone(), about: About::default(), command: Some(command.clone()) };
    match release(item, units) {
        Some(change) => changed(product, &change, items, &asking, now),
        None => {
            let item = item.clone();
            let became = Became::Done { action: protocol::domain::Action::Allot, product_id: product.clone(), item };
            Some(answered(command, became, now))
        }
    }
}

/// Before a change that leaves fewer units of a product than are promised: so many are not set aside any more. The items
/// follow.
pub(super) fn cut_before(
    product: &ProductId,
    change: &Change,
    items: &mut Items,
    cause: Cause<'_>,
    now: Millis,
) -> Option<(OperationId, Effect)> {
    let cut = cut(items.get(product)?, change)?;
    named("allotment-cut", product, &cut, items, cause, now)
}

/// Behind a change: what the store's rule sets aside. The items follow.
pub(super) fn raise_behind(
    rule: &Rule,
    product: &ProductId,
    items: &mut Items,
    cause: Cause<'_>,
    now: Millis,
) -> Option<(OperationId, Effect)> {
    let raised = rule.raise(items.get(product)?)?;
    named("allotment-rule", product, &raised, items, cause, now)
}

/// So many units are missing of what central has sold of a line, once those that are set aside and free are taken.
fn missing(purchase: &PurchaseRef, line: &Line, items: &Items) -> i64 {
    let none = Item::default();
    let item = items.get(&line.product_id).unwrap_or(&none);
    shortage(item, &decide_sold(item, line.quantity, purchase.from_allotment(&line.product_id)))
}

/// Loads the reservations that hold the units which a purchase finds missing that central has confirmed, of each line the
/// youngest first. The items that these hold units of are loaded, too.
pub(super) fn load_holds(
    connection: &Connection,
    purchase: &PurchaseRef,
    items: &mut Items,
) -> JobResult<Vec<Reservation>> {
    let mut holds = Vec::new();
    for line in purchase.lines.iter() {
        let units = missing(purchase, line, items);
        for hold in ledger::reservations::youngest_of_product(connection, &line.product_id, units)? {
            items.extend(reservations::loaded(connection, &hold.lines)?);
            holds.push(hold);
        }
    }
    Ok(holds)
}

/// Before units leave that central has sold: whoever holds what is missing of them goes without, the youngest first. What is
/// missing then has left the shelf unseen: it is entered, and named. The items follow.
pub(super) fn make_room(
    purchase: &PurchaseRef,
    holds: &[Reservation],
    items: &mut Items,
    cause: Cause<'_>,
    now: Millis,
) -> Vec<(OperationId, Effect)> {
    let (mut effects, mut ended) = (Vec::new(), BTreeSet::new());
    for line in purchase.lines.iter() {
        let product = &line.product_id;
        for hold in holds.iter().filter(|hold| hold.lines.quantity_of(product) > 0) {
            if missing(purchase, line, items) > 0 && ended.insert(hold.id) {
                effects.extend(reservations::fall_short(std::slice::from_ref(hold), product, items, cause, now));
            }
        }
        let units = missing(purchase, line, items);
        if units > 0 {
            let before = items.get(product).cloned();
            let found = match &before {
                Some(_) => Change::Moved(units),
                None => Change::Created { name: product.to_string(), quantity: units, low_at: None },
            };
            let item = ItemAfter::new(product.clone(), before.as_ref(), apply(before.as_ref(), &found, now));
            let of = (!planted(Bug::SoldShortageNotNamed)).then(|| purchase.clone());
            let what = Happened::Shortage { item: item.clone(), reservation: None, purchase: of };
            let about = About { reference: purchase.reference.clone(), ..About::default() };
            let effect = Effect::of(Fact { about, ..Fact::new(what, now) }, items);
            items.insert(product.clone(), item.item);
            effects.push((cause.names("shortage", product), effect));
        }
    }
    effects
}

fn named(
    what: &str,
    product: &ProductId,
    change: &Change,
    items: &mut Items,
    cause: Cause<'_>,
    now: Millis,
) -> Option<(OperationId, Effect)> {
    let shares = planted(Bug::AllotmentSharesId);
    let own = if shares { cause.operation.clone() } else { cause.names(what, product) };
    let asking = Asking { operation: own, about: About::default(), command: None };
    let effect = changed(product, change, items, &asking, now)?;
    let after = effect.appends.iter().filter_map(Append::fact).flat_map(|fact| fact.what.items());
    items.extend(after.map(|after| (after.product_id.clone(), after.item.clone())));
    Some((asking.operation, effect))
}

#[cfg(test)]
mod tests {
    use protocol::domain::Operation;

    use super::*;
    use crate::operators::verify::verify;
    use crate::testing::{NOW, act, product, quantity, store};

    /// Quantity, set aside, wanted, available of the tea, after the auditor has found nothing.
    fn figures(connection: &Connection) -> (i64, i64, Option<i64>, i64) {
        let audit = verify(connection).expect("reads");
        assert!(audit.differences.is_empty(), "{:?}", audit.differences);
        let item: Item = ledger::find_item(connection, &product("tea")).expect("reads").expect("an item");
        (item.quantity, item.allotted, item.allotment_wanted, item.available())
    }

    fn recorded(connection: &Connection, behind: usize) -> Vec<(String, i64)> {
        ledger::testing::recorded(connection, "tea").split_off(behind)
    }

    #[test]
    fn what_is_lost_is_not_set_aside_any_more() {
        let connection = store(&[("tea", 10)]);
        act(&connection, "allot", "tea", Operation::Allot { quantity: 6 }, NOW);
        assert!(ledger::testing::last(&connection).1.contains(r#""allottedBy":6"#), "as many more");
        let count = Operation::Count { quantity: 4, counted_at: None, count_ref: None };
        let counted = act(&connection, "count", "tea", count, NOW);
        assert_eq!((counted.delta, figures(&connection)), (-6, (4, 4, None, 0)));
        let told = [("allotment_changed", 0), ("allotment_changed", 0), ("counted", -6)];
        assert_eq!(recorded(&connection, 1), told.map(|(kind, delta)| (kind.to_owned(), delta)));
    }

    #[test]
    fn what_goes_before_an_operation_that_is_done_anew_in_another_epoch_is_something_else() {
        let item = Item { quantity: 5, allotted: 5, ..Item::default() };
        let cut = |epoch: u32| {
            let change = Change::Moved(-2);
            let operation = OperationId::parse("count").expect("valid");
            let cause = Cause { operation: &operation, epoch: epoch.into() };
            let mut items = Items::from([(product("tea"), item.clone())]);
            cut_before(&product("tea"), &change, &mut items, cause, NOW).expect("something is cut").0
        };
        assert_eq!(cut(7), cut(7));
        assert_ne!(cut(7), cut(8));
    }

    #[test]
    fn a_rule_acts_behind_deliveries_and_counts_and_never_behind_a_sale() {
        let connection = store(&[("tea", 10)]);
        let rule = Rule { percent: 50, minimum: 2 };
        ledger::allotment::set_rule(&connection, &rule).expect("writes");
        act(&connection, "sale", "tea", Operation::Sell { quantity: quantity(2) }, NOW);
        assert_eq!(figures(&connection), (8, 0, None, 8));
        let received = act(&connection, "delivery", "tea", Operation::Receive { quantity: quantity(4) }, NOW);
        assert_eq!((received.item.allotted, figures(&connection)), (6, (12, 6, None, 6)));
        let count = Operation::Count { quantity: 20, counted_at: None, count_ref: None };
        act(&connection, "count", "tea", count, NOW);
        assert_eq!(figures(&connection), (20, 10, None, 10));
        act(&connection, "fewer", "tea", Operation::Allot { quantity: 3 }, NOW);
        act(&connection, "delivery-2", "tea", Operation::Receive { quantity: quantity(9) }, NOW);
        assert_eq!(figures(&connection), (29, 10, Some(3), 19), "somebody lowers it");
        ledger::allotment::set_rule(&connection, &Rule::default()).expect("writes");
        assert_eq!(ledger::allotment::rule(&connection).expect("reads"), Rule::default());
    }
}
