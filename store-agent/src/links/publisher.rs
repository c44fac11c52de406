//! Publishes the ledger and beats the heart (rules L3 to L6, L13).
//!
//! One task, one connection, one step at a time. It wakes when something was committed, when the sender wants to look
//! after what is not acknowledged, and when a beat is due. A lost Redis costs nothing but the wait: on a new
//! connection it asks central's ack and goes on from there.

use std::sync::Arc;
use std::time::Duration;

use protocol::ids::StoreId;
use protocol::link::{Cursor, Entry, EntryId, Round, Sender, Step, TICK_MS};
use protocol::retry::Backoff;
use redis::aio::MultiplexedConnection;
use redis::{Client, Pipeline, RedisResult};
use runtime::clock::Ticks;
use runtime::redis::{BEAT_LIFE, Beat, CLAIM_LIFE, Channel, Claim, Keys};
use runtime::sqlite::{Abort, Connection, JobResult, Reader, WriteError, Writer};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::ledger;
use crate::links::connectivity::{Connectivity, Link};

/// Between two claims: several within the life of their key.
const CLAIM_EVERY_MS: i64 = 4_000;
/// Between two writes of how far central has acknowledged.
const ACKED_EVERY_MS: i64 = 1_000;
/// Body bytes of one round, at most: a round must be through within the time-out of its answer.
const ROUND_BYTES: usize = 512 << 10;
/// By so much the next round may carry more after one that went well; after one that did not it carries half. So an
/// uplink of any speed makes progress, as long as this much gets through in time.
const ROUND_BYTES_LEAST: usize = 16 << 10;

/// What the publisher works with.
pub struct Publisher {
    /// Where Redis is.
    pub client: Client,
    /// How its keys are named.
    pub keys: Keys,
    /// Whose ledger.
    pub store: StoreId,
    /// Opens epochs.
    pub writer: Writer,
    /// Reads the ledger.
    pub reader: Reader,
    /// The switch, and where it says what it found.
    pub connectivity: Connectivity,
    /// Rings at each commit.
    pub committed: Arc<Notify>,
    /// Between two beats.
    pub beat_every: Duration,
    /// Random number of this process.
    pub process: u64,
}

/// What lives as long as the process. Times are `clock`'s.
struct State {
    clock: Ticks,
    sender: Sender,
    backoff: Backoff,
    /// What central has acknowledged, as far as this process knows.
    acked: Option<EntryId>,
    unsaved_ack: Option<EntryId>,
    acked_saved_at: i64,
    beaten_at: i64,
    looked_at: i64,
    /// Since when nothing is published, while Redis answers.
    aside_since: Option<i64>,
    claimed_at: i64,
    reached: bool,
    /// Body bytes that the next round may carry.
    round_bytes: usize,
    warned_of_stores: bool,
}

