//! Units are set aside for online sale, and given back to the tills. That happens in a part of the seeds and by dice of its
//! own, so that the others play as if there were no such thing.

use protocol::domain::allotment::Rule;
use protocol::domain::{Line, Operation};
use protocol::ids::{ProductId, StoreId};
use protocol::promise::policy::Policy;
use store_agent::ledger;

use super::DENSE;
use super::virtual_world::VirtualWorld;
use crate::Dice;
use crate::judge;

/// Those who set units aside, of one seed.
pub(super) struct Allotting {
    dice: Dice,
    /// Whether there are any.
    pub(super) happens: bool,
    /// What stores set aside by themselves.
    rule: Rule,
    /// Central sells what is set aside although nothing was heard of the store.
    pub(super) sells_offline: bool,
}

impl Allotting {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x616c_6c6f_746d_656e);
        let happens = dice.chance(300) | (seed >= DENSE && seed.is_multiple_of(3));
        let rule = match dice.below(3) {
            0 => Rule { percent: dice.between(10, 60), minimum: dice.between(0, 3) },
            _ => Rule::default(),
        };
        let sells_offline = happens && dice.chance(500);
        Self { dice, happens, rule: if happens { rule } else { Rule::default() }, sells_offline }
    }
}

impl VirtualWorld {
    /// A new database has the store's rule, which the judge knows.
    pub(super) fn give_rule(&mut self, store: &StoreId, file: &rusqlite::Connection) {
        let rule = self.allotting.rule;
        if rule != Rule::default() {
            ledger::allotment::set_rule(file, &rule).expect("the rule can be written");
            let known = judge::Rule { percent: rule.percent, minimum: rule.minimum };
            self.oracle.book.rules.insert(store.as_str().into(), known);
        }
    }

    /// Now and then somebody sets units aside, or gives them back.
    pub(super) fn set_units_aside(&mut self) {
        let chance = if self.calm { 4 } else { 70 };
        if !self.allotting.happens || !self.allotting.dice.chance(chance) {
            return;
        }
        match self.allotting.dice.below(14) {
            0..=4 => self.allot(),
            5..=7 => self.allot_through_central(),
            8..=9 => self.lose_units(),
            _ => self.look_for_what_is_aside(),
        }
    }

    fn some_product(&mut self) -> Option<ProductId> {
        self.allotting.dice.pick(&self.products).cloned()
    }

    fn allot(&mut self) {
        let number = self.allotting.dice.below(self.agents.len() as u64) as usize;
        let Some(product) = self.some_product().filter(|_| self.agents[number].runs) else { return };
        let item = ledger::find_item(&self.agents[number].file, &product).expect("stock can be read");
        let Some(item) = item else { return };
        let dice = &mut self.allotting.dice;
        let quantity = match dice.below(10) {
            0..=4 => item.allotted + item.available().min(dice.between(1, 6)),
            5..=8 => (item.allotted - dice.between(1, 4)).max(0),
            _ => dice.between(0, 20),
        };
        if self.operate(number, product, Operation::Allot { quantity }) {
            self.count("units set aside");
            if quantity < item.allotted {
                self.count("fewer units wanted aside");
            }
        }
    }

    fn allot_through_central(&mut self) {
        let (Some(store), Some(product)) = (self.allotting.dice.pick(&self.stores).cloned(), self.some_product())
        else {
            return;
        };
        let quantity = self.allotting.dice.between(0, 6);
        if self.central.runs {
            self.command_of(store, product, Operation::Allot { quantity });
        }
    }

    /// A buyer wants what a store has set aside, as central sees it, and one more now and then.
    fn look_for_what_is_aside(&mut self) {
        let file = &self.central.file;
        let mut aside = Vec::new();
        for store in &self.stores {
            for product in &self.products {
                let item = central::storage::items::find(file, store, product).expect("the view can be read");
                if let Some(item) = item.filter(|item| item.allotted > 0) {
                    aside.push((store.clone(), product.clone(), item.allotted));
                }
            }
        }
        let dice = &mut self.allotting.dice;
        let Some((store, product_id, allotted)) = dice.pick(&aside).cloned() else { return };
        let quantity = dice.units(1, (allotted + 1).min(6));
        let was_silent = self.allotting.sells_offline && self.allotting.dice.chance(400);
        let policy = self.allotting.dice.chance(200).then_some(Policy::HighestAvailable);
        self.look_at_store(store, Line { product_id, quantity }, policy, was_silent);
    }

    /// Staff finds fewer units than are promised.
    fn lose_units(&mut self) {
        let number = self.allotting.dice.below(self.agents.len() as u64) as usize;
        let Some(product) = self.some_product().filter(|_| self.agents[number].runs) else { return };
        let item = ledger::find_item(&self.agents[number].file, &product).expect("stock can be read");
        let Some(item) = item.filter(|item| item.allotted > 0) else { return };
        let left = self.allotting.dice.between(0, item.reserved + item.allotted);
        let count = Operation::Count { quantity: left, counted_at: None, count_ref: None };
        if self.operate(number, product, count) && left < item.reserved + item.allotted {
            self.count("units lost that were set aside");
        }
    }
}
