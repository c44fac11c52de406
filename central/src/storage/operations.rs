//! Operations that came with a store's state, as its pages named them: central may have no entry of these, so that a store
//! which is restored could not tell without them what was done under a key. What central has an entry of in an earlier epoch,
//! and the state would name and does not, a human has given up.

use protocol::ids::{OperationId, StoreId};
use protocol::time::Millis;
use runtime::sqlite::parsed;
use rusqlite::{Connection, params};

/// A page of a state that arrives as this stock names these.
pub fn name(connection: &Connection, stock: i64, operations: &[OperationId], now: Millis) -> rusqlite::Result<()> {
    let mut insert = connection
        .prepare_cached("insert or replace into named_operation (stock, operation_id, at) values (?1, ?2, ?3)")?;
    for operation in operations {
        insert.execute(params![stock, operation.as_str(), now.0])?;
    }
    Ok(())
}

/// Those that the state of this generation has named, by id behind one, at most so many.
pub fn behind(
    connection: &Connection,
    generation: i64,
    operation: &str,
    rows: usize,
) -> rusqlite::Result<Vec<OperationId>> {
    connection
        .prepare_cached(
            "select operation_id from named_operation where stock = ?1 and operation_id > ?2 \
             order by operation_id limit ?3",
        )?
        .query_map(params![generation, operation, rows], |row| parsed(row, 0))?
        .collect()
}

/// Whether the state of this generation has named it.
pub fn is_named(connection: &Connection, generation: i64, operation: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("select 1 from named_operation where stock = ?1 and operation_id = ?2")?
        .exists(params![generation, operation])
}

/// Forgets what a stock has named that is removed, at most so many; unless a rebuild alone has taken its place: then the
/// state is the same. Says whether there were any.
pub fn forget_step(connection: &Connection, store: &StoreId, stock: i64, rows: usize) -> rusqlite::Result<bool> {
    let forgotten = connection
        .prepare_cached(
            "delete from named_operation where stock = ?1 and operation_id in (select operation_id from named_operation \
             where stock = ?1 and stock <> (select generation from store where store_id = ?2) limit ?3)",
        )?
        .execute(params![stock, store.as_str(), rows])?;
    Ok(forgotten > 0)
}
