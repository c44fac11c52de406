//! Online purchases whose units left the shelf: what staff has to pick.

use protocol::ids::PurchaseId;
use protocol::time::Millis;
use protocol::wire::PurchaseRef;
use runtime::sqlite::{lines_at, parsed, several};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};

/// A row of `purchase`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// Order in which the units left the shelf.
    pub number: i64,
    /// The attempt, as central knows it.
    pub reference: PurchaseRef,
    /// Cancelled; else confirmed.
    pub is_cancelled: bool,
    /// When the store decided.
    pub settled_at: Millis,
    /// When staff picked it.
    pub picked_at: Option<Millis>,
}

/// Columns of a purchase, in the order that [`Purchase::read`] expects.
const COLUMNS: &str = "number, purchase_id, attempt, product_id, quantity, status, reference, created_at, \
     expires_at, settled_at, picked_at, lines";

// Reads no more than so many rows, whatever has piled up.
const TO_PICK: &str = "select count(*) from (select 1 from purchase where status = 'confirmed' and picked_at is null \
     limit 10000)";

impl Purchase {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let reference = PurchaseRef {
            from_allotment: None,
            purchase_id: parsed(row, 1)?,
            attempt: parsed(row, 2)?,
            lines: lines_at(row, 3, 4, 11)?,
            reference: row.get(6)?,
            created_at: Millis(row.get(7)?),
            expires_at: Millis(row.get(8)?),
        };
        Ok(Self {
            number: row.get(0)?,
            reference,
            is_cancelled: row.get_ref(5)?.as_str()? == "cancelled",
            settled_at: Millis(row.get(9)?),
            picked_at: row.get::<_, Option<i64>>(10)?.map(Millis),
        })
    }
}

pub fn find(connection: &Connection, id: PurchaseId) -> rusqlite::Result<Option<Purchase>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from purchase where purchase_id = ?1"))?
        .query_row([id.to_string()], Purchase::read)
        .optional()
}

/// Which purchases a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Picked, or waiting to be picked; a cancelled one waits no more.
    pub picked: Option<bool>,
    /// `confirmed` or `cancelled`; another text finds nothing.
    pub status: Option<String>,
    /// With a line of this product.
    pub product_id: Option<String>,
    /// With this order number.
    pub reference: Option<String>,
    /// Numbered below this.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
    /// Behind so many.
    pub offset: usize,
}

/// Purchases, the newest first.
pub fn list(connection: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Purchase>> {
    let (sql, values) = query(filter);
    connection.prepare_cached(&sql)?.query_map(params_from_iter(values), Purchase::read)?.collect()
}

fn query(filter: &Filter) -> (String, Vec<&dyn ToSql>) {
    let mut sql = format!("select {COLUMNS} from purchase where true");
    let mut values: Vec<&dyn ToSql> = Vec::new();
    match filter.picked {
        Some(false) => sql.push_str(" and picked_at is null and status = 'confirmed'"),
        Some(true) => sql.push_str(" and picked_at is not null"),
        None => {}
    }
    for (column, wanted) in [("status", &filter.status), ("reference", &filter.reference)] {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" and {column} = ?"));
            values.push(wanted);
        }
    }
    if let Some(product) = &filter.product_id {
        sql.push_str(
            " and (product_id = ? or exists (select 1 from json_each(lines) where value ->> 'productId' = ?))",
        );
        values.extend([product as &dyn ToSql, product]);
    }
    if let Some(before) = &filter.before {
        sql.push_str(" and number < ?");
        values.push(before);
    }
    sql.push_str(&format!(" order by number desc limit {} offset {}", filter.limit, filter.offset));
    (sql, values)
}

/// How many wait to be picked; 10,000 if there are more.
pub fn count_to_pick(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached(TO_PICK)?.query_row([], |row| row.get(0))
}

/// Its units have left the shelf.
pub(crate) fn confirm(connection: &Connection, purchase: &PurchaseRef, at: Millis) -> rusqlite::Result<()> {
    let first = purchase.lines.first();
    connection
        .prepare_cached(
            "insert or replace into purchase (purchase_id, attempt, product_id, quantity, status, reference, \
             created_at, expires_at, settled_at, lines) values (?1, ?2, ?3, ?4, 'confirmed', ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            purchase.purchase_id.to_string(),
            purchase.attempt.as_str(),
            first.product_id.as_str(),
            first.quantity.get(),
            purchase.reference,
            purchase.created_at.0,
            purchase.expires_at.0,
            at.0,
            several(&purchase.lines),
        ])?;
    Ok(())
}

/// Its units are back.
pub(crate) fn cancel(connection: &Connection, id: PurchaseId, at: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update purchase set status = 'cancelled', settled_at = ?2 where purchase_id = ?1")?
        .execute(params![id.to_string(), at.0])?;
    Ok(())
}

/// Staff has picked it.
pub(crate) fn pick(connection: &Connection, id: PurchaseId, at: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update purchase set picked_at = ?2 where purchase_id = ?1")?
        .execute(params![id.to_string(), at.0])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::plan;
    use crate::testing::store;

    #[test]
    fn what_belongs_to_an_order_is_found_by_index() {
        let connection = store(&[]);
        for picked in [None, Some(false), Some(true)] {
            for before in [None, Some(7)] {
                let (status, reference) = (Some("confirmed".to_owned()), Some("order-1".to_owned()));
                let filter = Filter { picked, status, reference, before, limit: 9, ..Filter::default() };
                let plan = plan(&connection, &query(&filter).0);
                assert!(plan.contains("SEARCH purchase USING INDEX purchase_by_reference (reference=?"), "{plan}");
                assert!(!plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
    }

    #[test]
    fn what_waits_to_be_picked_is_counted_by_index() {
        let plan = plan(&store(&[]), TO_PICK);
        assert!(plan.contains("SCAN purchase USING INDEX purchase_to_pick"), "{plan}");
    }
}
