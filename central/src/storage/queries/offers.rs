//! Where a product can be had.

use std::sync::LazyLock;

use protocol::domain::{Item, Lines};
use protocol::ids::{ProductId, StoreId};
use runtime::sqlite::parsed;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::storage::items::{self, read_item};
use crate::storage::store::{self, Store, WIDTH};

/// A store that has a product.
#[derive(Debug, Clone)]
pub struct Offer {
    /// What is known of the store.
    pub store: Store,
    /// As the store says it is.
    pub item: Item,
    /// Units in purchases that the store has not answered.
    pub pending: i64,
}

/// What a store has of a product, all of it at one moment: from before a purchase and from after it, units would be shown
/// twice.
#[derive(Debug, Clone)]
pub struct Shown {
    /// What is known of the store.
    pub store: Store,
    /// As the store says it is; none: it has no such product.
    pub item: Option<Item>,
    /// Units in purchases that the store has not answered.
    pub pending: i64,
}

impl Shown {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let has_item = row.get_ref(WIDTH)? != ValueRef::Null;
        Ok(Self {
            store: Store::read(row)?,
            item: has_item.then(|| read_item(row, WIDTH)).transpose()?,
            pending: row.get(WIDTH + items::WIDTH)?,
        })
    }
}

/// Columns for [`Shown::read`]. `product`: what names the product.
fn columns(product: &str) -> String {
    format!("{}, {}, {}", store::COLUMNS, items::COLUMNS, items::pending_of("store.store_id", product))
}

static ONE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select {} from store left join item on item.stock = store.stock and item.product_id = ?2 \
         where store.store_id = ?1",
        columns("?2")
    )
});

static OF_PRODUCT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select {} from item join store on store.store_id = item.store_id and store.stock = item.stock \
         where item.product_id = ?1 and not store.retired order by item.store_id",
        columns("item.product_id")
    )
});

/// One store's, if central has heard of it.
pub fn one(connection: &Connection, store: &StoreId, product: &ProductId) -> rusqlite::Result<Option<Shown>> {
    connection.prepare_cached(&ONE)?.query_row([store.as_str(), product.as_str()], Shown::read).optional()
}

const A_STORE_WITH: &str = "select item.store_id from item join store on store.store_id = item.store_id \
     and store.stock = item.stock where item.product_id = ?1 and not store.retired order by item.store_id limit 1";

/// The first store, by id, that has the product; retired ones do not count.
pub fn a_store_with(connection: &Connection, product: &ProductId) -> rusqlite::Result<Option<StoreId>> {
    connection.prepare_cached(A_STORE_WITH)?.query_row([product.as_str()], |row| parsed(row, 0)).optional()
}

/// Every store that has the product, without retired ones, by id.
pub fn of_product(connection: &Connection, product: &ProductId) -> rusqlite::Result<Vec<Offer>> {
    let mut statement = connection.prepare_cached(&OF_PRODUCT)?;
    let shown = statement.query_map([product.as_str()], Shown::read)?;
    let offer = |Shown { store, item, pending }| item.map(|item| Offer { store, item, pending });
    shown.filter_map(|shown| shown.map(offer).transpose()).collect()
}

/// The same of each of these products.
pub fn of_each(connection: &Connection, lines: &Lines) -> rusqlite::Result<Vec<Vec<Offer>>> {
    lines.iter().map(|line| of_product(connection, &line.product_id)).collect()
}

/// A store that has all of these products.
#[derive(Debug, Clone)]
pub struct OfferOfAll {
    /// What is known of the store.
    pub store: Store,
    /// In the order of the lines, as the store says they are, and units in purchases that it has not answered.
    pub items: Vec<(Item, i64)>,
    /// What would be left of the scarcest line.
    pub left: i64,
    /// What would be sold of that one.
    pub online_available: i64,
}

