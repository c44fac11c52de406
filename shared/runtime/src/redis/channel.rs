//! One direction of one store's link, and the steps of its publisher as pipelines: one store's, or many stores' at once.

use std::marker::PhantomData;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};

use super::stream::{decode_entry, field, raw_entry};
use super::{Heartbeat, Keys, Size, expected, get_short, heartbeat, is_of_the_server, judged, text_of};
use protocol::hash::Hash;
use protocol::ids::StoreId;
use protocol::link::{Ack, Commands, Entry, EntryId, Events, Found, Link, Reply, RoundReply, Seq, Step, StreamEnds};
use protocol::wire::FORMAT;

/// The keys of one direction.
#[derive(Debug, Clone)]
pub struct Channel<L> {
    /// The stream, written by the sender alone.
    pub stream: String,
    /// The ack, written by the receiver alone.
    pub ack: String,
    /// Channel and message of the bell that is rung when something was added.
    bell: Option<(String, String)>,
    link: PhantomData<L>,
}

impl Channel<Events> {
    /// Store to central.
    pub fn events(keys: &Keys, store: &StoreId) -> Self {
        Self {
            stream: keys.events(store),
            ack: keys.events_ack(store),
            bell: Some((keys.bell(store), store.to_string())),
            link: PhantomData,
        }
    }
}

impl Channel<Commands> {
    /// Central to store. No bell: the agent blocks on its stream.
    pub fn commands(keys: &Keys, store: &StoreId) -> Self {
        Self { stream: keys.commands(store), ack: keys.commands_ack(store), bell: None, link: PhantomData }
    }
}

impl<L: Link> Channel<L> {
    /// `GET ack`. A value that is no ack, or of another type, is as good as none: the receiver writes it again.
    pub async fn read_ack(&self, connection: &mut MultiplexedConnection) -> RedisResult<Option<Ack<L>>> {
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

    /// Writes the ack, as its only writer.
    pub async fn set_ack(&self, connection: &mut MultiplexedConnection, ack: &Ack<L>) -> RedisResult<()> {
        ::redis::cmd("SET").arg(&self.ack).arg(ack.to_string()).query_async(connection).await
    }
}

/// A publisher's step that Redis is needed for.
#[derive(Debug)]
pub struct Call<L> {
    /// Where.
    pub channel: Channel<L>,
    /// What: another than these three needs no Redis, and is answered as lost.
    pub step: Step<L>,
    /// The entries of a round.
    pub entries: Vec<Entry<L>>,
    /// A heartbeat that travels with a round.
    pub heartbeat: Option<(Keys, StoreId, Heartbeat)>,
}

impl<L: Link> Call<L> {
    /// Adds the commands; says how many replies there will be.
    fn ask(&self, pipe: &mut Pipeline) -> usize {
        let before = pipe.len();
        match &self.step {
            Step::ReadAck => get_short(pipe, &self.channel.ack),
            Step::Clear => drop(pipe.cmd("DEL").arg(&self.channel.stream)),
            Step::Publish(round) => {
                if let Some(below) = round.trim_below {
                    pipe.cmd("XTRIM").arg(&self.channel.stream).arg("MINID").arg(below.to_string());
                }
                for entry in &self.entries {
                    add(pipe, &self.channel.stream, entry);
                }
                if let (false, Some((channel, message))) = (self.entries.is_empty(), &self.channel.bell) {
                    pipe.cmd("PUBLISH").arg(channel).arg(message);
                }
                if let Some((keys, store, heartbeat)) = &self.heartbeat {
                    heartbeat::set(pipe, keys, store, heartbeat);
                }
                get_short(pipe, &self.channel.ack);
                if round.audit {
                    Size::ask(pipe, &self.channel.stream);
                }
            }
            Step::OpenEpoch { .. } | Step::StoreAcked(_) | Step::Wait(_) => {}
        }
        pipe.len() - before
    }

