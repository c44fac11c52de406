//! What central asks for many stores at once. Replies are judged key by key: what Redis refuses for one store is that
//! store's affair, and the outer error of each function is one of the whole server or of the connection.

use ::redis::aio::MultiplexedConnection;
use ::redis::{Pipeline, RedisError, RedisResult, Value};

use super::{Claim, Delivery, Keys, Reading, Size, expected, get_short, judged};
use protocol::ids::StoreId;
use protocol::link::{Ack, EntryId};
use protocol::time::Millis;

/// What became of one store's command.
pub type Asked<T> = Result<T, RedisError>;

fn set_ack(pipe: &mut Pipeline, keys: &Keys, store: &StoreId, ack: &Ack) {
    pipe.cmd("SET").arg(keys.events_ack(store)).arg(ack.to_string());
}

/// Writes acks.
pub async fn acknowledge(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    acks: &[(StoreId, Ack)],
) -> RedisResult<Vec<Asked<()>>> {
    if acks.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipe = Pipeline::with_capacity(acks.len());
    acks.iter().for_each(|(store, ack)| set_ack(&mut pipe, keys, store, ack));
    pipe.ignore_errors();
    let mut replies = pipe.query_async::<Vec<Value>>(connection).await?.into_iter();
    acks.iter().map(|_| Ok(judged(expected(replies.next())?)?.map(|_| ()))).collect()
}

/// Writes acks again, and reads what agents claim that publish nothing.
pub async fn repeat_acks(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    acks: &[(StoreId, Ack)],
) -> RedisResult<Vec<(Asked<()>, Option<Claim>)>> {
    if acks.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipe = Pipeline::with_capacity(acks.len() * 2);
    for (store, ack) in acks {
        set_ack(&mut pipe, keys, store, ack);
        get_short(&mut pipe, &keys.claim(store));
    }
    pipe.ignore_errors();
    let mut replies = pipe.query_async::<Vec<Value>>(connection).await?.into_iter();
    let mut next = || expected(replies.next());
    acks.iter().map(|_| Ok((judged(next()?)?.map(|_| ()), Claim::of(next()?)))).collect()
}

/// What Redis has of a store.
#[derive(Debug)]
pub struct StoreReading {
    /// How much its stream has; the error says why it cannot be read.
    pub size: Result<Size, String>,
    /// Its heartbeat. What Redis refuses counts as none.
    pub reading: Reading,
    /// Whether the heartbeat may be read.
    pub access: Asked<()>,
}

/// Reads of each store its heartbeat, and how much there is to read.
pub async fn read_stores(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    stores: &[StoreId],
) -> RedisResult<Vec<StoreReading>> {
    if stores.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipe = Pipeline::with_capacity(stores.len() * 4);
    for store in stores {
        Size::ask(&mut pipe, &keys.events(store));
        Reading::ask(&mut pipe, keys, store);
    }
    pipe.ignore_errors();
    let mut replies = pipe.query_async::<Vec<Value>>(connection).await?.into_iter();
    let mut next = || expected(replies.next());
    stores
        .iter()
        .map(|_| {
            let size = Size::of(next()?, next()?)?;
            let (get, pttl) = (judged(next()?)?, next()?);
            let (get, access) = match get {
                Ok(get) => (get, Ok(())),
                Err(error) => (Value::Nil, Err(error)),
            };
            Ok(StoreReading { size, reading: Reading::of(get, pttl, Millis(0)), access })
        })
        .collect()
}

/// What is to be read of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Whose events.
    pub store: StoreId,
    /// Those behind this place.
    pub after: EntryId,
    /// So many, at most.
    pub count: usize,
}

/// Reads streams.
pub async fn read(connection: &mut MultiplexedConnection, keys: &Keys, ranges: &[Range]) -> RedisResult<Vec<Delivery>> {
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipe = Pipeline::with_capacity(ranges.len());
    for Range { store, after, count } in ranges {
        pipe.cmd("XRANGE").arg(keys.events(store)).arg(format!("({after}")).arg("+").arg("COUNT").arg(*count);
    }
    pipe.ignore_errors();
    let mut replies = pipe.query_async::<Vec<Value>>(connection).await?.into_iter();
    ranges.iter().map(|_| Delivery::of(expected(replies.next())?)).collect()
}
