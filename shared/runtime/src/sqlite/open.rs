//! Opening a database: lock, check, migrate.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags, Row, ffi};

use super::{Files, System};

/// SQLite before this version could corrupt a WAL database on checkpoint.
const SQLITE_LEAST: i32 = 3_051_003;
/// Pages in the write-ahead log at which they are copied into the database: 16 MiB. Commits that follow each other write many
/// pages twice or more, which are copied once; and a start behind a crash writes the whole log anew.
pub(super) const CHECKPOINT_AT: u32 = 4_000;
/// What is left of the write-ahead log when it begins anew, bytes, however long a reader of an old state had made it: a start
/// behind a crash writes all of the file once more.
const LOG_LEFT: i64 = 64 << 20;
/// Pages in memory of the connection that writes, KiB: what tens of thousands of items need.
const CACHE_KIB: i64 = 14 << 10;
/// Bytes of a file that a connection for point reads maps.
pub(super) const MAPPED: i64 = 256 << 20;
/// Prepared statements kept for each connection.
const STATEMENTS: usize = 128;
/// A database up to this size, bytes, is checked page by page when it is opened, which takes a fraction of a second; a
/// larger one beside its work.
pub(super) const CHECKED_WHOLE: i64 = 64 << 20;
/// Added to the application id of a copy: a file that is not to be served.
const COPY: i32 = i32::MIN;

/// Numbered migrations of one kind of database; the file keeps how many it has seen.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Marks whose file it is: an agent refuses central's database and the reverse.
    pub application_id: i32,
    /// SQL of migration 1, 2, ...
    pub migrations: &'static [&'static str],
}

impl Schema {
    /// Whether a file with this application id is of this kind: a database or a copy of one.
    pub fn owns(&self, application_id: i32) -> bool {
        application_id & !COPY == self.application_id
    }

    fn is_copy(&self, application_id: i32) -> bool {
        application_id == self.application_id | COPY
    }
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
    /// A copy that was made to be restored. Serving it would pass an older state for the present one.
    #[error(
        "{0} is a copy of an earlier state, which goes into service only by this program's `restore` \
         (docs/OPERATIONS.md, \"Backup and restore\")"
    )]
    Copy(PathBuf),
    /// A restore that was to put another database here has not come to its end.
    #[error("{incoming} waits to take the place of {path}: a restore was begun and not finished, run it again")]
    Unfinished {
        /// The database.
        path: PathBuf,
        /// What is to become it.
        incoming: PathBuf,
    },
    /// Probably a mistyped path.
    #[error("{path} cannot be there: the folder {folder} does not exist. Make it, or correct DATABASE_PATH")]
    NoFolder {
        /// The database.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
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

/// Locks, opens, checks and migrates a database that is to be served. The connection is the one that writes.
pub fn open(path: &Path, schema: Schema) -> Result<(Connection, FileLock), OpenError> {
    let lock = lock(path)?;
    Ok((open_on(&System, path, schema)?, lock))
}

/// As [`open`], on any file system, for one who has the lock or needs none.
pub fn open_on(files: &dyn Files, path: &Path, schema: Schema) -> Result<Connection, OpenError> {
    let connection = open_to_restore(files, path, schema)?;
    if schema.is_copy(application_id(&connection).map_err(|error| sort(path, error))?) {
        return Err(OpenError::Copy(path.into()));
    }
    Ok(connection)
}

/// As [`open_on`], for a restore: a copy is opened as well.
pub fn open_to_restore(files: &dyn Files, path: &Path, schema: Schema) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < SQLITE_LEAST {
        return Err(OpenError::OldSqlite(rusqlite::version()));
    }
    let (wal, incoming) = (beside(path, "-wal"), beside(path, INCOMING));
    let length = |path: &Path| files.length(path).map_err(|error| OpenError::Io { path: path.into(), error });
    let is_empty = length(path)?.unwrap_or(0) == 0;
    if is_empty && length(&incoming)?.is_some() {
        return Err(OpenError::Unfinished { path: path.into(), incoming });
    }
    if length(&wal)?.unwrap_or(0) > 0 {
        if is_empty {
            return Err(OpenError::LeftBehind { path: path.into(), wal });
        }
        make_durable(files, &wal)?;
    }
    let was_damaged = beside(path, DAMAGED);
    let connection = open_checked(files, path, schema, length(&was_damaged)?.is_some())?;
    match files.remove(&was_damaged) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(OpenError::Io { path: was_damaged, error }),
        _ => Ok(connection),
    }
}

