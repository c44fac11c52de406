//! Where a product can be had.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use protocol::domain::{Item, Line, Lines};
use protocol::ids::{ProductId, StoreId};
use runtime::sqlite::parsed;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::storage::items::{self, read_item};
use crate::storage::store::{self, STANDING_WIDTH, Standing, Store, WIDTH};

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
    /// How the store's items are shown.
    pub store: Standing,
    /// As the store says it is; none: it has no such product.
    pub item: Option<Item>,
    /// Units in purchases that the store has not answered.
    pub pending: i64,
}

impl Shown {
    fn read(store: &StoreId, row: &Row<'_>) -> rusqlite::Result<Self> {
        let has_item = row.get_ref(STANDING_WIDTH)? != ValueRef::Null;
        Ok(Self {
            store: Standing::read(store, row)?,
            item: has_item.then(|| read_item(row, STANDING_WIDTH)).transpose()?,
            pending: row.get(STANDING_WIDTH + items::WIDTH)?,
        })
    }
}

static ONE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select {}, {}, {} from store left join item on item.stock = store.stock and item.product_id = ?2 \
         where store.store_id = ?1",
        store::STANDING,
        items::COLUMNS,
        items::pending_of("store.store_id", "?2")
    )
});

static OF_PRODUCT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select {}, {}, {} from item join store on store.store_id = item.store_id and store.stock = item.stock \
         where item.product_id = ?1 and not store.retired order by item.store_id",
        store::COLUMNS,
        items::COLUMNS,
        items::pending_of("store.store_id", "item.product_id")
    )
});

/// The same without the stores' rows, which are long: only the id of each, and the item behind it.
static ITEMS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select item.store_id, {}, {} from item join store on store.store_id = item.store_id \
         and store.stock = item.stock where item.product_id = ?1 and not store.retired order by item.store_id",
        items::COLUMNS,
        items::pending_of("item.store_id", "item.product_id")
    )
});

/// One store's, if central has heard of it.
pub fn one(connection: &Connection, store: &StoreId, product: &ProductId) -> rusqlite::Result<Option<Shown>> {
    connection
        .prepare_cached(&ONE)?
        .query_row([store.as_str(), product.as_str()], |row| Shown::read(store, row))
        .optional()
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
    let offer = |row: &Row<'_>| {
        let (item, pending) = (read_item(row, WIDTH)?, row.get(WIDTH + items::WIDTH)?);
        Ok(Offer { store: Store::read(row)?, item, pending })
    };
    statement.query_map([product.as_str()], offer)?.collect()
}

/// What all stores have of a product, without retired ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InChain {
    /// Stores that have it.
    pub stores: u64,
    /// Of these, carry it.
    pub carried: u64,
    pub quantity: i64,
    pub reserved: i64,
    pub allotted: i64,
    /// What would be sold at the store that would sell most.
    pub online_available: i64,
}

/// What all stores have of a product. `sellers`: of each store that would sell all of this line one more line is counted.
pub fn in_chain(
    connection: &Connection,
    line: &Line,
    sellers: &mut BTreeMap<String, usize>,
) -> rusqlite::Result<InChain> {
    let mut statement = connection.prepare_cached(&ITEMS)?;
    let mut rows = statement.query([line.product_id.as_str()])?;
    let mut chain = InChain::default();
    while let Some(row) = rows.next()? {
        let item = read_item(row, 1)?;
        chain.stores += 1;
        chain.carried += u64::from(!item.discontinued);
        chain.quantity += item.quantity;
        chain.reserved += item.reserved;
        chain.allotted += item.allotted;
        let available = items::online_available(&item, row.get(1 + items::WIDTH)?);
        chain.online_available = chain.online_available.max(available);
        if !item.discontinued && line.quantity.get() <= available {
            let store = row.get_ref(0)?.as_str()?;
            match sellers.get_mut(store) {
                Some(lines) => *lines += 1,
                None => _ = sellers.insert(store.to_owned(), 1),
            }
        }
    }
    Ok(chain)
}

/// A store that has all of these products.
#[derive(Debug, Clone)]
pub struct OfferOfAll {
    /// What is known of the store.
    pub store: Store,
    /// Whether it carries all of them.
    pub is_carried: bool,
    /// What would be left of the scarcest line.
    pub left: i64,
    /// What would be sold of that one.
    pub online_available: i64,
}

