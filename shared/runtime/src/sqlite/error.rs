//! What a caller is to do about a failure, whatever SQLite calls it.

use super::is_fatal;

/// Why a read or a write has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This piece of data is refused, or cannot be read; others can. Nothing was done, and the same job fails again.
    #[error("the database refuses this data: {0}")]
    Data(#[source] rusqlite::Error),
    /// Too much is asked at once. Nothing was done: try again later.
    #[error("too much waits for the database")]
    Busy,
    /// The writer has stopped, and the process is about to. Whether the job took effect is not known: a key or a cursor
    /// tells after the restart.
    #[error("the writer has stopped")]
    Stopped,
    /// The disk or the file failed: this process must stop and start again from what is on disk.
    #[error("the database failed: {0}")]
    Fatal(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
        match error.sqlite_error_code() {
            _ if is_fatal(&error) => Self::Fatal(error),
            Some(DatabaseBusy | DatabaseLocked) => Self::Busy,
            _ => Self::Data(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn each_failure_says_what_to_do() {
        let sorted = |code| Error::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR, ffi::SQLITE_CORRUPT, ffi::SQLITE_READONLY_DBMOVED] {
            assert!(matches!(sorted(code), Error::Fatal(_)), "{code}");
        }
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED] {
            assert!(matches!(sorted(code), Error::Busy), "{code}");
        }
        assert!(matches!(sorted(ffi::SQLITE_CONSTRAINT_CHECK), Error::Data(_)));
        assert!(matches!(Error::from(rusqlite::Error::QueryReturnedNoRows), Error::Data(_)));
    }

    #[test]
    fn damage_is_found_among_the_causes() {
        let damage = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), None);
        let error = anyhow::Error::from(Error::from(damage));
        assert!(error.chain().any(|cause| cause.is::<rusqlite::Error>()));
    }
}
