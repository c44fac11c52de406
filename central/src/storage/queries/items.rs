//! Lists of the view's items.

use protocol::domain::Item;
use protocol::ids::{ProductId, StoreId};
use runtime::sqlite::parsed;
use rusqlite::{Connection, OptionalExtension};

use super::{Select, Slice, containing};
use crate::storage::items::{COLUMNS, OTHER_CASE, read_item};

/// Which items; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this store.
    pub store: Option<StoreId>,
    /// Of this product.
    pub product: Option<ProductId>,
    /// With this text in id or name.
    pub q: Option<String>,
    /// Also those that are discontinued and sold out.
    pub discontinued: bool,
    /// Also those of retired stores.
    pub retired: bool,
}

/// An item of the view.
#[derive(Debug, Clone)]
pub struct Listed {
    pub store: StoreId,
    /// Of which product.
    pub product: ProductId,
    /// As the store says it is.
    pub item: Item,
    /// Units in purchases that the store has not answered.
    pub pending: i64,
}

/// By store and product; a slice's key is both.
pub fn list(
    connection: &Connection,
    filter: &Filter,
    slice: &Slice<(String, String)>,
) -> rusqlite::Result<Vec<Listed>> {
    let mut select = Select::new(format!(
        "select item.store_id, item.product_id, (select coalesce(sum(purchase.quantity), 0) from purchase \
         where purchase.store_id = item.store_id and purchase.product_id = item.product_id \
         and purchase.status = 'pending'), {COLUMNS} \
         from store cross join item on item.stock = store.stock where true",
    ));
    select.and_equal("store.store_id", filter.store.as_ref().map(StoreId::as_str));
    select.and_equal("item.product_id", filter.product.as_ref().map(ProductId::as_str));
    if let Some(q) = &filter.q {
        let condition = "(item.product_id like ? escape '\\' or item.name like ? escape '\\')";
        select.and(condition, [containing(q), containing(q)]);
    }
    if !filter.discontinued {
        select.and("(item.discontinued = 0 or item.quantity > 0)", []);
    }
    if !filter.retired {
        select.and("store.retired = 0", []);
    }
    if let Some((store, product)) = &slice.after {
        select.and("store.store_id >= ?", [store.clone().into()]);
        let behind = "item.product_id > case when store.store_id = ? then ? else '' end";
        select.and(behind, [store.clone().into(), product.clone().into()]);
    }
    select.end("store.store_id, item.product_id", slice);
    select.rows(connection, |row| {
        Ok(Listed { store: parsed(row, 0)?, product: parsed(row, 1)?, pending: row.get(2)?, item: read_item(row, 3)? })
    })
}

/// A product of the store whose id differs in case only.
pub fn other_case(connection: &Connection, store: &StoreId, product: &ProductId) -> rusqlite::Result<Option<String>> {
    connection.prepare_cached(OTHER_CASE)?.query_row([store.as_str(), product.as_str()], |row| row.get(0)).optional()
}
