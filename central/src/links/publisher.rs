//! Sends commands: one [`Sender`] a store, all over one shared connection (L3 to L6).
//!
//! Each store that has got a command has a task that sleeps until more were committed, or until its sender wants to look
//! after what is not acknowledged. What Redis refuses for one store is that store's affair: the others' connection stays.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use protocol::ids::StoreId;
use protocol::link::{Cursor, Round, Sender, Step};
use protocol::retry::Backoff;
use runtime::clock::Ticks;
use runtime::redis::{Channel, Keys};
use runtime::sqlite::{Abort, Reader, WriteError, Writer};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::links::presence::{Access, Presence};
use crate::links::redis_link::RedisLink;
use crate::promises::commands::reopen;
use crate::storage::commands;
use crate::storage::stores;

/// Between two writes of how far a store has acknowledged.
const ACKED_EVERY_MS: i64 = 1_000;

/// Who is to be woken once a commit is on disk. Cheap to clone.
#[derive(Clone, Default)]
pub struct Wakes {
    senders: Arc<Mutex<HashMap<StoreId, Arc<Notify>>>>,
    new: Arc<Notify>,
    steps: Arc<Notify>,
}

impl Wakes {
    /// Notified when a store may have something left to do in [steps](crate::projection::steps).
    pub fn steps(&self) -> Arc<Notify> {
        self.steps.clone()
    }

    /// Wakes a store's sender.
    pub fn wake(&self, store: &StoreId) {
        let mut senders = self.senders.lock();
        match senders.get(store) {
            Some(sender) => sender.notify_one(),
            None => {
                let sender = Arc::new(Notify::new());
                sender.notify_one();
                senders.insert(store.clone(), sender);
                self.new.notify_one();
            }
        }
    }

    fn of(&self, store: &StoreId) -> Arc<Notify> {
        self.senders.lock().entry(store.clone()).or_default().clone()
    }

    /// The store's sender is about to end: who wakes it from now on gets a new one.
    fn leave(&self, store: &StoreId) {
        self.senders.lock().remove(store);
    }
}

/// What a sender works with.
#[derive(Clone)]
pub struct Publisher {
    /// The shared connection.
    pub redis: RedisLink,
    /// How keys are named.
    pub keys: Keys,
    /// Opens epochs.
    pub writer: Writer,
    /// Reads the log.
    pub reader: Reader,
    /// Learns of senders that have stopped.
    pub presence: Presence,
    /// Says when there is something to send.
    pub wakes: Wakes,
    /// Measures how long ago things were done.
    pub clock: Ticks,
}

impl Publisher {
    /// Runs a task for each store that has got a command, until told to stop.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut running: HashSet<StoreId> = HashSet::new();
        let mut tasks: JoinSet<anyhow::Result<StoreId>> = JoinSet::new();
        for store in self.reader.scan(stores::all).await? {
            self.wakes.wake(&store.id);
        }
        loop {
            let woken: Vec<StoreId> = self.wakes.senders.lock().keys().cloned().collect();
            for store in woken {
                if running.insert(store.clone()) {
                    tasks.spawn(self.clone().send(store));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.wakes.new.notified() => {}
                Some(ended) = tasks.join_next() => drop(running.remove(&ended??)),
            }
        }
    }

    /// Sends one store's commands; ends when there are none, and returns whose.
    async fn send(self, store: StoreId) -> anyhow::Result<StoreId> {
        let mut wake = self.wakes.of(&store);
        let channel = Channel::commands(&self.keys, &store);
        let mut sender = Sender::default();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut number = 0;
        let mut acked = Acked { unsaved: None, saved_at: Ticks::LONG_AGO };
        loop {
            let read_head = || self.reader.point(|connection| commands::head(connection, &store));
            let mut head = read_head()?;
            if head.epoch == 0 {
                // A command that is committed after this look wakes another task.
                self.wakes.leave(&store);
                head = read_head()?;
                if head.epoch == 0 {
                    return Ok(store);
                }
                wake = self.wakes.of(&store);
            }
            let step = self.with_log(&store, head, |log| sender.next(self.clock.ms(), log))?;
            if let Step::Wait(until) = step {
                let due = until.map(|until| Duration::from_millis((until - self.clock.ms()).max(1) as u64));
                tokio::select! {
                    () = wake.notified() => {}
                    () = sleep_or_never(due) => {}
                }
                continue;
            }
            if let Step::OpenEpoch { .. } = step {
                self.open_epoch(&store).await?;
                sender.epoch_opened();
                continue;
            }
            // Reading the ack may be allowed where sending is not.
            let sends = matches!(step, Step::Publish(_));
            match self.carry_out(&store, head, &channel, &mut sender, step, &mut number).await? {
                Ok(moved) => {
                    if sends {
                        backoff.succeeded();
                        self.presence.note_access(&store, Access::Commands, None);
                    }
                    self.presence.note_commands_stopped(&store, sender.stopped().is_some());
                    self.remember(&store, head.epoch, moved, &mut acked).await?;
                }
                Err(error) => {
                    sender.failed();
                    if runtime::redis::is_of_the_server(&error) {
                        tracing::debug!(%store, %error, "sending commands waits for Redis");
                        self.redis.broken(number).await;
                        number = 0;
                    } else if self.presence.note_access(&store, Access::Commands, Some(error.to_string())) {
                        tracing::error!(%store, %error, "Redis refuses {}", Access::Commands.as_str());
                    }
                    tokio::time::sleep(backoff.failed(uuid::Uuid::new_v4().as_u64_pair().0)).await;
                }
            }
        }
    }

