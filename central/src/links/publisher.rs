//! Sends commands (L3 to L6): the driver of all stores' [`Publishers`], over one connection.
//!
//! One batch is one read of the logs of all stores that have something to do, one write of what is to be stored, and one
//! pipeline of what is to be sent. What is to be sent waits for no write: a store whose step is stored meanwhile is asked
//! again when that is on disk. What Redis refuses for one store is that store's affair: the others' connection stays.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use protocol::ids::StoreId;
use protocol::link::{Commands, Entry, Excerpt, Needs, Pace, Publishers, Reply, Round, Step};
use protocol::number::CommandEpoch;
use protocol::retry::Backoff;
use protocol::time::Millis;
use runtime::clock::Ticks;
use runtime::redis::Client;
use runtime::redis::MultiplexedConnection;
use runtime::redis::{Call, Channel, Keys};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::links::presence::{Access, Presence};
use crate::promises::commands::reopen;
use crate::storage::commands;
use crate::storage::stores;
use crate::storage::{Abort, Connection, Db, Error, JobResult};

/// Stores in one batch, at most.
const STORES_A_BATCH: usize = 128;
/// Body bytes of one batch, at most, unless one entry a store has more: it must be through within the time-out of its
/// answer.
const BYTES_A_BATCH: usize = 4 << 20;

/// Who is to be woken once a commit is on disk. Cheap to clone.
#[derive(Clone, Default)]
pub struct Wakes {
    woken: Arc<Mutex<BTreeSet<StoreId>>>,
    rung: Arc<Notify>,
    steps: Arc<Notify>,
    seeking: Arc<Notify>,
}

impl Wakes {
    /// Notified when a store may have something left to do in [steps](crate::projection::steps).
    pub fn steps(&self) -> Arc<Notify> {
        self.steps.clone()
    }

    /// Notified when a purchase [seeks](crate::links::seeking) a store.
    pub fn seeking(&self) -> Arc<Notify> {
        self.seeking.clone()
    }

    /// Wakes a store's publisher.
    pub fn wake(&self, store: &StoreId) {
        self.woken.lock().insert(store.clone());
        self.rung.notify_one();
    }

    fn take(&self) -> BTreeSet<StoreId> {
        std::mem::take(&mut *self.woken.lock())
    }
}

/// What was stored for some stores, or could not be now.
type Stored = anyhow::Result<Vec<(StoreId, Reply<Commands>)>>;

/// What sending takes.
pub struct Publisher {
    /// Where Redis is.
    pub client: Client,
    /// How keys are named.
    pub keys: Keys,
    pub db: Db,
    /// Learns of senders that have stopped.
    pub presence: Presence,
    /// Says when there is something to send.
    pub wakes: Wakes,
    /// Measures how long ago things were done.
    pub clock: Ticks,
}

impl Publisher {
    /// Runs until told to stop. Redis may come and go; an error of the database ends it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut logs = Publishers::new(Pace::default());
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut connection = None;
        let mut storing = JoinSet::new();
        for store in self.db.scan(stores::all).await? {
            logs.wake(&store.id);
        }
        loop {
            while let Some(stored) = storing.try_join_next() {
                self.tell(&mut logs, stored)?;
            }
            self.wakes.take().iter().for_each(|store| logs.wake(store));
            if logs.next_due().is_none_or(|due| due > self.clock.ms()) {
                let pause = logs.next_due().map(|due| pause(due, self.clock.ms()));
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = self.wakes.rung.notified() => {}
                    () = sleep_or_never(pause) => {}
                    Some(stored) = storing.join_next() => self.tell(&mut logs, stored)?,
                }
                continue;
            }
            let went_well = match self.connected(&mut connection).await {
                Ok(connection) => self.batch(&mut logs, &mut storing, connection).await?,
                Err(error) => Err(error),
            };
            match went_well {
                Ok(()) => backoff.succeeded(),
                Err(error) => {
                    tracing::debug!(%error, "sending commands waits for Redis");
                    connection = None;
                    // What is being stored is no part of the connection: each step is told how its own went.
                    while let Some(stored) = storing.join_next().await {
                        self.tell(&mut logs, stored)?;
                    }
                    logs.lost();
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(backoff.failed(dice())) => {}
                    }
                }
            }
            if stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    async fn connected<'a>(
        &self,
        connection: &'a mut Option<MultiplexedConnection>,
    ) -> runtime::redis::RedisResult<&'a mut MultiplexedConnection> {
        match connection {
            Some(connection) => Ok(connection),
            None => Ok(connection.insert(runtime::redis::connect(&self.client).await?)),
        }
    }

    /// One step of each store that has something to do. The outer error is the database's and ends the process; the inner
    /// one is of Redis as a whole.
    async fn batch(
        &self,
        logs: &mut Publishers<StoreId>,
        storing: &mut JoinSet<Stored>,
        connection: &mut MultiplexedConnection,
    ) -> anyhow::Result<runtime::redis::RedisResult<()>> {
        let taken = logs.take(self.clock.ms(), STORES_A_BATCH);
        let excerpts: Vec<Excerpt<Commands>> = self
            .db
            .read(|connection| {
                taken.iter().map(|(store, needs)| excerpt(connection, store, needs)).collect::<JobResult<_>>()
            })
            .await?;
        let (mut to_store, mut to_send) = (Vec::new(), Vec::new());
        for ((store, _), log) in taken.into_iter().zip(&excerpts) {
            let step = logs.next(self.clock.ms(), &store, log);
            if let Some(publisher) = logs.of(&store) {
                self.presence.note_commands_stopped(&store, publisher.stopped().is_some());
            }
            match step {
                Step::Wait(_) => {}
                Step::OpenEpoch { .. } | Step::StoreAcked(_) => to_store.push((store, step)),
                Step::ReadAck | Step::Clear | Step::Publish(_) => to_send.push((store, step)),
            }
        }
        if !to_store.is_empty() {
            storing.spawn(store(self.db.clone(), to_store));
        }
        if to_send.is_empty() {
            return Ok(Ok(()));
        }
        let bytes = BYTES_A_BATCH / to_send.len();
        let calls: Vec<Call<Commands>> = self
            .db
            .read(|connection| {
                to_send
                    .iter()
                    .map(|(store, step)| {
                        let entries = match step {
                            Step::Publish(round) => entries(connection, store, round, bytes)?,
                            Step::ReadAck
                            | Step::Clear
                            | Step::OpenEpoch { .. }
                            | Step::StoreAcked(_)
                            | Step::Wait(_) => Vec::new(),
                        };
                        Ok(Call {
                            channel: Channel::commands(&self.keys, store),
                            step: *step,
                            entries,
                            heartbeat: None,
                        })
                    })
                    .collect::<JobResult<_>>()
            })
            .await?;
        let replies = match runtime::redis::carry_out(connection, &calls).await {
            Ok(replies) => replies,
            Err(error) => return Ok(Err(error)),
        };
        for ((store, step), reply) in to_send.iter().zip(replies) {
            let reply = match reply {
                Ok(reply) => {
                    // Reading the ack may be allowed where sending is not.
                    if matches!(step, Step::Publish(_)) {
                        self.presence.note_access(store, Access::Commands, None);
                    }
                    reply
                }
                Err(error) => {
                    if self.presence.note_access(store, Access::Commands, Some(error.to_string())) {
                        tracing::error!(%store, %error, "Redis refuses {}", Access::Commands.as_str());
                    }
                    Reply::Refused
                }
            };
            logs.reply(self.clock.ms(), store, reply, dice());
        }
        Ok(Ok(()))
    }

    /// Tells each store's publisher how storing went.
    fn tell(&self, logs: &mut Publishers<StoreId>, stored: Result<Stored, JoinError>) -> anyhow::Result<()> {
        for (store, reply) in stored.context("storing panicked")?? {
            logs.reply(self.clock.ms(), &store, reply, dice());
        }
        Ok(())
    }
}

