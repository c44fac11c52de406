//! Lists of commands to stores.

use rusqlite::Connection;

use super::{Select, Slice};
use crate::storage::commands::{COLUMNS, Request};

/// Which commands; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this store.
    pub store: Option<String>,
    /// With this status.
    pub status: Option<String>,
}

/// The newest first; a slice's key is the command's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Vec<Request>> {
    let mut select = Select::new(format!("select {COLUMNS} from request where true"));
    select.and_equal("store_id", filter.store.as_deref());
    select.and_equal("status", filter.status.as_deref());
    if let Some(number) = slice.after {
        select.and("number < ?", [number.into()]);
    }
    select.end("number desc", slice).rows(connection, Request::read)
}
