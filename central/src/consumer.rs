//! Reads all stores' streams and applies them (L2).
//!
//! News comes by the bell; a sweep of all known stores every few seconds finds what a lost bell did not say. One round
//! is one pipelined read of many streams, few commits of bounded size, one pipelined write of acks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, Value};
use rusqlite::Connection;
use shared::ids::StoreId;
use shared::link::{Ack, Cursor};
use shared::redis::{Delivery, Keys, Received};
use shared::retry::Backoff;
use shared::sqlite::{Abort, Reader, WriteError, Writer};
use shared::time::Millis;
use tokio_util::sync::CancellationToken;

use crate::presence::{Look, Presence};
use crate::publisher::Wakes;
use crate::view::{Applied, Budget};
use crate::waiting::Waiting;
use crate::{stores, view};

/// Stores looked at in one round.
const STORES_A_ROUND: usize = 256;
/// Entries read in one round, over all its stores.
const ENTRIES_A_ROUND: usize = 4_096;
/// How often what is read at once can be halved: then it is one store and one entry.
const HALVINGS: u32 = 10;
/// Rounds that must work before twice as much is read again.
const ROUNDS_TO_RECOVER: u32 = 32;
/// How long a store is left alone whose next entry alone could not be read in time.
const REST: Duration = Duration::from_secs(60);
/// When too many writes are waiting.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// The own bell may be so late at least, however often is swept.
const BELL_PATIENCE: Duration = Duration::from_secs(1);

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
        let mut pace = Pace::default();
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = self.follow(&mut backoff, &mut pace) => ended,
            };
            match ended {
                Err(Failure::Slow) => {
                    tracing::warn!(halved = pace.halved, "reading took too long; less is read at once");
                    continue;
                }
                // Only the step that was too much at once is tried again.
                Err(Failure::Busy) => {}
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
    async fn follow(&self, backoff: &mut Backoff, pace: &mut Pace) -> Result<Infallible, Failure> {
        let bells = shared::redis::subscribe(&self.client, &self.keys.all_bells()).await?;
        let mut messages = bells.into_on_message();
        let mut bell = OwnBell::new(self.sweep_every);
        let mut connection = shared::redis::connect(&self.client).await?;
        let mut due: BTreeSet<StoreId> = BTreeSet::new();
        let mut sweep = tokio::time::interval(self.sweep_every);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Stores not looked at since this connection was made.
        let mut unread: Option<BTreeSet<StoreId>> = None;
        loop {
            let mut sweeps = false;
            if due.is_empty() {
                tokio::select! {
                    _ = sweep.tick() => sweeps = true,
                    message = messages.next() => due.extend(bell.heard(message)?),
                }
            } else {
                sweeps = sweep.tick().now_or_never().is_some();
            }
            while let Some(message) = messages.next().now_or_never() {
                due.extend(bell.heard(message)?);
            }
            if sweeps {
                match self.sweep(&mut connection).await {
                    Ok(all) => {
                        bell.ring(&mut connection, &self.keys).await?;
                        unread.get_or_insert_with(|| all.iter().cloned().collect());
                        due.extend(all);
                        if self.presence.note_redis(true) {
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
            let round = pace.pick(&mut due);
            match self.round(&mut connection, &round, pace).await {
                Ok(more) => {
                    if let Some(unread) = &mut unread {
                        unread.retain(|id| more.contains(id) || (!round.contains(id) && !pace.rests(id)));
                        if unread.is_empty() && !self.presence.has_swept() {
                            self.presence.note_swept();
                        }
                    }
                    due.extend(more);
                }
                Err(Failure::Busy) => {
                    due.extend(round);
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(failure) => return Err(failure),
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
        let suspects: Vec<StoreId> =
            known.iter().filter(|store| store.wants_resync()).map(|store| store.id.clone()).collect();
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
    async fn round(
        &self,
        connection: &mut MultiplexedConnection,
        due: &[StoreId],
        pace: &mut Pace,
    ) -> Result<Vec<StoreId>, Failure> {
        let count = pace.count(due);
        let cursors: Vec<(StoreId, Cursor)> = self
            .reader
            .point(|connection| {
                due.iter()
                    .map(|id| {
                        let cursor = stores::find(connection, id)?.map_or(Cursor::default(), |store| store.cursor);
                        Ok((id.clone(), cursor))
                    })
                    .collect()
            })
            .map_err(fatal)?;
        let read_at = Millis::now();
        let looks = match self.read(connection, &cursors, count).await {
            Ok(looks) => looks,
            Err(Failure::Redis(error)) if error.is_timeout() => {
                if let Some(id) = pace.timed_out(due, count) {
                    let why = "its next entry alone cannot be read in time";
                    if self.presence.note_quarantined(&id, Some(why.to_owned())) {
                        tracing::error!(store = %id, why, "the event stream cannot be read");
                    }
                }
                return Err(Failure::Slow);
            }
            Err(failure) => return Err(failure),
        };
        pace.worked(due);
        let mut batches: Vec<(StoreId, Vec<Received>, Seen)> = Vec::new();
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
            if entries.is_empty() {
                self.presence.note_stuck(&id, None);
                let behind =
                    look.beat.as_ref().is_some_and(|beat| (beat.epoch, beat.head) > (cursor.epoch, cursor.seq));
                if !behind {
                    self.lift_quarantine(&id);
                }
                self.presence.note_applied(&id, cursor.id(), &look, read_at, true);
                continue;
            }
            let seen = Seen { look, full: entries.len() == count };
            batches.push((id, entries, seen));
        }
        let (acks, more) = self.apply(batches, read_at).await?;
        self.set_acks(connection, &acks).await?;
        Ok(more)
    }

    fn lift_quarantine(&self, id: &StoreId) {
        if self.presence.note_quarantined(id, None) {
            tracing::info!(store = %id, "the event stream can be followed again");
        }
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

    /// Applies all batches in few commits. Returns what is to be acknowledged, and the stores that have more to say.
    async fn apply(
        &self,
        batches: Vec<(StoreId, Vec<Received>, Seen)>,
        now: Millis,
    ) -> Result<(Vec<(StoreId, Ack)>, Vec<StoreId>), Failure> {
        if batches.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let (mut results, mut left) = (Vec::new(), VecDeque::from(batches));
        while !left.is_empty() {
            // As many stores in one commit as the budget allows: however much they have to say, nobody's write waits long.
            let (applied, rest) = self.write(move |connection| apply_some(connection, left, now)).await?;
            results.extend(applied);
            left = rest;
        }
        let (mut acks, mut more) = (Vec::new(), Vec::new());
        for (id, seen, result) in results {
            match result {
                Ok(applied) => {
                    let all = !seen.full && !applied.more && applied.stuck.is_none();
                    self.presence.note_applied(&id, applied.ack.cursor.id(), &seen.look, now, all);
                    if applied.entries > 0 {
                        self.lift_quarantine(&id);
                    }
                    // One of which nothing was applied would say the same again.
                    if applied.more || seen.full && applied.entries > 0 && applied.stuck.is_none() {
                        more.push(id.clone());
                    }
                    if applied.has_steps {
                        self.wakes.steps().notify_one();
                    }
                    if self.presence.note_stuck(&id, applied.stuck.clone()) {
                        let why = applied.stuck.unwrap_or_default();
                        tracing::info!(store = %id, why, "the rest of the stream does not fit");
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
        Ok((acks, more))
    }

    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        match self.writer.write(move |connection| job(connection).map_err(Abort::<Infallible>::Database)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(never)) => match never {},
            Err(WriteError::Overloaded) => Err(Failure::Busy),
            Err(error) => Err(Failure::Fatal(anyhow::Error::new(error).context("applying events"))),
        }
    }
}

/// A store's look in one round.
#[derive(Debug, Clone, Default)]
struct Seen {
    look: Look,
    /// As many entries came as were asked for: there may be more.
    full: bool,
}

impl Seen {
    /// Whether the view is current after this: all that was read and all that the beat announces is applied.
    fn is_current(&self, applied: &Applied) -> bool {
        let at = applied.ack.cursor;
        let reached = self.look.beat.as_ref().is_some_and(|beat| beat.epoch == at.epoch && beat.head <= at.seq);
        reached && !self.full && !applied.more && applied.stuck.is_none()
    }
}

/// A store's entries, and what was seen with them.
type Batch = (StoreId, Vec<Received>, Seen);
/// What became of it.
type Judged = (StoreId, Seen, rusqlite::Result<Applied>);

/// Applies batches until the budget of one transaction is about spent, and gives back the others; each store's in a
/// savepoint of its own, so that one that breaks stops no other (P7).
fn apply_some(
    connection: &Connection,
    mut batches: VecDeque<Batch>,
    now: Millis,
) -> rusqlite::Result<(Vec<Judged>, VecDeque<Batch>)> {
    let mut budget = Budget::new(Budget::FULL);
    let mut results = Vec::new();
    while !budget.is_low()
        && let Some((id, batch, seen)) = batches.pop_front()
    {
        connection.prepare_cached("savepoint batch")?.execute([])?;
        let result = view::receive(connection, &id, &batch, now, &mut budget);
        if let Err(error) = &result {
            if shared::sqlite::is_fatal(error) {
                return Err(result.err().unwrap_or(rusqlite::Error::InvalidQuery));
            }
            connection.prepare_cached("rollback to batch")?.execute([])?;
        }
        if let Ok(applied) = &result
            && seen.is_current(applied)
        {
            stores::note_as_of(connection, &id, now)?;
        }
        connection.prepare_cached("release batch")?.execute([])?;
        results.push((id, seen, result));
    }
    Ok((results, batches))
}

/// How much is read at once. Entries are of any size: what took too long is tried again with half of it, down to one
/// store and one entry; a store that fails even so is left alone for a while, so that it keeps up no other (P7).
#[derive(Debug, Default)]
struct Pace {
    halved: u32,
    worked: u32,
    resting: BTreeMap<StoreId, Instant>,
    /// The last store of the round before: the next begins behind it, so that none waits for those that always have more.
    turn: Option<StoreId>,
}

impl Pace {
    /// Takes the next round's stores out of those that are due.
    fn pick(&mut self, due: &mut BTreeSet<StoreId>) -> Vec<StoreId> {
        due.retain(|id| !self.rests(id));
        // One that has rested is tried alone.
        if let Some(id) = self.resting.keys().find(|id| due.contains(*id)).cloned() {
            due.remove(&id);
            return vec![id];
        }
        let turn = self.turn.take();
        let is_behind = |id: &&StoreId| turn.as_ref().is_none_or(|turn| *id > turn);
        let (behind, before) = (due.iter().filter(is_behind), due.iter().filter(|id| !is_behind(id)));
        let round: Vec<StoreId> = behind.chain(before).take((STORES_A_ROUND >> self.halved).max(1)).cloned().collect();
        for id in &round {
            due.remove(id);
        }
        self.turn = round.last().cloned();
        round
    }

    fn rests(&self, id: &StoreId) -> bool {
        self.resting.get(id).is_some_and(|until| Instant::now() < *until)
    }

    /// Entries to ask each store for.
    fn count(&self, round: &[StoreId]) -> usize {
        if round.iter().any(|id| self.resting.contains_key(id)) {
            return 1;
        }
        ((ENTRIES_A_ROUND / round.len().max(1)).clamp(64, 1_024) >> self.halved).max(1)
    }

    fn worked(&mut self, round: &[StoreId]) {
        if round.is_empty() {
            return;
        }
        for id in round {
            self.resting.remove(id);
        }
        self.worked += 1;
        if self.worked >= ROUNDS_TO_RECOVER {
            self.worked = 0;
            self.halved = self.halved.saturating_sub(1);
        }
    }

    /// Names the store that failed alone, if it did.
    fn timed_out(&mut self, round: &[StoreId], count: usize) -> Option<StoreId> {
        self.worked = 0;
        if let ([id], 1) = (round, count) {
            self.resting.insert(id.clone(), Instant::now() + REST);
            self.halved = 0;
            return Some(id.clone());
        }
        self.halved = (self.halved + 1).min(HALVINGS);
        None
    }
}

/// The bell that central rings for itself: a connection that is dead at the other end says nothing, as one on which
/// nobody rings.
struct OwnBell {
    /// No store has this name.
    message: String,
    patience: Duration,
    /// The first ring that was not heard.
    rung_at: Option<Instant>,
}

impl OwnBell {
    fn new(sweep_every: Duration) -> Self {
        let message = format!("#{}", uuid::Uuid::new_v4().simple());
        Self { message, patience: (2 * sweep_every).max(BELL_PATIENCE), rung_at: None }
    }

    fn is_deaf(&self) -> bool {
        self.rung_at.is_some_and(|at| at.elapsed() > self.patience)
    }

    /// Rings, unless an earlier ring should have been heard by now.
    async fn ring(&mut self, connection: &mut MultiplexedConnection, keys: &Keys) -> Result<(), Failure> {
        if self.is_deaf() {
            return Err(lost("the bells are not heard"));
        }
        let rung: redis::RedisResult<i64> =
            redis::cmd("PUBLISH").arg(keys.own_bell()).arg(&self.message).query_async(connection).await;
        match rung {
            Ok(_) => {
                self.rung_at.get_or_insert_with(Instant::now);
                Ok(())
            }
            // Not allowed to: then the sweeps must do.
            Err(error) if error.code() == Some("NOPERM") => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The store that a bell names, if it names one: anyone may ring.
    fn heard(&mut self, message: Option<redis::Msg>) -> Result<Option<StoreId>, Failure> {
        let message = message.ok_or_else(|| lost("the bells' connection was lost"))?;
        Ok(self.says(&message.get_payload::<String>().unwrap_or_default()))
    }

    fn says(&mut self, text: &str) -> Option<StoreId> {
        if text == self.message {
            self.rung_at = None;
        }
        StoreId::parse(text).ok()
    }
}

fn lost(why: &'static str) -> Failure {
    Failure::Redis(redis::RedisError::from((redis::ErrorKind::Io, why)))
}

/// Why following ended.
enum Failure {
    /// Wait and try again.
    Redis(redis::RedisError),
    /// Reading took too long; try again with less at once.
    Slow,
    /// Too many writes are waiting; try again in a moment.
    Busy,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database};

    fn stores(count: usize) -> BTreeSet<StoreId> {
        (0..count).map(|number| StoreId::parse(&format!("s{number:03}")).expect("valid")).collect()
    }

    #[test]
    fn a_read_that_takes_too_long_is_halved_until_one_store_fails_alone() {
        let mut pace = Pace::default();
        let mut due = stores(300);
        let mut steps = 0;
        let culprit = loop {
            let mut again = due.clone();
            let round = pace.pick(&mut again);
            let count = pace.count(&round);
            // The first one's entries are too large.
            steps += 1;
            if let Some(culprit) = pace.timed_out(&round, count) {
                assert_eq!((round.len(), count), (1, 1));
                break culprit;
            }
            assert!(steps <= 11, "it gets there: {} stores, {count} entries", round.len());
        };
        assert!(pace.rests(&culprit));
        let round = pace.pick(&mut due);
        assert_eq!((round.len(), round.contains(&culprit), pace.count(&round)), (256, false, 64));
        // Once it has rested it is tried alone, with one entry.
        pace.resting.insert(culprit.clone(), Instant::now());
        due.insert(culprit.clone());
        let round = pace.pick(&mut due);
        assert_eq!((&round, pace.count(&round)), (&vec![culprit.clone()], 1));
        pace.worked(&round);
        assert_eq!(pace.count(&round), 1_024);
    }

    #[test]
    fn what_is_read_at_once_recovers() {
        let mut pace = Pace::default();
        let mut due = stores(2);
        let round = pace.pick(&mut due);
        pace.timed_out(&round, 1_024);
        assert_eq!(pace.count(&round), 512);
        for _ in 0..ROUNDS_TO_RECOVER {
            pace.worked(&round);
        }
        assert_eq!(pace.count(&round), 1_024);
    }

    #[test]
    fn a_bell_that_is_not_heard_tells_that_the_connection_is_dead() {
        let mut bell = OwnBell::new(Duration::from_secs(2));
        assert!(!bell.is_deaf());
        bell.rung_at = Instant::now().checked_sub(Duration::from_secs(5));
        assert_eq!(bell.says("s1"), StoreId::parse("s1").ok());
        assert!(bell.is_deaf());
        let own = bell.message.clone();
        assert_eq!(bell.says(&own), None, "it means no store");
        assert!(!bell.is_deaf());
    }

    #[test]
    fn a_view_is_current_only_when_all_that_is_known_is_applied() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let sale = agent.sale();
        let applied = agent.tell(&connection, &[sale]);
        let beat = |head| shared::redis::Beat {
            process: 1,
            epoch: 7,
            head,
            backlog: 0,
            oldest_unsent_ms: 0,
            version: String::new(),
            life_ms: 1_000,
        };
        let look = |head| Look { beat: Some(beat(head)), age_ms: 0, redis_now: NOW };
        let head = agent.head.seq;
        assert!(Seen { look: look(head), full: false }.is_current(&applied));
        assert!(!Seen { look: look(head + 1), full: false }.is_current(&applied), "more is announced");
        assert!(!Seen { look: look(head), full: true }.is_current(&applied), "more may be there");
        assert!(!Seen::default().is_current(&applied), "nobody says so");
        let store = agent.store(&connection);
        assert_eq!(store.as_of, shared::time::Millis(0), "applying alone does not say so");
    }
}
