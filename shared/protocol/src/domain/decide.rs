//! May it be done? Guard clauses in the order in which a caller would want to hear of them.

use super::{Change, Guard, IfMatch, Item, Operation, QUANTITY_MAX, Quantity, Rejection, TOTAL_MAX};
use crate::number::Epoch;
use crate::planted::{Bug, planted};

/// What the ledger knows that the item does not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// The ledger's present epoch, part of the item's entity tag.
    pub epoch: Epoch,
    /// Units that came, less those that went, after the position at which a count was true; other counts move nothing.
    pub moved_since_count: i64,
}

/// Decides one operation on one item (`None`: there is none). The change is what happens if it is recorded; nothing has
/// changed yet.
///
/// A count and a correction tell what is on the shelf: they are not refused because units are promised. If fewer are left
/// than that ([`shortage`]), fewer are set aside with the change, and reservations are ended.
pub fn decide(item: Option<&Item>, operation: &Operation, guard: &Guard, facts: Facts) -> Result<Change, Rejection> {
    let existing = || {
        let item = item.ok_or(Rejection::UnknownProduct)?;
        unchanged(item, guard, facts.epoch)?;
        Ok(item)
    };
    match operation {
        Operation::Create { .. } if item.is_some() => Err(Rejection::AlreadyExists),
        Operation::Create { name, quantity, low_at } => {
            within(*quantity, TOTAL_MAX)?;
            Ok(Change::Created { name: name.clone(), quantity: *quantity, low_at: *low_at })
        }
        Operation::Sell { quantity } => take(existing()?, *quantity),
        Operation::Receive { quantity } => {
            let item = existing()?;
            if !planted(Bug::ReceivedThoughDiscontinued) {
                carried(item)?;
            }
            within(item.quantity + quantity.get(), TOTAL_MAX)?;
            Ok(Change::Moved(quantity.get()))
        }
        Operation::Adjust { delta, .. } => {
            let item = existing()?;
            within(delta.saturating_abs(), QUANTITY_MAX)?;
            if *delta < 0 && item.quantity + delta < 0 {
                return Err(insufficient(item, -delta));
            }
            within(item.quantity + delta, TOTAL_MAX)?;
            Ok(Change::Moved(*delta))
        }
        Operation::Count { quantity, .. } => {
            let item = existing()?;
            within(*quantity, TOTAL_MAX)?;
            // More sold since than was counted: the count was wrong, and nothing is left as far as anyone knows.
            let now = quantity.saturating_add(facts.moved_since_count).max(0);
            within(now, TOTAL_MAX)?;
            if now < item.reserved && planted(Bug::CountBelowHeldRefused) {
                return Err(insufficient(item, item.quantity - now));
            }
            let before = if planted(Bug::CountByDifference) { 0 } else { item.quantity };
            Ok(Change::Moved(now - before))
        }
        Operation::Change { name, discontinued, low_at } => {
            existing()?;
            Ok(Change::Changed { name: name.clone(), discontinued: *discontinued, low_at: *low_at })
        }
        Operation::Allot { quantity } => allot(existing()?, *quantity),
    }
}

/// Decides whether so many units may be set aside. More are set aside at once; fewer once central has released them.
fn allot(item: &Item, units: i64) -> Result<Change, Rejection> {
    carried(item)?;
    within(units, TOTAL_MAX)?;
    let more = units - item.allotted;
    if more > item.available() {
        return Err(insufficient(item, more));
    }
    if more < 0 && planted(Bug::AllotmentLoweredAtOnce) {
        return Ok(Change::Allotted { by: more, wanted: None });
    }
    Ok(Change::Allotted { by: more.max(0), wanted: (more < 0).then_some(units) })
}

/// So many units fewer are there after the change than are promised.
pub fn shortage(item: &Item, change: &Change) -> i64 {
    match change {
        Change::Moved(delta) => (-delta - item.available()).max(0),
        Change::Bought { units, of_allotment } => (units - of_allotment - item.available()).max(0),
        Change::Created { .. }
        | Change::Changed { .. }
        | Change::Allotted { .. }
        | Change::Reserved(_)
        | Change::Fulfilled { .. } => 0,
    }
}

/// Decides whether an online purchase may take units off the shelf; so many of them out of what is set aside, as far as they
/// are there, and the rest like a till.
pub fn decide_purchase(item: Option<&Item>, quantity: Quantity, from_allotment: i64) -> Result<Change, Rejection> {
    let item = item.ok_or(Rejection::UnknownProduct)?;
    if !planted(Bug::SoldOnlineThoughDiscontinued) {
        carried(item)?;
    }
    let of_allotment = from_allotment.min(item.allotted);
    let at_most = item.available() + of_allotment + i64::from(planted(Bug::SellOneMore));
    if quantity.get() > at_most {
        return Err(insufficient(item, quantity.get()));
    }
    Ok(Change::Bought { units: quantity.get(), of_allotment })
}

