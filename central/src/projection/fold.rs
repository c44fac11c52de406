//! The one way to build a store's stock from its events: live, in `verify`, and for a restore.
//!
//! A fact names the item after it; pages of a state are laid aside and take effect together, if none is missing (L7).

use std::collections::BTreeMap;

use protocol::domain::Item;
use protocol::ids::ProductId;
use protocol::wire::{Event, ItemAfter, SnapshotEnd, SnapshotPage};

use crate::storage::stocks::Arrival;

/// What an event does to a stock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effect<'a> {
    /// Items are this now.
    Put(&'a [ItemAfter]),
    /// A part of a whole state is laid aside.
    Stage(&'a SnapshotPage),
    /// What was laid aside becomes the stock if it is whole, and is given up if it is not.
    Install(&'a SnapshotEnd),
    None,
}

/// What an event does to a stock.
pub fn effect(event: &Event) -> Effect<'_> {
    match event {
        Event::Fact(fact) => Effect::Put(fact.what.items()),
        Event::SnapshotPage(page) => Effect::Stage(page),
        Event::SnapshotEnd(end) => Effect::Install(end),
        Event::OutcomeRepeated(_) | Event::Opened { .. } | Event::Ready { .. } => Effect::None,
    }
}

/// A stock that is built in memory.
#[derive(Debug, Default)]
pub struct Stock {
    items: BTreeMap<ProductId, Item>,
    staged: BTreeMap<ProductId, Item>,
    arrival: Arrival,
    /// A page's body was forgotten because a later state has replaced it.
    is_page_forgotten: bool,
    is_unknown: bool,
}

impl Stock {
    /// The next event, in order.
    pub fn apply(&mut self, event: &Event) {
        match effect(event) {
            Effect::Put(items) => {
                self.items.extend(items.iter().map(|after| (after.product_id.clone(), after.item.clone())));
            }
            Effect::Stage(page) => {
                self.arrival.add(page);
                self.staged.extend(page.items.iter().map(|named| (named.product_id.clone(), named.item.clone())));
            }
            Effect::Install(end) => {
                if self.is_page_forgotten {
                    (self.items, self.is_unknown) = (BTreeMap::new(), true);
                } else if self.arrival.is_whole(end) {
                    (self.items, self.is_unknown) = (std::mem::take(&mut self.staged), false);
                }
                self.give_up();
            }
            Effect::None => {}
        }
    }

    /// An epoch opens: what has arrived of a state will never be whole.
    pub fn give_up(&mut self) {
        self.staged.clear();
        (self.arrival, self.is_page_forgotten) = (Arrival::default(), false);
    }

    /// The next entry was a page whose body is forgotten: what it is part of cannot be known.
    pub fn skip_page(&mut self) {
        self.is_page_forgotten = true;
    }

    /// The next entry was not understood. It lies in the dead letters; if it has changed stock, the digest differs and a
    /// resync follows.
    pub fn skip(&mut self) {
        self.is_unknown = true;
    }

    /// Whether all of it is known: it is not behind pages that are forgotten, nor behind what was not understood.
    pub fn is_known(&self) -> bool {
        !self.is_unknown
    }

    pub fn items(&self) -> &BTreeMap<ProductId, Item> {
        &self.items
    }

    pub fn into_items(self) -> BTreeMap<ProductId, Item> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, product};
    use protocol::wire::{Fact, Happened, Named};

    fn item(quantity: i64) -> Item {
        Item { name: "Tea".into(), quantity, version: 1, ..Item::default() }
    }

    fn page(name: &str, quantity: i64) -> Event {
        let items = vec![Named { product_id: product(name), item: item(quantity) }];
        Event::SnapshotPage(SnapshotPage { items, ..SnapshotPage::default() })
    }

    fn end(pages: u64) -> Event {
        Event::SnapshotEnd(SnapshotEnd { pages, count: pages })
    }

    fn fold(events: &[Event]) -> Stock {
        let mut stock = Stock::default();
        events.iter().for_each(|event| stock.apply(event));
        stock
    }

    fn names(stock: &Stock) -> Vec<&str> {
        stock.items().keys().map(ProductId::as_str).collect()
    }

    #[test]
    fn a_state_takes_effect_as_a_whole_or_not_at_all() {
        let after = ItemAfter { product_id: product("tea"), delta: -1, item: item(3) };
        let sold = Event::Fact(Fact::new(Happened::Sold(after), NOW));
        assert_eq!(names(&fold(&[sold.clone(), page("milk", 1), end(1)])), ["milk"]);
        let mut missing = fold(&[sold.clone(), page("milk", 1), end(2)]);
        assert_eq!((names(&missing), missing.is_known()), (vec!["tea"], true));
        missing.apply(&end(0));
        assert_eq!(names(&missing), [""; 0], "what was given up is not part of the next one");
        let mut reopened = fold(&[sold, page("milk", 1)]);
        reopened.give_up();
        [page("jam", 2), end(1)].iter().for_each(|event| reopened.apply(event));
        assert_eq!(names(&reopened), ["jam"]);
    }

    #[test]
    fn what_is_behind_a_forgotten_page_is_not_known_until_a_state_arrives() {
        let mut stock = fold(&[page("milk", 1), end(1)]);
        stock.skip_page();
        stock.apply(&end(1));
        assert!(!stock.is_known() && stock.items().is_empty());
        stock.apply(&page("jam", 1));
        stock.apply(&end(1));
        assert!(stock.is_known());
        stock.skip();
        assert!(!stock.is_known());
    }
}
