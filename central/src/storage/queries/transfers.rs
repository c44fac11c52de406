//! Lists of transfers.

use runtime::sqlite::newest::{Newest, Part};
use rusqlite::Connection;

use super::Slice;
use crate::storage::transfers::{COLUMNS, Transfer};

/// Which transfers; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// From or to this store.
    pub store: Option<String>,
    /// With this status. What is on its way to a retired store is shown as received, with nothing that has arrived.
    pub status: Option<String>,
    /// With this reference.
    pub reference: Option<String>,
}

/// The newest first, one less than the slice's limit; its key is the transfer's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Part<Transfer>> {
    query(filter).list(connection, slice, Transfer::read)
}

/// Whether a transfer is shown with a status.
const IS_SHOWN_AS: &str = "case when status = 'shipped' \
       and exists (select 1 from store where store.store_id = transfer.to_store and retired) \
     then 'received' else status end = ?";

fn query(Filter { store, status, reference }: &Filter) -> Newest {
    let (index, by_status) = ("transfer_by_status", "status = ?");
    let mut list = Newest::of("transfer", COLUMNS);
    list = match (reference, store, status.as_deref()) {
        (Some(reference), ..) => list.along("transfer_by_reference", "body ->> 'reference' = ?", [reference]),
        (None, Some(store), _) => list.along("transfer_by_source", "from_store = ?", [store]).along(
            "transfer_by_destination",
            "to_store = ? and from_store <> ?",
            [store, store],
        ),
        (None, None, Some("received")) => {
            list.along(index, by_status, ["received"]).along(index, by_status, ["shipped"])
        }
        (None, None, Some(status)) => list.along(index, by_status, [status]),
        (None, None, None) => list,
    };
    if let Some(store) = store {
        list = list.and("(from_store = ? or to_store = ?)", [store.clone().into(), store.clone().into()]);
    }
    if let Some(status) = status {
        list = list.and(IS_SHOWN_AS, [status.clone().into()]);
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
        let by_status = "transfer USING INDEX transfer_by_status (status=?";
        for status in ["shipped", "received"] {
            for [store, status, reference] in all_of(["s1", status, "order-1"]) {
                let expected = match (&reference, &store, status.as_deref()) {
                    (Some(_), ..) => vec!["transfer USING INDEX transfer_by_reference (<expr>=?"],
                    (None, Some(_), _) => vec![
                        "transfer USING INDEX transfer_by_source (from_store=?",
                        "transfer USING INDEX transfer_by_destination (to_store=?",
                    ],
                    (None, None, Some("received")) => vec![by_status, by_status],
                    (None, None, Some(_)) => vec![by_status],
                    (None, None, None) => vec!["transfer"],
                };
                let filter = Filter { store, status, reference };
                assert_eq!(ways(&connection, &query(&filter)), expected, "{filter:?}");
            }
        }
    }
}
