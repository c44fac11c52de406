//! Finds new stores among the ids that agents enter in Redis.
//!
//! **Guarantees.** An id becomes a store only if an agent is behind it: a heartbeat, a claim, or a stream that opens an
//! epoch. What is kept of all others is a number and a few names, however many there are, and how fast they become stores
//! is bounded, as is how many of them may be waiting for their first event.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use protocol::ids::StoreId;
use protocol::link::{Cursor, Epoch, Receipt};
use runtime::redis::MultiplexedConnection;
use runtime::redis::Signs;
use runtime::redis::{Client, RedisResult};

use super::queue::Queue;
use super::round::Rounds;
use super::{BUSY_PAUSE, Failure};
use crate::storage::stores;

/// Ids in one piece of the set, about.
const PAGE: usize = 1_000;
/// Pieces read at each turn.
const PAGES_A_TURN: usize = 4;
/// Stores that may become known at each turn.
const NEW_A_TURN: usize = 100;
/// Stores of which no event was ever applied, at most: an operator may add more.
const WAITING_MOST: i64 = 1_000;
/// Names that are shown and logged.
const NAMES: usize = 10;
/// A stream of which so much has to be read to see how it begins is not looked at.
const BYTES: u64 = 1 << 20;

/// How soon the first turn is tried again while nobody has said which stores there are.
const SOON: Duration = Duration::from_millis(20);

/// Ids entered in Redis that are no stores. Cheap to clone.
#[derive(Clone, Default)]
pub struct Newcomers(Arc<RwLock<Option<NewcomerList>>>);

/// What is known of such ids, after the whole set was read once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewcomerList {
    /// How many there are.
    pub count: usize,
    /// Some of them.
    pub names: Vec<StoreId>,
    /// Why others that could be stores are not, if there is a reason.
    pub held_back: Option<&'static str>,
}

impl NewcomerList {
    fn add(&mut self, id: StoreId) {
        self.count += 1;
        if self.names.len() < NAMES {
            self.names.push(id);
        }
    }
}

impl Newcomers {
    /// What was last found.
    pub fn list(&self) -> NewcomerList {
        self.0.read().clone().unwrap_or_default()
    }

    /// Whether new stores were looked for once.
    pub(super) fn were_scanned(&self) -> bool {
        self.0.read().is_some()
    }
}

pub(super) struct Discovery {
    pub(super) client: Client,
    pub(super) queue: Queue,
    pub(super) rounds: Rounds,
    pub(super) every: Duration,
    pub(super) newcomers: Newcomers,
}

/// Where it stands in the set.
#[derive(Default)]
struct Place {
    cursor: u64,
    found: NewcomerList,
    warned: bool,
}

impl Discovery {
    /// Looks for ever; an error of the database ends it.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut turn = tokio::time::interval(self.every);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connection = None;
        let mut place = Place::default();
        while self.queue.known().is_none() {
            tokio::time::sleep(SOON).await;
        }
        loop {
            turn.tick().await;
            match self.scan(&mut connection, &mut place).await {
                Ok(()) => {}
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(Failure::Slow) => connection = None,
                Err(Failure::Redis(error)) => {
                    // What matters is said by the main lane.
                    tracing::debug!(%error, "new stores are not looked for");
                    connection = None;
                }
            }
        }
    }

    /// One turn: some pieces of the set.
    async fn scan(&self, connection: &mut Option<MultiplexedConnection>, place: &mut Place) -> Result<(), Failure> {
        let Some(known) = self.queue.known() else { return Ok(()) };
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(runtime::redis::connect(&self.client).await?),
        };
        if let Some(why) = runtime::redis::why_unreadable(connection, &self.rounds.keys).await? {
            if !std::mem::replace(&mut place.warned, true) {
                tracing::warn!(key = self.rounds.keys.stores(), why, "new stores are not found");
            }
            self.show(NewcomerList { held_back: Some("the set of stores cannot be read"), ..NewcomerList::default() });
            return Ok(());
        }
        place.warned = false;
        let mut agents = Vec::new();
        for _ in 0..PAGES_A_TURN {
            let (cursor, ids) =
                runtime::redis::page_of_stores(connection, &self.rounds.keys, place.cursor, PAGE).await?;
            place.cursor = cursor;
            let new: Vec<StoreId> = ids.into_iter().filter(|id| !known.contains(id)).collect();
            for ids in new.chunks(PAGE) {
                for (id, is_agent) in ids.iter().zip(self.are_agents(connection, ids).await?) {
                    match is_agent && agents.len() < NEW_A_TURN {
                        true => agents.push(id.clone()),
                        false => place.found.add(id.clone()),
                    }
                }
            }
            if cursor == 0 || agents.len() >= NEW_A_TURN {
                break;
            }
        }
        self.make_known(agents, &mut place.found).await?;
        if place.cursor == 0 {
            self.show(std::mem::take(&mut place.found));
        } else if !self.newcomers.were_scanned() {
            self.show(place.found.clone());
        }
        Ok(())
    }

    fn show(&self, shown: NewcomerList) {
        let before = self.newcomers.0.write().replace(shown);
        if before.is_none() {
            // A central that knew no store says from now on who is none.
            self.queue.sweep_soon();
        }
    }

    /// Behind which of these ids an agent is.
    async fn are_agents(&self, connection: &mut MultiplexedConnection, ids: &[StoreId]) -> RedisResult<Vec<bool>> {
        let keys = &self.rounds.keys;
        let mut agents = Vec::with_capacity(ids.len());
        for (id, Signs { claim, reading, size }) in ids.iter().zip(runtime::redis::signs(connection, keys, ids).await?)
        {
            let claims = claim.is_some_and(|claim| claim.epoch != Epoch::NONE);
            let has_heartbeat = reading.heartbeat.is_some_and(|heartbeat| heartbeat.epoch != Epoch::NONE);
            let size = size.unwrap_or_default();
            let readable = size.entries > 0 && size.why_implausible().is_none() && size.bytes <= BYTES;
            agents.push(claims || has_heartbeat || (readable && self.opens(connection, id).await?));
        }
        Ok(agents)
    }

    /// Whether its stream begins as a ledger does.
    async fn opens(&self, connection: &mut MultiplexedConnection, id: &StoreId) -> RedisResult<bool> {
        let first = runtime::redis::first_entry(connection, &self.rounds.keys, id).await?;
        Ok(first.is_some_and(|entry| protocol::link::receive(&Cursor::default(), &entry) == Receipt::Opens))
    }

    /// Makes them stores, as far as there is room.
    async fn make_known(&self, agents: Vec<StoreId>, found: &mut NewcomerList) -> Result<(), Failure> {
        if agents.is_empty() {
            return Ok(());
        }
        let now = runtime::clock::now();
        let (new, left) = self
            .rounds
            .write(move |connection| {
                let room = WAITING_MOST - stores::count_unopened(connection)?;
                let (new, left) = agents.split_at(agents.len().min(usize::try_from(room).unwrap_or(0)));
                new.iter().try_for_each(|id| stores::discover(connection, id, now))?;
                Ok((new.to_vec(), left.to_vec()))
            })
            .await?;
        if !left.is_empty() {
            found.held_back = Some("too many stores have never sent an event: forget those that are none");
        }
        left.into_iter().for_each(|id| found.add(id));
        if !new.is_empty() {
            let names: Vec<&str> = new.iter().take(NAMES).map(StoreId::as_str).collect();
            tracing::info!(count = new.len(), ?names, "discovered");
            self.queue.sweep_soon();
        }
        Ok(())
    }
}
