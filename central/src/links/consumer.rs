//! Follows all stores (L2).
//!
//! News comes by the bell; a sweep of all known stores every few seconds finds what a lost bell did not say. Most stores
//! share the main lane: one round is one look at many stores, one pipelined read of those that have something, few
//! commits of bounded size, one pipelined write of acks. A store whose stream is large or cannot be read in time goes to the slow lane,
//! where it is read alone, over other connections and by other tasks: nobody waits for it. Bells and newcomers have
//! connections and tasks of their own, too.

mod ahead;
mod bells;
mod discovery;
mod queue;
mod round;
mod slow;

pub use discovery::Newcomers;
pub use round::{Batch, Judged, Observation, apply_some};

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::time::Duration;

use futures_util::FutureExt;
use protocol::ids::StoreId;
use protocol::link::{Ack, Bounds, Fetch};
use protocol::retry::Backoff;
use runtime::redis::Keys;
use runtime::redis::MultiplexedConnection;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::links::presence::Presence;
use crate::links::publisher::Wakes;
use crate::links::waiting::Waiting;
use crate::projection::view;
use crate::promises::allotments::release_forgotten;
use crate::storage::allotments::unreleased_stores;
use crate::storage::stores;
use crate::storage::{Connection, Db, JobResult};
use ahead::Ahead;
use bells::{Bells, OwnBell};
use discovery::Discovery;
use queue::Queue;
use round::Rounds;
use slow::SlowLane;

/// Stores looked at in one round.
const STORES_A_ROUND: usize = 256;
/// Entries read in one round, over all its stores.
const ENTRIES_A_ROUND: usize = 4_096;
/// Entries of one store, at most: a quarter of what its agent sends ahead, so that while these are applied the next ones are
/// read and those behind them arrive.
const ENTRIES_AT_ONCE: usize = 512;
/// Bytes read in one round, over all its stores.
const BYTES_A_ROUND: u64 = 32 << 20;
/// A store whose stream is larger is read apart.
const BYTES_A_STORE: u64 = 8 << 20;
/// How often what is read at once can be halved.
const HALVINGS: u32 = 10;
/// Rounds that must work before twice as much is read again.
const ROUNDS_TO_RECOVER: u32 = 32;
/// When too many writes are waiting.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What the consumer works with.
pub struct Consumer {
    /// Where Redis is.
    pub client: runtime::redis::Client,
    /// How its keys are named.
    pub keys: Keys,
    pub db: Db,
    /// Learns who is there.
    pub presence: Presence,
    /// Hears what was settled.
    pub waiting: Waiting,
    /// Hears of commands that applying has made.
    pub wakes: Wakes,
    /// How often all known stores are looked at.
    pub sweep_every: Duration,
    /// Learns which ids are no stores yet; `None`: nobody looks for new stores.
    pub newcomers: Option<Newcomers>,
}

impl Consumer {
    /// Runs until told to stop. Redis may come and go; an error of the database ends it. `aside`: runs what nobody waits for.
    pub async fn run(self, aside: Handle, stop: CancellationToken) -> anyhow::Result<()> {
        let queue = Queue::default();
        let own_bell = OwnBell::new(self.sweep_every);
        let rounds = Rounds {
            keys: self.keys.clone(),
            db: self.db,
            presence: self.presence,
            waiting: self.waiting,
            wakes: self.wakes,
        };
        let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
        let bells =
            Bells { client: self.client.clone(), keys: self.keys.clone(), queue: queue.clone(), own: own_bell.clone() };
        tasks.spawn(bells.run());
        for _ in 0..slow::WORKERS {
            let lane = SlowLane { client: self.client.clone(), queue: queue.clone(), rounds: rounds.clone() };
            tasks.spawn_on(lane.run(), &aside);
        }
        let newcomers = self.newcomers;
        if let Some(newcomers) = newcomers.clone() {
            let discovery = Discovery {
                client: self.client.clone(),
                queue: queue.clone(),
                rounds: rounds.clone(),
                every: self.sweep_every,
                newcomers,
            };
            tasks.spawn_on(discovery.run(), &aside);
        }
        let main = MainLane { client: self.client, queue, rounds, own_bell, sweep_every: self.sweep_every, newcomers };
        tasks.spawn(main.run());
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => ended?,
        }
    }
}

