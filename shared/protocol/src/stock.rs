//! The one way to build a store's stock from its events: live, in `verify` on both sides, and for a restore.
//!
//! A fact names the item after it; pages of a state are staged and installed together, if none is missing (L7).

use std::collections::BTreeMap;

use crate::domain::Item;
use crate::hash::Digest;
use crate::ids::ProductId;
use crate::wire::{Event, ItemAfter, SnapshotEnd, SnapshotPage};

/// What an event does to a stock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effect<'a> {
    /// Items are this now.
    Put(&'a [ItemAfter]),
    /// A part of a whole state is staged.
    Stage(&'a SnapshotPage),
    /// What was staged is installed if it is whole, and given up if it is not.
    Install(&'a SnapshotEnd),
    /// Nothing.
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

/// How much of a state has arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Its pages.
    pub pages: u64,
    /// Items named on them.
    pub items: u64,
}

impl Arrival {
    /// One more page.
    pub fn add(&mut self, page: &SnapshotPage) {
        self.pages += 1;
        self.items += page.items.len() as u64;
    }

    /// Whether no page is missing.
    pub fn is_whole(&self, end: &SnapshotEnd) -> bool {
        (self.pages, self.items) == (end.pages, end.count)
    }
}

/// What an entry says that does not fit what the entries before it add up to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// A change does not lead from the item before to the item after.
    #[error("{before} units of {product} and a difference of {delta} do not make {after}")]
    Units {
        /// Of this product.
        product: ProductId,
        /// Before the entry.
        before: i64,
        /// By the entry.
        delta: i64,
        /// After the entry.
        after: i64,
    },
    /// A whole state says otherwise of this product.
    #[error("says otherwise of {0} than the ledger")]
    State(ProductId),
}

/// A stock that is built in memory.
#[derive(Debug, Default)]
pub struct Stock {
    items: BTreeMap<ProductId, Known>,
    digest: Digest,
    staged: BTreeMap<ProductId, Item>,
    arrival: Arrival,
    /// A page's body was forgotten because a later state has replaced it.
    is_page_forgotten: bool,
    /// A whole state has arrived, and every entry after it was understood.
    is_known: bool,
    /// How often anything may have changed unseen.
    doubts: u64,
}

/// An item as an entry has named it.
#[derive(Debug)]
struct Known {
    item: Item,
    /// Of the stock, at that entry.
    doubts: u64,
}

impl Stock {
    /// The next event, in order, and what in it does not fit.
    pub fn apply(&mut self, event: &Event) -> Vec<Difference> {
        match effect(event) {
            Effect::Put(items) => items.iter().filter_map(|after| self.put_after(after)).collect(),
            Effect::Stage(page) => {
                self.arrival.add(page);
                self.staged.extend(page.items.iter().map(|named| (named.product_id.clone(), named.item.clone())));
                Vec::new()
            }
            Effect::Install(end) => {
                let staged = std::mem::take(&mut self.staged);
                let (is_whole, is_page_forgotten) = (self.arrival.is_whole(end), self.is_page_forgotten);
                self.give_up();
                if is_page_forgotten {
                    self.replace(BTreeMap::new());
                    Vec::new()
                } else if is_whole {
                    let differences = self.differences(&staged);
                    self.replace(staged);
                    self.is_known = true;
                    differences
                } else {
                    Vec::new()
                }
            }
            Effect::None => Vec::new(),
        }
    }

    /// An epoch opens: what has arrived of a state will never be whole, and the next one may differ from what is known.
    pub fn open(&mut self) {
        self.give_up();
        self.doubt();
    }

    /// The next entry was a page whose body is forgotten: what it is part of cannot be known.
    pub fn skip_page(&mut self) {
        self.is_page_forgotten = true;
    }

    /// The next entry was not understood. At central it lies in the dead letters; if it has changed stock, the digest
    /// differs and a resync follows.
    pub fn skip(&mut self) {
        self.doubt();
    }

    /// Digest of the whole stock; `None`: the entries seen do not say all of it.
    pub fn digest(&self) -> Option<Digest> {
        self.is_known.then_some(self.digest)
    }

    /// An item, as far as the entries name it.
    pub fn item(&self, product: &ProductId) -> Option<&Item> {
        self.items.get(product).map(|known| &known.item)
    }

    /// What the entries add up to, as far as they name it, by product.
    pub fn items(&self) -> impl Iterator<Item = (&ProductId, &Item)> {
        self.items.iter().map(|(product, known)| (product, &known.item))
    }

    /// The same, taken out.
    pub fn into_items(self) -> impl Iterator<Item = (ProductId, Item)> {
        self.items.into_iter().map(|(product, known)| (product, known.item))
    }

    fn put_after(&mut self, ItemAfter { product_id, delta, item }: &ItemAfter) -> Option<Difference> {
        let known = self.items.get(product_id).filter(|known| known.doubts == self.doubts);
        let before = known.map(|known| known.item.quantity).or(self.is_known.then_some(0));
        self.put(product_id.clone(), item.clone());
        let before = before.filter(|before| before + delta != item.quantity)?;
        Some(Difference::Units { product: product_id.clone(), before, delta: *delta, after: item.quantity })
    }

    /// What a state says otherwise than the entries before it.
    fn differences(&self, state: &BTreeMap<ProductId, Item>) -> Vec<Difference> {
        let is_other = |(product, known): &(&ProductId, &Known)| {
            known.doubts == self.doubts && state.get(product) != Some(&known.item)
        };
        let mut others: Vec<&ProductId> = self.items.iter().filter(is_other).map(|(product, _)| product).collect();
        if self.is_known {
            others.extend(state.keys().filter(|product| !self.items.contains_key(product)));
        }
        others.into_iter().cloned().map(Difference::State).collect()
    }

    fn replace(&mut self, state: BTreeMap<ProductId, Item>) {
        self.doubt();
        self.items.clear();
        self.digest = Digest::default();
        for (product, item) in state {
            self.put(product, item);
        }
    }

    fn put(&mut self, product: ProductId, item: Item) {
        let before = self.items.get(&product).map(|known| &known.item);
        self.digest = self.digest.replace(&product, before, Some(&item));
        self.items.insert(product, Known { item, doubts: self.doubts });
    }

    fn give_up(&mut self) {
        self.staged.clear();
        (self.arrival, self.is_page_forgotten) = (Arrival::default(), false);
    }

    fn doubt(&mut self) {
        self.is_known = false;
        self.doubts += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Millis;
    use crate::wire::{Fact, Happened, Named};

    fn product(name: &str) -> ProductId {
        ProductId::parse(name).expect("valid")
    }

    fn item(quantity: i64) -> Item {
        Item { quantity, version: 1, ..Item::default() }
    }

    fn page(name: &str, quantity: i64) -> Event {
        let items = vec![Named { product_id: product(name), item: item(quantity) }];
        Event::SnapshotPage(SnapshotPage { items, ..SnapshotPage::default() })
    }

    fn end(pages: u64) -> Event {
        Event::SnapshotEnd(SnapshotEnd { pages, count: pages, named_since: None })
    }

    fn fact(name: &str, delta: i64, after: i64) -> Event {
        let after = ItemAfter { product_id: product(name), delta, item: item(after) };
        Event::Fact(Fact::new(Happened::Received(after), Millis(1)))
    }

    /// The stock, and how many differences were found.
    fn fold(events: &[Event]) -> (Stock, usize) {
        let mut stock = Stock::default();
        let found = events.iter().map(|event| stock.apply(event).len()).sum();
        (stock, found)
    }

    /// Items, whether all is known, and how many differences were found.
    fn given(events: &[Event]) -> (Vec<(String, i64)>, bool, usize) {
        let (stock, found) = fold(events);
        let items = stock.items().map(|(product, item)| (product.to_string(), item.quantity)).collect();
        (items, stock.digest().is_some(), found)
    }

    fn tea(quantity: i64) -> Vec<(String, i64)> {
        vec![("tea".to_owned(), quantity)]
    }

    #[test]
    fn a_state_takes_effect_as_a_whole_or_not_at_all() {
        assert_eq!(given(&[page("tea", 5), end(1)]), (tea(5), true, 0));
        assert_eq!(given(&[page("tea", 5)]), (Vec::new(), false, 0));
        assert_eq!(given(&[page("tea", 5), end(2)]), (Vec::new(), false, 0));
        assert_eq!(given(&[page("tea", 5), end(2), end(0)]), (Vec::new(), true, 0), "given up is not part of the next");
        assert_eq!(given(&[fact("milk", 1, 1), page("tea", 5), end(2)]).0, [("milk".to_owned(), 1)]);
    }

    #[test]
    fn facts_go_on_by_differences() {
        assert_eq!(given(&[page("tea", 5), end(1), fact("tea", -2, 3)]), (tea(3), true, 0));
        assert_eq!(given(&[page("tea", 5), end(1), fact("tea", -2, 4)]), (tea(4), true, 1));
        assert_eq!(given(&[end(0), fact("tea", 2, 2)]), (tea(2), true, 0), "what no state names is not there");
        assert_eq!(given(&[end(0), fact("tea", 2, 3)]), (tea(3), true, 1));
    }

    #[test]
    fn what_was_before_the_first_kept_entry_is_not_doubted() {
        assert_eq!(given(&[fact("tea", -2, 3)]), (tea(3), false, 0));
        assert_eq!(given(&[fact("tea", -2, 3), fact("tea", 1, 5)]), (tea(5), false, 1));
    }

    #[test]
    fn a_later_state_repeats_what_the_entries_say() {
        let open = [page("tea", 5), end(1)];
        let then = |later: &[Event]| given(&[&open, later].concat());
        assert_eq!(then(&[page("tea", 5), end(1)]), (tea(5), true, 0));
        assert_eq!(then(&[page("tea", 6), end(1)]), (tea(6), true, 1));
        assert_eq!(then(&[end(0)]), (Vec::new(), true, 1), "an item is missing");
        assert_eq!(then(&[page("milk", 1), page("tea", 5), end(2)]).2, 1, "an item is new");
    }

    #[test]
    fn an_epoch_opens_with_a_state_that_may_differ() {
        let (mut stock, _) = fold(&[page("tea", 5), end(1), page("milk", 1)]);
        stock.open();
        assert!(stock.digest().is_none() && stock.item(&product("tea")).is_some());
        assert_eq!([page("jam", 2), end(1)].iter().map(|event| stock.apply(event).len()).sum::<usize>(), 0);
        assert_eq!(stock.items().map(|(product, _)| product.as_str()).collect::<Vec<_>>(), ["jam"]);
        assert_eq!(stock.digest(), Some(Digest::default().replace(&product("jam"), None, Some(&item(2)))));
    }

    #[test]
    fn nothing_is_known_behind_a_forgotten_page_until_a_state_arrives() {
        let (mut stock, _) = fold(&[page("milk", 1), end(1)]);
        stock.skip_page();
        stock.apply(&end(1));
        assert!(stock.digest().is_none() && stock.items().count() == 0);
        assert!(stock.apply(&page("jam", 1)).is_empty() && stock.apply(&end(1)).is_empty());
        assert!(stock.digest().is_some());
    }

    #[test]
    fn what_was_known_before_an_entry_that_was_not_understood_is_doubted() {
        let (mut stock, _) = fold(&[page("tea", 5), end(1)]);
        stock.skip();
        assert!(stock.digest().is_none());
        assert!(stock.apply(&fact("tea", -1, 2)).is_empty(), "the unknown entry may have taken two");
        assert_eq!(stock.apply(&fact("tea", -1, 2)).len(), 1);
        assert!(stock.apply(&fact("milk", -1, 2)).is_empty());
        let state = [page("tea", 2), page("milk", 2), page("jam", 1), end(3)];
        assert!(state.iter().all(|event| stock.apply(event).is_empty()));
    }
}
