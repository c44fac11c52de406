//! The write-ahead log, which is copied into the database beside the commits.
//!
//! **Guarantees.** While commits follow one another the log stays below a fixed length, unless somebody reads an old state.
//! What has gathered behind such a reader is copied beside the commits like the rest, however long that takes.
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
    /// Unless so many are left to copy: they have gathered behind a reader, and to wait for them would take as long as they are many.
    pub(super) unless: u32,
}

impl Lengths {
    /// At most 48 MiB, and what one commit adds: some more.
    pub(super) const USUAL: Self = Self { copied: CHECKPOINT_AT, most: 12_000, unless: 12_000 };
}

/// The log of the database that a writer has open.
pub(super) struct Log {
    /// In it after the last commit that has written something.
    pages: Arc<AtomicU32>,
    lengths: Lengths,
    /// Of these, in the database as far as is known.
    copied: u32,
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
        Ok(Self { pages, lengths, copied: 0, beside: beside.map(Beside::start) })
    }

    /// What is to be done between commits. If it fails nothing may be written any more: what was copied before and not
    /// synced would be taken for done, and the log be overwritten. The next process starts from the log.
    pub(super) fn look_after(&mut self, writer: &Connection) -> rusqlite::Result<()> {
        let pages = self.pages.load(Ordering::Relaxed);
        let (is_long, is_too_long) = (pages >= self.lengths.copied, pages >= self.lengths.most);
        if let Some(beside) = &mut self.beside {
            if is_long {
                beside.begin(pages.saturating_sub(self.copied));
            }
            match beside.copied(is_too_long, self.lengths.unless)? {
                None => return Ok(()),
                // A log that is shorter than that has begun anew.
                Some(copied) => self.copied = if copied > pages { 0 } else { copied },
            }
            let left = pages - self.copied;
            if left > FEW && !(is_too_long && left < self.lengths.unless) {
                return Ok(());
            }
        }
        if is_long {
            // Once for each commit that has left it long: a reader may keep it from being copied.
            self.pages.store(0, Ordering::Relaxed);
            self.copied = 0;
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
    /// The pages that it copies now, at most.
    copying: Option<u32>,
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
        Self { begin, copied, copying: None, thread }
    }

    /// Copies the log as it is now, `pages` at most, unless it is being copied.
    fn begin(&mut self, pages: u32) {
        if self.copying.is_none() {
            // If it has ended, which nothing but a panic makes it do, the next look at it says so.
            self.copying = self.begin.send(()).is_ok().then_some(pages);
        }
    }

    /// So many pages of the log are in the database, once a copying has come to its end; `waits`: for that, unless it is
    /// of so many.
    fn copied(&mut self, waits: bool, unless: u32) -> rusqlite::Result<Option<u32>> {
        let Some(pages) = self.copying else { return Ok(None) };
        let waits = waits && pages < unless;
        let copied = match self.copied.try_recv() {
            Err(TryRecvError::Empty) if !waits => return Ok(None),
            Err(TryRecvError::Empty) => self.copied.recv().unwrap_or_else(|_| Err(panicked())),
            Err(TryRecvError::Disconnected) => Err(panicked()),
            Ok(copied) => copied,
        };
        self.copying = None;
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn nobody_waits_for_what_has_gathered_behind_a_reader() {
        let (open, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let mut connection = Connection::open_in_memory().expect("opens");
        let closed = move || gate.lock().expect("is held by nobody else").recv().is_ok();
        connection.progress_handler(1, Some(closed)).expect("is called for each step of a statement");
        let mut beside = Beside::start(connection);
        beside.begin(200);
        assert!(matches!(beside.copied(true, 200), Ok(None)));
        drop(open);
        assert!(matches!(beside.copied(true, 201), Ok(Some(_))));
        beside.end().expect("ends");
    }
}
