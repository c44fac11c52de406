//! Reconciliations: how a list of counted products differs from what a store is believed to have, and the batch of counts
//! that sets it right.

use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;

use protocol::domain::{Operation, TOTAL_MAX};
use protocol::ids::{ProductId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::wire::{About, BATCH_MAX, BatchLine, Command, Position};

use crate::storage::stores::{self, Store};
use crate::storage::{Abort, Connection, reconciliations};

/// Products named as missing from a list, at most: how many a store has is not the client's choice.
const MISSING_MAX: usize = 10_000;

/// Entries of a store's ledger since the count that are added up, at most.
const MOVES_MAX: u64 = 1_000_000;

/// A product of which the list says something else than the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Different {
    pub product: ProductId,
    /// What was counted.
    pub counted: i64,
    /// Units more that are there than the store believes.
    pub difference: i64,
    /// Units that are there now.
    pub now: i64,
}

/// How a list and a store's stock differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Products of which both say the same.
    pub equal: usize,
    /// In order of their ids, as all of these.
    pub different: Vec<Different>,
    /// Products of the store that the list leaves out, and what the store believed to have when it was counted.
    pub missing: Vec<(ProductId, i64)>,
    /// More of them than are named.
    pub missing_left_out: usize,
    /// What was counted of products that the store does not have.
    pub unknown: Vec<(ProductId, i64)>,
}

/// A comparison, and of what.
#[derive(Debug)]
pub struct Compared {
    pub comparison: Comparison,
    /// The store as it was then.
    pub store: Store,
    /// It was said when the shelves were counted.
    is_dated: bool,
}

impl Compared {
    /// Where the view stood.
    pub fn position(&self) -> Position {
        Position { store: self.store.id.clone(), at: self.store.state.id() }
    }

    /// The batch that sets right what differs, all of it or nothing. What moves behind the place of the comparison the store
    /// adds itself; if nobody said when the shelves were counted, the count is true when the store does it.
    pub fn command(&self, about: About) -> Result<Command, Refusal> {
        let at = (self.is_dated && !planted(Bug::ListCountedWhenDone)).then(|| self.position());
        self.comparison.command(at.as_ref(), about)
    }
}

/// Why a list cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotComparable {
    UnknownStore,
    /// The store's state has not arrived in full.
    NotCaughtUp,
    /// It was counted at no place of the store's present epoch, or at one that central has not reached.
    NotAPosition,
    /// It was counted at a place too many entries ago.
    TooLongAgo,
}

/// Compares a list of a store's shelves with the view; `counted_at`: where the store's ledger stood when they were counted.
pub fn compare(
    connection: &Connection,
    store: &StoreId,
    list: &BTreeMap<ProductId, i64>,
    counted_at: Option<&Position>,
) -> Result<Compared, Abort<NotComparable>> {
    let Some(store) = stores::find(connection, store)? else { return Err(Abort::Refused(NotComparable::UnknownStore)) };
    if !store.complete {
        return Err(Abort::Refused(NotComparable::NotCaughtUp));
    }
    let state = store.state.id();
    let mut moved = HashMap::new();
    if let Some(Position { at, .. }) = counted_at {
        let is_of_another = at.epoch != state.epoch && !planted(Bug::ListOfAnotherEpochCompared);
        if is_of_another || *at > state {
            return Err(Abort::Refused(NotComparable::NotAPosition));
        }
        if state.seq - at.seq > MOVES_MAX {
            return Err(Abort::Refused(NotComparable::TooLongAgo));
        }
        moved = reconciliations::moved_since(connection, &store, *at)?;
    }
    if planted(Bug::MovedSinceListIsDifference) {
        moved.clear();
    }
    let mut comparing = Comparing::new(list, &moved);
    reconciliations::quantities(connection, store.stock, |product, quantity, is_shown| {
        comparing.product(product, quantity, is_shown);
    })?;
    Ok(Compared { comparison: comparing.finish(), store, is_dated: counted_at.is_some() })
}

/// A comparison that is being made.
struct Comparing<'a> {
    list: Peekable<std::collections::btree_map::Iter<'a, ProductId, i64>>,
    moved: &'a HashMap<String, i64>,
    comparison: Comparison,
}

impl<'a> Comparing<'a> {
    /// Of what was counted. `moved`: units that came since, or went.
    fn new(list: &'a BTreeMap<ProductId, i64>, moved: &'a HashMap<String, i64>) -> Self {
        Self { list: list.iter().peekable(), moved, comparison: Comparison::default() }
    }

    /// The store's next product, in order of their ids. `is_shown`: whether it is missed if it was not counted.
    fn product(&mut self, product: &str, quantity: i64, is_shown: bool) {
        self.pass(|listed| listed.as_str() < product);
        let moved = self.moved.get(product).copied().unwrap_or_default();
        let Some((listed, counted)) = self.list.next_if(|(listed, _)| listed.as_str() == product) else {
            if is_shown {
                self.miss(product, quantity - moved);
            }
            return;
        };
        // More went since than was counted: the count was wrong, and nothing is left as far as anyone knows.
        let now = counted.saturating_add(moved).max(0);
        if now == quantity {
            self.comparison.equal += 1;
        } else {
            let different = Different { product: listed.clone(), counted: *counted, difference: now - quantity, now };
            self.comparison.different.push(different);
        }
    }

    fn miss(&mut self, product: &str, expected: i64) {
        let Comparison { missing, different, .. } = &mut self.comparison;
        match ProductId::parse(product) {
            Ok(product) if planted(Bug::MissingIsEmptied) => {
                different.push(Different { product, counted: 0, difference: -expected, now: 0 });
            }
            Ok(product) if missing.len() < MISSING_MAX => missing.push((product, expected)),
            Ok(_) | Err(_) => self.comparison.missing_left_out += 1,
        }
    }

