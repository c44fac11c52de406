//! The view's items and the chain's totals. Every change of an item goes through [`put`], which keeps the store's
//! digest and the product's totals with it.

use rusqlite::{Connection, OptionalExtension, Row, params};
use shared::domain::Item;
use shared::ids::{ProductId, StoreId};
use shared::planted::{Bug, planted};
use shared::time::Millis;

use crate::stores::Store;

/// Columns of an item, in the order that [`read_item`] expects.
pub const COLUMNS: &str = "item.name, item.quantity, item.reserved, item.allotted, item.allotment_wanted, \
     item.discontinued, item.low_at, item.low, item.version, item.updated_at";

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
pub const OTHER_CASE: &str =
    "select product_id from item where store_id = ?1 and product_id = ?2 collate nocase limit 1";

/// One item of the view.
pub fn find(connection: &Connection, store: &StoreId, product: &ProductId) -> rusqlite::Result<Option<Item>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from item where store_id = ?1 and product_id = ?2"))?
        .query_row([store.as_str(), product.as_str()], |row| read_item(row, 0))
        .optional()
}

/// Makes an item what the store says it is; `None`: the store has no such item.
pub fn put(
    connection: &Connection,
    store: &mut Store,
    product: &ProductId,
    after: Option<&Item>,
) -> rusqlite::Result<()> {
    let before = find(connection, &store.id, product)?;
    store.digest = store.digest.replace(product, before.as_ref(), after);
    if !store.retired {
        count(connection, product, before.as_ref(), after)?;
    }
    let Some(item) = after else {
        connection
            .prepare_cached("delete from item where store_id = ?1 and product_id = ?2")?
            .execute([store.id.as_str(), product.as_str()])?;
        return Ok(());
    };
    connection
        .prepare_cached(
            "insert into item (store_id, product_id, name, quantity, reserved, allotted, allotment_wanted, \
             discontinued, low_at, low, version, updated_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
             on conflict (store_id, product_id) do update set name = excluded.name, quantity = excluded.quantity, \
             reserved = excluded.reserved, allotted = excluded.allotted, \
             allotment_wanted = excluded.allotment_wanted, discontinued = excluded.discontinued, \
             low_at = excluded.low_at, low = excluded.low, version = excluded.version, \
             updated_at = excluded.updated_at",
        )?
        .execute(params![
            store.id.as_str(),
            product.as_str(),
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

/// Moves the product's totals from what an item was to what it is.
fn count(
    connection: &Connection,
    product: &ProductId,
    before: Option<&Item>,
    after: Option<&Item>,
) -> rusqlite::Result<()> {
    let member = |item: Option<&Item>, of: fn(&Item) -> i64| item.map_or(0, of);
    let change = |of: fn(&Item) -> i64| member(after, of) - member(before, of);
    // The name set last, in the order in which events reach central, is the product's.
    let renamed = after.filter(|item| before.is_none_or(|before| before.name != item.name)).map(|item| &item.name);
    let moved = params![
        product.as_str(),
        renamed,
        change(|item| item.quantity),
        change(|item| item.reserved),
        change(|item| item.allotted),
        i64::from(after.is_some()) - i64::from(before.is_some()),
    ];
    // Not one upsert: the row to insert is checked first, and a difference may be negative.
    let known = connection
        .prepare_cached(
            "update product set name = coalesce(?2, name), quantity = quantity + ?3, reserved = reserved + ?4, \
             allotted = allotted + ?5, stores = stores + ?6 where product_id = ?1",
        )?
        .execute(moved)?;
    if known == 0 {
        connection
            .prepare_cached(
                "insert into product (product_id, name, quantity, reserved, allotted, stores) \
                 values (?1, coalesce(?2, ''), ?3, ?4, ?5, ?6)",
            )?
            .execute(moved)?;
    }
    Ok(())
}

/// Sums a product's totals anew: whatever had crept into the running ones goes.
pub fn sum_anew(connection: &Connection, product: &ProductId) -> rusqlite::Result<()> {
    if planted(Bug::TotalsNeverSummed) {
        return Ok(());
    }
    connection
        .prepare_cached(
            "update product set (quantity, reserved, allotted, stores) = \
             (select coalesce(sum(item.quantity), 0), coalesce(sum(item.reserved), 0), \
              coalesce(sum(item.allotted), 0), count(*) from item join store using (store_id) \
              where item.product_id = ?1 and not retired) where product_id = ?1",
        )?
        .execute([product.as_str()])?;
    Ok(())
}

/// All items of a store, by product.
pub fn of_store(connection: &Connection, store: &StoreId) -> rusqlite::Result<Vec<(ProductId, Item)>> {
    connection
        .prepare_cached(&format!("select product_id, {COLUMNS} from item where store_id = ?1 order by product_id"))?
        .query_map([store.as_str()], |row| Ok((shared::sqlite::parsed(row, 0)?, read_item(row, 1)?)))?
        .collect()
}

/// Takes a store's items out of the chain's totals, or puts them back.
pub fn count_store(connection: &Connection, store: &StoreId, counted: bool) -> rusqlite::Result<()> {
    for (product, item) in of_store(connection, store)? {
        if counted {
            count(connection, &product, None, Some(&item))?;
        } else {
            count(connection, &product, Some(&item), None)?;
        }
    }
    Ok(())
}

/// Units of one item in purchases that were sent to the store and are not settled.
pub fn pending(connection: &Connection, store: &StoreId, product: &ProductId) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "select coalesce(sum(quantity), 0) from purchase \
             where store_id = ?1 and product_id = ?2 and status = 'pending'",
        )?
        .query_row([store.as_str(), product.as_str()], |row| row.get(0))
}

/// What central would sell of an item in one purchase, if the store may sell at all.
pub fn online_available(item: &Item, pending: i64) -> i64 {
    if item.discontinued { 0 } else { (item.available() + item.allotted - pending).max(0) }
}
