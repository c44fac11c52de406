//! Reading beside the writer, on connections that are opened at start: what is read later cannot fail for want of a
//! descriptor.
//!
//! **Guarantees.** A point read waits for no scan. As many scans run at once as there are connections for them, however
//! many are asked for, so that their results take a bounded amount of memory. A point read sees what was committed before,
//! and when it is over it keeps no log from being begun anew: what it leaves open is closed before this process writes. A connection
//! for point reads over which nobody has read for a second or two maps none of the file.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ffi};
use tokio::sync::Semaphore;

use super::open::MAPPED;
use super::rest::{Keeps, Rest};
use super::{in_transaction, read_only};

/// How long a scan waits for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

thread_local! {
    static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// A database to read from. Cheap to clone.
#[derive(Clone)]
pub struct Reader(Arc<Pools>);

struct Pools {
    points: Vec<Mutex<Point>>,
    /// That of who writes, if point reads may leave their transactions open while it lasts.
    rest: OnceLock<Rest>,
    scans: Mutex<Vec<Connection>>,
    /// One for each connection in `scans`; `None`: there are none, and points read lists, too.
    places: Option<Arc<Semaphore>>,
}

impl Reader {
    /// Reads the database at `path`, which must exist: point reads on so many connections, one for each thread that
    /// makes them, and so many scans at once.
    pub fn open(path: &Path, points: usize, scans: usize) -> rusqlite::Result<Self> {
        let points = (0..points.max(1)).map(|_| Ok(Mutex::new(Point::on(read_only(path)?, Mapping::None))));
        let points = points.collect::<rusqlite::Result<_>>()?;
        let scans = (0..scans.max(1)).map(|_| read_only(path)).collect::<rusqlite::Result<Vec<_>>>()?;
        let places = Some(Arc::new(Semaphore::new(scans.len())));
        Ok(Self(Arc::new(Pools { points, rest: OnceLock::new(), scans: Mutex::new(scans), places })))
    }

    /// Reads on one connection, lists too, always on the calling thread: for who has all of a process in one thread.
    pub fn alone(connection: Connection) -> Self {
        let (points, scans) = (vec![Mutex::new(Point::on(connection, Mapping::Never))], Mutex::default());
        Self(Arc::new(Pools { points, rest: OnceLock::new(), scans, places: None }))
    }

    /// From now on point reads leave their transactions open while this writer rests.
    pub(super) fn rests_with(&self, rest: &Rest) {
        if self.0.places.is_none() {
            return;
        }
        match self.0.rest.set(rest.clone()) {
            Ok(()) => rest.lets_go(&self.0),
            Err(_) => assert!(self.0.rest.get() == Some(rest), "a reader reads what one writer writes"),
        }
    }

    /// Of [`alone`](Self::alone): goes on with this connection, and gives back the one that it had.
    pub fn exchange(&self, connection: &mut Connection) {
        std::mem::swap(&mut self.0.points[0].lock().connection, connection);
    }

    /// Runs a short read on the calling thread: for point reads, where a hop to another thread would cost more than
    /// the read. What was committed before is seen.
    pub fn point<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let points = &self.0.points;
        let own = thread() % points.len();
        let rest = self.0.rest.get();
        let lull = rest.and_then(Rest::lull);
        let all = (0..points.len()).map(|step| &points[(own + step) % points.len()]);
        let (point, locked) = all
            .filter_map(|point| Some((point, point.try_lock()?)))
            .next()
            .unwrap_or_else(|| (&points[own], points[own].lock()));
        // It looks once this is unlocked, also by a panic: what is declared last is dropped first.
        let _after = rest.zip(lull).map(|(rest, lull)| After { rest, lull, point });
        let mut free = locked;
        free.read(lull, read)
    }

    /// Runs a read that may take long on a thread for blocking work, in one transaction: one consistent state. If too
    /// many are at it for too long the error is SQLite's for a database that is busy.
    pub async fn scan<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        self.scan_within(PATIENCE, read).await
    }

    /// The same, if a connection is free within this time.
    pub async fn scan_within<T: Send + 'static>(
        &self,
        patience: Duration,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let Some(places) = &self.0.places else {
            return self.point(|connection| in_transaction(connection, read));
        };
        let place = tokio::time::timeout(patience, places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(busy()) };
        let pools = self.0.clone();
        let task = tokio::task::spawn_blocking(move || {
            let taken = pools.scans.lock().pop();
            let connection = Lent { connection: Some(taken.ok_or_else(busy)?), pools: &pools };
            let transaction = connection.get()?.unchecked_transaction()?;
            let result = read(&transaction)?;
            transaction.finish()?;
            drop(connection);
            // Kept until the result has been taken: results wait nowhere.
            Ok((result, place))
        });
        match task.await {
            Ok(result) => result.map(|(result, _place)| result),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The process is ending.
            Err(_) => Err(busy()),
        }
    }
}

