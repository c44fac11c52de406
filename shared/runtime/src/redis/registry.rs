//! The set of all stores' names: how central hears of new ones.

use ::redis::aio::MultiplexedConnection;
use ::redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Value};

use super::{Claim, Keys, Reading, Size, expected, get_short, judged};
use protocol::ids::StoreId;
use protocol::time::Millis;

/// Ids take less: then the set holds something else, and is not read.
const ID_BYTES: u64 = 512;
/// Members of the set that Redis looks at to tell its size.
const SAMPLES: u32 = 1_000;

/// Enters a store. The inner error is no hindrance: where central has a list of its own the agent needs no right to the
/// key, and one that is no set is for people to delete.
pub async fn announce(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    store: &StoreId,
) -> RedisResult<Result<(), RedisError>> {
    match ::redis::cmd("SADD").arg(keys.stores()).arg(store.as_str()).query_async::<()>(connection).await {
        Err(error) if matches!(error.code(), Some("WRONGTYPE" | "NOPERM")) => Ok(Err(error)),
        said => said.map(Ok),
    }
}

/// Why the set is not to be read, if it is not.
pub async fn why_unreadable(connection: &mut MultiplexedConnection, keys: &Keys) -> RedisResult<Option<String>> {
    let key = keys.stores();
    let mut pipe = Pipeline::with_capacity(2);
    pipe.cmd("MEMORY").arg("USAGE").arg(&key).arg("SAMPLES").arg(SAMPLES);
    pipe.cmd("SCARD").arg(&key);
    pipe.ignore_errors();
    let mut replies = pipe.query_async::<Vec<Value>>(connection).await?.into_iter();
    let mut number = || -> RedisResult<Result<u64, RedisError>> {
        Ok(judged(expected(replies.next())?)?.map(|reply| u64::from_redis_value(reply).unwrap_or(0)))
    };
    let (bytes, members) = match (number()?, number()?) {
        (Ok(bytes), Ok(members)) => (bytes, members),
        (Err(error), _) | (_, Err(error)) => return Ok(Some(error.to_string())),
    };
    let most = members.saturating_add(1).saturating_mul(ID_BYTES);
    Ok((bytes > most).then(|| format!("{members} members take {bytes} bytes, which ids do not")))
}

/// A piece of the set with about `count` names, and where the next one begins; 0: that was the last. What is no id is
/// passed over.
pub async fn page_of_stores(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    cursor: u64,
    count: usize,
) -> RedisResult<(u64, Vec<StoreId>)> {
    let (next, members): (u64, Vec<Vec<u8>>) =
        ::redis::cmd("SSCAN").arg(keys.stores()).arg(cursor).arg("COUNT").arg(count).query_async(connection).await?;
    let ids = members.iter().filter_map(|name| StoreId::parse(std::str::from_utf8(name).ok()?).ok()).collect();
    Ok((next, ids))
}

/// What tells whether an agent is behind a name.
#[derive(Debug)]
pub struct Signs {
    /// What it claims.
    pub claim: Option<Claim>,
    /// Its heartbeat.
    pub reading: Reading,
    /// How much its stream has; the error says why it cannot be read.
    pub size: Result<Size, String>,
}

/// Looks for them, for each of these names.
pub async fn signs(connection: &mut MultiplexedConnection, keys: &Keys, ids: &[StoreId]) -> RedisResult<Vec<Signs>> {
    let mut pipe = Pipeline::with_capacity(ids.len() * 5);
    for id in ids {
        get_short(&mut pipe, &keys.claim(id));
        Reading::ask(&mut pipe, keys, id);
        Size::ask(&mut pipe, &keys.events(id));
    }
    pipe.ignore_errors();
    let mut replies = pipe.query_async::<Vec<Value>>(connection).await?.into_iter();
    let mut next = || expected(replies.next());
    ids.iter()
        .map(|_| {
            let claim = Claim::of(next()?);
            let reading = Reading::of(next()?, next()?, Millis(0));
            Ok(Signs { claim, reading, size: Size::of(next()?, next()?)? })
        })
        .collect()
}
