//! One direction of one store's link: the sender's steps and the receiver's read, as pipelines.

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};

use super::{Keys, Size, get_short, is_of_the_server, text_of};
use protocol::hash::{Digest, Hash};
use protocol::ids::StoreId;
use protocol::link::{Ack, Entry, EntryId, Found, Round, RoundReply, StreamEnds};
use protocol::wire::FORMAT;

/// The keys of one direction.
#[derive(Debug, Clone)]
pub struct Channel {
    /// The stream, written by the sender alone.
    pub stream: String,
    /// The ack, written by the receiver alone.
    pub ack: String,
    /// Channel and message of the bell that is rung when something was added.
    bell: Option<(String, String)>,
}

impl Channel {
    /// Store to central.
    pub fn events(keys: &Keys, store: &StoreId) -> Self {
        Self {
            stream: keys.events(store),
            ack: keys.events_ack(store),
            bell: Some((keys.bell(store), store.to_string())),
        }
    }

    /// Central to store. No bell: the agent blocks on its stream.
    pub fn commands(keys: &Keys, store: &StoreId) -> Self {
        Self { stream: keys.commands(store), ack: keys.commands_ack(store), bell: None }
    }

    /// `GET ack`. A value that is no ack, or of another type, is as good as none: the receiver writes it again.
    pub async fn read_ack(&self, connection: &mut MultiplexedConnection) -> RedisResult<Option<Ack>> {
        let mut pipe = Pipeline::with_capacity(1);
        get_short(&mut pipe, &self.ack);
        pipe.ignore_errors();
        let mut replies = pipe.query_async::<Vec<Value>>(connection).await?;
        ack_of(replies.pop())
    }

    /// `DEL stream`.
    pub async fn clear(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        ::redis::cmd("DEL").arg(&self.stream).query_async(connection).await
    }

    /// One round of rule L5, and a second call for the audit. `entries` are those from `round.add_from` to `round.add_to`; `also` may add commands that
    /// travel in the same pipeline, whose errors fail the round and whose replies are not looked at.
    pub async fn publish(
        &self,
        connection: &mut MultiplexedConnection,
        round: &Round,
        entries: &[Entry],
        also: impl FnOnce(&mut Pipeline),
    ) -> RedisResult<RoundReply> {
        let mut pipe = Pipeline::with_capacity(entries.len() + 6);
        if let Some(below) = round.trim_below {
            pipe.cmd("XTRIM").arg(&self.stream).arg("MINID").arg(below.to_string());
        }
        for entry in entries {
            add(&mut pipe, &self.stream, entry);
        }
        if let (false, Some((channel, message))) = (entries.is_empty(), &self.bell) {
            pipe.cmd("PUBLISH").arg(channel).arg(message);
        }
        also(&mut pipe);
        get_short(&mut pipe, &self.ack);
        if round.audit {
            Size::ask(&mut pipe, &self.stream);
        }
        pipe.ignore_errors();
        let mut replies = pipe.query_async::<Vec<Value>>(connection).await?;
        let size = if round.audit { replies.pop().zip(replies.pop()) } else { None };
        let ack = ack_of(replies.pop())?;
        for reply in replies {
            match reply {
                Value::ServerError(error) if !is_published_already(&error.clone().into()) => return Err(error.into()),
                _ => {}
            }
        }
        let stream = match size {
            Some((length, memory)) => Some(self.ends(connection, memory, length).await?),
            None => None,
        };
        Ok(RoundReply { ack, stream })
    }

    /// What stands in the stream. Its ends come with all that they hold, so one that is too large to be ours is not asked.
    async fn ends(&self, connection: &mut MultiplexedConnection, memory: Value, length: Value) -> RedisResult<Found> {
        match Size::of(memory, length)? {
            Ok(size) if size.complaint().is_some() => return Ok(Found::Foreign),
            // A key of another type is for `XINFO` to name.
            Ok(_) | Err(_) => {}
        }
        let mut pipe = Pipeline::with_capacity(1);
        pipe.cmd("XINFO").arg("STREAM").arg(&self.stream);
        pipe.ignore_errors();
        found(pipe.query_async::<Vec<Value>>(connection).await?.pop())
    }
}

fn add(pipe: &mut Pipeline, stream: &str, entry: &Entry) {
    let command = pipe.cmd("XADD").arg(stream).arg(entry.id.to_string());
    command.arg("v").arg(FORMAT).arg("t").arg(&entry.kind).arg("i").arg(&entry.operation);
    command.arg("b").arg(&entry.body).arg("c").arg(entry.hash.to_string());
    if let Some(digest) = entry.digest {
        command.arg("d").arg(digest.to_string());
    }
}

