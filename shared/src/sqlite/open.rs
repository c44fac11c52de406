//! Opening a database: lock, check, migrate.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

/// SQLite before this version could corrupt a WAL database on checkpoint.
const SQLITE_LEAST: i32 = 3_051_003;
/// Prepared statements kept for each connection.
const STATEMENTS: usize = 128;

/// Numbered migrations of one kind of database; the file keeps how many it has seen.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Marks whose file it is: an agent refuses central's database and the reverse.
    pub application_id: i32,
    /// SQL of migration 1, 2, ...
    pub migrations: &'static [&'static str],
}

/// Why a database was not opened. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another process: stop that one first, one process a database file")]
    InUse(PathBuf),
    /// The file is not what it should be.
    #[error("{path} is damaged: {report}. Keep the file for inspection and restore the database (docs/OPERATIONS.md)")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What SQLite says of it.
        report: String,
    },
    /// The database was moved away without what SQLite keeps beside it; opening an empty one would destroy that.
    #[error(
        "{wal} holds writes of a database that is not here: put {path} back beside it, or move {wal} away together with it"
    )]
    LeftBehind {
        /// The database.
        path: PathBuf,
        /// What is beside it.
        wal: PathBuf,
    },
    /// Someone else's database.
    #[error("{0} is a database of another program")]
    Foreign(PathBuf),
    /// Written by a newer version.
    #[error(
        "{path} was written by a newer version (schema {found}, this program knows up to {known}): upgrade this program"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its schema version.
        found: usize,
        /// The newest that this program knows.
        known: usize,
    },
    /// The SQLite linked in is too old.
    #[error("SQLite {0} can corrupt a database in WAL mode; 3.51.3 or later is needed")]
    OldSqlite(&'static str),
    /// The lock or the directory.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Anything else SQLite says.
    #[error("{path}: {error}")]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        error: rusqlite::Error,
    },
}

/// Held as long as the database is in use; the system frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Locks, opens, checks and migrates a database. The connection is the one that writes.
pub fn open(path: &Path, schema: Schema) -> Result<(Connection, FileLock), OpenError> {
    if rusqlite::version_number() < SQLITE_LEAST {
        return Err(OpenError::OldSqlite(rusqlite::version()));
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directory(parent).map_err(|error| OpenError::Io { path: parent.into(), error })?;
    }
    let lock = lock(path)?;
    let wal = beside(path, "-wal");
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    if length(path) == 0 && length(&wal) > 0 {
        return Err(OpenError::LeftBehind { path: path.into(), wal });
    }
    Ok((open_with(None, path, schema)?, lock))
}

/// The name of a file beside a database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a directory that outlives a loss of power: SQLite syncs the one that its files are in, and none above it.
fn make_directory(path: &Path) -> std::io::Result<()> {
    let is_missing = |above: &&Path| !above.as_os_str().is_empty() && !above.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    std::fs::create_dir_all(path)?;
    for made in missing {
        let holder = made.parent().filter(|holder| !holder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(holder)?.sync_all()?;
    }
    Ok(())
}

/// Opens, checks and migrates a database through the SQLite file system (VFS) that is registered under a name; none: the
/// operating system's. Takes no lock: a daemon calls [`open`], this is for tests that bring a disk of their own.
pub fn open_with(vfs: Option<&str>, path: &Path, schema: Schema) -> Result<Connection, OpenError> {
    let mut connection = connect(vfs, path).map_err(|error| sort(path, error))?;
    let report: String =
        connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(|error| sort(path, error))?;
    if report != "ok" {
        return Err(OpenError::Corrupt { path: path.into(), report });
    }
    migrate(&mut connection, schema, path)?;
    Ok(connection)
}

/// A database in memory with the same schema, for tests and the simulator.
pub fn memory(schema: Schema) -> Result<Connection, OpenError> {
    let path = Path::new(":memory:");
    let sqlite = |error| OpenError::Sqlite { path: path.into(), error };
    let mut connection = Connection::open_in_memory().map_err(sqlite)?;
    settle(&connection).map_err(sqlite)?;
    migrate(&mut connection, schema, path)?;
    Ok(connection)
}

/// A connection that reads and cannot write.
pub fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "mmap_size", 256 << 20)?;
    Ok(connection)
}

