//! What commands that stores have not answered take of the units that are set aside for online sale.

use protocol::ids::{OperationId, ProductId, StoreId};
use rusqlite::{Connection, params};

use crate::storage::stores::Store;
use runtime::sqlite::parsed;

/// A command takes so many units of what is set aside, and so many are sold for certain, of these and of others.
pub(crate) fn take(
    connection: &Connection,
    store: &StoreId,
    product: &ProductId,
    command: &OperationId,
    (units, sold): (i64, i64),
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into allotment_taken (store_id, product_id, command_id, units, sold) values (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![store.as_str(), product.as_str(), command.as_str(), units, sold])?;
    Ok(())
}

/// A command is answered, or will never be executed. Returns of which products it took units.
pub(crate) fn free(connection: &Connection, command: &OperationId) -> rusqlite::Result<Vec<ProductId>> {
    connection
        .prepare_cached("delete from allotment_taken where command_id = ?1 returning product_id")?
        .query_map([command.as_str()], |row| parsed(row, 0))?
        .collect()
}

const TAKEN: &str = "select coalesce(sum(units), 0) from allotment_taken where store_id = ?1 and product_id = ?2";

/// Units of an item that unanswered commands take.
pub fn taken(connection: &Connection, store: &StoreId, product: &ProductId) -> rusqlite::Result<i64> {
    connection.prepare_cached(TAKEN)?.query_row([store.as_str(), product.as_str()], |row| row.get(0))
}

const IS_UNRELEASED: &str = "item.allotment_wanted is not null and item.allotted - item.allotment_wanted > \
     (select coalesce(sum(units), 0) from allotment_taken as taken \
     where taken.store_id = item.store_id and taken.product_id = item.product_id)";

/// Stores in service whose view can be believed, and that show more of something as set aside than is wanted and taken.
pub fn unreleased_stores(connection: &Connection) -> rusqlite::Result<Vec<StoreId>> {
    connection
        .prepare_cached(&format!(
            "select store_id from store \
             where retired = 0 and opening = 0 and installing = 0 and suspect = 0 and digest_state <> 'different' \
             and exists (select 1 from item indexed by item_lowered where item.stock = store.stock and {IS_UNRELEASED})"
        ))?
        .query_map([], |row| parsed(row, 0))?
        .collect()
}

/// Items of which more is set aside than is wanted and taken, at most so many.
pub(crate) fn unreleased(connection: &Connection, store: &Store, items: usize) -> rusqlite::Result<Vec<ProductId>> {
    connection
        .prepare_cached(&format!(
            "select product_id from item indexed by item_lowered where stock = ?1 and {IS_UNRELEASED} limit ?2"
        ))?
        .query_map(params![store.stock, items], |row| parsed(row, 0))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{database, plan};

    #[test]
    fn what_is_lowered_is_found_without_reading_the_stock() {
        let connection = database();
        let of_store = format!("select 1 from item indexed by item_lowered where stock = ?1 and {IS_UNRELEASED}");
        for sql in [of_store.as_str(), TAKEN] {
            let plan = plan(&connection, sql);
            assert!(!plan.contains("SCAN"), "{sql}: {plan}");
        }
    }
}
