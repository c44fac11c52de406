//! The one thread that writes: it drains what has queued, runs each job in a savepoint, commits once, then answers
//! everybody.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{Error, Guard, is_fatal};

/// Jobs waiting, at most; beyond it callers are told that the process is overloaded.
const QUEUE: usize = 4_096;
/// Jobs in one commit, at most.
const GROUP: usize = 512;
/// How often it is looked at the files while there is nothing to write.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a job's effect is taken back.
#[derive(Debug, thiserror::Error)]
pub enum Abort<R> {
    /// The job itself says no.
    #[error("refused")]
    Refused(R),
    /// SQLite said no.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
}

/// What a job leaves behind: whether its effect is kept, and how to answer once that is on disk.
struct Done {
    keep: bool,
    fatal: Option<rusqlite::Error>,
    answer: Box<dyn FnOnce() + Send>,
}

type Job = Box<dyn FnOnce(&Connection) -> Done + Send>;

/// Handle to the writer thread. Cheap to clone; the thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Writer {
    jobs: SyncSender<Job>,
}

impl Writer {
    /// Starts the thread. `committed` is called after each commit, before anyone is answered. The receiver resolves
    /// when the thread has ended: with an error if it had to stop.
    pub fn start(
        connection: Connection,
        committed: impl Fn() + Send + 'static,
    ) -> (Self, oneshot::Receiver<rusqlite::Result<()>>) {
        Self::start_on(connection, None, committed)
    }

    /// The same for a database whose files people can reach: when one of them is deleted or replaced the thread stops,
    /// and nobody is told of a write that is not in the file at that path.
    pub fn start_guarded(
        connection: Connection,
        guard: Guard,
        committed: impl Fn() + Send + 'static,
    ) -> (Self, oneshot::Receiver<rusqlite::Result<()>>) {
        Self::start_on(connection, Some(guard), committed)
    }

    fn start_on(
        connection: Connection,
        guard: Option<Guard>,
        committed: impl Fn() + Send + 'static,
    ) -> (Self, oneshot::Receiver<rusqlite::Result<()>>) {
        let (jobs, queue) = sync_channel(QUEUE);
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || {
                let result = run(&connection, guard.as_ref(), &queue, &committed);
                // Whoever waits hears at once that it stopped.
                drop(queue);
                if let Some(guard) = guard.filter(|guard| guard.check().is_err()) {
                    guard.rescue(&connection);
                    // Closing it would delete what stands at the path of its log, which may be another database's.
                    std::mem::forget(connection);
                }
                // Nobody listening means that the process is going down anyway.
                let _ = ended.send(result);
            })
            .expect("the system gives a thread at start");
        (Self { jobs }, end)
    }

    /// Runs a job in the next group. Its effect is on disk before this returns `Ok(Ok(_))`; it had none if this
    /// returns a refusal. The job goes on if the caller stops waiting, and so does `then`, which is called with what the
    /// job returned once that is on disk.
    pub async fn write<T, R>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, Abort<R>> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<Result<T, R>, Error>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = job(connection);
            let keep = result.is_ok();
            let (result, fatal) = match result {
                Ok(value) => (Ok(Ok(value)), None),
                Err(Abort::Refused(refusal)) => (Ok(Err(refusal)), None),
                Err(Abort::Database(error)) if is_fatal(&error) => (Err(Error::Stopped), Some(error)),
                Err(Abort::Database(error)) => (Err(error.into()), None),
            };
            let answer = move || {
                if let Ok(Ok(value)) = &result {
                    then(value);
                }
                // A caller that has gone needs no answer.
                drop(answer.send(result));
            };
            Done { keep, fatal, answer: Box::new(answer) }
        });
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Disconnected(_) => Error::Stopped,
        })?;
        answered.await.unwrap_or(Err(Error::Stopped))
    }
}

fn run(
    connection: &Connection,
    guard: Option<&Guard>,
    queue: &Receiver<Job>,
    committed: &impl Fn(),
) -> rusqlite::Result<()> {
    let in_place = || guard.map_or(Ok(()), Guard::check);
    loop {
        let first = match queue.recv_timeout(LOOK_EVERY) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                in_place()?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut answers = Vec::new();
        connection.prepare_cached("begin immediate")?.execute([])?;
        let mut next = Some(first);
        while let Some(job) = next {
            let done = one(connection, job)?;
            answers.push(done);
            next = if answers.len() < GROUP { queue.try_recv().ok() } else { None };
        }
        // If this fails nobody is answered, and the process starts again from what is on disk.
        connection.prepare_cached("commit")?.execute([])?;
        in_place()?;
        committed();
        for answer in answers {
            answer();
        }
    }
    in_place()?;
    // In good order all of it is in the one file that people know of. Readers may still hold it back; nothing is lost then.
    connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
}

