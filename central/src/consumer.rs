//! Reads all stores' streams and applies them (L2).
//!
//! News comes by the bell; a sweep of all known stores every few seconds finds what a lost bell did not say. One round
//! is one pipelined read of many streams, one group commit, one pipelined write of acks.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, Value};
use shared::ids::StoreId;
use shared::link::{Ack, Cursor};
use shared::redis::{Delivery, Keys, Received};
use shared::retry::Backoff;
use shared::sqlite::{Abort, Reader, WriteError, Writer};
use shared::time::Millis;
use tokio_util::sync::CancellationToken;

use crate::presence::Presence;
use crate::publisher::Wakes;
use crate::waiting::Waiting;
use crate::{stores, view};

/// Stores looked at in one round.
const STORES_A_ROUND: usize = 256;
/// Entries read in one round, over all its stores.
const ENTRIES_A_ROUND: usize = 4_096;

/// What the consumer works with.
pub struct Consumer {
    /// Where Redis is.
    pub client: redis::Client,
    /// How its keys are named.
    pub keys: Keys,
    /// Applies.
    pub writer: Writer,
    /// Knows the cursors.
    pub reader: Reader,
    /// Learns who is there.
    pub presence: Presence,
    /// Hears what was settled.
    pub waiting: Waiting,
    /// Hears of commands that applying has made.
    pub wakes: Wakes,
    /// How often all known stores are looked at.
    pub sweep_every: Duration,
}

