//! Lists of what was counted in a store, as the judge works them out: how they differ from what central is to believe, what is
//! to be counted at the store because of it, and when nothing may be.
//!
//! What central believes is what the store's operations make up to the place that central has applied; what has moved since a
//! list was counted are the operations behind its place. Of central's tables only those rows are read that a fault has
//! damaged, since a list is compared with what is believed.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::book::{Name, Wish};
use super::oracle::{Oracle, Place, items_of_view, view_differs};
use super::shop::Broken;

/// A list, as staff has sent it.
#[derive(Debug, Clone)]
pub struct List {
    pub store: Name,
    /// By product: units that were counted.
    pub lines: BTreeMap<Name, i64>,
    /// The place in the store's log, epoch and number, at which the shelves were counted; none: nobody has said.
    pub at: Option<(u64, u64)>,
}

/// A product of which a list says something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Different {
    pub product: Name,
    pub counted: i64,
    /// Units more than there should be.
    pub difference: i64,
    /// Units that are there now.
    pub now: i64,
}

/// What a list comes to, in the order of products.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub equal: usize,
    pub different: Vec<Different>,
    /// What should have been there when it was counted.
    pub missing: Vec<(Name, i64)>,
    pub unknown: Vec<(Name, i64)>,
}

impl Report {
    /// What the store is to count, in one batch that is done as a whole or not at all. `place`: where the list was compared.
    pub fn wishes(&self, list: &List, place: Place) -> Vec<(Name, Wish)> {
        let at = list.at.map(|_| (place.epoch, place.seq));
        let wish = |Different { product, now, .. }: &Different| (product.clone(), Wish::Count { units: *now, at });
        self.different.iter().map(wish).collect()
    }
}

impl Oracle {
    /// What a list comes to when it is compared now, and the place at which it is, or why it cannot be compared.
    pub fn compare(
        &mut self,
        central: &Connection,
        list: &List,
    ) -> rusqlite::Result<Result<(Report, Place), &'static str>> {
        let store = &*list.store;
        let mut known = central.prepare_cached("select 1 from store where store_id = ?1")?;
        if !known.exists([store])? {
            return Ok(Err("unknown_store"));
        }
        let place = Place::of_view(central, store)?;
        if place == Place::default() {
            return Ok(Err("not_caught_up"));
        }
        if list.at.is_some_and(|(epoch, seq)| epoch != place.epoch || seq > place.seq) {
            return Ok(Err("not_a_position"));
        }
        let shop = self.shop(store, place);
        let mut items = shop.items.clone();
        if let Some(text) = view_differs(central, store, &shop)? {
            if !self.damaged.contains(store) {
                self.break_(format!("P6: central compares a list with its view of {store}: {text}"));
            }
            items = items_of_view(central, store)?;
        }
        let moved = |product: &str| match list.at {
            None => Some(0),
            Some(at) => self.moved_since(store, place, at, product),
        };
        let mut report = Report::default();
        for (product, counted) in &list.lines {
            let Some(moved) = moved(product) else { return Ok(Err("not_a_position")) };
            let now = (counted + moved).max(0);
            match items.get(product).map(|item| item.quantity) {
                None => report.unknown.push((product.clone(), *counted)),
                Some(quantity) if quantity == now => report.equal += 1,
                Some(quantity) => report.different.push(Different {
                    product: product.clone(),
                    counted: *counted,
                    difference: now - quantity,
                    now,
                }),
            }
        }
        for (product, item) in items.iter().filter(|(product, _)| !list.lines.contains_key(*product)) {
            if !item.discontinued || item.quantity > 0 {
                let Some(moved) = moved(product) else { return Ok(Err("not_a_position")) };
                report.missing.push((product.clone(), item.quantity - moved));
            }
        }
        Ok(Ok((report, place)))
    }

    /// Why a list that was compared at a place must not be corrected any more: something was counted since, or may yet be.
    pub fn is_overtaken(&self, central: &Connection, store: &str, compared: Place) -> rusqlite::Result<Option<Broken>> {
        let place = Place::of_view(central, store)?;
        if self.counted_since(store, place, compared) {
            return Ok(Some(format!("something was counted between {compared:?} and {place:?}")));
        }
        let view = self.shop(store, place);
        let is_open = |(command, of): &&(Name, Name)| **of == *store && !view.answers.contains_key(command);
        // A human's choice of a state has ended what that does not answer.
        let open = self.counting.iter().find(is_open).filter(|_| !self.has_chosen(store));
        Ok(open.map(|(command, _)| format!("{command} is not answered")))
    }

    /// Whether central may refuse to correct a list for that, though the judge knows of no reason: of what a fault has damaged,
    /// and of what a human has chosen, it may not know the answers.
    pub fn may_lack_answers(&self, central: &Connection, store: &str) -> rusqlite::Result<bool> {
        let open: Option<i64> = central
            .prepare_cached("select 1 from request where store_id = ?1 and status = 'pending' limit 1")?
            .query_row([store], |row| row.get(0))
            .optional()?;
        Ok(open.is_some() && (self.damaged.contains(store) || self.has_chosen(store)))
    }

    /// A fault has damaged central's view of a store.
    pub fn damage(&mut self, store: &str) {
        self.damaged.insert(store.into());
        self.known.damage(store);
    }
}
