//! What is done to a database's files beside SQLite.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that are written over a file at once.
const PIECE: usize = 1 << 20;

/// A file system that databases lie on: the system's own ([`System`]), or a disk of a test, which fails when it is told to.
pub trait Files {
    /// SQLite's name of it (its VFS); none: the system's own.
    fn vfs(&self) -> Option<&str>;

    /// Bytes of a file; none: there is no such file.
    fn length(&self, path: &Path) -> io::Result<Option<u64>>;

    /// All that a file holds.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Writes over a file what it holds, and waits until that is on disk.
    fn rewrite(&self, path: &Path) -> io::Result<()>;

    /// Gives a file a second name; a copy where the file system knows no such thing.
    fn keep(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file away.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name, and takes that from whichever file has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Waits until a file or a folder is on disk.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// What is in a folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The operating system's.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Files for System {
    fn vfs(&self) -> Option<&str> {
        None
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        match std::fs::metadata(path) {
            Ok(file) => Ok(Some(file.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn rewrite(&self, path: &Path) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(path)?;
        let (mut piece, mut at) = (vec![0; PIECE], 0);
        loop {
            let read = file.read_at(&mut piece, at)?;
            if read == 0 {
                return file.sync_all();
            }
            file.write_all_at(&piece[..read], at)?;
            at += read as u64;
        }
    }

    fn keep(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to).or_else(|_| {
            std::fs::copy(from, to)?;
            self.sync(to)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|file| Ok(file?.path())).collect()
    }
}
