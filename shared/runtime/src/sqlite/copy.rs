//! Copies of a database, and one database in the place of another.
//!
//! **Guarantees.** A copy is consistent, compact, marked as one, and on disk when it is said to be; one that was not
//! finished has another name. Whenever a process dies or the power fails while a database is replaced, its path holds
//! the old one whole or the new one, or it is refused; and the old one is kept whole.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rusqlite::Connection;

use super::open::{INCOMING, beside, connect_plainly, folder, mark_as_copy};
use super::{Files, System, read_only};
use protocol::time::Millis;

/// While a copy is written, what there is of it is brought to disk so often: all at its end would hold up the commits of whoever
/// writes to the same disk.
const SYNC_EVERY: Duration = Duration::from_millis(10);
/// Behind the name of a copy while it is written.
const WRITING: &str = ".writing";
/// Behind the name of a database, before a time: it as it was before a restore.
const KEPT: &str = ".before-restore-";
/// What SQLite keeps beside a database.
const LOG: &str = "-wal";
const INDEX: &str = "-shm";

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A copy never overwrites anything.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// The name cannot be given to SQLite.
    #[error("{0} is not a name in UTF-8")]
    Name(PathBuf),
    /// A write-ahead log whose database is not here, and which is kept nowhere else.
    #[error("{0} holds writes of a database that is not here: put that back beside it, or move it away")]
    LeftBehind(PathBuf),
    /// The file system.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// SQLite.
    #[error("cannot write {path}")]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        error: rusqlite::Error,
    },
}

/// Writes a copy of one moment's state, also while another process writes to the database.
pub fn copy(files: &dyn Files, connection: &Connection, to: &Path) -> Result<(), CopyError> {
    if is_there(files, to)? {
        return Err(CopyError::Exists(to.into()));
    }
    write(files, connection, to)
}

fn write(files: &dyn Files, connection: &Connection, to: &Path) -> Result<(), CopyError> {
    let writing = beside(to, WRITING);
    let name = writing.to_str().ok_or_else(|| CopyError::Name(to.into()))?;
    let sqlite = |error| CopyError::Sqlite { path: to.into(), error };
    Step::Remove(writing.clone()).carry_out(files)?;
    let vacuum = || connection.execute("vacuum into ?1", [name]).map(drop).map_err(sqlite);
    // A disk of a test is one thread's.
    if files.vfs().is_none() {
        syncing(&writing, vacuum)?
    } else {
        vacuum()?
    }
    mark_as_copy(&connect_plainly(files, &writing).map_err(sqlite)?).map_err(sqlite)?;
    Step::Sync(writing.clone()).carry_out(files)?;
    Step::Rename(writing, to.into()).carry_out(files)?;
    Step::Sync(folder(to).into()).carry_out(files)
}

/// Writes a file while another thread brings to disk what there is of it. What a sync has failed to write no later one finds.
fn syncing(path: &Path, write: impl FnOnce() -> Result<(), CopyError>) -> Result<(), CopyError> {
    std::thread::scope(|scope| {
        let (over, is_over) = channel::<()>();
        let beside = scope.spawn(move || {
            let mut goes_on = true;
            while goes_on {
                goes_on = is_over.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout);
                match System.sync(path) {
                    // It is not there yet.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    synced => synced?,
                }
            }
            Ok(())
        });
        let written = write();
        drop(over);
        let synced = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(synced.map_err(|error| CopyError::Io { path: path.into(), error }))
    })
}

fn is_there(files: &dyn Files, path: &Path) -> Result<bool, CopyError> {
    let length = files.length(path).map_err(|error| CopyError::Io { path: path.into(), error })?;
    Ok(length.is_some())
}

/// Keeps a database as it is under a name beside it, before something is done that cannot be taken back. One that was kept
/// before will do if it `is_same`.
pub fn copy_aside(
    connection: &Connection,
    path: &Path,
    now: Millis,
    is_same: impl Fn(&Connection) -> rusqlite::Result<bool>,
) -> Result<PathBuf, CopyError> {
    let is_as_now = |kept: &PathBuf| read_only(kept).and_then(|kept| is_same(&kept)).unwrap_or(false);
    if let Some(kept) = kept(&System, path)?.into_iter().find(is_as_now) {
        return Ok(kept);
    }
    let kept = aside(path, now);
    copy(&System, connection, &kept)?;
    Ok(kept)
}

/// Makes a copy wait to take the place of the database at a path. The caller holds the lock of that.
pub fn prepare(files: &dyn Files, connection: &Connection, path: &Path) -> Result<PathBuf, CopyError> {
    let incoming = beside(path, INCOMING);
    write(files, connection, &incoming)?;
    Ok(incoming)
}

