//! A database as a daemon's floors use it: jobs that read and jobs that write.
//!
//! **Guarantees.** Damage that a reader meets ends the process as damage that the writer meets does.
//!
//! A job is synchronous and gets one connection inside one transaction. **It may be run again, so it has no effect but
//! that on the database**: it is an `Fn`, which cannot give away what it holds. What is to happen in the process because
//! of a write, such as waking a task, follows from what the job returned, and happens once that is on disk.

use std::time::Duration;

use rusqlite::Connection;

use super::{Abort, Error, JobResult, Reader, Weight, Writer, is_damage};

/// A database to read from and to write to. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    reader: Reader,
    writer: Writer,
}

impl Db {
    /// Reads and writes through these, which have the same file open.
    pub fn new(reader: Reader, writer: Writer) -> Self {
        reader.rests_with(writer.rest());
        Self { reader, writer }
    }

    /// A short read, which sees what was committed before. SQLite answers it on the calling thread: a hop to another one
    /// would cost more than the read. Reading lists and anything else that may take long is [`scan`](Self::scan)'s.
    #[expect(clippy::unused_async, reason = "an engine behind a socket has to be waited for")]
    pub async fn read<T>(&self, job: impl Fn(&Connection) -> JobResult<T>) -> Result<T, Error> {
        self.reader.point(job).map_err(|error| self.sort(error))
    }

