//! What unit tests see of the tables.

use runtime::sqlite::newest::Newest;
use rusqlite::Connection;

/// How SQLite would answer a query, one line a step.
pub(crate) fn plan(connection: &Connection, sql: &str) -> String {
    let mut statement = connection.prepare(&format!("explain query plan {sql}")).expect("is valid");
    let nulls = vec![rusqlite::types::Null; statement.parameter_count()];
    let steps = statement.query_map(rusqlite::params_from_iter(nulls), |row| row.get::<_, String>(3)).expect("runs");
    steps.collect::<rusqlite::Result<Vec<_>>>().expect("reads").join("\n")
}

/// The ways that SQLite goes to find a list's rows, of all rows and of a page behind others alike: the table, and up to
/// where its index compares with a value. No list is sorted.
pub(crate) fn ways(connection: &Connection, list: &Newest) -> Vec<String> {
    let [all, behind] = [false, true].map(|is_behind| plan(connection, &list.sql(is_behind)));
    let of = |plan: &str| -> Vec<String> {
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        let steps = plan.lines().filter_map(|step| step.strip_prefix("SEARCH ").or(step.strip_prefix("SCAN ")));
        let steps = steps.filter(|step| !step.starts_with("json_each "));
        let way = |step: &str| match step.split_once("=?") {
            Some((way, _)) => format!("{way}=?"),
            None => step.replace(" USING INTEGER PRIMARY KEY", "").split(" (").take(1).collect(),
        };
        steps.map(way).collect()
    };
    assert_eq!(of(&all), of(&behind));
    of(&all)
}

/// All choices of some out of these.
pub(crate) fn all_of<const N: usize>(texts: [&str; N]) -> impl Iterator<Item = [Option<String>; N]> {
    (0..1 << N).map(move |choice| std::array::from_fn(|at| (choice >> at & 1 == 1).then(|| texts[at].to_owned())))
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