    /// Judges the replies. The outer error is one of the whole server, the inner one a refusal.
    fn answer(&self, mut replies: Vec<Value>) -> RedisResult<Result<Answered<L>, RedisError>> {
        Ok(match &self.step {
            Step::ReadAck => refusal(ack_of(replies.pop()))?.map(|ack| Answered::Done(Reply::Ack(ack))),
            Step::Clear => judged(expected(replies.pop())?)?.map(|_| Answered::Done(Reply::Cleared)),
            Step::Publish(round) => {
                let size = if round.audit { replies.pop().zip(replies.pop()) } else { None };
                let ack = match refusal(ack_of(replies.pop()))? {
                    Ok(ack) => ack,
                    Err(error) => return Ok(Err(error)),
                };
                for reply in replies {
                    match judged(reply)? {
                        Err(error) if !is_published_already(&error) => return Ok(Err(error)),
                        Ok(_) | Err(_) => {}
                    }
                }
                let added_to = self.entries.last().map_or(round.add_from - 1, |last| last.id.seq);
                let stream = match size {
                    Some((length, memory)) => match Size::of(memory, length)? {
                        // Its ends come with all that they hold, so one that is too large to be ours is not asked.
                        Ok(size) if size.why_implausible().is_some() => Some(Found::Foreign),
                        // A key of another type is for `XINFO` to name.
                        Ok(_) | Err(_) => return Ok(Ok(Answered::AsksForEnds { added_to, ack })),
                    },
                    None => None,
                };
                Ok(Answered::Done(Reply::Round { added_to, reply: RoundReply { ack, stream } }))
            }
            Step::OpenEpoch { .. } | Step::StoreAcked(_) | Step::Wait(_) => Ok(Answered::Done(Reply::Lost)),
        })
    }
}

/// What the first call brought back.
enum Answered<L> {
    Done(Reply<L>),
    /// The stream's ends are to be looked at as well.
    AsksForEnds {
        added_to: Seq,
        ack: Option<Ack<L>>,
    },
}

/// Carries out steps of many publishers in one call, and looks at the ends of their streams in a second one where that
/// was asked for. The outer error is one of the whole server or of the connection: then nothing is known of any. An
/// inner one is that publisher's alone: all that was sent for it was answered, so nothing of it can come late.
pub async fn carry_out<L: Link>(
    connection: &mut MultiplexedConnection,
    calls: &[Call<L>],
) -> RedisResult<Vec<Result<Reply<L>, RedisError>>> {
    let mut pipe = Pipeline::new();
    let counts: Vec<usize> = calls.iter().map(|call| call.ask(&mut pipe)).collect();
    if pipe.is_empty() {
        return Ok(calls.iter().map(|_| Ok(Reply::Lost)).collect());
    }
    pipe.ignore_errors();
    let mut replies = pipe.query_async::<Vec<Value>>(connection).await?.into_iter();
    let mut answered = Vec::with_capacity(calls.len());
    let mut ends = Pipeline::new();
    for (call, count) in calls.iter().zip(counts) {
        let own: Vec<Value> = (0..count).map(|_| expected(replies.next())).collect::<RedisResult<_>>()?;
        let answer = call.answer(own)?;
        if let Ok(Answered::AsksForEnds { .. }) = answer {
            ends.cmd("XINFO").arg("STREAM").arg(&call.channel.stream);
        }
        answered.push(answer);
    }
    let mut ends = if ends.is_empty() {
        Vec::new().into_iter()
    } else {
        ends.ignore_errors();
        ends.query_async::<Vec<Value>>(connection).await?.into_iter()
    };
    answered
        .into_iter()
        .map(|answer| match answer {
            Ok(Answered::Done(reply)) => Ok(Ok(reply)),
            Ok(Answered::AsksForEnds { added_to, ack }) => {
                let found = refusal(found(expected(ends.next())?))?;
                Ok(found.map(|found| Reply::Round { added_to, reply: RoundReply { ack, stream: Some(found) } }))
            }
            Err(error) => Ok(Err(error)),
        })
        .collect()
}

/// Tells an error of the server from one of this key.
fn refusal<T>(result: RedisResult<T>) -> RedisResult<Result<T, RedisError>> {
    match result {
        Err(error) if is_of_the_server(&error) => Err(error),
        result => Ok(result),
    }
}

fn add<L: Link>(pipe: &mut Pipeline, stream: &str, entry: &Entry<L>) {
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

fn ack_of<L: Link>(reply: Option<Value>) -> RedisResult<Option<Ack<L>>> {
    match reply {
        Some(Value::ServerError(error)) if !is_wrong_type(&error.clone().into()) => Err(error.into()),
        Some(value) => Ok(text_of(value).and_then(|text| text.parse().ok())),
        None => Ok(None),
    }
}

/// Reads `XINFO STREAM`.
fn found<L: Link>(reply: Value) -> RedisResult<Found<L>> {
    let pairs = match reply {
        Value::ServerError(error) => {
            let error = RedisError::from(error);
            return match error.detail() {
                Some(text) if text.contains("no such key") => Ok(Found::Nothing),
                _ if is_wrong_type(&error) => Ok(Found::Foreign),
                _ => Err(error),
            };
        }
        Value::Array(pairs) => pairs,
        Value::Map(pairs) => pairs.into_iter().flat_map(|(key, value)| [key, value]).collect(),
        _ => return Ok(Found::Foreign),
    };
    let (mut first, mut last, mut content, mut length) = (None, None, None, 0);
    let mut pairs = pairs.into_iter();
    while let (Some(key), Some(value)) = (pairs.next(), pairs.next()) {
        match String::from_redis_value(key).unwrap_or_default().as_str() {
            "length" => length = u64::from_redis_value(value).unwrap_or(0),
            "first-entry" => {
                content = decode_entry::<L>(value.clone()).ok().map(|entry| entry.content());
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
fn end_of<L: Link>(value: Value) -> Option<(EntryId<L>, Option<Hash>)> {
    let (id, fields) = raw_entry(value)?;
    let hash = field(&fields, "c").and_then(|text| text.parse().ok());
    Some((id.parse().ok()?, hash))
}
