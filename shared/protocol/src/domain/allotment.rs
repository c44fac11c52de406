//! Units that a store sets aside for online sale. Tills cannot sell them, so that central may, at once and without asking.
//!
//! **Guarantees.** The store alone raises what is set aside, at most by what is available. It is lowered only by what central
//! says it has not sold ([`release`]), and never below what is wanted. Physical loss is no choice: what is not there is not
//! set aside any more ([`cut`]), before any reservation falls short.

use serde::{Deserialize, Serialize};

use super::{Change, Item, shortage};
use crate::planted::{Bug, planted};

/// Central has not sold so many of them: what becomes of the item. `None`: no fewer are wanted any more.
pub fn release(item: &Item, units: i64) -> Option<Change> {
    let wanted = if planted(Bug::ReleasedThoughNotWanted) { Some(0) } else { item.allotment_wanted };
    let wanted = wanted.filter(|wanted| *wanted < item.allotted)?;
    let most = if planted(Bug::ReleasedBelowWanted) { item.allotted } else { item.allotted - wanted };
    Some(Change::Allotted { by: -units.min(most), wanted: Some(wanted) })
}

/// Fewer units are left after the change than are promised: those set aside are the first that are not any more. `None`:
/// they need not be touched.
pub fn cut(item: &Item, change: &Change) -> Option<Change> {
    let first = if planted(Bug::HoldsCutFirst) { item.reserved } else { 0 };
    let units = (shortage(item, change) - first).min(item.allotted);
    (units > 0).then_some(Change::Allotted { by: -units, wanted: item.allotment_wanted })
}

/// By which rule a store sets units aside by itself. The default sets none aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// So much of the quantity, 0 to 100 percent, rounded down.
    pub percent: i64,
    /// So many units at least, as far as they are there.
    pub minimum: i64,
}

impl Rule {
    /// What it changes about an item: it raises and never lowers, and it does not stand against somebody who lowers.
    /// `None`: nothing.
    pub fn raise(&self, item: &Item) -> Option<Change> {
        if item.discontinued || item.allotment_wanted.is_some() {
            return None;
        }
        let share = item.quantity * self.percent / 100;
        let by = (share.max(self.minimum) - item.allotted).min(item.available());
        (by > 0).then_some(Change::Allotted { by, wanted: None })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Guard, Operation, Reason, Rejection, apply, decide};
    use crate::time::Millis;

    fn item(quantity: i64, reserved: i64, allotted: i64, allotment_wanted: Option<i64>) -> Item {
        Item { name: "Tea".into(), quantity, reserved, allotted, allotment_wanted, version: 1, ..Item::default() }
    }

    fn figures(item: &Item) -> (i64, Option<i64>, i64) {
        (item.allotted, item.allotment_wanted, item.available())
    }

    fn after(before: &Item, change: &Change) -> Item {
        apply(Some(before), change, Millis(1))
    }

    fn allotted(before: &Item, units: i64) -> Result<(i64, Option<i64>, i64), Rejection> {
        let change =
            decide(Some(before), &Operation::Allot { quantity: units }, &Guard::default(), Default::default())?;
        Ok(figures(&after(before, &change)))
    }

    #[test]
    fn more_is_set_aside_at_once_and_fewer_when_central_agrees() {
        let tea = item(10, 2, 3, None);
        assert_eq!(allotted(&tea, 8), Ok((8, None, 0)));
        assert_eq!(allotted(&tea, 3), Ok((3, None, 5)));
        assert_eq!(allotted(&tea, 1), Ok((3, Some(1), 5)));
        assert!(matches!(
            allotted(&tea, 9),
            Err(Rejection::InsufficientStock { requested: 6, allotted: 3, available: 5, .. })
        ));
        let lowered = item(10, 2, 3, Some(1));
        assert_eq!((allotted(&lowered, 3), allotted(&lowered, 4)), (Ok((3, None, 5)), Ok((4, None, 4))));
        let gone = Item { discontinued: true, ..tea };
        assert_eq!(allotted(&gone, 4), Err(Rejection::Discontinued));
    }

