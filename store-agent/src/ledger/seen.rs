//! Products that a file has named so far, in a scratch database of their own that SQLite keeps on disk: a file may be
//! longer than memory is large.

use protocol::ids::ProductId;
use rusqlite::{Connection, OptionalExtension, params};

/// What has been seen.
#[derive(Debug)]
pub struct Seen(Connection);

impl Seen {
    /// Nothing yet.
    pub fn open() -> rusqlite::Result<Self> {
        // Without a name it is a file of the process's own, which is gone when it is closed.
        let connection = Connection::open("")?;
        connection.execute_batch(
            "pragma journal_mode = off; pragma synchronous = off;
             create table seen (product_id text not null primary key, line integer not null) strict, without rowid;
             begin;",
        )?;
        Ok(Self(connection))
    }

    /// The line on which the product was named before; else it is this one.
    pub fn before(&self, product: &ProductId, line: u64) -> rusqlite::Result<Option<u64>> {
        let known = self
            .0
            .prepare_cached("select line from seen where product_id = ?1")?
            .query_row([product.as_str()], |row| row.get(0))
            .optional()?;
        if known.is_none() {
            self.0
                .prepare_cached("insert into seen (product_id, line) values (?1, ?2)")?
                .execute(params![product.as_str(), line])?;
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::product;

    #[test]
    fn a_product_is_new_once() {
        let seen = Seen::open().expect("opens");
        assert_eq!(seen.before(&product("tea"), 2).expect("reads"), None);
        assert_eq!(seen.before(&product("ale"), 3).expect("reads"), None);
        assert_eq!(seen.before(&product("tea"), 4).expect("reads"), Some(2));
        assert_eq!(seen.before(&product("tea"), 5).expect("reads"), Some(2));
    }
}