    /// A read that may take long, of one consistent state, on a thread for such. Only so many run at once.
    pub async fn scan<T: Send + 'static>(
        &self,
        job: impl Fn(&Connection) -> JobResult<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.reader.scan(job).await.map_err(|error| self.sort(error))
    }

    fn sort(&self, error: rusqlite::Error) -> Error {
        if let Some(code) = error.sqlite_error().filter(|_| is_damage(&error)) {
            self.writer.stop(rusqlite::Error::SqliteFailure(*code, Some(error.to_string())));
        }
        error.into()
    }

    /// The same, for whom it is not worth a long wait: [`Error::Busy`] if no thread is free within this time.
    pub async fn scan_within<T: Send + 'static>(
        &self,
        patience: Duration,
        job: impl Fn(&Connection) -> JobResult<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.reader.scan_within(patience, job).await.map_err(|error| self.sort(error))
    }

    /// A light write. Its effect is on disk before this returns `Ok(Ok(_))`, and it had none if this returns a refusal. The job
    /// goes on if the caller stops waiting.
    pub async fn write<T, R>(
        &self,
        job: impl Fn(&Connection) -> Result<T, Abort<R>> + Send + 'static,
    ) -> Result<Result<T, R>, Error>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        self.write_then(Weight::Light, job, |_| {}).await
    }

    /// The same of a job of this weight. [`Error::Busy`] also for a heavy one, if too many of them wait.
    pub async fn write_as<T, R>(
        &self,
        weight: Weight,
        job: impl Fn(&Connection) -> Result<T, Abort<R>> + Send + 'static,
    ) -> Result<Result<T, R>, Error>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        self.write_then(weight, job, |_| {}).await
    }

    /// The same, and what is to happen in this process because of it: `then` is called with what the job returned when
    /// that is on disk, also if the caller has stopped waiting by then. It runs on the thread that writes, so it is quick.
    pub async fn write_then<T, R>(
        &self,
        weight: Weight,
        job: impl Fn(&Connection) -> Result<T, Abort<R>> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<Result<T, R>, Error>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        self.writer.write_as(weight, job, then).await
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("reader", &self.reader).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    fn db() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).expect("opens");
        connection.execute_batch("pragma journal_mode = wal; create table t (x integer) strict").expect("creates");
        let reader = Reader::open(&path, 1, 1).expect("opens");
        (dir, Db::new(reader, Writer::start(connection, || {}).0))
    }

    fn insert(x: i64) -> impl Fn(&Connection) -> Result<i64, Abort<&'static str>> {
        move |connection| {
            connection.execute("insert into t values (?1)", [x])?;
            if x < 0 { Err(Abort::Refused("negative")) } else { Ok(x) }
        }
    }

    fn sum(connection: &Connection) -> JobResult<i64> {
        connection.query_row("select coalesce(sum(x), 0) from t", [], |row| row.get(0))
    }

    #[tokio::test]
    async fn what_was_written_is_read_and_what_was_refused_is_not_there() {
        let (_dir, db) = db();
        assert_eq!(db.write(insert(2)).await.expect("writes"), Ok(2));
        assert_eq!(db.write(insert(-1)).await.expect("answers"), Err("negative"));
        assert_eq!(db.read(sum).await.expect("reads"), 2);
        assert_eq!(db.scan(sum).await.expect("reads"), 2);
        let bad =
            db.write(|connection| Ok::<_, Abort<()>>(connection.execute("insert into t values ('x')", [])?)).await;
        assert!(matches!(bad, Err(Error::Data(_))));
    }

    #[tokio::test]
    async fn damage_that_a_reader_meets_stops_the_writer() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).expect("opens");
        let fill = "pragma journal_mode = wal; create table victim (x integer primary key, y blob) strict; \
             insert into victim with recursive n(i) as (select 1 union all select i + 1 from n where i < 100) \
             select i, zeroblob(2000) from n; pragma wal_checkpoint(truncate)";
        connection.execute_batch(fill).expect("fills");
        let pages: u64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("reads");
        drop(connection);
        let file = std::fs::File::options().write(true).open(&path).expect("opens");
        file.write_all_at(&[0x5a; 4_096 * 8], (pages - 20) * 4_096).expect("writes");
        let sum = |connection: &Connection| connection.query_row("select sum(length(y)) from victim", [], |_| Ok(()));
        for way in ["read", "scan", "scan within"] {
            let reader = Reader::open(&path, 1, 1).expect("opens");
            let (writer, end) = Writer::start(Connection::open(&path).expect("opens"), || {});
            let db = Db::new(reader, writer);
            let met = match way {
                "read" => db.read(sum).await,
                "scan" => db.scan(sum).await,
                _ => db.scan_within(Duration::from_secs(10), sum).await,
            };
            assert!(matches!(met, Err(Error::Fatal(_))), "{way}: {met:?}");
            let why = tokio::time::timeout(Duration::from_secs(10), end).await.expect("it stops");
            assert!(is_damage(&why.expect("tells").expect_err("it says why")));
        }
    }

    #[tokio::test]
    async fn without_threads_who_has_the_queue_commits_and_answers() {
        let open = || Connection::open_in_memory().expect("opens");
        let (reader, (writer, mut queue)) = (Reader::alone(open()), Writer::queue());
        let (db, mut file) = (Db::new(reader.clone(), writer), open());
        file.execute_batch("create table t (x integer) strict").expect("creates");
        let mut write = Box::pin(db.write(insert(2)));
        assert!(futures_util::poll!(write.as_mut()).is_pending());
        let group = queue.run(&file).expect("runs").expect("one has queued");
        file.execute_batch("commit").expect("commits");
        assert!(futures_util::poll!(write.as_mut()).is_pending(), "nobody has answered");
        group.answer();
        assert_eq!(write.await.expect("writes"), Ok(2));
        assert!(queue.run(&file).expect("runs").is_none());
        reader.exchange(&mut file);
        assert_eq!((db.read(sum).await.expect("reads"), db.scan(sum).await.expect("reads")), (2, 2));
    }

    #[tokio::test]
    async fn what_follows_from_a_write_happens_even_if_nobody_waits_and_not_if_it_was_refused() {
        let (_dir, db) = db();
        let heard = Arc::new(AtomicI64::new(0));
        let hear = |heard: &Arc<AtomicI64>| {
            let heard = heard.clone();
            move |x: &i64| {
                heard.fetch_add(*x, Ordering::SeqCst);
            }
        };
        {
            let mut gone = Box::pin(db.write_then(Weight::Light, insert(3), hear(&heard)));
            assert!(futures_util::poll!(gone.as_mut()).is_pending());
        }
        db.write_then(Weight::Light, insert(-1), hear(&heard)).await.expect("answers").expect_err("is refused");
        assert_eq!((heard.load(Ordering::SeqCst), db.read(sum).await.expect("reads")), (3, 3));
    }
}
