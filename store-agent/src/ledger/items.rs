//! The stock: what the ledger adds up to.

use protocol::domain::Item;
use protocol::ids::ProductId;
use protocol::link::EntryId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::search::{Found, Searched, Words};
use runtime::sqlite::labels::{self, Labels, Part};
use runtime::sqlite::{id_at, parsed};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::head::Head;

/// Columns of an item, in the order that [`read_item`] expects.
const COLUMNS: &str = "name, quantity, reserved, allotted, allotment_wanted, discontinued, low_at, low, version, \
     updated_at";

/// Reads [`COLUMNS`] starting at a column.
fn read_item(row: &Row<'_>, first: usize) -> rusqlite::Result<Item> {
    Ok(Item {
        name: row.get(first)?,
        quantity: row.get(first + 1)?,
        reserved: row.get(first + 2)?,
        allotted: row.get(first + 3)?,
        allotment_wanted: row.get(first + 4)?,
        discontinued: row.get(first + 5)?,
        low_at: row.get(first + 6)?,
        low: row.get(first + 7)?,
        version: row.get(first + 8)?,
        updated_at: Millis(row.get(first + 9)?),
    })
}

pub fn find_item(connection: &Connection, product: &ProductId) -> rusqlite::Result<Option<Item>> {
    connection
        .prepare_cached(
            "select name, quantity, reserved, allotted, allotment_wanted, discontinued, low_at, low, version, \
             updated_at from item where product_id = ?1",
        )?
        .query_row([product.as_str()], |row| read_item(row, 0))
        .optional()
}

/// An item, and the last entry: one state, however many writes come meanwhile.
pub fn shown(connection: &Connection, product: &ProductId) -> rusqlite::Result<Option<(Item, EntryId)>> {
    connection
        .prepare_cached(
            "select name, quantity, reserved, allotted, allotment_wanted, discontinued, low_at, low, version, \
             updated_at, epoch, seq from item cross join meta where product_id = ?1",
        )?
        .query_row([product.as_str()], |row| Ok((read_item(row, 0)?, id_at(row, 10)?)))
        .optional()
}

/// Shows each item, by product.
pub fn each_item(connection: &Connection, mut see: impl FnMut(ProductId, Item)) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached(&format!("select product_id, {COLUMNS} from item order by product_id"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        see(parsed(row, 0)?, read_item(row, 1)?);
    }
    Ok(())
}

/// Items that a list counts, at most.
const COUNTED: usize = 10_000;

/// Which items a list shows.
#[derive(Debug, Clone, Default)]
pub struct ItemFilter {
    /// In whose id or name these are.
    pub words: Option<Words>,
    /// Whose stock is low, or is not.
    pub low: Option<bool>,
    /// Also those that are discontinued and sold out.
    pub with_discontinued: bool,
    /// Whose id comes after this.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
    /// Behind so many.
    pub offset: usize,
}

impl ItemFilter {
    fn shows(&self, item: &Item) -> bool {
        self.low.is_none_or(|low| low == item.low)
            && (self.with_discontinued || !item.discontinued || item.quantity > 0)
    }

    /// The same as a condition.
    fn condition(&self) -> String {
        let low = match self.low {
            None => "",
            Some(true) => " and low = 1",
            Some(false) => " and low = 0",
        };
        let carried = if self.with_discontinued { "" } else { " and (discontinued = 0 or quantity > 0)" };
        format!("from item where true{low}{carried}")
    }

    fn part(&self) -> Part {
        Part { offset: self.offset, limit: self.limit }
    }
}

/// Items, by product.
pub fn list_items(connection: &Connection, filter: &ItemFilter) -> rusqlite::Result<Searched<(ProductId, Item)>> {
    let Some(words) = &filter.words else {
        let rows = items_in_order(connection, filter)?;
        return Ok(Searched { rows, found: count(connection, filter)?, reached: None });
    };
    let Labels { labels, are_all } = labels::search(connection, words)?;
    let mut found = Vec::with_capacity(labels.len());
    for (product, _) in labels {
        let item = find_item(connection, &product)?.filter(|item| filter.shows(item));
        found.extend(item.map(|item| (product, item)));
    }
    if are_all {
        let is_behind = |(product, _): &(ProductId, Item)| Some(product.as_str()) > filter.after.as_deref();
        return Ok(labels::cut(found, true, is_behind, filter.part()));
    }
    let count = Found { found: found.len(), found_all: false };
    let mut statement = connection.prepare_cached(&in_order(filter))?;
    let is_meant = |row: &Row<'_>| Ok(words.find_in(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?));
    labels::sift(statement.query([&filter.after])?, count, filter.part(), is_meant, named)
}

