//! The stock that the entries of an epoch add up to, as `verify` proves it.

use std::collections::BTreeMap;

use protocol::domain::Item;
use protocol::hash::Digest;
use protocol::ids::ProductId;
use protocol::wire::{Event, ItemAfter};

/// The stock that the entries of one epoch add up to.
#[derive(Debug, Default)]
pub struct Stock {
    items: BTreeMap<ProductId, Item>,
    staged: BTreeMap<ProductId, Item>,
    digest: Digest,
    /// The epoch was seen from its first entry.
    from_start: bool,
    /// The state that the epoch opens with has been said in full.
    is_whole: bool,
}

/// What an entry says that does not fit what the entries before it add up to, for people.
pub type Difference = String;

impl Stock {
    /// An epoch; `from_start`: its first entry is the next.
    pub fn of_epoch(from_start: bool) -> Self {
        Self { from_start, ..Self::default() }
    }

    /// What the entries add up to, as far as they name it.
    pub fn items(&self) -> &BTreeMap<ProductId, Item> {
        &self.items
    }

    /// Digest of the whole stock; `None`: the entries seen do not say all of it.
    pub fn digest(&self) -> Option<Digest> {
        self.is_whole.then_some(self.digest)
    }

    /// Adds an event.
    pub fn add(&mut self, event: &Event) -> Vec<Difference> {
        match event {
            Event::Fact(fact) => fact.what.items().iter().filter_map(|after| self.put_after(after)).collect(),
            Event::SnapshotPage(page) => {
                let named = page.items.iter().map(|named| (named.product_id.clone(), named.item.clone()));
                self.staged.extend(named);
                Vec::new()
            }
            Event::SnapshotEnd(_) => self.install(),
            Event::OutcomeRepeated(_) | Event::Opened { .. } | Event::Ready { .. } => Vec::new(),
        }
    }

    fn put_after(&mut self, ItemAfter { product_id, delta, item }: &ItemAfter) -> Option<Difference> {
        let before = self.items.get(product_id).map(|item| item.quantity).or(self.from_start.then_some(0));
        self.put(product_id.clone(), item.clone());
        let before = before.filter(|before| before + delta != item.quantity)?;
        let quantity = item.quantity;
        Some(format!("{before} units of {product_id} and a difference of {delta} do not make {quantity}"))
    }

    /// The pages take effect: the first ones are what the epoch opens with, later ones repeat what the entries say.
    fn install(&mut self) -> Vec<Difference> {
        let opens = self.from_start && !self.is_whole;
        let mut differences = Vec::new();
        for (product, item) in std::mem::take(&mut self.staged) {
            if !opens && self.items.get(&product).is_some_and(|known| *known != item) {
                differences.push(format!("says otherwise of {product} than the ledger"));
            }
            self.put(product, item);
        }
        self.is_whole |= opens;
        differences
    }

    fn put(&mut self, product: ProductId, after: Item) {
        self.digest = self.digest.replace(&product, self.items.get(&product), Some(&after));
        self.items.insert(product, after);
    }
}

#[cfg(test)]
mod tests {
    use protocol::time::Millis;
    use protocol::wire::{Fact, Happened, Named, SnapshotEnd, SnapshotPage};

    use super::*;
    use crate::testing::product;

    fn item(quantity: i64) -> Item {
        Item { quantity, version: 1, ..Item::default() }
    }

    fn fact(name: &str, delta: i64, after: i64) -> Event {
        let after = ItemAfter { product_id: product(name), delta, item: item(after) };
        Event::Fact(Fact::new(Happened::Received(after), Millis(1)))
    }

    fn pages(name: &str, quantity: i64) -> [Event; 2] {
        let named = Named { product_id: product(name), item: item(quantity) };
        let page = SnapshotPage { items: vec![named], ..SnapshotPage::default() };
        [Event::SnapshotPage(page), Event::SnapshotEnd(SnapshotEnd { pages: 1, count: 1 })]
    }

    /// Units of tea, whether all is known, and the differences found.
    fn given(from_start: bool, events: &[Event]) -> (Option<i64>, bool, usize) {
        let mut stock = Stock::of_epoch(from_start);
        let found = events.iter().map(|event| stock.add(event).len()).sum();
        (stock.items().get(&product("tea")).map(|item| item.quantity), stock.digest().is_some(), found)
    }

    #[test]
    fn an_epoch_opens_with_its_pages_and_goes_on_by_differences() {
        let [page, end] = pages("tea", 5);
        assert_eq!(given(true, &[page.clone(), end.clone()]), (Some(5), true, 0));
        assert_eq!(given(true, &[page.clone(), end.clone(), fact("tea", -2, 3)]), (Some(3), true, 0));
        assert_eq!(given(true, &[page.clone(), end.clone(), fact("tea", -2, 4)]), (Some(4), true, 1));
        assert_eq!(given(true, &[page]), (None, false, 0), "pages without their end say nothing");
    }

    #[test]
    fn later_pages_repeat_what_the_entries_say() {
        let [page, end] = pages("tea", 5);
        let open = [page, end];
        let events = |again: [Event; 2]| open.iter().cloned().chain(again).collect::<Vec<_>>();
        assert_eq!(given(true, &events(pages("tea", 5))), (Some(5), true, 0));
        assert_eq!(given(true, &events(pages("tea", 6))), (Some(6), true, 1));
    }

    #[test]
    fn what_was_before_the_first_kept_entry_is_not_doubted() {
        assert_eq!(given(false, &[fact("tea", -2, 3)]), (Some(3), false, 0));
        assert_eq!(given(false, &[fact("tea", -2, 3), fact("tea", 1, 5)]), (Some(5), false, 1));
    }
}
