//! Online purchases whose units left the shelf: what staff has to pick.

use protocol::ids::PurchaseId;
use protocol::time::Millis;
use protocol::wire::PurchaseRef;
use runtime::sqlite::newest::{Newest, Part, Slice};
use runtime::sqlite::{lines_at, parsed, several};
use rusqlite::{Connection, OptionalExtension, Row, params};

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
}

/// Purchases, the newest first, one less than the slice's limit; its key is the purchase's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Part<Purchase>> {
    query(filter).list(connection, slice, Purchase::read)
}

fn query(Filter { picked, status, product_id, reference }: &Filter) -> Newest {
    let mut list = Newest::of("purchase", COLUMNS);
    list = match (reference, picked) {
        (Some(reference), _) => list.along("purchase_by_reference", "reference = ?", [reference]),
        (None, Some(false)) => list.along("purchase_to_pick", "status = 'confirmed' and picked_at is null", []),
        (None, Some(true) | None) => list,
    };
    list = match picked {
        Some(true) => list.and("picked_at is not null", []),
        Some(false) => list.and("status = 'confirmed' and picked_at is null", []),
        None => list,
    };
    list = list.and_equal("status", status.as_deref());
    if let Some(product) = product_id {
        let has_line = "(product_id = ? or exists (select 1 from json_each(lines) where value ->> 'productId' = ?))";
        list = list.and(has_line, [product.clone().into(), product.clone().into()]);
    }
    list
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
    use crate::ledger::testing::{all_of, plan, ways};
    use crate::testing::{NOW, product, store};

    #[test]
    fn whatever_else_is_compared_a_list_goes_along_the_index_that_leaves_the_least() {
        let connection = store(&[]);
        for picked in [None, Some(false), Some(true)] {
            for [status, product_id, reference] in all_of(["confirmed", "ale", "order-1"]) {
                let way = match (&reference, picked) {
                    (Some(_), _) => "purchase USING INDEX purchase_by_reference (reference=?",
                    (None, Some(false)) => "purchase USING INDEX purchase_to_pick",
                    (None, Some(true) | None) => "purchase",
                };
                let filter = Filter { picked, status, product_id, reference };
                assert_eq!(ways(&connection, &query(&filter)), [way], "{filter:?}");
            }
        }
    }

    #[test]
    fn a_list_passes_over_so_many_and_says_how_far_it_has_come() {
        let connection = store(&[]);
        for number in 1..=10 {
            let purchase_id = PurchaseId::new(uuid::Uuid::from_u128(number));
            let purchase = PurchaseRef {
                from_allotment: None,
                purchase_id,
                attempt: protocol::ids::OperationId::attempt(&purchase_id, 1),
                lines: protocol::domain::Lines::one(product("ale"), protocol::domain::Quantity::ONE),
                reference: None,
                created_at: NOW,
                expires_at: NOW,
            };
            confirm(&connection, &purchase, NOW).expect("writes");
            if [1, 5, 10].contains(&number) {
                pick(&connection, purchase_id, NOW).expect("writes");
            } else {
                cancel(&connection, purchase_id, NOW).expect("writes");
            }
        }
        let numbers = |filter: &Filter, after| {
            let slice = Slice { after, offset: 0, limit: 9 };
            let part = query(filter).passing_over(4).list(&connection, &slice, Purchase::read).expect("reads");
            (part.rows.iter().map(|purchase| purchase.number).collect::<Vec<_>>(), part.next)
        };
        let picked = Filter { picked: Some(true), ..Filter::default() };
        assert_eq!(numbers(&picked, None), (vec![10], Some(6)));
        assert_eq!(numbers(&picked, Some(6)), (vec![5, 1], None));
        let confirmed = Filter { status: Some("confirmed".into()), ..Filter::default() };
        assert_eq!(numbers(&confirmed, None), (vec![10], Some(6)));
        let bun = Filter { product_id: Some("bun".into()), ..Filter::default() };
        assert_eq!(numbers(&bun, Some(9)), (vec![], Some(5)));
    }

    #[test]
    fn what_waits_to_be_picked_is_counted_by_index() {
        let plan = plan(&store(&[]), TO_PICK);
        assert!(plan.contains("SCAN purchase USING INDEX purchase_to_pick"), "{plan}");
    }
}
