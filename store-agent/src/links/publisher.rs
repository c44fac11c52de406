//! Publishes the ledger and sends heartbeats (rules L3 to L6, L13): the driver of an [`Uplink`].
//!
//! One task, one connection, one step at a time. It wakes when something was committed, and when the uplink wants to look
//! after something. A lost Redis costs nothing but the wait: on a new connection it asks central's ack and goes on from
//! there.

use std::sync::Arc;
use std::time::Duration;

use protocol::ids::StoreId;
use protocol::link::{
    Entry, Events, Excerpt, Needs, Pace, Reply, Round, Step, Stopped, Uplink, UplinkReply, UplinkStep,
};
use protocol::time::Millis;
use runtime::clock::Ticks;
use runtime::redis::MultiplexedConnection;
use runtime::redis::{Call, Channel, Claim, HEARTBEAT_LIFE, Heartbeat, Keys};
use runtime::redis::{Client, RedisResult};
use runtime::sqlite::{Abort, Connection, Db, Error, JobResult};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::ledger;
use crate::links::connectivity::{Connectivity, Link};

/// What the publisher works with.
pub struct Publisher {
    /// Where Redis is.
    pub client: Client,
    /// How its keys are named.
    pub keys: Keys,
    pub store: StoreId,
    pub db: Db,
    /// The switch, and where it says what it found.
    pub connectivity: Connectivity,
    /// Rings at each commit.
    pub committed: Arc<Notify>,
    /// Between two heartbeats.
    pub heartbeat_every: Duration,
    /// Random number of this process.
    pub process: u64,
}

/// What was logged, so that it is logged once.
struct Logged {
    reached: Option<bool>,
    /// The store cannot be announced.
    unannounced: bool,
}

