//! What both lanes do with stores: size, read, apply, acknowledge (L2).
//!
//! **Guarantees.** Nothing is read before its size was asked. Redis's answers are judged key by key: what it refuses for
//! one store is that store's affair. Each store's batch is applied in a savepoint of its own (P7).

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use protocol::ids::StoreId;
use protocol::link::{Ack, Cursor, Fetch, FetchReply, FetchStep, Sized, Taken};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::redis::MultiplexedConnection;
use runtime::redis::RedisError;
use runtime::redis::{Delivery, Keys, Range, Received, Size, StoreReading};

use super::Failure;
use super::ahead::{Ahead, Next};
use crate::links::presence::{Access, Presence, Reading};
use crate::links::publisher::Wakes;
use crate::links::waiting::Waiting;
use crate::projection::view;
use crate::projection::view::{Applied, Budget};
use crate::storage::stores;
use crate::storage::{Abort, Connection, Db, Error, JobResult, Weight};

/// A batch of so many entries keeps others waiting for some milliseconds.
const LONG: usize = 128;

/// What looking, reading and applying take. Cheap to clone.
#[derive(Clone)]
pub(super) struct Rounds {
    pub(super) keys: Keys,
    pub(super) db: Db,
    pub(super) presence: Presence,
    pub(super) waiting: Waiting,
    pub(super) wakes: Wakes,
}

/// A store as a look found it.
pub(super) struct Found {
    pub(super) id: StoreId,
    /// Where its view stands.
    pub(super) cursor: Cursor,
    /// How much its stream has; the error says why it cannot be read.
    pub(super) size: Result<Size, String>,
    pub(super) reading: Reading,
}

/// A store whose stream is to be read.
pub(super) struct Wanted {
    pub(super) id: StoreId,
    pub(super) cursor: Cursor,
    pub(super) reading: Reading,
    /// Entries, at most.
    pub(super) count: usize,
}

impl Rounds {
    /// Writes acks again, and reads what agents say that publish nothing.
    pub(super) async fn repeat_acks(
        &self,
        connection: &mut MultiplexedConnection,
        acks: &[(StoreId, Ack)],
    ) -> Result<(), Failure> {
        let told = runtime::redis::repeat_acks(connection, &self.keys, acks).await?;
        for ((store, _), (set, claim)) in acks.iter().zip(told) {
            self.note_access(store, Access::Ack, set);
            self.presence.note_claim(store, claim);
        }
        Ok(())
    }

    /// Writes the acks of what was applied.
    pub(super) async fn acknowledge(
        &self,
        connection: &mut MultiplexedConnection,
        acks: &[(StoreId, Ack)],
    ) -> Result<(), Failure> {
        let told = runtime::redis::acknowledge(connection, &self.keys, acks).await?;
        acks.iter().zip(told).for_each(|((store, _), set)| self.note_access(store, Access::Ack, set));
        Ok(())
    }

    /// What Redis refuses for one store is remembered there.
    fn note_access(&self, store: &StoreId, access: Access, asked: Result<(), RedisError>) {
        let why = asked.err().map(|error| error.to_string());
        if self.presence.note_access(store, access, why.clone()) {
            tracing::error!(%store, why, "Redis refuses {}", access.as_str());
        }
    }

    /// Reads of each store its heartbeat, and how much there is to read. One that is no store any more is left out.
    pub(super) async fn read_stores(
        &self,
        connection: &mut MultiplexedConnection,
        stores: &[StoreId],
    ) -> Result<Vec<Found>, Failure> {
        let cursors: Vec<(StoreId, Cursor)> = self
            .db
            .read(|connection| {
                stores
                    .iter()
                    .filter_map(|id| match stores::cursor(connection, id) {
                        Ok(cursor) => cursor.map(|cursor| Ok((id.clone(), cursor))),
                        Err(error) => Some(Err(error)),
                    })
                    .collect()
            })
            .await
            .map_err(super::fatal)?;
        let ids: Vec<StoreId> = cursors.iter().map(|(id, _)| id.clone()).collect();
        let seen = runtime::redis::read_stores(connection, &self.keys, &ids).await?;
        Ok(cursors
            .into_iter()
            .zip(seen)
            .map(|((id, cursor), StoreReading { size, reading, access })| {
                self.note_access(&id, Access::Heartbeat, access);
                self.presence.note(&id, &reading);
                Found { id, cursor, size, reading }
            })
            .collect())
    }

