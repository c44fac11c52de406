//! The database's file: how the daemon has it open, and how people's tools read, copy and replace it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use protocol::time::Millis;
use runtime::sqlite::{Connection, Db, FileLock, Guard, Reader, Rescue, System, Writer};
pub use runtime::sqlite::{inspect_daily, note_damage};
use rusqlite::OpenFlags;
use tokio::sync::oneshot;

use crate::storage::database::SCHEMA;
use crate::storage::queries::events;
use crate::storage::{items, stores};

/// Scans of the loops at once: consumer, publisher, maintenance and the steps scan one thing at a time each, and none of
/// them waits for another.
const LINK_SCANS: usize = 4;

/// Threads of the loops that make point reads: that which receives, that which sends, and that for all else.
const LINK_POINTS: usize = 3;

/// Reads at once of those who have to catch up: streams, webhooks and stores that are restored.
const FOLLOWING_SCANS: usize = 2;

/// The database as the daemon has it open. One thread writes; clients and the loops have readers of their own, so that
/// what clients ask for keeps the link from nothing.
pub struct Opened {
    pub clients: Db,
    /// For clients who look for a store that sells: they wait for no list, and no list waits for them.
    pub choosing: Db,
    /// For the loops.
    pub links: Db,
    /// For what is new in the chain, read once for all who follow it.
    pub feed: Db,
    /// For those who have to catch up, with the chain or, after a restore, with their own store: they keep nothing from
    /// clients either, nor from who is up to date, and wait for neither.
    pub followers: Db,
    /// Resolves when the writer has ended: after its last handle is gone, or with the error that stopped it.
    pub writer_ended: oneshot::Receiver<rusqlite::Result<()>>,
    /// What the end of the process has to wait for.
    pub rescue: Rescue,
    /// Stores that it knew when it was opened.
    pub known: usize,
    /// Items of their views, as far as they are counted.
    pub items: i64,
    /// Events that it had.
    pub events: i64,
    /// Keeps another process out for as long as it lives.
    pub lock: FileLock,
}

/// Opens it for the daemon.
pub fn open(path: &Path) -> anyhow::Result<Opened> {
    let (connection, lock) = runtime::sqlite::open(path, SCHEMA)?;
    let known = stores::all(&connection)?.len();
    let items = items::count(&connection)?;
    let events = events::last_place(&connection)?;
    let guard = Guard::of(path).context("the database's files cannot be looked at")?;
    let rescue = guard.watch();
    let (writer, writer_ended) = Writer::start_guarded(connection, guard, || {});
    // Of those that serve, at most half read lists: sales need the others.
    let threads = std::thread::available_parallelism()?.get();
    let reader = |points, scans| Reader::open(path, points, scans).context("the database cannot be read");
    let scans = (threads / 2).max(2);
    let clients = Db::new(reader(threads, scans)?, writer.clone());
    let choosing = Db::new(reader(1, scans)?, writer.clone());
    let feed = Db::new(reader(1, 1)?, writer.clone());
    let followers = Db::new(reader(1, FOLLOWING_SCANS)?, writer.clone());
    let links = Db::new(reader(LINK_POINTS, LINK_SCANS)?, writer);
    Ok(Opened { clients, choosing, feed, followers, links, writer_ended, rescue, known, items, events, lock })
}

/// Runs a job that only reads, on one consistent state, also while the daemon runs.
pub fn read<T>(path: &Path, job: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> anyhow::Result<T> {
    let mut connection = open_to_read(path)?;
    let transaction = connection.transaction()?;
    Ok(job(&transaction)?)
}

/// Writes one consistent copy, compact, also while the daemon runs. It is on disk when this returns.
pub fn back_up(path: &Path, to: &Path) -> anyhow::Result<()> {
    Ok(runtime::sqlite::copy(&System, &open_to_read(path)?, to)?)
}

/// A database that nobody serves, opened to go into service again.
pub struct ToRestore {
    connection: Connection,
    _lock: FileLock,
}

impl ToRestore {
    /// Opens it; with `from`, a copy of that backup takes its place first, and what was there, damaged or not, is kept
    /// under the path that is returned. The backup is checked before anything happens to the database that is there.
    pub fn open(path: &Path, from: Option<&Path>, now: Millis) -> anyhow::Result<(Self, Option<PathBuf>)> {
        let lock = runtime::sqlite::lock(path)?;
        let kept = match from {
            Some(from) => put_in_place(from, path, now)?,
            None if !path.exists() => bail!("{} does not exist: give --from with a backup", path.display()),
            None => None,
        };
        let connection = runtime::sqlite::open_to_restore(&System, path, SCHEMA)?;
        Ok((Self { connection, _lock: lock }, kept))
    }

    /// Runs a job that only reads.
    pub fn read<T>(&self, job: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> anyhow::Result<T> {
        Ok(job(&self.connection)?)
    }

    /// Puts it into service with what the job changes, or leaves it as it is.
    pub fn put_in_service<T>(self, job: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> anyhow::Result<T> {
        let transaction = self.connection.unchecked_transaction()?;
        let done = job(&transaction)?;
        runtime::sqlite::put_in_service(&transaction, SCHEMA)?;
        transaction.commit()?;
        Ok(done)
    }
}

fn put_in_place(from: &Path, path: &Path, now: Millis) -> anyhow::Result<Option<PathBuf>> {
    let same =
        |one: &Path, other: &Path| one.canonicalize().ok().is_some_and(|one| other.canonicalize().ok() == Some(one));
    if same(from, path) {
        bail!("{} is the database itself: give --from a backup, or leave it out", from.display());
    }
    let backup = open_to_read(from)?;
    runtime::sqlite::check(&backup, from, SCHEMA)
        .with_context(|| format!("{} cannot go into service", from.display()))?;
    runtime::sqlite::prepare(&System, &backup, path).with_context(|| format!("{} cannot be read", from.display()))?;
    Ok(runtime::sqlite::replace(&System, path, now)?)
}

fn open_to_read(path: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let application: i32 = connection
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .with_context(|| format!("{} cannot be read", path.display()))?;
    if !SCHEMA.owns(application) {
        bail!("{} is not central's", path.display());
    }
    Ok(connection)
}
