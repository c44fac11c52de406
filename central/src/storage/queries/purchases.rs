//! Lists of purchases.

use protocol::time::Millis;
use rusqlite::Connection;

use super::{Select, Slice};
use crate::storage::purchases::{COLUMNS, Purchase};

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

/// The newest first; a slice's key is the purchase's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Vec<Purchase>> {
    select(filter, slice).rows(connection, Purchase::read)
}

fn select(filter: &Filter, slice: &Slice<i64>) -> Select {
    let mut select = Select::new(format!("select {COLUMNS} from purchase where true"));
    select.and_equal("store_id", filter.store.as_deref());
    select.and_equal("status", filter.status.as_deref());
    select.and_equal("customer_id", filter.customer.as_deref());
    select.and_equal("reference", filter.reference.as_deref());
    if let Some(product) = &filter.product {
        let has_line = "(product_id = ? or exists (select 1 from json_each(lines) where value ->> 'productId' = ?))";
        select.and(has_line, [product.clone().into(), product.clone().into()]);
    }
    if let Some(since) = filter.since {
        select.and("created_at >= ?", [since.0.into()]);
    }
    if let Some(number) = slice.after {
        select.and("number < ?", [number.into()]);
    }
    select.end("number desc", slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{database, plan};

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
}
