//! Lists of the chain's totals.

use protocol::ids::ProductId;
use runtime::search::{Found, Searched, Words};
use runtime::sqlite::labels::{self, Labels, Part};
use rusqlite::{Connection, OptionalExtension, Row};

use super::{Select, Slice};

/// A product's units over all stores but the retired ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    pub product: String,
    /// The name that a store has given it last.
    pub name: String,
    /// Units in the stores.
    pub quantity: i64,
    /// Of these, reserved.
    pub reserved: i64,
    /// Of these, set aside for online sale.
    pub allotted: i64,
    /// Stores that carry it.
    pub stores: i64,
    /// Units on their way from one store to another.
    pub in_transit: i64,
}

const COLUMNS: &str = "product_id, name, quantity, reserved, allotted, stores, \
     (select coalesce(sum(transit.quantity), 0) from transit where transit.product_id = product.product_id \
       and not exists (select 1 from store where store.store_id = transit.to_store and retired))";

fn read(row: &Row<'_>) -> rusqlite::Result<Total> {
    Ok(Total {
        product: row.get(0)?,
        name: row.get(1)?,
        quantity: row.get(2)?,
        reserved: row.get(3)?,
        allotted: row.get(4)?,
        stores: row.get(5)?,
        in_transit: row.get(6)?,
    })
}

/// By id; `words` are in id or name. A slice's key is the product's id.
pub fn list(
    connection: &Connection,
    words: Option<&Words>,
    slice: &Slice<String>,
) -> rusqlite::Result<Searched<Total>> {
    let carried = || Select::new(format!("select {COLUMNS} from product where stores > 0"));
    let mut select = carried();
    if let Some(product) = &slice.after {
        select.and("product_id > ?", [product.clone().into()]);
    }
    let Some(words) = words else {
        let rows = select.end("product_id", slice).rows(connection, read)?;
        return Ok(Searched { rows, found: carried().count(connection)?, reached: None });
    };
    let Labels { labels, are_all } = labels::search(connection, words)?;
    let mut products: Vec<ProductId> = labels.into_iter().map(|(product, _)| product).collect();
    products.dedup();
    let mut found = Vec::with_capacity(products.len());
    let mut of_id =
        connection.prepare_cached(&format!("select {COLUMNS} from product where stores > 0 and product_id = ?1"))?;
    for product in products {
        let total = of_id.query_row([product.as_str()], read).optional()?;
        found.extend(total.filter(|total| words.find_in(&total.product, &total.name)));
    }
    let part = Part { offset: slice.offset, limit: slice.limit };
    if are_all {
        let is_behind = |total: &Total| Some(&total.product) > slice.after.as_ref();
        return Ok(labels::cut(found, true, is_behind, part));
    }
    let count = Found { found: found.len(), found_all: false };
    let is_meant = |row: &Row<'_>| Ok(words.find_in(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?));
    select.order("product_id").query(connection, |rows| labels::sift(rows, count, part, is_meant, read))
}

/// The name that a store has given a product last.
pub fn name(connection: &Connection, product: &ProductId) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("select name from product where product_id = ?1")?
        .query_row([product.as_str()], |row| row.get(0))
        .optional()
}
