//! Lists of the chain's totals.

use rusqlite::{Connection, OptionalExtension};

use super::{Select, Slice, containing};
use protocol::ids::ProductId;

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
}

/// By id; `q` is a part of id or name. A slice's key is the product's id.
pub fn list(connection: &Connection, q: Option<&str>, slice: &Slice<String>) -> rusqlite::Result<Vec<Total>> {
    let mut select =
        Select::new("select product_id, name, quantity, reserved, allotted, stores from product where stores > 0");
    if let Some(q) = q {
        let condition = "(product_id like ? escape '\\' or name like ? escape '\\')";
        select.and(condition, [containing(q), containing(q)]);
    }
    if let Some(product) = &slice.after {
        select.and("product_id > ?", [product.clone().into()]);
    }
    select.end("product_id", slice);
    select.rows(connection, |row| {
        Ok(Total {
            product: row.get(0)?,
            name: row.get(1)?,
            quantity: row.get(2)?,
            reserved: row.get(3)?,
            allotted: row.get(4)?,
            stores: row.get(5)?,
        })
    })
}

/// The name that a store has given a product last.
pub fn name(connection: &Connection, product: &ProductId) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("select name from product where product_id = ?1")?
        .query_row([product.as_str()], |row| row.get(0))
        .optional()
}