/// Puts the copy that waits in the place of the database, damaged or not, which is kept under another name. The caller
/// holds the lock. If this did not come to its end it is done again from [`prepare`].
pub fn replace(files: &dyn Files, path: &Path, now: Millis) -> Result<Option<PathBuf>, CopyError> {
    let was_there = is_there(files, path)?;
    let kept = aside(path, now);
    for step in steps(files, path, &kept)? {
        step.carry_out(files)?;
    }
    Ok(was_there.then_some(kept))
}

/// The log is kept before the database, so that one without its newest writes is never found under either name.
fn steps(files: &dyn Files, path: &Path, kept: &Path) -> Result<Vec<Step>, CopyError> {
    let (log, directory) = (beside(path, LOG), Step::Sync(folder(path).into()));
    let mut steps = Vec::new();
    if is_there(files, path)? {
        steps.extend(is_there(files, &log)?.then(|| Step::Keep(log.clone(), beside(kept, LOG))));
        steps.extend([Step::Keep(path.into(), kept.into()), directory.clone(), Step::Remove(path.into())]);
    } else if !is_kept(files, path, &log)? {
        return Err(CopyError::LeftBehind(log));
    }
    // What is left of the old one must be gone before the new one is there: SQLite would take it for the new one's.
    steps.extend([directory.clone(), Step::Remove(log), Step::Remove(beside(path, INDEX)), directory.clone()]);
    steps.extend([Step::Rename(beside(path, INCOMING), path.into()), directory]);
    Ok(steps)
}

/// Whether a log has nothing in it that is not kept: an earlier attempt came as far as that.
fn is_kept(files: &dyn Files, path: &Path, log: &Path) -> Result<bool, CopyError> {
    let content = match files.read(log) {
        Ok(content) if !content.is_empty() => content,
        _ => return Ok(true),
    };
    let kept = kept(files, path)?;
    Ok(kept.iter().any(|kept| files.read(&beside(kept, LOG)).is_ok_and(|kept| kept == content)))
}

/// Databases kept beside a path.
fn kept(files: &dyn Files, path: &Path) -> Result<Vec<PathBuf>, CopyError> {
    let io = |error| CopyError::Io { path: folder(path).into(), error };
    let beginning = beside(path, KEPT);
    let of_this = |name: &Path| {
        let (name, beginning) = (name.file_name()?.to_str()?, beginning.file_name()?.to_str()?);
        name.strip_prefix(beginning)?.parse::<i64>().ok()
    };
    let mut found = files.list(folder(path)).map_err(io)?;
    found.retain(|file| of_this(file).is_some());
    Ok(found)
}

fn aside(path: &Path, now: Millis) -> PathBuf {
    beside(path, &format!("{KEPT}{}", now.0))
}

/// What one call of the system does to a file.
#[derive(Debug, Clone)]
enum Step {
    /// Gives it a second name; a copy where the file system knows no such thing.
    Keep(PathBuf, PathBuf),
    /// Takes it away, if it is there.
    Remove(PathBuf),
    /// Gives it another name.
    Rename(PathBuf, PathBuf),
    /// Waits until it, file or directory, is on disk.
    Sync(PathBuf),
}