/// A process that was killed, or that a sync failed, has left a log of which the system shows more than is on disk; after a
/// sync that failed it never writes that by itself. Whoever is answered out of it, or builds on it, must find it again after
/// a loss of power, so it is written once more before anyone reads it.
fn make_durable(files: &dyn Files, wal: &Path) -> Result<(), OpenError> {
    files.rewrite(wal).and_then(|()| files.sync(folder(wal))).map_err(|error| OpenError::Io { path: wal.into(), error })
}

/// Whether a copy can go into service: whole, of this kind, and not written by a newer version.
pub fn check(copy: &Connection, path: &Path, schema: Schema) -> Result<(), OpenError> {
    quick_check(copy, path, "1")?;
    version(copy, schema, path).map(|_| ())
}

/// Makes the next start look at every page, if damage is among the causes that ended this process: a large database would
/// else open again, and be sold into. Says whether it is.
pub fn note_damage<'e>(path: &Path, causes: impl Iterator<Item = &'e (dyn std::error::Error + 'static)>) -> bool {
    let is_damage = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref().is_some_and(super::is_damage)
            || matches!(cause.downcast_ref(), Some(OpenError::Corrupt { .. }))
    };
    let found = causes.into_iter().find(|cause| is_damage(*cause));
    if let Some(cause) = found {
        // The process ends as damaged in any case.
        let _ = std::fs::write(beside(path, DAMAGED), cause.to_string());
    }
    found.is_some()
}

/// A copy is a database from now on, once the caller's transaction is committed.
pub fn put_in_service(connection: &Connection, schema: Schema) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", schema.application_id)
}

/// Marks a database as a copy, which [`open`] refuses.
pub(super) fn mark_as_copy(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", application_id(connection)? | COPY)
}

/// Behind the name of a database: another one that is to take its place.
pub(super) const INCOMING: &str = ".incoming";
/// Behind the name of a database: it was found to be damaged, as the content says.
const DAMAGED: &str = ".damaged";

/// The name of a file beside a database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The folder that a file is in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `suspect`: every page is looked at, however many there are.
fn open_checked(files: &dyn Files, path: &Path, schema: Schema, suspect: bool) -> Result<Connection, OpenError> {
    let sqlite = |error| sort(path, error);
    let mut connection = connect(files, path).map_err(sqlite)?;
    if suspect || size(&connection).map_err(sqlite)? <= CHECKED_WHOLE {
        quick_check(&connection, path, "1")?;
    }
    migrate(&mut connection, schema, path)?;
    Ok(connection)
}

/// Bytes, those in the write-ahead log included.
pub(super) fn size(connection: &Connection) -> rusqlite::Result<i64> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(number("page_count")? * number("page_size")?)
}

pub(super) fn quick_check(connection: &Connection, path: &Path, what: &str) -> Result<(), OpenError> {
    let report: String = connection
        .query_row(&format!("pragma quick_check({what})"), [], |row| row.get(0))
        .map_err(|error| sort(path, error))?;
    if report == "ok" { Ok(()) } else { Err(OpenError::Corrupt { path: path.into(), report }) }
}

fn application_id(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "application_id", |row| row.get(0))
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
    plan_once(&connection)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// A file to look at or to copy from, whatever it is: nothing is checked, and nothing in it can be changed.
pub fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

