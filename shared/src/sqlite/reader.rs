//! Reading beside the writer: each thread keeps a read-only connection of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use super::read_only;

thread_local! {
    static CONNECTIONS: RefCell<HashMap<u64, Connection>> = RefCell::new(HashMap::new());
}

/// A database to read from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    path: Arc<PathBuf>,
    id: u64,
}

impl Reader {
    /// Reads the database at `path`, which must exist.
    pub fn new(path: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { path: Arc::new(path.to_owned()), id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// Runs a short read on the calling thread: for point reads, where a hop to another thread would cost more than
    /// the read. What was committed before is seen. Does not nest.
    pub fn point<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        CONNECTIONS.with_borrow_mut(|connections| {
            let connection = match connections.entry(self.id) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => entry.insert(read_only(&self.path)?),
            };
            read(connection)
        })
    }

    /// Runs a read that may take long on a thread for blocking work, in one transaction: one consistent state.
    pub async fn scan<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let reader = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            reader.point(|connection| {
                let transaction = connection.unchecked_transaction()?;
                let result = read(&transaction)?;
                transaction.finish()?;
                Ok(result)
            })
        });
        match task.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