impl Keeps for Pools {
    fn let_go(&self) -> rusqlite::Result<()> {
        self.points.iter().filter_map(Mutex::try_lock).try_for_each(|mut point| point.close())
    }

    fn give_back(&self) -> rusqlite::Result<()> {
        self.points.iter().filter_map(Mutex::try_lock).try_for_each(|mut point| point.give_back())
    }
}

/// A connection for point reads.
struct Point {
    connection: Connection,
    /// The rest of the writer in which its transaction was begun, if one is open: nothing was written since.
    open: Option<u64>,
    mapping: Mapping,
}

/// Whether a connection reads the file's beginning from memory: pages that it has touched count as the process's own then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mapping {
    /// Not this one.
    Never,
    /// Not now.
    None,
    /// It does. `used`: something was read since it was last looked at that.
    Some { used: bool },
}

impl Point {
    fn on(connection: Connection, mapping: Mapping) -> Self {
        Self { connection, open: None, mapping }
    }

    /// Reads in a transaction that stays open for the next read in the same rest. To begin and to end one are two calls of the
    /// system for the lock, and a tenth of all that a point read takes.
    fn read<T>(
        &mut self,
        lull: Option<u64>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        if self.open != lull {
            self.close()?;
        }
        match &mut self.mapping {
            Mapping::Never => {}
            Mapping::None => self.map(MAPPED, Mapping::Some { used: true })?,
            Mapping::Some { used } => *used = true,
        }
        if self.open.is_none() && lull.is_some() {
            self.connection.prepare_cached("begin")?.execute([])?;
            self.open = lull;
        }
        let found = read(&self.connection);
        match found {
            Ok(found) => Ok(found),
            Err(error) => {
                // What is wrong is what the read says; if it cannot be closed the next one does.
                let _ = self.close();
                Err(error)
            }
        }
    }

    fn give_back(&mut self) -> rusqlite::Result<()> {
        // Who was reading while a rest ended may have found it locked.
        self.close()?;
        match &mut self.mapping {
            Mapping::Some { used: used @ true } => *used = false,
            Mapping::Some { used: false } => self.map(0, Mapping::None)?,
            Mapping::Never | Mapping::None => {}
        }
        Ok(())
    }

    fn map(&mut self, bytes: i64, mapping: Mapping) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "mmap_size", bytes)?;
        self.mapping = mapping;
        Ok(())
    }

    fn close(&mut self) -> rusqlite::Result<()> {
        // Some errors end it.
        if self.open.is_some() && !self.connection.is_autocommit() {
            self.connection.prepare_cached("commit")?.execute([])?;
        }
        self.open = None;
        Ok(())
    }
}

/// Looks, behind a read, whether the rest lasts in which it was begun. Who ends a rest closes what nobody uses then; of what is in
/// use its user looks afterwards.
struct After<'a> {
    rest: &'a Rest,
    lull: u64,
    point: &'a Mutex<Point>,
}

impl Drop for After<'_> {
    fn drop(&mut self) {
        // Behind the unlocking; the other side has one between the end of a rest and its look at the locks.
        fence(Ordering::SeqCst);
        if self.rest.lull() != Some(self.lull)
            && let Some(mut point) = self.point.try_lock()
        {
            // If it fails the next read says so.
            let _ = point.close();
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("points", &self.0.points.len()).finish_non_exhaustive()
    }
}

/// A connection that goes back when the scan ends, however it ends.
struct Lent<'a> {
    connection: Option<Connection>,
    pools: &'a Pools,
}

impl Lent<'_> {
    fn get(&self) -> rusqlite::Result<&Connection> {
        self.connection.as_ref().ok_or_else(busy)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pools.scans.lock().extend(self.connection.take());
    }
}

fn busy() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), Some("too many lists are read at once".into()))
}