impl Consumer {
    /// Runs until told to stop. Redis may come and go; an error of the database ends it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = self.follow(&mut backoff) => ended,
            };
            match ended {
                Err(Failure::Redis(error)) => {
                    if self.presence.note_redis(false) {
                        tracing::warn!(%error, "Redis cannot be reached; reads go on, purchases are refused");
                    }
                }
                Err(Failure::Fatal(error)) => return Err(error),
                Ok(never) => match never {},
            }
            let wait = backoff.failed(uuid::Uuid::new_v4().as_u64_pair().0);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Follows the bells on one connection until something fails.
    async fn follow(&self, backoff: &mut Backoff) -> Result<Infallible, Failure> {
        let mut pubsub = tokio::time::timeout(shared::redis::CONNECT_TIMEOUT, self.client.get_async_pubsub())
            .await
            .map_err(|_| lost("connecting timed out"))??;
        pubsub.psubscribe(self.keys.all_bells()).await?;
        let mut bells = pubsub.into_on_message();
        let mut connection = shared::redis::connect(&self.client).await?;
        let mut due: BTreeSet<StoreId> = BTreeSet::new();
        let mut sweep = tokio::time::interval(self.sweep_every);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if due.is_empty() {
                tokio::select! {
                    _ = sweep.tick() => {
                        due.extend(self.sweep(&mut connection).await?);
                        if self.presence.note_redis(true) {
                            tracing::info!("Redis answers");
                        }
                        backoff.succeeded();
                    }
                    bell = bells.next() => due.extend(rung(bell)?),
                }
            }
            while let Some(bell) = futures_util::FutureExt::now_or_never(bells.next()) {
                due.extend(rung(bell)?);
            }
            let round: Vec<StoreId> = due.iter().take(STORES_A_ROUND).cloned().collect();
            for store in &round {
                due.remove(store);
            }
            due.extend(self.round(&mut connection, round).await?);
            if due.is_empty() && !self.presence.has_swept() {
                self.presence.note_swept();
            }
        }
    }

    /// Discovers stores and writes every known store's ack again; returns all of them.
    async fn sweep(&self, connection: &mut MultiplexedConnection) -> Result<Vec<StoreId>, Failure> {
        let members: Value = redis::cmd("SMEMBERS").arg(self.keys.stores()).query_async(connection).await.or_else(
            // A key of another type names no store; those known stay known.
            |error: redis::RedisError| {
                if error.code() == Some("WRONGTYPE") { Ok(Value::Array(Vec::new())) } else { Err(error) }
            },
        )?;
        let members = Vec::<Vec<u8>>::from_redis_value(members).unwrap_or_default();
        let mut known = self.reader.scan(stores::all).await.map_err(fatal)?;
        let present: BTreeSet<&StoreId> = known.iter().map(|store| &store.id).collect();
        let new: Vec<StoreId> = members
            .iter()
            .filter_map(|name| StoreId::parse(std::str::from_utf8(name).ok()?).ok())
            .filter(|id| !present.contains(id))
            .collect();
        if !new.is_empty() {
            let now = Millis::now();
            let discovered = new.clone();
            self.write(move |connection| discovered.iter().try_for_each(|id| stores::discover(connection, id, now)))
                .await?;
            tracing::info!(stores = ?new.iter().map(StoreId::as_str).collect::<Vec<_>>(), "discovered");
            known = self.reader.scan(stores::all).await.map_err(fatal)?;
        }
        let suspects: Vec<StoreId> = known.iter().filter(|store| store.suspect).map(|store| store.id.clone()).collect();
        if !suspects.is_empty() {
            let now = Millis::now();
            let asked = self
                .write(move |connection| {
                    suspects
                        .into_iter()
                        .filter_map(|id| match view::look_after(connection, &id, now) {
                            Ok(asked) => asked.then_some(Ok(id)),
                            Err(error) => Some(Err(error)),
                        })
                        .collect::<rusqlite::Result<Vec<_>>>()
                })
                .await?;
            asked.iter().for_each(|id| self.wakes.wake(id));
        }
        let acks: Vec<(StoreId, Ack)> = known.iter().map(|store| (store.id.clone(), store.ack())).collect();
        self.set_acks(connection, &acks).await?;
        Ok(acks.into_iter().map(|(id, _)| id).collect())
    }

    async fn set_acks(&self, connection: &mut MultiplexedConnection, acks: &[(StoreId, Ack)]) -> Result<(), Failure> {
        if acks.is_empty() {
            return Ok(());
        }
        let mut pipe = Pipeline::with_capacity(acks.len());
        for (store, ack) in acks {
            pipe.cmd("SET").arg(self.keys.events_ack(store)).arg(ack.to_string()).ignore();
        }
        pipe.query_async::<()>(connection).await?;
        Ok(())
    }

    /// Reads, applies, acknowledges. Returns the stores that have more to say.
    async fn round(&self, connection: &mut MultiplexedConnection, due: Vec<StoreId>) -> Result<Vec<StoreId>, Failure> {
        let count = (ENTRIES_A_ROUND / due.len().max(1)).clamp(64, 1_024);
        let ids = due.clone();
        let cursors: Vec<(StoreId, Cursor)> = self
            .reader
            .point(|connection| {
                ids.into_iter()
                    .map(|id| {
                        let cursor = stores::find(connection, &id)?.map_or(Cursor::default(), |store| store.cursor);
                        Ok((id, cursor))
                    })
                    .collect()
            })
            .map_err(fatal)?;
        let read_at = Millis::now();
        let looks = self.read(connection, &cursors, count).await?;
        let mut more = Vec::new();
        let mut batches: Vec<(StoreId, Vec<Received>)> = Vec::new();
        let mut current: Vec<StoreId> = Vec::new();
        for ((id, cursor), (delivery, look)) in cursors.into_iter().zip(looks) {
            self.presence.note(&id, &look);
            let entries = match delivery {
                Delivery::Entries(entries) => entries,
                Delivery::Unreadable(why) => {
                    if self.presence.note_quarantined(&id, Some(why.clone())) {
                        tracing::error!(store = %id, why, "the event stream cannot be read");
                    }
                    continue;
                }
            };
            if self.presence.note_quarantined(&id, None) {
                tracing::info!(store = %id, "the event stream can be read again");
            }
            if entries.len() == count {
                more.push(id.clone());
            }
            if !entries.is_empty() {
                batches.push((id, entries));
                continue;
            }
            self.presence.note_stuck(&id, None);
            let behind = look.beat.as_ref().filter(|beat| beat.epoch != cursor.epoch || beat.head > cursor.seq);
            let lagging = behind.map(|beat| Duration::from_millis((beat.oldest_unsent_ms + look.age_ms).max(0) as u64));
            self.presence.note_lag(&id, lagging);
            if lagging.is_none() && look.beat.is_some() {
                current.push(id);
            }
        }
        for id in current {
            self.presence.note_current(&id, read_at);
        }
        let acks = self.apply(batches, read_at, &more).await?;
        self.set_acks(connection, &acks).await?;
        Ok(more)
    }

    async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        cursors: &[(StoreId, Cursor)],
        count: usize,
    ) -> Result<Vec<(Delivery, crate::presence::Look)>, Failure> {
        if cursors.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = Pipeline::with_capacity(cursors.len() * 3);
        for (id, cursor) in cursors {
            let after = format!("({}", cursor.id());
            pipe.cmd("XRANGE").arg(self.keys.events(id)).arg(after).arg("+").arg("COUNT").arg(count);
            Presence::ask(&mut pipe, &self.keys, id);
        }
        pipe.ignore_errors();
        let replies: Vec<Value> = pipe.query_async(connection).await?;
        let mut replies = replies.into_iter();
        let mut looks = Vec::with_capacity(cursors.len());
        while let (Some(stream), Some(get), Some(pttl)) = (replies.next(), replies.next(), replies.next()) {
            looks.push((Delivery::of(stream)?, Presence::look_of(get, pttl, Millis(0))));
        }
        Ok(looks)
    }

    /// Applies all batches in one commit; each store's in a savepoint of its own, so that one that breaks stops no
    /// other (P7).
    async fn apply(
        &self,
        batches: Vec<(StoreId, Vec<Received>)>,
        now: Millis,
        more: &[StoreId],
    ) -> Result<Vec<(StoreId, Ack)>, Failure> {
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let results = self
            .write(move |connection| {
                batches
                    .into_iter()
                    .map(|(id, batch)| {
                        connection.prepare_cached("savepoint batch")?.execute([])?;
                        let result = view::receive(connection, &id, &batch, now);
                        if let Err(error) = &result {
                            if shared::sqlite::is_fatal(error) {
                                return Err(result.err().unwrap_or(rusqlite::Error::InvalidQuery));
                            }
                            connection.prepare_cached("rollback to batch")?.execute([])?;
                        }
                        connection.prepare_cached("release batch")?.execute([])?;
                        Ok((id, result))
                    })
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        let mut acks = Vec::new();
        for (id, result) in results {
            match result {
                Ok(applied) => {
                    if let Some(why) = &applied.stuck {
                        tracing::debug!(store = %id, why, "the rest of the batch does not fit");
                    }
                    let lagging = more.contains(&id) || applied.stuck.is_some();
                    self.presence.note_stuck(&id, applied.stuck);
                    self.presence.note_lag(&id, lagging.then_some(Duration::ZERO));
                    if !lagging {
                        self.presence.note_current(&id, now);
                    }
                    if applied.has_commands {
                        self.wakes.wake(&id);
                    }
                    self.waiting.settled(&applied.settled);
                    acks.push((id, applied.ack));
                }
                Err(error) => {
                    if self.presence.note_quarantined(&id, Some(error.to_string())) {
                        tracing::error!(store = %id, %error, "a batch cannot be applied");
                    }
                }
            }
        }
        self.waiting.applied();
        Ok(acks)
    }

    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        match self.writer.write(move |connection| job(connection).map_err(Abort::<Infallible>::Database)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(never)) => match never {},
            Err(WriteError::Overloaded) => Err(lost("too many writes are waiting; read again later")),
            Err(error) => Err(Failure::Fatal(anyhow::Error::new(error).context("applying events"))),
        }
    }
}

/// The store that a bell names, if it names one: anyone may ring.
fn rung(bell: Option<redis::Msg>) -> Result<Option<StoreId>, Failure> {
    let bell = bell.ok_or_else(|| lost("the bells' connection was lost"))?;
    Ok(StoreId::parse(&bell.get_payload::<String>().unwrap_or_default()).ok())
}

fn lost(why: &'static str) -> Failure {
    Failure::Redis(redis::RedisError::from((redis::ErrorKind::Io, why)))
}

/// Why following ended.
enum Failure {
    /// Wait and try again.
    Redis(redis::RedisError),
    /// The process must stop.
    Fatal(anyhow::Error),
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        Self::Redis(error)
    }
}

fn fatal(error: impl std::fmt::Display) -> Failure {
    Failure::Fatal(anyhow::anyhow!("{error}"))
}
