//! What unit tests see of the tables.

use rusqlite::Connection;

/// How SQLite would answer a query, one line a step.
pub(crate) fn plan(connection: &Connection, sql: &str) -> String {
    let mut statement = connection.prepare(&format!("explain query plan {sql}")).expect("is valid");
    let nulls = vec![rusqlite::types::Null; statement.parameter_count()];
    let steps = statement.query_map(rusqlite::params_from_iter(nulls), |row| row.get::<_, String>(3)).expect("runs");
    steps.collect::<rusqlite::Result<Vec<_>>>().expect("reads").join("\n")
}

/// Steps that SQLite's machine has made for a statement that is kept, since this was asked before.
pub(crate) fn steps(connection: &Connection, sql: &str) -> i32 {
    connection.prepare_cached(sql).expect("is valid").reset_status(rusqlite::StatementStatus::VmStep)
}

/// Steps made to add up what items have moved in writes, since this was asked before.
pub(crate) fn steps_for_counts(connection: &Connection) -> i32 {
    steps(connection, super::moved::BEHIND)
}

/// A copy of a database.
pub(crate) fn copy(from: &Connection) -> Connection {
    let mut to = Connection::open_in_memory().expect("opens");
    let backup = rusqlite::backup::Backup::new(from, &mut to).expect("both are open");
    backup.run_to_completion(1_000, std::time::Duration::ZERO, None).expect("nobody writes");
    drop(backup);
    to
}

/// Types and differences of the entries about a product in the present epoch.
pub(crate) fn recorded(connection: &Connection, product: &str) -> Vec<(String, i64)> {
    let sql = "select type, delta from ledger join meta using (epoch) where product_id = ?1 order by ledger.seq";
    let mut statement = connection.prepare(sql).expect("is valid");
    let rows = statement.query_map([product], |row| Ok((row.get(0)?, row.get(1)?))).expect("runs");
    rows.collect::<rusqlite::Result<_>>().expect("reads")
}

/// Type and body of the last entry.
pub(crate) fn last(connection: &Connection) -> (String, String) {
    let sql = "select type, body from ledger order by epoch desc, seq desc limit 1";
    connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("an entry")
}

/// Changes the tables behind the back of everyone.
pub(crate) fn tamper(connection: &Connection, sql: &str) {
    connection.execute_batch(sql).expect("is valid");
}
