//! The view's items. Every change of one goes through [`put`](crate::storage::stocks::put), which keeps the store's digest and the product's totals
//! with it. An item belongs to a [stock](crate::storage::stocks); the view is the stock that its store's row names.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use protocol::domain::{Item, Line, Lines};
use protocol::hash::Digest;
use protocol::ids::{ProductId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::sqlite::{labels, parsed};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Columns of an item, in the order that [`read_item`] expects.
pub const COLUMNS: &str = "item.name, item.quantity, item.reserved, item.allotted, item.allotment_wanted, \
     item.discontinued, item.low_at, item.low, item.version, item.updated_at";
/// How many they are.
pub const WIDTH: usize = 10;

/// Reads [`COLUMNS`] starting at a column.
pub fn read_item(row: &Row<'_>, first: usize) -> rusqlite::Result<Item> {
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

/// A product of a store whose id differs in case only.
pub const OTHER_CASE: &str = "select product_id from store join item on item.stock = store.stock \
     where store.store_id = ?1 and item.product_id = ?2 collate nocase limit 1";

/// Items that [`count`] counts.
pub const COUNTED: i64 = 10_000;

/// How many items the view has; one more than are counted if there are more.
pub fn count(connection: &Connection) -> rusqlite::Result<i64> {
    let shown = "select 1 from store join item on item.stock = store.stock";
    let counted = format!("select count(*) from ({shown} limit {})", COUNTED + 1);
    connection.query_row(&counted, [], |row| row.get(0))
}

/// One item of the view.
pub fn find(connection: &Connection, store: &StoreId, product: &ProductId) -> rusqlite::Result<Option<Item>> {
    connection.prepare_cached(&FIND)?.query_row([store.as_str(), product.as_str()], |row| read_item(row, 0)).optional()
}

static FIND: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select {COLUMNS} from store join item on item.stock = store.stock and item.product_id = ?2 \
         where store.store_id = ?1"
    )
});

/// One item of a stock.
pub fn of(connection: &Connection, stock: i64, product: &ProductId) -> rusqlite::Result<Option<Item>> {
    static OF: LazyLock<String> =
        LazyLock::new(|| format!("select {COLUMNS} from item where stock = ?1 and product_id = ?2"));
    connection.prepare_cached(&OF)?.query_row(params![stock, product.as_str()], |row| read_item(row, 0)).optional()
}

/// Writes the units of a row that is there, and what goes with them. Nearly all that stores say is of this kind, and no index
/// is over these columns.
pub fn move_units(connection: &Connection, stock: i64, product: &ProductId, item: &Item) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "update item set quantity = ?3, reserved = ?4, allotted = ?5, version = ?6, updated_at = ?7 \
             where stock = ?1 and product_id = ?2",
        )?
        .execute(params![
            stock,
            product.as_str(),
            item.quantity,
            item.reserved,
            item.allotted,
            item.version,
            item.updated_at.0,
        ])?;
    Ok(())
}

/// Writes a row, and nothing else.
pub fn write(
    connection: &Connection,
    store: &StoreId,
    stock: i64,
    product: &ProductId,
    item: &Item,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into item (stock, product_id, store_id, name, quantity, reserved, allotted, allotment_wanted, \
             discontinued, low_at, low, version, updated_at) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
             on conflict (stock, product_id) do update set name = excluded.name, quantity = excluded.quantity, \
             reserved = excluded.reserved, allotted = excluded.allotted, \
             allotment_wanted = excluded.allotment_wanted, discontinued = excluded.discontinued, \
             low_at = excluded.low_at, low = excluded.low, version = excluded.version, \
             updated_at = excluded.updated_at",
        )?
        .execute(params![
            stock,
            product.as_str(),
            store.as_str(),
            item.name,
            item.quantity,
            item.reserved,
            item.allotted,
            item.allotment_wanted,
            item.discontinued,
            item.low_at,
            item.low,
            item.version,
            item.updated_at.0,
        ])?;
    Ok(())
}

/// A product is no longer found by a name that no store and no total has any more.
pub fn forget_name(connection: &Connection, product: &ProductId, name: &str) -> rusqlite::Result<()> {
    let is_used: bool = connection.prepare_cached(USES_NAME)?.query_row([product.as_str(), name], |row| row.get(0))?;
    if is_used { Ok(()) } else { labels::remove(connection, product.as_str(), name) }
}

