//! The chain's totals: a product's units over all stores but the retired ones.
//!
//! **Guarantees.** A total is moved, never summed over a whole store in one transaction. Each stock says for which
//! interval of products its rows are counted; of one store's stocks no two count the same product. So at each moment a
//! total is the sum, over the stores, of what one of its stocks says of the product: while one state replaces another,
//! of the old one or of the new one.

use std::collections::BTreeMap;

use protocol::domain::Item;
use protocol::ids::ProductId;
use protocol::planted::{Bug, planted};
use rusqlite::{Connection, OptionalExtension, params};

use crate::storage::items;
use crate::storage::store::Store;

/// Beyond every product's id.
pub const END: &str = "~";
/// Products summed anew in a step of so many rows: each has a row in every store that carries it.
const ROWS_A_PRODUCT: usize = 50;

/// Which of a stock's rows are in the totals, until a [`step`] counts more of them.
#[derive(Debug)]
pub struct Interval {
    after: String,
    to: String,
}

impl Interval {
    /// Of a stock.
    pub fn of(connection: &Connection, stock: i64) -> rusqlite::Result<Self> {
        connection
            .prepare_cached("select counted_after, counted_to from stock where stock = ?1")?
            .query_row([stock], |row| Ok(Self { after: row.get(0)?, to: row.get(1)? }))
    }

    /// Whether the row of this product is in the totals.
    pub fn has(&self, product: &ProductId) -> bool {
        product.as_str() > self.after.as_str() && product.as_str() <= self.to.as_str()
    }
}

/// Moves the product's totals from what an item was to what it is.
pub fn count(
    connection: &Connection,
    product: &ProductId,
    before: Option<&Item>,
    after: Option<&Item>,
) -> rusqlite::Result<()> {
    let renamed = after.filter(|item| before.is_none_or(|before| before.name != item.name));
    count_as(connection, product, renamed.map(|item| item.name.as_str()), before, after)
}

