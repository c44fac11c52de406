//! SQLite as both daemons use it: one file, one process, one writer that group-commits, readers that never wait.
//!
//! **Guarantees.** What [`Writer::write`] has answered is on disk (`synchronous=FULL`, WAL). A job sees and leaves
//! nothing half-done: each runs in its own savepoint. A file that is deleted or replaced while it is in use stops the
//! process instead of swallowing writes. A second process cannot open the same file. A file that is damaged, a copy, or
//! was written by a newer version, is refused.

mod columns;
mod copy;
mod guard;
mod inspection;
mod open;
mod reader;
mod writer;

pub use columns::{DigestColumn, HashColumn, cursor_at, parsed};
pub use copy::{CopyError, copy, copy_aside, prepare, replace};
pub use guard::Guard;
pub use inspection::inspect_daily;
pub use open::{
    FileLock, OpenError, Schema, check, lock, memory, note_damage, open, open_to_restore, open_with, put_in_service,
    read_only,
};
pub use reader::Reader;
pub use writer::{Abort, WriteError, Writer};

/// Runs a job inside the caller's transaction; if it fails nothing of it stays.
pub fn in_savepoint<T>(
    connection: &rusqlite::Connection,
    job: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
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