fn connect(vfs: Option<&str>, path: &Path) -> rusqlite::Result<Connection> {
    let connection = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs)?,
        None => Connection::open(path)?,
    };
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "full")?;
    settle(&connection)?;
    Ok(connection)
}

fn settle(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "foreign_keys", true)?;
    // A checkpoint each 4 MiB: seldom enough for group commits, small enough to be quick.
    connection.pragma_update(None, "wal_autocheckpoint", 1_000)
}

/// Keeps every other process from a database.
pub fn lock(path: &Path) -> Result<FileLock, OpenError> {
    let path_of_lock = beside(path, ".lock");
    let io = |error| OpenError::Io { path: path_of_lock.clone(), error };
    let file = File::options().create(true).truncate(false).write(true).open(&path_of_lock).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(FileLock { _file: file }),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(path.into())),
        Err(std::fs::TryLockError::Error(error)) => Err(io(error)),
    }
}

fn sort(path: &Path, error: rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(NotADatabase | DatabaseCorrupt) => OpenError::Corrupt { path: path.into(), report: error.to_string() },
        _ => OpenError::Sqlite { path: path.into(), error },
    }
}

fn migrate(connection: &mut Connection, schema: Schema, path: &Path) -> Result<(), OpenError> {
    let sqlite = |error| sort(path, error);
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(sqlite)?;
    let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite)?;
    let known = schema.migrations.len();
    if application != schema.application_id && (application != 0 || found != 0) {
        return Err(OpenError::Foreign(path.into()));
    }
    if found > known {
        return Err(OpenError::Newer { path: path.into(), found, known });
    }
    for (number, sql) in schema.migrations.iter().enumerate().skip(found) {
        let transaction = connection.transaction().map_err(sqlite)?;
        transaction.execute_batch(sql).map_err(sqlite)?;
        transaction.pragma_update(None, "application_id", schema.application_id).map_err(sqlite)?;
        transaction.pragma_update(None, "user_version", number + 1).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: Schema = Schema { application_id: 7, migrations: &["create table a (x integer) strict"] };

    fn file(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("shelfstream-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir.join("a.db")
    }

    #[test]
    fn a_file_has_one_process_and_one_owner() {
        let path = file("owner");
        let (connection, lock) = open(&path, SCHEMA).expect("opens");
        assert!(matches!(open(&path, SCHEMA), Err(OpenError::InUse(_))));
        drop((connection, lock));
        assert!(matches!(open(&path, Schema { application_id: 8, ..SCHEMA }), Err(OpenError::Foreign(_))));
        assert!(open(&path, SCHEMA).is_ok());
        let newer = Schema { migrations: &[], ..SCHEMA };
        assert!(matches!(open(&path, newer), Err(OpenError::Newer { found: 1, known: 0, .. })));
        let _ = std::fs::remove_dir_all(path.parent().expect("a directory"));
    }

    #[test]
    fn writes_that_were_left_behind_are_kept() {
        let path = file("left");
        let (connection, lock) = open(&path, SCHEMA).expect("opens");
        let wal = beside(&path, "-wal");
        let writes = std::fs::read(&wal).expect("migrations are in it");
        drop((connection, lock));
        std::fs::remove_file(&path).expect("removes");
        std::fs::write(&wal, &writes).expect("writes");
        assert!(matches!(open(&path, SCHEMA), Err(OpenError::LeftBehind { .. })));
        assert_eq!(std::fs::read(&wal).expect("still there"), writes);
        let _ = std::fs::remove_dir_all(path.parent().expect("a directory"));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let path = file("damaged");
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("creates");
        std::fs::write(&path, vec![b'x'; 8_192]).expect("writes");
        assert!(matches!(open(&path, SCHEMA), Err(OpenError::Corrupt { .. })));
        let _ = std::fs::remove_dir_all(path.parent().expect("a directory"));
    }
}
