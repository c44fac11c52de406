//! Lists of transfers.

use rusqlite::Connection;

use super::{Select, Slice};
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

/// The newest first; a slice's key is the transfer's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Vec<Transfer>> {
    select(filter, slice).rows(connection, Transfer::read)
}

const IS_LOST: &str = "exists (select 1 from store where store.store_id = transfer.to_store and retired)";

fn select(filter: &Filter, slice: &Slice<i64>) -> Select {
    let mut select = Select::new(format!("select {COLUMNS} from transfer where true"));
    if let Some(store) = &filter.store {
        let of_store = "number in (select number from transfer where from_store = ? \
             union all select number from transfer where to_store = ?)";
        select.and(of_store, [store.clone().into(), store.clone().into()]);
    }
    match filter.status.as_deref() {
        Some("shipped") => select.and(&format!("status = 'shipped' and not {IS_LOST}"), []),
        Some("received") => select.and(
            &format!(
                "number in (select number from transfer where status = 'received' \
                 union all select number from transfer where status = 'shipped' and {IS_LOST})"
            ),
            [],
        ),
        status => select.and_equal("status", status),
    }
    select.and_equal("body ->> 'reference'", filter.reference.as_deref());
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
    fn no_list_of_one_store_or_status_reads_all_transfers() {
        let connection = database();
        let text = || Some("shipped".to_owned());
        let received = Some("received".to_owned());
        let filters = [
            Filter { status: text(), ..Filter::default() },
            Filter { status: received, ..Filter::default() },
            Filter { store: text(), ..Filter::default() },
            Filter { reference: text(), ..Filter::default() },
        ];
        for filter in filters {
            let sql = select(&filter, &Slice { after: None, offset: 0, limit: 51 }).sql;
            let plan = plan(&connection, &sql);
            assert!(!plan.contains("SCAN transfer"), "{sql}: {plan}");
        }
    }
}