/// One transaction for all stores.
async fn store(db: Db, steps: Vec<(StoreId, Step<Commands>)>) -> Stored {
    let now = runtime::clock::now();
    let job = steps.clone();
    let stored = db.write(move |connection| {
        job.iter()
            .map(|(store, step)| store_step(connection, store, step, now))
            .collect::<JobResult<Vec<_>>>()
            .map_err(Abort::<()>::Database)
    });
    let replies = match stored.await {
        Ok(Ok(replies)) => replies,
        // Neither the acked place nor a new epoch is lost by trying again later.
        Ok(Err(())) | Err(Error::Busy) => steps.iter().map(|(_, step)| not_stored(step)).collect(),
        Err(error) => return Err(error.into()),
    };
    Ok(steps.into_iter().map(|(store, _)| store).zip(replies).collect())
}

fn not_stored(step: &Step<Commands>) -> Reply<Commands> {
    match step {
        Step::StoreAcked(_) => Reply::Stored(false),
        Step::OpenEpoch { .. } | Step::ReadAck | Step::Clear | Step::Publish(_) | Step::Wait(_) => Reply::Refused,
    }
}

/// What a store's publisher needs to know of its log.
pub fn excerpt(connection: &Connection, store: &StoreId, needs: &Needs<Commands>) -> JobResult<Excerpt<Commands>> {
    let head = commands::head(connection, store)?;
    let log = commands::Log { connection, store, head, failed: Cell::default() };
    let excerpt = Excerpt::of(&log, needs);
    log.failed.take().map_or(Ok(excerpt), Err)
}

/// The entries of a round, as many as fit.
pub fn entries(
    connection: &Connection,
    store: &StoreId,
    round: &Round<Commands>,
    bytes: usize,
) -> JobResult<Vec<Entry<Commands>>> {
    if round.add_to < round.add_from {
        return Ok(Vec::new());
    }
    let entries = commands::entries(connection, store, round.epoch, round.add_from, round.add_to)?;
    Ok(round.fitting(entries, bytes))
}

/// Carries out a step that writes. An epoch is opened only in the log that was judged: accepting an event epoch may have
/// opened another one meanwhile (L8).
pub fn store_step(
    connection: &Connection,
    store: &StoreId,
    step: &Step<Commands>,
    now: Millis,
) -> JobResult<Reply<Commands>> {
    match step {
        Step::OpenEpoch { judged, .. } => {
            if commands::head(connection, store)?.epoch == judged.epoch {
                reopen(connection, store, CommandEpoch::NONE, now)?;
            }
            Ok(Reply::Opened)
        }
        Step::StoreAcked(place) => {
            stores::store_command_acked(connection, store, *place)?;
            Ok(Reply::Stored(true))
        }
        Step::ReadAck | Step::Clear | Step::Publish(_) | Step::Wait(_) => Ok(Reply::Lost),
    }
}

fn dice() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

fn pause(until: i64, now: i64) -> Duration {
    Duration::from_millis(u64::try_from(until.saturating_sub(now)).unwrap_or(0).max(1))
}

async fn sleep_or_never(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