fn is_wrong_type(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
}

/// `ERR The ID specified in XADD is equal or smaller than the target stream top item`: this entry, or a later one, is
/// there. Whether it is ours is for the audit to say. A stream whose last id is the greatest possible answers alike.
fn is_published_already(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
        && error.detail().is_some_and(|text| text.contains("equal or smaller") || text.contains("exhausted"))
}

fn ack_of(reply: Option<Value>) -> RedisResult<Option<Ack>> {
    match reply {
        Some(Value::ServerError(error)) if !is_wrong_type(&error.clone().into()) => Err(error.into()),
        Some(value) => Ok(text_of(value).and_then(|text| text.parse().ok())),
        None => Ok(None),
    }
}

/// Reads `XINFO STREAM`.
fn found(reply: Option<Value>) -> RedisResult<Found> {
    let pairs = match reply {
        Some(Value::ServerError(error)) => {
            let error = RedisError::from(error);
            return match error.detail() {
                Some(text) if text.contains("no such key") => Ok(Found::Nothing),
                _ if is_wrong_type(&error) => Ok(Found::Foreign),
                _ => Err(error),
            };
        }
        Some(Value::Array(pairs)) => pairs,
        Some(Value::Map(pairs)) => pairs.into_iter().flat_map(|(key, value)| [key, value]).collect(),
        _ => return Ok(Found::Foreign),
    };
    let (mut first, mut last, mut content, mut length) = (None, None, None, 0);
    let mut pairs = pairs.into_iter();
    while let (Some(key), Some(value)) = (pairs.next(), pairs.next()) {
        match String::from_redis_value(key).unwrap_or_default().as_str() {
            "length" => length = u64::from_redis_value(value).unwrap_or(0),
            "first-entry" => {
                content = decode_entry(value.clone()).ok().map(|entry| entry.content());
                first = end_of(value);
            }
            "last-entry" => last = end_of(value),
            _ => {}
        }
    }
    Ok(match first.zip(last) {
        Some((first, last)) => Found::Entries(StreamEnds { first, last, content, length }),
        None if length == 0 => Found::Nothing,
        None => Found::Foreign,
    })
}

/// An end of the stream: its id and the chain hash in it.
fn end_of(value: Value) -> Option<(EntryId, Option<Hash>)> {
    let (id, fields) = raw_entry(value)?;
    let hash = field(&fields, "c").and_then(|text| text.parse().ok());
    Some((id.parse().ok()?, hash))
}

/// Names and values of an entry.
type Fields = Vec<(String, Vec<u8>)>;

fn raw_entry(value: Value) -> Option<(String, Fields)> {
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
        let key = String::from_utf8_lossy(&bytes(key)).into_owned();
        pairs.push((key, bytes(value)));
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

fn field<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(key, _)| key == name).and_then(|(_, value)| std::str::from_utf8(value).ok())
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
pub type Received = Result<Entry, Garbage>;

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
    pub fn of(reply: Value) -> RedisResult<Self> {
        match reply {
            Value::ServerError(error) => {
                let error = RedisError::from(error);
                if is_of_the_server(&error) { Err(error) } else { Ok(Self::Unreadable(error.to_string())) }
            }
            Value::Array(entries) => Ok(Self::Entries(entries.into_iter().map(decode_entry).collect())),
            _ => Ok(Self::Entries(Vec::new())),
        }
    }
}

/// Reads one stream entry. Only what the protocol's own writer can have written is an [`Entry`].
pub fn decode_entry(value: Value) -> Received {
    let Some((id, fields)) = raw_entry(value) else {
        return Err(Garbage { id: String::new(), why: "not a stream entry".into() });
    };
    let garbage = |why: &str| Garbage { id: id.clone(), why: why.into() };
    let text = |name: &str| {
        field(&fields, name).map(str::to_owned).ok_or_else(|| garbage(&format!("field {name} is missing or not UTF-8")))
    };
    if text("v")? != FORMAT.to_string() {
        return Err(garbage("unknown format"));
    }
    let digest = match field(&fields, "d") {
        None => None,
        Some(text) => Some(text.parse::<Digest>().map_err(|_| garbage("field d is not a digest"))?),
    };
    Ok(Entry {
        id: id.parse().map_err(|_| garbage("the id is not <epoch>-<seq>"))?,
        kind: text("t")?,
        operation: text("i")?,
        body: text("b")?,
        digest,
        hash: text("c")?.parse().map_err(|_| garbage("field c is not a hash"))?,
    })
}