impl Publisher {
    /// Runs until told to stop, then leaves in good order.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let clock = Ticks::start();
        let mut uplink =
            Uplink::new(Pace::default(), i64::try_from(self.heartbeat_every.as_millis()).unwrap_or(i64::MAX));
        let mut logged = Logged { reached: None, unannounced: false };
        let mut connection = None;
        let mut switch = self.connectivity.watch_switch();
        loop {
            let present = *switch.borrow_and_update();
            if stop.is_cancelled() || !present.connected {
                if !present.abrupt {
                    self.leave(&mut connection, &uplink).await;
                }
                connection = None;
                uplink.disconnect();
                self.tell(&uplink);
                if stop.is_cancelled() {
                    return Ok(());
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    changed = switch.changed() => changed?,
                }
                continue;
            }
            let log = self.db.read(|connection| excerpt(connection, &uplink.needs())).await?;
            let step = uplink.next(clock.ms(), &log);
            self.tell(&uplink);
            if let UplinkStep::Wait(until) = step {
                let pause = u64::try_from(until.saturating_sub(clock.ms())).unwrap_or(0).max(1);
                tokio::select! {
                    () = self.committed.notified(), if uplink.publisher().is_live() => {}
                    () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                    () = stop.cancelled() => {}
                    changed = switch.changed() => changed?,
                }
                continue;
            }
            let told = match self.carry_out(step, &mut connection, &uplink, &mut logged).await? {
                Ok(told) => told,
                Err(error) => {
                    if logged.reached.replace(false) != Some(false) {
                        tracing::warn!(%error, "Redis cannot be reached, or refuses; the store sells on, the backlog grows");
                    }
                    connection = None;
                    UplinkReply::Lost
                }
            };
            if told.is_taken() && logged.reached.replace(true) != Some(true) {
                tracing::info!("Redis answers");
            }
            uplink.reply(clock.ms(), told, uuid::Uuid::new_v4().as_u64_pair().0);
        }
    }

    fn tell(&self, uplink: &Uplink) {
        let publisher = uplink.publisher();
        let stopped = publisher.stopped();
        if let (Some(why), None) = (stopped, self.connectivity.link().stopped) {
            tracing::error!(
                why = why.as_str(),
                "this database is not the one that central follows: it sells on, but publishes nothing; \
                 see docs/OPERATIONS.md"
            );
        }
        self.connectivity.set_link(Link { up: publisher.is_live(), stopped, acked: publisher.acked() });
    }

    /// One step. The outer error is the database's and ends the process, the inner one Redis's and ends the connection.
    async fn carry_out(
        &self,
        step: UplinkStep,
        connection: &mut Option<MultiplexedConnection>,
        uplink: &Uplink,
        logged: &mut Logged,
    ) -> anyhow::Result<RedisResult<UplinkReply>> {
        if step == UplinkStep::Connect {
            return Ok(runtime::redis::connect(&self.client).await.map(|new| {
                *connection = Some(new);
                UplinkReply::Connected
            }));
        }
        let Some(connection) = connection else { return Ok(Ok(UplinkReply::Lost)) };
        Ok(match step {
            UplinkStep::Connect | UplinkStep::Wait(_) => Ok(UplinkReply::Lost),
            UplinkStep::Announce => self.announce(connection, logged).await.map(|()| UplinkReply::Announced),
            UplinkStep::Link(step @ (Step::OpenEpoch { .. } | Step::StoreAcked(_) | Step::Wait(_))) => {
                Ok(UplinkReply::Link(self.write(step).await?))
            }
            UplinkStep::Link(step @ (Step::ReadAck | Step::Clear | Step::Publish(_))) => {
                let call = self.call(step, uplink).await?;
                // An error of one key ends this connection, too: nobody else shares it.
                let replies = runtime::redis::carry_out(connection, &[call]).await;
                replies.and_then(|replies| replies.into_iter().next().unwrap_or(Ok(Reply::Lost))).map(UplinkReply::Link)
            }
            UplinkStep::CheckHeartbeat => runtime::redis::has_heartbeat(connection, &self.keys, &self.store)
                .await
                .map(UplinkReply::HeartbeatFound),
            UplinkStep::Heartbeat => {
                let heartbeat = self
                    .db
                    .read(|connection| heartbeat_of(connection, uplink, self.process, runtime::clock::now()))
                    .await?;
                runtime::redis::set_heartbeat(connection, &self.keys, &self.store, &heartbeat)
                    .await
                    .map(|()| UplinkReply::HeartbeatSet)
            }
            UplinkStep::Claim { why, for_ms } => {
                let claim = self.claim(uplink, why, for_ms).await?;
                runtime::redis::set_claim(connection, &self.keys, &self.store, &claim)
                    .await
                    .map(|()| UplinkReply::Claimed)
            }
        })
    }

    async fn announce(&self, connection: &mut MultiplexedConnection, logged: &mut Logged) -> RedisResult<()> {
        if let Err(error) = runtime::redis::announce(connection, &self.keys, &self.store).await?
            && !std::mem::replace(&mut logged.unannounced, true)
        {
            let key = self.keys.stores();
            tracing::warn!(key, %error, "central cannot find this store here, and must know it already");
        }
        Ok(())
    }

    async fn call(&self, step: Step, uplink: &Uplink) -> anyhow::Result<Call<Events>> {
        let channel = Channel::events(&self.keys, &self.store);
        let (entries, heartbeat) = match step {
            Step::Publish(round) => {
                self.db
                    .read(|connection| {
                        let heartbeat = heartbeat_of(connection, uplink, self.process, runtime::clock::now())?;
                        Ok((entries(connection, &round)?, Some((self.keys.clone(), self.store.clone(), heartbeat))))
                    })
                    .await?
            }
            Step::ReadAck | Step::Clear | Step::OpenEpoch { .. } | Step::StoreAcked(_) | Step::Wait(_) => {
                (Vec::new(), None)
            }
        };
        Ok(Call { channel, step, entries, heartbeat })
    }

    async fn claim(&self, uplink: &Uplink, why: Option<Stopped>, for_ms: i64) -> anyhow::Result<Claim> {
        let (heartbeat, items) = self
            .db
            .read(|connection| {
                Ok((
                    heartbeat_of(connection, uplink, self.process, runtime::clock::now())?,
                    ledger::head(connection)?.items,
                ))
            })
            .await?;
        Ok(Claim {
            process: self.process,
            epoch: heartbeat.epoch,
            why: why.map_or("waiting", Stopped::as_str).to_owned(),
            items,
            backlog: heartbeat.backlog,
            for_ms: for_ms.max(0).unsigned_abs(),
            version: heartbeat.version,
        })
    }

    async fn write(&self, step: Step) -> anyhow::Result<Reply> {
        let now = runtime::clock::now();
        let written =
            self.db.write(move |connection| store_step(connection, &step, now).map_err(Abort::<()>::Database));
        match written.await {
            Ok(Ok(reply)) => Ok(reply),
            // Too much else waits: neither the acked place nor a new epoch is lost by trying again later.
            Ok(Err(())) | Err(Error::Busy) => Ok(match step {
                Step::StoreAcked(_) => Reply::Stored(false),
                Step::OpenEpoch { .. } | Step::ReadAck | Step::Clear | Step::Publish(_) | Step::Wait(_) => {
                    Reply::Refused
                }
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Leaving in good order. A failure here costs just that.
    async fn leave(&self, connection: &mut Option<MultiplexedConnection>, uplink: &Uplink) {
        let Some(connection) = connection.as_mut().filter(|_| uplink.publisher().stopped().is_none()) else { return };
        let farewell = runtime::redis::leave(connection, &self.keys, &self.store);
        if !matches!(tokio::time::timeout(Duration::from_secs(1), farewell).await, Ok(Ok(()))) {
            tracing::debug!("left without saying so: Redis did not answer");
        }
    }
}

/// What the publisher needs to know of the ledger.
pub fn excerpt(connection: &Connection, needs: &Needs) -> JobResult<Excerpt> {
    let log = ledger::Log::new(connection)?;
    let excerpt = Excerpt::of(&log, needs);
    log.failed.take().map_or(Ok(excerpt), Err)
}

/// The entries of a round, as many as fit.
pub fn entries(connection: &Connection, round: &Round) -> JobResult<Vec<Entry>> {
    if round.add_to < round.add_from {
        return Ok(Vec::new());
    }
    ledger::entries_within(connection, round.epoch, round.add_from, round.add_to, round.bytes)
}

/// Carries out a step that writes. An epoch is opened only in the log that was judged (L9).
pub fn store_step(connection: &Connection, step: &Step, now: Millis) -> JobResult<Reply> {
    match step {
        Step::OpenEpoch { judged, proven } => {
            if ledger::head(connection)?.cursor.epoch == judged.epoch {
                ledger::open_epoch(connection, *proven, now)?;
            }
            Ok(Reply::Opened)
        }
        Step::StoreAcked(place) => {
            ledger::store_acked(connection, place.epoch, place.seq)?;
            Ok(Reply::Stored(true))
        }
        Step::ReadAck | Step::Clear | Step::Publish(_) | Step::Wait(_) => Ok(Reply::Lost),
    }
}

/// The heartbeat now.
pub fn heartbeat_of(connection: &Connection, uplink: &Uplink, process: u64, now: Millis) -> JobResult<Heartbeat> {
    let backlog = ledger::backlog(connection, uplink.publisher().acked())?;
    Ok(Heartbeat {
        process,
        epoch: backlog.head.epoch,
        head: backlog.head.seq,
        backlog: backlog.entries,
        oldest_unsent_ms: backlog.oldest.map_or(0, |oldest| now.since(oldest)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        life_ms: i64::try_from(HEARTBEAT_LIFE.as_millis()).unwrap_or(i64::MAX),
    })
}
