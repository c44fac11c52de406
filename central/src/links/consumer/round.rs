//! What both lanes do with stores: look, read, apply, acknowledge (L2).
//!
//! **Guarantees.** Nothing is read before its size was asked. Redis's answers are judged key by key: what it refuses for
//! one store is that store's affair. Each store's batch is applied in a savepoint of its own (P7).

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;

use protocol::ids::StoreId;
use protocol::link::{Ack, Cursor};
use protocol::time::Millis;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use runtime::redis::{Claim, Delivery, Keys, Received, Size, get_short, is_of_the_server};
use runtime::sqlite::{Abort, Reader, WriteError, Writer};
use rusqlite::Connection;

use super::Failure;
use crate::links::presence::{Access, Look, Presence};
use crate::links::publisher::Wakes;
use crate::links::waiting::Waiting;
use crate::projection::view;
use crate::projection::view::{Applied, Budget};
use crate::storage::stores;

/// What looking, reading and applying take. Cheap to clone.
#[derive(Clone)]
pub(super) struct Rounds {
    pub(super) keys: Keys,
    pub(super) writer: Writer,
    pub(super) reader: Reader,
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
    pub(super) look: Look,
}

/// A store whose stream is to be read.
pub(super) struct Wanted {
    pub(super) id: StoreId,
    pub(super) cursor: Cursor,
    pub(super) look: Look,
    /// Entries, at most.
    pub(super) count: usize,
}

impl Rounds {
    /// Writes acks again, and reads what agents say that publish nothing.
    pub(super) async fn tell(
        &self,
        connection: &mut MultiplexedConnection,
        acks: &[(StoreId, Ack)],
    ) -> Result<(), Failure> {
        if acks.is_empty() {
            return Ok(());
        }
        let mut pipe = Pipeline::with_capacity(acks.len() * 2);
        for (store, ack) in acks {
            pipe.cmd("SET").arg(self.keys.events_ack(store)).arg(ack.to_string());
            get_short(&mut pipe, &self.keys.claim(store));
        }
        pipe.ignore_errors();
        let replies: Vec<Value> = pipe.query_async(connection).await?;
        let mut replies = replies.into_iter();
        for (store, _) in acks {
            let (Some(set), Some(claim)) = (replies.next(), replies.next()) else { break };
            self.judge(store, Access::Ack, &set)?;
            self.presence.note_claim(store, Claim::of(claim));
        }
        Ok(())
    }

    /// Writes the acks of what was applied.
    pub(super) async fn acknowledge(
        &self,
        connection: &mut MultiplexedConnection,
        acks: &[(StoreId, Ack)],
    ) -> Result<(), Failure> {
        if acks.is_empty() {
            return Ok(());
        }
        let mut pipe = Pipeline::with_capacity(acks.len());
        for (store, ack) in acks {
            pipe.cmd("SET").arg(self.keys.events_ack(store)).arg(ack.to_string());
        }
        pipe.ignore_errors();
        let replies: Vec<Value> = pipe.query_async(connection).await?;
        acks.iter().zip(&replies).try_for_each(|((store, _), reply)| self.judge(store, Access::Ack, reply))
    }

    /// What Redis refuses for one store is remembered there; what it refuses as a whole is an error.
    fn judge(&self, store: &StoreId, access: Access, reply: &Value) -> Result<(), Failure> {
        let refused = match reply {
            Value::ServerError(error) => {
                let error = RedisError::from(error.clone());
                if is_of_the_server(&error) {
                    return Err(error.into());
                }
                Some(error.to_string())
            }
            _ => None,
        };
        let why = refused.clone().unwrap_or_default();
        if self.presence.note_access(store, access, refused) {
            tracing::error!(%store, why, "Redis refuses {}", access.as_str());
        }
        Ok(())
    }

    /// Looks at stores: heartbeats, and how much there is to read. One that is no store any more is left out.
    pub(super) async fn look(
        &self,
        connection: &mut MultiplexedConnection,
        stores: &[StoreId],
    ) -> Result<Vec<Found>, Failure> {
        let cursors: Vec<(StoreId, Cursor)> = self
            .reader
            .point(|connection| {
                stores
                    .iter()
                    .filter_map(|id| match stores::find(connection, id) {
                        Ok(store) => store.map(|store| Ok((id.clone(), store.cursor))),
                        Err(error) => Some(Err(error)),
                    })
                    .collect()
            })
            .map_err(super::fatal)?;
        if cursors.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = Pipeline::with_capacity(cursors.len() * 4);
        for (id, _) in &cursors {
            Size::ask(&mut pipe, &self.keys.events(id));
            Presence::ask(&mut pipe, &self.keys, id);
        }
        pipe.ignore_errors();
        let replies: Vec<Value> = pipe.query_async(connection).await?;
        let mut replies = replies.into_iter();
        let mut found = Vec::with_capacity(cursors.len());
        for (id, cursor) in cursors {
            let (Some(memory), Some(length), Some(get), Some(pttl)) =
                (replies.next(), replies.next(), replies.next(), replies.next())
            else {
                break;
            };
            self.judge(&id, Access::Heartbeat, &get)?;
            let look = Presence::look_of(get, pttl, Millis(0));
            self.presence.note(&id, &look);
            found.push(Found { id, cursor, size: Size::of(memory, length)?, look });
        }
        Ok(found)
    }