fn one(connection: &Connection, job: Job) -> rusqlite::Result<Box<dyn FnOnce() + Send>> {
    connection.prepare_cached("savepoint job")?.execute([])?;
    let done = job(connection);
    if let Some(error) = done.fatal {
        return Err(error);
    }
    if !done.keep {
        connection.prepare_cached("rollback to job")?.execute([])?;
    }
    connection.prepare_cached("release job")?.execute([])?;
    Ok(done.answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::Schema;

    fn writer() -> (Writer, oneshot::Receiver<rusqlite::Result<()>>) {
        let connection = Connection::open_in_memory().expect("opens");
        connection.execute_batch("create table t (x integer primary key) strict").expect("creates");
        Writer::start(connection, || {})
    }

    fn insert(x: i64) -> impl FnOnce(&Connection) -> Result<i64, Abort<&'static str>> {
        move |connection| {
            connection.execute("insert into t values (?1)", [x])?;
            if x < 0 { Err(Abort::Refused("negative")) } else { Ok(x) }
        }
    }

    async fn write<R: Send + 'static>(
        writer: &Writer,
        job: impl FnOnce(&Connection) -> Result<i64, Abort<R>> + Send + 'static,
    ) -> Result<Result<i64, R>, Error> {
        writer.write(job, |_| {}).await
    }

    async fn rows(writer: &Writer) -> i64 {
        let count = |connection: &Connection| {
            Ok::<_, Abort<&str>>(connection.query_row("select count(*) from t", [], |row| row.get(0))?)
        };
        write(writer, count).await.expect("writes").expect("not refused")
    }

    #[tokio::test]
    async fn a_refused_job_leaves_nothing_and_its_neighbours_stay() {
        let (writer, _end) = writer();
        let (a, b, c) = tokio::join!(write(&writer, insert(1)), write(&writer, insert(-1)), write(&writer, insert(2)));
        assert_eq!(a.expect("writes"), Ok(1));
        assert_eq!(b.expect("writes"), Err("negative"));
        assert_eq!(c.expect("writes"), Ok(2));
        assert!(matches!(write(&writer, insert(2)).await, Err(Error::Data(_))));
        assert_eq!(rows(&writer).await, 2);
    }

    #[tokio::test]
    async fn nobody_is_told_of_a_write_into_a_file_that_is_gone() {
        type Harm = fn(&std::path::Path);
        let harms: [(&str, Harm); 3] = [
            ("is no longer there", |path| std::fs::remove_file(path).expect("deletes")),
            ("was replaced", |path| {
                let other = path.with_extension("other");
                std::fs::copy(path, &other).expect("copies");
                std::fs::rename(other, path).expect("renames");
            }),
            ("a.db-wal is no longer there", |path| {
                std::fs::remove_file(path.with_extension("db-wal")).expect("deletes");
            }),
        ];
        for (why, harm) in harms {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("a.db");
            let schema = Schema { application_id: 7, migrations: &["create table t (x integer primary key) strict"] };
            let (connection, _lock) = crate::sqlite::open(&path, schema).expect("opens");
            let guard = Guard::of(&path).expect("its files are there");
            let (writer, end) = Writer::start_guarded(connection, guard, || {});
            assert_eq!(write(&writer, insert(1)).await.expect("writes"), Ok(1));
            harm(&path);
            // It notices by itself at the latest a second later.
            assert!(matches!(write(&writer, insert(2)).await, Err(Error::Stopped)), "{why}");
            let error = end.await.expect("tells").expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            let files = std::fs::read_dir(dir.path()).expect("lists").flatten().map(|file| file.path());
            let kept = files.into_iter().find(|file| file.to_string_lossy().contains(".rescued-"));
            let kept = Connection::open(kept.expect("what it held is kept")).expect("opens");
            let least: i64 = kept.query_row("select count(*) from t", [], |row| row.get(0)).expect("reads");
            assert!(least >= 1, "{why}");
        }
    }

    #[tokio::test]
    async fn the_thread_ends_with_its_last_handle() {
        let (writer, end) = writer();
        assert_eq!(rows(&writer).await, 0);
        drop(writer);
        assert!(end.await.expect("tells").is_ok());
    }
}