fn connect(files: &dyn Files, path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = connect_plainly(files, path)?;
    // SQLite commits the switch behind the row that names the mode, so whether it has failed shows only in the next step. In
    // another mode a commit is answered before the end of its journal is on disk, and a loss of power can take it back.
    let mode = connection
        .prepare("pragma journal_mode = wal")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    if mode != ["wal"] {
        let why = format!("its journal mode stays {mode:?}");
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR), Some(why)));
    }
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "journal_size_limit", LOG_LEFT)?;
    settle(&connection)?;
    checkpoint_at(&mut connection, CHECKPOINT_AT)?;
    Ok(connection)
}

/// Opens a file with SQLite's own settings.
pub(super) fn connect_plainly(files: &dyn Files, path: &Path) -> rusqlite::Result<Connection> {
    match files.vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs),
        None => Connection::open(path),
    }
}

/// Copies the log into the database behind each commit that leaves so many pages in it, or more.
///
/// SQLite does that by itself, but says nothing if it fails, and tries again at the next commit. Of a sync that failed that
/// is too late: what a checkpoint before had written, and nobody had synced, may be lost, and the next one takes it for
/// done and lets the log be overwritten. So the commit fails, and the process starts again from the log. SQLite says only
/// that something was wrong, not what; the [writer](super::Writer), which answers before it looks at the log, says more.
pub fn checkpoint_at(connection: &mut Connection, pages: u32) -> rusqlite::Result<()> {
    connection.wal_hook(Some(
        move |log: &mut Wal, written: i32| {
            if written.unsigned_abs() < pages { Ok(()) } else { unless_put_off(log.checkpoint()) }
        },
    ))
}

/// Copies the log into the database as far as nobody reads there. Says how many of its pages are copied by now.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<u32> {
    // -1 of what has no log.
    let copied = |row: &Row<'_>| Ok(u32::try_from(row.get::<_, i64>(2)?).unwrap_or_default());
    unless_put_off(connection.query_row("pragma wal_checkpoint(passive)", [], copied))
}

/// A reader or a full disk puts a checkpoint off: all of it is still in the log.
fn unless_put_off<T: Default>(checkpoint: rusqlite::Result<T>) -> rusqlite::Result<T> {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull};
    checkpoint.or_else(|error| match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked | DiskFull) => Ok(T::default()),
        _ => Err(error),
    })
}

/// One more connection to a database that a [writer](super::Writer) has open: it copies the log and does nothing else.
pub fn open_beside(files: &dyn Files, path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match files.vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    }?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "synchronous", "full")?;
    // A copying that has failed is not tried again when it is closed.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

fn settle(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    plan_once(connection)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// A prepared statement keeps its plan. Else SQLite plans some of them anew for each value that is bound, which takes more than
/// twice as long as a point read.
fn plan_once(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Keeps every other process from a database.
pub fn lock(path: &Path) -> Result<FileLock, OpenError> {
    let folder = folder(path);
    if !folder.is_dir() {
        return Err(OpenError::NoFolder { path: path.into(), folder: folder.into() });
    }
    let path_of_lock = beside(path, ".lock");
    let io = |error| OpenError::Io { path: path_of_lock.clone(), error };
    let file = File::options().create(true).truncate(false).write(true).open(&path_of_lock).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(FileLock { _file: file }),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(path.into())),
        Err(std::fs::TryLockError::Error(error)) => Err(io(error)),
    }
}

pub(super) fn sort(path: &Path, error: rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(NotADatabase | DatabaseCorrupt) => OpenError::Corrupt { path: path.into(), report: error.to_string() },
        _ => OpenError::Sqlite { path: path.into(), error },
    }
}

/// How many migrations a database has seen.
fn version(connection: &Connection, schema: Schema, path: &Path) -> Result<usize, OpenError> {
    let sqlite = |error| sort(path, error);
    let application = application_id(connection).map_err(sqlite)?;
    let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite)?;
    let known = schema.migrations.len();
    if !schema.owns(application) && (application != 0 || found != 0) {
        return Err(OpenError::Foreign(path.into()));
    }
    if found > known {
        return Err(OpenError::Newer { path: path.into(), found, known });
    }
    Ok(found)
}

