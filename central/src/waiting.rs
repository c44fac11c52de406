//! Requests that wait for a store's answer, and those who wait for the view to reach a position.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// Who waits for what. Cheap to clone.
#[derive(Clone)]
pub struct Waiting {
    names: Arc<Mutex<HashMap<String, Entry>>>,
    applied: watch::Sender<u64>,
}

struct Entry {
    wake: Arc<Notify>,
    waiters: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { names: Arc::default(), applied: watch::Sender::new(0) }
    }
}

impl Waiting {
    /// Waits for one purchase or command. Register before looking at the database, so that nothing is missed between
    /// the look and the wait.
    pub fn register(&self, name: &str) -> Waiter {
        let mut names = self.names.lock();
        let entry = names.entry(name.to_owned()).or_insert_with(|| Entry { wake: Arc::new(Notify::new()), waiters: 0 });
        entry.waiters += 1;
        Waiter { waiting: self.clone(), name: name.to_owned(), wake: entry.wake.clone() }
    }

    /// These have been settled, and that is on disk.
    pub fn settled(&self, settled: &[String]) {
        let names = self.names.lock();
        for entry in settled.iter().filter_map(|name| names.get(name)) {
            entry.wake.notify_waiters();
            entry.wake.notify_one();
        }
    }

    /// The view has moved on.
    pub fn applied(&self) {
        self.applied.send_modify(|count| *count += 1);
    }

    /// Changes each time the view has moved on.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }
}

/// One who waits.
pub struct Waiter {
    waiting: Waiting,
    name: String,
    wake: Arc<Notify>,
}

impl Waiter {
    /// Resolves once it may have been settled since the last look.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut names = self.waiting.names.lock();
        if let Some(entry) = names.get_mut(&self.name) {
            entry.waiters -= 1;
            if entry.waiters == 0 {
                names.remove(&self.name);
            }
        }
    }
}
