//! Where a product can be had.

use protocol::domain::Item;
use protocol::ids::{ProductId, StoreId};
use rusqlite::Connection;

use crate::storage::items;
use crate::storage::stores::{self, Store};

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

/// Every store that has the product, without retired ones, by id.
pub fn of_product(connection: &Connection, product: &ProductId) -> rusqlite::Result<Vec<Offer>> {
    let ids: Vec<StoreId> = connection
        .prepare_cached(
            "select item.store_id from item join store on store.store_id = item.store_id and store.stock = item.stock \
             where item.product_id = ?1 order by item.store_id",
        )?
        .query_map([product.as_str()], |row| runtime::sqlite::parsed(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut offers = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(store) = stores::find(connection, &id)?.filter(|store| !store.retired) else { continue };
        let Some(item) = items::find(connection, &id, product)? else { continue };
        let pending = items::pending(connection, &id, product)?;
        offers.push(Offer { store, item, pending });
    }
    Ok(offers)
}
