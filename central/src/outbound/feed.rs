//! The chain's events as they come, read from the ledger once for all who follow them.
//!
//! **Guarantees.** Whoever follows from a place gets every event behind it once and in the chain's order: the newest from
//! memory, and all others from the ledger, so that nobody who is slow costs anything but his own reads. What is in memory
//! is bounded. Whoever reads old pages keeps nobody from what is new.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::outbound::event::EventView;
use crate::storage::queries::events::{self, Filter, Start};
use crate::storage::{Connection, Db, Error};

/// Newest events in memory.
const NEWEST: usize = 1_024;
/// Events read at once.
const PAGE: usize = 256;
/// How often is looked even when nobody says that there is something.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// When too much is read at once.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// An event as everybody gets it.
#[derive(Debug)]
pub struct Rendered {
    pub event: EventView,
    pub json: String,
}

/// A part of the chain.
#[derive(Debug)]
pub struct Part {
    pub events: Vec<Arc<Rendered>>,
    /// It reaches up to here.
    pub to: i64,
}

/// The newest events: all behind `from`, up to the last. Nobody follows: none.
#[derive(Debug)]
struct Newest {
    from: i64,
    events: VecDeque<Arc<Rendered>>,
}

impl Newest {
    fn none() -> Self {
        Self::to_come(i64::MAX)
    }

    /// All that come behind this place.
    fn to_come(from: i64) -> Self {
        Self { from, events: VecDeque::new() }
    }

    fn is_kept(&self) -> bool {
        self.from < i64::MAX
    }

    fn add(&mut self, part: &Part) {
        self.events.extend(part.events.iter().cloned());
        while self.events.len() > NEWEST {
            self.from = self.events.pop_front().map_or(self.from, |event| event.event.chain_seq());
        }
    }

    /// What lies behind a place, if all of it is here.
    fn behind(&self, place: i64) -> Option<Part> {
        if place < self.from {
            return None;
        }
        let first = self.events.partition_point(|event| event.event.chain_seq() <= place);
        let events: Vec<_> = self.events.range(first..).take(PAGE).cloned().collect();
        Some(Part { to: events.last().map_or(place, |event| event.event.chain_seq()), events })
    }
}

/// The events of the chain, to follow. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    /// Reads what is new, once for all.
    db: Db,
    /// Reads what is no longer in memory, for one of them.
    past: Db,
    head: watch::Sender<i64>,
    newest: Arc<Mutex<Newest>>,
    followers: Arc<AtomicUsize>,
    /// Rings when somebody begins to follow.
    followed: Arc<Notify>,
    stop: CancellationToken,
}

impl Feed {
    /// Of this ledger; it ends when told to stop. `past`: the same one, with places of its own for who has to catch up.
    pub fn new(db: Db, past: Db, stop: CancellationToken) -> Self {
        let newest = Arc::new(Mutex::new(Newest::none()));
        let (followers, followed) = (Arc::default(), Arc::default());
        Self { db, past, head: watch::Sender::new(0), newest, followers, followed, stop }
    }

