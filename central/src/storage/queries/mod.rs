//! What the API, restore and the auditor read: lists with their filters, and the ledger piece by piece.

pub mod audit;
pub mod commands;
pub mod dead_letters;
pub mod events;
pub mod items;
pub mod offers;
pub mod products;
pub mod purchases;
pub mod reservations;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

/// Which part of a list is read.
#[derive(Debug, Clone)]
pub struct Slice<K> {
    /// Key of the record after which it begins.
    pub after: Option<K>,
    /// Records to pass over first.
    pub offset: usize,
    /// Records, at most.
    pub limit: usize,
}

/// A select that is put together from what a filter says. Its text depends on which members the filter has, never on
/// what they say.
struct Select {
    sql: String,
    values: Vec<Value>,
}

impl Select {
    /// Begins with a select whose `where` has at least one condition.
    fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), values: Vec::new() }
    }

    fn and<const N: usize>(&mut self, condition: &str, values: [Value; N]) {
        self.sql.push_str(" and ");
        self.sql.push_str(condition);
        self.values.extend(values);
    }

    /// What is not given is not compared.
    fn and_equal(&mut self, column: &str, wanted: Option<&str>) {
        if let Some(wanted) = wanted {
            self.and(&format!("{column} = ?"), [wanted.to_owned().into()]);
        }
    }

    fn end<K>(&mut self, order: &str, slice: &Slice<K>) {
        self.sql.push_str(&format!(" order by {order} limit {} offset {}", slice.limit, slice.offset));
    }

    fn rows<T>(
        self,
        connection: &Connection,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        connection.prepare_cached(&self.sql)?.query_map(params_from_iter(self.values), read)?.collect()
    }
}

/// A pattern for `like ? escape '\'` that finds this text anywhere.
fn containing(text: &str) -> Value {
    let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%").into()
}