impl OfferOfAll {
    fn add(&mut self, line: &Line, item: &Item, pending: i64) {
        let available = items::online_available(item, pending);
        let left = available - line.quantity.get();
        if left < self.left {
            (self.left, self.online_available) = (left, available);
        }
        self.is_carried &= !item.discontinued;
    }
}

/// Every store that has all of these products and so much left of the scarcest line at least, without retired ones, by id.
/// Of a store that has not, its row is not read.
pub fn of_lines(connection: &Connection, lines: &Lines, least: i64) -> rusqlite::Result<Vec<OfferOfAll>> {
    let mut found: Vec<OfferOfAll> = Vec::new();
    let mut statement = connection.prepare_cached(&OF_PRODUCT)?;
    let mut rows = statement.query([lines.first().product_id.as_str()])?;
    while let Some(row) = rows.next()? {
        let (item, pending) = (read_item(row, WIDTH)?, row.get(WIDTH + items::WIDTH)?);
        if items::online_available(&item, pending) - lines.first().quantity.get() < least {
            continue;
        }
        let store = Store::read(row)?;
        let mut all = OfferOfAll { store, is_carried: true, left: i64::MAX, online_available: 0 };
        all.add(lines.first(), &item, pending);
        found.push(all);
    }
    for line in lines.iter().skip(1) {
        if found.is_empty() {
            break;
        }
        let mut has = vec![false; found.len()];
        let mut statement = connection.prepare_cached(&ITEMS)?;
        let mut rows = statement.query([line.product_id.as_str()])?;
        while let Some(row) = rows.next()? {
            let store = row.get_ref(0)?.as_str()?;
            if let Ok(at) = found.binary_search_by(|all| all.store.id.as_str().cmp(store)) {
                found[at].add(line, &read_item(row, 1)?, row.get(1 + items::WIDTH)?);
                has[at] = found[at].left >= least;
            }
        }
        let mut has = has.into_iter();
        found.retain(|_| has.next().unwrap_or(false));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use protocol::domain::Quantity;
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
        let known = agent.store(&connection).standing();
        assert_eq!((&tea.store, &shown("milk").store), (&known, &known), "read apart and with all of the row");
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
            let found = of_lines(&connection, &lines, i64::MIN).expect("reads");
            let enough = of_lines(&connection, &lines, 0).expect("reads");
            let ids = |found: &[OfferOfAll]| found.iter().map(|offer| offer.store.id.clone()).collect::<Vec<_>>();
            let expected: Vec<_> = found.iter().filter(|offer| offer.left >= 0).cloned().collect();
            assert_eq!(ids(&enough), ids(&expected));
            found.into_iter().map(|offer| (offer.store.id, offer.left, offer.online_available)).collect::<Vec<_>>()
        };
        assert_eq!(offers(&[("tea", 1)]), [(one.id.clone(), 0, 1), (two.id.clone(), 9, 10)]);
        assert_eq!(offers(&[("milk", 1), ("tea", 1)]), [(one.id.clone(), 0, 1)]);
        assert_eq!(offers(&[("milk", 4), ("tea", 1)]), [(one.id.clone(), -1, 3)]);
        assert_eq!(offers(&[("jam", 1), ("tea", 1)]), []);
        assert_eq!(offers(&[("tea", 1), ("jam", 1)]), []);
        assert_eq!(offers(&[("tea", 2), ("milk", 1)]), [(one.id.clone(), -1, 1)], "milk is at one store alone");
        let mut sellers = BTreeMap::new();
        let mut chain = |name, units| in_chain(&connection, &line(name, units), &mut sellers).expect("reads");
        let tea = chain("tea", 2);
        assert_eq!((tea.stores, tea.carried, tea.quantity, tea.online_available), (2, 2, 20, 10));
        chain("tea", 1);
        chain("milk", 4);
        assert_eq!(chain("jam", 1), InChain::default());
        assert_eq!(sellers, [("s1".to_owned(), 1), ("s2".to_owned(), 2)].into());
    }

    #[test]
    fn neither_reads_more_than_it_shows() {
        let connection = database();
        for sql in [&*ONE, &*OF_PRODUCT, &*ITEMS, A_STORE_WITH] {
            let plan = plan(&connection, sql);
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP"), "{plan}");
        }
    }
}