impl Step {
    fn carry_out(&self, files: &dyn Files) -> Result<(), CopyError> {
        let (path, result) = match self {
            Self::Keep(from, to) => (from, files.keep(from, to)),
            Self::Remove(path) => (path, files.remove(path)),
            Self::Rename(from, to) => (from, files.rename(from, to)),
            Self::Sync(path) => (path, files.sync(path)),
        };
        match result {
            Err(error) if matches!(self, Self::Remove(_)) && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| CopyError::Io { path: path.clone(), error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{OpenError, Schema, open, open_to_restore, put_in_service};

    const SCHEMA: Schema = Schema { application_id: 7, migrations: &["create table a (x integer) strict"] };
    const LATER: Schema = Schema {
        application_id: 7,
        migrations: &["create table a (x integer) strict", "create table b (x integer) strict"],
    };
    const NOW: Millis = Millis(1);

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("shelfstream-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).expect("creates");
            Self(dir)
        }

        fn database(&self) -> PathBuf {
            self.0.join("a.db")
        }

        /// A database whose process was killed: one row is in the file, one in the log.
        fn killed(&self) -> PathBuf {
            let path = self.database();
            let (connection, lock) = open(&path, SCHEMA).expect("opens");
            connection.execute_batch("insert into a values (1); pragma wal_checkpoint(truncate)").expect("writes");
            connection.execute("insert into a values (2)", []).expect("writes");
            let log = std::fs::read(beside(&path, LOG)).expect("reads");
            let file = std::fs::read(&path).expect("reads");
            drop((connection, lock));
            std::fs::write(&path, file).expect("writes");
            std::fs::write(beside(&path, LOG), log).expect("writes");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn rows(connection: &Connection) -> Vec<i64> {
        let mut statement = connection.prepare("select x from a order by x").expect("is valid");
        let rows = statement.query_map([], |row| row.get(0)).expect("runs");
        rows.collect::<rusqlite::Result<_>>().expect("reads")
    }

    /// The database that is to come in.
    fn new() -> Connection {
        let connection = crate::sqlite::memory(SCHEMA).expect("opens");
        connection.execute("insert into a values (3)", []).expect("writes");
        connection
    }

    #[test]
    fn what_cannot_be_brought_to_disk_is_no_copy() {
        let folder = Folder::new("unsynced");
        std::fs::write(folder.database(), "a file, which has nothing below it").expect("writes");
        let below = folder.database().join("copy");
        let refused = syncing(&below, || Ok(())).expect_err("it cannot be opened");
        assert!(matches!(&refused, CopyError::Io { path, .. } if *path == below), "{refused}");
        assert!(syncing(&folder.database(), || Ok(())).is_ok());
        assert!(syncing(&folder.0.join("none"), || Ok(())).is_ok(), "nothing was written");
    }

    #[test]
    fn a_crash_at_any_point_of_a_replacement_loses_nothing_and_opens_nothing_old() {
        let all = {
            let folder = Folder::new("count");
            steps(&System, &folder.killed(), Path::new("kept")).expect("is planned").len()
        };
        assert_eq!(all, 10);
        for done in 0..=all {
            let folder = Folder::new(&format!("crash-{done}"));
            let path = folder.killed();
            prepare(&System, &new(), &path).expect("is prepared");
            let first = aside(&path, NOW);
            for step in steps(&System, &path, &first).expect("is planned").iter().take(done) {
                step.carry_out(&System).expect("works");
            }
            match open(&path, SCHEMA) {
                Ok((connection, _lock)) => assert_eq!(rows(&connection), [1, 2], "after {done} steps"),
                Err(OpenError::Unfinished { .. } | OpenError::Copy(_)) => {}
                Err(error) => panic!("after {done} steps: {error}"),
            }
            // Again, from the beginning.
            prepare(&System, &new(), &path).expect("is prepared");
            replace(&System, &path, NOW.plus(1)).expect("works");
            let connection = open_to_restore(&System, &path, SCHEMA).expect("opens");
            assert_eq!(rows(&connection), [3], "after {done} steps");
            let kept = kept(&System, &path).expect("reads");
            let is_whole = |path: &PathBuf| Connection::open(path).is_ok_and(|old| rows(&old) == [1, 2]);
            let is_new = |path: &PathBuf| Connection::open(path).is_ok_and(|old| rows(&old) == [3]);
            assert!(kept.iter().any(is_whole), "after {done} steps");
            assert!(kept.iter().all(|kept| is_whole(kept) || is_new(kept)), "after {done} steps");
        }
    }

    #[test]
    fn a_log_that_is_kept_nowhere_is_not_taken_away() {
        let folder = Folder::new("log");
        let path = folder.killed();
        std::fs::remove_file(&path).expect("removes");
        prepare(&System, &new(), &path).expect("is prepared");
        assert!(matches!(replace(&System, &path, NOW), Err(CopyError::LeftBehind(_))));
        assert!(beside(&path, LOG).exists());
    }

    #[test]
    fn a_copy_is_served_only_once_it_was_restored() {
        let folder = Folder::new("mark");
        let path = folder.killed();
        let backup = folder.0.join("backup.db");
        let (connection, lock) = open(&path, SCHEMA).expect("opens");
        copy(&System, &connection, &backup).expect("is written");
        assert!(matches!(copy(&System, &connection, &backup), Err(CopyError::Exists(_))));
        drop((connection, lock));
        assert!(open(&path, SCHEMA).is_ok(), "the database itself has no mark");
        let refused = open(&backup, SCHEMA).expect_err("is a copy").to_string();
        assert!(refused.contains("restore"), "{refused}");
        // A copy of it is one, too, and an upgrade does not change that.
        let restored = open_to_restore(&System, &backup, LATER).expect("opens");
        assert!(matches!(open(&backup, LATER), Err(OpenError::Copy(_))));
        let transaction = restored.unchecked_transaction().expect("begins");
        put_in_service(&transaction, LATER).expect("writes");
        transaction.commit().expect("commits");
        drop(restored);
        assert_eq!(rows(&open(&backup, LATER).expect("is a database").0), [1, 2]);
    }

    #[test]
    fn what_is_kept_already_is_not_kept_again() {
        let folder = Folder::new("kept");
        let path = folder.killed();
        let (connection, _lock) = open(&path, SCHEMA).expect("opens");
        let same = |kept: &Connection| Ok(rows(kept) == rows(&connection));
        let first = copy_aside(&connection, &path, NOW, same).expect("is kept");
        std::fs::write(beside(&aside(&path, NOW.plus(1)), WRITING), "half of it").expect("writes");
        assert_eq!(copy_aside(&connection, &path, NOW.plus(2), same).expect("is kept"), first);
        connection.execute("insert into a values (4)", []).expect("writes");
        assert_ne!(copy_aside(&connection, &path, NOW.plus(2), same).expect("is kept"), first);
    }
}
