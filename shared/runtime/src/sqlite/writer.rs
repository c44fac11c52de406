//! The one thread that writes: it drains what has queued, runs the jobs in one transaction, commits once, then answers
//! everybody.
//!
//! **Guarantees.** However many heavy jobs wait, a light one waits for no more than one of them: the light jobs that have
//! queued, in one transaction, and one heavy job, in another, take turns. So the heavy ones go on, too. Only so many of them
//! wait, whatever they hold. Light jobs run in the order in which they have queued, and so do heavy ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ffi};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

use super::log::{Lengths, Log};
use super::open::open_beside;
use super::rest::Rest;
use super::{Error, Guard, System, is_fatal};

/// Jobs waiting, at most; beyond it callers are told that the process is overloaded.
const QUEUE: usize = 4_096;
/// Light jobs in one commit, at most.
const GROUP: usize = 512;
/// Heavy jobs waiting, at most: each may hold a megabyte, and takes some tens of milliseconds.
const HEAVY: usize = 64;
/// Lines of a light job, at most: a basket.
const BASKET: usize = 10;
/// How often it is looked at the files while there is nothing to write.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon it is looked again whether the log has room for a heavy job.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(2);

/// How long a job keeps others waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// As long as some sales take.
    Light,
    /// Longer: some tens of milliseconds at most.
    Heavy,
    /// As long, for work of the process itself: it waits for a place among the heavy jobs, which callers are refused.
    Background,
}

impl Weight {
    /// Of a job that does so many lines.
    pub fn of_lines(lines: usize) -> Self {
        if lines > BASKET { Self::Heavy } else { Self::Light }
    }
}

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

impl<R> Abort<R> {
    /// Says a refusal in other words.
    pub fn map<S>(self, say: impl FnOnce(R) -> S) -> Abort<S> {
        match self {
            Self::Refused(refusal) => Abort::Refused(say(refusal)),
            Self::Database(error) => Abort::Database(error),
        }
    }
}

/// What a job said, when it ran last.
enum Ran {
    Done,
    /// It refused, or could not do it: its effect is taken back.
    Refused,
    /// The process must stop.
    Fatal(rusqlite::Error),
}

/// A job that has queued.
trait Queued: Send {
    /// Runs it; what it said when it ran before is forgotten.
    fn run(&mut self, connection: &Connection) -> Ran;
    /// Tells its caller. Its effect is on disk.
    fn answer(self: Box<Self>);
}

struct Call<T, R, J, N> {
    job: J,
    then: N,
    said: Option<Result<Result<T, R>, Error>>,
    caller: oneshot::Sender<Result<Result<T, R>, Error>>,
}

impl<T, R, J, N> Queued for Call<T, R, J, N>
where
    T: Send,
    R: Send,
    J: Fn(&Connection) -> Result<T, Abort<R>> + Send,
    N: FnOnce(&T) + Send,
{
    fn run(&mut self, connection: &Connection) -> Ran {
        let (said, ran) = match (self.job)(connection) {
            Ok(value) => (Ok(Ok(value)), Ran::Done),
            Err(Abort::Refused(refusal)) => (Ok(Err(refusal)), Ran::Refused),
            Err(Abort::Database(error)) if is_fatal(&error) => (Err(Error::Stopped), Ran::Fatal(error)),
            Err(Abort::Database(error)) => (Err(error.into()), Ran::Refused),
        };
        self.said = Some(said);
        ran
    }

    fn answer(self: Box<Self>) {
        let Some(said) = self.said else { return };
        if let Ok(Ok(value)) = &said {
            (self.then)(value);
        }
        // A caller that has gone needs no answer.
        drop(self.caller.send(said));
    }
}

/// What somebody else has met in the file.
struct Met(Option<rusqlite::Error>);

impl Queued for Met {
    fn run(&mut self, _: &Connection) -> Ran {
        self.0.take().map_or(Ran::Done, Ran::Fatal)
    }

    fn answer(self: Box<Self>) {}
}