    /// Reads what is wanted; also says of how many entries each was asked.
    pub(super) async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        wanted: &[Wanted],
        ahead: Option<&mut Ahead>,
    ) -> Result<Vec<(Delivery, usize)>, Failure> {
        let range =
            |wanted: &Wanted| Range { store: wanted.id.clone(), after: wanted.cursor.id(), count: wanted.count };
        let mut ranges: Vec<Range> = wanted.iter().map(range).collect();
        let mut read = match ahead {
            Some(ahead) => ahead.take(&ranges).await,
            None => HashMap::new(),
        };
        ranges.retain(|range| !read.contains_key(&range.store));
        let deliveries = runtime::redis::read(connection, &self.keys, &ranges).await.map_err(unless_slow)?;
        let late = ranges.into_iter().zip(deliveries);
        read.extend(late.map(|(range, delivery)| (range.store, (delivery, range.count))));
        Ok(wanted.iter().filter_map(|wanted| read.remove(&wanted.id)).collect())
    }

    /// Carries out a round. `found`: what was looked at before, for one that begins with reading. `ahead`: for one that is
    /// followed by others over the same stores. Says whether anything was read.
    pub(super) async fn carry_out(
        &self,
        connection: &mut MultiplexedConnection,
        fetch: &mut Fetch<StoreId>,
        found: Vec<Found>,
        read_at: Millis,
        mut ahead: Option<&mut Ahead>,
    ) -> Result<bool, Failure> {
        let (mut has_read, mut is_busy) = (false, false);
        let mut found: HashMap<StoreId, Found> = by_store(found);
        let mut batches: HashMap<StoreId, Arc<Batch>> = HashMap::new();
        loop {
            let reply = match fetch.next() {
                FetchStep::Done if is_busy => return Err(Failure::Busy),
                FetchStep::Done => return Ok(has_read),
                FetchStep::Size(ids) => {
                    let looked = self.read_stores(connection, &ids).await?;
                    let sized = looked.iter().map(|found| (found.id.clone(), self.sized(found, read_at))).collect();
                    found = by_store(looked);
                    FetchReply::Sizes(sized)
                }
                FetchStep::Read(wanted) => {
                    let wanted: Vec<Wanted> = wanted
                        .into_iter()
                        .filter_map(|(id, count)| {
                            let Found { id, cursor, reading, .. } = found.remove(&id)?;
                            Some(Wanted { id, cursor, reading, count })
                        })
                        .collect();
                    has_read = true;
                    match self.read(connection, &wanted, ahead.as_deref_mut()).await {
                        Err(Failure::Slow) => {
                            fetch.reply(FetchReply::Slow);
                            return Err(Failure::Slow);
                        }
                        deliveries => {
                            let (read, next) = self.sort(wanted, deliveries?, read_at);
                            let ids = read.iter().map(|(id, ..)| id.clone()).collect();
                            if let Some(ahead) = ahead.as_deref_mut() {
                                ahead.begin(&self.keys, next);
                            }
                            batches = read.into_iter().map(|batch| (batch.0.clone(), Arc::new(batch))).collect();
                            FetchReply::Read(ids)
                        }
                    }
                }
                FetchStep::Apply(ids) => {
                    let left: Vec<Arc<Batch>> = ids.iter().filter_map(|id| batches.get(id).cloned()).collect();
                    let job = move |connection: &Connection| {
                        let left = left.iter().map(Arc::as_ref);
                        apply_some(connection, left, read_at, &mut Budget::new(Budget::FULL))
                    };
                    let rounds = self.clone();
                    // Who waits for it is woken by the thread that has written, and not only by this one once it runs.
                    let then = move |results: &Vec<Judged>| rounds.note(results, read_at);
                    match self.write_then(job, then).await {
                        Ok(results) => {
                            for (id, ..) in &results {
                                batches.remove(id);
                            }
                            FetchReply::Applied(results.iter().map(taken).collect())
                        }
                        Err(Failure::Busy) => {
                            is_busy = true;
                            FetchReply::Busy
                        }
                        Err(failure) => return Err(failure),
                    }
                }
                FetchStep::Acknowledge(acks) => {
                    self.acknowledge(connection, &acks).await?;
                    FetchReply::Acknowledged
                }
            };
            fetch.reply(reply);
        }
    }

    fn sized(&self, found: &Found, read_at: Millis) -> Sized {
        match &found.size {
            Err(why) => self.cannot_be_read(&found.id, why),
            Ok(size) if size.entries == 0 => self.has_nothing(&found.id, found.cursor, &found.reading, read_at),
            Ok(size) => return Sized::Bytes(size.bytes),
        }
        Sized::Nothing
    }

    /// What is to be applied of what was read, and what comes next of those that may have more.
    fn sort(
        &self,
        wanted: Vec<Wanted>,
        deliveries: Vec<(Delivery, usize)>,
        read_at: Millis,
    ) -> (Vec<Batch>, Vec<Next>) {
        let (mut batches, mut next) = (Vec::new(), Vec::new());
        for (Wanted { id, cursor, reading, count }, (delivery, asked)) in wanted.into_iter().zip(deliveries) {
            match delivery {
                Delivery::Entries(entries) if entries.is_empty() => self.has_nothing(&id, cursor, &reading, read_at),
                Delivery::Entries(entries) => {
                    let full = entries.len() == asked;
                    if full {
                        next.push(Next::behind(&id, &entries, count));
                    }
                    batches.push((id, entries, Observation { reading, full }));
                }
                Delivery::Unreadable(why) => self.cannot_be_read(&id, &why),
            }
        }
        (batches, next)
    }

    /// Nothing is in its stream.
    pub(super) fn has_nothing(&self, id: &StoreId, cursor: Cursor, reading: &Reading, read_at: Millis) {
        self.presence.note_stuck(id, None);
        let behind = reading
            .heartbeat
            .as_ref()
            .is_some_and(|heartbeat| (heartbeat.epoch, heartbeat.head) > (cursor.epoch, cursor.seq));
        if !behind {
            self.lift_quarantine(id);
        }
        self.presence.note_applied(id, cursor.id(), reading, read_at, false, true);
    }

    /// Its stream cannot be read.
    pub(super) fn cannot_be_read(&self, id: &StoreId, why: &str) {
        if self.presence.note_quarantined(id, Some(why.to_owned())) {
            tracing::error!(store = %id, why, "the event stream cannot be read");
        }
    }

    fn lift_quarantine(&self, id: &StoreId) {
        if self.presence.note_quarantined(id, None) {
            tracing::info!(store = %id, "the event stream can be followed again");
        }
    }

    /// Tells whom it concerns what a transaction has done.
    fn note(&self, results: &[Judged], now: Millis) {
        for (id, seen, result) in results {
            let applied = match result {
                Ok(applied) => applied,
                Err(error) => {
                    if self.presence.note_quarantined(id, Some(error.to_string())) {
                        tracing::error!(store = %id, %error, "a batch cannot be applied");
                    }
                    continue;
                }
            };
            let all = !seen.full && !applied.more && applied.stuck.is_none();
            let came = applied.entries > 0;
            self.presence.note_applied(id, applied.ack.cursor.id(), &seen.reading, now, came, all);
            if came {
                self.lift_quarantine(id);
            }
            if applied.has_steps {
                self.wakes.steps().notify_one();
            }
            if self.presence.note_stuck(id, applied.stuck.clone()) {
                let why = applied.stuck.as_deref().unwrap_or_default();
                tracing::info!(store = %id, why, "the rest of the stream does not fit");
            }
            if applied.has_commands {
                self.wakes.wake(id);
            }
            if applied.saved.seeks {
                self.wakes.seeking().notify_one();
            }
            applied.saved.asked.iter().for_each(|other| self.wakes.wake(other));
            self.waiting.settled(&applied.saved.settled);
        }
        self.waiting.applied();
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        job: impl Fn(&Connection) -> JobResult<T> + Send + 'static,
    ) -> Result<T, Failure> {
        self.write_then(job, |_| {}).await
    }

    /// The same, and `then` is called, by the thread that writes, with what the job returned once that is on disk.
    async fn write_then<T: Send + 'static>(
        &self,
        job: impl Fn(&Connection) -> JobResult<T> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, Failure> {
        let job = move |connection: &Connection| job(connection).map_err(Abort::<Infallible>::Database);
        match self.db.write_then(Weight::Light, job, then).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(never)) => match never {},
            Err(Error::Busy) => Err(Failure::Busy),
            Err(error) => Err(Failure::Fatal(anyhow::Error::new(error).context("applying events"))),
        }
    }
}