/// As [`count`]. `renamed`: the name set last, in the order in which events reach central, is the product's.
pub fn count_as(
    connection: &Connection,
    product: &ProductId,
    renamed: Option<&str>,
    before: Option<&Item>,
    after: Option<&Item>,
) -> rusqlite::Result<()> {
    let member = |item: Option<&Item>, of: fn(&Item) -> i64| item.map_or(0, of);
    let change = |of: fn(&Item) -> i64| member(after, of) - member(before, of);
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

/// One step towards counting all of a store's stock, or nothing of it if it is retired: at most so many rows of each of
/// two stocks. Says whether there was something to do.
pub fn step(connection: &Connection, store: &Store, rows: usize) -> rusqlite::Result<bool> {
    let counted_to: String = connection
        .prepare_cached("select counted_to from stock where stock = ?1")?
        .query_row([store.stock], |row| row.get(0))?;
    match (store.retired, counted_to.as_str()) {
        (false, END) | (true, "") => Ok(false),
        (false, from) => grow(connection, store, from, rows).map(|()| true),
        (true, to) => shrink(connection, store, to, rows).map(|()| true),
    }
}

/// Counts what comes next in the stock that is shown, and no longer what an earlier one says of the same products.
fn grow(connection: &Connection, store: &Store, from: &str, rows: usize) -> rusqlite::Result<()> {
    let mut to = bound(connection, store.stock, from, rows)?;
    let next: Option<(i64, String, String)> = connection
        .prepare_cached(
            "select stock, counted_after, counted_to from stock indexed by stock_discarded where store_id = ?1 \
             and state = 'discarded' and counted_to > ?2 and counted_after < counted_to order by counted_after limit 1",
        )?
        .query_row(params![store.id.as_str(), from], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let mut changes: BTreeMap<ProductId, (Option<Item>, Option<Item>)> = BTreeMap::new();
    match next {
        // Between the two nothing is counted.
        Some((_, after, _)) if after.as_str() > from => to = to.min(after),
        Some((old, _, until)) => {
            to = to.min(until).min(bound(connection, old, from, rows)?);
            for (product, item) in items::between(connection, old, from, &to, rows)? {
                changes.entry(product).or_default().0 = Some(item);
            }
            set_after(connection, old, &to)?;
        }
        None => {}
    }
    for (product, item) in items::between(connection, store.stock, from, &to, rows)? {
        changes.entry(product).or_default().1 = Some(item);
    }
    if !planted(Bug::TotalsNotMoved) {
        for (product, (before, after)) in &changes {
            count(connection, product, before.as_ref(), after.as_ref())?;
        }
    }
    set_to(connection, store.stock, &to)
}

/// Takes a retired store's last products out, so that what is counted always begins at the first.
fn shrink(connection: &Connection, store: &Store, to: &str, rows: usize) -> rusqlite::Result<()> {
    let left: Option<String> = connection
        .prepare_cached(
            "select product_id from item where stock = ?1 and product_id <= ?2 order by product_id desc \
             limit 1 offset ?3",
        )?
        .query_row(params![store.stock, to, rows], |row| row.get(0))
        .optional()?;
    let left = left.unwrap_or_default();
    for (product, item) in items::between(connection, store.stock, &left, to, rows)? {
        count(connection, &product, Some(&item), None)?;
    }
    set_to(connection, store.stock, &left)
}

/// The last of the next so many products of a stock; beyond all if there are no more.
fn bound(connection: &Connection, stock: i64, from: &str, rows: usize) -> rusqlite::Result<String> {
    let bound: Option<String> = connection
        .prepare_cached(
            "select product_id from item where stock = ?1 and product_id > ?2 order by product_id limit 1 offset ?3",
        )?
        .query_row(params![stock, from, rows.saturating_sub(1)], |row| row.get(0))
        .optional()?;
    Ok(bound.unwrap_or_else(|| END.to_owned()))
}

fn set_after(connection: &Connection, stock: i64, after: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update stock set counted_after = ?2 where stock = ?1")?
        .execute(params![stock, after])?;
    Ok(())
}

fn set_to(connection: &Connection, stock: i64, to: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("update stock set counted_to = ?2 where stock = ?1")?.execute(params![stock, to])?;
    Ok(())
}

/// Sums all totals anew, product by product, in the steps to come: rows were found that are not what was counted.
pub fn begin_recount(connection: &Connection) -> rusqlite::Result<()> {
    if planted(Bug::TotalsNeverRecounted) {
        return Ok(());
    }
    connection.prepare_cached("delete from recount")?.execute([])?;
    connection.prepare_cached("insert into recount (counted_to) values ('')")?.execute([])?;
    Ok(())
}

/// Whether totals are being summed anew.
pub fn is_recounting(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("select exists (select 1 from recount)")?.query_row([], |row| row.get(0))
}

/// What the rows that are counted add up to.
const SUM: &str = "select coalesce(sum(item.quantity), 0), coalesce(sum(item.reserved), 0), \
     coalesce(sum(item.allotted), 0), count(*) from item join stock using (stock) where item.product_id = ?1 \
     and item.product_id > stock.counted_after and item.product_id <= stock.counted_to";

/// One step of [`begin_recount`]. Says whether there was something to do.
pub fn recount_step(connection: &Connection, rows: usize) -> rusqlite::Result<bool> {
    let from: Option<String> =
        connection.prepare_cached("select counted_to from recount")?.query_row([], |row| row.get(0)).optional()?;
    let Some(from) = from else { return Ok(false) };
    let products: Vec<String> = connection
        .prepare_cached("select product_id from product where product_id > ?1 order by product_id limit ?2")?
        .query_map(params![from, (rows / ROWS_A_PRODUCT).max(1)], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut update = connection.prepare_cached(&format!(
        "update product set (quantity, reserved, allotted, stores) = ({SUM}) where product_id = ?1"
    ))?;
    for product in &products {
        update.execute([product])?;
    }
    match products.last() {
        Some(last) => connection.prepare_cached("update recount set counted_to = ?1")?.execute([last])?,
        None => connection.prepare_cached("delete from recount")?.execute([])?,
    };
    Ok(true)
}

/// A product whose totals are not what the counted rows add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub product: String,
    /// Which of its totals, for people.
    pub what: &'static str,
    /// What the total says.
    pub total: i64,
    /// What the rows add up to.
    pub sum: i64,
}

/// Compares all totals with the rows; reads every item of the chain.
pub fn differences(connection: &Connection) -> rusqlite::Result<Vec<Difference>> {
    let mut sum = connection.prepare(SUM)?;
    let mut products = connection.prepare("select product_id, quantity, reserved, allotted, stores from product")?;
    let mut rows = products.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let product: String = row.get(0)?;
        let sums: [i64; 4] =
            sum.query_row([&product], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?;
        for (number, what) in ["units", "reserved units", "allotted units", "stores"].into_iter().enumerate() {
            let total: i64 = row.get(number + 1)?;
            if total != sums[number] {
                found.push(Difference { product: product.clone(), what, total, sum: sums[number] });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, database, plan};

    #[test]
    fn a_step_reads_no_whole_stock() {
        let connection = database();
        Agent::settled("s1", &connection);
        let plan = plan(&connection, SUM);
        assert!(plan.contains("item_by_product") && !plan.contains("SCAN"), "{plan}");
    }
}