/// The same without words, and not counted.
pub fn items_in_order(connection: &Connection, filter: &ItemFilter) -> rusqlite::Result<Vec<(ProductId, Item)>> {
    connection
        .prepare_cached(&format!("{} limit ?2 offset ?3", in_order(filter)))?
        .query_map(params![filter.after, filter.limit, filter.offset], named)?
        .collect()
}

fn in_order(filter: &ItemFilter) -> String {
    format!("select product_id, {COLUMNS} {} and product_id > coalesce(?1, '') order by product_id", filter.condition())
}

fn named(row: &Row<'_>) -> rusqlite::Result<(ProductId, Item)> {
    Ok((parsed(row, 0)?, read_item(row, 1)?))
}

fn count(connection: &Connection, filter: &ItemFilter) -> rusqlite::Result<Found> {
    let found: usize = connection
        .prepare_cached(&format!("select count(*) from (select 1 {} limit ?1)", filter.condition()))?
        .query_row([COUNTED + 1], |row| row.get(0))?;
    Ok(Found { found: found.min(COUNTED), found_all: found <= COUNTED })
}

/// An item whose id differs from this one in case only.
pub fn find_item_in_any_case(connection: &Connection, product: &ProductId) -> rusqlite::Result<Option<ProductId>> {
    connection.prepare_cached(IN_ANY_CASE)?.query_row([product.as_str()], |row| parsed(row, 0)).optional()
}

const IN_ANY_CASE: &str = "select product_id from item where product_id = ?1 collate nocase limit 1";

/// Makes an item what it is after a change; the head's digest and number of items, and what it is found by, go with it.
pub(crate) fn put_item(
    connection: &Connection,
    head: &mut Head,
    product: &ProductId,
    before: Option<&Item>,
    after: &Item,
) -> rusqlite::Result<()> {
    if !planted(Bug::DigestNotMoved) {
        head.digest = head.digest.replace(product, before, Some(after));
    }
    head.items += u64::from(before.is_none());
    if before.is_some_and(|before| after.differs_in_units_alone(before)) {
        return move_units(connection, product, after);
    }
    let sql = if before.is_some() {
        "update item set name = ?2, quantity = ?3, reserved = ?4, allotted = ?5, allotment_wanted = ?6, \
         discontinued = ?7, low_at = ?8, low = ?9, version = ?10, updated_at = ?11 where product_id = ?1"
    } else {
        "insert into item (product_id, name, quantity, reserved, allotted, allotment_wanted, discontinued, low_at, \
         low, version, updated_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
    };
    if before.is_none_or(|before| before.name != after.name) {
        if let Some(before) = before {
            labels::remove(connection, product.as_str(), &before.name)?;
        }
        labels::add(connection, product.as_str(), &after.name)?;
    }
    connection.prepare_cached(sql)?.execute(params![
        product.as_str(),
        after.name,
        after.quantity,
        after.reserved,
        after.allotted,
        after.allotment_wanted,
        after.discontinued,
        after.low_at,
        after.low,
        after.version,
        after.updated_at.0,
    ])?;
    Ok(())
}