/// The lane of all stores that hold up nobody.
struct MainLane {
    client: runtime::redis::Client,
    queue: Queue,
    rounds: Rounds,
    own_bell: OwnBell,
    sweep_every: Duration,
    newcomers: Option<Newcomers>,
}

impl MainLane {
    async fn run(self) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut pace = Pace::default();
        loop {
            match self.follow(&mut backoff, &mut pace).await {
                Err(Failure::Slow) => {
                    tracing::warn!(halved = pace.halved, "reading took too long; less is read at once");
                    continue;
                }
                // Only the step that was too much at once is tried again.
                Err(Failure::Busy) => {}
                Err(Failure::Redis(error)) => {
                    if self.rounds.presence.note_redis(false) {
                        tracing::warn!(%error, "Redis cannot be reached; reads go on, purchases are refused");
                    }
                }
                Err(Failure::Fatal(error)) => return Err(error),
                Ok(never) => match never {},
            }
            tokio::time::sleep(backoff.failed(uuid::Uuid::new_v4().as_u64_pair().0)).await;
        }
    }

    /// Follows the stores on one connection until something fails.
    async fn follow(&self, backoff: &mut Backoff, pace: &mut Pace) -> Result<Infallible, Failure> {
        let presence = &self.rounds.presence;
        let mut connection = runtime::redis::connect(&self.client).await?;
        let mut sweep = tokio::time::interval(self.sweep_every);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut unread = Unread::default();
        let mut ahead = Ahead::with(&self.client);
        presence.note_unheard();
        loop {
            let mut sweeps = false;
            if self.queue.is_idle() {
                ahead.forget();
                tokio::select! {
                    _ = sweep.tick() => sweeps = true,
                    () = self.queue.sweep_wanted() => sweeps = true,
                    () = self.queue.rung() => {}
                }
            } else {
                sweeps = sweep.tick().now_or_never().is_some();
            }
            if sweeps {
                match self.sweep(&mut connection).await {
                    Ok(all) => {
                        self.own_bell.ring(&mut connection, &self.rounds.keys).await?;
                        // With an empty database nobody can tell who is a store before new ones were looked for.
                        let looked = self.newcomers.as_ref().is_none_or(Newcomers::were_scanned);
                        unread.sweep(all, looked);
                        self.queue.ring_all();
                        if presence.note_redis(true) {
                            tracing::info!("Redis answers");
                        }
                        backoff.succeeded();
                    }
                    Err(Failure::Busy) => {
                        sweep.reset_immediately();
                        tokio::time::sleep(BUSY_PAUSE).await;
                    }
                    Err(failure) => return Err(failure),
                }
            }
            let due = self.queue.take(pace.stores());
            match self.round(&mut connection, &due, pace, &mut ahead).await {
                Ok(Left { more, unread: left }) => {
                    // Once is enough: under steady traffic there is always more.
                    if unread.look(&due, &left, |id| self.queue.is_apart(id)) {
                        presence.note_swept();
                    }
                    more.into_iter().for_each(|id| self.queue.ring(id));
                    self.queue.put_back(left);
                }
                Err(Failure::Busy) => {
                    due.into_iter().for_each(|id| self.queue.ring(id));
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Says who is a store, and writes every store's ack again; returns all stores.
    async fn sweep(&self, connection: &mut MultiplexedConnection) -> Result<HashSet<StoreId>, Failure> {
        let all = |connection: &Connection| Ok((stores::all(connection)?, unreleased_stores(connection)?));
        let (known, lowered) = self.rounds.db.scan(all).await.map_err(fatal)?;
        let all: HashSet<StoreId> = known.iter().map(|store| store.id.clone()).collect();
        self.queue.set_known(all.clone());
        self.rounds.presence.retain(&all);
        let suspects: Vec<StoreId> =
            known.iter().filter(|store| store.wants_resync()).map(|store| store.id.clone()).collect();
        if !suspects.is_empty() {
            let now = runtime::clock::now();
            let asked = self
                .rounds
                .write(move |connection| {
                    suspects
                        .iter()
                        .filter_map(|id| match view::repeat_resync(connection, id, now) {
                            Ok(asked) => asked.then(|| Ok(id.clone())),
                            Err(error) => Some(Err(error)),
                        })
                        .collect::<JobResult<Vec<_>>>()
                })
                .await?;
            asked.iter().for_each(|id| self.rounds.wakes.wake(id));
        }
        if !lowered.is_empty() {
            let now = runtime::clock::now();
            let released = self.rounds.write(move |connection| release_forgotten(connection, &lowered, now)).await?;
            released.iter().for_each(|id| self.rounds.wakes.wake(id));
        }
        // A store that is read apart is told there.
        let acks: Vec<(StoreId, Ack)> = known
            .iter()
            .filter(|store| !self.queue.is_apart(&store.id))
            .map(|store| (store.id.clone(), store.ack()))
            .collect();
        for acks in acks.chunks(STORES_A_ROUND) {
            self.rounds.repeat_acks(connection, acks).await?;
        }
        Ok(all)
    }

    /// Looks, reads, applies, acknowledges.
    async fn round(
        &self,
        connection: &mut MultiplexedConnection,
        due: &[StoreId],
        pace: &mut Pace,
        ahead: &mut Ahead,
    ) -> Result<Left, Failure> {
        let read_at = runtime::clock::now();
        let mut fetch = Fetch::of(due.to_vec(), pace.bounds());
        // If not all can be in the next round, what comes next of these is not what that will ask for.
        let has_room = due.len() + self.queue.due() <= pace.stores();
        if !has_room {
            ahead.forget();
        }
        let ahead = has_room.then_some(ahead);
        let ended = self.rounds.carry_out(connection, &mut fetch, Vec::new(), read_at, ahead).await;
        fetch.apart().iter().for_each(|id| self.queue.set_apart(id));
        match ended {
            Ok(true) => pace.worked(),
            Ok(false) => {}
            Err(Failure::Slow) => {
                pace.timed_out();
                return Err(Failure::Slow);
            }
            Err(failure) => return Err(failure),
        }
        let more = fetch.more().iter().filter(|(_, more)| **more).map(|(id, _)| id.clone()).collect();
        Ok(Left { more, unread: fetch.unread().to_vec() })
    }
}

/// Stores not looked at since a connection was made; none: it is not known yet who is one.
#[derive(Debug, Default)]
struct Unread(Option<BTreeSet<StoreId>>);

impl Unread {
    /// These are all stores. `looked`: new ones were looked for; before that an empty list says nothing.
    fn sweep(&mut self, all: HashSet<StoreId>, looked: bool) {
        match &mut self.0 {
            // One that was forgotten meanwhile is never looked at.
            Some(unread) => unread.retain(|id| all.contains(id)),
            None if looked || !all.is_empty() => self.0 = Some(all.into_iter().collect()),
            None => {}
        }
    }

    /// These were due, and those are left; what is read apart is not waited for. Says whether all were looked at.
    fn look(&mut self, due: &[StoreId], left: &[StoreId], is_apart: impl Fn(&StoreId) -> bool) -> bool {
        let Some(unread) = &mut self.0 else { return false };
        let left: BTreeSet<&StoreId> = left.iter().collect();
        let looked: BTreeSet<&StoreId> = due.iter().filter(|id| !left.contains(id)).collect();
        unread.retain(|id| left.contains(id) || (!looked.contains(id) && !is_apart(id)));
        unread.is_empty()
    }
}

/// What a round left for the next one.
struct Left {
    /// Stores that have more to say.
    more: Vec<StoreId>,
    /// Stores that were not read: together with the others they had too much.
    unread: Vec<StoreId>,
}

/// How much is read at once: what took too long is half as much the next time.
#[derive(Debug, Default)]
struct Pace {
    halved: u32,
    worked: u32,
}

impl Pace {
    /// Stores of a round.
    fn stores(&self) -> usize {
        (STORES_A_ROUND >> self.halved).max(1)
    }

    /// How much a round may read.
    fn bounds(&self) -> Bounds {
        let halved = |entries: usize| (entries >> self.halved).max(1);
        Bounds {
            bytes: BYTES_A_ROUND >> self.halved,
            bytes_a_stream: BYTES_A_STORE,
            entries: halved(ENTRIES_A_ROUND),
            entries_least: halved(64),
            entries_most: halved(ENTRIES_AT_ONCE),
        }
    }

    fn worked(&mut self) {
        self.worked += 1;
        if self.worked >= ROUNDS_TO_RECOVER {
            self.worked = 0;
            self.halved = self.halved.saturating_sub(1);
        }
    }

    fn timed_out(&mut self) {
        self.worked = 0;
        self.halved = (self.halved + 1).min(HALVINGS);
    }
}

/// Why following ended.
enum Failure {
    /// Wait and try again.
    Redis(runtime::redis::RedisError),
    /// Reading took too long; try again with less at once.
    Slow,
    /// Too many writes are waiting; try again in a moment.
    Busy,
    /// The process must stop.
    Fatal(anyhow::Error),
}

impl From<runtime::redis::RedisError> for Failure {
    fn from(error: runtime::redis::RedisError) -> Self {
        Self::Redis(error)
    }
}

fn fatal(error: impl std::fmt::Display) -> Failure {
    Failure::Fatal(anyhow::anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(ids: &[&str]) -> Vec<StoreId> {
        ids.iter().map(|id| id.parse().expect("an id")).collect()
    }

    #[test]
    fn all_stores_were_looked_at_once_none_is_left_that_still_is_one() {
        let mut unread = Unread::default();
        let nobody = |_: &StoreId| false;
        assert!(!unread.look(&[], &[], nobody), "nobody knows who is a store");
        unread.sweep(HashSet::new(), false);
        assert!(!unread.look(&[], &[], nobody), "new ones were not looked for");
        let all = stores(&["s1", "s2", "s3", "s4"]);
        unread.sweep(all.iter().cloned().collect(), false);
        assert!(!unread.look(&all[..2], &all[1..2], nobody), "s2 had too much to say");
        assert!(!unread.look(&all[1..2], &[], |id| *id == all[3]), "s3 was not due");
        // It is forgotten before its turn.
        unread.sweep(all[..2].iter().cloned().collect(), true);
        assert!(unread.look(&[], &[], nobody));
        let mut empty = Unread::default();
        empty.sweep(HashSet::new(), true);
        assert!(empty.look(&[], &[], nobody), "there is none");
    }

    #[test]
    fn what_took_too_long_is_halved_and_recovers() {
        let mut pace = Pace::default();
        let said = |pace: &Pace| (pace.stores(), pace.bounds().bytes, pace.bounds().entries_least);
        assert_eq!(said(&pace), (256, 32 << 20, 64));
        pace.timed_out();
        assert_eq!(said(&pace), (128, 16 << 20, 32));
        for _ in 0..ROUNDS_TO_RECOVER {
            pace.worked();
        }
        assert_eq!(pace.stores(), 256);
        for _ in 0..20 {
            pace.timed_out();
        }
        assert_eq!((pace.stores(), pace.bounds().entries_most), (1, 1));
    }
}