    /// Looks for what is new whenever the view has moved on, while anybody follows; an error of the database ends it.
    pub async fn run(self, mut applied: watch::Receiver<u64>) -> anyhow::Result<()> {
        loop {
            // It hears before it looks, so that nothing is missed between the look and the wait.
            applied.borrow_and_update();
            let is_followed = self.is_followed();
            if is_followed {
                tokio::select! {
                    () = self.stop.cancelled() => return Ok(()),
                    moved = self.poll() => moved?,
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = self.followed.notified() => {}
                _ = applied.changed(), if is_followed => {}
                () = tokio::time::sleep(POLL_EVERY), if is_followed => {}
            }
        }
    }

    /// Whether anybody follows, for whom the newest events are kept.
    fn is_followed(&self) -> bool {
        let mut newest = self.newest.lock();
        if self.followers.load(Ordering::SeqCst) == 0 {
            *newest = Newest::none();
        }
        newest.is_kept()
    }

    /// From here on the newest events are kept, if they are not yet. All others are read from the ledger.
    fn keep_behind(&self, place: i64) {
        let mut newest = self.newest.lock();
        if !newest.is_kept() {
            *newest = Newest::to_come(place);
            self.head.send_replace(place);
            self.followed.notify_one();
        }
    }

    /// Takes what is new into memory, and says that there is something.
    async fn poll(&self) -> anyhow::Result<()> {
        let head = self.db.read(events::last_place).await?;
        let mut from = *self.head.borrow();
        while from < head {
            let part = read_ledger(&self.db, from).await?;
            from = part.to;
            self.newest.lock().add(&part);
            self.head.send_replace(from);
        }
        Ok(())
    }

    /// Follows the chain from behind a place; `None`: from now on.
    pub async fn follow(&self, after: Option<i64>) -> Result<Follower, Error> {
        self.followers.fetch_add(1, Ordering::SeqCst);
        let mut follower = Follower { feed: self.clone(), head: self.head.subscribe(), place: 0 };
        let last = self.db.read(events::last_place).await?;
        self.keep_behind(last);
        follower.place = after.unwrap_or(last);
        Ok(follower)
    }
}

impl From<EventView> for Rendered {
    fn from(event: EventView) -> Self {
        let json = serde_json::to_string(&event).expect("an event serialises");
        Self { event, json }
    }
}

async fn read_ledger(db: &Db, after: i64) -> Result<Part, Error> {
    loop {
        let job =
            move |connection: &Connection| events::list(connection, &Filter::default(), Start::Behind(after), PAGE);
        let read = match db.scan(job).await {
            // Many have to catch up: one after the other.
            Err(Error::Busy) => {
                tokio::time::sleep(BUSY_PAUSE).await;
                continue;
            }
            read => read?,
        };
        let to = read.next.unwrap_or(after);
        let events = read.events.into_iter().map(|recorded| Arc::new(Rendered::from(EventView::from(recorded))));
        return Ok(Part { events: events.collect(), to });
    }
}

/// One who follows the chain.
pub struct Follower {
    feed: Feed,
    head: watch::Receiver<i64>,
    place: i64,
}

impl Follower {
    /// What comes next, as soon as there is something. `None`: it is told to stop.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        loop {
            let head = *self.head.borrow_and_update();
            if self.place < head {
                let part = self.behind(self.place).await?;
                if part.to > self.place {
                    self.place = part.to;
                    return Ok(Some(part));
                }
            }
            tokio::select! {
                () = self.feed.stop.cancelled() => return Ok(None),
                changed = self.head.changed() => if changed.is_err() { return Ok(None) },
            }
        }
    }

    /// What lies behind a place now; nothing if it is the end.
    pub async fn behind(&self, place: i64) -> Result<Part, Error> {
        let newest = self.feed.newest.lock().behind(place);
        match newest {
            Some(part) => Ok(part),
            None => read_ledger(&self.feed.past, place).await,
        }
    }

    /// Resolves when there may be more.
    pub async fn moved(&mut self) {
        if self.head.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.feed.followers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::storage::Abort;
    use crate::storage::files::Opened;
    use crate::testing::{Agent, Busy};

    /// A chain that grows, with a feed that runs.
    struct World {
        _dir: tempfile::TempDir,
        db: Db,
        feed: Feed,
        applied: watch::Sender<u64>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<anyhow::Result<()>>,
    }

    impl World {
        async fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let Opened { clients: db, feed, followers, .. } =
                crate::storage::files::open(&dir.path().join("central.db")).expect("opens");
            let (stop, applied) = (CancellationToken::new(), watch::Sender::new(0));
            let feed = Feed::new(feed, followers, stop.clone());
            let task = tokio::spawn(feed.clone().run(applied.subscribe()));
            Self { _dir: dir, db, feed, applied, stop, task }
        }

        /// So many stores become known, with three events each.
        async fn grow(&self, first: usize, stores: usize) {
            let job = move |connection: &Connection| {
                for number in first..first + stores {
                    Agent::settled(&format!("s{number}"), connection);
                }
                Ok::<_, Abort<()>>(())
            };
            self.db.write(job).await.expect("writes").expect("is not refused");
            self.applied.send_modify(|count| *count += 1);
        }

        async fn places(&self, follower: &mut Follower, many: usize) -> Vec<i64> {
            let mut places = Vec::new();
            while places.len() < many {
                let part = tokio::time::timeout(Duration::from_secs(20), follower.next()).await.expect("comes in time");
                let part = part.expect("reads").expect("goes on");
                places.extend(part.events.iter().map(|event| event.event.chain_seq()));
            }
            places
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_follows_gets_all_once_and_in_order_however_slow() {
        let world = World::new().await;
        world.grow(0, 10).await;
        let first = world.db.read(events::last_place).await.expect("reads");
        assert_eq!(first, 40);
        let mut from_now = world.feed.follow(None).await.expect("follows");
        let mut from_start = world.feed.follow(Some(0)).await.expect("follows");
        let mut slow = world.feed.follow(Some(7)).await.expect("follows");
        for round in 1..=30 {
            world.grow(round * 10, 10).await;
            let new = world.places(&mut from_now, 40).await;
            assert_eq!(new, (round as i64 * 40 + 1..=round as i64 * 40 + 40).collect::<Vec<_>>());
        }
        assert_eq!(world.places(&mut from_start, 1_240).await, (1..=1_240).collect::<Vec<_>>());
        assert!(world.feed.newest.lock().behind(7).is_none(), "it is no longer in memory");
        assert_eq!(world.places(&mut slow, 1_233).await, (8..=1_240).collect::<Vec<_>>());
        assert_eq!(world.feed.newest.lock().events.len(), NEWEST);
        world.stop.cancel();
        assert!(slow.next().await.expect("reads").is_none(), "it ends with the server");
        assert!(world.task.await.expect("ends").is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_catches_up_keeps_nobody_from_what_is_new() {
        let world = World::new().await;
        let mut live = world.feed.follow(None).await.expect("follows");
        let busy = Busy::all_scans_of(&world.feed.past).await;
        world.grow(0, 3).await;
        assert_eq!(world.places(&mut live, 12).await, (1..=12).collect::<Vec<_>>());
        drop(busy);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_kept_in_memory_for_nobody() {
        let world = World::new().await;
        let mut follower = world.feed.follow(Some(0)).await.expect("follows");
        world.grow(0, 3).await;
        world.places(&mut follower, 12).await;
        drop(follower);
        world.grow(3, 3).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while world.feed.newest.lock().is_kept() {
            assert!(tokio::time::Instant::now() < deadline, "it is kept");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.grow(6, 3).await;
        let mut follower = world.feed.follow(Some(3)).await.expect("follows");
        world.grow(9, 3).await;
        assert_eq!(world.places(&mut follower, 45).await, (4..=48).collect::<Vec<_>>());
    }
}