fn unless_slow(error: RedisError) -> Failure {
    if error.is_timeout() { Failure::Slow } else { error.into() }
}

fn taken((id, seen, result): &Judged) -> (StoreId, Taken) {
    let taken = match result {
        Ok(applied) => {
            // One of which nothing was applied would say the same again.
            let more = applied.more || seen.full && applied.entries > 0 && applied.stuck.is_none();
            Taken::Committed { ack: applied.ack, more }
        }
        Err(_) => Taken::Refused,
    };
    (id.clone(), taken)
}

fn by_store(found: Vec<Found>) -> HashMap<StoreId, Found> {
    found.into_iter().map(|found| (found.id.clone(), found)).collect()
}

/// What one round found of a store.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    pub reading: Reading,
    /// As many entries came as were asked for: there may be more.
    pub full: bool,
}

impl Observation {
    /// Whether the view is current after this: all that was read and all that the heartbeat announces is applied.
    fn is_current(&self, applied: &Applied) -> bool {
        let at = applied.ack.cursor;
        let reached = self
            .reading
            .heartbeat
            .as_ref()
            .is_some_and(|heartbeat| heartbeat.epoch == at.epoch && heartbeat.head <= at.seq);
        reached && !self.full && !applied.more && applied.stuck.is_none()
    }
}

