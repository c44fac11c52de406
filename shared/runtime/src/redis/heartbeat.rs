//! The heartbeat and the claim (L13): what an agent says of itself, and how central reads it.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{FromRedisValue, Pipeline, RedisResult, Value};
use serde::{Deserialize, Serialize};

use super::bells::ring;
use super::{Keys, expected, get_short, is_of_the_server, judged, stream, text_of};
use protocol::ids::StoreId;
use protocol::number::{Epoch, Seq};
use protocol::time::Millis;

/// Life of a heartbeat's key. Far beyond the age at which a store counts as stale, so that its age can still be told.
pub const HEARTBEAT_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of a [`Claim`]'s key: an agent that is gone claims nothing.
const CLAIM_LIFE: Duration = Duration::from_secs(15);

/// What a heartbeat says. Its age is [`HEARTBEAT_LIFE`] less the key's remaining time: Redis's clock alone decides (P8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// Random number of the agent's process: two that alternate are two agents.
    pub process: u64,
    /// The ledger's epoch.
    pub epoch: Epoch,
    /// Its last entry.
    pub head: Seq,
    /// Entries not acknowledged.
    pub backlog: u64,
    /// Age of the oldest of them, ms.
    pub oldest_unsent_ms: i64,
    /// Version of the agent.
    pub version: String,
    /// Life with which the key was set, ms.
    pub life_ms: i64,
}

/// What an agent says of itself that publishes nothing and sends no heartbeat: one that waits for central's first word, or
/// that has stopped itself (L6). Of several under one id the last to write is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Random number of the agent's process.
    pub process: u64,
    /// Its ledger's epoch.
    pub epoch: Epoch,
    /// `waiting`, or why it has stopped: `fenced`, `superseded`, `diverged`.
    pub why: String,
    /// Items that its database has.
    pub items: u64,
    /// Entries that central has not acknowledged.
    pub backlog: u64,
    /// For how long it has stood so, ms.
    pub for_ms: u64,
    /// Version of the agent.
    pub version: String,
}

impl Claim {
    /// Reads the reply to [`get_short`]. A value that is no claim is as good as none.
    pub(super) fn of(reply: Value) -> Option<Self> {
        serde_json::from_str(&text_of(reply)?).ok()
    }
}

/// `SET ... PX` of a heartbeat.
pub(super) fn set(pipe: &mut Pipeline, keys: &Keys, store: &StoreId, heartbeat: &Heartbeat) {
    let text = serde_json::to_string(heartbeat).expect("a heartbeat serialises");
    pipe.cmd("SET").arg(keys.heartbeat(store)).arg(text).arg("PX").arg(heartbeat.life_ms);
}

/// Sets the heartbeat, and rings so that central looks.
pub async fn set_heartbeat(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    store: &StoreId,
    heartbeat: &Heartbeat,
) -> RedisResult<()> {
    let mut pipe = Pipeline::with_capacity(2);
    set(&mut pipe, keys, store, heartbeat);
    ring(&mut pipe, keys, store);
    pipe.query_async(connection).await
}

/// Whether the heartbeat's key is there.
pub async fn has_heartbeat(connection: &mut MultiplexedConnection, keys: &Keys, store: &StoreId) -> RedisResult<bool> {
    let left: i64 = ::redis::cmd("PTTL").arg(keys.heartbeat(store)).query_async(connection).await?;
    Ok(left >= 0)
}

/// Deletes the heartbeat and rings: central refuses purchases at once instead of waiting for the heartbeat to grow old.
pub async fn leave(connection: &mut MultiplexedConnection, keys: &Keys, store: &StoreId) -> RedisResult<()> {
    let mut pipe = Pipeline::with_capacity(2);
    pipe.cmd("DEL").arg(keys.heartbeat(store));
    ring(&mut pipe, keys, store);
    pipe.ignore_errors();
    pipe.query_async::<Vec<Value>>(connection).await.map(|_| ())
}

/// Sets the claim. One that Redis refuses is left unsaid: people see less, nothing else depends on it once the store is
/// known.
pub async fn set_claim(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    store: &StoreId,
    claim: &Claim,
) -> RedisResult<()> {
    let text = serde_json::to_string(claim).expect("a claim serialises");
    let mut set = ::redis::cmd("SET");
    set.arg(keys.claim(store)).arg(text).arg("PX").arg(CLAIM_LIFE.as_millis() as u64);
    match set.query_async::<()>(connection).await {
        Err(error) if !is_of_the_server(&error) => {
            tracing::debug!(%error, "it may not claim");
            Ok(())
        }
        said => said,
    }
}

/// A store's heartbeat as read at one moment.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The heartbeat, if its key is there.
    pub heartbeat: Option<Heartbeat>,
    /// Its age by Redis's clock, ms.
    pub age_ms: i64,
    /// Redis's clock at that moment.
    pub redis_now: Millis,
}

impl Reading {
    /// The two commands whose replies [`Reading::of`] reads.
    pub(super) fn ask(pipe: &mut Pipeline, keys: &Keys, store: &StoreId) {
        let key = keys.heartbeat(store);
        get_short(pipe, &key);
        pipe.cmd("PTTL").arg(&key);
    }

    /// A value that is no heartbeat is as good as none.
    pub fn of(get: Value, pttl: Value, redis_now: Millis) -> Self {
        let heartbeat = text_of(get).and_then(|text| serde_json::from_str::<Heartbeat>(&text).ok());
        let left = i64::from_redis_value(pttl).unwrap_or(-2);
        match heartbeat {
            Some(heartbeat) if left >= 0 => {
                let age_ms = heartbeat.life_ms.saturating_sub(left).max(0);
                Self { heartbeat: Some(heartbeat), age_ms, redis_now }
            }
            Some(_) | None => Self { heartbeat: None, age_ms: 0, redis_now },
        }
    }

    /// Reads one store's heartbeat, and the clock of the server that has it. What Redis refuses for this store's key counts
    /// as no heartbeat; the error is one of the server or the connection.
    pub async fn read(connection: &mut MultiplexedConnection, keys: &Keys, store: &StoreId) -> RedisResult<Self> {
        let mut pipe = Pipeline::with_capacity(3);
        Self::ask(&mut pipe, keys, store);
        pipe.cmd("TIME");
        pipe.ignore_errors();
        let mut replies = pipe.query_async::<Vec<Value>>(connection).await?.into_iter();
        let mut next = || expected(replies.next()).and_then(judged);
        let (Ok(get), Ok(pttl), Ok(time)) = (next()?, next()?, next()?) else { return Ok(Self::default()) };
        Ok(Self::of(get, pttl, stream::time_of(time)?))
    }
}