type Job = Box<dyn Queued>;

/// A job that waits, and its place if it is a heavy one.
struct Waiting {
    job: Job,
    place: Option<OwnedSemaphorePermit>,
}

/// Jobs that wait for whoever writes.
pub struct Queue {
    arriving: Receiver<Waiting>,
    light: VecDeque<Waiting>,
    heavy: VecDeque<Waiting>,
    /// What ran last was light.
    is_heavys_turn: bool,
}

/// Jobs that have run in one transaction, which is not committed yet.
pub struct Group(Vec<Waiting>);

impl Queue {
    fn of(arriving: Receiver<Waiting>) -> Self {
        Self { arriving, light: VecDeque::new(), heavy: VecDeque::new(), is_heavys_turn: false }
    }

    /// Runs the light jobs that have queued, or a heavy one, in a transaction that it leaves open. `None`: there is none.
    pub fn run(&mut self, connection: &Connection) -> rusqlite::Result<Option<Group>> {
        self.first(true).map(|first| group(connection, first, self)).transpose()
    }

    /// The job that runs next, behind which those light ones follow that wait if it is one of them.
    fn first(&mut self, heavy_may_go: bool) -> Option<Waiting> {
        if heavy_may_go
            && self.is_heavys_turn
            && let Some(heavy) = self.heavy.pop_front()
        {
            self.is_heavys_turn = false;
            return Some(heavy);
        }
        if let Some(light) = self.next_light() {
            self.is_heavys_turn = true;
            return Some(light);
        }
        if !heavy_may_go {
            return None;
        }
        self.is_heavys_turn = false;
        self.heavy.pop_front()
    }

    fn next_light(&mut self) -> Option<Waiting> {
        while self.light.is_empty() {
            let arrived = self.arriving.try_recv().ok()?;
            self.put(arrived);
        }
        self.light.pop_front()
    }

    fn put(&mut self, arrived: Waiting) {
        let queue = if arrived.place.is_some() { &mut self.heavy } else { &mut self.light };
        queue.push_back(arrived);
    }

    /// Until a job arrives, or it has to be looked at something else.
    fn wait(&mut self) -> Result<(), RecvTimeoutError> {
        let patience = if self.heavy.is_empty() { LOOK_EVERY } else { LOOK_FOR_ROOM };
        self.arriving.recv_timeout(patience).map(|arrived| self.put(arrived))
    }
}

impl Group {
    /// Tells the callers. Their jobs' effects are on disk.
    pub fn answer(self) {
        self.0.into_iter().for_each(|done| done.job.answer());
    }
}

/// Handle to the writer thread. Cheap to clone; the thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Writer {
    jobs: SyncSender<Waiting>,
    /// Places of heavy jobs.
    heavy: Arc<Semaphore>,
    rest: Rest,
}

impl Writer {
    /// Without a thread: whoever has the queue runs the jobs, commits, and answers.
    pub fn queue() -> (Self, Queue) {
        let (jobs, arriving) = sync_channel(QUEUE);
        (Self { jobs, heavy: Arc::new(Semaphore::new(HEAVY)), rest: Rest::default() }, Queue::of(arriving))
    }

    /// When nothing is written.
    pub(super) fn rest(&self) -> &Rest {
        &self.rest
    }

    /// Starts the thread. `committed` is called after each commit, before anyone is answered. The receiver resolves
    /// when the thread writes no more: with an error if it had to stop.
    pub fn start(
        connection: Connection,
        committed: impl Fn() + Send + 'static,
    ) -> (Self, oneshot::Receiver<rusqlite::Result<()>>) {
        Self::start_on(connection, || Ok(None), Lengths::USUAL, None, committed)
    }