/// Every store that has all of these products, without retired ones, by id.
pub fn of_lines(connection: &Connection, lines: &Lines) -> rusqlite::Result<Vec<OfferOfAll>> {
    let mut found: Vec<OfferOfAll> = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let offers = of_product(connection, &line.product_id)?;
        if number == 0 {
            let all = |Offer { store, .. }: &Offer| OfferOfAll {
                store: store.clone(),
                items: Vec::new(),
                left: i64::MAX,
                online_available: 0,
            };
            found = offers.iter().map(all).collect();
        }
        found.retain_mut(|all| {
            let Ok(at) = offers.binary_search_by(|offer| offer.store.id.cmp(&all.store.id)) else { return false };
            let Offer { item, pending, .. } = &offers[at];
            let available = items::online_available(item, *pending);
            if available - line.quantity.get() < all.left {
                (all.left, all.online_available) = (available - line.quantity.get(), available);
            }
            all.items.push((item.clone(), *pending));
            true
        });
        if found.is_empty() {
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use protocol::domain::{Line, Quantity};
    use protocol::wire::{Event, Fact, Happened, ItemAfter};

    use super::*;
    use crate::testing::{Agent, database, plan, product};

    #[test]
    fn an_item_is_shown_with_its_store_and_with_what_is_pending_there() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        let shown = |name: &str| one(&connection, &agent.id, &product(name)).expect("reads").expect("is known");
        let tea = shown("tea");
        assert_eq!(tea.item, items::find(&connection, &agent.id, &product("tea")).expect("reads"));
        assert!(tea.item.is_some() && tea.pending == 0);
        assert_eq!((tea.store.id, tea.store.stock), (agent.id.clone(), shown("milk").store.stock));
        assert_eq!(shown("milk").item, None);
        assert!(one(&connection, &"s2".parse().expect("valid"), &product("tea")).expect("reads").is_none());

        agent.buy_some(&connection, 1, 2);
        assert_eq!(shown("tea").pending, items::pending(&connection, &agent.id, &product("tea")).expect("reads"));
        assert_eq!(shown("tea").pending, 2);
        let [offer] = &of_product(&connection, &product("tea")).expect("reads")[..] else { panic!("one store has it") };
        assert_eq!((&offer.store.id, offer.pending), (&agent.id, 2));
    }

    #[test]
    fn a_store_counts_by_its_scarcest_line_and_not_without_all() {
        let connection = database();
        let [mut one, two] = ["s1", "s2"].map(|id| Agent::settled(id, &connection));
        let milk = Item { name: "Milk".into(), quantity: 3, version: 1, ..Item::default() };
        let created = Happened::ItemCreated(ItemAfter { product_id: product("milk"), delta: 3, item: milk });
        let entry = one.entry(&Event::Fact(Fact::new(created, crate::testing::NOW)));
        one.tell(&connection, &[entry]);
        one.buy_some(&connection, 1, 9);
        let line = |name: &str, units| Line {
            product_id: product(name),
            quantity: Quantity::try_from(units).expect("in range"),
        };
        let offers = |lines: &[(&str, i64)]| {
            let lines = Lines::new(lines.iter().map(|(name, units)| line(name, *units))).expect("are lines");
            let found = of_lines(&connection, &lines).expect("reads").into_iter();
            found.map(|offer| (offer.store.id, offer.left, offer.online_available)).collect::<Vec<_>>()
        };
        assert_eq!(offers(&[("tea", 1)]), [(one.id.clone(), 0, 1), (two.id.clone(), 9, 10)]);
        assert_eq!(offers(&[("milk", 1), ("tea", 1)]), [(one.id.clone(), 0, 1)]);
        assert_eq!(offers(&[("milk", 4), ("tea", 1)]), [(one.id.clone(), -1, 3)]);
        assert_eq!(offers(&[("jam", 1), ("tea", 1)]), []);
    }

    #[test]
    fn neither_reads_more_than_it_shows() {
        let connection = database();
        for sql in [&*ONE, &*OF_PRODUCT, A_STORE_WITH] {
            let plan = plan(&connection, sql);
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP"), "{plan}");
        }
    }
}