    /// What the store has nothing of.
    fn pass(&mut self, is_passed: impl Fn(&ProductId) -> bool) {
        while let Some((product, counted)) = self.list.next_if(|(product, _)| is_passed(product)) {
            self.comparison.unknown.push((product.clone(), *counted));
        }
    }

    /// All of the store's products have been told.
    fn finish(mut self) -> Comparison {
        self.pass(|_| true);
        self.comparison
    }
}

/// Why what differs cannot be counted by one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// So many products differ that they are no one batch.
    TooManyDiffer,
    /// There would be more of it than there may be of anything.
    TooMuch(ProductId),
}

impl Comparison {
    /// `at`: the place up to which `now` is known. `None`: whatever the place.
    fn command(&self, at: Option<&Position>, about: About) -> Result<Command, Refusal> {
        if self.different.len() > BATCH_MAX {
            return Err(Refusal::TooManyDiffer);
        }
        let line = |Different { product, now, .. }: &Different| {
            if *now > TOTAL_MAX {
                return Err(Refusal::TooMuch(product.clone()));
            }
            Ok(BatchLine {
                product_id: product.clone(),
                operation: Operation::Count { quantity: *now, counted_at: at.cloned(), count_ref: None },
                expected_version: None,
                reference: None,
                occurred_at: None,
            })
        };
        let lines = self.different.iter().map(line).collect::<Result<_, _>>()?;
        Ok(Command::Batch { lines, atomic: !planted(Bug::ListCorrectedInPart), about })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::product;

    fn compared(list: &[(&str, i64)], moved: &[(&str, i64)], stock: &[(&str, i64)]) -> Comparison {
        let list = list.iter().map(|(name, counted)| (product(name), *counted)).collect();
        let moved = moved.iter().map(|(name, units)| ((*name).to_owned(), *units)).collect();
        let mut comparing = Comparing::new(&list, &moved);
        stock.iter().for_each(|(name, quantity)| comparing.product(name, *quantity, *quantity > 0));
        comparing.finish()
    }

    fn different(name: &str, counted: i64, difference: i64, now: i64) -> Different {
        Different { product: product(name), counted, difference, now }
    }

    #[test]
    fn each_product_is_equal_different_missing_or_unknown() {
        let list = [("ale", 1), ("bun", 4), ("jam", 0), ("tea", 9), ("zest", 2)];
        let found = compared(&list, &[], &[("bun", 4), ("cod", 7), ("gone", 0), ("jam", 2), ("tea", 7)]);
        let expected = Comparison {
            equal: 1,
            different: vec![different("jam", 0, -2, 0), different("tea", 9, 2, 9)],
            missing: vec![(product("cod"), 7)],
            missing_left_out: 0,
            unknown: vec![(product("ale"), 1), (product("zest"), 2)],
        };
        assert_eq!(found, expected);
        assert_eq!(compared(&[("ale", 1)], &[], &[]).unknown, [(product("ale"), 1)]);
    }

    #[test]
    fn what_has_moved_since_the_count_is_no_difference() {
        let moved = [("bun", -3), ("cod", 5), ("jam", -3), ("tea", 2)];
        let found =
            compared(&[("bun", 10), ("jam", 1), ("tea", 4)], &moved, &[("bun", 7), ("cod", 6), ("jam", 2), ("tea", 8)]);
        assert_eq!(found.equal, 1);
        assert_eq!(found.different, [different("jam", 1, -2, 0), different("tea", 4, -2, 6)]);
        assert_eq!(found.missing, [(product("cod"), 1)], "what it had when it was counted");
    }

    #[test]
    fn more_than_a_client_can_use_is_counted_and_not_named() {
        let names: Vec<String> = (0..MISSING_MAX + 3).map(|number| format!("p{number:05}")).collect();
        let stock: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let found = compared(&[("p00000", 1)], &[], &stock);
        assert_eq!((found.equal, found.missing.len(), found.missing_left_out), (1, MISSING_MAX, 2));
    }

    #[test]
    fn what_differs_is_one_batch_or_is_refused() {
        let position: Position = "s1:7-5".parse().expect("valid");
        let comparison = |lines: usize, now| Comparison {
            different: (0..lines).map(|number| different(&format!("p{number}"), 1, 1, now)).collect(),
            ..Comparison::default()
        };
        let asked = |lines, now| comparison(lines, now).command(Some(&position), About::default());
        let Ok(Command::Batch { lines, atomic: true, .. }) = asked(BATCH_MAX, 3) else { panic!("is a batch") };
        let count = Operation::Count { quantity: 3, counted_at: Some(position.clone()), count_ref: None };
        assert!(lines.len() == BATCH_MAX && lines.iter().all(|line| line.operation == count));
        assert_eq!(asked(BATCH_MAX + 1, 3), Err(Refusal::TooManyDiffer));
        assert_eq!(asked(1, TOTAL_MAX + 1), Err(Refusal::TooMuch(product("p0"))));
    }

    #[test]
    fn the_greatest_batch_fits_into_an_entry() {
        let long = "x".repeat(45);
        let comparison = Comparison {
            different: (0..BATCH_MAX).map(|number| different(&format!("{long}{number:05}"), 1, 1, TOTAL_MAX)).collect(),
            ..Comparison::default()
        };
        let position = format!("{long}12345:1795245256506-123456789012").parse().expect("valid");
        let about = About { reference: Some("\u{1f375}".repeat(100)), ..About::default() };
        let command = comparison.command(Some(&position), about).expect("is a batch");
        assert!(command.encode().len() <= 256 << 10, "{}", command.encode().len());
    }
}
