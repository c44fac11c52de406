//! The write-ahead log, which is copied into the database beside the commits.
//!
//! **Guarantees.** While commits follow one another the log stays below a fixed length, unless somebody reads an old state.
//! What has gathered behind such a reader is copied beside the commits like the rest, however long that takes.
//! The writer copies some milliseconds' work at most, whatever the log holds.
//! The writer knows that a copying has failed before anything can overwrite what it was to copy.
//!
//! A thread with a connection of its own copies what has been committed, while more is. It never catches up with a writer
//! who is busy, and only a log that was copied to its end and synced starts over. So the writer copies the last pages, once
//! they are few. SQLite leaves the sync of all of them to whoever copies the last; so the thread syncs what it has copied, too,
//! and the writer has those few to sync. They take turns: while the one copies the other does not. A log that becomes long all the same is first
//! spared the jobs that write much, and only then all.

use std::fs::File;
use std::io::ErrorKind;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ffi};

use super::open::{CHECKPOINT_AT, checkpoint};

/// Pages that are not worth another round beside the commits: some milliseconds of work. A commit of 64 sales leaves fewer.
const FEW: u32 = 256;

/// How long the log becomes, in pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    /// Then it is copied.
    pub(super) copied: u32,
    /// Then no heavy job runs until it was.
    pub(super) long: u32,
    /// Then nothing more is committed until it was.
    pub(super) most: u32,
    /// Unless so many are left to copy: they have gathered behind a reader, and to wait for them would take as long as they are many.
    pub(super) unless: u32,
}

impl Lengths {
    /// At most 48 MiB, and what one commit adds: some more.
    pub(super) const USUAL: Self = Self { copied: CHECKPOINT_AT, long: 8_000, most: 12_000, unless: 12_000 };
}

/// The log of the database that a writer has open.
pub(super) struct Log {
    /// In it after the last commit that has written something.
    pages: Arc<AtomicU32>,
    lengths: Lengths,
    /// Of these, in the database as far as is known.
    copied: u32,
    /// A reader of an old state has kept the last copying from the rest.
    is_held: bool,
    beside: Option<Beside>,
}

impl Log {
    /// From now on it is this thread that looks after the log. `beside`: another connection to the same database; without
    /// one all of it is copied here.
    pub(super) fn of(writer: &mut Connection, beside: Option<Connection>, lengths: Lengths) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicU32::new(0));
        let noted = pages.clone();
        writer.wal_hook(Some(move |_: &mut Wal, written: i32| {
            noted.store(written.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        }))?;
        let beside = beside.map(Beside::start).transpose()?;
        Ok(Self { pages, lengths, copied: 0, is_held: false, beside })
    }

    /// What is to be done between commits. If it fails nothing may be written any more: what was copied before and not
    /// synced would be taken for done, and the log be overwritten. The next process starts from the log.
    pub(super) fn look_after(&mut self, writer: &Connection) -> rusqlite::Result<()> {
        let pages = self.pages.load(Ordering::Relaxed);
        let Lengths { copied, most, unless, .. } = self.lengths;
        let is_long = pages >= copied;
        if let Some(beside) = &mut self.beside {
            loop {
                if is_long {
                    beside.begin(Round { upto: pages, left: pages.saturating_sub(self.copied) });
                }
                let Some((round, copied)) = beside.copied(pages >= most, unless)? else { return Ok(()) };
                self.is_held = copied < round.upto;
                // A log that is shorter than that has begun anew.
                self.copied = if copied > pages { 0 } else { copied };
                if pages - self.copied <= FEW {
                    break;
                }
                if !is_long || self.is_held {
                    return Ok(());
                }
            }
        }
        if is_long {
            // Once for each commit that has left it long: a reader may keep it from being copied.
            self.pages.store(0, Ordering::Relaxed);
            (self.copied, self.is_held) = (0, false);
            checkpoint(writer)?;
        }
        Ok(())
    }

    /// Whether a heavy job may run. No reader keeps one from it, and no copying that takes long because of one.
    pub(super) fn has_room(&self) -> bool {
        let copying = self.beside.as_ref().and_then(|beside| beside.copying);
        let is_short = self.pages.load(Ordering::Relaxed) < self.lengths.long;
        is_short || self.is_held || copying.is_none_or(|round| round.left >= self.lengths.unless)
    }

    /// Ends what is beside.
    pub(super) fn end(self) -> rusqlite::Result<()> {
        self.beside.map_or(Ok(()), Beside::end)
    }
}

