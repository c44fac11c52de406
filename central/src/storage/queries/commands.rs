//! Lists of commands to stores.

use runtime::sqlite::newest::{Newest, Part};
use rusqlite::Connection;

use super::Slice;
use crate::storage::commands::{COLUMNS, Request};

/// Which commands; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this store.
    pub store: Option<String>,
    /// With this status.
    pub status: Option<String>,
}

/// The newest first, one less than the slice's limit; its key is the command's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Part<Request>> {
    query(filter).list(connection, slice, Request::read)
}

fn query(filter: &Filter) -> Newest {
    let list = Newest::of("request", COLUMNS);
    let list = match (filter.store.as_deref(), filter.status.as_deref()) {
        (Some(store), Some("pending")) => list.along("request_pending", "store_id = ? and status = 'pending'", [store]),
        (Some(store), _) => list.along("request_by_store", "store_id = ?", [store]),
        (None, Some(status)) => list.along("request_by_status", "status = ?", [status]),
        (None, None) => list,
    };
    list.and_equal("status", filter.status.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{database, ways};

    #[test]
    fn whatever_else_is_compared_the_commands_of_a_store_are_found_by_its_index() {
        let connection = database();
        for (store, status, way) in [
            (None, None, "request"),
            (None, Some("done"), "request USING INDEX request_by_status (status=?"),
            (Some("s1"), None, "request USING INDEX request_by_store (store_id=?"),
            (Some("s1"), Some("done"), "request USING INDEX request_by_store (store_id=?"),
            (Some("s1"), Some("pending"), "request USING INDEX request_pending (store_id=?"),
        ] {
            let filter = Filter { store: store.map(Into::into), status: status.map(Into::into) };
            assert_eq!(ways(&connection, &query(&filter)), [way], "{filter:?}");
        }
    }
}
