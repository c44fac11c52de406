//! Lists of reservations.

use rusqlite::Connection;

use super::{Select, Slice};
use crate::storage::reservations::{COLUMNS, Reservation};

/// Which reservations; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// At this store.
    pub store: Option<String>,
    /// With this status.
    pub status: Option<String>,
    /// That have a line of this product.
    pub product: Option<String>,
    /// For this order.
    pub reference: Option<String>,
}

/// The newest first; a slice's key is the reservation's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Vec<Reservation>> {
    select(filter, slice).rows(connection, Reservation::read)
}

fn select(filter: &Filter, slice: &Slice<i64>) -> Select {
    let mut select = Select::new(format!("select {COLUMNS} from reservation where true"));
    select.and_equal("store_id", filter.store.as_deref());
    select.and_equal("status", filter.status.as_deref());
    if filter.status.as_deref() == Some("open") {
        select.and("not (select retired from store where store.store_id = reservation.store_id)", []);
    }
    select.and_equal("reference", filter.reference.as_deref());
    if let Some(product) = &filter.product {
        let has_line = "exists (select 1 from json_each(lines) where value ->> 'productId' = ?)";
        select.and(has_line, [product.clone().into()]);
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
    fn no_list_of_one_store_status_or_order_reads_all_reservations() {
        let connection = database();
        let text = || Some("open".to_owned());
        let filters = [
            Filter { status: text(), ..Filter::default() },
            Filter { store: text(), ..Filter::default() },
            Filter { reference: text(), ..Filter::default() },
        ];
        for filter in filters {
            let sql = select(&filter, &Slice { after: None, offset: 0, limit: 51 }).sql;
            let plan = plan(&connection, &sql);
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }
}
