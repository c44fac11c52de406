//! Lists of purchases.

use protocol::time::Millis;
use rusqlite::Connection;

use super::{Select, Slice};
use crate::storage::purchases::{COLUMNS, Purchase};

/// Purchases that one list passes over, at most: one whose filter finds little does not hold a connection for long, and
/// says how far it has come.
const PASSED_OVER: usize = 100_000;

/// Which purchases; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this store.
    pub store: Option<String>,
    /// With this status.
    pub status: Option<String>,
    /// Of this customer of the shop.
    pub customer: Option<String>,
    /// With this order number of the shop.
    pub reference: Option<String>,
    /// With a line of this product.
    pub product: Option<String>,
    /// Asked at this time or later.
    pub since: Option<Millis>,
}

/// A part of a list.
#[derive(Debug)]
pub struct Part {
    pub purchases: Vec<Purchase>,
    /// The list goes on behind this number. `None`: there are no more.
    pub next: Option<i64>,
}

/// The newest first, one less than the slice's limit; its key is the purchase's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Part> {
    part(connection, filter, slice, PASSED_OVER)
}

fn part(connection: &Connection, filter: &Filter, slice: &Slice<i64>, most: usize) -> rusqlite::Result<Part> {
    select(filter, slice).query(connection, |mut rows| {
        let (mut purchases, mut offset, mut passed_over) = (Vec::new(), slice.offset, 0);
        while let Some(row) = rows.next()? {
            if row.get("is_wanted")? {
                if offset > 0 {
                    offset -= 1;
                    continue;
                }
                // One more tells whether there are any.
                if purchases.len() + 1 == slice.limit {
                    let next = purchases.last().map(|last: &Purchase| last.number);
                    return Ok(Part { purchases, next });
                }
                purchases.push(Purchase::read(row)?);
                continue;
            }
            passed_over += 1;
            if passed_over == most {
                return Ok(Part { purchases, next: Some(row.get("number")?) });
            }
        }
        Ok(Part { purchases, next: None })
    })
}

/// Along an index where there is one; what there is none for is looked at row by row.
fn select(filter: &Filter, slice: &Slice<i64>) -> Select {
    let mut is_wanted = Select::new("true");
    if let Some(product) = &filter.product {
        let has_line = "(product_id = ? or exists (select 1 from json_each(lines) where value ->> 'productId' = ?))";
        is_wanted.and(has_line, [product.clone().into(), product.clone().into()]);
    }
    if let Some(since) = filter.since {
        is_wanted.and("created_at >= ?", [since.0.into()]);
    }
    let Select { sql, values } = is_wanted;
    let mut select = Select { sql: format!("select {COLUMNS}, {sql} as is_wanted from purchase where true"), values };
    select.and_equal("store_id", filter.store.as_deref());
    select.and_equal("status", filter.status.as_deref());
    select.and_equal("customer_id", filter.customer.as_deref());
    select.and_equal("reference", filter.reference.as_deref());
    if let Some(number) = slice.after {
        select.and("number < ?", [number.into()]);
    }
    select.order("number desc")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database, plan};

    #[test]
    fn no_list_of_one_store_status_or_customer_reads_all_purchases() {
        let connection = database();
        let text = || Some("pending".to_owned());
        let filters = [
            Filter { status: text(), ..Filter::default() },
            Filter { status: text(), store: text(), ..Filter::default() },
            Filter { customer: text(), ..Filter::default() },
            Filter { reference: text(), ..Filter::default() },
        ];
        for filter in filters {
            let sql = select(&filter, &Slice { after: None, offset: 0, limit: 51 }).sql;
            let plan = plan(&connection, &sql);
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }
    #[test]
    fn a_list_passes_over_so_many_and_says_how_far_it_has_come() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        (1..=10).for_each(|number| drop(agent.buy(&connection, number)));
        // The first, the fifth and the last one are of tea, the third one is older.
        connection
            .execute("update purchase set product_id = 'bun' where number not in (1, 5, 10)", [])
            .expect("writes");
        connection.execute("update purchase set created_at = created_at - 9 where number = 3", []).expect("writes");
        let numbers = |filter: &Filter, after, offset, limit| {
            let part = part(&connection, filter, &Slice { after, offset, limit }, 4).expect("reads");
            (part.purchases.iter().map(|purchase| purchase.number).collect::<Vec<_>>(), part.next)
        };
        let tea = Filter { product: Some("tea".into()), ..Filter::default() };
        assert_eq!(numbers(&tea, None, 0, 9), (vec![10], Some(6)));
        assert_eq!(numbers(&tea, Some(6), 0, 9), (vec![5, 1], None));
        assert_eq!(numbers(&tea, Some(6), 0, 2), (vec![5], Some(5)));
        assert_eq!(numbers(&tea, None, 1, 9), (vec![], Some(6)), "a place in the list is none to be passed over");
        let since = Filter { since: Some(NOW), ..Filter::default() };
        assert_eq!(numbers(&since, Some(5), 0, 9), (vec![4, 2, 1], None), "what became known again may be older");
        assert_eq!(numbers(&Filter::default(), None, 7, 3), (vec![3, 2], Some(2)));
    }
}
