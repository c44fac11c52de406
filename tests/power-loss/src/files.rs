//! A [`Disk`](crate::Disk) as what is done beside SQLite sees it.

use std::io;
use std::path::{Path, PathBuf};

use runtime::sqlite::Files;

use crate::Mount;
use crate::disk::Failed;

impl Files for Mount {
    fn vfs(&self) -> Option<&str> {
        Some(self.name())
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        match self.read(path) {
            Ok(content) => Ok(Some(content.len() as u64)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.disk().content(name(path))?)
    }

    fn rewrite(&self, path: &Path) -> io::Result<()> {
        if self.leaves_logs() { Ok(()) } else { Ok(self.disk().rewrite(name(path))?) }
    }

    fn keep(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(self.disk().link(name(from), name(to))?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.disk().delete(name(path), false)? {
            true => Ok(()),
            false => Err(Failed::Missing.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(self.disk().rename(name(from), name(to))?)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        match self.disk().sync(name(path)) {
            // No file: the folder.
            Err(Failed::Missing) => Ok(self.disk().sync_directory()?),
            result => Ok(result?),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let names = self.disk().list()?.into_iter().map(PathBuf::from);
        Ok(names.filter(|name| name.parent() == Some(folder)).collect())
    }
}

fn name(path: &Path) -> &str {
    path.to_str().expect("the tests' names are UTF-8")
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Broken => Self::other("the disk has failed"),
            Failed::Full => Self::from(io::ErrorKind::StorageFull),
            Failed::Missing => Self::from(io::ErrorKind::NotFound),
        }
    }
}