/// Number of the calling thread.
fn thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    THREAD.with(|own| {
        let number = own.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
        own.set(Some(number));
        number
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::sqlite::{Abort, Writer};

    fn reader(points: usize, scans: usize) -> (tempfile::TempDir, Reader) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).expect("opens");
        connection.execute_batch("create table t (x integer) strict; insert into t values (7)").expect("creates");
        let reader = Reader::open(&path, points, scans).expect("opens");
        (dir, reader)
    }

    fn x(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row("select x from t", [], |row| row.get(0))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_scans_run_at_once_than_there_are_connections() {
        let (_dir, reader) = reader(1, 2);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let scans: Vec<_> = (0..40)
            .map(|_| {
                let (reader, running, most) = (reader.clone(), running.clone(), most.clone());
                tokio::spawn(async move {
                    let scan = move |connection: &Connection| {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let found = x(connection);
                        running.fetch_sub(1, Ordering::SeqCst);
                        found
                    };
                    reader.scan(scan).await
                })
            })
            .collect();
        for scan in scans {
            assert_eq!(scan.await.expect("does not panic").expect("reads"), 7);
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
        let panics = tokio::spawn({
            let reader = reader.clone();
            async move { reader.scan(|_| -> rusqlite::Result<()> { panic!("on purpose") }).await }
        });
        assert!(panics.await.is_err());
        assert_eq!(reader.0.scans.lock().len(), 2, "what a scan has borrowed comes back");
    }

    #[test]
    fn a_point_read_does_not_wait_while_another_connection_is_free() {
        let (_dir, reader) = reader(2, 1);
        let outer = reader.point(|connection| Ok((x(connection)?, reader.point(x)?)));
        assert_eq!(outer.expect("reads"), (7, 7));
    }

    /// A reader with one connection for points, and who writes.
    fn resting() -> (tempfile::TempDir, Reader, Writer) {
        let (dir, reader) = reader(1, 1);
        let connection = Connection::open(dir.path().join("a.db")).expect("opens");
        connection.pragma_update(None, "journal_mode", "wal").expect("is one");
        let writer = Writer::start(connection, || {}).0;
        reader.rests_with(writer.rest());
        (dir, reader, writer)
    }

    async fn write(writer: &Writer, value: i64) {
        let job = move |connection: &Connection| {
            Ok::<_, Abort<()>>(connection.execute("update t set x = ?1", [value]).map(drop)?)
        };
        writer.write(job, |()| {}).await.expect("writes").expect("is not refused");
    }

    fn is_open(reader: &Reader) -> bool {
        let point = reader.0.points[0].lock();
        assert_eq!(point.open.is_some(), !point.connection.is_autocommit());
        point.open.is_some()
    }

    /// Reads until what was read is left open: the writer rests soon.
    async fn left_open(reader: &Reader, value: i64) {
        while !is_open(reader) {
            assert_eq!(reader.point(x).expect("reads"), value);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_left_open_is_closed_before_the_next_write_and_hides_none() {
        let (_dir, reader, writer) = resting();
        for value in 0..100 {
            write(&writer, value).await;
            assert!(!is_open(&reader), "nobody has read since");
            assert_eq!(reader.point(x).expect("reads"), value);
            left_open(&reader, value).await;
        }
        let broken = |connection: &Connection| connection.query_row("select y from t", [], |_| Ok(()));
        reader.point(broken).expect_err("there is no such column");
        assert!(!is_open(&reader), "an error ends it");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_reads_while_a_rest_ends_closes_it() {
        let (_dir, reader, writer) = resting();
        left_open(&reader, 7).await;
        let read = reader.point(|connection| {
            let before = x(connection)?;
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(write(&writer, 8)));
            assert!(!connection.is_autocommit(), "nobody closes what is in use");
            Ok((before, x(connection)?))
        });
        assert_eq!(read.expect("reads"), (7, 7), "one state");
        assert!(!is_open(&reader));
        left_open(&reader, 8).await;
        let panics = || {
            reader.point(|connection| -> rusqlite::Result<()> {
                x(connection)?;
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(write(&writer, 9)));
                panic!("on purpose")
            })
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).expect_err("it panics");
        assert!(!is_open(&reader));
        assert_eq!(reader.point(x).expect("reads"), 9);
    }

    fn mapping(reader: &Reader) -> Mapping {
        let point = reader.0.points[0].lock();
        let bytes: i64 = point.connection.pragma_query_value(None, "mmap_size", |row| row.get(0)).expect("reads");
        assert_eq!(bytes > 0, matches!(point.mapping, Mapping::Some { .. }));
        point.mapping
    }

    #[test]
    fn a_connection_over_which_nobody_reads_gives_the_files_pages_back() {
        let (_dir, reader) = reader(1, 1);
        assert_eq!(mapping(&reader), Mapping::None);
        for _ in 0..2 {
            assert_eq!(reader.point(x).expect("reads"), 7);
            for after in [Mapping::Some { used: false }, Mapping::None, Mapping::None] {
                reader.0.give_back().expect("works");
                assert_eq!(mapping(&reader), after);
            }
        }
    }

    #[tokio::test]
    async fn a_writer_sees_every_second_to_what_nobody_uses() {
        let (_dir, reader, writer) = resting();
        write(&writer, 8).await;
        left_open(&reader, 8).await;
        let given_back = async {
            while mapping(&reader) != Mapping::None {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), given_back).await.expect("nobody reads");
        assert!(!is_open(&reader));
        assert_eq!(reader.point(x).expect("reads"), 8);
    }

    #[tokio::test]
    async fn the_log_begins_anew_whatever_reads_have_left_open() {
        let (dir, reader, writer) = resting();
        let length = || std::fs::metadata(dir.path().join("a.db-wal")).expect("is there").len();
        let copies = Connection::open(dir.path().join("a.db")).expect("opens");
        let mut longest = 0;
        for value in 0..50 {
            write(&writer, value).await;
            left_open(&reader, value).await;
            let all: i64 = copies.query_row("pragma wal_checkpoint(passive)", [], |row| row.get(0)).expect("copies");
            assert_eq!(all, 0);
            longest = longest.max(length());
        }
        assert!(longest < 3 * 4_200, "{longest} bytes: each write begins at its start again");
    }
}