/// What an online purchase takes that central has confirmed: it is never refused. What is not set aside any more is taken like
/// a till would, and what is not there is missing ([`shortage`]).
pub fn decide_sold(item: &Item, quantity: Quantity, from_allotment: i64) -> Change {
    let of_allotment = if planted(Bug::SoldOffTheShelf) { 0 } else { from_allotment.min(item.allotted) };
    Change::Bought { units: quantity.get(), of_allotment }
}

/// Decides whether a cancelled purchase's units may come back: always, if the store has the item.
pub fn decide_return(item: Option<&Item>, quantity: Quantity) -> Result<Change, Rejection> {
    let units = if planted(Bug::CancelledWithoutUnits) { 0 } else { quantity.get() };
    item.map(|_| Change::Moved(units)).ok_or(Rejection::UnknownProduct)
}

fn unchanged(item: &Item, guard: &Guard, epoch: Epoch) -> Result<(), Rejection> {
    let matches = match &guard.if_match {
        None | Some(IfMatch::Any) => true,
        Some(IfMatch::Versions(tags)) => tags.contains(&(epoch, item.version)),
    };
    if !matches {
        return Err(Rejection::PreconditionFailed { current_version: item.version });
    }
    match guard.expected_version {
        Some(expected) if expected != item.version && !planted(Bug::GuardIgnored) => {
            Err(Rejection::VersionConflict { current_version: item.version })
        }
        _ => Ok(()),
    }
}

fn carried(item: &Item) -> Result<(), Rejection> {
    if item.discontinued { Err(Rejection::Discontinued) } else { Ok(()) }
}

fn take(item: &Item, quantity: Quantity) -> Result<Change, Rejection> {
    let requested = quantity.get();
    let at_most = item.available() + i64::from(planted(Bug::SellOneMore));
    if requested <= at_most { Ok(Change::Moved(-requested)) } else { Err(insufficient(item, requested)) }
}

pub(crate) fn insufficient(item: &Item, requested: i64) -> Rejection {
    Rejection::insufficient(item, requested, item.available())
}