    /// The same, with a log that is copied, by this [other connection](open_beside) first, whenever it has so many pages: for
    /// lives that are too short for those of production. Nothing is written meanwhile.
    pub fn start_checkpointing(
        connection: Connection,
        beside: Connection,
        pages: u32,
        committed: impl Fn() + Send + 'static,
    ) -> (Self, oneshot::Receiver<rusqlite::Result<()>>) {
        let lengths = Lengths { copied: pages, long: pages, most: pages, unless: u32::MAX };
        Self::start_on(connection, || Ok(Some(beside)), lengths, None, committed)
    }

    /// The same for a database whose files people can reach: when one of them is deleted or replaced the thread stops,
    /// nobody is told of a write that is not in the file at that path, and what was in it is [kept](super::Rescue). Its log is
    /// copied beside the commits.
    pub fn start_guarded(
        connection: Connection,
        guard: Guard,
        committed: impl Fn() + Send + 'static,
    ) -> (Self, oneshot::Receiver<rusqlite::Result<()>>) {
        let path = guard.path().to_owned();
        let beside = move || open_beside(&System, &path).map(Some);
        Self::start_on(connection, beside, Lengths::USUAL, Some(guard), committed)
    }

    fn start_on(
        mut connection: Connection,
        beside: impl FnOnce() -> rusqlite::Result<Option<Connection>> + Send + 'static,
        lengths: Lengths,
        guard: Option<Guard>,
        committed: impl Fn() + Send + 'static,
    ) -> (Self, oneshot::Receiver<rusqlite::Result<()>>) {
        let (writer, mut queue) = Self::queue();
        let rest = writer.rest.clone();
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || {
                let log = beside().and_then(|beside| Log::of(&mut connection, beside, lengths));
                let result = log.and_then(|log| run(&connection, log, guard.as_ref(), &rest, &mut queue, &committed));
                // Held before anybody hears that it stopped.
                let moved = guard.as_ref().filter(|guard| guard.check().is_err()).map(|guard| (guard, guard.hold()));
                // Whoever waits hears at once that it stopped.
                drop(queue);
                if result.is_err() {
                    // Closing it would try once more what has failed. A second sync may say of what the first one has
                    // lost that it is on disk, and SQLite would delete the log that still has it.
                    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
                }
                // Nobody listening means that the process is going down anyway.
                let _ = ended.send(result);
                if let Some((guard, _held)) = moved {
                    guard.rescue(&connection);
                    // Closing it would delete what stands at the path of its log, which may be another database's.
                    std::mem::forget(connection);
                }
            })
            .expect("the system gives a thread at start");
        (writer, end)
    }

    /// Ends the thread, as if a job had met this.
    pub(super) fn stop(&self, met: rusqlite::Error) {
        // If there is no room whoever meets it next says so again.
        let _ = self.jobs.try_send(Waiting { job: Box::new(Met(Some(met))), place: None });
    }

    /// Runs a light job in the next group, perhaps twice. Its effect is on disk before this returns `Ok(Ok(_))`; it had none
    /// if this returns a refusal. The job goes on if the caller stops waiting, and so does `then`, which is called with what
    /// the job returned once that is on disk.
    pub async fn write<T, R>(
        &self,
        job: impl Fn(&Connection) -> Result<T, Abort<R>> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<Result<T, R>, Error>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        self.write_as(Weight::Light, job, then).await
    }

    /// The same for a job of this weight. [`Error::Busy`] also for a heavy one, if too many of them wait.
    pub(super) async fn write_as<T, R>(
        &self,
        weight: Weight,
        job: impl Fn(&Connection) -> Result<T, Abort<R>> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<Result<T, R>, Error>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let place = match weight {
            Weight::Light => None,
            Weight::Heavy => Some(self.heavy.clone().try_acquire_owned().map_err(|error| match error {
                TryAcquireError::NoPermits => Error::Busy,
                TryAcquireError::Closed => Error::Stopped,
            })?),
            // Places are given in the order in which they were waited for.
            Weight::Background => Some(self.heavy.clone().acquire_owned().await.map_err(|_| Error::Stopped)?),
        };
        let (caller, answered) = oneshot::channel();
        let job: Job = Box::new(Call { job, then, said: None, caller });
        self.jobs.try_send(Waiting { job, place }).map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Disconnected(_) => Error::Stopped,
        })?;
        answered.await.unwrap_or(Err(Error::Stopped))
    }
}