const USES_NAME: &str = "select exists (select 1 from product where product_id = ?1 and name = ?2) \
     or exists (select 1 from item where product_id = ?1 and name = ?2)";

/// Rows of a stock with products in (`after`, `to`], in order, at most `rows` of them.
pub fn between(
    connection: &Connection,
    stock: i64,
    after: &str,
    to: &str,
    rows: usize,
) -> rusqlite::Result<Vec<(ProductId, Item)>> {
    connection
        .prepare_cached(&format!(
            "select product_id, {COLUMNS} from item where stock = ?1 and product_id > ?2 and product_id <= ?3 \
             order by product_id limit ?4"
        ))?
        .query_map(params![stock, after, to, rows], |row| Ok((parsed(row, 0)?, read_item(row, 1)?)))?
        .collect()
}

/// Whether the view has any of a store.
pub fn any(connection: &Connection, store: &StoreId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("select 1 from store join item on item.stock = store.stock where store.store_id = ?1 limit 1")?
        .exists([store.as_str()])
}

/// All items of a store, by product.
pub fn of_store(connection: &Connection, store: &StoreId) -> rusqlite::Result<Vec<(ProductId, Item)>> {
    connection
        .prepare_cached(&format!(
            "select product_id, {COLUMNS} from store join item on item.stock = store.stock \
             where store.store_id = ?1 order by product_id"
        ))?
        .query_map([store.as_str()], |row| Ok((parsed(row, 0)?, read_item(row, 1)?)))?
        .collect()
}

/// Digest of a stock's rows, however many they are.
pub fn digest(connection: &Connection, stock: i64) -> rusqlite::Result<Digest> {
    let mut statement =
        connection.prepare_cached(&format!("select product_id, {COLUMNS} from item where stock = ?1"))?;
    let mut rows = statement.query([stock])?;
    let mut digest = Digest::default();
    while let Some(row) = rows.next()? {
        digest = digest.replace(&parsed(row, 0)?, None, Some(&read_item(row, 1)?));
    }
    Ok(digest)
}

/// Units of one item in purchases that were sent to the store and that it has not answered.
pub fn pending(connection: &Connection, store: &StoreId, product: &ProductId) -> rusqlite::Result<i64> {
    if planted(Bug::PendingOfAllStores) {
        let of_all = "select coalesce(sum(quantity), 0) from purchase where product_id = ?1 and status = 'pending'";
        return connection.query_row(of_all, [product.as_str()], |row| row.get(0));
    }
    static PENDING: LazyLock<String> = LazyLock::new(|| format!("select {}", pending_of("?1", "?2")));
    connection.prepare_cached(&PENDING)?.query_row([store.as_str(), product.as_str()], |row| row.get(0))
}

/// The same in SQL, of what names the store and the product there.
pub fn pending_of(store: &str, product: &str) -> String {
    format!(
        "(select coalesce(sum(purchase.quantity), 0) from purchase where purchase.store_id = {store} \
         and purchase.product_id = {product} and purchase.status = 'pending') \
         + (select coalesce(sum(pending_line.quantity), 0) from pending_line where pending_line.store_id = {store} \
         and pending_line.product_id = {product}) \
         + (select coalesce(sum(allotment_taken.sold), 0) from allotment_taken \
         where allotment_taken.store_id = {store} and allotment_taken.product_id = {product})"
    )
}

/// The items of these lines that a store has, and what is pending of each.
pub fn of_lines(
    connection: &Connection,
    store: &StoreId,
    lines: &Lines,
) -> rusqlite::Result<BTreeMap<ProductId, (Item, i64)>> {
    let mut found = BTreeMap::new();
    for Line { product_id, .. } in lines.iter() {
        if let Some(item) = find(connection, store, product_id)? {
            found.insert(product_id.clone(), (item, pending(connection, store, product_id)?));
        }
    }
    Ok(found)
}

/// What central would sell of an item in one purchase, if the store may sell at all.
pub fn online_available(item: &Item, pending: i64) -> i64 {
    if item.discontinued { 0 } else { (item.available() + item.allotted - pending).max(0) }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::testing::{Agent, database, product};

    #[test]
    fn a_point_read_is_planned_once_whatever_it_looks_for() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        for name in ["tea", "milk", "tea"] {
            assert_eq!(find(&connection, &agent.id, &product(name)).expect("reads").is_some(), name == "tea");
        }
        let statement = connection.prepare_cached(&FIND).expect("is cached");
        assert_eq!(statement.get_status(StatementStatus::Run), 3);
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