fn within(number: i64, most: i64) -> Result<(), Rejection> {
    if (0..=most).contains(&number) { Ok(()) } else { Err(Rejection::LimitExceeded { product_id: None }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{LowAt, Reason, allotment, apply};
    use crate::time::Millis;

    fn item(quantity: i64) -> Item {
        Item { name: "Coffee".into(), quantity, version: 1, ..Item::default() }
    }

    fn units(units: i64) -> Quantity {
        Quantity::try_from(units).expect("in range")
    }

    fn given(item: Option<&Item>, operation: &Operation) -> Result<Change, Rejection> {
        decide(item, operation, &Guard::default(), Facts::default())
    }

    #[test]
    fn the_last_unit_is_sold_once() {
        let one = item(1);
        let change = given(Some(&one), &Operation::Sell { quantity: units(1) }).expect("there is one");
        let none = apply(Some(&one), &change, Millis(5));
        assert_eq!((none.quantity, none.version, none.updated_at), (0, 2, Millis(5)));
        let refused = given(Some(&none), &Operation::Sell { quantity: units(1) });
        assert!(matches!(refused, Err(Rejection::InsufficientStock { requested: 1, available: 0, .. })));
    }

    #[test]
    fn tills_cannot_take_what_is_set_aside() {
        let held = Item { quantity: 5, reserved: 2, allotted: 2, ..item(5) };
        assert!(given(Some(&held), &Operation::Sell { quantity: units(1) }).is_ok());
        assert!(given(Some(&held), &Operation::Sell { quantity: units(2) }).is_err());
    }

    #[test]
    fn what_is_on_the_shelf_is_not_refused_for_what_is_reserved() {
        let held = Item { quantity: 5, reserved: 3, ..item(5) };
        let adjust = |delta| given(Some(&held), &Operation::Adjust { delta, reason: Reason::Damage, note: None });
        let count = |quantity| given(Some(&held), &Operation::Count { quantity, counted_at: None, count_ref: None });
        for (left, missing) in [(9, 0), (3, 0), (2, 1), (0, 3)] {
            let change = Change::Moved(left - 5);
            assert_eq!((count(left), adjust(left - 5)), (Ok(change.clone()), Ok(change.clone())));
            assert_eq!(shortage(&held, &change), missing);
        }
        assert!(matches!(
            adjust(-6),
            Err(Rejection::InsufficientStock { requested: 6, quantity: 5, available: 2, .. })
        ));
    }

    #[test]
    fn what_is_on_the_shelf_is_not_refused_for_what_is_set_aside() {
        let held = Item { quantity: 5, reserved: 1, allotted: 2, ..item(5) };
        let adjust = |delta| given(Some(&held), &Operation::Adjust { delta, reason: Reason::Damage, note: None });
        let count = |quantity| given(Some(&held), &Operation::Count { quantity, counted_at: None, count_ref: None });
        for left in [2, 1, 0] {
            let change = Change::Moved(left - 5);
            assert_eq!((adjust(left - 5), count(left)), (Ok(change.clone()), Ok(change)));
        }
        assert!(matches!(adjust(-6), Err(Rejection::InsufficientStock { requested: 6, available: 2, .. })));
    }

    #[test]
    fn a_purchase_is_short_of_what_is_neither_set_aside_nor_on_the_shelf() {
        let held = Item { reserved: 1, allotted: 2, ..item(5) };
        let bought = |units| Change::Bought { units, of_allotment: 2 };
        assert_eq!([4, 5, 6].map(|units| shortage(&held, &bought(units))), [0, 1, 2]);
        let online = |most| decide_purchase(Some(&held), units(most), 9);
        assert_eq!(online(4), Ok(bought(4)), "all there is, which is no more than is set aside and on the shelf");
        assert!(matches!(online(5), Err(Rejection::InsufficientStock { requested: 5, available: 2, .. })));
    }

    #[test]
    fn no_item_has_more_units_than_one_may_have() {
        let full = item(TOTAL_MAX - 1);
        let receive = |most| given(Some(&full), &Operation::Receive { quantity: units(most) });
        let adjust = |delta| given(Some(&full), &Operation::Adjust { delta, reason: Reason::Found, note: None });
        assert_eq!((receive(1), adjust(1)), (Ok(Change::Moved(1)), Ok(Change::Moved(1))));
        assert_eq!(
            (receive(2), adjust(2)),
            (Err(Rejection::LimitExceeded { product_id: None }), Err(Rejection::LimitExceeded { product_id: None }))
        );
    }

    #[test]
    fn an_expected_version_is_the_present_one_or_a_conflict() {
        let guarded = |version| {
            let guard = Guard { expected_version: Some(version), ..Guard::default() };
            decide(Some(&item(1)), &Operation::Sell { quantity: units(1) }, &guard, Facts::default())
        };
        assert_eq!(guarded(1), Ok(Change::Moved(-1)));
        assert_eq!(guarded(2), Err(Rejection::VersionConflict { current_version: 1 }));
    }

    #[test]
    fn nothing_but_create_makes_an_item() {
        assert_eq!(given(None, &Operation::Receive { quantity: units(1) }), Err(Rejection::UnknownProduct));
        let create = Operation::Create { name: "Tea".into(), quantity: 0, low_at: None };
        assert!(given(None, &create).is_ok());
        assert_eq!(given(Some(&item(0)), &create), Err(Rejection::AlreadyExists));
    }

    #[test]
    fn a_discontinued_item_is_only_sold_off_at_the_till() {
        let gone = Item { discontinued: true, ..item(2) };
        assert!(given(Some(&gone), &Operation::Sell { quantity: units(1) }).is_ok());
        assert_eq!(decide_purchase(Some(&gone), units(1), 0), Err(Rejection::Discontinued));
        assert_eq!(given(Some(&gone), &Operation::Receive { quantity: units(1) }), Err(Rejection::Discontinued));
    }

    #[test]
    fn if_match_is_judged_before_the_expected_version() {
        let guard = Guard { expected_version: Some(9), if_match: Some(IfMatch::Versions(vec![(7.into(), 1)])) };
        let judge = |epoch: u32| {
            let epoch = epoch.into();
            decide(Some(&item(1)), &Operation::Sell { quantity: units(1) }, &guard, Facts { epoch, ..Facts::default() })
        };
        assert_eq!(judge(8), Err(Rejection::PreconditionFailed { current_version: 1 }));
        assert_eq!(judge(7), Err(Rejection::VersionConflict { current_version: 1 }));
    }

    #[test]
    fn a_count_keeps_what_was_sold_after_it() {
        let facts = Facts { epoch: 1.into(), moved_since_count: -3 };
        let count = |quantity| Operation::Count { quantity, counted_at: None, count_ref: None };
        let counted = |quantity| decide(Some(&item(50)), &count(quantity), &Guard::default(), facts);
        assert_eq!((counted(10), counted(2)), (Ok(Change::Moved(7 - 50)), Ok(Change::Moved(-50))));
    }

    #[test]
    fn low_stock_is_said_once_until_it_recovers() {
        let watched = Item { low_at: Some(10), ..item(12) };
        let moved = |before: &Item, delta| apply(Some(before), &Change::Moved(delta), Millis(1));
        let low = moved(&watched, -2);
        assert!(low.low && low.has_fallen_low(Some(&watched)));
        assert!(!moved(&low, -1).has_fallen_low(Some(&low)));
        let eleven = moved(&low, 1);
        assert!(eleven.low, "a tenth above the threshold is still low");
        assert!(!moved(&low, 2).low);
    }

    #[test]
    fn one_unit_more_or_less_does_not_make_low_stock_flicker() {
        let moved = |before: &Item, delta| apply(Some(before), &Change::Moved(delta), Millis(1));
        for at in [1, 5, 9] {
            let above = Item { low_at: Some(at), ..item(at + 1) };
            let low = moved(&above, -1);
            assert!(low.has_fallen_low(Some(&above)), "{at}");
            let back = moved(&low, 1);
            assert!(back.low && !moved(&back, -1).has_fallen_low(Some(&back)), "{at}");
            assert!(!moved(&low, 2).low, "{at}");
        }
        let none = Item { low_at: Some(0), ..item(0) };
        assert!(!moved(&none, 1).low, "one is more than none");
    }

    #[test]
    fn low_are_the_units_that_can_be_sold() {
        let held = Item { reserved: 3, allotted: 4, low_at: Some(2), ..item(10) };
        assert!(apply(Some(&held), &Change::Moved(-1), Millis(1)).has_fallen_low(Some(&held)));
    }

    #[test]
    fn a_threshold_can_be_raised_above_the_stock_and_taken_off() {
        let changed = |before: &Item, low_at| {
            let operation = Operation::Change { name: None, discontinued: None, low_at: Some(low_at) };
            apply(Some(before), &given(Some(before), &operation).expect("may be done"), Millis(1))
        };
        let watched = Item { low_at: Some(2), ..item(5) };
        let low = changed(&watched, LowAt::Units(5));
        assert!(low.has_fallen_low(Some(&watched)));
        let off = changed(&low, LowAt::OFF);
        assert!(!off.has_fallen_low(Some(&low)), "that is no low stock");
        assert_eq!((off.low, off.low_at, off.version), (false, None, 3));
    }

    fn operations() -> impl Strategy<Value = Operation> {
        prop_oneof![
            (1..=QUANTITY_MAX).prop_map(|most| Operation::Sell { quantity: units(most) }),
            (1..=20i64).prop_map(|few| Operation::Sell { quantity: units(few) }),
            (1..=QUANTITY_MAX).prop_map(|most| Operation::Receive { quantity: units(most) }),
            (-30..=30i64).prop_map(|delta| Operation::Adjust { delta, reason: Reason::Other, note: None }),
            (0..=TOTAL_MAX).prop_map(|quantity| Operation::Count { quantity, counted_at: None, count_ref: None }),
            any::<bool>().prop_map(|gone| Operation::Change {
                name: None,
                discontinued: Some(gone),
                low_at: Some(LowAt::Units(5))
            }),
        ]
    }

    proptest! {
        #[test]
        fn stock_is_never_negative_and_versions_have_no_gap(operations in prop::collection::vec(operations(), 1..60)) {
            let created = Change::Created { name: "x".into(), quantity: 10, low_at: Some(3) };
            let mut item = Item { reserved: 2, allotted: 3, ..apply(None, &created, Millis(0)) };
            for operation in operations {
                let Ok(change) = given(Some(&item), &operation) else { continue };
                if let Some(cut) = allotment::cut(&item, &change) {
                    item = apply(Some(&item), &cut, Millis(1));
                }
                let missing = shortage(&item, &change);
                let is_of_the_shelf = matches!(operation, Operation::Count { .. } | Operation::Adjust { .. });
                prop_assert!(missing == 0 || is_of_the_shelf && missing <= item.reserved);
                item = apply(Some(&item), &Change::Reserved(-missing), Millis(1));
                let before = item.clone();
                item = apply(Some(&item), &change, Millis(1));
                prop_assert!(item.quantity >= 0 && item.available() >= 0 && item.quantity <= TOTAL_MAX);
                prop_assert_eq!(item.version, before.version + 1);
            }
        }
    }
}
