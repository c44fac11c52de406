//! Entries as they stand in a stream: whatever is there, only what the protocol's own writer can have written is one.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{FromRedisValue, Pipeline, RedisResult, Value};

use super::{Channel, Keys, expected, judged};
use protocol::hash::Digest;
use protocol::ids::StoreId;
use protocol::link::{Commands, Entry, EntryId, Events, Link};
use protocol::time::Millis;
use protocol::wire::FORMAT;

/// Names and values of an entry.
pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn raw_entry(value: Value) -> Option<(String, Fields)> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.into_iter();
    let id = String::from_redis_value(parts.next()?).ok()?;
    let fields = match parts.next()? {
        Value::Array(flat) => flat,
        Value::Map(pairs) => pairs.into_iter().flat_map(|(key, value)| [key, value]).collect(),
        _ => Vec::new(),
    };
    let mut pairs = Vec::with_capacity(fields.len() / 2);
    let mut fields = fields.into_iter();
    while let (Some(key), Some(value)) = (fields.next(), fields.next()) {
        pairs.push((bytes(key), bytes(value)));
    }
    Some((id, pairs))
}

fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    }
}

pub(super) fn field<'a>(fields: &'a [(Vec<u8>, Vec<u8>)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(key, _)| key == name.as_bytes()).and_then(|(_, value)| std::str::from_utf8(value).ok())
}

/// The same, which is not there any more.
fn take(fields: &mut [(Vec<u8>, Vec<u8>)], name: &str) -> Option<String> {
    let (_, value) = fields.iter_mut().find(|(key, _)| key == name.as_bytes())?;
    String::from_utf8(std::mem::take(value)).ok()
}

/// An entry that cannot be read as one of this protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Its id in the stream.
    pub id: String,
    /// What is wrong with it.
    pub why: String,
}

/// One entry as received.
pub type Received<L = Events> = Result<Entry<L>, Garbage>;

/// What one stream had to say in one read.
#[derive(Debug)]
pub enum Delivery {
    /// Entries after the cursor, in order; empty if there are none.
    Entries(Vec<Received>),
    /// The key cannot be read as a stream: this store's link is broken, others are not.
    Unreadable(String),
}

impl Delivery {
    /// Sorts the reply of one `XRANGE`. The error is one of the whole server.
    pub(super) fn of(reply: Value) -> RedisResult<Self> {
        Ok(match judged(reply)? {
            Err(error) => Self::Unreadable(error.to_string()),
            Ok(Value::Array(entries)) => Self::Entries(entries.into_iter().map(decode_entry).collect()),
            Ok(_) => Self::Entries(Vec::new()),
        })
    }
}

/// The first entry of a store's events; none also if they cannot be read. The error is one of the server.
pub async fn first_entry(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    store: &StoreId,
) -> RedisResult<Option<Entry>> {
    let mut pipe = Pipeline::with_capacity(1);
    pipe.cmd("XRANGE").arg(keys.events(store)).arg("-").arg("+").arg("COUNT").arg(1);
    pipe.ignore_errors();
    let reply = expected(pipe.query_async::<Vec<Value>>(connection).await?.pop())?;
    match Delivery::of(reply)? {
        Delivery::Entries(entries) => Ok(entries.into_iter().next().and_then(Result::ok)),
        Delivery::Unreadable(_) => Ok(None),
    }
}

/// Waits for up to `block` for commands behind a place, and reads so many of them, at most.
pub async fn wait_for_entries(
    connection: &mut MultiplexedConnection,
    channel: &Channel<Commands>,
    after: EntryId<Commands>,
    count: usize,
    block: Duration,
) -> RedisResult<Vec<Received<Commands>>> {
    let mut read = ::redis::cmd("XREAD");
    read.arg("COUNT").arg(count).arg("BLOCK").arg(u64::try_from(block.as_millis()).unwrap_or(0));
    read.arg("STREAMS").arg(&channel.stream).arg(after.to_string());
    Ok(entries_of(read.query_async(connection).await?))
}

/// The entries in the reply of an `XREAD` of one stream.
fn entries_of<L: Link>(reply: Value) -> Vec<Received<L>> {
    let stream = match reply {
        Value::Array(mut streams) if !streams.is_empty() => streams.swap_remove(0),
        Value::Map(mut streams) if !streams.is_empty() => {
            let (name, entries) = streams.swap_remove(0);
            Value::Array(vec![name, entries])
        }
        _ => return Vec::new(),
    };
    match <(Value, Vec<Value>)>::from_redis_value(stream) {
        Ok((_, entries)) => entries.into_iter().map(decode_entry).collect(),
        Err(_) => Vec::new(),
    }
}

/// Redis's clock: that of the server which has the keys that this connection is for.
pub async fn time(connection: &mut MultiplexedConnection) -> RedisResult<Millis> {
    time_of(::redis::cmd("TIME").query_async(connection).await?)
}

/// From the reply of `TIME`.
pub(super) fn time_of(reply: Value) -> RedisResult<Millis> {
    let (seconds, micros) = <(i64, i64)>::from_redis_value(reply)?;
    Ok(Millis(seconds.saturating_mul(1_000).saturating_add(micros / 1_000)))
}

/// Reads one stream entry. Only what the protocol's own writer can have written is an [`Entry`].
pub fn decode_entry<L: Link>(value: Value) -> Received<L> {
    let Some((id, mut fields)) = raw_entry(value) else {
        return Err(Garbage { id: String::new(), why: "not a stream entry".into() });
    };
    let garbage = |why: &str| Garbage { id: id.clone(), why: why.into() };
    let missing = |name: &str| garbage(&format!("field {name} is missing or not UTF-8"));
    if field(&fields, "v").ok_or_else(|| missing("v"))? != FORMAT.to_string() {
        return Err(garbage("unknown format"));
    }
    let digest = match field(&fields, "d") {
        None => None,
        Some(text) => Some(text.parse::<Digest>().map_err(|_| garbage("field d is not a digest"))?),
    };
    let hash = field(&fields, "c").ok_or_else(|| missing("c"))?;
    let hash = hash.parse().map_err(|_| garbage("field c is not a hash"))?;
    let at = id.parse().map_err(|_| garbage("the id is not <epoch>-<seq>"))?;
    let mut text = |name: &str| take(&mut fields, name).ok_or_else(|| missing(name));
    Ok(Entry { id: at, kind: text("t")?, operation: text("i")?, body: text("b")?, digest, hash })
}