    #[test]
    fn what_is_released_is_what_is_wanted_and_no_more() {
        for (wanted, units, is) in [
            (Some(2), 3, Some((5, Some(2), 5))),
            (Some(2), 6, Some((2, None, 8))),
            (Some(2), 9, Some((2, None, 8))),
            (Some(0), 9, Some((0, None, 10))),
            (None, 3, None),
        ] {
            let tea = item(10, 0, 8, wanted);
            assert_eq!(release(&tea, units).map(|change| figures(&after(&tea, &change))), is, "{wanted:?} {units}");
        }
    }

    #[test]
    fn of_what_is_lost_the_units_set_aside_are_the_first() {
        let tea = item(10, 3, 4, Some(2));
        let lost = |units: i64| Change::Moved(-units);
        assert_eq!(cut(&tea, &lost(3)), None);
        let cut_by = |units| cut(&tea, &lost(units)).map(|change| after(&tea, &change));
        assert_eq!(cut_by(4).as_ref().map(figures), Some((3, Some(2), 4)));
        assert_eq!(cut_by(6).as_ref().map(figures), Some((1, None, 6)));
        let all = cut_by(9).expect("too few are left");
        assert_eq!((figures(&all), shortage(&all, &lost(9))), ((0, None, 7), 2), "the rest is of the reservations");
    }

    #[test]
    fn what_is_no_longer_carried_is_not_set_aside() {
        let tea = item(10, 0, 4, None);
        let gone = Change::Changed { name: None, discontinued: Some(true), low_at: None };
        assert_eq!(figures(&after(&tea, &gone)), (4, Some(0), 6));
        assert_eq!(figures(&after(&item(10, 0, 0, None), &gone)), (0, None, 10));
    }

    #[test]
    fn a_rule_sets_aside_a_share_or_a_minimum_of_what_is_there() {
        let rule = Rule { percent: 20, minimum: 3 };
        let raised = |item: &Item| rule.raise(item).map(|change| after(item, &change).allotted);
        assert_eq!(raised(&item(29, 0, 0, None)), Some(5));
        assert_eq!(raised(&item(29, 25, 0, None)), Some(4));
        assert_eq!(raised(&item(9, 0, 1, None)), Some(3));
        assert_eq!(raised(&item(2, 0, 0, None)), Some(2));
        assert_eq!((raised(&item(29, 0, 7, None)), raised(&item(3, 3, 0, None))), (None, None));
        assert_eq!(raised(&item(29, 0, 4, Some(1))), None, "somebody lowers it");
        assert_eq!(raised(&Item { discontinued: true, ..item(29, 0, 0, None) }), None);
        assert_eq!(Rule::default().raise(&item(29, 0, 0, None)), None);
    }

    proptest! {
        #[test]
        fn whatever_happens_what_is_set_aside_is_there(steps in prop::collection::vec((0..7_u8, 0..15_i64), 1..60)) {
            let mut tea = item(12, 0, 0, None);
            let rule = Rule { percent: 30, minimum: 2 };
            for (step, units) in steps {
                let decided = |operation| decide(Some(&tea), &operation, &Guard::default(), Default::default()).ok();
                let change = match step {
                    0 => decided(Operation::Allot { quantity: units }),
                    1 => decided(Operation::Adjust { delta: -units - 1, reason: Reason::Damage, note: None }),
                    2 => decided(Operation::Count { quantity: units, counted_at: None, count_ref: None }),
                    3 => release(&tea, units + 1),
                    4 => rule.raise(&tea),
                    5 => units.try_into().ok().and_then(|quantity| decided(Operation::Sell { quantity })),
                    _ => units.try_into().ok().and_then(|quantity| decided(Operation::Receive { quantity })),
                };
                let Some(change) = change else { continue };
                if let Some(cut) = cut(&tea, &change) {
                    tea = after(&tea, &cut);
                }
                tea = after(&tea, &change);
                prop_assert!(tea.available() >= 0 && tea.allotted >= 0);
                prop_assert!(tea.allotment_wanted.is_none_or(|wanted| wanted < tea.allotted));
            }
        }
    }
}
