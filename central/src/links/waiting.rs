//! Requests that wait for a store's answer, and those who wait for the view to reach a position.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use protocol::planted::{Bug, planted};
use runtime::http::Wait;
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
    /// Looks at one purchase or command until it is as wanted or the wait is over; then what was seen last is returned.
    /// `wait` begins the wait once the first look was in vain; `None`: it shall not be waited.
    pub async fn until<T, E, L: Future<Output = Result<T, E>>>(
        &self,
        name: &str,
        wait: impl FnOnce() -> Option<Wait>,
        mut look: impl FnMut() -> L,
        wanted: impl Fn(&T) -> bool,
    ) -> Result<T, E> {
        let waiter = self.register(name);
        // Each listens before it looks, so that nothing is missed between the look and the wait.
        let mut settled = pin!(waiter.wake.notified());
        settled.as_mut().enable();
        let found = look().await?;
        if wanted(&found) {
            return Ok(found);
        }
        let Some(wait) = wait().filter(|_| !planted(Bug::NotWaitedFor)) else { return Ok(found) };
        loop {
            let in_time = tokio::select! {
                () = settled.as_mut() => true,
                () = wait.over() => false,
            };
            settled.set(waiter.wake.notified());
            settled.as_mut().enable();
            if planted(Bug::WaitingToldOfBefore) {
                return Ok(found);
            }
            let found = look().await?;
            if wanted(&found) || !in_time {
                return Ok(found);
            }
        }
    }

    fn register(&self, name: &str) -> Waiter {
        let mut names = self.names.lock();
        let entry = names.entry(name.to_owned()).or_insert_with(|| Entry { wake: Arc::new(Notify::new()), waiters: 0 });
        entry.waiters += 1;
        Waiter { waiting: self.clone(), name: name.to_owned(), wake: entry.wake.clone() }
    }

    /// These have been settled, and that is on disk.
    pub fn settled(&self, settled: &[String]) {
        let names = self.names.lock();
        for entry in settled.iter().filter(|_| !planted(Bug::WaitingNotTold)).filter_map(|name| names.get(name)) {
            entry.wake.notify_waiters();
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
struct Waiter {
    waiting: Waiting,
    name: String,
    wake: Arc<Notify>,
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    fn wait(ms: u64) -> impl FnOnce() -> Option<Wait> {
        move || Some(Wait::free(Duration::from_millis(ms)))
    }

    #[tokio::test]
    async fn all_who_wait_hear_of_it_even_between_look_and_wait() {
        let waiting = Waiting::default();
        let started = Instant::now();
        let one = || {
            let looks = Cell::new(0);
            let waiting = &waiting;
            async move {
                let look = || {
                    looks.set(looks.get() + 1);
                    // It is settled while each of the two looks for the first time.
                    waiting.settled(&["p".to_owned()]);
                    std::future::ready(Ok::<_, Infallible>(looks.get()))
                };
                waiting.until("p", wait(30_000), look, |looks| *looks == 2).await
            }
        };
        let (a, b) = tokio::join!(one(), one());
        assert_eq!((a, b), (Ok(2), Ok(2)));
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(waiting.names.lock().is_empty());
    }

    #[tokio::test]
    async fn after_the_time_out_there_is_a_last_look() {
        let waiting = Waiting::default();
        let looks = Cell::new(0);
        let look = || std::future::ready(Ok::<_, Infallible>(looks.replace(looks.get() + 1)));
        assert_eq!(waiting.until("p", wait(20), look, |_| false).await, Ok(1));
        assert_eq!(waiting.until("p", || None, look, |_| false).await, Ok(2), "without a wait one look is all");
    }
}
