//! The write-ahead log, which is copied into the database beside the commits.
//!
//! **Guarantees.** While commits follow one another the log stays below a fixed length, unless somebody reads an old state.
//! The writer knows that a copying has failed before anything can overwrite what it was to copy.
//!
//! A thread with a connection of its own copies what has been committed, while more is. It never catches up with a writer
//! who is busy, and only a log that was copied to its end and synced starts over. So the writer copies the last pages, once
//! they are few. They take turns: while the one copies the other does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ffi};

use super::open::{CHECKPOINT_AT, checkpoint};

/// Pages that are not worth another round beside the commits: some milliseconds of work.
const FEW: u32 = 512;

/// How long the log becomes, in pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    /// Then it is copied.
    pub(super) copied: u32,
    /// Then nothing more is committed until it was.
    pub(super) most: u32,
}

impl Lengths {
    /// At most 48 MiB, and what one commit adds: some more.
    pub(super) const USUAL: Self = Self { copied: CHECKPOINT_AT, most: 12_000 };
}

/// The log of the database that a writer has open.
pub(super) struct Log {
    /// In it after the last commit that has written something.
    pages: Arc<AtomicU32>,
    lengths: Lengths,
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
        Ok(Self { pages, lengths, beside: beside.map(Beside::start) })
    }

    /// What is to be done between commits. If it fails nothing may be written any more: what was copied before and not
    /// synced would be taken for done, and the log be overwritten. The next process starts from the log.
    pub(super) fn look_after(&mut self, writer: &Connection) -> rusqlite::Result<()> {
        let pages = self.pages.load(Ordering::Relaxed);
        let (is_long, is_too_long) = (pages >= self.lengths.copied, pages >= self.lengths.most);
        if let Some(beside) = &mut self.beside {
            if is_long {
                beside.begin();
            }
            match beside.copied(is_too_long)? {
                None => return Ok(()),
                Some(copied) if pages.saturating_sub(copied) > FEW && !is_too_long => return Ok(()),
                Some(_) => {}
            }
        }
        if is_long {
            // Once for each commit that has left it long: a reader may keep it from being copied.
            self.pages.store(0, Ordering::Relaxed);
            checkpoint(writer)?;
        }
        Ok(())
    }

    /// Ends what is beside.
    pub(super) fn end(self) -> rusqlite::Result<()> {
        self.beside.map_or(Ok(()), Beside::end)
    }
}

/// The thread that copies while others commit.
struct Beside {
    begin: Sender<()>,
    copied: Receiver<rusqlite::Result<u32>>,
    is_copying: bool,
    thread: JoinHandle<()>,
}

impl Beside {
    fn start(connection: Connection) -> Self {
        let (begin, begun) = channel();
        let (tell, copied) = channel();
        let thread = std::thread::Builder::new()
            .name("checkpoints".into())
            .spawn(move || {
                for () in begun {
                    if tell.send(checkpoint(&connection)).is_err() {
                        break;
                    }
                }
            })
            .expect("the system gives a thread at start");
        Self { begin, copied, is_copying: false, thread }
    }

    /// Copies the log as it is now, unless it is being copied.
    fn begin(&mut self) {
        if !self.is_copying {
            // If it has ended, which nothing but a panic makes it do, the next look at it says so.
            self.is_copying = self.begin.send(()).is_ok();
        }
    }

    /// So many pages of the log are in the database, once a copying has come to its end; `waits`: for that.
    fn copied(&mut self, waits: bool) -> rusqlite::Result<Option<u32>> {
        if !self.is_copying {
            return Ok(None);
        }
        let copied = match self.copied.try_recv() {
            Err(TryRecvError::Empty) if !waits => return Ok(None),
            Err(TryRecvError::Empty) => self.copied.recv().unwrap_or_else(|_| Err(panicked())),
            Err(TryRecvError::Disconnected) => Err(panicked()),
            Ok(copied) => copied,
        };
        self.is_copying = false;
        copied.map(Some)
    }

    fn end(self) -> rusqlite::Result<()> {
        drop(self.begin);
        let ended = self.thread.join().map_err(|_| panicked());
        let copied = self.copied.try_iter().try_for_each(|copied| copied.map(drop));
        ended.and(copied)
    }
}

fn panicked() -> rusqlite::Error {
    let why = "the thread that copies the log has panicked".to_owned();
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERNAL), Some(why))
}
