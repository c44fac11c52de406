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
pub mod transfers;

use runtime::search::Found;
pub use runtime::sqlite::newest::Slice;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, Rows, params_from_iter};

/// Rows that a list counts, at most.
const COUNTED: usize = 10_000;

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

    fn order(mut self, order: &str) -> Self {
        self.sql.push_str(&format!(" order by {order}"));
        self
    }

    fn end<K>(mut self, order: &str, slice: &Slice<K>) -> Self {
        self = self.order(order);
        self.sql.push_str(&format!(" limit {} offset {}", slice.limit, slice.offset));
        self
    }

    /// How many rows there are; so many that it would take long are not counted.
    fn count(self, connection: &Connection) -> rusqlite::Result<Found> {
        let found: usize = connection
            .prepare_cached(&format!("select count(*) from ({} limit {})", self.sql, COUNTED + 1))?
            .query_row(params_from_iter(self.values), |row| row.get(0))?;
        Ok(Found { found: found.min(COUNTED), found_all: found <= COUNTED })
    }

    fn rows<T>(
        self,
        connection: &Connection,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        connection.prepare_cached(&self.sql)?.query_map(params_from_iter(self.values), read)?.collect()
    }

    fn query<T>(
        self,
        connection: &Connection,
        read: impl FnOnce(Rows<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        read(connection.prepare_cached(&self.sql)?.query(params_from_iter(self.values))?)
    }
}