/// A store's entries, and what was seen with them.
pub type Batch = (StoreId, Vec<Received>, Observation);
/// What became of it.
pub type Judged = (StoreId, Observation, JobResult<Applied>);

/// Applies batches, the shortest first, until the budget of one transaction is about spent, and says what became of those; each
/// store's in a savepoint of its own, so that one that breaks stops no other (P7). Long ones share no transaction with short
/// ones: what a till has sold is not seen later because another store sends what it has gathered for hours.
pub fn apply_some<'a>(
    connection: &Connection,
    batches: impl IntoIterator<Item = &'a Batch>,
    now: Millis,
    budget: &mut Budget,
) -> JobResult<Vec<Judged>> {
    let mut results = Vec::new();
    let mut batches: Vec<&Batch> = batches.into_iter().collect();
    batches.sort_by_key(|(_, batch, _)| batch.len());
    let has_short = batches.first().is_some_and(|(_, batch, _)| batch.len() < LONG);
    for (id, batch, seen) in batches {
        if !results.is_empty() && (budget.is_low() || has_short && batch.len() >= LONG) {
            break;
        }
        let part = runtime::sqlite::attempt(connection, || {
            let applied = view::receive(connection, id, batch, now, budget)?;
            if seen.is_current(&applied) {
                stores::note_as_of(connection, id, now.plus(seen.reading.age_ms.saturating_neg()))?;
            }
            if planted(Bug::AckBeforeCommit) { Err(Abort::Refused(Box::new(applied))) } else { Ok(applied) }
        });
        let result = match part? {
            Ok(applied) => Ok(applied),
            Err(Abort::Refused(applied)) => Ok(*applied),
            Err(Abort::Database(error)) => Err(error),
        };
        results.push((id.clone(), seen.clone(), result));
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database};

    #[test]
    fn nobody_who_says_little_waits_for_one_who_says_much() {
        let connection = database();
        let batch = |store: &str, sales: usize| -> Batch {
            let mut agent = Agent::settled(store, &connection);
            (agent.id.clone(), (0..sales).map(|_| agent.sale()).collect(), Observation::default())
        };
        let mut left = vec![batch("a", LONG + 1), batch("b", 2), batch("c", LONG), batch("d", 1), batch("e", LONG - 1)];
        let mut transactions = Vec::new();
        while !left.is_empty() {
            let done = apply_some(&connection, &left, NOW, &mut Budget::new(Budget::FULL)).expect("applies");
            left.retain(|(id, ..)| done.iter().all(|(other, ..)| other != id));
            transactions.push(done.iter().map(|(id, ..)| id.to_string()).collect::<Vec<_>>().join(" "));
        }
        assert_eq!(transactions, ["d b e", "c a"]);
    }

    #[test]
    fn a_view_is_current_only_when_all_that_is_known_is_applied() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let sale = agent.sale();
        let applied = agent.tell(&connection, &[sale]);
        let heartbeat = |head| runtime::redis::Heartbeat {
            process: 1,
            epoch: 7.into(),
            head,
            backlog: 0,
            oldest_unsent_ms: 0,
            version: String::new(),
            life_ms: 1_000,
        };
        let reading = |head| Reading { heartbeat: Some(heartbeat(head)), age_ms: 0, redis_now: NOW };
        let head = agent.head.seq;
        assert!(Observation { reading: reading(head), full: false }.is_current(&applied));
        assert!(!Observation { reading: reading(head + 1), full: false }.is_current(&applied), "more is announced");
        assert!(!Observation { reading: reading(head), full: true }.is_current(&applied), "more may be there");
        assert!(!Observation::default().is_current(&applied), "nobody says so");
        let store = agent.store(&connection);
        assert_eq!(store.as_of, protocol::time::Millis(0), "applying alone does not say so");
    }
}