/// What is copied beside the commits.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// The length of the log when it began.
    upto: u32,
    /// Pages that were left to copy of it, at most.
    left: u32,
}

/// The thread that copies while others commit.
struct Beside {
    begin: Sender<()>,
    copied: Receiver<rusqlite::Result<u32>>,
    /// What it copies now.
    copying: Option<Round>,
    thread: JoinHandle<()>,
}

impl Beside {
    fn start(connection: Connection) -> rusqlite::Result<Self> {
        // Opened now: nothing fails later for want of a descriptor. Never closed: whatever handle of a file a process closes, it
        // loses the locks that SQLite has on it.
        let database = ManuallyDrop::new(file(&connection).map_err(unsynced)?);
        let (begin, begun) = channel();
        let (tell, copied) = channel();
        let thread = std::thread::Builder::new()
            .name("checkpoints".into())
            .spawn(move || {
                for () in begun {
                    let copied = checkpoint(&connection).and_then(|pages| sync(database.as_ref()).map(|()| pages));
                    if tell.send(copied).is_err() {
                        break;
                    }
                }
            })
            .expect("the system gives a thread at start");
        Ok(Self { begin, copied, copying: None, thread })
    }

    /// Copies the log as it is now, unless it is being copied.
    fn begin(&mut self, round: Round) {
        if self.copying.is_none() {
            // If it has ended, which nothing but a panic makes it do, the next look at it says so.
            self.copying = self.begin.send(()).is_ok().then_some(round);
        }
    }

    /// What was to be copied, and how many pages of the log are in the database now, once a copying has come to its end;
    /// `waits`: for that, unless it is of so many.
    fn copied(&mut self, waits: bool, unless: u32) -> rusqlite::Result<Option<(Round, u32)>> {
        let Some(round) = self.copying else { return Ok(None) };
        let waits = waits && round.left < unless;
        let copied = match self.copied.try_recv() {
            Err(TryRecvError::Empty) if !waits => return Ok(None),
            Err(TryRecvError::Empty) => self.copied.recv().unwrap_or_else(|_| Err(panicked())),
            Err(TryRecvError::Disconnected) => Err(panicked()),
            Ok(copied) => copied,
        };
        self.copying = None;
        copied.map(|copied| Some((round, copied)))
    }

    fn end(self) -> rusqlite::Result<()> {
        drop(self.begin);
        let ended = self.thread.join().map_err(|_| panicked());
        let copied = self.copied.try_iter().try_for_each(|copied| copied.map(drop));
        ended.and(copied)
    }
}

/// The database, if the system has it: not one in memory, nor a test's on a disk of its own.
fn file(database: &Connection) -> std::io::Result<Option<File>> {
    match database.path().filter(|path| !path.is_empty()).map(File::open) {
        None => Ok(None),
        Some(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Some(opened) => opened.map(Some),
    }
}

/// Brings to disk what was copied. What a sync has failed to write no later one finds.
fn sync(database: Option<&File>) -> rusqlite::Result<()> {
    database.map_or(Ok(()), File::sync_data).map_err(unsynced)
}

fn unsynced(error: std::io::Error) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), Some(error.to_string()))
}

