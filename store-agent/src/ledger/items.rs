//! The stock: what the ledger adds up to.

use protocol::domain::Item;
use protocol::ids::ProductId;
use protocol::time::Millis;
use runtime::sqlite::parsed;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};

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

/// All items, by product.
pub fn all_items(connection: &Connection) -> rusqlite::Result<Vec<(ProductId, Item)>> {
    connection
        .prepare_cached(&format!("select product_id, {COLUMNS} from item order by product_id"))?
        .query_map([], |row| Ok((parsed(row, 0)?, read_item(row, 1)?)))?
        .collect()
}

/// Which items a list shows.
#[derive(Debug, Clone, Default)]
pub struct ItemFilter {
    /// Whose id or name has this in it.
    pub text: Option<String>,
    /// Whose stock is low, or is not.
    pub low: Option<bool>,
    /// Also those that are discontinued and sold out.
    pub with_discontinued: bool,
    /// Whose id comes after this.
    pub after: Option<String>,
    /// At most so many.
    pub limit: i64,
    /// Behind so many.
    pub offset: usize,
}

/// Items, by product.
pub fn list_items(connection: &Connection, filter: &ItemFilter) -> rusqlite::Result<Vec<(ProductId, Item)>> {
    let mut sql = format!("select product_id, {COLUMNS} from item where true");
    let mut values: Vec<&dyn ToSql> = Vec::new();
    let escaped = |text: &String| text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    let pattern = filter.text.as_ref().map(|text| format!("%{}%", escaped(text)));
    if let Some(pattern) = &pattern {
        sql.push_str(" and (product_id like ? escape '\\' or name like ? escape '\\')");
        values.push(pattern);
        values.push(pattern);
    }
    if let Some(low) = &filter.low {
        sql.push_str(" and low = ?");
        values.push(low);
    }
    if !filter.with_discontinued {
        sql.push_str(" and (discontinued = 0 or quantity > 0)");
    }
    if let Some(after) = &filter.after {
        sql.push_str(" and product_id > ?");
        values.push(after);
    }
    sql.push_str(&format!(" order by product_id limit {} offset {}", filter.limit, filter.offset));
    connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(values), |row| Ok((parsed(row, 0)?, read_item(row, 1)?)))?
        .collect()
}

/// An item whose id differs from this one in case only.
pub fn find_item_in_any_case(connection: &Connection, product: &ProductId) -> rusqlite::Result<Option<ProductId>> {
    connection.prepare_cached(IN_ANY_CASE)?.query_row([product.as_str()], |row| parsed(row, 0)).optional()
}

const IN_ANY_CASE: &str = "select product_id from item where product_id = ?1 collate nocase limit 1";

/// Makes an item what it is after a change; the head's digest and number of items go with it.
pub(crate) fn put_item(
    connection: &Connection,
    head: &mut Head,
    product: &ProductId,
    before: Option<&Item>,
    after: &Item,
) -> rusqlite::Result<()> {
    head.digest = head.digest.replace(product, before, Some(after));
    head.items += u64::from(before.is_none());
    let sql = if before.is_some() {
        "update item set name = ?2, quantity = ?3, reserved = ?4, allotted = ?5, allotment_wanted = ?6, \
         discontinued = ?7, low_at = ?8, low = ?9, version = ?10, updated_at = ?11 where product_id = ?1"
    } else {
        "insert into item (product_id, name, quantity, reserved, allotted, allotment_wanted, discontinued, low_at, \
         low, version, updated_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::plan;
    use crate::testing::{product, store};

    #[test]
    fn an_id_in_another_case_is_found_without_reading_all_items() {
        let connection = store(&[("Tea", 1), ("milk", 1)]);
        let found = |name| find_item_in_any_case(&connection, &product(name)).expect("reads");
        assert_eq!((found("tEA"), found("coffee")), (Some(product("Tea")), None));
        let plan = plan(&connection, IN_ANY_CASE);
        assert!(plan.starts_with("SEARCH") && !plan.contains("SCAN"), "{plan}");
    }

    #[test]
    fn a_list_takes_what_is_searched_for_literally() {
        let connection = store(&[("a_b", 1), ("axb", 1), ("c", 1)]);
        let found = |text: &str, after: Option<&str>| {
            let filter = ItemFilter {
                text: (!text.is_empty()).then(|| text.into()),
                after: after.map(Into::into),
                limit: 10,
                ..ItemFilter::default()
            };
            let found = list_items(&connection, &filter).expect("reads");
            found.into_iter().map(|(product, _)| product.to_string()).collect::<Vec<_>>()
        };
        assert_eq!((found("a_b", None), found("%", None)), (vec!["a_b".into()], Vec::<String>::new()));
        assert_eq!(found("", Some("a_b")), ["axb", "c"]);
    }
}