fn run(
    connection: &Connection,
    mut log: Log,
    guard: Option<&Guard>,
    rest: &Rest,
    queue: &mut Queue,
    committed: &impl Fn(),
) -> rusqlite::Result<()> {
    let written = write(connection, &mut log, guard, rest, queue, committed);
    // Who copies beside does so no more, whatever else comes.
    written.and(log.end())?;
    if let Some(guard) = guard {
        guard.check()?;
    }
    // In good order all of it is in the one file that people know of. Readers may still hold it back; nothing is lost then.
    connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
}

/// Until nobody has a handle any more, and nothing is left to write.
fn write(
    connection: &Connection,
    log: &mut Log,
    guard: Option<&Guard>,
    rest: &Rest,
    queue: &mut Queue,
    committed: &impl Fn(),
) -> rusqlite::Result<()> {
    let in_place = || guard.map_or(Ok(()), Guard::check);
    let (mut is_ending, mut gave_back) = (false, Instant::now());
    loop {
        if gave_back.elapsed() >= LOOK_EVERY {
            gave_back = Instant::now();
            rest.give_back()?;
        }
        if let Some(first) = queue.first(is_ending || log.has_room()) {
            let group = group(connection, first, queue)?;
            // If this fails nobody is answered, and the process starts again from what is on disk.
            connection.prepare_cached("commit")?.execute([])?;
            in_place()?;
            committed();
            // Answered first: what they did is on disk, in the log.
            group.answer();
        } else if is_ending {
            return Ok(());
        } else {
            match rest.during(|| queue.wait())? {
                Ok(()) => continue,
                Err(RecvTimeoutError::Timeout) => in_place()?,
                Err(RecvTimeoutError::Disconnected) => is_ending = true,
            }
        }
        log.look_after(connection)?;
    }
}

/// Runs a job and, if it is a light one, those light ones that have queued behind it, in a transaction that it leaves open.
///
/// Only a savepoint takes back what one job has done, and it costs every job a copy of each page that it touches. Hardly one
/// writes and then refuses, so it is only when one has that all of the group run again, each in a savepoint of its own.
fn group(connection: &Connection, first: Waiting, queue: &mut Queue) -> rusqlite::Result<Group> {
    let most = if first.place.is_some() { 1 } else { GROUP };
    let mut group = Vec::new();
    let mut apart = false;
    connection.prepare_cached("begin immediate")?.execute([])?;
    let mut next = Some(first);
    while let Some(mut waiting) = next {
        if apart {
            run_apart(connection, &mut waiting.job)?;
            group.push(waiting);
        } else {
            let before = connection.total_changes();
            let is_kept = run_one(connection, &mut waiting.job)?;
            group.push(waiting);
            if !is_kept && connection.total_changes() != before {
                connection.prepare_cached("rollback")?.execute([])?;
                connection.prepare_cached("begin immediate")?.execute([])?;
                // Nobody else's effect is gone with that of the first.
                if group.len() > 1 {
                    apart = true;
                    group.iter_mut().try_for_each(|waiting| run_apart(connection, &mut waiting.job))?;
                }
            }
        }
        next = if group.len() < most { queue.next_light() } else { None };
    }
    Ok(Group(group))
}

fn run_apart(connection: &Connection, job: &mut Job) -> rusqlite::Result<()> {
    connection.prepare_cached("savepoint job")?.execute([])?;
    if !run_one(connection, job)? {
        connection.prepare_cached("rollback to job")?.execute([])?;
    }
    connection.prepare_cached("release job")?.execute([])?;
    Ok(())
}

