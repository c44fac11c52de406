//! Lists of reservations.

use runtime::sqlite::newest::{Newest, Part};
use rusqlite::Connection;

use super::Slice;
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

/// The newest first, one less than the slice's limit; its key is the reservation's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Part<Reservation>> {
    query(filter).list(connection, slice, Reservation::read)
}

fn query(Filter { store, status, product, reference }: &Filter) -> Newest {
    let mut list = Newest::of("reservation", COLUMNS);
    list = match (reference, store, status) {
        (Some(reference), ..) => list.along("reservation_by_reference", "reference = ?", [reference]),
        (None, Some(store), _) => list.along("reservation_by_store", "store_id = ?", [store]),
        (None, None, Some(status)) => list.along("reservation_by_status", "status = ?", [status]),
        (None, None, None) => list,
    };
    list = list.and_equal("store_id", store.as_deref()).and_equal("status", status.as_deref());
    if status.as_deref() == Some("open") {
        list = list.and("not (select retired from store where store.store_id = reservation.store_id)", []);
    }
    if let Some(product) = product {
        let has_line = "exists (select 1 from json_each(lines) where value ->> 'productId' = ?)";
        list = list.and(has_line, [product.clone().into()]);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{all_of, database, ways};

    #[test]
    fn whatever_else_is_compared_a_list_goes_along_the_index_that_leaves_the_least() {
        let connection = database();
        for [store, status, product, reference] in all_of(["s1", "open", "tea", "order-1"]) {
            let way = match (&reference, &store, &status) {
                (Some(_), ..) => "reservation USING INDEX reservation_by_reference (reference=?",
                (None, Some(_), _) => "reservation USING INDEX reservation_by_store (store_id=?",
                (None, None, Some(_)) => "reservation USING INDEX reservation_by_status (status=?",
                (None, None, None) => "reservation",
            };
            let filter = Filter { store, status, product, reference };
            assert_eq!(ways(&connection, &query(&filter)), [way], "{filter:?}");
        }
    }
}
