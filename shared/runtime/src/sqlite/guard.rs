//! Whether the files at a database's path are still those that were opened.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, ffi};

use super::System;
use super::open::beside;

/// A database's files as they were opened. A file that is deleted or replaced stays open, and SQLite goes on writing to
/// it: what was committed there would be gone with the process.
#[derive(Debug)]
pub struct Guard {
    path: PathBuf,
    files: Vec<(PathBuf, u64, u64)>,
    rescue: Rescue,
}

/// What open files hold that are no longer at their place, while it is written beside them: as long as they are large.
#[derive(Debug, Clone, Default)]
pub struct Rescue(Arc<Mutex<()>>);

impl Rescue {
    /// Waits until it is written; not at all if nothing is being written. A process ends behind this.
    pub fn wait(&self) {
        drop(self.0.lock());
    }
}

impl Guard {
    /// Remembers the files of an open database: itself and what SQLite keeps beside it.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let files = ["", "-wal", "-shm"].map(|suffix| beside(path, suffix)).into_iter();
        let files = files.map(|file| identity(&file).map(|(device, inode)| (file, device, inode)));
        Ok(Self { path: path.into(), files: files.collect::<std::io::Result<_>>()?, rescue: Rescue::default() })
    }

    /// The database.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the end of the process has to wait for.
    pub fn watch(&self) -> Rescue {
        self.rescue.clone()
    }

    /// From now on until it is dropped whoever [waits](Rescue::wait) does.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        self.rescue.0.lock()
    }

    /// An error that ends the process if one of them is no longer at its place.
    pub(super) fn check(&self) -> rusqlite::Result<()> {
        for (file, device, inode) in &self.files {
            let why = match identity(file) {
                Ok(found) if found == (*device, *inode) => continue,
                Ok(_) => "was replaced by another file while it was in use".to_owned(),
                Err(error) => format!("is no longer there: {error}"),
            };
            let moved = ffi::Error::new(ffi::SQLITE_READONLY_DBMOVED);
            return Err(rusqlite::Error::SqliteFailure(moved, Some(format!("{} {why}", file.display()))));
        }
        Ok(())
    }

    /// Writes what the open files hold under a name beside them: nobody can reach it otherwise once the process ends.
    pub(super) fn rescue(&self, connection: &Connection) {
        let kept = beside(&self.path, &format!(".rescued-{}", crate::clock::now().0));
        match super::copy(&System, connection, &kept) {
            Ok(()) => tracing::error!("what the open database held is kept in {}", kept.display()),
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!("what the open database held cannot be kept: {error:#}");
            }
        }
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}
