//! Copies of a database: consistent, compact, and on disk when they are said to be.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::open::beside;
use crate::time::Millis;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A copy never overwrites anything.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// The name cannot be given to SQLite.
    #[error("{0} is not a name in UTF-8")]
    Name(PathBuf),
    /// The file system.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// SQLite.
    #[error("cannot write {path}: {error}")]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        error: rusqlite::Error,
    },
}

/// Writes a copy of one moment's state, also while another process writes to the database.
pub fn copy(connection: &Connection, to: &Path) -> Result<(), CopyError> {
    if to.exists() {
        return Err(CopyError::Exists(to.into()));
    }
    let name = to.to_str().ok_or_else(|| CopyError::Name(to.into()))?;
    connection.execute("vacuum into ?1", [name]).map_err(|error| CopyError::Sqlite { path: to.into(), error })?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for path in [to, directory] {
        std::fs::File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(|error| CopyError::Io { path: path.into(), error })?;
    }
    Ok(())
}

/// Keeps a database as it is under a name beside it, before something is done that cannot be taken back.
pub fn copy_aside(connection: &Connection, path: &Path, now: Millis) -> Result<PathBuf, CopyError> {
    let kept = aside(path, now);
    copy(connection, &kept)?;
    Ok(kept)
}

/// Moves a database out of the way, damaged or not, with all that SQLite keeps beside it. The caller holds its lock.
pub fn move_aside(path: &Path, now: Millis) -> Result<PathBuf, CopyError> {
    let kept = aside(path, now);
    for suffix in ["-wal", "-shm", ""] {
        let from = beside(path, suffix);
        match std::fs::rename(&from, beside(&kept, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CopyError::Io { path: from, error });
            }
            _ => {}
        }
    }
    Ok(kept)
}

fn aside(path: &Path, now: Millis) -> PathBuf {
    beside(path, &format!(".before-restore-{}", now.0))
}