    /// One step over Redis. The outer error is the database's and ends the process; the inner one is Redis's.
    async fn carry_out(
        &self,
        store: &StoreId,
        head: Cursor,
        channel: &Channel,
        sender: &mut Sender,
        step: Step,
        number: &mut u64,
    ) -> anyhow::Result<redis::RedisResult<Option<u64>>> {
        let (present, mut connection) = match self.redis.get().await {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        if *number != present {
            // Nothing may be published before the ack was read on this connection (L3).
            let first = *number == 0;
            *number = present;
            sender.failed();
            if !first {
                return Ok(Ok(None));
            }
        }
        Ok(match step {
            Step::ReadAck => match channel.read_ack(&mut connection).await {
                Ok(ack) => Ok(self.with_log(store, head, |log| sender.ack_read(self.clock.ms(), ack, log))?),
                Err(error) => Err(error),
            },
            Step::Clear => channel.clear(&mut connection).await.map(|()| {
                sender.cleared();
                None
            }),
            Step::Publish(round) => {
                let entries = self.entries(store, head, &round)?;
                match channel.publish(&mut connection, &round, &entries, |_| {}).await {
                    Ok(reply) => {
                        let now = self.clock.ms();
                        Ok(self.with_log(store, head, |log| sender.round_done(now, &round, &reply, log))?)
                    }
                    Err(error) => Err(error),
                }
            }
            Step::OpenEpoch { .. } | Step::Wait(_) => Ok(None),
        })
    }

    fn with_log<T>(
        &self,
        store: &StoreId,
        head: Cursor,
        judge: impl FnOnce(&commands::Log<'_>) -> T,
    ) -> anyhow::Result<T> {
        Ok(self.reader.point(|connection| {
            let log = commands::Log { connection, store, head, failed: Cell::default() };
            let judged = judge(&log);
            log.failed.take().map_or(Ok(judged), Err)
        })?)
    }

    fn entries(&self, store: &StoreId, head: Cursor, round: &Round) -> anyhow::Result<Vec<protocol::link::Entry>> {
        if round.add_to < round.add_from {
            return Ok(Vec::new());
        }
        Ok(self
            .reader
            .point(|connection| commands::entries(connection, store, head.epoch, round.add_from, round.add_to))?)
    }

    /// L8: the log does not reach back to what the store knows.
    async fn open_epoch(&self, store: &StoreId) -> anyhow::Result<()> {
        let store = store.clone();
        let now = runtime::clock::now();
        self.write(move |connection| reopen(connection, &store, 0, now)).await
    }

    /// Stores the acknowledged place now and then: it only decides what may be pruned.
    async fn remember(&self, store: &StoreId, epoch: u64, moved: Option<u64>, acked: &mut Acked) -> anyhow::Result<()> {
        acked.unsaved = moved.or(acked.unsaved);
        let now = self.clock.ms();
        let Some(seq) = acked.unsaved.filter(|_| now - acked.saved_at >= ACKED_EVERY_MS) else { return Ok(()) };
        acked.saved_at = now;
        acked.unsaved = None;
        let store = store.clone();
        self.write(move |connection| stores::store_command_acked(connection, &store, epoch, seq)).await
    }

    async fn write(
        &self,
        job: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        match self.writer.write(move |connection| job(connection).map_err(Abort::<()>::Database)).await {
            Ok(_) => Ok(()),
            // Neither the acked place nor a new epoch is lost by trying again at the next step.
            Err(WriteError::Overloaded) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

struct Acked {
    unsaved: Option<u64>,
    saved_at: i64,
}

async fn sleep_or_never(due: Option<Duration>) {
    match due {
        Some(due) => tokio::time::sleep(due).await,
        None => std::future::pending().await,
    }
}