/// Whether the job's effect is kept.
fn run_one(connection: &Connection, job: &mut Job) -> rusqlite::Result<bool> {
    match job.run(connection) {
        Ran::Fatal(error) => Err(error),
        // Some errors make SQLite end the whole transaction: then what follows would be committed piece by piece.
        Ran::Done | Ran::Refused if connection.is_autocommit() => {
            let why = "an error of a job has ended the transaction".to_owned();
            Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ABORT), Some(why)))
        }
        Ran::Done => Ok(true),
        Ran::Refused => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::LocalBoxFuture;

    use super::*;
    use crate::sqlite::Schema;

    fn writer() -> (Writer, oneshot::Receiver<rusqlite::Result<()>>) {
        let connection = Connection::open_in_memory().expect("opens");
        connection.execute_batch("create table t (x integer primary key) strict").expect("creates");
        Writer::start(connection, || {})
    }

    fn insert(x: i64) -> impl Fn(&Connection) -> Result<i64, Abort<&'static str>> {
        move |connection| {
            connection.execute("insert into t values (?1)", [x])?;
            if x < 0 { Err(Abort::Refused("negative")) } else { Ok(x) }
        }
    }

    async fn write<R: Send + 'static>(
        writer: &Writer,
        job: impl Fn(&Connection) -> Result<i64, Abort<R>> + Send + 'static,
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

    /// Jobs that run in one group, in this order.
    async fn together<const N: usize>(
        writer: &Writer,
        jobs: [i64; N],
        job: fn(&Connection, i64) -> Result<i64, Abort<&'static str>>,
    ) -> [Result<Result<i64, &'static str>, Error>; N] {
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let waits = write(writer, move |_| {
            // The writer is held up until all have queued; the sender is gone when it runs again.
            let _ = gate.recv();
            Ok::<_, Abort<&str>>(0)
        });
        let all = futures_util::future::join_all(jobs.map(|x| write(writer, move |connection| job(connection, x))));
        let mut both = Box::pin(futures_util::future::join(waits, all));
        assert!(futures_util::poll!(both.as_mut()).is_pending());
        drop(go);
        let (_, answers) = both.await;
        answers.try_into().expect("one each")
    }

    #[tokio::test]
    async fn who_refuses_after_writing_takes_back_that_alone() {
        let (writer, _end) = writer();
        let answers = together(&writer, [1, -1, 2, -2, 1, 3], |connection, x| insert(x)(connection)).await;
        let [a, b, c, d, again, e] = answers;
        assert_eq!((a.expect("writes"), c.expect("writes"), e.expect("writes")), (Ok(1), Ok(2), Ok(3)));
        assert_eq!((b.expect("answers"), d.expect("answers")), (Err("negative"), Err("negative")));
        assert!(matches!(again, Err(Error::Data(_))));
        assert_eq!(rows(&writer).await, 3);
    }

    #[tokio::test]
    async fn an_error_that_ends_the_transaction_stops_the_thread() {
        let (writer, end) = writer();
        let answers = together(&writer, [1, -1, 2], |connection, x| {
            if x < 0 {
                // Also if the job itself makes nothing of it.
                let _ = connection.execute("insert or rollback into t values (1)", []);
                return Ok(0);
            }
            insert(x)(connection)
        });
        let answers = answers.await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Stopped))), "{answers:?}");
        assert!(end.await.expect("tells").is_err());
    }

    /// Jobs that wait without a thread, each of which notes its number when it runs.
    struct Shop {
        connection: Connection,
        writer: Writer,
        queue: Queue,
        answers: Vec<LocalBoxFuture<'static, Result<Result<i64, i64>, Error>>>,
    }

    impl Shop {
        fn open() -> Self {
            let connection = Connection::open_in_memory().expect("opens");
            connection.execute_batch("create table t (x integer) strict").expect("creates");
            let (writer, queue) = Writer::queue();
            Self { connection, writer, queue, answers: Vec::new() }
        }

        /// One below zero refuses once it has written.
        async fn send(&mut self, weight: Weight, numbers: impl IntoIterator<Item = i64>) {
            for x in numbers {
                let job = move |connection: &Connection| {
                    connection.execute("insert into t values (?1)", [x])?;
                    if x < 0 { Err(Abort::Refused(x)) } else { Ok(x) }
                };
                let writer = self.writer.clone();
                let mut answer = async move { writer.write_as(weight, job, |_| {}).await }.boxed_local();
                assert!(futures_util::poll!(answer.as_mut()).is_pending());
                self.answers.push(answer);
            }
        }

        /// Commits the next group, and says what it has written.
        fn commit(&mut self) -> Vec<i64> {
            let written = |connection: &Connection| {
                let mut all = connection.prepare("select x from t order by rowid").expect("reads");
                let all = all.query_map([], |row| row.get::<_, i64>(0)).expect("reads");
                all.collect::<rusqlite::Result<Vec<_>>>().expect("reads")
            };
            let before = written(&self.connection).len();
            let group = self.queue.run(&self.connection).expect("runs");
            if let Some(group) = group {
                self.connection.execute_batch("commit").expect("commits");
                group.answer();
            }
            written(&self.connection).split_off(before)
        }
    }

    #[tokio::test]
    async fn light_jobs_wait_for_one_heavy_one_at_most_and_heavy_ones_have_their_turns() {
        let mut shop = Shop::open();
        shop.send(Weight::Heavy, 100..103).await;
        shop.send(Weight::Light, 1..3).await;
        shop.send(Weight::Heavy, [103]).await;
        shop.send(Weight::Light, [3]).await;
        assert_eq!(shop.commit(), [1, 2, 3], "light ones pass heavy ones");
        shop.send(Weight::Light, [4]).await;
        assert_eq!(shop.commit(), [100], "alone, whoever has come meanwhile");
        assert_eq!(shop.commit(), [4]);
        for heavy in 101..104 {
            assert_eq!(shop.commit(), [heavy]);
        }
        assert_eq!(shop.commit(), [0; 0]);
        for (answer, said) in shop.answers.into_iter().zip([100, 101, 102, 1, 2, 103, 3, 4]) {
            assert_eq!(answer.await.expect("writes"), Ok(said));
        }
    }

    #[tokio::test]
    async fn a_light_job_waits_for_no_second_heavy_one_that_came_with_the_first() {
        let mut shop = Shop::open();
        shop.send(Weight::Light, [1]).await;
        assert_eq!(shop.commit(), [1]);
        shop.send(Weight::Heavy, [100, 101]).await;
        assert_eq!(shop.commit(), [100]);
        shop.send(Weight::Light, [2]).await;
        assert_eq!(shop.commit(), [2]);
    }

    #[tokio::test]
    async fn a_log_without_room_holds_up_heavy_jobs_alone() {
        let mut shop = Shop::open();
        shop.send(Weight::Heavy, [100]).await;
        assert!(shop.queue.first(false).is_none());
        shop.send(Weight::Light, [1, 2]).await;
        assert!((0..2).all(|_| shop.queue.first(false).is_some_and(|first| first.place.is_none())));
        assert!(shop.queue.first(false).is_none());
        assert!(shop.queue.first(true).is_some_and(|first| first.place.is_some()));
    }

    #[tokio::test]
    async fn only_so_many_heavy_jobs_wait() {
        let mut shop = Shop::open();
        shop.send(Weight::Heavy, 0..HEAVY as i64).await;
        let job = |_: &Connection| Ok::<_, Abort<()>>(());
        let one_more = shop.writer.write_as(Weight::Heavy, job, |()| {}).now_or_never();
        assert!(matches!(one_more, Some(Err(Error::Busy))));
        shop.send(Weight::Light, [1]).await;
        assert_eq!((shop.commit(), shop.commit()), (vec![1], vec![0]));
        shop.send(Weight::Heavy, [100]).await;
    }

    #[tokio::test]
    async fn work_of_the_process_itself_waits_for_a_place_which_nobody_else_gets_before_it() {
        let mut shop = Shop::open();
        shop.send(Weight::Heavy, 0..HEAVY as i64).await;
        shop.send(Weight::Background, [100]).await;
        assert_eq!(shop.commit(), [0]);
        let job = |_: &Connection| Ok::<_, Abort<()>>(());
        let caller = shop.writer.write_as(Weight::Heavy, job, |()| {}).now_or_never();
        assert!(matches!(caller, Some(Err(Error::Busy))), "the place is given away");
        assert!(futures_util::poll!(shop.answers[HEAVY].as_mut()).is_pending(), "and taken");
        for heavy in (1..HEAVY as i64).chain([100]) {
            assert_eq!(shop.commit(), [heavy]);
        }
    }

    #[tokio::test]
    async fn a_heavy_job_that_refuses_takes_nobody_elses_effect_back_and_runs_once() {
        let mut shop = Shop::open();
        let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (writer, counted) = (shop.writer.clone(), runs.clone());
        let job = move |connection: &Connection| {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            connection.execute("insert into t values (7)", [])?;
            Err::<(), _>(Abort::Refused("no"))
        };
        let mut refused = Box::pin(writer.write_as(Weight::Heavy, job, |()| {}));
        assert!(futures_util::poll!(refused.as_mut()).is_pending());
        shop.send(Weight::Light, [-1, 1]).await;
        assert_eq!((shop.commit(), shop.commit()), (vec![1], vec![]));
        assert_eq!(refused.await.expect("answers"), Err("no"));
        assert_eq!(runs.load(std::sync::atomic::Ordering::Relaxed), 1);
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
            let rescue = guard.watch();
            let (writer, end) = Writer::start_guarded(connection, guard, || {});
            assert_eq!(write(&writer, insert(1)).await.expect("writes"), Ok(1));
            harm(&path);
            // It notices by itself at the latest a second later.
            assert!(matches!(write(&writer, insert(2)).await, Err(Error::Stopped)), "{why}");
            let error = end.await.expect("tells").expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            rescue.wait();
            let files = std::fs::read_dir(dir.path()).expect("lists").flatten().map(|file| file.path());
            let kept = files.into_iter().find(|file| file.to_string_lossy().contains(".rescued-"));
            let kept = kept.expect("what it held is kept");
            assert!(!kept.to_string_lossy().ends_with(".writing"), "all of it");
            let kept = Connection::open(kept).expect("opens");
            let least: i64 = kept.query_row("select count(*) from t", [], |row| row.get(0)).expect("reads");
            assert!(least >= 1, "{why}");
        }
    }

    #[tokio::test]
    async fn the_log_stays_short_while_commits_follow_one_another() {
        const COMMITS: i64 = 1_500;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.db");
        let schema = Schema { application_id: 7, migrations: &["create table t (x integer primary key) strict"] };
        let (connection, _lock) = crate::sqlite::open(&path, schema).expect("opens");
        connection.pragma_update(None, "synchronous", "off").expect("is no test of a disk");
        let beside = open_beside(&System, &path).expect("opens");
        let lengths = Lengths { copied: 50, long: 100, most: 200, unless: 1_000 };
        let (writer, end) = Writer::start_on(connection, || Ok(Some(beside)), lengths, None, || {});
        for x in 0..COMMITS {
            let weight = if x % 2 == 0 { Weight::Light } else { Weight::Heavy };
            writer.write_as(weight, insert(x), |_| {}).await.expect("writes").expect("not refused");
        }
        // A commit writes a page or more, each with a header.
        let longest = std::fs::metadata(path.with_extension("db-wal")).expect("is there").len();
        assert!(longest < (200 + 10) * 4_120, "{longest}");
        assert_eq!(rows(&writer).await, COMMITS);
        drop(writer);
        assert!(end.await.expect("tells").is_ok());
    }

    #[tokio::test]
    async fn the_thread_ends_with_its_last_handle() {
        let (writer, end) = writer();
        assert_eq!(rows(&writer).await, 0);
        drop(writer);
        assert!(end.await.expect("tells").is_ok());
    }
}