    /// Reads streams.
    pub(super) async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        wanted: &[Wanted],
    ) -> Result<Vec<Delivery>, Failure> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = Pipeline::with_capacity(wanted.len());
        for Wanted { id, cursor, count, .. } in wanted {
            let after = format!("({}", cursor.id());
            pipe.cmd("XRANGE").arg(self.keys.events(id)).arg(after).arg("+").arg("COUNT").arg(*count);
        }
        pipe.ignore_errors();
        let replies: Vec<Value> = match pipe.query_async(connection).await {
            Err(error) if error.is_timeout() => return Err(Failure::Slow),
            replies => replies?,
        };
        Ok(replies.into_iter().map(Delivery::of).collect::<redis::RedisResult<_>>()?)
    }

    /// Applies and acknowledges what was read. Returns the stores of which something was applied or tried, and whether
    /// they have more to say.
    pub(super) async fn take_in(
        &self,
        connection: &mut MultiplexedConnection,
        wanted: Vec<Wanted>,
        deliveries: Vec<Delivery>,
        read_at: Millis,
    ) -> Result<HashMap<StoreId, bool>, Failure> {
        let mut batches: Vec<Batch> = Vec::new();
        for (Wanted { id, cursor, look, count }, delivery) in wanted.into_iter().zip(deliveries) {
            match delivery {
                Delivery::Entries(entries) if entries.is_empty() => self.has_nothing(&id, cursor, &look, read_at),
                Delivery::Entries(entries) => {
                    let seen = Seen { look, full: entries.len() == count };
                    batches.push((id, entries, seen));
                }
                Delivery::Unreadable(why) => self.cannot_be_read(&id, &why),
            }
        }
        let (acks, more) = self.apply(batches, read_at).await?;
        self.acknowledge(connection, &acks).await?;
        Ok(more)
    }

    /// Nothing is in its stream.
    pub(super) fn has_nothing(&self, id: &StoreId, cursor: Cursor, look: &Look, read_at: Millis) {
        self.presence.note_stuck(id, None);
        let behind = look.beat.as_ref().is_some_and(|beat| (beat.epoch, beat.head) > (cursor.epoch, cursor.seq));
        if !behind {
            self.lift_quarantine(id);
        }
        self.presence.note_applied(id, cursor.id(), look, read_at, true);
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

    /// Applies all batches in few commits. Returns what is to be acknowledged, and whether these stores have more to say.
    async fn apply(
        &self,
        batches: Vec<(StoreId, Vec<Received>, Seen)>,
        now: Millis,
    ) -> Result<(Vec<(StoreId, Ack)>, HashMap<StoreId, bool>), Failure> {
        if batches.is_empty() {
            return Ok((Vec::new(), HashMap::new()));
        }
        let (mut results, mut left) = (Vec::new(), VecDeque::from(batches));
        while !left.is_empty() {
            // As many stores in one commit as the budget allows: however much they have to say, nobody's write waits long.
            let (applied, rest) = self.write(move |connection| apply_some(connection, left, now)).await?;
            results.extend(applied);
            left = rest;
        }
        let (mut acks, mut more) = (Vec::new(), HashMap::new());
        for (id, seen, result) in results {
            match result {
                Ok(applied) => {
                    let all = !seen.full && !applied.more && applied.stuck.is_none();
                    self.presence.note_applied(&id, applied.ack.cursor.id(), &seen.look, now, all);
                    if applied.entries > 0 {
                        self.lift_quarantine(&id);
                    }
                    // One of which nothing was applied would say the same again.
                    let has_more = applied.more || seen.full && applied.entries > 0 && applied.stuck.is_none();
                    more.insert(id.clone(), has_more);
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

    pub(super) async fn write<T: Send + 'static>(
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
            if runtime::sqlite::is_fatal(error) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database};

    #[test]
    fn a_view_is_current_only_when_all_that_is_known_is_applied() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let sale = agent.sale();
        let applied = agent.tell(&connection, &[sale]);
        let beat = |head| runtime::redis::Beat {
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
        assert_eq!(store.as_of, protocol::time::Millis(0), "applying alone does not say so");
    }
}