fn panicked() -> rusqlite::Error {
    let why = "the thread that copies the log has panicked".to_owned();
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERNAL), Some(why))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn what_a_reader_has_kept_for_a_moment_does_not_make_the_next_log_longer() {
        let mut told = Told::new();
        told.look(4_000, &[]);
        assert_eq!(told.look(4_100, &[3_999]), (0, true), "few are left, and the log begins anew");
        assert_eq!((told.look(9_000, &[]), told.log.has_room()), ((1, false), false));
        assert_eq!(told.look(12_000, &[9_000, 12_000]), (1, true), "all wait for the copying");
    }

    #[test]
    fn nobody_waits_for_what_has_gathered_behind_a_reader() {
        let (open, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let mut connection = Connection::open_in_memory().expect("opens");
        let closed = move || gate.lock().expect("is held by nobody else").recv().is_ok();
        connection.progress_handler(1, Some(closed)).expect("is called for each step of a statement");
        let mut beside = Beside::start(connection).expect("starts");
        beside.begin(Round { upto: 200, left: 200 });
        assert!(matches!(beside.copied(true, 200), Ok(None)));
        drop(open);
        assert!(matches!(beside.copied(true, 201), Ok(Some(_))));
        beside.end().expect("ends");
    }

    #[test]
    fn a_sync_that_fails_is_a_copying_that_has_failed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).expect("opens");
        assert!(matches!(file(&connection), Ok(Some(_))));
        std::fs::remove_file(&path).expect("deletes");
        assert!(matches!(file(&connection), Ok(None)));
        assert!(matches!(file(&Connection::open_in_memory().expect("opens")), Ok(None)));
        // What is no file of a disk cannot be synced.
        let none = File::open("/dev/null").expect("opens");
        assert!(sync(Some(&none)).is_err());
        assert!(sync(None).is_ok());
    }

    /// A log without a file, and who says in the other thread's place what it has begun and copied.
    struct Told {
        connection: Connection,
        log: Log,
        begun: Receiver<()>,
        tell: Sender<rusqlite::Result<u32>>,
    }

    impl Told {
        fn new() -> Self {
            let mut connection = Connection::open_in_memory().expect("opens");
            let mut log = Log::of(&mut connection, None, Lengths::USUAL).expect("looks after it");
            let (begin, begun) = channel();
            let (tell, copied) = channel();
            log.beside = Some(Beside { begin, copied, copying: None, thread: std::thread::spawn(|| {}) });
            Self { connection, log, begun, tell }
        }

        /// Behind a commit that has left so many pages: how many copyings begin, and whether the writer copies the rest.
        fn look(&mut self, pages: u32, copied: &[u32]) -> (usize, bool) {
            self.log.pages.store(pages, Ordering::Relaxed);
            copied.iter().for_each(|copied| self.tell.send(Ok(*copied)).expect("is heard"));
            self.log.look_after(&self.connection).expect("looks");
            (self.begun.try_iter().count(), self.log.pages.load(Ordering::Relaxed) == 0)
        }
    }

    #[test]
    fn the_writer_copies_what_is_few_and_never_more() {
        let mut told = Told::new();
        assert_eq!(told.look(3_999, &[]), (0, false));
        assert_eq!(told.look(4_000, &[]), (1, false));
        assert_eq!(told.look(5_000, &[]), (0, false), "one at a time");
        assert_eq!(told.look(5_000, &[4_000]), (1, false), "the rest is copied beside, too");
        assert_eq!(told.look(5_000 + FEW, &[5_000]), (0, true));
        // It is too long, and all wait, for what has begun and for the rest.
        assert_eq!(told.look(8_000, &[]), (1, false));
        assert_eq!(told.look(12_000, &[8_000, 12_000]), (1, true));
    }

    #[test]
    fn a_long_log_has_no_room_for_heavy_jobs_until_it_was_copied() {
        let mut told = Told::new();
        assert_eq!((told.look(7_999, &[]), told.log.has_room()), ((1, false), true));
        assert_eq!((told.look(9_000, &[]), told.log.has_room()), ((0, false), false));
        assert_eq!((told.look(9_000, &[7_999]), told.log.has_room()), ((1, false), false), "too much is left");
        assert_eq!((told.look(9_100, &[9_000]), told.log.has_room()), ((0, true), true));
    }

    #[test]
    fn nobody_waits_for_what_a_reader_keeps_from_being_copied() {
        let mut told = Told::new();
        told.look(9_000, &[]);
        assert!(!told.log.has_room());
        assert_eq!((told.look(9_000, &[100]), told.log.has_room()), ((0, false), true));
        assert_eq!((told.look(13_000, &[]), told.log.has_room()), ((1, false), true));
        // The reader has gone.
        assert_eq!((told.look(14_000, &[13_000, 14_000]), told.log.has_room()), ((1, true), true));
    }
}