fn migrate(connection: &mut Connection, schema: Schema, path: &Path) -> Result<(), OpenError> {
    let sqlite = |error| sort(path, error);
    let (found, known) = (version(connection, schema, path)?, schema.migrations.len());
    // A new database is there at once.
    let is_told = found > 0;
    if is_told && found < known {
        let database = path.display();
        tracing::info!(%database, found, known, "migrating the database: nothing is served before that is done");
    }
    for (number, sql) in schema.migrations.iter().enumerate().skip(found) {
        let begun = Instant::now();
        let transaction = connection.transaction().map_err(sqlite)?;
        transaction.execute_batch(sql).map_err(sqlite)?;
        if number == 0 {
            transaction.pragma_update(None, "application_id", schema.application_id).map_err(sqlite)?;
        }
        transaction.pragma_update(None, "user_version", number + 1).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
        if is_told {
            let took_ms = begun.elapsed().as_millis() as u64;
            tracing::info!(took_ms, "migrated the database, step {} of {known}", number + 1);
        }
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
        std::fs::create_dir_all(&dir).expect("creates");
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
    fn each_step_of_a_migration_is_told_and_none_of_a_new_database() {
        const LATER: Schema = Schema {
            migrations: &[SCHEMA.migrations[0], "alter table a add y integer", "create table b (x integer) strict"],
            ..SCHEMA
        };
        let path = file("told");
        let log = path.with_file_name("log");
        let writer = std::sync::Arc::new(File::create(&log).expect("creates"));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, || {
            for schema in [SCHEMA, LATER, LATER] {
                drop(open(&path, schema).expect("opens"));
            }
        });
        let log = std::fs::read_to_string(log).expect("is there");
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 3, "{log}");
        assert!(lines[0].contains("nothing is served") && lines[0].contains("found=1 known=3"), "{log}");
        for (line, step) in lines[1..].iter().zip(["step 2 of 3", "step 3 of 3"]) {
            assert!(line.contains(step) && line.contains("took_ms="), "{log}");
        }
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
        std::fs::write(&path, vec![b'x'; 8_192]).expect("writes");
        assert!(matches!(open(&path, SCHEMA), Err(OpenError::Corrupt { .. })));
        let _ = std::fs::remove_dir_all(path.parent().expect("a directory"));
    }

    #[test]
    fn a_log_that_a_reader_has_made_long_is_short_once_it_begins_anew() {
        let path = file("long");
        let (connection, _lock) = open(&path, SCHEMA).expect("opens");
        let length = || std::fs::metadata(beside(&path, "-wal")).expect("is there").len() as i64;
        connection.pragma_update(None, "synchronous", "off").expect("is no test of a disk");
        let reader = read_only(&path).expect("opens");
        let reads = reader.unchecked_transaction().expect("begins");
        reads.query_row("select count(*) from a", [], |_| Ok(())).expect("reads");
        connection
            .execute_batch(
                "create table filling (x blob) strict; insert into filling with recursive n(i) as \
                 (select 1 union all select i + 1 from n where i < 70) select zeroblob(1 << 20) from n",
            )
            .expect("writes");
        assert!(length() > LOG_LEFT);
        drop(reads);
        checkpoint(&connection).expect("copies");
        connection.execute("insert into a values (1)", []).expect("writes");
        assert_eq!(length(), LOG_LEFT);
        let _ = std::fs::remove_dir_all(path.parent().expect("a directory"));
    }

    #[test]
    fn no_folder_is_made_for_a_mistyped_path() {
        let path = file("folder");
        let mistyped = path.with_file_name("fodler").join("a.db");
        let refused = open(&mistyped, SCHEMA).expect_err("refused").to_string();
        assert!(refused.contains("fodler") && !mistyped.parent().expect("a directory").exists(), "{refused}");
        let _ = std::fs::remove_dir_all(path.parent().expect("a directory"));
    }
}
