//! SQLite as both daemons use it: one file, one process, one writer that group-commits, readers that never wait.
//!
//! **Guarantees.** What [`Db::write`] has answered is on disk (`synchronous=FULL`, WAL). A job sees and leaves
//! nothing half-done. However many heavy jobs wait, a light one waits for one of them at most. A file that is deleted or
//! replaced while it is in use stops the process instead of swallowing writes. A second process cannot open the same file.
//! A file that is damaged, a copy, or was written by a newer version, is refused.

mod columns;
mod copy;
mod db;
mod error;
mod files;
mod guard;
mod inspection;
pub mod labels;
mod log;
pub mod newest;
mod open;
mod reader;
mod rest;
mod writer;

pub use columns::{DigestColumn, HashColumn, NumberColumn, cursor_at, id_at, lines_at, number_at, parsed, several};
pub use copy::{CopyError, copy, copy_aside, prepare, replace};
pub use db::Db;
pub use error::Error;
pub use files::{Files, System};
pub use guard::{Guard, Rescue};
pub use inspection::inspect_daily;
pub use open::{
    FileLock, OpenError, Schema, check, checkpoint_at, lock, memory, note_damage, open, open_beside, open_file,
    open_on, open_to_restore, put_in_service, read_only,
};
pub use reader::Reader;
pub use writer::{Abort, Group, Queue, Weight, Writer};

/// What a job works on: a connection inside a transaction. Statements are for the floor that owns the tables; the floors
/// above pass it on.
pub use rusqlite::Connection;

/// What a step of a job returns. Its error goes up to whoever runs the job, who sorts it into [`Error`].
pub use rusqlite::Result as JobResult;

/// What a statement failed with: steps of a job pass it up.
pub use rusqlite::Error as JobError;

/// Runs a job inside the caller's transaction; if it fails nothing of it stays.
pub fn in_savepoint<T>(connection: &Connection, job: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    connection.prepare_cached("savepoint inner")?.execute([])?;
    let result = job();
    if result.as_ref().is_err_and(|error| !is_fatal(error)) {
        connection.prepare_cached("rollback to inner")?.execute([])?;
    }
    if result.as_ref().err().is_none_or(|error| !is_fatal(error)) {
        connection.prepare_cached("release inner")?.execute([])?;
    }
    result
}

/// Runs a part of a job that may be refused, or fail, for itself: then nothing of it stays, and the job goes on.
pub fn attempt<T, R>(
    connection: &Connection,
    part: impl FnOnce() -> Result<T, Abort<R>>,
) -> rusqlite::Result<Result<T, Abort<R>>> {
    connection.prepare_cached("savepoint part")?.execute([])?;
    let result = match part() {
        Err(Abort::Database(error)) if is_fatal(&error) => return Err(error),
        result => result,
    };
    if result.is_err() {
        connection.prepare_cached("rollback to part")?.execute([])?;
    }
    connection.prepare_cached("release part")?.execute([])?;
    Ok(result)
}

/// Runs a job in a transaction on a connection of the caller's own: what it reads is one state, and what it writes is on
/// disk when this returns, or if it fails nothing of it is.
pub fn in_transaction<T, E: From<rusqlite::Error>>(
    connection: &Connection,
    job: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let transaction = connection.unchecked_transaction()?;
    let result = job(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

/// Whether an error means that this process must stop and start again from disk, rather than that one request failed.
pub fn is_fatal(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, OutOfMemory, ReadOnly, SystemIoFailure,
    };
    matches!(
        error.sqlite_error_code(),
        Some(SystemIoFailure | DiskFull | DatabaseCorrupt | NotADatabase | ReadOnly | CannotOpen | OutOfMemory)
    )
}

/// Whether an error means that the file holds what SQLite has never written there.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_refused_or_fails_leaves_nothing_and_the_job_goes_on() {
        let connection = Connection::open_in_memory().expect("opens");
        connection.execute_batch("create table t (x integer) strict").expect("creates");
        let insert = |x: &str| connection.execute(&format!("insert into t values ({x})"), []);
        let kept = in_transaction(&connection, |connection| {
            let refused = attempt(connection, || {
                insert("1")?;
                Err::<(), _>(Abort::Refused("no"))
            })?;
            assert!(matches!(refused, Err(Abort::Refused("no"))));
            let failed = attempt(connection, || {
                insert("2")?;
                Ok::<_, Abort<()>>(insert("'x'")?)
            })?;
            assert!(matches!(failed, Err(Abort::Database(_))));
            Ok::<_, rusqlite::Error>(attempt(connection, || Ok::<_, Abort<()>>(insert("4")?))?.is_ok())
        });
        assert!(kept.expect("commits"));
        assert_eq!(connection.query_row("select sum(x) from t", [], |row| row.get::<_, i64>(0)), Ok(4));
    }
}