impl Publisher {
    /// Runs until told to stop, then leaves in good order.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut state = State {
            clock: Ticks::start(),
            sender: Sender::default(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
            acked: None,
            unsaved_ack: None,
            acked_saved_at: Ticks::LONG_AGO,
            beaten_at: Ticks::LONG_AGO,
            looked_at: Ticks::LONG_AGO,
            aside_since: None,
            claimed_at: Ticks::LONG_AGO,
            reached: true,
            round_bytes: ROUND_BYTES,
            warned_of_stores: false,
        };
        let mut connection = None;
        let mut switch = self.connectivity.watch_switch();
        loop {
            let present = *switch.borrow_and_update();
            if stop.is_cancelled() || !present.connected {
                if !present.abrupt {
                    self.leave(&mut connection, &state).await;
                }
                connection = None;
                state.sender.failed();
                self.tell(&state, false);
                if stop.is_cancelled() {
                    return Ok(());
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    changed = switch.changed() => changed?,
                }
                continue;
            }
            let interrupted = || stop.is_cancelled() || switch.has_changed().unwrap_or(true);
            match self.advance(&mut connection, &mut state, interrupted).await? {
                Ok(wait) => {
                    self.tell(&state, state.sender.is_live());
                    tokio::select! {
                        () = self.committed.notified(), if state.sender.is_live() => {}
                        () = tokio::time::sleep(wait) => {}
                        () = stop.cancelled() => {}
                        changed = switch.changed() => changed?,
                    }
                }
                Err(error) => {
                    if state.reached {
                        tracing::warn!(%error, "Redis cannot be reached; the store sells on, the backlog grows");
                    }
                    state.reached = false;
                    connection = None;
                    state.sender.failed();
                    self.tell(&state, false);
                    let wait = state.backoff.failed(uuid::Uuid::new_v4().as_u64_pair().0);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = stop.cancelled() => {}
                        changed = switch.changed() => changed?,
                    }
                }
            }
        }
    }

    fn tell(&self, state: &State, up: bool) {
        let stopped = state.sender.stopped();
        let before = self.connectivity.link();
        if let (Some(why), None) = (stopped, before.stopped) {
            tracing::error!(
                why = why.as_str(),
                "this database is not the one that central follows: it sells on, but publishes nothing; \
                 see docs/OPERATIONS.md"
            );
        }
        self.connectivity.set_link(Link { up, stopped, acked: state.acked });
    }

    /// Steps until there is nothing to do, or until it is interrupted; returns for how long. The outer error is the
    /// database's and ends the process, the inner one Redis's.
    async fn advance(
        &self,
        connection: &mut Option<MultiplexedConnection>,
        state: &mut State,
        interrupted: impl Fn() -> bool,
    ) -> anyhow::Result<RedisResult<Duration>> {
        if connection.is_none() {
            match self.connect(state).await {
                Ok(new) => *connection = Some(new),
                Err(error) => return Ok(Err(error)),
            }
        }
        let Some(connection) = connection else { return Ok(Ok(Duration::ZERO)) };
        loop {
            let now = state.clock.ms();
            let step = self.with_log(|log| state.sender.next(now, log))?;
            let done = match step {
                Step::Wait(until) => {
                    self.remember(state).await?;
                    if let Err(error) = self.beat_if_due(connection, state).await? {
                        return Ok(Err(error));
                    }
                    if let Err(error) = self.claim_if_due(connection, state).await? {
                        return Ok(Err(error));
                    }
                    return Ok(Ok(self.pause(state, until)));
                }
                Step::OpenEpoch { proven } => {
                    self.open_epoch(proven).await?;
                    state.sender.epoch_opened();
                    continue;
                }
                Step::ReadAck => match self.channel().read_ack(connection).await {
                    Ok(ack) => {
                        // Redis and central may both have begun anew, which is how central hears of the store again.
                        if ack.is_none()
                            && let Err(error) = self.announce(connection, state).await
                        {
                            return Ok(Err(error));
                        }
                        Ok(self.judge(|log| state.sender.ack_read(state.clock.ms(), ack, log))?)
                    }
                    Err(error) => Err(error),
                },
                Step::Clear => self.channel().clear(connection).await.map(|()| {
                    state.sender.cleared();
                    None
                }),
                Step::Publish(round) => self.publish(connection, state, round).await?,
            };
            match done {
                Ok(moved) => {
                    if !state.reached {
                        tracing::info!("Redis answers again");
                    }
                    state.reached = true;
                    state.backoff.succeeded();
                    if let Some(place) = moved {
                        state.acked = Some(place);
                        state.unsaved_ack = Some(place);
                    }
                    self.remember(state).await?;
                }
                Err(error) => return Ok(Err(error)),
            }
            // While commits keep coming there is always something to do.
            self.tell(state, state.sender.is_live());
            if interrupted() {
                return Ok(Ok(Duration::ZERO));
            }
        }
    }

    async fn connect(&self, state: &mut State) -> RedisResult<MultiplexedConnection> {
        let mut connection = runtime::redis::connect(&self.client).await?;
        self.announce(&mut connection, state).await?;
        Ok(connection)
    }

    /// How central discovers the store. The key may have been wiped, so it is said again now and then. Where central has
    /// a list of its own the agent needs no right to the key; one that is no set is for people to delete.
    async fn announce(&self, connection: &mut MultiplexedConnection, state: &mut State) -> RedisResult<()> {
        let key = self.keys.stores();
        match redis::cmd("SADD").arg(&key).arg(self.store.as_str()).query_async(connection).await {
            Err(error) if matches!(error.code(), Some("WRONGTYPE" | "NOPERM")) => {
                if !std::mem::replace(&mut state.warned_of_stores, true) {
                    tracing::warn!(key, %error, "central cannot find this store here, and must know it already");
                }
                Ok(())
            }
            said => said,
        }
    }

    fn channel(&self) -> Channel {
        Channel::events(&self.keys, &self.store)
    }

    fn with_log<T>(&self, judge: impl FnOnce(&ledger::Log<'_>) -> T) -> anyhow::Result<T> {
        Ok(self.reader.point(|connection| {
            let log = ledger::Log::new(connection)?;
            let judged = judge(&log);
            log.failed.take().map_or(Ok(judged), Err)
        })?)
    }

    /// Judges an ack; returns the acknowledged place if it has moved.
    fn judge(&self, judge: impl FnOnce(&ledger::Log<'_>) -> Option<u64>) -> anyhow::Result<Option<EntryId>> {
        self.with_log(|log| judge(log).map(|seq| EntryId { epoch: log.head.epoch, seq }))
    }

    async fn publish(
        &self,
        connection: &mut MultiplexedConnection,
        state: &mut State,
        round: Round,
    ) -> anyhow::Result<RedisResult<Option<EntryId>>> {
        let entries: Vec<Entry> = if round.add_to < round.add_from {
            Vec::new()
        } else {
            self.reader.point(|connection| {
                let epoch = ledger::head(connection)?.cursor.epoch;
                ledger::entries_within(connection, epoch, round.add_from, round.add_to, state.round_bytes)
            })?
        };
        // What does not fit is for the next round.
        let round = Round { add_to: entries.last().map_or(round.add_to, |last| last.id.seq), ..round };
        let beat = self.beat(state)?;
        let reply = self
            .channel()
            .publish(connection, &round, &entries, |pipe| {
                self.set_beat(pipe, &beat);
            })
            .await;
        Ok(match reply {
            Ok(reply) => {
                state.round_bytes = (state.round_bytes + ROUND_BYTES_LEAST).min(ROUND_BYTES);
                state.beaten_at = state.clock.ms();
                Ok(self.judge(|log| state.sender.round_done(state.clock.ms(), &round, &reply, log))?)
            }
            Err(error) => {
                state.round_bytes = (state.round_bytes / 2).max(ROUND_BYTES_LEAST);
                Err(error)
            }
        })
    }

    fn beat(&self, state: &State) -> anyhow::Result<Beat> {
        let (head, backlog) = self
            .reader
            .point(|connection| Ok((ledger::head(connection)?, ledger::backlog(connection, state.acked)?)))?;
        let now = runtime::clock::now();
        Ok(Beat {
            process: self.process,
            epoch: head.cursor.epoch,
            head: head.cursor.seq,
            backlog: backlog.entries,
            oldest_unsent_ms: backlog.oldest.map_or(0, |oldest| now.since(oldest)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            life_ms: i64::try_from(BEAT_LIFE.as_millis()).unwrap_or(i64::MAX),
        })
    }

    fn set_beat(&self, pipe: &mut Pipeline, beat: &Beat) {
        let text = serde_json::to_string(beat).expect("a beat serialises");
        pipe.cmd("SET").arg(self.keys.heartbeat(&self.store)).arg(text).arg("PX").arg(beat.life_ms);
    }

    /// A beat when one is due, or when the key is gone. A stopped agent beats no heart.
    async fn beat_if_due(
        &self,
        connection: &mut MultiplexedConnection,
        state: &mut State,
    ) -> anyhow::Result<RedisResult<()>> {
        let now = state.clock.ms();
        let every = i64::try_from(self.beat_every.as_millis()).unwrap_or(i64::MAX);
        let look_due = now - state.looked_at >= every.min(TICK_MS);
        if !state.sender.is_live() || !(look_due || now - state.beaten_at >= every) {
            return Ok(Ok(()));
        }
        state.looked_at = now;
        let key = self.keys.heartbeat(&self.store);
        let left: RedisResult<i64> = redis::cmd("PTTL").arg(&key).query_async(connection).await;
        let gone = match left {
            Ok(left) => left < 0,
            Err(error) => return Ok(Err(error)),
        };
        if !gone && now - state.beaten_at < every {
            return Ok(Ok(()));
        }
        let beat = self.beat(state)?;
        let mut pipe = Pipeline::new();
        self.set_beat(&mut pipe, &beat);
        pipe.cmd("PUBLISH").arg(self.keys.bell(&self.store)).arg(self.store.as_str());
        let result = pipe.query_async::<()>(connection).await;
        if result.is_ok() {
            state.beaten_at = now;
            if gone {
                return Ok(self.announce(connection, state).await);
            }
        }
        Ok(result)
    }

    /// An agent that publishes nothing says that it is there, in a key of its own: a heartbeat belongs to the agent that
    /// central follows. So central finds a new store before its first word to it, and people see an agent that has
    /// stopped itself.
    async fn claim_if_due(
        &self,
        connection: &mut MultiplexedConnection,
        state: &mut State,
    ) -> anyhow::Result<RedisResult<()>> {
        if state.sender.is_live() {
            state.aside_since = None;
            return Ok(Ok(()));
        }
        let now = state.clock.ms();
        let since = *state.aside_since.get_or_insert(now);
        if now - state.claimed_at < CLAIM_EVERY_MS {
            return Ok(Ok(()));
        }
        let beat = self.beat(state)?;
        let claim = Claim {
            process: self.process,
            epoch: beat.epoch,
            why: state.sender.stopped().map_or("waiting", |why| why.as_str()).to_owned(),
            items: self.reader.point(ledger::head)?.items,
            backlog: beat.backlog,
            for_ms: (now - since).max(0).unsigned_abs(),
            version: beat.version,
        };
        let text = serde_json::to_string(&claim).expect("a claim serialises");
        let mut set = redis::cmd("SET");
        set.arg(self.keys.claim(&self.store)).arg(text).arg("PX").arg(CLAIM_LIFE.as_millis() as u64);
        let said = set.query_async::<()>(connection).await;
        state.claimed_at = now;
        match said {
            // People see less; nothing else depends on it once the store is known.
            Err(error) if !runtime::redis::is_of_the_server(&error) => tracing::debug!(%error, "it may not claim"),
            Err(error) => return Ok(Err(error)),
            Ok(()) => {}
        }
        Ok(Ok(()))
    }

    fn pause(&self, state: &State, until: Option<i64>) -> Duration {
        let beat = self.beat_every.min(Duration::from_millis(TICK_MS as u64));
        let until = until.map(|until| Duration::from_millis((until - state.clock.ms()).max(1) as u64));
        until.map_or(beat, |until| until.min(beat))
    }

    /// L9: the ledger does not reach back to what central knows.
    async fn open_epoch(&self, proven: Option<Cursor>) -> anyhow::Result<()> {
        self.write(move |connection| ledger::open_epoch(connection, proven, runtime::clock::now()).map(|_| ())).await?;
        Ok(())
    }

    /// Stores the acknowledged place now and then: it decides what may be pruned, and what a restart begins with.
    async fn remember(&self, state: &mut State) -> anyhow::Result<()> {
        let now = state.clock.ms();
        let Some(place) = state.unsaved_ack.filter(|_| now - state.acked_saved_at >= ACKED_EVERY_MS) else {
            return Ok(());
        };
        state.acked_saved_at = now;
        if self.write(move |connection| ledger::store_acked(connection, place.epoch, place.seq)).await? {
            state.unsaved_ack = None;
        }
        Ok(())
    }

    /// Says whether it was written. If too much else waits neither the acked place nor a new epoch is lost by trying
    /// again at the next step.
    async fn write(&self, job: impl FnOnce(&Connection) -> JobResult<()> + Send + 'static) -> anyhow::Result<bool> {
        match self.writer.write(move |connection| job(connection).map_err(Abort::<()>::Database)).await {
            Ok(_) => Ok(true),
            Err(WriteError::Overloaded) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Leaving in good order: central refuses purchases at once instead of waiting for the beat to grow old. A failure
    /// here costs just that.
    async fn leave(&self, connection: &mut Option<MultiplexedConnection>, state: &State) {
        let Some(connection) = connection.as_mut().filter(|_| state.sender.stopped().is_none()) else { return };
        let mut pipe = Pipeline::new();
        pipe.cmd("DEL").arg(self.keys.heartbeat(&self.store)).ignore();
        pipe.cmd("PUBLISH").arg(self.keys.bell(&self.store)).arg(self.store.as_str()).ignore();
        let farewell = pipe.query_async::<()>(connection);
        if !matches!(tokio::time::timeout(Duration::from_secs(1), farewell).await, Ok(Ok(()))) {
            tracing::debug!("left without saying so: Redis did not answer");
        }
    }
}