/// What a sale changes of an item; no index is over these columns.
fn move_units(connection: &Connection, product: &ProductId, after: &Item) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "update item set quantity = ?2, reserved = ?3, allotted = ?4, version = ?5, updated_at = ?6 \
             where product_id = ?1",
        )?
        .execute(params![
            product.as_str(),
            after.quantity,
            after.reserved,
            after.allotted,
            after.version,
            after.updated_at.0,
        ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::domain::Operation;

    use super::*;
    use crate::ledger;
    use crate::ledger::testing::plan;
    use crate::testing::{NOW, act, product, store};

    #[test]
    fn an_id_in_another_case_is_found_without_reading_all_items() {
        let connection = store(&[("Tea", 1), ("milk", 1)]);
        let found = |name| find_item_in_any_case(&connection, &product(name)).expect("reads");
        assert_eq!((found("tEA"), found("coffee")), (Some(product("Tea")), None));
        let plan = plan(&connection, IN_ANY_CASE);
        assert!(plan.starts_with("SEARCH") && !plan.contains("SCAN"), "{plan}");
    }

    fn found(connection: &Connection, filter: &ItemFilter) -> (Vec<String>, usize) {
        let found = list_items(connection, filter).expect("reads");
        assert!(found.found.found_all && found.reached.is_none());
        (found.rows.into_iter().map(|(product, _)| product.to_string()).collect(), found.found.found)
    }

    fn matching(q: &str) -> ItemFilter {
        ItemFilter { words: Words::parse(q), limit: 10, ..ItemFilter::default() }
    }

    #[test]
    fn a_list_takes_what_is_searched_for_literally_and_counts_the_whole() {
        let connection = store(&[("a_b", 1), ("axb", 1), ("c", 1)]);
        assert_eq!(found(&connection, &matching("a_b")), (vec!["a_b".into()], 1));
        assert_eq!(found(&connection, &matching("%")), (vec![], 0));
        let all = ItemFilter { limit: 1, after: Some("a_b".into()), ..ItemFilter::default() };
        assert_eq!(found(&connection, &all), (vec!["axb".into()], 3));
        let second = ItemFilter { limit: 1, after: Some("a_b".into()), ..matching("a") };
        assert_eq!(found(&connection, &second), (vec!["axb".into()], 2));
        assert_eq!(found(&connection, &ItemFilter { limit: 1, offset: 1, ..matching("a") }), (vec!["axb".into()], 2));
    }

    #[test]
    fn what_is_neither_carried_nor_there_is_shown_to_who_asks_for_it() {
        let connection = store(&[("tea", 1), ("tea-bag", 0), ("tea-cup", 0)]);
        for name in ["tea", "tea-bag"] {
            let discontinued = Operation::Change { name: None, discontinued: Some(true), low_at: None };
            act(&connection, &format!("end-{name}"), name, discontinued, NOW);
        }
        for searched in [ItemFilter { limit: 10, ..ItemFilter::default() }, matching("tea")] {
            assert_eq!(found(&connection, &searched), (vec!["tea".into(), "tea-cup".into()], 2));
            let all = ItemFilter { with_discontinued: true, ..searched };
            assert_eq!(found(&connection, &all).1, 3);
        }
    }

    #[test]
    fn an_item_is_found_by_the_name_that_it_has() {
        let connection = store(&[("tea", 1)]);
        let named = |name: &str| {
            let (mut head, item) = (ledger::head(&connection).expect("reads"), find_item(&connection, &product("tea")));
            let item = item.expect("reads").expect("is there");
            let after = Item { name: name.into(), ..item.clone() };
            put_item(&connection, &mut head, &product("tea"), Some(&item), &after).expect("writes");
        };
        for name in ["Earl Grey", "Assam"] {
            named(name);
            assert_eq!(found(&connection, &matching("earl")).1, usize::from(name == "Earl Grey"), "{name}");
            labels::index_step(&connection).expect("writes");
        }
        assert_eq!((found(&connection, &matching("earl")).1, found(&connection, &matching("assam tea")).1), (0, 1));
    }

    #[test]
    fn what_is_low_is_found_without_reading_all_items() {
        let connection = store(&[("tea", 1)]);
        let low = ItemFilter { low: Some(true), limit: 10, ..ItemFilter::default() };
        let plan = plan(&connection, &in_order(&low));
        assert!(plan.contains("item_low") && !plan.contains("TEMP"), "{plan}");
    }

    #[test]
    fn of_many_items_a_page_is_found_in_their_order_and_the_rest_behind_it() {
        let many = labels::LOOKED_AT * 2 + 1;
        let names: Vec<String> = (0..many).map(|number| format!("p{number:05}")).collect();
        let items: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), number(name) % 2)).collect();
        let connection = store(&items);
        let mut filter = ItemFilter { limit: 1_000, low: Some(false), ..matching("p0") };
        let mut seen = Vec::new();
        loop {
            let page = list_items(&connection, &filter).expect("reads");
            assert!(!page.found.found_all && page.found.found >= labels::LOOKED_AT);
            seen.extend(page.rows.iter().map(|(product, _)| product.to_string()));
            let Some(last) = page.rows.last().filter(|_| page.rows.len() == 1_000) else { break };
            filter.after = Some(last.0.to_string());
        }
        assert_eq!(seen, names);
    }

    fn number(name: &str) -> i64 {
        name[1..].parse().expect("a number")
    }
}
